"""Slices that are larger than the network's input, covered by overlapping windows.

What is computed is what MONAI's ``sliding_window_inference`` computes with Gaussian weights; the
tests hold it to that. It is written here because MONAI and torch take seconds and 0.6 GB to load,
and a build runs without either.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
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


def window_weight(size: Sequence[int]) -> np.ndarray:
    """Return the weight of a window's pixels, float32 ``size``: a Gaussian, largest inside."""
    import numpy as np

    sides = []
    for side in size:
        distance = np.arange(side) - (side - 1) / 2
        sides.append(np.exp(-(distance**2) / (2 * (DEVIATION * side) ** 2)))
    product = functools.reduce(np.multiply.outer, sides)
    return np.maximum(product, LEAST_WEIGHT).astype(np.float32)


def cover(
    images: np.ndarray,
    size: Sequence[int],
    run: Callable[[np.ndarray], np.ndarray],
    *,
    overlap: float = OVERLAP,
    batch: int = 4,
) -> np.ndarray:
    """Return the logits ``(n, classes, *spatial)`` of images of any size not below the network's.

    Images of exactly the network's size go through as they are. Larger ones are covered by windows
    whose logits are averaged by :func:`window_weight`.

    Args:
        images: float32 ``(n, channels, H, W)`` or ``(n, channels, D, H, W)``.
        size: what of these the network takes.
        run: the network, ``(m, channels, *size)`` to float32 ``(m, classes, *size)``.
        overlap: the share of a window's side that its neighbour covers too.
        batch: windows in a call of ``run``.
    """
    import numpy as np

    if tuple(images.shape[2:]) == tuple(size):
        return run(images)
    starts = [window_starts(*each, overlap) for each in zip(images.shape[2:], size, strict=True)]
    windows = [
        tuple(slice(start, start + side) for start, side in zip(corner, size, strict=True))
        for corner in itertools.product(*starts)
    ]
    weight = window_weight(size)
    total = np.zeros(images.shape[2:], np.float32)
    for window in windows:
        total[window] += weight
    places = list(itertools.product(range(len(images)), windows))
    blended = None
    for begin in range(0, len(places), batch):
        taken = places[begin : begin + batch]
        found = run(np.stack([images[i, :, *window] for i, window in taken]))
        if blended is None:
            blended = np.zeros((len(images), found.shape[1], *images.shape[2:]), np.float32)
        for (i, window), logits in zip(taken, found, strict=True):
            blended[i, :, *window] += weight * logits
    assert blended is not None  # there is a window
    return blended / total


def cover_volume(
    slices: np.ndarray,
    size: Sequence[int],
    run: Callable[[np.ndarray], np.ndarray],
    *,
    overlap: float = OVERLAP,
    batch: int = 4,
) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of a volume's slices by a network of volumes.

    Windows of three axes cover the volume as :func:`cover` says. Where it has fewer slices than the
    network takes, the last one is repeated, as in training.

    Args:
        slices: float32 ``(n, channels, H, W)``, all slices of the volume in order.
        size: depth, height and width that the network takes.
        run: the network, ``(m, channels, *size)`` to float32 ``(m, classes, *size)``.
        overlap: the share of a window's side that its neighbour covers too.
        batch: windows in a call of ``run``.
    """
    import numpy as np

    missing = max(0, size[0] - len(slices))
    deep = np.concatenate([slices, *[slices[-1:]] * missing]) if missing else slices
    volume = np.ascontiguousarray(deep.swapaxes(0, 1))[None]
    logits = cover(volume, size, run, overlap=overlap, batch=batch)
    return logits[0, :, : len(slices)].swapaxes(0, 1)
