"""nnU-Net's resampling of images, by numpy alone.

nnU-Net calls skimage's ``resize(order, mode="edge", anti_aliasing=False)``, which is an
interpolation by splines (M. Unser, Splines: a perfect fit for signal and image processing, 1999)
with the centres of the outermost pixels kept half a pixel inside. It goes axis by axis: one
recursion each way gives the coefficients of the cubic spline through the pixels, four of them a new
pixel. scikit-image and scipy are not in the base installation; the tests hold this to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ORDERS = (0, 1, 3)
"""Of splines: the nearest pixel, lines, cubic."""
ANISOTROPY = 3.0
"""The ratio of an image's largest to its least spacing beyond which the axis of the largest is
resampled apart."""
_EDGE = 12
"""Pixels that repeat an edge before coefficients are computed, as scipy has it."""
_POLE = 3**0.5 - 2.0


def resized_shape(
    shape: Sequence[int], spacing: Sequence[float], wanted: Sequence[float]
) -> tuple[int, ...]:
    """Return the sides of an image at another spacing, in pixels, halves to the even side.

    Args:
        shape: the sides now, one for each axis.
        spacing: what a pixel measures now, in mm.
        wanted: what it shall measure, in mm.
    """
    return tuple(round(a / b * n) for n, a, b in zip(shape, spacing, wanted, strict=True))


def separate_axis(
    spacing: Sequence[float], wanted: Sequence[float], force: bool | None = None
) -> int | None:
    """Return the axis that is resampled apart from the others, by its own order; None for no such.

    Args:
        spacing, wanted: in mm, one for each of three axes: of the image, and of the result.
        force: the plan's ``force_separate_z``: always, never, or, with None, where the image's
            spacings, or else the wanted ones, differ by more than a factor of 3.

    Where two axes share the largest spacing there is no such axis.
    """
    if force is False:
        return None
    chosen = None
    if force or max(spacing) / min(spacing) > ANISOTROPY:
        chosen = spacing
    elif max(wanted) / min(wanted) > ANISOTROPY:
        chosen = wanted
    if chosen is None:
        return None
    coarse = [axis for axis, mm in enumerate(chosen) if mm == max(chosen)]
    return coarse[0] if len(coarse) == 1 else None


def resize(
    image: np.ndarray,
    shape: Sequence[int],
    order: int,
    ranges: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return an image of another shape, float64, as skimage's ``resize`` makes it.

    Args:
        image: of any number of axes.
        shape: the new sides.
        order: 0, 1 or 3.
        ranges: the least and the largest value that a cubic spline, which overshoots, is clipped
            to; the image's own if not given.
    """
    import numpy as np

    found = np.asarray(image, np.float64)
    if found.shape == tuple(shape):
        return found
    for axis, side in enumerate(shape):
        if found.shape[axis] != side:
            found = resize_axis(found, axis, side, order)
    if order < 3:
        return found
    low, high = (image.min(), image.max()) if ranges is None else ranges
    return np.clip(found, low, high)


def resize_axis(image: np.ndarray, axis: int, side: int, order: int) -> np.ndarray:
    """Return an image with one axis of another length, not clipped; see :func:`resize`."""
    import numpy as np

    rows = np.moveaxis(image, axis, 0)
    have = len(rows)
    place = (np.arange(side) + 0.5) * (have / side) - 0.5
    if order == 0:
        nearest = np.clip(np.floor(place + 0.5).astype(int), 0, have - 1)
        return np.moveaxis(rows[nearest], 0, axis)
    if order == 1:
        place = np.clip(place, 0, have - 1)
        taps: tuple[np.ndarray, ...] = (1 - (place - np.floor(place)), place - np.floor(place))
        first, known = np.floor(place).astype(int), np.concatenate([rows, rows[-1:]])
    else:
        known = _coefficients(np.concatenate([rows[:1]] * _EDGE + [rows] + [rows[-1:]] * _EDGE))
        place = place + _EDGE
        first = np.floor(place).astype(int) - 1
        taps = _cubic(place - np.floor(place))
    found = np.zeros((side, *rows.shape[1:]))
    for tap, weights in enumerate(taps):
        found += weights.reshape(-1, *[1] * (rows.ndim - 1)) * known[first + tap]
    return np.moveaxis(found, 0, axis)


def _cubic(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the values of the four cubic B-splines around a point that lies ``t`` past a pixel."""
    return (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4) / 6,
        t**3 / 6,
    )


def _coefficients(rows: np.ndarray) -> np.ndarray:
    """Return the coefficients of the cubic spline through rows, which are mirrored at both ends.

    They solve ``c[i - 1] + 4 c[i] + c[i + 1] = 6 rows[i]``: a recursion forwards and one backwards
    with the pole ``sqrt(3) - 2``.
    """
    import numpy as np

    n = len(rows)
    powers = _POLE ** np.arange(n)
    found = 6.0 * rows
    # the sum over the endless mirrored row, which has the period 2 n - 2
    weight = powers.copy()
    weight[1:-1] += _POLE ** (2 * n - 2 - np.arange(1, n - 1))
    found[0] = np.tensordot(weight, found, (0, 0)) / (1 - _POLE ** (2 * n - 2))
    for i in range(1, n):
        found[i] += _POLE * found[i - 1]
    found[-1] = _POLE / (_POLE**2 - 1) * (found[-1] + _POLE * found[-2])
    for i in range(n - 2, -1, -1):
        found[i] = _POLE * (found[i + 1] - found[i])
    return found
