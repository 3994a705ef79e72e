"""The integer algebra's two functions as hardware holds them: small tables of integers.

``softplus`` has one entry for each of the 256 codes of dt. ``exp2_negative`` is 2 ** -v for
v >= 0: a straight line in each of S segments for the fraction of v, and a right shift by its
integer part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmaunet.errors import UserError
from lmaunet.scan.fixed import Codes, Fixed, nearest
from lmaunet.scan.real import softplus
from lmaunet.scan.widths import LARGEST_WIDTH
from lmaunet.spec import Format

DT = Format(8, 0)  # the code of dt, before its scale


def softplus_table(dt_scale: float, frac: int) -> Codes:
    """Return delta = softplus(code * dt_scale) for the codes -128 to 127, ``(256,)``.

    Rounded half up to ``frac`` fractional bits and not saturated: that is left to the cut.
    """
    unsaturated = Format(LARGEST_WIDTH, frac)
    return nearest(softplus(np.arange(DT.low, DT.high + 1) * dt_scale), unsaturated)


@dataclass(frozen=True)
class Exp2Table:
    """2 ** -f for f in [0, 1), as S = ``len(value)`` straight lines.

    The line of segment k goes from the point ``value[k]`` down to ``value[k] - slope[k]``. The
    points are 2 ** -(k / S) rounded half up to the format ``mantissa``, and a slope is the
    difference of two rounded points. So the lines meet, and the function never rises.

    Args:
        value: ``(S,)``, codes of ``mantissa``.
        slope: ``(S,)``, how far a segment falls, codes of ``mantissa``.
        mantissa: the format of the points.
    """

    value: Codes
    slope: Codes
    mantissa: Format

    @staticmethod
    def build(segments: int, mantissa: Format) -> Exp2Table:
        """Return the table; raises UserError where ``segments`` is not a power of two."""
        if segments < 1 or segments & (segments - 1):
            raise UserError(
                f"exp_segments={segments}; use a power of two, because the segment's number is "
                "the top bits of the fraction"
            )
        points = nearest(np.exp2(-np.arange(segments + 1) / segments), mantissa)
        return Exp2Table(points[:-1], points[:-1] - points[1:], mantissa)

    @property
    def segment_bits(self) -> int:
        """How many bits of the fraction choose the segment."""
        return len(self.value).bit_length() - 1

    def interpolate(self, exponent: Fixed) -> Fixed:
        """Return 2 ** -f of the exponent's fraction f, exactly as the lines have it."""
        low_bits = exponent.frac - self.segment_bits
        fraction = exponent.code & ((1 << exponent.frac) - 1)
        segment = fraction >> low_bits
        low = fraction & ((1 << low_bits) - 1)
        line = (self.value[segment] << low_bits) - self.slope[segment] * low
        return Fixed(line, self.mantissa.frac + low_bits)


def shift_right(mantissa: Fixed, exponent: Fixed, deepest: int) -> Fixed:
    """Return ``mantissa * 2 ** -i`` for the exponent's integer part i, exactly.

    A shift by more than ``deepest`` is taken as one by ``deepest``. Where the result is next cut to
    ``deepest - 2`` fractional bits, that changes nothing: a mantissa of at most 1 has become at
    most a quarter of the last bit, and rounds to zero.
    """
    shift = np.minimum(exponent.code >> exponent.frac, deepest)
    return Fixed(mantissa.code << (deepest - shift), mantissa.frac + deepest)
