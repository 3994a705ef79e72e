"""The formats of an integer scan's cuts and constants, from the scales and from calibration.

Every format is as wide as asked and has as many fractional bits as its largest magnitude leaves.
On data like those of calibration, nothing but the output saturates, the accumulator where the
output does, and the exponent where it does no harm.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

from lmaunet.errors import UserError
from lmaunet.scan.fixed import nearest, round_half_up
from lmaunet.scan.real import LOG2_E, Real, check_rates, softplus, trace
from lmaunet.scan.tables import DT
from lmaunet.spec import Format, ScanSpec

INPUT = Format(8, 7)  # x, B and C: a code read as code / 128
FULL_SCALE = 1 << INPUT.frac

# Whatever is smaller than 2 ** -FINEST beside inputs of up to 1 no longer moves an 8-bit output.
# The limit keeps a scan that calibration saw almost silent within 62 bits.
FINEST = 30

# A shift is at most this, so that hardware holds it in four bits.
LARGEST_SHIFT = 15

OUTPUT = Format(8, 0)
_BEYOND_OUTPUT = 129.0  # more than the 128.5 from which on every code of y saturates


@dataclass(frozen=True)
class ScanScales:
    """The scales of the scan's INT8 tensors: the real value is ``code * scale``."""

    x: float
    dt: float
    b: float
    c: float
    y: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"scan scale {name}={value}; give a positive finite number")

    @property
    def accumulator(self) -> float:
        """What one unit of the accumulator is worth in y: ``128**3 * x * b * c``."""
        return FULL_SCALE**3 * self.x * self.b * self.c

    @property
    def gain(self) -> float:
        """From the accumulator to codes of y."""
        return self.accumulator / self.y

    def skip(self, D: npt.ArrayLike) -> Real:
        """Return D in the accumulator's units: ``D / (128**2 * b * c)``."""
        return np.asarray(D, np.float64) / (FULL_SCALE**2 * self.b * self.c)

    def to_json(self) -> list[float]:
        """Return x, dt, b, c and y."""
        return list(astuple(self))


@dataclass(frozen=True)
class Widths:
    """How wide a scan computes: bits in all of each cut and constant, or fractional bits.

    Args:
        delta_bits, rate_bits, drive_bits, state_bits, skip_bits, gain_bits: widths in all.
        exponent_frac: fractional bits of delta * rate.
        decay_frac: fractional bits of the mantissa and the decay, which hold 1 exactly.
        accumulator_bits: of what gain multiplies. Saturates only where the output does; 18 bits
            leave 2**-9 of an output code, and fit one port of a DSP slice.
        exp_segments: lines of 2 ** -f; a power of two.
        per_channel: whether each channel's state has a power of two of its own.
    """

    delta_bits: int = 16
    rate_bits: int = 12
    exponent_frac: int = 16
    decay_frac: int = 15
    drive_bits: int = 18
    state_bits: int = 18
    skip_bits: int = 16
    accumulator_bits: int = 18
    gain_bits: int = 16
    exp_segments: int = 32
    per_channel: bool = True


DEFAULT_WIDTHS = Widths()


@dataclass(frozen=True)
class ScanStatistics:
    """What calibration saw of one scan, for x and B read as code / 128.

    Args:
        state: the largest ``|h|`` of each channel.
        drive: the largest ``|delta * x|`` of each channel.
        dt: the largest code of dt.
    """

    state: tuple[float, ...]
    drive: tuple[float, ...]
    dt: int

    def __post_init__(self) -> None:
        for name in ("state", "drive"):
            values = getattr(self, name)
            if not values or not all(math.isfinite(v) and v >= 0 for v in values):
                raise UserError(
                    f"scan statistics with {name}={list(values)[:4]}; give the largest magnitude "
                    "of each channel in the calibration data"
                )


def observe_scan(
    scales: ScanScales, A: npt.ArrayLike, x: npt.ArrayLike, dt: npt.ArrayLike, b: npt.ArrayLike
) -> ScanStatistics:
    """Return the statistics of a scan on a calibration set.

    Args:
        scales: the scales of the codes.
        A: ``(channels, states)``, negative.
        x, dt: codes, ``(batch, L, channels)``.
        b: codes, ``(batch, L, states)``.
    """
    x, dt, b = (np.asarray(v) for v in (x, dt, b))
    largest = np.zeros(x.shape[-1])

    def note(states: Real) -> None:
        np.maximum(largest, np.abs(states).max((0, 1, 3)), out=largest)

    value, step, inflow = x / FULL_SCALE, dt * scales.dt, b / FULL_SCALE
    trace(value, step, A, inflow, inflow, np.zeros(x.shape[-1]), observe=note)
    drive = np.abs(softplus(step) * value).max((0, 1))
    return ScanStatistics(tuple(largest.tolist()), tuple(drive.tolist()), int(dt.max()))


