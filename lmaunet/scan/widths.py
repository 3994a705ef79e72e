"""The range algebra: the recurrence over intervals of integers.

It runs the same recurrence as the other algebras on the smallest and the largest code that each
number can have. What comes out is the width of every intermediate, which hardware needs, and the
proof that the integer algebra never exceeds its 64 bits, whatever the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmaunet.errors import UserError
from lmaunet.scan.recurrence import CUTS, advance, decays, prepare, read_out
from lmaunet.spec import Format

# Of 64 bits: one for the half that a cut adds before it drops bits, and one to spare.
LARGEST_WIDTH = 62


@dataclass(frozen=True)
class Range:
    """All codes from ``low`` to ``high``, with ``frac`` fractional bits."""

    low: int
    high: int
    frac: int

    def __getitem__(self, index: Any) -> Range:
        return self

    @property
    def bits(self) -> int:
        """Bits of the two's complement number that holds the range; an unsigned one needs one less.

        A range without negative codes counts a sign bit of zero.
        """
        return 1 + max((-self.low - 1).bit_length() if self.low < 0 else 0, self.high.bit_length())

    @staticmethod
    def of(form: Format) -> Range:
        """Return all codes of a format."""
        return Range(form.low, form.high, form.frac)


@dataclass
class RangeAlgebra:
    """Numbers are :class:`Range`; see :class:`lmaunet.scan.recurrence.Algebra`.

    Args:
        states: N, the number of terms that ``sum_states`` adds.
        formats: the format of each cut.
        constants: the range of each constant.
        tables: the range of each table.
        shifts: the smallest and the largest shift of a channel's state.
        before_cut: filled with the range that each cut is given.
    """

    states: int
    formats: Mapping[str, Format]
    constants: Mapping[str, Range]
    tables: Mapping[str, Range]
    shifts: tuple[int, int]
    before_cut: dict[str, Range] = field(default_factory=dict)

    def mul(self, left: Range, right: Range) -> Range:
        """Return the range of the products."""
        corners = [p * q for p in (left.low, left.high) for q in (right.low, right.high)]
        return self._checked("product", Range(min(corners), max(corners), left.frac + right.frac))

    def add(self, left: Range, right: Range) -> Range:
        """Return the range of the sums, whose terms are first brought to equal fractional bits."""
        frac = max(left.frac, right.frac)
        shift, other = frac - left.frac, frac - right.frac
        low = (left.low << shift) + (right.low << other)
        return self._checked("sum", Range(low, (left.high << shift) + (right.high << other), frac))

    def sum_states(self, value: Range) -> Range:
        """Return the range of the sum of N terms."""
        total = Range(value.low * self.states, value.high * self.states, value.frac)
        return self._checked("sum over the states", total)

    def lift(self, value: Range) -> Range:
        """Return the range of the products with ``2**shift`` of any channel."""
        return self._checked("drive", _shifted(value, self.shifts, value.frac))

    def lower(self, value: Range) -> Range:
        """Return the range of the products with ``2**-shift`` of any channel.

        All get the fractional bits that the largest shift needs.
        """
        smallest, largest = self.shifts
        lowered = _shifted(value, (0, largest - smallest), value.frac + largest)
        return self._checked("sum over the states", lowered)

    def table(self, name: str, value: Range) -> Range:
        """Return the range of a table's entries."""
        return self.tables[name]

    def cut(self, name: str, value: Range) -> Range:
        """Return the range of a cut's format, and note the range that came in."""
        form = self.formats[name]
        up = max(0, form.frac - value.frac)
        self._checked(f"cut {name!r}", Range(value.low << up, value.high << up, value.frac + up))
        self.before_cut[name] = value
        return Range.of(form)

    def decays(self, dt: Range, delta: Range) -> Range:
        """Return the range of the decays of delta."""
        return decays(self, delta)

    def constant(self, name: str) -> Range:
        """Return the range of a constant."""
        return self.constants[name]

    def zero_state(self, shape: tuple[int, ...]) -> Range:
        """Return the range of any state, not only of the first."""
        return Range.of(self.formats["state"])

    def join(self, values: Sequence[Range]) -> Range:
        """Return the range that holds all values."""
        low, high = min(v.low for v in values), max(v.high for v in values)
        return Range(low, high, values[0].frac)

    def _checked(self, what: str, value: Range) -> Range:
        if value.bits > LARGEST_WIDTH:
            widths = ", ".join(
                f"{name} {f.bits} bits with {f.frac} fractional"
                for name, f in self.formats.items()
                if name in CUTS
            )
            raise UserError(
                f"the scan's {what} needs {value.bits} bits, more than the {LARGEST_WIDTH} that "
                f"the integer scan has; use narrower formats (now {widths})"
            )
        return value


def _shifted(value: Range, shifts: tuple[int, int], frac: int) -> Range:
    codes = [code << shift for code in (value.low, value.high) for shift in shifts]
    return Range(min(codes), max(codes), frac)


def scan_ranges(k: RangeAlgebra, x: Range, dt: Range, b: Range, c: Range) -> dict[str, Range]:
    """Return the range that each cut is given.

    Raises:
        UserError: where an intermediate does not fit ``LARGEST_WIDTH`` bits.
    """
    decay, inflow = prepare(k, x, dt, b)
    h = advance(k, k.zero_state(()), decay, inflow)
    read_out(k, h, c, x)
    return dict(k.before_cut)
