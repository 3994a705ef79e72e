"""The real algebra: float64, in which a cut changes nothing. The scan's reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmaunet.errors import UserError
from lmaunet.scan.recurrence import ScanTrace, decays, run

Real = npt.NDArray[np.float64]

LOG2_E = 1.0 / np.log(2.0)


def softplus(v: npt.ArrayLike) -> Real:
    """Return log(1 + exp(v)), without overflow."""
    return np.logaddexp(0.0, v)


@dataclass(frozen=True)
class RealAlgebra:
    """Numbers are float64 arrays; see :class:`lmaunet.scan.recurrence.Algebra`."""

    constants: Mapping[str, Real]

    def mul(self, left: Real, right: Real) -> Real:
        """Return the product."""
        return left * right

    def add(self, left: Real, right: Real) -> Real:
        """Return the sum."""
        return left + right

    def sum_states(self, value: Real) -> Real:
        """Return the sum over the last axis."""
        return value.sum(-1)

    def lift(self, value: Real) -> Real:
        """Return the value itself: float64 needs no shift, and so the state is h."""
        return value

    def lower(self, value: Real) -> Real:
        """Return the value itself."""
        return value

    def table(self, name: str, value: Real) -> Real:
        """Return softplus(v) or 2 ** -v."""
        return {"softplus": softplus, "exp2_negative": lambda v: np.exp2(-v)}[name](value)

    def cut(self, name: str, value: Real) -> Real:
        """Return the value itself."""
        return value

    def decays(self, dt: Real, delta: Real) -> Real:
        """Return the decays of delta."""
        return decays(self, delta)

    def constant(self, name: str) -> Real:
        """Return a constant."""
        return self.constants[name]

    def zero_state(self, shape: tuple[int, ...]) -> Real:
        """Return zeros."""
        return np.zeros(shape)

    def join(self, values: Sequence[Real]) -> Real:
        """Return the concatenation along the first axis."""
        return np.concatenate(values)


def check_rates(A: npt.ArrayLike) -> Real:
    """Return A ``(channels, states)`` as float64; raises UserError where a state would grow."""
    rates = np.asarray(A, np.float64)
    if rates.ndim != 2 or rates.size == 0 or not np.isfinite(rates).all() or rates.max() >= 0:
        raise UserError(
            f"A has shape {rates.shape} and is not all negative and finite; "
            "give -exp(A_log) as (channels, states)"
        )
    return rates


def check_shapes(
    inputs: Sequence[npt.NDArray[Any]], A: npt.NDArray[Any], D: npt.NDArray[Any]
) -> None:
    """Raise UserError where x, dt, B, C, A and D do not fit each other, or there is no token."""
    x, dt, b, c = inputs
    if x.ndim != 3 or x.size == 0:
        raise UserError(f"x has shape {x.shape}; give (batch, L, channels), at least one token")
    (batch, length, channels), states = x.shape, A.shape[1]
    expected = {
        "dt": (dt, (batch, length, channels)),
        "A": (A, (channels, states)),
        "B": (b, (batch, length, states)),
        "C": (c, (batch, length, states)),
        "D": (D, (channels,)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise UserError(
                f"{name} has shape {array.shape}, expected {shape} "
                f"beside x {x.shape} and {states} states"
            )


def selective_scan(
    x: npt.ArrayLike,
    dt: npt.ArrayLike,
    A: npt.ArrayLike,
    B: npt.ArrayLike,
    C: npt.ArrayLike,
    D: npt.ArrayLike,
) -> Real:
    """Run the selective scan in float64.

    Args:
        x: input, ``(batch, L, channels)``.
        dt: the time step before softplus, ``(batch, L, channels)``.
        A: negative rates, ``(channels, states)``.
        B, C: ``(batch, L, states)``.
        D: the skip, ``(channels,)``.

    Returns:
        y ``(batch, L, channels)``.
    """
    return trace(x, dt, A, B, C, D).output.swapaxes(0, 1)


def trace(
    x: npt.ArrayLike,
    dt: npt.ArrayLike,
    A: npt.ArrayLike,
    B: npt.ArrayLike,
    C: npt.ArrayLike,
    D: npt.ArrayLike,
    *,
    gain: float = 1.0,
    observe: Callable[[Real], None] | None = None,
) -> ScanTrace[Real]:
    """Run the selective scan as :func:`selective_scan` does, and return all of its trace.

    The trace is tokens first, and its output is ``gain`` times the accumulator. ``observe`` gets
    the states of each block of tokens.
    """
    rates = check_rates(A)
    constants = {
        "rate": -rates * LOG2_E,
        "skip": np.asarray(D, np.float64),
        "gain": np.float64(gain),
    }
    inputs = [np.asarray(v, np.float64) for v in (x, dt, B, C)]
    check_shapes(inputs, rates, constants["skip"])
    tokens_first = [v.swapaxes(0, 1) for v in inputs]
    return run(RealAlgebra(constants), *tokens_first, observe=observe)
