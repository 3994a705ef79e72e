"""Building a run's network for a target: :func:`build`, and the command of that name over it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmaunet.artifacts import Agreement
from lmaunet.deploy import pipeline
from lmaunet.deploy.outcome import Outcome
from lmaunet.deploy.run_lock import in_use
from lmaunet.deploy.runs import choose_data, find_run
from lmaunet.deploy.targets import build_options, get_target
from lmaunet.packages import missing_packages_named
from lmaunet.stage import read_manifest

Say = Callable[[float, str], None]
Bar = Callable[[str], contextlib.AbstractContextManager[Say]]
"""Shows the progress of what it is given the title of."""


@dataclass(frozen=True)
class BuildResult:
    """A build that is finished.

    Args:
        target: what it is for, such as ``ort``.
        folder: where it is; :func:`lmaunet.load` opens it, also when it was copied elsewhere.
        files: what goes to the device, in that folder.
        agreement: how its forms compare with the exported network, each of them passed.
        cached: whether it was there already, for just this network and these options.
        exported: the folder of the export that it was built from.
        detail: what else the target tells.
    """

    target: str
    folder: Path
    files: tuple[Path, ...]
    agreement: tuple[Agreement, ...]
    cached: bool
    exported: Path
    detail: Mapping[str, Any] = field(default_factory=dict, repr=False)


@missing_packages_named()
def build(run: str | os.PathLike[str], target: str, **options: Any) -> BuildResult:
    """Build a run's quantized network for a target; the network is exported first where it is not.

    What is there already for just this network and these options is not made again.

    Args:
        run: the run's folder, such as ``runs/demo``, with a finished ``qat`` stage.
        target: ``ort``, ``openvino``, ``trt`` or ``fpga``.
        options: those of the command ``build`` for that target, with underscores, such as
            ``cpu="vnni"``.

    Raises:
        UserError: for an unknown target or option, or where the run has no quantized network.
        ToolNotFound: where a package or tool is missing that the build needs.
        Disagreement: where a form computes something else than the exported network.

    >>> made = lmaunet.build("runs/demo", "ort", operators=False)
    >>> made.folder.as_posix(), made.files[0].name, made.cached
    ('runs/demo/build/ort', 'model.onnx', True)
    >>> all(agreement.passed for agreement in made.agreement)
    True
    """
    return build_run(Path(run), target, build_options(target, options), _silent)


def build_run(run: Path | None, target: str, options: Mapping[str, Any], bar: Bar) -> BuildResult:
    """Build one target of a run; exports first where that is not done for this network yet.

    Args:
        run: the run's folder; the newest under ``runs/`` where None.
        target: its name.
        options: all of its options, as :func:`lmaunet.deploy.targets.build_options` has them.
        bar: shows the progress.
    """
    get_target(target)
    run = find_run(run)
    read_manifest(run / "qat")  # what is missing first is said first
    with in_use(run):
        exported = export_run(run, bar)
        with bar(f"building {target}") as progress:
            outcome = pipeline.build(run, target, options, lambda line: progress(0.5, line))
        built = pipeline.load_build(run, target)
    return BuildResult(
        target, outcome.folder, built.ships, built.agreements, outcome.cached, exported.folder,
        built.detail,
    )  # fmt: skip


def export_run(run: Path, bar: Bar) -> Outcome:
    """Export a run's network with its own data."""
    with bar("exporting to ONNX") as progress:
        return pipeline.export(run, choose_data(run, None), progress)


@contextlib.contextmanager
def _silent(title: str) -> Iterator[Say]:
    yield lambda fraction, line: None
