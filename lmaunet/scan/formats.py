"""The formats of an integer scan's cuts and constants, from the scales and from calibration.

Every format is as wide as asked and has as many fractional bits as its largest magnitude leaves.
On data like those of calibration, nothing but the output saturates, and the exponent where it does
no harm.
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
from lmaunet.spec import Format

INPUT = Format(8, 7)  # x, B and C: a code read as code / 128
FULL_SCALE = 1 << INPUT.frac

# Whatever is smaller than 2 ** -FINEST beside inputs of up to 1 no longer moves an 8-bit output.
# The limit keeps a scan that calibration saw almost silent within 62 bits.
FINEST = 30


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


def state_maximum(
    scales: ScanScales, A: npt.ArrayLike, x: npt.ArrayLike, dt: npt.ArrayLike, b: npt.ArrayLike
) -> float:
    """Return the largest ``|h|`` of a calibration set, for x and B read as code / 128.

    Args:
        scales: the scales of the codes.
        A: ``(channels, states)``, negative.
        x, dt: codes, ``(batch, L, channels)``.
        b: codes, ``(batch, L, states)``.
    """
    largest = 0.0

    def note(states: Real) -> None:
        nonlocal largest
        largest = max(largest, float(np.abs(states).max()))

    normalized = np.asarray(x) / FULL_SCALE, np.asarray(b) / FULL_SCALE
    step = np.asarray(dt) * scales.dt
    trace(normalized[0], step, A, normalized[1], normalized[1], np.zeros(step.shape[-1]),
          observe=note)  # fmt: skip
    return largest


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


def formats_for(
    scales: ScanScales,
    A: npt.ArrayLike,
    D: npt.ArrayLike,
    state_max: float,
    *,
    dt_max: int = DT.high,
    delta_bits: int = 16,
    rate_bits: int = 12,
    exponent_frac: int = 16,
    decay_frac: int = 15,
    drive_bits: int = 18,
    state_bits: int = 18,
    skip_bits: int = 16,
    gain_bits: int = 16,
) -> dict[str, Format]:
    """Choose the format of every cut and constant of a scan.

    Args:
        scales: the scales of the INT8 tensors.
        A, D: the scan's parameters, ``(channels, states)`` and ``(channels,)``.
        state_max: the largest ``|h|`` in calibration, from :func:`state_maximum`. One bit is left
            above it, because other data exceed it (by 10% on the validation patients of a first
            network, where even a saturation in 200,000 cost 20 dB).
        dt_max: the largest code of dt in calibration; a delta beyond its own saturates. In a
            trained network dt is mostly negative, so that the largest code that occurs is far
            below 127, and delta gains several fractional bits.
        delta_bits, rate_bits, drive_bits, state_bits, skip_bits, gain_bits: widths in all.
        exponent_frac: fractional bits of delta * rate.
        decay_frac: fractional bits of the mantissa and the decay, which hold 1 exactly.

    Raises:
        UserError: for a ``state_max`` that is negative or not finite.
    """
    if not (math.isfinite(state_max) and state_max >= 0):
        raise UserError(f"state_max={state_max}; give the largest |h| of the calibration data")
    rate_max = float(-check_rates(A).min()) * float(LOG2_E)
    delta_max = float(softplus(dt_max * scales.dt))
    skip_max = float(np.abs(scales.skip(D)).max())

    delta = fit(delta_max, delta_bits, signed=False)
    rate = fit(rate_max, rate_bits, signed=False)
    # 2 ** -v rounds to zero from v = decay_frac + 2 on, so the exponent may saturate above that.
    product = int(nearest(delta_max, delta)) * int(nearest(rate_max, rate))
    largest = round_half_up(np.array(product), delta.frac + rate.frac - exponent_frac)
    vanished = (decay_frac + 1).bit_length()
    exponent_bits = min(int(largest).bit_length(), exponent_frac + vanished)

    skip = fit(skip_max, skip_bits, signed=True)
    state = fit(2 * state_max, state_bits, signed=True)
    if skip_max:
        # The accumulator's unit is the finer of the two. A state far below skip * x is not worth
        # more bits than this, and a skip far below the state is worth no more than the state's.
        state = Format(state.bits, min(state.frac, skip.frac + skip_bits))
    skip = Format(skip.bits, min(skip.frac, state.frac))

    decay = Format(decay_frac + 1, decay_frac, signed=False)
    return {
        "delta": delta,
        "exponent": Format(max(1, exponent_bits), exponent_frac, signed=False),
        "mantissa": decay,
        "decay": decay,
        "drive": fit(delta_max, drive_bits, signed=True),
        "state": state,
        "output": Format(8, 0),
        "rate": rate,
        "skip": skip,
        "gain": fit(scales.gain, gain_bits, signed=False),
    }
