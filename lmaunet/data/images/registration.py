"""A rigid registration of two images of one patient, and what tells that it went wrong.

SimpleITK's Powell maximises Mattes' mutual information (Mattes et al., IEEE TMI 22(1), 2003) over
levels of resolution. That an optimiser ends says nothing: it always does. Asked of the end are that

- of three to five starts, another one ends where the best does, in mm at the volume's corners, and
  none fits as well elsewhere;
- within both bodies, mutual information is there and falls to all sides. The outlines of two bodies
  fit each other in any registration, of other parts of them too: what is inside does not;
- it does not fit better mirrored: a lost left and right is seen by nothing else;
- the motion is one that a patient makes between two scans.

Another patient's image of the same part of the body passes all of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lmaunet.data.images.geometry import corners
from lmaunet.data.images.mutual_information import Judge
from lmaunet.errors import UserError

SIDES, SAMPLES = (32, 64, 128), (6_000, 12_000, 25_000)
"""Of each level: voxels along the longest side of the first image, and how many are drawn."""
SEED = 1
BINS, ITERATIONS, LINE, STEP_TOLERANCE, VALUE_TOLERANCE = 32, 10, 50, 0.02, 1e-4
FEWEST = 8
"""Voxels along an axis, of either image, by which a rotation can be told."""
START_DEG, START_SHARE = 6.0, 0.05
"""How the other starts are displaced: turned about each axis, and moved by a share of the side."""
SIGNS = ((1, -1, 1), (-1, 1, -1), (1, 1, -1), (-1, -1, -1))
FEWEST_STARTS = 3
MOST_APART_MM = 2.0
"""Between the end that fits best and another start's at the corners, or a voxel of the second level
where that is more; beyond it nothing says that the best is right."""
CLOSE = 5.0
"""Times that: so far apart, ends may still meet at the last level."""
RIVAL = 0.995
"""Of the best end's mutual information: an end elsewhere that fits as well makes both doubtful."""
MOST_TURNED_DEG, MOST_MOVED_MM = 25.0, 60.0
PROBE_DEG, PROBE_SHARE, LEAST_FALL = 8.0, 0.05, 0.03
LEAST_INFORMATION = 0.02
"""Nats, within both bodies: of noise it is below."""
MIRRORED = 1.05
LEAST_BETTER = 0.99

Say = Callable[[str], None]


