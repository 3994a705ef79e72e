"""The integer arithmetic of the operators of our own, defined once, numpy only.

Each operator's ``execute_node``, the batch executor and the tests call these functions; the
hardware must compute the same integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmaunet.errors import UserError

MULTIPLIER_BITS = 17  # magnitude; with its sign it fills the 18-bit port of a DSP48E2
SUM_BITS = 48  # the adder of a DSP48E2
MAX_SHIFT = 46
FLOAT32_EXACT = 1 << 24  # integers up to here are exact in float32
MAX_RATIO = float(1 << 15)


@dataclass(frozen=True)
class Rescaling:
    """Fixed-point form of ``y = x * ratio + bias``, one entry per channel, int64 ``(C,)``.

    The hardware computes ``(x * multiplier + offset) >> shift``; half a unit of the result is
    folded into ``offset``, so that the floor of the shift rounds half up.
    """

    multiplier: np.ndarray
    offset: np.ndarray
    shift: np.ndarray

    @property
    def is_shift(self) -> bool:
        """Whether every multiplier is a power of two, so that none is needed."""
        return bool((self.multiplier & (self.multiplier - 1) == 0).all())


def requantize(
    x: np.ndarray, rescaling: Rescaling, low: int, high: int, *, truncate: bool = False
) -> np.ndarray:
    """Return ``clip((x * multiplier + offset) >> shift, low, high)`` in int64.

    Args:
        x: accumulators ``(..., C)``, integers in any container.
        rescaling: multiplier, offset and shift per channel.
        low, high: the smallest and largest code of the result.
        truncate: leave out the half that is folded into ``offset``: the deliberate fault of the
            tests, never the hardware.
    """
    offset = rescaling.offset
    if truncate:
        offset = offset - (np.int64(1) << (rescaling.shift - 1))
    wide = np.asarray(x).astype(np.int64) * rescaling.multiplier + offset
    return np.clip(wide >> rescaling.shift, low, high)


def fixed_point(
    name: str, ratio: np.ndarray, bias: np.ndarray, largest_input: int, span: int
) -> Rescaling:
    """Return the fixed-point form of ``x * ratio + bias`` for ``|x| <= largest_input``.

    A multiplier has 17 bits, and fewer where the sum would not fit 48. Its rounding and the
    offset's move an unclipped result by at most ``(|x| + 1) * 2^-(shift + 1)``; by how much
    exactly says :func:`rescaling_error`. A ratio that is a power of two has no error.

    Args:
        name: the tensor, for messages.
        ratio: positive reals ``(C,)``.
        bias: reals ``(C,)`` in units of the result.
        largest_input: bound of the magnitude of the input.
        span: bound of the magnitude of a code of the result.

    Raises:
        UserError: where a ratio is not a positive number below 2^15.
    """
    ratio, bias = np.asarray(ratio, np.float64), np.asarray(bias, np.float64)
    if not (np.isfinite(ratio).all() and np.isfinite(bias).all() and (ratio > 0).all()):
        raise UserError(f"{name}: a scale is not a positive finite number; check the calibration")
    if (ratio >= MAX_RATIO).any():
        raise UserError(
            f"{name}: a rescaling ratio of {ratio.max():g}, expected less than {MAX_RATIO:g}; "
            "the output's scale is far too small: calibrate again"
        )
    # Beyond this bias the result is clipped whatever x is; the clamp bounds the sum's width.
    reach = largest_input * ratio + span + 1
    bias = np.clip(bias, -reach, reach)
    exponent = np.frexp(ratio)[1]
    room = (SUM_BITS - 2) - np.ceil(np.log2(2 * reach)).astype(np.int64)
    shift = np.minimum(np.minimum(MULTIPLIER_BITS - exponent, MAX_SHIFT), room).astype(np.int64)
    shift = np.maximum(shift, 1)
    multiplier = np.round(ratio * np.exp2(shift)).astype(np.int64)
    multiplier = np.minimum(multiplier, (1 << MULTIPLIER_BITS) - 1)
    return Rescaling(multiplier, _offset(bias, shift), shift)


def _offset(bias: np.ndarray, shift: np.ndarray) -> np.ndarray:
    half = np.int64(1) << (shift - 1)
    return np.floor(bias * np.exp2(shift) + 0.5).astype(np.int64) + half


def rescaling_error(
    x: np.ndarray, rescaling: Rescaling, ratio: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Return how far the fixed-point result can be from ``x * ratio + bias`` before rounding.

    That is the multiplier's error times ``|x|``, and the offset's error. It does not hold for a
    bias that was clamped, where the result is clipped in any case.
    """
    unit = np.exp2(-rescaling.shift.astype(np.float64))
    slope = np.abs(rescaling.multiplier * unit - ratio)
    half = np.int64(1) << (rescaling.shift - 1)
    return np.abs(x) * slope + np.abs((rescaling.offset - half) * unit - bias)


def look_up(x: np.ndarray, table: np.ndarray, low: int) -> np.ndarray:
    """Return ``table[x - low]`` for codes ``x`` whose smallest is ``low``, in int64."""
    return table.astype(np.int64)[np.asarray(x).astype(np.int64) - low]


def integer_bits(low: int, high: int) -> int:
    """Return the bits of the smallest two's complement integer that holds ``low..high``."""
    bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + 1
    return max(bits, 2)


def type_range(name: str) -> tuple[int, int]:
    """Return the smallest and largest value of an integer type such as ``INT8`` or ``UINT4``."""
    bits = int(name.removeprefix("U").removeprefix("INT"))
    if name.startswith("U"):
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def type_bits(name: str) -> int:
    """Return the width in bits of an integer type such as ``INT8``."""
    return int(name.removeprefix("U").removeprefix("INT"))


def legal_divisors(value: int) -> list[int]:
    """Return the divisors of ``value`` in ascending order."""
    small = [d for d in range(1, math.isqrt(value) + 1) if value % d == 0]
    return small + [value // d for d in reversed(small) if d * d != value]


def check_divides(what: str, parallel: int, of: str, total: int) -> None:
    """Raise :class:`UserError` where ``parallel`` does not divide ``total``."""
    if parallel < 1 or total % parallel:
        legal = [str(d) for d in legal_divisors(total)]
        choice = legal[0] if len(legal) == 1 else f"{', '.join(legal[:-1])} or {legal[-1]}"
        raise UserError(f"{what}={parallel} does not divide {of}={total}; use {choice}")


def exact_dtype(weights: np.ndarray, codes: np.ndarray) -> type[np.floating[Any]]:
    """Return the narrowest float in which every partial sum of codes is an exact integer.

    Args:
        weights: integers ``(terms, ...)``, summed over the first axis.
        codes: what they are multiplied with.

    Raises:
        UserError: where a sum may not be exact in float64.
    """
    largest = int(max(-int(codes.min()), int(codes.max()), 1))
    bound = float(np.abs(weights).astype(np.float64).sum(0).max()) * largest
    if bound >= 1 << 53:
        raise UserError(f"accumulators of up to {bound:g} are not exact in float64")
    return np.float32 if bound < FLOAT32_EXACT else np.float64
