"""Fixed-point numbers, and the one way in which this project rounds them: half up.

``floor(v + 1/2)``: a tie goes towards plus infinity, for negative numbers too, so -2.5 becomes -2.
In hardware that is one addition of half a unit before the low bits are dropped. It is neither
``numpy.round`` (half to even) nor C's ``round`` (half away from zero).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmaunet.spec import Format

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fixed:
    """The number ``code / 2 ** frac``: an int64 array and its number of fractional bits.

    The number of bits is no part of it: :mod:`lmaunet.scan.widths` shows that 64 always suffice.
    """

    code: Codes
    frac: int

    def __getitem__(self, index: Any) -> Fixed:
        return Fixed(self.code[index], self.frac)

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.code.shape

    def to_real(self) -> npt.NDArray[np.float64]:
        """Return the number as float64."""
        return np.ldexp(self.code.astype(np.float64), -self.frac)


def round_half_up(code: Codes, bits: int) -> Codes:
    """Return ``code / 2 ** bits`` rounded half up; a negative ``bits`` shifts left, exactly."""
    if bits <= 0:
        return code << -bits
    bits = min(bits, 62)  # codes have at most 62 bits (see widths): dropping more is dropping all
    return (code + (1 << (bits - 1))) >> bits


def cut(value: Fixed, to: Format) -> tuple[Fixed, npt.NDArray[np.bool_] | None]:
    """Return a number rounded half up and saturated to a format, and where it saturated.

    The latter is None where no element did.
    """
    code = round_half_up(value.code, value.frac - to.frac)
    if code.size and (code.min() < to.low or code.max() > to.high):
        saturated = (code < to.low) | (code > to.high)
        return Fixed(np.clip(code, to.low, to.high), to.frac), saturated
    return Fixed(code, to.frac), None


def nearest(value: npt.ArrayLike, to: Format) -> Codes:
    """Return the codes of real numbers in a format: rounded half up, then saturated."""
    scaled = np.floor(np.ldexp(np.asarray(value, np.float64), to.frac) + 0.5)
    return np.clip(scaled, to.low, to.high).astype(np.int64)
