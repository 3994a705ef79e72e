"""How far the integer scan can be from the real one, derived from the formats.

Let ``u(name) = 2 ** -frac`` be the last bit of a format; a cut or a rounded constant is wrong by at
most ``u / 2``. Hats mark the integer scan's numbers, plain letters the real ones; all inequalities
hold for each token, channel and state.

**delta and rate** are rounded once: ``|delta^ - delta| <= u(delta) / 2`` and
``|rate^ - rate| <= u(rate) / 2``.

**exponent** ``v = delta * rate``::

    |v^ - v| <= E_v = delta u(rate)/2 + rate u(delta)/2 + u(delta) u(rate)/4 + u(exponent)/2

**decay** ``a = 2 ** -v``. Moving the exponent by E_v changes it by at most ``a (2**E_v - 1)``. The
lines of the table are off by at most::

    E_m = (log 2)**2 / (8 S**2) + u(mantissa)/2 + u(mantissa)/2

where the first term is the largest distance of a chord from ``2 ** -f``, whose second derivative is
at most ``(log 2)**2``; the second is the rounding of the points, the third the cut of the mantissa.
The shift divides that by ``2**i``, i the integer part of v^, and ``2**-i <= min(1, 2 * 2**-v^)``.
So::

    |a^ - a| <= E_a = a (2**E_v - 1) + E_m min(1, 2 a 2**E_v) + u(decay)/2

A saturated exponent or a shift beyond the deepest gives a^ = 0 where ``a <= u(decay)/2``, which the
last term covers.

**inflow** ``w = delta x B``, in which x and B are exact. Drive and state of a channel are cut after
they were multiplied by 2**shift, so that their last bits are worth ``u(drive) 2**-shift`` and
``u(state) 2**-shift``, which stand for u(drive) and u(state) from here on::

    |w^ - w| <= E_w = |B| (|x| u(delta)/2 + u(drive)/2)

**state** ``h' = a h + w``. From ``h^' = a^ h^ + w^ + rounding`` follows
``h^' - h' = a^ (h^ - h) + (a^ - a) h + (w^ - w) + rounding``, hence the recursion::

    E_h' = (a + E_a) E_h + E_a |h| + E_w + u(state)/2,    E_h = 0 before the first token

It is the recurrence itself, with the decay ``a + E_a`` and an inflow of errors, and so it is run by
the same :func:`lmaunet.scan.recurrence.advance`.

**accumulator**::

    |acc^ - acc| <= sum_n |C[n]| E_h[n] + |x| u(skip)/2

The bound takes every rounding at its worst at every token, while real ones largely cancel. Along a
memory of M tokens the bound grows as M and the observed error as its square root.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lmaunet.scan.formats import FULL_SCALE
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.real import LOG2_E, Real, RealAlgebra, softplus
from lmaunet.scan.recurrence import advance
from lmaunet.spec import Format


def accumulator_bound(
    scan: IntegerScan, x: npt.ArrayLike, dt: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike
) -> Real:
    """Return the largest possible ``|integer - real|`` of each accumulator.

    It holds where nothing but the exponent and the output saturates, the constants and the points
    of the table included: mantissa and decay must hold 1, as those of ``spec_for`` do.

    Args:
        scan: the integer scan.
        x, dt: codes, ``(batch, L, channels)``.
        b, c: codes, ``(batch, L, states)``.

    Returns:
        ``(batch, L, channels)``, in the units of ``accumulators / 2**accumulator_frac``.
    """
    tokens_first = [np.asarray(v, np.float64).swapaxes(0, 1) for v in (x, dt, b, c)]
    x_abs, b_abs, c_abs = (np.abs(tokens_first[i]) / FULL_SCALE for i in (0, 2, 3))
    delta = softplus(tokens_first[1] * scan.scales.dt)
    half = {name: _half_bit(form) for name, form in scan.spec.formats.items()}
    finer = np.ldexp(1.0, -scan.shift)
    drive_rounding, state_rounding = half["drive"] * finer, (half["state"] * finer)[:, None]
    real = RealAlgebra({})
    error = before = np.zeros((x_abs.shape[1], *scan.A.shape))
    bounds: list[Real] = []

    def follow(states: Real) -> None:
        """Carry the recursion through a block of tokens, given the real states after each."""
        nonlocal error, before
        first = sum(len(v) for v in bounds)
        block = slice(first, first + len(states))
        decay, decay_error = _decay_and_error(scan, half, delta[block][..., None])
        drive_error = x_abs[block] * half["delta"] + drive_rounding
        earlier = np.concatenate([before[None], states[:-1]])
        inflow = (
            decay_error * np.abs(earlier)
            + drive_error[..., None] * b_abs[block][..., None, :]
            + state_rounding
        )
        errors = np.empty_like(inflow)
        for t in range(len(states)):
            error = errors[t] = advance(real, error, decay[t] + decay_error[t], inflow[t])
        before = states[-1]
        read_out = (c_abs[block][..., None, :] * errors).sum(-1)
        bounds.append(read_out + x_abs[block] * half["skip"])

    scan.run_real(x, dt, b, c, observe=follow)
    return np.concatenate(bounds).swapaxes(0, 1)


def _decay_and_error(scan: IntegerScan, half: dict[str, float], delta: Real) -> tuple[Real, Real]:
    """Return a and E_a, both ``(..., channels, states)``, for delta ``(..., channels, 1)``."""
    rate = -scan.A * LOG2_E
    exponent_error = (
        delta * half["rate"]
        + rate * half["delta"]
        + half["delta"] * half["rate"]
        + half["exponent"]
    )
    moved = np.exp2(exponent_error)
    decay = np.exp2(-delta * rate)
    chord = np.log(2.0) ** 2 / (8 * scan.spec.exp_segments**2)
    line_error = chord + 2 * half["mantissa"]
    shifted = line_error * np.minimum(1.0, 2 * decay * moved)
    return decay, decay * (moved - 1) + shifted + half["decay"]


def _half_bit(form: Format) -> float:
    return float(np.ldexp(0.5, -form.frac))
