"""The slices of a series as one box of voxels, or why they are none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.dicom.files import listing
from lmaunet.data.dicom.frames import Frame
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

GEOMETRY_TOLERANCE_MM = 0.05
STEP_TOLERANCE = 0.01
"""How far a slice may lie from its place in the box, in steps."""
SMALLEST_TOLERANCE_MM = 0.01
"""Positions are printed with two decimals or more: what is below that is rounding."""
TILT_TOLERANCE_DEGREES = 0.1
SAME_PLACE = 0.05
"""Slices closer than this share of the usual step show the same place."""
NARROWINGS = 80
"""Each leaves two thirds: to the last digits of a float."""
MENTIONED = 0.001
"""Deviations above this share of the step are said."""

KINDS = ("SOPClassUID", "Modality", "image type")
OPTIONAL = frozenset({"StackID", "RescaleType"})
"""Traits that a slice may lack where others have them."""
PLACES = {
    "StackID": "stacks", "EchoTime": "echoes", "DiffusionBValue": "diffusion weightings",
    "TemporalPosition": "points in time",
}  # fmt: skip


@dataclass(frozen=True)
class Box:
    """Where a volume of slices lies.

    Args:
        order: the indices of the frames, along the normal.
        spacing_mm: x, y, z.
        origin: of the first voxel, mm in LPS.
        direction: the matrix in rows, as SimpleITK has it.
        notes: what the user should know.
    """

    order: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]
    notes: tuple[str, ...]


def stack(frames: Sequence[Frame], path: Path) -> Box:
    """Return the box of voxels that slices make, whatever order they come in.

    Raises:
        UserError: where they make none: images of another kind, size or orientation, a slice twice,
            missing or uneven, or a tilted gantry.
    """
    import numpy as np

    _check_traits(frames, path)
    _check_planes(frames, path)
    row, column = (np.array(v) for v in (frames[0].orientation[:3], frames[0].orientation[3:]))
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    notes = []
    skew = math.degrees(math.asin(abs(float(row @ column))))
    if skew:
        column = np.cross(normal, row)
    if skew > TILT_TOLERANCE_DEGREES / 10:
        notes.append(f"rows and columns are {skew:.2g} degrees from right angles: taken as right")
    positions = np.array([frame.position for frame in frames])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    direction = tuple(float(v) for v in np.stack([row, column, normal], 1).ravel())
    between_rows, between_columns = frames[0].spacing_mm
    start = 0.0
    if len(frames) == 1:
        step = frames[0].between_mm or frames[0].thickness_mm
        notes.append(
            f"one slice alone: the distance to the next is taken from its tags, {step:g} mm"
            if step is not None
            else "one slice alone, and no tag tells its thickness: 1 mm is taken"
        )
        step = step or 1.0
    else:
        in_order = [frames[i] for i in order]
        _check_places(in_order, along[order], path)
        start, step, said = _step(positions[order], normal, in_order, path)
        notes += said
        between = frames[0].between_mm
        if between is not None and abs(between - step) > 2 * STEP_TOLERANCE * step:
            notes.append(
                f"positions give {step:.4g} mm from slice to slice, SpacingBetweenSlices "
                f"{between:.4g} mm: positions count"
            )
    origin = tuple(float(v) for v in positions[order[0]] + start * normal)
    return Box(
        tuple(int(i) for i in order),
        (between_columns, between_rows, float(step)),
        (origin[0], origin[1], origin[2]),
        direction,
        tuple(notes),
    )


def _check_traits(frames: Sequence[Frame], path: Path) -> None:
    for trait in frames[0].traits:
        known = [f for f in frames if trait not in OPTIONAL or f.traits[trait] is not None]
        odd = _odd_one(known, [frame.traits[trait] for frame in known])
        if odd is None:
            continue
        frame, got, usual, others = odd
        if trait in KINDS:
            raise UserError(
                f"{frame.name} is an image of another kind ({trait} {got}); expected {usual}, as "
                f"{others} other(s) of the series {path}; move it away"
            )
        if trait in PLACES:
            counts = Counter(f.traits[trait] for f in frames)
            raise UserError(
                f"{path} holds {len(counts)} {PLACES[trait]} in one series ({trait} "
                f"{_values(counts)}); expected one; save each as a series of its own"
            )
        raise UserError(
            f"{frame.name}: {trait} is {got}; expected {usual}, as {others} other(s) of the series "
            f"{path}; it belongs to another series: move it away"
        )


def _check_planes(frames: Sequence[Frame], path: Path) -> None:
    """Raise UserError where the pixels of two slices are of another size or direction.

    What counts is how far that moves the last pixel of a slice.
    """
    rows, columns = frames[0].traits["Rows"], frames[0].traits["Columns"]
    usual_spacing = Counter(f.spacing_mm for f in frames).most_common(1)[0][0]
    usual_turn = Counter(f.orientation for f in frames).most_common(1)[0][0]
    sizes = (rows * usual_spacing[0], columns * usual_spacing[1])
    for frame in frames:
        turned = math.hypot(
            sizes[1] * math.dist(frame.orientation[:3], usual_turn[:3]),
            sizes[0] * math.dist(frame.orientation[3:], usual_turn[3:]),
        )
        if turned > GEOMETRY_TOLERANCE_MM:
            raise UserError(
                f"{frame.name} is seen in another direction (ImageOrientationPatient "
                f"{_numbers(frame.orientation)}; expected {_numbers(usual_turn)}, as most of the "
                f"series {path}): an image of another kind, such as a localizer; move it away"
            )
        grown = math.hypot(
            rows * (frame.spacing_mm[0] - usual_spacing[0]),
            columns * (frame.spacing_mm[1] - usual_spacing[1]),
        )
        if grown > GEOMETRY_TOLERANCE_MM:
            raise UserError(
                f"{frame.name}: PixelSpacing is {_numbers(frame.spacing_mm)} mm; expected "
                f"{_numbers(usual_spacing)} mm, as most of the series {path}; it belongs to "
                "another series: move it away, or resample it"
            )


def _check_places(frames: Sequence[Frame], along: np.ndarray, path: Path) -> None:
    """Raise UserError where two slices, in order, show the same place."""
    import numpy as np

    steps = np.diff(along)
    typical = _typical(steps)
    twice = np.flatnonzero(steps < SAME_PLACE * typical) if typical else np.arange(len(steps))
    if not len(twice):
        return
    places = len(frames) - len(twice)
    first = int(twice[0])
    pair = frames[first], frames[first + 1]
    differing = [
        (name, pair[0].hints[name], pair[1].hints[name])
        for name in pair[0].hints
        if pair[0].hints[name] != pair[1].hints[name]
    ]
    if len(twice) < places:
        raise UserError(
            f"{pair[0].name} and {pair[1].name} show the same place ({_place(pair[0])}): a slice "
            f"twice ({len(twice)} time(s) in the series); expected each once; remove one of them"
        )
    by = ", ".join(f"{name}: {a} and {b}" for name, a, b in differing[:2]) or "no tag that is known"
    raise UserError(
        f"{path} holds {len(frames)} images at {places} place(s): {pair[0].name} and "
        f"{pair[1].name} show the same one and differ in {by}; expected one image a place; save "
        "each point in time, echo or reconstruction as a series of its own"
    )


def _step(
    positions: np.ndarray, normal: np.ndarray, frames: Sequence[Frame], path: Path
) -> tuple[float, float, list[str]]:
    """Return where equal steps start, the step, and notes on what was tolerated; mm.

    They run from the first slice to the last, as other readers have it, or where slices lie too far
    from these, from ``start`` beside the first slice, so that they are nearest to all slices.
    """
    import numpy as np

    along = positions @ normal
    steps = np.diff(along)
    count = len(frames) - 1
    span = float(along[-1] - along[0])
    step = float(np.linalg.norm(positions[-1] - positions[0])) / count
    # always from where the grid that is returned puts them
    start, off = 0.0, float(np.abs(along - np.linspace(along[0], along[-1], count + 1)).max())
    allowed = max(STEP_TOLERANCE * span / count, SMALLEST_TOLERANCE_MM)
    if off > allowed:
        start, step, off = _nearest_steps(along)
    if off > allowed:
        raise UserError(_uneven(frames, steps, off, allowed, path))
    notes = []
    if off > MENTIONED * step:
        notes.append(
            f"slices lie up to {off:.2g} mm from equal steps of {step:.5g} mm (below 1% of the "
            "step): taken as equal"
        )
    aside = positions - positions[0]
    aside = aside - (aside @ normal)[:, None] * normal
    shift = float(np.linalg.norm(aside, axis=1).max())
    # a tilt moves each slice by as much more as it is farther; the rest is single slices' own
    tilt = aside[-1] * ((along - along[0]) / span)[:, None]
    alone = float(np.linalg.norm(aside - tilt, axis=1).max())
    angle = math.degrees(math.atan2(float(np.linalg.norm(aside[-1])), span))
    small = angle <= TILT_TOLERANCE_DEGREES and shift <= min(frames[0].spacing_mm) / 4
    if alone > GEOMETRY_TOLERANCE_MM or (shift > GEOMETRY_TOLERANCE_MM and not small):
        raise UserError(
            f"{path}: slices are shifted by up to {shift:.3g} mm within their plane, {angle:.2g} "
            "degrees from the normal (a tilted gantry, or a shift); expected slices one above the "
            "other; resample the series to a volume first, for example dcm2niix, which undoes a "
            "tilt"
        )
    if shift > GEOMETRY_TOLERANCE_MM / 10:
        notes.append(
            f"slices are shifted by up to {shift:.2g} mm within their plane: taken as one above "
            "the other"
        )
    return start, step, notes


def _nearest_steps(along: np.ndarray) -> tuple[float, float, float]:
    """Return the equal steps whose largest distance from slices in order is least.

    Args:
        along: where the slices lie, mm.

    Returns:
        Where they start, from the first slice; the step; the largest distance; mm.
    """
    import numpy as np

    index, steps = np.arange(len(along)), np.diff(along)
    low, high = float(steps.min()), float(steps.max())
    # the width of the band that holds all slices is convex in its slope
    for _ in range(NARROWINGS):
        third = (high - low) / 3
        if np.ptp(along - (low + third) * index) <= np.ptp(along - (high - third) * index):
            high -= third
        else:
            low += third
    step = (low + high) / 2
    rest = along - along[0] - step * index
    return float(rest.max() + rest.min()) / 2, step, float(np.ptp(rest)) / 2


def _uneven(
    frames: Sequence[Frame], steps: np.ndarray, off: float, allowed: float, path: Path
) -> str:
    """Return the message on slices at unequal steps: missing ones, where they fit, or none."""
    import numpy as np

    smallest = steps.min()
    # several neighbours of the smallest step, of which one may be off by some jitter
    typical = float(np.median(steps[steps < 1.5 * smallest]))
    missing = np.rint(steps / typical).astype(int) - 1
    fits = np.abs(steps / typical - np.rint(steps / typical)) <= 2 * STEP_TOLERANCE * (missing + 1)
    if fits.all() and missing.sum() > 0:
        gaps = [
            f"{missing[i]} between {frames[i].name} ({_place(frames[i])}) and "
            f"{frames[i + 1].name} ({_place(frames[i + 1])})"
            for i in np.flatnonzero(missing).tolist()
        ]
        return (
            f"{path}: {missing.sum()} slice(s) are missing: {listing(gaps)}; slices are "
            f"{steps.min():.4g} to {steps.max():.4g} mm apart; expected equal steps of "
            f"{typical:.4g} mm; complete the series"
        )
    worst = int(np.abs(steps - typical).argmax())
    return (
        f"{path}: slices are {steps.min():.4g} to {steps.max():.4g} mm apart, the most unusual "
        f"{steps[worst]:.4g} mm between {frames[worst].name} and {frames[worst + 1].name}, and lie "
        f"up to {off:.3g} mm from equal steps; expected {allowed:.2g} mm at most, because the "
        "volume is a box of voxels; complete the series, or resample it"
    )


def _typical(steps: np.ndarray) -> float:
    """Return the usual step of slices in order, those at one place left aside; 0 where all are."""
    import numpy as np

    apart = steps[steps > SAME_PLACE * float(steps.max())] if steps.max() > 1e-6 else steps[:0]
    return float(np.median(apart)) if len(apart) else 0.0


def _odd_one(frames: Sequence[Frame], values: Sequence[Any]) -> tuple[Frame, Any, Any, int] | None:
    """Return the first frame whose value is unusual, both values, and how many have the usual."""
    counts = Counter(values)
    if len(counts) <= 1:
        return None
    usual, others = counts.most_common(1)[0]
    index = next(i for i, value in enumerate(values) if value != usual)
    return frames[index], _said(values[index]), _said(usual), others


def _said(value: Any) -> str:
    return "missing" if value is None or value == "" else str(value)


def _values(counts: Counter[Any]) -> str:
    return listing([_said(v) for v in sorted(counts, key=lambda v: (v is None, str(v)))], 4)


def _place(frame: Frame) -> str:
    return f"at {_numbers(frame.position)} mm"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.6g}" for v in values)
