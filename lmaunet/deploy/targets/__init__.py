"""The deployment targets: a folder or file each that defines ``TARGET``.

What defines ``TARGET`` in this folder is a target; nothing else names it. One that cannot be
imported shows up as missing, with the reason.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from lmaunet.artifacts import Build, Figure, Provenance, Refusal
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.packages import install_extra, module_of
from lmaunet.registry import Missing, find_entries, get_entry

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.deploy.figures import Shown
    from lmaunet.graph.graph import Graph

__all__ = [
    "BUILD_CODE",
    "BuildRequest",
    "Flag",
    "Missing",
    "Target",
    "Tool",
    "all_targets",
    "build_options",
    "get_target",
    "installed",
    "option_hints",
]

BUILD_CODE = (
    "lmaunet.export", "lmaunet.cpu", "lmaunet.fpga", "lmaunet.trt", "lmaunet.scan",
    "lmaunet.deploy.targets",
)  # fmt: skip
"""The packages whose source determines a build."""


@dataclass(frozen=True)
class Tool:
    """A tool that a target uses, and whether it is here.

    ``version`` and ``place`` are empty where it is missing; ``fix`` is the command that gets it.
    ``required`` tells whether the target's build needs it, or only a part of measuring.
    """

    name: str
    purpose: str
    version: str = ""
    place: str = ""
    fix: str = ""
    required: bool = True

    @property
    def found(self) -> bool:
        """Whether the tool is on this machine."""
        return bool(self.place)


def installed(name: str, purpose: str, fix: str, *, required: bool = False) -> Tool:
    """Return a Python package as a tool, found or missing, without importing it."""
    try:
        spec = importlib.util.find_spec(module_of(name))
        version = importlib.metadata.version(name)
    except (ImportError, ValueError):
        return Tool(name, purpose, fix=fix, required=required)
    if spec is None:
        return Tool(name, purpose, fix=fix, required=required)
    place = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    return Tool(name, purpose, version, place, fix, required)


@dataclass(frozen=True)
class Flag:
    """What the command line says of an option of a target; annotates a keyword of its ``options``.

    Args:
        help: what it does, and what is taken if it is not given.
    """

    help: str


@dataclass(frozen=True)
class BuildRequest:
    """What a target builds from.

    Args:
        folder: an empty folder that the target writes into; it becomes the build.
        qcdq: ONNX with QuantizeLinear/DequantizeLinear and the scan as one local function.
        qonnx: ONNX with QONNX Quant nodes and the scan opaque.
        samples: float32 ``(n, channels, H, W)`` normalised images for the agreement checks.
        options: the target's options, as its ``options`` returned them; one that is left out is at
            its default.
        progress: called with a line on what is being done.
        float32: ONNX of the float network, the FP32 control, with the scan as one local function;
            None where there is none.
        calibration: float32 ``(n, channels, H, W)``, the training images that QAT calibrated with;
            None where they were not kept.
    """

    folder: Path
    qcdq: Path
    qonnx: Path
    samples: np.ndarray
    options: Mapping[str, Any]
    progress: Callable[[str], None]
    float32: Path | None = None
    calibration: np.ndarray | None = None


class Measure(Protocol):
    """Returns the figures ``size_mb``, ``weights_mb`` and ``latency_ms`` of a build."""

    def __call__(
        self, build: Build, images: np.ndarray, float32: Path | None = None
    ) -> dict[str, Figure]:
        """Measure a build on images ``(n, channels, H, W)``.

        ``float32`` is the exported FP32 network, which a target of this machine times in turns.
        """
        ...


Sampled: TypeAlias = "Callable[[Build, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]"


DetailLines: TypeAlias = "Callable[[Mapping[str, Any]], Iterable[tuple[str, str | Shown]]]"


@dataclass(frozen=True)
class Target:
    """One deployment target.

    Args:
        name: the name that ``--target`` takes.
        summary: one line on what it is.
        probe: returns the tools that it uses, found or missing.
        build: writes the deployment into ``request.folder`` and returns it; raises UserError,
            ToolNotFound or Disagreement.
        run: float32 images ``(n, channels, H, W)`` to float32 logits ``(n, classes, H, W)``, with
            the target's own arithmetic.
        measure: see :class:`Measure`.
        arithmetic: what ``run`` executes on this machine, in words for the report.
        provenance: how a score of ``run`` on this machine is obtained: measured, or emulated.
        time: returns the times of one image on the device that the build is for, as
            ``detail["latency"]`` has them with what they depend on; raises UserError where the
            device is not here. None: it is this CPU, and ``run`` is timed.
        refuses: returns what it does not take of a float network's graph; fast, without its tools.
        run_note: what a user of ``run`` should know beside that, such as that it is slow.
        options: takes the target's options by keyword, each annotated with its type and a
            :class:`Flag`, from which the command line's flags come, and returns all of a build's;
            raises UserError for a bad one and ToolNotFound where a build of these would lack a
            tool. It is fast, and called before anything else is done.
        share: takes the build of an elastic network's reference kernel and that of another kernel,
            and returns the second with what both have stored once; None where a build holds one
            kernel, which its options choose.
        sampled: images and dropout masks, float32 ``(samples, features)``, to the logits of ``run``
            and those with each mask ``(n, samples, classes, H, W)``; all before the head is
            computed once. None: the target takes no masks.
        trunk: the ONNX file of a build whose head takes masks; None where it has none.
        in_demo: whether the demo builds it.
        gates: its own limits by figure, where the ones for all targets do not fit it; ``False`` is
            no gate. Names and units are those of ``gates.toml``.
        detail_lines: takes a build's detail as its record has it, and yields what the report shows
            of it: a label, and words or a :class:`~lmaunet.deploy.figures.Shown`. It must do with
            any JSON. What every target has, such as times, is shown without it.
        inside: takes the same, and returns the sections of the report on the hardware inside;
            empty where there is none.
    """

    name: str
    summary: str
    probe: Callable[[], list[Tool]]
    build: Callable[[BuildRequest], Build]
    run: Callable[[Build, np.ndarray], np.ndarray]
    measure: Measure
    arithmetic: Callable[[Build], str]
    provenance: Callable[[Build], Provenance] = lambda build: "measured"
    time: Callable[[Build, np.ndarray], dict[str, Any]] | None = None
    refuses: Callable[[Graph], list[Refusal]] = lambda graph: []
    run_note: str = ""
    options: Callable[..., dict[str, Any]] = field(default_factory=lambda: no_options)
    share: Callable[[Build, Build, int], Build] | None = None
    sampled: Sampled | None = None
    trunk: Callable[[Build], Path | None] = lambda build: build.shipped
    in_demo: bool = False
    gates: Mapping[str, float | Literal[False]] = field(default_factory=dict)
    detail_lines: DetailLines = lambda detail: ()
    inside: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda detail: {}


def no_options() -> dict[str, Any]:
    """Return the options of a target that has none."""
    return {}


def build_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a target's build, checked.

    Args:
        name: the target.
        given: what was given, by name with underscores.

    Raises:
        UserError: for an unknown target, another target's option, or a bad value.
        ToolNotFound: where a build of these would lack a tool.
    """
    target = get_target(name)
    for option in given:
        if option not in option_hints(target):
            others = [t for t in all_targets().values() if isinstance(t, Target)]
            owners = [t.name for t in others if option in option_hints(t)]
            owned = f"an option of --target {' and '.join(owners)}" if owners else "no option"
            raise UserError(f"--{option.replace('_', '-')} is {owned}; leave it out here")
    try:
        return target.options(**given)
    except ToolNotFound as error:
        if error.fix != install_extra(name):
            raise
        # what runs a build is not all that makes one
        raise ToolNotFound(error.tool, error.why, install_extra(name, whole=True)) from error


def option_hints(target: Target) -> dict[str, tuple[Any, Flag]]:
    """Return the type and the flag of each option of a target, by its name."""
    hints = typing.get_type_hints(target.options, include_extras=True)
    found = {}
    for name in inspect.signature(target.options).parameters:
        hint = hints.get(name, str)
        kind, *notes = typing.get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        found[name] = kind, next((note for note in notes if isinstance(note, Flag)), Flag(""))
    return found


def all_targets() -> dict[str, Target | Missing]:
    """Return every target of this folder by name, in alphabetical order."""
    return find_entries(__name__, __path__, "TARGET", Target)


def get_target(name: str) -> Target:
    """Return one target; raises :class:`UserError` where it is unknown or cannot be imported."""
    return get_entry(all_targets(), name, "target")
