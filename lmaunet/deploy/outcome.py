"""Run a stage of a run, or find that its result is there already, without loading torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.console import note
from lmaunet.deploy.controlled import KEPT, asked_drop
from lmaunet.deploy.run_data import RunData, training_in
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.graph_spec import NetworkSpec, network_spec_of
from lmaunet.stage import Stage, read_json, read_stage, sha256, write_json
from lmaunet.train.processes import process_rank

if TYPE_CHECKING:
    from lmaunet.net.origin import Origin
    from lmaunet.stated_spec import StatedSpec

ORIGIN_FILE = "origin.json"
"""What the checkpoint was that a stage began with, in words."""


@dataclass(frozen=True)
class Outcome:
    """A finished stage: its folder, and whether it was there already."""

    folder: Path
    cached: bool


def run_stage(stage: Stage, work: Callable[[Path], None], *, resume: bool = False) -> Outcome:
    """Run a stage in this process; only the first of several processes writes its folder."""
    started = time.monotonic()
    # each process finds the same here: no result is moved into place before all have worked on it
    if stage.is_current():
        if process_rank() == 0:
            stage.clear()
        note(f"{stage.folder}: was there already, {time.monotonic() - started:.1f} s to tell")
        return Outcome(stage.folder, True)
    require_temporary_folder()
    if process_rank() != 0:
        work(stage.partial)
    else:
        stage.write(work, resume=resume)
    note(f"{stage.folder}: made in {time.monotonic() - started:.1f} s")
    return Outcome(stage.folder, False)


def require_temporary_folder() -> None:
    """Raise UserError where no temporary folder can be written, which compilers and torch need."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(
            f"no temporary folder can be written ({error.strerror}); set TMPDIR to one that can, "
            "or free space there"
        ) from error


def asked_of(stated: StatedSpec | None, weights: str | None) -> dict[str, Any]:
    """Return what the command said of a checkpoint's network, as plain JSON."""
    values = {} if stated is None else dict(stated.values)
    return {
        "base": None if stated is None or stated.base is None else stated.base.to_json(),
        "stated": {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()},
        "weights": weights,
    }


def write_origin(folder: Path, origin: Origin, asked: Mapping[str, Any]) -> None:
    """Write what a checkpoint was into a stage's folder, and what the command asked of it."""
    content = {**origin.to_json(), "line": origin.line(), "asked": dict(asked)}
    write_json(folder / ORIGIN_FILE, content)


def noted_spec(
    run: Path, stage: str, checkpoint: Path, asked: Mapping[str, Any]
) -> NetworkSpec | None:
    """Return the network of a checkpoint that a stage of the run noted, without loading it.

    None where the stage is not there, is of another file, or something else was asked of the file.
    """
    try:
        manifest = read_stage(run / stage)
        noted = network_spec_of(manifest["options"]["spec"])
        same = manifest["inputs"]["checkpoint"]["sha256"] == sha256(checkpoint)
        same = same and read_json(run / stage / ORIGIN_FILE)["asked"] == asked
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None
    return noted if same else None


def current_outcome(
    run: Path,
    name: str,
    checkpoint: Path,
    source: DataSource,
    own: Mapping[str, Any],
    seed: int,
    asked: Mapping[str, Any],
) -> Outcome | None:
    """Return a stage of a checkpoint that is current, without loading torch; None where it is not.

    What the checkpoint holds is taken from the stage's manifest, which has the file's digest.

    Args:
        run, name: the stage.
        checkpoint: what goes in.
        source: the data.
        own: the stage's options beside those on network and data.
        seed: of the stage.
        asked: what was said of the network, see :func:`asked_of`.
    """
    noted = noted_spec(run, name, checkpoint, asked)
    if noted is None:
        return None
    options = dict(read_stage(run / name)["options"])
    options.pop(KEPT, None)  # that of the command alone counts: the stage may be another's
    images = RunData(run, source, noted, training_in(options))
    options |= {"data": source.to_json(), "data_sha256": images.sha256, **own}
    stage = Stage(run, name, {"checkpoint": checkpoint}, options, seed)
    if not stage.is_current():
        return None
    images.remember()
    return run_stage(stage, lambda folder: None)


def matching_control(run: Path) -> Path:
    """Return ``RUN/control``, which ``RUN/qat`` is compared with.

    Raises:
        UserError: where one is damaged; or where it is of another checkpoint, or was trained on
            other data, otherwise long or by another seed: the drop would be that of two unrelated
            networks.
    """
    ours, theirs = read_stage(run / "qat"), read_stage(run / "control")
    try:
        pairs = {
            "checkpoint": [m["inputs"]["checkpoint"]["sha256"] for m in (ours, theirs)],
            "data": [m["options"]["data_sha256"] for m in (ours, theirs)],
            "schedule": [ours["options"]["settings"]["schedule"], theirs["options"]["schedule"]],
            "seed": [m["seed"] for m in (ours, theirs)],
            # of one file two networks can be made: from two sets of weights, or in two sizes
            "set of weights": [m["options"].get("weights") for m in (ours, theirs)],
            "spec": [m["options"].get("spec") for m in (ours, theirs)],
            "choice of patients": [
                asked_drop(ours["options"]) is not None,
                KEPT in theirs["options"],
            ],
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the manifest of {run / 'qat'} or {run / 'control'} is damaged ({error!r}); run the "
            "same lmaunet-deploy qat again"
        ) from error
    other = [name for name, (mine, its) in pairs.items() if mine != its]
    if other:
        raise UserError(
            f"{run / 'control'} has another {' and '.join(other)} than {run / 'qat'}, which it is "
            "to be compared with; run the same lmaunet-deploy qat again, it makes what is missing"
        )
    return run / "control"
