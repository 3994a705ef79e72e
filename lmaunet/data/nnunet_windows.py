"""nnU-Net's prediction of slices: padding, windows with a Gaussian, mirrored images.

Sums are in half precision, as nnU-Net's are, so that ties between classes fall alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmaunet.data.preparation import Run

if TYPE_CHECKING:
    import numpy as np

STEP = 0.5
"""How far a window is from its neighbour at most, as a share of its side."""
DEVIATION = 1 / 8
"""Of the Gaussian, as a share of a window's side."""
PEAK = 10
"""The largest weight."""
REACH = 4
"""Deviations beyond which a weight is 0 before it is raised to the least other one."""


def padding(have: int, want: int) -> tuple[int, int]:
    """Return how many zeros go before and after a side so that it has ``want`` pixels at least."""
    lacking = max(0, want - have)
    return lacking // 2, lacking - lacking // 2


def window_starts(length: int, window: int, step: float = STEP) -> list[int]:
    """Return where windows begin along a side: evenly spread, rounded, halves to the even pixel.

    >>> window_starts(110, 64)
    [0, 23, 46]
    """
    count = math.ceil((length - window) / (window * step)) + 1
    if count == 1:
        return [0]
    return [round((length - window) / (count - 1) * i) for i in range(count)]


def window_weight(size: tuple[int, int]) -> np.ndarray:
    """Return the weight of a window's pixels, float16 ``(H, W)``: 10 times a Gaussian.

    Its deviation is an eighth of each side, its peak the pixel after the middle.
    """
    import numpy as np

    sides = []
    for side in size:
        distance = np.arange(side) - side // 2
        deviation = side * DEVIATION
        weight = np.exp(-0.5 * (distance / deviation) ** 2)
        sides.append(np.where(abs(distance) <= int(REACH * deviation + 0.5), weight, 0.0))
    found = (PEAK * np.outer(*sides)).astype(np.float16)
    found[found == 0] = found[found > 0].min()
    return found


def mirrored(run: Run, axes: Sequence[int]) -> Run:
    """Return a network that averages over its images mirrored along all combinations of axes.

    Args:
        run: the network.
        axes: of a slice, 0 rows and 1 columns; without any it is the network itself.
    """
    import numpy as np

    flips = [
        tuple(axis + 2 for axis in chosen)
        for count in range(1, len(axes) + 1)
        for chosen in itertools.combinations(axes, count)
    ]

    def average(images: np.ndarray) -> np.ndarray:
        total = run(images)
        for flip in flips:
            total = total + np.flip(run(np.ascontiguousarray(np.flip(images, flip))), flip)
        return total / (len(flips) + 1) if flips else total

    return average


def predict(
    images: np.ndarray, patch: tuple[int, int], run: Run, *, batch: int = 4, step: float = STEP
) -> np.ndarray:
    """Return the logits of slices of any size, float16 ``(n, classes, H, W)``.

    A slice below the patch is padded with zeros around it, a larger one covered by windows, whose
    logits are averaged by :func:`window_weight`.

    Args:
        images: float32 ``(n, channels, H, W)``.
        patch: height and width that the network takes.
        run: the network, perhaps :func:`mirrored`.
        batch: windows in a call of it.
        step: how far windows are apart at most, as a share of the patch's side.

    Where ten times the logits are too large for half precision, at about 6550, which nnU-Net
    refuses, the network runs once more, sums are in single precision, and so is the result.
    """
    import numpy as np

    around = [padding(*sides) for sides in zip(images.shape[2:], patch, strict=True)]
    padded = np.pad(images, [(0, 0), (0, 0), *around])
    starts = [window_starts(*sides, step) for sides in zip(padded.shape[2:], patch, strict=True)]
    windows = [
        (slice(y, y + patch[0]), slice(x, x + patch[1])) for y, x in itertools.product(*starts)
    ]
    blended = _blended(padded, windows, patch, run, batch, np.float16)
    if not np.isfinite(blended).all():
        blended = _blended(padded, windows, patch, run, batch, np.float32)
    rows, columns = (
        slice(before, before + side)
        for (before, _), side in zip(around, images.shape[2:], strict=True)
    )
    return blended[..., rows, columns]


def _blended(
    padded: np.ndarray, windows: Sequence[tuple[slice, slice]], patch: tuple[int, int], run: Run,
    batch: int, kind: type[np.floating],
) -> np.ndarray:  # fmt: skip
    """Return the weighted mean of windows' logits, summed up in a kind of number."""
    import numpy as np

    weight = window_weight(patch)
    total = np.zeros(padded.shape[2:], kind)
    for window in windows:
        total[window] += weight
    places = list(itertools.product(range(len(padded)), windows))
    blended: np.ndarray | None = None
    with np.errstate(over="ignore", invalid="ignore"):
        for begin in range(0, len(places), batch):
            some = places[begin : begin + batch]
            found = run(np.stack([padded[i, :, *window] for i, window in some]))
            if blended is None:
                blended = np.zeros((len(padded), found.shape[1], *padded.shape[2:]), kind)
            for (i, window), logits in zip(some, found, strict=True):
                part = blended[i, :, *window]
                np.add(part, logits * weight.astype(np.float32), out=part, casting="same_kind")
        assert blended is not None  # there is a window
        blended /= total
    return blended
