"""The command ``pretrain``, and a training that starts from what it wrote.

    images without labels -> RUN/pretrain/model.pt -> train --init

What is written is a checkpoint of the spec whose head is not trained, with a note of the images'
digests: a training that is to validate on one of them is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.console import first_process, progress_bar
from lmaunet.deploy.outcome import Outcome, run_stage
from lmaunet.deploy.run_lock import in_use, in_use_if_there
from lmaunet.deploy.runs import RUNS, DataSource
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage, read_json, record_of, sha256, write_json
from lmaunet.train.masking import Masking
from lmaunet.train.processes import process_count
from lmaunet.train.schedule import Progress, Schedule

if TYPE_CHECKING:
    from torch.nn import Module

STAGE = "pretrain"
UNTRAINED = "untrained"
"""The note of a checkpoint that names what of it is not trained."""


def pretrain(
    run: Path | None, spec: NetSpec, data: Path, schedule: Schedule, masking: Masking, seed: int
) -> tuple[Any, list[str]]:
    """Pretrain a spec on images without labels; return the result as JSON and as lines."""
    if run is not None and run.exists() and not run.is_dir():
        raise UserError(f"--run {run} is a file; name a folder")
    if spec.dims != 2:
        raise UserError(f"spec {spec.name} is 3-D; pretraining takes 2-D specs, such as base, edge")
    masking.count((spec.input_size[0], spec.input_size[1]))
    run = run or RUNS / f"{spec.name}-{data.resolve().stem}"
    with progress_bar(f"pretraining {spec.name}") as progress, in_use_if_there(run):
        outcome = restore_images(run, spec, data, schedule, masking, seed, progress)
    if not first_process():
        return {}, []
    with record_of(outcome.folder):
        content = read_json(outcome.folder / "pretrain.json")
        images, error = content["images"], content["history"][-1]["loss"]
        lines = [
            f"{images['slices']} slices of {images['cases']} cases of {images['name']}, no labels",
            *images["notes"],
            f"error of hidden pixels {error:.3f} standard deviations; left at the mean "
            f"{content['error_of_mean']:.3f}",
            f"wrote {outcome.folder}" + (" (was there already)" if outcome.cached else "")
            + f"; next: lmaunet-deploy train --spec {spec.name} --data LABELLED "
            f"--init {outcome.folder / 'model.pt'}",
        ]  # fmt: skip
    return content, lines


def restore_images(
    run: Path,
    spec: NetSpec,
    data: Path,
    schedule: Schedule,
    masking: Masking,
    seed: int,
    progress: Progress,
) -> Outcome:
    """Pretrain a spec into ``RUN/pretrain``: ``model.pt`` and ``pretrain.json``.

    Raises:
        UserError: as :func:`lmaunet.data.unlabelled.load_unlabelled` and
            :func:`lmaunet.train.pretraining.restore_masked`.
    """
    from lmaunet.data.unlabelled import load_unlabelled

    progress(0.0, "reading the images")
    size = spec.input_size[0], spec.input_size[1]
    images = load_unlabelled(data, size=size, channels=spec.in_channels)
    options = {
        "spec": spec.to_json(),
        "images": str(data),
        "images_sha256": images.sha256,
        "schedule": schedule.to_json(),
        "masking": masking.to_json(),
        "processes": process_count(),
    }
    stage = Stage(run, STAGE, {}, options, seed)

    def work(folder: Path) -> None:
        progress(0.0, "loading torch")
        import numpy as np
        import torch

        from lmaunet.net.checkpoint import save_checkpoint
        from lmaunet.net.network import LMaUNet
        from lmaunet.train.pretraining import NAME, reconstruction_head, restore_masked
        from lmaunet.train.processes import join_processes

        processes = join_processes()
        torch.manual_seed(seed)
        model = LMaUNet(spec)
        head = reconstruction_head(model, spec.in_channels)
        history = restore_masked(
            model, images.slices, schedule, masking, seed=seed, folder=folder,
            processes=processes, progress=progress,
        )  # fmt: skip
        model.head = head
        if processes.first:
            of = {
                "name": images.name,
                "slices": len(images.slices),
                "cases": len(images.digests),
                "kept_out": list(images.kept_out),
                "notes": list(images.notes),
            }
            digests = {case: list(found) for case, found in images.digests.items()}
            origin = {"images": of, "masking": masking.to_json(), "loss": history[-1]["loss"]}
            notes: dict[str, Any] = {
                UNTRAINED: "head", "pretraining": origin | {"digests": digests},
            }  # fmt: skip
            save_checkpoint(folder / "model.pt", spec, model, **notes)
            content = {
                "images": of,
                "masking": masking.to_json(),
                "error_of_mean": float(np.abs(images.slices.images).mean()),
                "history": history,
            }
            write_json(folder / "pretrain.json", content)
            (folder / f"{NAME}.last.pt").unlink()
        processes.wait()

    with in_use(run):
        return run_stage(stage, work, resume=True)


def require_trained(notes: Mapping[str, Any], checkpoint: Path) -> None:
    """Raise UserError where a checkpoint's head is not trained."""
    if notes.get(UNTRAINED) is not None:
        raise UserError(
            f"{checkpoint} is pretrained by restoring images and its {notes[UNTRAINED]} is not "
            f"trained; train it first: lmaunet-deploy train --data LABELLED --init {checkpoint}"
        )


def start_from(init: Path, model: Module, spec: NetSpec, source: DataSource) -> dict[str, Any]:
    """Load a checkpoint's weights into a network, its head aside; return notes for its checkpoint.

    Raises:
        UserError: for another network's file, or one that was pretrained on an image that is to
            validate.
    """
    from lmaunet.net.initialization import initialize

    notes = initialize(model, spec, init)
    began = notes.get("initialized")
    pretraining = notes.get("pretraining") or (
        began.get("pretraining") if isinstance(began, Mapping) else None
    )
    if pretraining is not None:
        _check_held_out(pretraining, init, source)
    return {"initialized": {"sha256": sha256(init), "pretraining": pretraining}}


def _check_held_out(pretraining: Any, init: Path, source: DataSource) -> None:
    """Raise UserError where an image of the data that validates is one of pretraining's."""
    from lmaunet.data.loaders import read_source
    from lmaunet.data.phantom import phantom_source
    from lmaunet.data.unlabelled import held_out_digests

    try:
        seen = {digest: case for case, each in pretraining["digests"].items() for digest in each}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"--init {init}: its note on pretraining is damaged ({error!r}); pretrain it again"
        ) from error
    if source.path is None:
        read = phantom_source(source.seed)
    else:
        read = read_source(source.path, seed=source.seed, class_map=source.class_map)
    both = {case: seen[d] for d, case in held_out_digests(read).items() if d in seen}
    if both:
        case, name = min(both.items())
        raise UserError(
            f"--init {init} was pretrained on {len(both)} image(s) that {read.name} holds out "
            f"({case}, there {name}): a score on them would mean nothing; pretrain without them, "
            "such as on this data set itself, whose held-out cases are then left out"
        )
