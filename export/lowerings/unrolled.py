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

from typing import TYPE_CHECKING, NamedTuple

from lmaunet.export.function import DOMAIN, INPUTS, NAME
from lmaunet.export.lowerings import Builder, Lowering, ScanInputs, ScanSite

if TYPE_CHECKING:
    import onnx

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


def emit(builder: Builder, site: ScanSite, inputs: ScanInputs) -> str:
    """Add the nodes of one scan and return the name of y ``(batch, L, channels)``.

    The surplus of the last block is zeros. It comes after every real token, so it changes none.
    The states lie as ``(states, channels)``: the longer side last makes broadcasting cheaper.
    """
    n, d, s = site.batch, site.channels, site.states
    cut = tiling(site.tokens)

    def blocked(tensor: str, *shape: int) -> str:
        if cut.surplus:
            tensor = builder.op("Pad", tensor, builder.integers(0, 0, 0, 0, cut.surplus, 0))
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
        body=_body(Builder(f"{builder.prefix}body_"), site, cut),
        num_scan_inputs=4,
        scan_input_axes=[1] * 4,
        scan_output_axes=[1],
    )
    read = builder.reshape(read, n, site.tokens + cut.surplus, d)
    if cut.surplus:
        read = builder.cut(read, 0, site.tokens, 1)
    return builder.op("Add", read, builder.op("Mul", inputs.D, inputs.x))


def scan_function(opset: int) -> onnx.FunctionProto:
    """Return the function ``ai.lmaunet::SelectiveScan`` in this form, for scans of any size.

    Its inputs and output are those of :func:`lmaunet.export.function.selective_scan_function`. All
    sizes are taken from the shapes of the inputs, which a runtime folds into constants where they
    are fixed. A block is always of 256 tokens; L is padded to a multiple of it.
    """
    import onnx.helper
    import onnx.numpy_helper

    b = Builder("")
    block = STEPS * CHUNKS
    sizes = {
        name: b.op("Shape", tensor, start=axis, end=axis + 1)
        for name, tensor, axis in (
            ("n", "x", 0), ("tokens", "x", 1), ("d", "A", 0), ("s", "A", 1),
        )
    }  # fmt: skip
    one, tile = b.integers(1), b.integers(CHUNKS, STEPS)
    surplus = b.op("Mod", b.op("Neg", sizes["tokens"]), b.integers(block))
    pads = b.op("Concat", b.integers(0, 0, 0, 0), surplus, b.integers(0), axis=0)

    def blocked(tensor: str, *last: str) -> str:
        shape = b.op("Concat", sizes["n"], b.integers(-1), tile, *last, axis=0)
        return b.op("Reshape", b.op("Pad", tensor, pads), shape)

    delta = b.op("Softplus", "dt")
    start = b.op("Concat", sizes["n"], one, one, sizes["s"], sizes["d"], axis=0)
    body = Builder("body_")
    site = ScanSite("", "n", block, "d", "s")  # type: ignore[arg-type]
    _, _, read = b.ops(
        "Scan",
        b.op("ConstantOfShape", start),
        b.op("Transpose", "A", perm=[1, 0]),
        blocked(delta, one, sizes["d"]),
        blocked(b.op("Mul", delta, "x"), one, sizes["d"]),
        blocked("B", sizes["s"], one),
        blocked("C", one, sizes["s"]),
        outputs=3,
        body=_body(body, site, tiling(block)),
        num_scan_inputs=4,
        scan_input_axes=[1] * 4,
        scan_output_axes=[1],
    )
    rows = b.op("Reshape", read, b.op("Concat", sizes["n"], b.integers(-1), sizes["d"], axis=0))
    kept = b.op("Slice", rows, b.integers(0), sizes["tokens"], one)
    y = b.op("Add", kept, b.op("Mul", "D", "x"))
    b.rename(y, "y")
    constants = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in b.initializers
    ]
    return onnx.helper.make_function(
        DOMAIN, NAME, list(INPUTS), ["y"], [*constants, *b.nodes],
        [onnx.helper.make_opsetid("", opset)],
    )  # fmt: skip


def _body(body: Builder, site: ScanSite, cut: Tiling):
    """Return the body; its state is h ``(batch, 1, 1, states, channels)``, and A unchanged."""
    n, d, s = site.batch, site.channels, site.states
    names = {k: f"{body.prefix}{k}" for k in ("h", "A", "delta", "u", "B", "C")}
    a = body.split(body.op("Exp", body.op("Mul", names["delta"], names["A"])), cut.steps, 2)
    b = body.split(body.op("Mul", names["u"], names["B"]), cut.steps, 2)
    h = names["h"] if cut.chunks == 1 else _starts(body, a, b, names["h"], cut.chunks)
    states = []
    for a_t, b_t in zip(a, b, strict=True):
        h = body.step(a_t, h, b_t)
        states.append(h)
    read = body.op("MatMul", names["C"], body.concat(states, 2))
    if cut.chunks > 1:
        h = body.cut(h, cut.chunks - 1, cut.chunks, 1)
    tile = (n, cut.chunks, cut.steps)
    return body.graph(
        "block",
        [
            (names["h"], (n, 1, 1, s, d)),
            (names["A"], (s, d)),
            (names["delta"], (*tile, 1, d)),
            (names["u"], (*tile, 1, d)),
            (names["B"], (*tile, s, 1)),
            (names["C"], (*tile, 1, s)),
        ],
        [
            (h, (n, 1, 1, s, d)),
            (body.op("Identity", names["A"]), (s, d)),
            (read, (*tile, 1, d)),
        ],
    )


def _starts(body: Builder, a: list[str], b: list[str], h: str, chunks: int) -> str:
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
    count = 12 + (5 if cut.surplus else 0) + 5 + (3 if cut.steps > 1 else 0) + 2 * cut.steps
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
