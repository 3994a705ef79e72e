"""``unrolled``: an ONNX Scan over blocks of up to 256 tokens, unrolled as 16 chunks of 16 steps.

A Scan over single steps spends its time on starting operators on small tensors, and a form without
a loop on moving the states of all tokens through memory. A block is large enough for the first and
fits a CPU's cache. Its body runs

1. 16 steps of all chunks at once from h = 0, for each chunk's end state and product of decays;
2. one step for each chunk, which carries the block's incoming state over the chunks' ends;
3. the 16 steps again, from the true states.

In ONNX Runtime on two cores it takes 0.4 to 0.8 of the time of a body of 16 steps without chunks,
and 0.2 to 0.5 of that of a Scan over single steps (``benchmarks/scan_in_onnx.py``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lmaunet.export.lowerings import DOMAIN, INPUTS, NAME, Builder, Lowering, ScanInputs, ScanSite

if TYPE_CHECKING:
    import onnx_ir as ir

STEPS = 16
CHUNKS = 16
# A block of this many bytes is far outside any cache, and its body holds a dozen of that size.
BLOCK_BYTES_LIMIT = 1 << 28


class Tiling(NamedTuple):
    """How L tokens are cut: ``blocks`` of ``chunks`` of ``steps``, the last token padded."""

    blocks: int
    chunks: int
    steps: int
    surplus: int


def tiling(tokens: int) -> Tiling:
    """Return the cut with the fewest blocks, and among those the one with the fewest chunks."""
    steps = min(STEPS, tokens)
    blocks = -(-tokens // (STEPS * CHUNKS))
    chunks = -(-tokens // (blocks * steps))
    return Tiling(blocks, chunks, steps, blocks * chunks * steps - tokens)


def accepts(site: ScanSite) -> str | None:
    """Return why a site is refused: the states of one block are beyond 256 MiB; else None."""
    cut = tiling(site.tokens)
    size = 4 * site.batch * cut.chunks * cut.steps * site.channels * site.states
    if size <= BLOCK_BYTES_LIMIT:
        return None
    return (
        f"unrolled refuses {site}: the states of a block of {cut.chunks * cut.steps} tokens take "
        f"{size >> 20} MiB, at most {BLOCK_BYTES_LIMIT >> 20} MiB are accepted; "
        "use a smaller batch, or keep the function ai.lmaunet::SelectiveScan (no lowering)"
    )


def emit(builder: Builder, site: ScanSite, inputs: ScanInputs) -> ir.Value:
    """Add the nodes of one scan and return y ``(batch, L, channels)``.

    The surplus of the last block is zeros. It comes after every real token, so it changes none.
    They are joined on: a Pad of dequantized integers OpenVINO 2026.4 moves before the
    dequantization, whose zero point it pads and whose input not, and then it refuses the model.
    The states lie as ``(states, channels)``: the longer side last makes broadcasting cheaper.
    """
    n, d, s = site.batch, site.channels, site.states
    cut = tiling(site.tokens)

    def blocked(tensor: ir.Value, *shape: int) -> ir.Value:
        if cut.surplus:
            zeros = builder.op(
                "ConstantOfShape", builder.integers(n, cut.surplus, math.prod(shape))
            )
            tensor = builder.op("Concat", tensor, zeros, axis=1)
        return builder.reshape(tensor, n, cut.blocks, cut.chunks, cut.steps, *shape)

    delta = builder.op("Softplus", inputs.dt)
    u = builder.op("Mul", delta, inputs.x)
    _, _, read = builder.ops(
        "Scan",
        builder.op("ConstantOfShape", builder.integers(n, 1, 1, s, d)),
        builder.op("Transpose", inputs.A, perm=[1, 0]),
        blocked(delta, 1, d),
        blocked(u, 1, d),
        blocked(inputs.B, s, 1),
        blocked(inputs.C, 1, s),
        outputs=3,
        body=_body(Builder(f"{builder.prefix}body_"), (n, s, d), cut),
        num_scan_inputs=4,
        scan_input_axes=[1] * 4,
        scan_output_axes=[1],
    )
    read = builder.reshape(read, n, site.tokens + cut.surplus, d)
    if cut.surplus:
        read = builder.cut(read, 0, site.tokens, 1)
    return builder.op("Add", read, builder.op("Mul", inputs.D, inputs.x))


def scan_function(opset: int) -> ir.Function:
    """Return the function ``ai.lmaunet::SelectiveScan`` in this form, for scans of any size.

    Its inputs and output are those of :func:`lmaunet.export.function.selective_scan_function`. All
    sizes are taken from the shapes of the inputs, which a runtime folds into constants where they
    are fixed. A block is always of 256 tokens; L is padded to a multiple of it.
    """
    import onnx_ir as ir

    from lmaunet.export.passes import new_node

    b = Builder("")
    block = STEPS * CHUNKS
    x, dt, A, B, C, D = scan = [ir.Value(name=name) for name in INPUTS]
    n, tokens, d, s = (
        b.op("Shape", tensor, start=axis, end=axis + 1)
        for tensor, axis in ((x, 0), (x, 1), (A, 0), (A, 1))
    )
    one, tile = b.integers(1), b.integers(CHUNKS, STEPS)
    surplus = b.op("Mod", b.op("Neg", tokens), b.integers(block))
    pads = b.op("Concat", b.integers(0, 0, 0, 0), surplus, b.integers(0), axis=0)

    def blocked(tensor: ir.Value, *last: ir.Value) -> ir.Value:
        shape = b.op("Concat", n, b.integers(-1), tile, *last, axis=0)
        return b.op("Reshape", b.op("Pad", tensor, pads), shape)

    delta = b.op("Softplus", dt)
    start = b.op("Concat", n, one, one, s, d, axis=0)
    _, _, read = b.ops(
        "Scan",
        b.op("ConstantOfShape", start),
        b.op("Transpose", A, perm=[1, 0]),
        blocked(delta, one, d),
        blocked(b.op("Mul", delta, x), one, d),
        blocked(B, s, one),
        blocked(C, one, s),
        outputs=3,
        body=_body(Builder("body_"), ("n", "s", "d"), tiling(block)),
        num_scan_inputs=4,
        scan_input_axes=[1] * 4,
        scan_output_axes=[1],
    )
    rows = b.op("Reshape", read, b.op("Concat", n, b.integers(-1), d, axis=0))
    kept = b.op("Slice", rows, b.integers(0), tokens, one)
    y = b.op("Add", kept, b.op("Mul", D, x))
    y.name = "y"
    constants = []
    for value in b.constants:
        node = new_node("Constant", [], value.name, value=value.const_value)
        value.replace_all_uses_with(node.outputs[0])
        constants.append(node)
    graph = ir.Graph(scan, [y], nodes=[*constants, *b.nodes], opset_imports={"": opset})
    return ir.Function(DOMAIN, NAME, graph=graph, attributes=[])


def _body(body: Builder, sizes: tuple[int | str, int | str, int | str], cut: Tiling) -> ir.Graph:
    """Return the body; its state is h ``(batch, 1, 1, states, channels)``, and A unchanged.

    ``sizes`` are batch, states and channels, as numbers or symbols.
    """
    import onnx_ir as ir

    n, s, d = sizes
    state, A, delta, u, B, C = (
        ir.Value(name=f"{body.prefix}{name}") for name in ("h", "A", "delta", "u", "B", "C")
    )
    a = body.split(body.op("Exp", body.op("Mul", delta, A)), cut.steps, 2)
    b = body.split(body.op("Mul", u, B), cut.steps, 2)
    h = state if cut.chunks == 1 else _starts(body, a, b, state, cut.chunks)
    states = []
    for a_t, b_t in zip(a, b, strict=True):
        h = body.step(a_t, h, b_t)
        states.append(h)
    read = body.op("MatMul", C, body.concat(states, 2))
    if cut.chunks > 1:
        h = body.cut(h, cut.chunks - 1, cut.chunks, 1)
    tile = (n, cut.chunks, cut.steps)
    return body.graph(
        "block",
        [
            (state, (n, 1, 1, s, d)),
            (A, (s, d)),
            (delta, (*tile, 1, d)),
            (u, (*tile, 1, d)),
            (B, (*tile, s, 1)),
            (C, (*tile, 1, s)),
        ],
        [
            (h, (n, 1, 1, s, d)),
            (body.op("Identity", A), (s, d)),
            (read, (*tile, 1, d)),
        ],
    )


def _starts(
    body: Builder, a: list[ir.Value], b: list[ir.Value], h: ir.Value, chunks: int
) -> ir.Value:
    """Return the state before each chunk, ``(batch, chunks, 1, states, channels)``."""
    decay, end = a[0], b[0]
    for a_t, b_t in zip(a[1:], b[1:], strict=True):
        end = body.step(a_t, end, b_t)
        decay = body.op("Mul", decay, a_t)
    starts = [h]
    decays, ends = body.split(decay, chunks, 1), body.split(end, chunks, 1)
    # nothing in this block starts from the end of its last chunk
    for decay_k, end_k in zip(decays[:-1], ends[:-1], strict=True):
        starts.append(body.step(decay_k, starts[-1], end_k))
    return body.concat(starts, 1)


def node_count(site: ScanSite) -> int:
    """Return the nodes of one scan, at most 136.

    12 around the body, 5 more where L is padded. In the body: 5, 3 splits and joins of the steps,
    2 a step; with two chunks or more also 4 splits, joins and cuts of them, 2 a chunk but the
    last, 3 a step but the first.
    """
    cut = tiling(site.tokens)
    count = 12 + (9 if cut.surplus else 0) + 5 + (3 if cut.steps > 1 else 0) + 2 * cut.steps
    if cut.chunks > 1:
        count += 4 + 2 * (cut.chunks - 1) + 3 * (cut.steps - 1)
    return count


LOWERING = Lowering(
    name="unrolled",
    summary="an ONNX Scan over blocks of 16 chunks of 16 unrolled steps: the fastest on a CPU",
    accepts=accepts,
    emit=emit,
    node_count=node_count,
)
