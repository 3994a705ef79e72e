"""The integer algebra: fixed-point numbers whose cuts round half up and saturate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmaunet.scan.fixed import Codes, Fixed, cut
from lmaunet.scan.recurrence import decays
from lmaunet.scan.tables import DT, Exp2Table, shift_right
from lmaunet.spec import Format


@dataclass(frozen=True)
class DecayTable:
    """The decays of each code of dt and channel, ``(256 * channels, states)``.

    ``saturated`` counts for each cut and row the numbers that saturated.
    """

    decay: Fixed
    saturated: dict[str, Codes]


@dataclass
class IntegerAlgebra:
    """Numbers are :class:`Fixed`; see :class:`lmaunet.scan.recurrence.Algebra`.

    Args:
        formats: the format of each cut.
        constants: the constants.
        softplus: delta for each code of dt, ``(256,)``, with the fractional bits of ``delta``.
        exp2: the table of 2 ** -f.
        shift: of each channel's state, ``(channels,)``.
        saturations: counts the numbers that each cut saturated.
    """

    formats: Mapping[str, Format]
    constants: Mapping[str, Fixed]
    softplus: Codes
    exp2: Exp2Table
    shift: Codes
    saturations: Counter[str] = field(default_factory=Counter)
    _decays: DecayTable | None = None
    _saturated: dict[str, Codes] | None = None

    def mul(self, left: Fixed, right: Fixed) -> Fixed:
        """Return the product, with the sum of the fractional bits."""
        return Fixed(left.code * right.code, left.frac + right.frac)

    def add(self, left: Fixed, right: Fixed) -> Fixed:
        """Return the sum, with the larger number of fractional bits."""
        frac = max(left.frac, right.frac)
        return Fixed((left.code << (frac - left.frac)) + (right.code << (frac - right.frac)), frac)

    def sum_states(self, value: Fixed) -> Fixed:
        """Return the sum over the last axis."""
        return Fixed(value.code.sum(-1), value.frac)

    def lift(self, value: Fixed) -> Fixed:
        """Return the product with 2**shift of each channel."""
        return Fixed(value.code << self.shift, value.frac)

    def lower(self, value: Fixed) -> Fixed:
        """Return the product with 2**-shift of each channel.

        All get the fractional bits that the largest shift needs.
        """
        largest = int(self.shift.max())
        return Fixed(value.code << (largest - self.shift), value.frac + largest)

    def table(self, name: str, value: Fixed) -> Fixed:
        """Return softplus, already rounded, or 2 ** -v, whose mantissa is cut before the shift."""
        if name == "softplus":
            return Fixed(self.softplus[value.code - DT.low], self.formats["delta"].frac)
        mantissa = self.cut("mantissa", self.exp2.interpolate(value))
        return shift_right(mantissa, value, deepest_shift(self.formats))

    def cut(self, name: str, value: Fixed) -> Fixed:
        """Return the value in a format: rounded half up, then saturated."""
        result, saturated = cut(value, self.formats[name])
        if saturated is not None and self._saturated is not None:
            self._saturated[name] = saturated.sum(-1)
        elif saturated is not None:
            self.saturations[name] += int(np.count_nonzero(saturated))
        return result

    def decays(self, dt: Fixed, delta: Fixed) -> Fixed:
        """Return the decays of all channels and states, looked up by the code of dt.

        They depend on nothing else, so that all 256 are computed once, which takes a fraction of
        the time. A saturation counts as often as its entry is used.
        """
        if self._decays is None:
            self._decays = self.decay_table()
        table, channels = self._decays, dt.shape[-1]
        rows = (dt.code - DT.low) * channels + np.arange(channels)
        for name, counts in table.saturated.items():
            self.saturations[name] += int(counts.take(rows).sum())
        return Fixed(table.decay.code.take(rows, axis=0), table.decay.frac)

    def decay_table(self) -> DecayTable:
        """Return the decays of all codes of dt."""
        form = self.formats["delta"]
        delta, _ = cut(Fixed(self.softplus[:, None], form.frac), form)
        self._saturated = {}
        decay = decays(self, delta)
        saturated, self._saturated = self._saturated, None
        return DecayTable(
            Fixed(decay.code.reshape(-1, decay.shape[-1]), decay.frac),
            {name: counts.reshape(-1) for name, counts in saturated.items()},
        )

    def constant(self, name: str) -> Fixed:
        """Return a constant."""
        return self.constants[name]

    def zero_state(self, shape: tuple[int, ...]) -> Fixed:
        """Return zeros in the format of the state."""
        return Fixed(np.zeros(shape, np.int64), self.formats["state"].frac)

    def join(self, values: Sequence[Fixed]) -> Fixed:
        """Return the concatenation along the first axis."""
        return Fixed(np.concatenate([v.code for v in values]), values[0].frac)


def deepest_shift(formats: Mapping[str, Format]) -> int:
    """Return the shift from which on a mantissa of at most 1 is cut to a decay of zero."""
    return formats["decay"].frac + 2