@dataclass(frozen=True)
class Registration:
    """Where a registration ended; ``transform`` maps points of the first image to the second's.

    Args:
        transform: SimpleITK's, mm in LPS.
        rotation_deg: the angle of its rotation.
        translation_mm: how far the first image's middle is moved, ``corners_mm`` its farthest
            corner.
        before, after: mutual information of the two, in nats, and ``inside`` that of what lies
            within both bodies.
        fall: the least share of ``inside`` that a small motion to any side loses.
        apart_mm: how far from it the nearest end of another start lies at the corners.
        mirrored: ``inside`` of the mirrored image, over that of the image, at low resolution.
    """

    transform: Any = dataclasses.field(repr=False)
    rotation_deg: float
    translation_mm: float
    corners_mm: float
    before: float
    after: float
    inside: float
    fall: float
    apart_mm: float
    mirrored: float

    def to_json(self) -> dict[str, float]:
        """Return plain JSON, without the transform."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "transform"]
        return {name: round(float(getattr(self, name)), 4) for name in names}


def register(fixed: Any, moving: Any, name: str, onto: str, say: Say) -> Registration:
    """Return the rigid motion that brings an image onto another of the same patient.

    It is computed on one thread from seeded samples, so that it repeats to the bit.

    Args:
        fixed, moving: SimpleITK images of three dimensions; where they lie is the first start.
        name, onto: what the second and the first are called in messages.
        say: called with what is being done.

    Raises:
        UserError: where the end looks wrong, in one line that says which check failed.
    """
    for image, called in ((moving, name), (fixed, onto)):
        if min(image.GetSize()) < FEWEST:
            size = "x".join(map(str, image.GetSize()))
            raise UserError(
                f"{called} has {size} voxels; a registration needs {FEWEST} or more along each "
                "axis; resample the images onto one grid instead"
            )
    for image, called in ((moving, name), (fixed, onto)):
        low, high = _range(image)
        if not low < high:
            raise UserError(
                f"{called} can't be registered: every voxel is {low:g}; give an image with content"
            )
    side = max(n * mm for n, mm in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True))
    steps = [side / count for count in SIDES]
    levels = [(_shrunk(fixed, mm), _shrunk(moving, mm)) for mm in steps]
    middle = fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.GetSize()])
    judge = Judge(*levels[1])
    allowed = max(MOST_APART_MM, steps[1])
    ends: list[Any] = []
    for number, start in enumerate(_starts(middle, side), 1):
        say(f"registering {name}: start {number}")
        end = start
        for level in (0, 1):
            end = _climb(levels[level], end, steps[level], SAMPLES[level], name, onto)
        ends.append(end)
        if judge(end)[1] < LEAST_INFORMATION:  # noise: another start ends nowhere else
            raise UserError(
                f"{name} shares nothing with {onto} within their bodies (mutual information "
                f"{judge(end)[1]:.3f} nats after registration, expected {LEAST_INFORMATION:g} or "
                f"more); {REMEDY}"
            )
        if number >= FEWEST_STARTS and _meeting(fixed, judge, ends)[1] <= allowed:
            break
    best, apart, rival = _meeting(fixed, judge, ends)
    if allowed < apart < CLOSE * allowed:
        say(f"registering {name}: last level of several starts")
        ends.sort(key=lambda end: -judge(end)[0])
        finer = [_climb(levels[2], end, steps[2], SAMPLES[2], name, onto) for end in ends[:3]]
        best, apart, rival = _meeting(fixed, judge, finer)
    if apart <= allowed and rival > RIVAL:
        raise UserError(
            f"the registration of {name} onto {onto} fits as well at another place, where another "
            f"start ends ({rival:.3f} of the best mutual information, at most {RIVAL:g}), so that "
            f"none can be trusted; {REMEDY}"
        )
    if apart > allowed:
        raise UserError(
            f"the registration of {name} onto {onto} ends at places {apart:.1f} mm apart from "
            f"several starts (at most {allowed:.1f} mm from where it fits best), so that none can "
            f"be trusted; {REMEDY}"
        )
    say(f"registering {name}: checking")
    before = judge(_turn(middle))[0]
    after, inside = judge(best)
    if after < LEAST_BETTER * before:
        raise UserError(
            f"the registration of {name} onto {onto} fits worse than the images as they lie "
            f"(mutual information {after:.3f}, {before:.3f} before); {REMEDY}, or only resample it"
        )
    fall = _fall(judge, best, middle, side)
    if fall < LEAST_FALL:
        raise UserError(
            f"{name} fits {onto} as well beside the place where its registration ended (mutual "
            f"information within the bodies falls by {100 * fall:.1f}%, expected "
            f"{100 * LEAST_FALL:g}% or more to each side); {REMEDY}"
        )
    mirrored = _mirrored(levels[0], moving, best, steps[0], name, onto)
    if mirrored > MIRRORED:
        raise UserError(
            f"{name} fits {onto} better mirrored left to right ({mirrored:.2f} times the mutual "
            "information within the bodies): its left and right are likely to be exchanged; "
            "correct its header"
        )
    say(f"registering {name}: last level")
    end = _climb(levels[2], best, steps[2], SAMPLES[2], name, onto)
    if (strayed := _apart_mm(fixed, end, best)) > allowed:
        raise UserError(
            f"the registration of {name} onto {onto} moves by {strayed:.1f} mm between its levels "
            f"of resolution (at most {allowed:.1f} mm); {REMEDY}"
        )
    return _within_limits(
        Registration(end, *_motion(fixed, end, middle), before, after, inside, fall, apart,
                     mirrored), name, onto,
    )  # fmt: skip


REMEDY = "look at both images, or align them in a program that shows them"


def _within_limits(found: Registration, name: str, onto: str) -> Registration:
    if found.rotation_deg > MOST_TURNED_DEG or found.translation_mm > MOST_MOVED_MM:
        raise UserError(
            f"the registration turns {name} by {found.rotation_deg:.1f} degrees and moves it by "
            f"{found.translation_mm:.1f} mm onto {onto}; expected at most {MOST_TURNED_DEG:g} and "
            f"{MOST_MOVED_MM:g}; {REMEDY}"
        )
    return found


def _range(image: Any) -> tuple[float, float]:
    import SimpleITK

    values = SimpleITK.GetArrayViewFromImage(image)
    return float(values.min()), float(values.max())


def _shrunk(image: Any, mm: float) -> Any:
    """Return an image of float32 whose voxels are averaged up to about ``mm`` along each axis."""
    import SimpleITK

    factors = [
        max(1, min(int(mm / spacing + 0.01), count // 4))
        for spacing, count in zip(image.GetSpacing(), image.GetSize(), strict=True)
    ]
    return SimpleITK.Cast(SimpleITK.BinShrink(image, factors), SimpleITK.sitkFloat32)


def _turn(
    middle: Sequence[float], degrees: Sequence[float] = (0, 0, 0), mm: Sequence[float] = (0, 0, 0)
) -> Any:
    import SimpleITK

    made = SimpleITK.Euler3DTransform()
    made.SetCenter(middle)
    made.SetRotation(*(math.radians(angle) for angle in degrees))
    made.SetTranslation([float(v) for v in mm])
    return made


def _starts(middle: Sequence[float], side: float) -> list[Any]:
    shift = START_SHARE * side / math.sqrt(3)
    found = [_turn(middle)]
    for x, y, z in SIGNS:
        degrees = [START_DEG * sign for sign in (x, y, z)]
        found.append(_turn(middle, degrees, [shift * sign for sign in (y, z, -x)]))
    return found


def _meeting(fixed: Any, judge: Judge, ends: Sequence[Any]) -> tuple[Any, float, float]:
    """Return the end that fits best, how far the nearest other one is in mm at the corners, and
    the mutual information of those that are far, over that of the best.
    """
    scores = [judge(end)[0] for end in ends]
    best = max(range(len(ends)), key=scores.__getitem__)
    apart = [
        math.inf if index == best else _apart_mm(fixed, ends[best], end)
        for index, end in enumerate(ends)
    ]
    nearest = min(apart)
    far = [
        score / scores[best]
        for index, score in enumerate(scores)
        if index != best and apart[index] > MOST_APART_MM + 3 * nearest
    ]
    return ends[best], nearest, max(far, default=0.0)


def _climb(
    pair: tuple[Any, Any], start: Any, step_mm: float, samples: int, name: str, onto: str
) -> Any:
    """Return the transform of most mutual information that is reached from ``start``."""
    import SimpleITK

    for powell in (True, False):
        method = SimpleITK.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)  # sums of several threads round as they come
        method.SetMetricAsMattesMutualInformation(BINS)
        if pair[0].GetNumberOfPixels() > samples:
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(samples / pair[0].GetNumberOfPixels(), SEED)
        method.SetInterpolator(SimpleITK.sitkLinear)
        if powell:
            method.SetOptimizerAsPowell(
                ITERATIONS, LINE, step_mm / 2, STEP_TOLERANCE, VALUE_TOLERANCE
            )
        else:
            method.SetOptimizerAsRegularStepGradientDescent(step_mm / 2, 0.005, 150, 0.85, 1e-6)
        method.SetOptimizerScalesFromPhysicalShift()
        end = SimpleITK.Euler3DTransform(start)
        method.SetInitialTransform(end, True)
        try:
            method.Execute(*pair)
            return end
        except RuntimeError:
            # a line of Powell's may lead out of the image, where gradient descent stays inside
            continue
    raise UserError(
        f"{name} and {onto} do not overlap where a registration looks for them; {REMEDY}"
    )


def _fall(judge: Judge, end: Any, middle: Sequence[float], side: float) -> float:
    """Return the least share of the information inside that a small motion to a side loses."""
    import SimpleITK

    found = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            unit = [sign * (axis == other) for other in range(3)]
            for degrees, mm in ((PROBE_DEG, 0.0), (0.0, PROBE_SHARE * side)):
                beside = _turn(middle, [degrees * v for v in unit], [mm * v for v in unit])
                found.append(judge(SimpleITK.CompositeTransform([end, beside]))[1])
    return 1 - max(found) / judge(end)[1]


def _mirrored(
    pair: tuple[Any, Any], moving: Any, end: Any, step_mm: float, name: str, onto: str
) -> float:
    """Return the information inside of the mirrored image, registered, over that of the image."""
    import SimpleITK

    flipped = SimpleITK.Flip(moving, [True, False, False])
    flipped.CopyInformation(moving)
    other = pair[0], _shrunk(flipped, step_mm)
    try:
        turned = _climb(other, end, step_mm, SAMPLES[0], name, onto)
    except UserError:
        return 0.0
    own = Judge(*pair)(_climb(pair, end, step_mm, SAMPLES[0], name, onto))[1]
    return Judge(*other)(turned)[1] / max(own, LEAST_INFORMATION)


def _corners_of(image: Any) -> list[Any]:
    return [
        image.TransformIndexToPhysicalPoint([int(v) for v in index])
        for index in corners(image.GetSize())
    ]


def _apart_mm(image: Any, first: Any, second: Any) -> float:
    """Return how far two transforms put a corner of an image apart at most."""
    return max(
        math.dist(first.TransformPoint(point), second.TransformPoint(point))
        for point in _corners_of(image)
    )


def _motion(image: Any, end: Any, middle: Sequence[float]) -> tuple[float, float, float]:
    """Return a transform's angle in degrees, and how far middle and corners are moved in mm."""
    trace = sum(end.GetMatrix()[i] for i in (0, 4, 8))
    angle = math.degrees(math.acos(max(-1.0, min(1.0, (trace - 1) / 2))))
    moved = math.dist(end.TransformPoint(middle), middle)
    return angle, moved, _apart_mm(image, end, _turn(middle))
