"""A selective scan in integers: what the hardware computes, bit for bit.

Everything that a hardware generator needs can be read from an :class:`IntegerScan`: the formats of
the cuts (``spec.formats``), the constants and tables as integer codes, and the range of every
intermediate (``ranges``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmaunet.errors import UserError
from lmaunet.scan.fixed import Codes, Fixed, nearest
from lmaunet.scan.formats import (
    DEFAULT_WIDTHS,
    FULL_SCALE,
    INPUT,
    LARGEST_SHIFT,
    ScanScales,
    Widths,
    observe_scan,
    spec_for,
)
from lmaunet.scan.integer_algebra import IntegerAlgebra, deepest_shift
from lmaunet.scan.real import LOG2_E, Real, check_rates, check_shapes, trace
from lmaunet.scan.recurrence import CONSTANTS, CUTS, ScanTrace, run
from lmaunet.scan.tables import DT, Exp2Table, softplus_table
from lmaunet.scan.widths import LARGEST_WIDTH, Range, RangeAlgebra, scan_ranges
from lmaunet.spec import Format, ScanSpec


@dataclass(frozen=True)
class IntegerScanResult:
    """What an integer scan computed.

    Args:
        y: codes of the output, ``(batch, L, channels)``, int64.
        accumulators: the wide accumulators before any rounding, as ``y``. Compare these too:
            a rounding that is missing in an implementation may change hardly any y.
        accumulator_frac: the accumulators' fractional bits.
        state: the last state times 2**shift of its channel, ``(batch, channels, states)``, in
            ``spec.formats["state"]``.
        saturations: how many numbers each cut saturated. Those of ``exponent`` do no harm: the
            decay is zero either way.
    """

    y: Codes
    accumulators: Codes
    accumulator_frac: int
    state: Codes
    saturations: dict[str, int]


@dataclass(frozen=True)
class IntegerScan:
    """A selective scan with its formats, tables and constants; see :meth:`from_real`.

    Args:
        spec: sizes, formats and the segments of 2 ** -f.
        scales: the scales of the INT8 tensors.
        A, D: the real parameters, ``(channels, states)`` and ``(channels,)``.
        rate: codes of ``-A * log2(e)``, ``(channels, states)``.
        skip: codes of D in the accumulator's units, ``(channels,)``.
        gain: code of the factor from the accumulator to y, ``()``.
        shift: of each channel's state, ``(channels,)``; zeros where the spec has none.
        exp2: the lines of 2 ** -f.
        ranges: the range of codes that each cut is given.
    """

    spec: ScanSpec
    scales: ScanScales
    A: Real
    D: Real
    rate: Codes
    skip: Codes
    gain: Codes
    shift: Codes
    exp2: Exp2Table
    ranges: Mapping[str, Range]

    @staticmethod
    def from_real(
        spec: ScanSpec, scales: ScanScales, A: npt.ArrayLike, D: npt.ArrayLike
    ) -> IntegerScan:
        """Return the integer scan of real parameters.

        Args:
            spec: sizes and formats; :func:`lmaunet.scan.formats.spec_for` chooses formats.
            scales: the scales of the INT8 tensors.
            A: negative rates, ``(channels, states)``.
            D: the skip, ``(channels,)``.

        Raises:
            UserError: where a format is missing, a constant does not fit its format, sizes do not
                fit, or an intermediate could exceed 62 bits.
        """
        A, D = check_rates(A), np.asarray(D, np.float64)
        _check_parameters(spec, A, D)
        formats = spec.formats
        real = {"rate": -A * LOG2_E, "skip": scales.skip(D), "gain": np.float64(scales.gain)}
        codes = {name: _constant(name, value, formats[name]) for name, value in real.items()}
        exp2 = Exp2Table.build(spec.exp_segments, formats["mantissa"])
        delta = softplus_table(scales.dt, formats["delta"].frac)
        shift = np.array(spec.state_shift or [0] * spec.channels, np.int64)
        ranges = _ranges(spec, codes, delta, exp2, shift)
        return IntegerScan(spec, scales, A, D, **codes, shift=shift, exp2=exp2, ranges=ranges)

    @property
    def softplus(self) -> Codes:
        """Codes of delta for dt = -128 to 127, ``(256,)``, saturated as hardware holds them."""
        delta = self.spec.formats["delta"]
        return np.clip(softplus_table(self.scales.dt, delta.frac), delta.low, delta.high)

    def algebra(self) -> IntegerAlgebra:
        """Return the algebra of this scan, with no saturation counted yet."""
        formats = self.spec.formats
        constants = {name: Fixed(getattr(self, name), formats[name].frac) for name in CONSTANTS}
        delta = softplus_table(self.scales.dt, formats["delta"].frac)
        return IntegerAlgebra(formats, constants, delta, self.exp2, self.shift)

    def run(
        self, x: npt.ArrayLike, dt: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike
    ) -> IntegerScanResult:
        """Run the scan in integers; :mod:`lmaunet.scan.compiled` does the same faster.

        Args:
            x, dt: codes from -128 to 127, ``(batch, L, channels)``.
            b, c: codes from -128 to 127, ``(batch, L, states)``.

        Raises:
            UserError: for codes that are no integers or out of range, and for other shapes.
        """
        x, dt, b, c = self.codes(x, dt, b, c)
        algebra = self.algebra()
        inputs = [Fixed(v.swapaxes(0, 1), INPUT.frac) for v in (x, b, c)]
        result = run(algebra, inputs[0], Fixed(dt.swapaxes(0, 1), DT.frac), *inputs[1:])
        return IntegerScanResult(
            y=result.output.code.swapaxes(0, 1),
            accumulators=result.accumulator.code.swapaxes(0, 1),
            accumulator_frac=result.accumulator.frac,
            state=result.state.code,
            saturations={name: algebra.saturations[name] for name in CUTS},
        )

    def run_real(
        self,
        x: npt.ArrayLike,
        dt: npt.ArrayLike,
        b: npt.ArrayLike,
        c: npt.ArrayLike,
        observe: Callable[[Real], None] | None = None,
    ) -> ScanTrace[Real]:
        """Run the same scan of the same codes in float64, with no constant rounded.

        The trace is in the units of :meth:`run`: its accumulator is what
        ``accumulators / 2**accumulator_frac`` approaches, its output what ``y`` does. As every
        trace, it has the tokens first: ``(L, batch, channels)``. ``observe`` gets the states of
        each block of tokens.
        """
        x, dt, b, c = self.codes(x, dt, b, c)
        return trace(
            x / FULL_SCALE,
            dt * self.scales.dt,
            self.A,
            b / FULL_SCALE,
            c / FULL_SCALE,
            self.scales.skip(self.D),
            gain=self.scales.gain,
            observe=observe,
        )

    def codes(self, *arrays: npt.ArrayLike) -> list[Codes]:
        """Return x, dt, b and c as int64; raises UserError as :meth:`run` does."""
        inputs = [np.asarray(v) for v in arrays]
        for name, array in zip(("x", "dt", "b", "c"), inputs, strict=True):
            if array.dtype.kind not in "iu":
                raise UserError(f"scan input {name} is {array.dtype}; give integer codes")
            if array.size and (array.min() < DT.low or array.max() > DT.high):
                raise UserError(
                    f"scan input {name} has codes from {array.min()} to {array.max()}; "
                    f"give codes from {DT.low} to {DT.high}"
                )
        check_shapes(inputs, self.A, self.D)
        return [v.astype(np.int64) for v in inputs]


def calibrate(
    scales: ScanScales,
    A: npt.ArrayLike,
    D: npt.ArrayLike,
    x: npt.ArrayLike,
    dt: npt.ArrayLike,
    b: npt.ArrayLike,
    widths: Widths = DEFAULT_WIDTHS,
) -> IntegerScan:
    """Return an integer scan whose formats suit calibration data.

    Args:
        scales, A, D: as for :meth:`IntegerScan.from_real`.
        x, dt, b: codes of the calibration data, ``(batch, L, ...)``.
        widths: other than the default ones.
    """
    statistics = observe_scan(scales, A, x, dt, b)
    spec = spec_for(scales, A, D, statistics, widths)
    return IntegerScan.from_real(spec, scales, A, D)


def to_codes(value: npt.ArrayLike, scale: float) -> Codes:
    """Return the INT8 codes of real numbers as ONNX QuantizeLinear and Brevitas have them.

    Rounds half to even, unlike the cuts of the scan, and saturates to -128 and 127.
    """
    codes = np.rint(np.asarray(value, np.float64) / scale)
    return np.clip(codes, DT.low, DT.high).astype(np.int64)


def _check_parameters(spec: ScanSpec, A: Real, D: Real) -> None:
    missing = [name for name in (*CUTS, *CONSTANTS) if name not in spec.formats]
    if missing:
        raise UserError(
            f"the scan's spec has no format for {', '.join(missing)}; "
            "lmaunet.scan.formats.spec_for gives all of them"
        )
    if A.shape != (spec.channels, spec.states) or D.shape != (spec.channels,):
        raise UserError(
            f"A is {A.shape} and D is {D.shape}, expected {(spec.channels, spec.states)} and "
            f"{(spec.channels,)} from the scan's spec"
        )
    shifts = spec.state_shift
    if len(shifts) not in (0, spec.channels) or not all(0 <= s <= LARGEST_SHIFT for s in shifts):
        raise UserError(
            f"state_shift={list(shifts)}; give one shift from 0 to {LARGEST_SHIFT} for each of "
            f"{spec.channels} channels, or none"
        )
    if not np.isfinite(D).all():
        raise UserError("D has values that are not finite; give the trained skip of each channel")
    smallest = (spec.exp_segments - 1).bit_length()
    if spec.formats["exponent"].frac < smallest:
        raise UserError(
            f"the exponent has {spec.formats['exponent'].frac} fractional bits, but "
            f"{spec.exp_segments} segments need at least {smallest}"
        )


def _constant(name: str, value: npt.ArrayLike, form: Format) -> Codes:
    code = nearest(value, form)
    error = np.abs(np.ldexp(code.astype(np.float64), -form.frac) - value).max()
    if error > np.ldexp(1.0, -form.frac):
        raise UserError(
            f"the scan's {name} goes from {np.min(value):g} to {np.max(value):g}, which "
            f"{form.bits} {'signed' if form.signed else 'unsigned'} bits with {form.frac} "
            "fractional do not hold; use fewer fractional bits"
        )
    return code


def _ranges(
    spec: ScanSpec, codes: Mapping[str, Codes], delta: Codes, exp2: Exp2Table, shift: Codes
) -> dict[str, Range]:
    """Return the range of every cut's input; raises UserError."""
    formats = spec.formats
    constants = {
        name: Range(int(code.min()), int(code.max()), formats[name].frac)
        for name, code in codes.items()
    }
    low_bits, deepest = formats["exponent"].frac - exp2.segment_bits, deepest_shift(formats)
    highest, frac = int(exp2.value[0]), formats["mantissa"].frac
    line = Range(0, highest << low_bits, frac + low_bits)
    shifted = Range(0, highest << deepest, frac + deepest)
    if max(line.bits, shifted.bits) > LARGEST_WIDTH:
        raise UserError(
            f"2 ** -v needs {max(line.bits, shifted.bits)} bits, more than the {LARGEST_WIDTH} "
            "that the integer scan has; use fewer fractional bits for exponent, mantissa or decay"
        )
    tables = {
        "softplus": Range(int(delta[0]), int(delta[-1]), formats["delta"].frac),
        "exp2_negative": shifted,
    }
    k = RangeAlgebra(spec.states, formats, constants, tables, (int(shift.min()), int(shift.max())))
    code = Range.of(INPUT)
    return {**scan_ranges(k, code, Range.of(DT), code, code), "mantissa": line}
