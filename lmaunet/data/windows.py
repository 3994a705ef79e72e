"""Slices that are larger than the network's input, covered by overlapping windows.

What is computed is what MONAI's ``sliding_window_inference`` computes with Gaussian weights; the
tests hold it to that. It is written here because MONAI and torch take seconds and 0.6 GB to load,
and a build runs without either.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

OVERLAP = 0.5
LARGEST_OVERLAP = 0.9
DEVIATION = 0.125
"""Standard deviation of the weight, as a share of a window's side."""
LEAST_WEIGHT = 1e-3
"""So that a corner that one window covers alone keeps its precision."""


def check_overlap(overlap: float) -> float:
    """Return the share of a window that its neighbour covers too; raises UserError beyond 0.9."""
    if not 0 <= overlap <= LARGEST_OVERLAP:
        raise UserError(
            f"overlap {overlap:g}; expected 0 to {LARGEST_OVERLAP:g} of a window's side; "
            f"{OVERLAP:g} is usual"
        )
    return overlap


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return where windows begin along an axis; the last one ends where the axis does."""
    step = max(1, int(window * (1 - overlap)))
    starts = list(range(0, length - window, step))
    return [*starts, length - window]


def window_weight(size: tuple[int, int]) -> np.ndarray:
    """Return the weight of a window's pixels, float32 ``(H, W)``: a Gaussian, largest inside."""
    import numpy as np

    sides = []
    for side in size:
        distance = np.arange(side) - (side - 1) / 2
        sides.append(np.exp(-(distance**2) / (2 * (DEVIATION * side) ** 2)))
    return np.maximum(np.outer(*sides), LEAST_WEIGHT).astype(np.float32)


def cover(
    images: np.ndarray,
    size: tuple[int, int],
    run: Callable[[np.ndarray], np.ndarray],
    *,
    overlap: float = OVERLAP,
    batch: int = 4,
) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of images of any size not below the network's.

    Images of exactly the network's size go through as they are. Larger ones are covered by windows
    whose logits are averaged by :func:`window_weight`.

    Args:
        images: float32 ``(n, channels, H, W)``.
        size: height and width that the network takes.
        run: the network, ``(m, channels, *size)`` to float32 ``(m, classes, *size)``.
        overlap: the share of a window's side that its neighbour covers too.
        batch: windows in a call of ``run``.
    """
    import numpy as np

    if tuple(images.shape[2:]) == tuple(size):
        return run(images)
    starts = [window_starts(*each, overlap) for each in zip(images.shape[2:], size, strict=True)]
    windows = [
        (slice(y, y + size[0]), slice(x, x + size[1])) for y, x in itertools.product(*starts)
    ]
    weight = window_weight(size)
    total = np.zeros(images.shape[2:], np.float32)
    for rows, columns in windows:
        total[rows, columns] += weight
    places = list(itertools.product(range(len(images)), windows))
    blended = None
    for begin in range(0, len(places), batch):
        taken = places[begin : begin + batch]
        logits = run(np.stack([images[i, :, rows, columns] for i, (rows, columns) in taken]))
        if blended is None:
            blended = np.zeros((len(images), logits.shape[1], *images.shape[2:]), np.float32)
        for (i, (rows, columns)), window in zip(taken, logits, strict=True):
            blended[i, :, rows, columns] += weight * window
    assert blended is not None  # there is a window
    return blended / total
