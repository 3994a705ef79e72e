"""Run a stage of a run, or find that its result is there already, without loading torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.console import note
from lmaunet.deploy.run_data import RunData
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec
from lmaunet.stage import Stage, read_stage, sha256
from lmaunet.train.processes import process_rank

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset


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


def noted_spec(run: Path, stage: str, checkpoint: Path, spec: NetSpec | None) -> NetSpec | None:
    """Return the network of a checkpoint that a stage of the run noted, without loading it.

    None where the stage is not there, is of another file, or noted another network than the given.
    """
    try:
        manifest = read_stage(run / stage)
        noted = NetSpec.from_json(manifest["options"]["spec"])
        same = manifest["inputs"]["checkpoint"]["sha256"] == sha256(checkpoint)
    except (UserError, KeyError, TypeError):
        return None
    return noted if same and spec in (None, noted) else None


def current_outcome(
    run: Path,
    name: str,
    checkpoint: Path,
    source: DataSource,
    own: Mapping[str, Any],
    seed: int,
    spec: NetSpec | None,
    fingerprint: Callable[[Dataset], str],
) -> Outcome | None:
    """Return a stage of a checkpoint that is current, without loading torch; None where it is not.

    What the checkpoint holds is taken from the stage's manifest, which has the file's digest.

    Args:
        run, name: the stage.
        checkpoint: what goes in.
        source: the data.
        own: the stage's options beside those on network and data.
        seed: of the stage.
        spec: the network that was named; None takes the checkpoint's.
        fingerprint: see :class:`~lmaunet.deploy.run_data.RunData`.
    """
    noted = noted_spec(run, name, checkpoint, spec)
    if noted is None:
        return None
    images = RunData(run, source, noted, fingerprint)
    options = dict(read_stage(run / name)["options"])
    options |= {"data": source.to_json(), "data_sha256": images.sha256, **own}
    stage = Stage(run, name, {"checkpoint": checkpoint}, options, seed)
    if not stage.is_current():
        return None
    images.remember()
    return run_stage(stage, lambda folder: None)
