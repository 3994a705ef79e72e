"""The four figures that a decision rests on, for each target: Dice, worst organ, latency, size.

Each is a :class:`Cell`: the figure, how it was obtained, and what it is to be held against: its
limit, its interval, and FP32. The terminal's lines and the report's first screen are written from
the same cells. A figure that is not known is the word ``unknown``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmaunet.deploy import gates as gating
from lmaunet.deploy.detail import counts
from lmaunet.deploy.figures import WORDS, number_text

UNKNOWN = "unknown"
NO_LIMIT = "no limit given"


@dataclass(frozen=True)
class Cell:
    """One figure of a decision in words.

    Args:
        main: the figure with its unit, or ``unknown``.
        provenance: how it was obtained; empty where it is not known.
        notes: what it is held against, each a few words.
        failed: whether it is beyond its limit.
        mark: a word of caution.
        short: the notes that a terminal's line has room for.
    """

    main: str
    provenance: str = ""
    notes: tuple[str, ...] = ()
    failed: bool = False
    mark: str = ""
    short: tuple[str, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there is a figure."""
        return bool(self.provenance)

    @property
    def word(self) -> str:
        """How the figure was obtained, in the word that stands beside it."""
        return WORDS[self.provenance] if self.known else ""

    def text(self) -> str:
        """Return the cell in a few words, for one line of all cells."""
        notes = ", ".join((*([self.mark] if self.mark else []), *self.short))
        return f"{self.main}{f' {self.word}' if self.known else ''}{f' ({notes})' if notes else ''}"


def cells(report: Mapping[str, Any], name: str) -> dict[str, Cell]:
    """Return the cells of a target by ``dice``, ``worst``, ``latency``, ``size``."""
    target = report["targets"][name]
    own = {gate["name"]: gate for gate in report["gates"] if gate["target"] == name}
    return {
        "dice": _dice(target, own, report["reference"]),
        "worst": _worst(target, own),
        "latency": _latency(target, own),
        "size": _size(target, own, report["reference"]),
    }


def ships(target: Mapping[str, Any]) -> list[str]:
    """Return the files that go to the device."""
    return [file["name"] for file in target["files"] if file.get("ships")]


def _dice(
    target: Mapping[str, Any], own: Mapping[str, Any], reference: Mapping[str, Any]
) -> Cell:  # fmt: skip
    drop, dice = target["dice_drop_points"], target["dice"]
    if "value" not in dice or "value" not in drop:
        return Cell(UNKNOWN, notes=("not scored",))
    mean = reference["dice"]["mean"]
    before = f"FP32 {100 * mean:.1f}, now " if not isinstance(mean, Mapping) else ""
    gate = own.get("dice_drop_points")
    limit = f"at most {gate['limit']:g} may be lost" if gate else NO_LIMIT
    notes = (interval_text(target), f"{before}{100 * dice['value']:.1f}", limit)
    return Cell(
        points(-drop["value"]), dice["provenance"], notes,
        failed=_fails(own, "dice_drop_points") or _fails(own, "dice"), short=notes[:1],
    )  # fmt: skip


def interval_text(target: Mapping[str, Any]) -> str:
    """Return the interval of the change of Dice, or of how many patients there is none."""
    interval, count = target.get("drop_interval"), len(target.get("per_patient", ()))
    if not interval:
        of = f", {count} patient{'s' if count > 1 else ''}" if count else ""
        return f"interval {UNKNOWN}{of}"
    low, high = (signed(-interval[key]) for key in ("high", "low"))
    return f"{100 * interval['level']:g}% {low} to {high}, {interval['patients']} patients"


