"""``two_level``: 16 unrolled steps over all chunks in parallel, a log-step over their ends, replay.

It has no loop and no dynamic shape, which is what TensorRT turns into few fused kernels. The
tokens are cut into K chunks of T = 16:

1. every chunk runs its T steps from h = 0, all chunks at once, which leaves its end state H and
   the product P of its decays;
2. the ends are joined by the associative rule (P1, H1) then (P2, H2) = (P1 P2, P2 H1 + H2), in
   ceil(log2(K - 1)) doublings (Hillis and Steele, "Data parallel algorithms", 1986), which leaves
   the true state before each chunk;
3. every chunk runs its T steps again, from that state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lmaunet.export.lowerings import Builder, Lowering, ScanInputs, ScanSite

if TYPE_CHECKING:
    import onnx_ir as ir

STEPS = 16
# a, b and the products of one scan live together; TensorRT counts elements in 32 bits.
ELEMENTS_LIMIT = 1 << 29


def _steps(site: ScanSite) -> int:
    return min(STEPS, site.tokens)


def _chunks(site: ScanSite) -> int:
    return -(-site.tokens // _steps(site))


def accepts(site: ScanSite) -> str | None:
    """Return why a site is refused: its states over all tokens exceed 2**29 elements; else None."""
    if site.state_elements <= ELEMENTS_LIMIT:
        return None
    return (
        f"two_level refuses {site}: the states of all tokens are {site.state_elements} elements, "
        f"at most {ELEMENTS_LIMIT} are accepted; use the lowering unrolled, or a smaller image"
    )


def emit(builder: Builder, site: ScanSite, inputs: ScanInputs) -> ir.Value:
    """Add the nodes of one scan and return y ``(batch, L, channels)``.

    The tail of the last chunk is zeros. It comes after every real token, so that it changes none.
    The states lie as ``(batch, K, channels, states)``, four axes and the sum over the last one:
    TensorRT makes fewer kernels of it and keeps less in memory than with five axes, or with the
    channels last.
    """
    n, d, s = site.batch, site.channels, site.states
    steps, chunks = _steps(site), _chunks(site)
    surplus = steps * chunks - site.tokens

    def chunked(tensor: ir.Value, *shape: int) -> ir.Value:
        if surplus:
            tensor = builder.op("Pad", tensor, builder.integers(0, 0, 0, 0, surplus, 0))
        return builder.reshape(tensor, n, chunks, steps, *shape)

    def stepwise(tensor: ir.Value) -> list[ir.Value]:
        return [
            builder.op("Squeeze", t, builder.integers(2)) for t in builder.split(tensor, steps, 2)
        ]

    delta = builder.op("Softplus", inputs.dt)
    u = chunked(builder.op("Mul", delta, inputs.x), d, 1)
    exponent = builder.op("Mul", chunked(delta, d, 1), inputs.A)
    a = stepwise(builder.op("Exp", exponent))
    b = stepwise(builder.op("Mul", u, chunked(inputs.B, 1, s)))
    c = stepwise(chunked(inputs.C, 1, s))

    h: ir.Value | None = None
    if chunks > 1:
        zero = builder.op("ConstantOfShape", builder.integers(n, 1, d, s))
        h = builder.concat([zero, _ends(builder, a, b, chunks - 1)], 1)
    reads = []
    for a_t, b_t, c_t in zip(a, b, c, strict=True):
        h = b_t if h is None else builder.step(a_t, h, b_t)
        product = builder.op("Mul", h, c_t)
        reads.append(builder.op("ReduceSum", product, builder.integers(-1), keepdims=0))
    # (batch, K, T * channels) is (batch, L, channels) in memory
    read = builder.reshape(builder.concat(reads, 2), n, steps * chunks, d)
    if surplus:
        read = builder.cut(read, 0, site.tokens, 1)
    return builder.op("Add", read, builder.op("Mul", inputs.D, inputs.x))


def _ends(builder: Builder, a: list[ir.Value], b: list[ir.Value], count: int) -> ir.Value:
    """Return the true state after each of the first ``count`` chunks.

    It is ``(batch, count, channels, states)``; ``a`` and ``b`` are those of all chunks.
    """
    decay, end = a[0], b[0]
    for a_t, b_t in zip(a[1:], b[1:], strict=True):
        end = builder.step(a_t, end, b_t)
        decay = builder.op("Mul", decay, a_t)
    decay, end = builder.cut(decay, 0, count, 1), builder.cut(end, 0, count, 1)
    shift = 1
    while shift < count:
        later = builder.cut(decay, shift, count, 1)
        earlier = builder.cut(end, 0, count - shift, 1)
        joined = builder.step(later, earlier, builder.cut(end, shift, count, 1))
        end = builder.concat([builder.cut(end, 0, shift, 1), joined], 1)
        if 2 * shift < count:
            product = builder.op("Mul", later, builder.cut(decay, 0, count - shift, 1))
            decay = builder.concat([builder.cut(decay, 0, shift, 1), product], 1)
        shift *= 2
    return end


def node_count(site: ScanSite) -> int:
    """Return the nodes of one scan.

    12 around the steps, 3 splits and a join of them, 7 for each step of the replay, 5 where L has
    a tail; with two chunks or more, 3 for each step but the first, 4 around the ends, and 11 for
    each doubling (the last needs no product: 4 fewer).
    """
    steps, chunks = _steps(site), _chunks(site)
    count = 12 + (4 if steps > 1 else 0) + 7 * steps + (5 if site.tokens % steps else 0)
    if chunks == 1:
        return count - 2  # the first step starts from h = 0
    doublings = math.ceil(math.log2(chunks - 1))
    return count + 3 * (steps - 1) + 4 + 11 * doublings - (4 if doublings else 0)


LOWERING = Lowering(
    name="two_level",
    summary="16 steps over all chunks in parallel, a log-step over their ends, replay: TensorRT",
    accepts=accepts,
    emit=emit,
    node_count=node_count,
)
