"""The stages from a checkpoint to builds: train, qat, export, build.

    Checkpoint -> control, qat -> QuantizedModel -> export -> ExportedGraph -> build -> Build

Each stage reads what the stage before it wrote into the run, and is skipped where its result is
there already for exactly these inputs and options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.modalities import Modalities, check_droppable, of_notes
from lmaunet.deploy.allocation_plot import draw_allocation
from lmaunet.deploy.builds import built_targets, load_build
from lmaunet.deploy.controlled import KEPT, trained_on
from lmaunet.deploy.deployment import SCHEMA as DEPLOYMENT_SCHEMA
from lmaunet.deploy.deployment import Interface, write_build
from lmaunet.deploy.export_graphs import network_of, write_export, write_profiles
from lmaunet.deploy.export_images import images_of
from lmaunet.deploy.masked_builds import add_head, dropout_file, dropout_of
from lmaunet.deploy.outcome import (
    Outcome,
    asked_of,
    current_outcome,
    matching_control,
    run_stage,
    write_origin,
)
from lmaunet.deploy.pretraining import require_trained, start_from
from lmaunet.deploy.profile_builds import build_inputs, build_profiles
from lmaunet.deploy.run_data import TRAINING, RunData, training_in
from lmaunet.deploy.run_lock import in_use
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.kernel_profiles import PROFILES
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage, read_json, read_stage, record_of, sha256, write_json
from lmaunet.train.processes import process_count

if TYPE_CHECKING:
    from torch.nn import Module

    from lmaunet.data.dataset import Dataset
    from lmaunet.graph_spec import NetworkSpec
    from lmaunet.net.origin import Origin
    from lmaunet.quant.settings import QatSettings
    from lmaunet.stated_spec import StatedSpec
    from lmaunet.train.processes import Processes
    from lmaunet.train.schedule import Progress, Schedule

__all__ = ["build", "built_targets", "control", "export", "load_build", "qat", "train"]

DROPPED = "dropped_modalities"
"""The option of a stage that has with what probability a checkpoint's training left out each
modality; of other checkpoints none."""
ALLOCATION_PLOT = "allocation.svg"


def train(
    run: Path,
    spec: NetSpec,
    source: DataSource,
    schedule: Schedule,
    seed: int,
    progress: Progress,
    init: Path | None = None,
) -> Outcome:
    """Train a spec on a data set into ``RUN/train``: ``model.pt`` and ``train.json``.

    ``init`` is a checkpoint whose weights it starts from, its head aside; see
    :func:`lmaunet.deploy.pretraining.start_from`.
    """
    images = RunData(run, source, spec)
    progress(0.0, "reading the data")
    options = {
        "spec": spec.to_json(),
        "data": source.to_json(),
        "data_sha256": images.sha256,
        "schedule": schedule.to_json(),
        "processes": process_count(),
    }
    stage = Stage(run, "train", {} if init is None else {"init": init}, options, seed)

    def work(folder: Path) -> None:
        progress(0.0, "loading torch")
        import torch

        from lmaunet.deploy.elastic import Elastic
        from lmaunet.net.checkpoint import save_checkpoint
        from lmaunet.net.network import LMaUNet
        from lmaunet.quant.qat import evaluate, modalities_of
        from lmaunet.train.loop import fit
        from lmaunet.train.processes import join_processes

        processes, data = join_processes(), images.load()
        torch.manual_seed(seed)
        model = LMaUNet(spec)
        began = {} if init is None else start_from(init, model, spec, source)
        elastic = Elastic.of(model, spec, source, data)
        history = fit(
            model, data.train, schedule, classes=spec.classes, seed=seed, folder=folder,
            processes=processes, progress=progress, draw=elastic.draw(schedule, seed, processes),
        )  # fmt: skip
        if processes.first:
            elastic.rest()
            scores = evaluate(model, data)
            known = modalities_of(model, data, schedule, scores)
            save_checkpoint(
                folder / "model.pt", spec, model, dice=scores.dice, classes=list(data.classes),
                normalization=dict(data.normalization), **began, **known,
            )  # fmt: skip
            content = {
                "scores": scores.to_json(), "history": history, **elastic.scores(), **known
            }  # fmt: skip
            write_json(folder / "train.json", content)
            (folder / "training.last.pt").unlink()
        processes.wait()

    with in_use(run):
        outcome = run_stage(stage, work, resume=True)
        images.remember()
    return outcome


def control(
    run: Path,
    checkpoint: Path,
    source: DataSource,
    schedule: Schedule,
    seed: int,
    progress: Progress,
    stated: StatedSpec | None = None,
    weights: str | None = None,
    asked: QatSettings | None = None,
) -> Outcome:
    """Train the FP32 control of a checkpoint into ``RUN/control``.

    It depends on nothing that quantization chooses, so that it serves every QAT of the checkpoint
    with the same schedule, data and seed. See :func:`lmaunet.quant.qat.train_control`. ``asked``
    are the settings of a QAT with a limit, for which some patients are kept from the training.
    """

    def work(
        model: Module, spec: NetworkSpec, data: Dataset, folder: Path, processes: Processes,
        drop: float,
    ) -> None:  # fmt: skip
        from lmaunet.deploy.elastic import train_control

        train_control(
            model, spec, source, data, schedule.dropping(drop), seed=seed, folder=folder,
            processes=processes, progress=progress, asked=asked,
        )  # fmt: skip

    own = {"schedule": schedule.to_json(), "processes": process_count()}
    own |= {} if asked is None else {KEPT: True}
    return _continue("control", run, checkpoint, source, own, seed, progress, stated, weights, work)


def qat(
    run: Path,
    checkpoint: Path,
    source: DataSource,
    settings: QatSettings,
    seed: int,
    progress: Progress,
    stated: StatedSpec | None = None,
    weights: str | None = None,
    controlled: Path | None = None,
) -> Outcome:
    """Quantize a checkpoint into ``RUN/qat``; see :func:`lmaunet.quant.qat.quantize`.

    ``controlled`` is the folder of the control, needed where the settings have a limit.
    """

    def work(
        model: Module, spec: NetworkSpec, data: Dataset, folder: Path, processes: Processes,
        drop: float,
    ) -> None:  # fmt: skip
        from lmaunet.deploy.elastic import quantize

        chosen = replace(settings, schedule=settings.schedule.dropping(drop))
        check_droppable(spec, chosen.schedule.drop_modality)
        quantize(
            model, spec, source, data, chosen, seed=seed, folder=folder, processes=processes,
            progress=progress, controlled=controlled,
        )  # fmt: skip
        if settings.budget_bytes is not None and processes.first:
            drawn = draw_allocation(read_json(folder / "allocation.json"))
            (folder / ALLOCATION_PLOT).write_text(drawn, encoding="utf-8")

    own = {"settings": settings.to_json(), "processes": process_count()}
    if controlled is not None:
        own["control"] = sha256(controlled / "control.pt")
    return _continue("qat", run, checkpoint, source, own, seed, progress, stated, weights, work)


def _continue(
    name: str,
    run: Path,
    checkpoint: Path,
    source: DataSource,
    own: Mapping[str, Any],
    seed: int,
    progress: Progress,
    stated: StatedSpec | None,
    weights: str | None,
    train: Callable[[Module, NetworkSpec, Dataset, Path, Processes, float], None],
) -> Outcome:
    """Train on from a checkpoint, in a stage with the options ``own``, unless it is current.

    ``train`` takes the checkpoint's network, the data, the stage's folder, the processes that
    train together, and with what probability the checkpoint's training left out each modality.
    """
    asked = asked_of(stated, weights)
    current = current_outcome(run, name, checkpoint, source, own, seed, asked)
    if current is not None:
        return current
    progress(0.0, "loading torch and the checkpoint")
    model, images, options, origin = _network_and_data(run, checkpoint, source, stated, weights)
    stage = Stage(run, name, {"checkpoint": checkpoint}, {**options, **own}, seed)

    def work(folder: Path) -> None:
        from lmaunet.train.processes import join_processes

        processes = join_processes()
        train(model, images.spec, images.load(), folder, processes, options.get(DROPPED, 0.0))
        if processes.first:
            write_origin(folder, origin, asked)

    with in_use(run):
        outcome = run_stage(stage, work, resume=True)
        images.remember()
    return outcome


def _network_and_data(
    run: Path,
    checkpoint: Path,
    source: DataSource,
    stated: StatedSpec | None,
    weights: str | None,
) -> tuple[Module, RunData, dict[str, Any], Origin]:
    """Return a checkpoint's network, data in its input size, a stage's options on both, its origin.

    Raises:
        UserError: where the network was trained on other classes, by its own note.
    """
    import dataclasses

    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.net.network import LMaUNet
    from lmaunet.net.norm_statistics import check_statistics
    from lmaunet.sources.checkpoint import notes_of, restore, training_of

    loaded = load_checkpoint(checkpoint, stated, weights)
    require_trained(loaded.notes, checkpoint)
    model = restore(loaded, checkpoint)
    training = training_of(loaded, checkpoint)
    images = RunData(run, source, loaded.spec, training)
    data = images.load()
    classes = loaded.notes.get("classes")
    if classes is not None and list(classes) != list(data.classes):
        raise UserError(
            f"{checkpoint} was trained on the classes {', '.join(classes)}, {data.name} has "
            f"{', '.join(data.classes)}; give data with the same, or a --class-map to them"
        )
    options: dict[str, Any] = {
        "spec": loaded.spec.to_json(),
        "data": source.to_json(),
        "data_sha256": images.sha256,
    }
    if training is not None:
        options[TRAINING] = training.to_json()
    if loaded.origin.weights is not None:
        options["weights"] = loaded.origin.weights
    if dropped := of_notes(loaded.notes):
        options[DROPPED] = dropped
    norms = check_statistics(model, checkpoint) if isinstance(model, LMaUNet) else ()
    of_data = () if training is None else data.notes
    notes = (*norms, *notes_of(loaded, data.classes), *of_data)
    return model, images, options, dataclasses.replace(loaded.origin, notes=notes)


def export(run: Path, source: DataSource, progress: Progress) -> Outcome:
    """Export the quantized network into ``RUN/export`` and check it against torch.

    Writes ``network.qcdq.onnx``, ``network.qonnx.onnx``, ``network.float32.onnx``,
    ``samples.npz`` and ``calibration.npz`` (training images), ``interface.json`` (what the network
    takes and gives) and ``export.json``.

    Raises:
        UserError: where the data are not those that the network was quantized with.
    """
    folder = run / "qat"
    manifest, controlled = read_stage(folder), matching_control(run)
    options = {
        "data": source.to_json(), "spec": manifest["options"].get("spec"),
        "interface": DEPLOYMENT_SCHEMA,
    }  # fmt: skip
    inputs = {
        "model": folder / "model.pt",
        "scan": folder / "scan.json",
        "control": controlled / "control.pt",
    } | {
        f"{name} of other kernels": path / PROFILES
        for name, path in (("model", folder), ("control", controlled))
        if (path / PROFILES).exists()
    }
    stage = Stage(run, "export", inputs | dropout_file(folder), options, code=("lmaunet.export",))

    def work(out: Path) -> None:
        progress(0.0, "loading torch and the networks")
        spec, float32 = network_of(inputs["control"])
        images = RunData(run, source, spec, training_in(manifest["options"]))
        require_data(manifest["options"], images, folder)
        data = trained_on(images.load(), manifest["options"])
        came_from = {"checkpoint": manifest["inputs"].get("checkpoint", {}).get("sha256", "")}
        with record_of(folder):
            noted = read_json(folder / "qat.json").get("modalities")
        agreements = [
            *write_export(
                out, folder, (spec, float32), data, came_from, progress,
                dropout=dropout_of(folder),
                modalities=Modalities.from_json(noted, spec.in_channels),
            ),
            *write_profiles(
                out, folder, controlled, manifest["options"], source, data, came_from, progress
            ),
        ]  # fmt: skip
        write_json(out / "export.json", {"agreements": [a.to_json() for a in agreements]})

    return run_stage(stage, work)


def require_data(options: Mapping[str, Any], images: RunData, folder: Path) -> None:
    """Raise UserError where data are not those that ``RUN/qat``, of these options, was made on."""
    if images.sha256 != options.get("data_sha256"):
        raise UserError(
            f"the data in {images.source.path} have changed since {folder} was made; run "
            "lmaunet-deploy qat again, or put the data back"
        )


def build(
    run: Path, target_name: str, options: Mapping[str, Any], progress: Callable[[str], None]
) -> Outcome:
    """Build one target into ``RUN/build/TARGET``.

    The target writes; ``build.json`` describes what, and ``deployment.json`` how to use it.
    """
    from lmaunet.deploy.targets import BUILD_CODE, BuildRequest, get_target

    target = get_target(target_name)
    export = run / "export"
    read_stage(export)
    folder, inputs = build_inputs(target, export, options)
    stage = Stage(run, f"build/{target.name}", inputs, dict(options), code=BUILD_CODE)

    def work(out: Path) -> None:
        samples, calibration = images_of(inputs)
        request = BuildRequest(
            out, inputs["qcdq"], inputs["qonnx"], samples, options, progress,
            inputs.get("float32"), calibration,
        )  # fmt: skip
        built, profiles = target.build(request), None
        if PROFILES in inputs:
            built, profiles = build_profiles(target, built, request, export)
        with record_of(folder):
            content = read_json(inputs["interface"])
        interface = Interface.from_json(content, str(inputs["interface"]))
        built = add_head(built, target, interface.dropout, inputs["qcdq"], samples)
        write_build(built, interface, inputs["qcdq"], profiles)

    return run_stage(stage, work)