def _worst(target: Mapping[str, Any], own: Mapping[str, Any]) -> Cell:
    worst, gate = target.get("worst_class"), own.get("class_drop_points")
    if not worst:
        return Cell(UNKNOWN, notes=("not scored",))
    change, loss = 100 * (worst["dice"] - worst["reference"]), worst["relative_loss"]
    share = "" if loss is None else f"{-100 * loss:+.0f}%"
    values = f"Dice {100 * worst['reference']:.1f} to {100 * worst['dice']:.1f}"
    limit = f"at most {gate['limit']:g} may be lost" if gate else NO_LIMIT
    return Cell(
        f"{worst['class']} {points(change)}", target["dice"]["provenance"],
        (f"{values} ({share})" if share else values, limit),
        failed=_fails(own, "class_drop_points"), short=(share,) if share else (),
    )  # fmt: skip


def _latency(target: Mapping[str, Any], own: Mapping[str, Any]) -> Cell:
    figure, gate = target["latency_ms"], own.get("latency_ms")
    limit = f"limit {gate['limit']:g} ms" if gate else NO_LIMIT
    beside = target["detail"].get("float32")
    speed = f"FP32 here {UNKNOWN}"
    if "value" in figure and isinstance(beside, Mapping) and counts(beside.get("speed_up")):
        speed = f"{beside['speed_up']:.2g}x as fast as FP32"
    if "value" not in figure:
        return Cell(UNKNOWN, notes=(limit,), failed=_fails(own, "latency_ms"), short=(limit,))
    return Cell(
        f"{number_text('latency_ms', figure['value'], gate['limit'] if gate else None)} ms",
        figure["provenance"], (limit, speed), _fails(own, "latency_ms"),
        "unsteady" if unsteady(target["detail"]) else "", (limit, speed),
    )  # fmt: skip


def _size(
    target: Mapping[str, Any], own: Mapping[str, Any], reference: Mapping[str, Any]
) -> Cell:  # fmt: skip
    figure, notes, limit = target["size_mb"], [], None
    if "size_mb" in own:
        limit = own["size_mb"]["limit"]
        notes.append(f"limit {limit:g} MB")
    if "weights_mb" in own:
        notes.append(f"weights limit {own['weights_mb']['limit']:g} MB")
    notes = notes or [NO_LIMIT]
    failed = _fails(own, "size_mb") or _fails(own, "weights_mb")
    if "value" not in figure:
        return Cell(UNKNOWN, notes=tuple(notes), failed=failed)
    whole = float32_mb(target, reference)
    ratio = f"FP32 {UNKNOWN}"
    if whole is not None:
        ratio = f"FP32 is {whole / figure['value']:.2g}x as large"
    short = (*notes, ratio)
    notes.append(ratio if whole is None else f"FP32 {number_text('size_mb', whole)} MB,{ratio[7:]}")
    return Cell(
        f"{number_text('size_mb', figure['value'], limit)} MB", figure["provenance"],
        tuple(notes), failed, short=short,
    )  # fmt: skip


def float32_mb(target: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    """Return what ships of FP32 in MB: in the target's own form, else as the exported ONNX file."""
    beside = target["detail"].get("float32")
    if isinstance(beside, Mapping) and counts(beside.get("size_mb")):
        return float(beside["size_mb"])
    value = reference.get("size_mb", {}).get("value")
    return float(value) if counts(value) else None


def _fails(own: Mapping[str, Any], name: str) -> bool:
    return name in own and own[name]["state"] == gating.FAILED


def class_loss(worst: Mapping[str, Any]) -> str:
    """Return what a class lost in points and as a share, such as ``-4.5 points (-27%)``."""
    text = points(100 * (worst["dice"] - worst["reference"]))
    loss = worst["relative_loss"]
    return text if loss is None else f"{text} ({-100 * loss:+.0f}%)"


def unsteady(detail: Mapping[str, Any]) -> bool:
    """Whether the times that a latency was taken from are too far apart."""
    return gating.latency_conditions(detail).get("unsteady") is True


def points(change: float) -> str:
    """Return a change of Dice with its sign; none where it rounds to nothing."""
    return f"{signed(change)} points"


def signed(change: float) -> str:
    """Return a change in points with its sign; none where it rounds to nothing."""
    text = f"{change:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text
