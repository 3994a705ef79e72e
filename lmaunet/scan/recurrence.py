"""The selective scan's recurrence, written once over an algebra.

For each channel d, state n and token::

    delta[d]    = softplus(dt[d])
    decay[d,n]  = 2 ** -(delta[d] * rate[d,n])             rate = -A * log2(e) > 0
    g[d,n]      = decay[d,n] * g[d,n] + 2**shift[d] * delta[d] * x[d] * B[n]
    acc[d]      = 2**-shift[d] * sum_n C[n] * g[d,n] + skip[d] * x[d]
    y[d]        = gain * acc[d]

The state is held as ``g[d,n] = 2**shift[d] * h[d,n]``. One format for all channels would leave few
bits to a channel whose states are small, so that each has its own power of two, ``shift[d] >= 0``.
Hardware needs two shifters a channel and none a state: ``lift`` sits where ``delta * x`` is cut,
before it meets the B of each state, and ``lower`` where the sum over the states is complete.

With ``shift = 0`` this is ``h = exp(delta * A) * h + delta * B * x`` and ``y = C h + D x`` of Mamba
(Gu and Dao, 2023, https://arxiv.org/abs/2312.00752, equations 2 and 4 and algorithm 2, with its
simplified discretization of B), in which e is replaced by 2, because 2 ** -v is a small table and a
shift.

An algebra decides what a number is. Its ``cut`` is the only operation that rounds or saturates;
``mul``, ``add``, ``sum_states``, ``lift`` and ``lower`` are exact. :mod:`lmaunet.scan.real`
computes in float64 and cuts nothing; :mod:`lmaunet.scan.integer` computes in fixed point;
:mod:`lmaunet.scan.widths` in ranges. Whoever implements the scan elsewhere is tested against these
and defines nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

V = TypeVar("V")

# The cuts in the order in which a number meets them, and the constants. "mantissa" lies inside the
# integer algebra's table of 2 ** -v; the others stand in this file.
CUTS = ("delta", "exponent", "mantissa", "decay", "drive", "state", "accumulator", "output")
CONSTANTS = ("rate", "skip", "gain")

# Numbers in the largest array of a block of tokens: half a MiB each at 64 bits, so that the few
# arrays of a step stay in cache (a third of the time of blocks 16 times as large).
BLOCK_ELEMENTS = 1 << 16


class Algebra(Protocol[V]):
    """What the recurrence asks of a number system. A value ``V`` is an array that can be indexed.

    ``mul`` and ``add`` broadcast as numpy does.
    """

    def mul(self, left: V, right: V) -> V:
        """Return the exact product."""

    def add(self, left: V, right: V) -> V:
        """Return the exact sum."""

    def sum_states(self, value: V) -> V:
        """Return the exact sum over the last axis, the states."""

    def lift(self, value: V) -> V:
        """Return ``value * 2**shift[d]``, exactly; channels are the last axis."""

    def lower(self, value: V) -> V:
        """Return ``value * 2**-shift[d]``, exactly; channels are the last axis."""

    def table(self, name: str, value: V) -> V:
        """Return the function ``name``, ``softplus`` or ``exp2_negative`` (2 ** -v), of a value."""

    def cut(self, name: str, value: V) -> V:
        """Return the value in the format of the cut ``name``: rounded, then saturated."""

    def decays(self, dt: V, delta: V) -> V:
        """Return :func:`decays` of delta, which may be looked up by the dt that delta came from."""

    def constant(self, name: str) -> V:
        """Return ``rate`` (channels, states), ``skip`` (channels,) or ``gain`` ()."""

    def zero_state(self, shape: tuple[int, ...]) -> V:
        """Return the state before the first token."""

    def join(self, values: Sequence[V]) -> V:
        """Return the values concatenated along the first axis, the tokens."""


@dataclass(frozen=True)
class ScanTrace(Generic[V]):
    """What a scan computed, as values of its algebra.

    ``output`` and ``accumulator``, which is not cut yet, are ``(L, batch, channels)``; ``state`` is
    the last one, g, ``(batch, channels, states)``.
    """

    output: V
    accumulator: V
    state: V


def prepare(k: Algebra[Any], x: Any, dt: Any, b: Any) -> tuple[Any, Any]:
    """Return what does not depend on the state: the decay and the inflow of each token.

    Args:
        k: the algebra.
        x, dt: ``(..., channels)``.
        b: ``(..., states)``.

    Returns:
        decay and inflow into g, both ``(..., channels, states)``.
    """
    delta = k.cut("delta", k.table("softplus", dt))
    drive = k.cut("drive", k.lift(k.mul(delta, x)))
    return k.decays(dt, delta), k.mul(drive[..., None], b[..., None, :])


def decays(k: Algebra[Any], delta: Any) -> Any:
    """Return the decay ``(..., channels, states)`` of time steps delta ``(..., channels)``."""
    exponent = k.cut("exponent", k.mul(delta[..., None], k.constant("rate")))
    return k.cut("decay", k.table("exp2_negative", exponent))


def advance(k: Algebra[Any], h: Any, decay: Any, inflow: Any) -> Any:
    """Return the state after one token; all are ``(..., channels, states)``."""
    return k.cut("state", k.add(k.mul(decay, h), inflow))


def read_out(k: Algebra[Any], h: Any, c: Any, x: Any) -> tuple[Any, Any]:
    """Return the wide accumulator and the output of each token.

    Args:
        k: the algebra.
        h: the state after the token, ``(..., channels, states)``.
        c: ``(..., states)``.
        x: ``(..., channels)``.

    Returns:
        the accumulator, not cut yet, and the output, both ``(..., channels)``.
    """
    states = k.lower(k.sum_states(k.mul(c[..., None, :], h)))
    accumulator = k.add(states, k.mul(k.constant("skip"), x))
    narrow = k.cut("accumulator", accumulator)
    return accumulator, k.cut("output", k.mul(k.constant("gain"), narrow))


def run(
    k: Algebra[V],
    x: Any,
    dt: Any,
    b: Any,
    c: Any,
    *,
    state: V | None = None,
    observe: Callable[[V], None] | None = None,
) -> ScanTrace[V]:
    """Run the recurrence over all tokens of a batch, the batch's images side by side.

    Only :func:`advance` goes token by token. The rest is computed for blocks of tokens, whose
    arrays ``(tokens, batch, channels, states)`` hold at most ``BLOCK_ELEMENTS`` numbers (more only
    where a single token does).

    Args:
        k: the algebra.
        x, dt: values ``(L, batch, channels)``, the tokens first.
        b, c: values ``(L, batch, states)``.
        state: the state to start from, ``(batch, channels, states)``; zero by default.
        observe: is called with the states ``(tokens, batch, channels, states)`` of each block.
    """
    length, batch, channels = x.shape
    shape = (batch, channels, b.shape[-1])
    h: Any = k.zero_state(shape) if state is None else state
    accumulators, outputs = [], []
    block = max(1, BLOCK_ELEMENTS // (batch * channels * b.shape[-1]))
    for first in range(0, length, block):
        tokens = slice(first, first + block)
        decay, inflow = prepare(k, x[tokens], dt[tokens], b[tokens])
        states = []
        for t in range(decay.shape[0]):
            h = advance(k, h, decay[t], inflow[t])
            states.append(h[None])
        joined = k.join(states)
        if observe is not None:
            observe(joined)
        accumulator, output = read_out(k, joined, c[tokens], x[tokens])
        accumulators.append(accumulator)
        outputs.append(output)
    return ScanTrace(k.join(outputs), k.join(accumulators), h)