def fit(maximum: float, bits: int, *, signed: bool) -> Format:
    """Return the format of ``bits`` with the most fractional bits that holds up to ``maximum``.

    A maximum of zero gets the format that 1 would have, and no format more than ``FINEST``
    fractional bits.
    """
    frac = bits - signed - math.frexp(maximum or 1.0)[1]
    widest = Format(bits, frac, signed)
    # Just below a power of two, the maximum can round up to it.
    overflows = math.floor(math.ldexp(maximum, frac) + 0.5) > widest.high
    return Format(bits, min(frac - overflows, FINEST), signed)


def spec_for(
    scales: ScanScales,
    A: npt.ArrayLike,
    D: npt.ArrayLike,
    statistics: ScanStatistics,
    widths: Widths = DEFAULT_WIDTHS,
) -> ScanSpec:
    """Choose the format of every cut and constant of a scan, and the shift of each channel's state.

    One bit is left above the largest state, drive and delta of the calibration, because other data
    exceed them (the state by 10% on the validation patients of a first network, where even a
    saturation in 200,000 cost 20 dB). In a trained network dt is mostly negative, so that its
    largest code is far below 127, and delta gains several fractional bits from knowing it.

    Args:
        scales: the scales of the INT8 tensors.
        A, D: the scan's parameters, ``(channels, states)`` and ``(channels,)``.
        statistics: of :func:`observe_scan`.
        widths: of the cuts and constants.

    Raises:
        UserError: where the statistics are of another number of channels.
    """
    rates = check_rates(A)
    if len(statistics.state) != len(rates) or len(statistics.drive) != len(rates):
        raise UserError(
            f"scan statistics of {len(statistics.state)} channels, A of {len(rates)}; "
            "observe the scan whose formats are chosen"
        )
    skip_max = float(np.abs(scales.skip(D)).max())
    skip = fit(skip_max, widths.skip_bits, signed=True)
    # The accumulator's unit is the finer of the two. A state far below skip * x is not worth more
    # bits than this, and a skip far below the state is worth no more than the state's.
    finest = skip.frac + skip.bits if skip_max else FINEST
    state, shift = _fit_channels(statistics.state, widths, finest)
    skip = Format(skip.bits, min(skip.frac, state.frac + max(shift)))
    drive_max = max(math.ldexp(v, s) for v, s in zip(statistics.drive, shift, strict=True))

    delta_max = min(2 * float(softplus(statistics.dt * scales.dt)),
                    float(softplus(DT.high * scales.dt)))  # fmt: skip
    delta = fit(delta_max, widths.delta_bits, signed=False)
    rate_max = float(-rates.min()) * float(LOG2_E)
    rate = fit(rate_max, widths.rate_bits, signed=False)
    decay = Format(widths.decay_frac + 1, widths.decay_frac, signed=False)
    formats = {
        "delta": delta,
        "exponent": _exponent(int(nearest(delta_max, delta)), delta, rate_max, rate, widths),
        "mantissa": decay,
        "decay": decay,
        "drive": fit(2 * drive_max, widths.drive_bits, signed=True),
        "state": state,
        # just beyond the codes of the output, which saturates then too
        "accumulator": fit(_BEYOND_OUTPUT / scales.gain, widths.accumulator_bits, signed=True),
        "output": OUTPUT,
        "rate": rate,
        "skip": skip,
        "gain": fit(scales.gain, widths.gain_bits, signed=False),
    }
    channels, states = rates.shape
    shifts = shift if widths.per_channel else ()
    return ScanSpec(channels, states, formats, widths.exp_segments, shifts)


def _fit_channels(
    maxima: tuple[float, ...], widths: Widths, finest: int
) -> tuple[Format, tuple[int, ...]]:
    """Return the format of the largest channel's state, and each channel's shift beyond it."""
    largest = fit(2 * max(maxima), widths.state_bits, signed=True)
    state = Format(largest.bits, min(largest.frac, finest))
    if not widths.per_channel:
        return state, (0,) * len(maxima)
    fracs = [min(fit(2 * v, state.bits, signed=True).frac, finest) if v else state.frac
             for v in maxima]  # fmt: skip
    return state, tuple(min(frac - state.frac, LARGEST_SHIFT) for frac in fracs)


def _exponent(
    delta_max: int, delta: Format, rate_max: float, rate: Format, widths: Widths
) -> Format:
    """Return the format of delta * rate, given the largest code of delta and the largest rate.

    2 ** -v rounds to zero from v = decay_frac + 2 on, so that it may saturate above that.
    """
    product = delta_max * int(nearest(rate_max, rate))
    largest = round_half_up(np.array(product), delta.frac + rate.frac - widths.exponent_frac)
    vanished = (widths.decay_frac + 1).bit_length()
    bits = min(int(largest).bit_length(), widths.exponent_frac + vanished)
    return Format(max(1, bits), widths.exponent_frac, signed=False)
