"""Pixel shuffles, which upsample behind a 1x1 convolution, as one function over codes.

A transposed convolution whose kernel is its stride is a 1x1 convolution and DepthToSpace. That
wants the channels first, the convolutions around it want them last, and ONNX Runtime moves floats
there. Here it becomes one call:

    PixelShuffleCodes(x, blocks, shape) -> y

x and y are UINT8 codes with the channels last. ``blocks`` is x's shape with its channels apart:
0, 0, 0 for the axes that stay, -1 for the channels of y, then rows and columns of a block;
``shape`` is that of y. The function is defined in the file by two Reshapes and a Transpose; the
kernel is in ``cpu/native/operators.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from lmaunet.cpu.cpu_layout import CHANNELS_FIRST, CHANNELS_LAST
from lmaunet.export.convolutions import grid_of
from lmaunet.export.function import DOMAIN
from lmaunet.export.lower import static_shapes
from lmaunet.export.passes import Pass, add_constant, array_of, constant, label, new_node, replace

SHUFFLE = "PixelShuffleCodes"

# Channels are (C, rows of a block, columns of a block).
_BODY = """
<opset_import: ["" : %d], domain: "ai.lmaunet">
PixelShuffleCodes (x, blocks, shape) => (y)
{
    apart = Reshape (x, blocks)
    ordered = Transpose <perm = [0, 1, 4, 2, 5, 3]> (apart)
    y = Reshape (ordered, shape)
}
"""


def shuffle_function(opset: int) -> onnx.FunctionProto:
    """Return the definition of the function in standard operators."""
    return onnx.parser.parse_function(_BODY % opset)


class PixelShuffles(Pass):
    """Make each DepthToSpace of quantized values a call over their codes.

    The model is one after :class:`lmaunet.cpu.cpu_layout.MoveQuantizers`, which puts a quantizer
    of the same grid behind it. Only the order of channels that torch has (``CRD``) is known.
    """

    name = "pixel shuffles over codes"

    def rewrite(self, model: ir.Model) -> int:
        """Put the calls in the places of the quantizers behind them."""
        graph = model.graph
        found = [(q, shuffle) for q in graph if (shuffle := _shuffle(q)) is not None]
        shapes = static_shapes(ir.to_proto(model)) if found else {}
        for quantize, shuffle in found:
            prefix = quantize.outputs[0].name
            size = shuffle.attributes["blocksize"].as_int()
            batch, channels, height, width = shapes[shuffle.outputs[0].name]
            blocks = np.array([0, 0, 0, -1, size, size], np.int64)
            shape = np.array([batch, height, width, channels], np.int64)
            source = shuffle.inputs[0].producer()
            inside = new_node(
                "Transpose", [source.inputs[0]], f"{prefix}/channels_last_in",
                name=f"{prefix}/last", perm=CHANNELS_LAST,
            )  # fmt: skip
            inputs = [
                inside.outputs[0], add_constant(graph, f"{prefix}/blocks", blocks),
                add_constant(graph, f"{prefix}/shuffled_shape", shape),
            ]  # fmt: skip
            call = new_node(
                SHUFFLE, inputs, f"{prefix}/channels_last", name=shuffle.name, domain=DOMAIN
            )
            outside = new_node(
                "Transpose", [call.outputs[0]], prefix, name=f"{prefix}/first", perm=CHANNELS_FIRST
            )
            graph.insert_before(quantize, [inside, call, outside])
            replace(quantize.outputs[0], outside.outputs[0])
            if not shuffle.outputs[0].uses():
                graph.remove(shuffle, safe=True)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each quantizer of shuffled values that is left."""
        yield from (f"{label(n)} rounds what a call could" for n in model.graph if _shuffle(n))


def _shuffle(quantize: ir.Node) -> ir.Node | None:
    """Return the DepthToSpace of codes whose values a node gives the same codes again."""
    node = quantize.inputs[0].producer() if quantize.op_type == "QuantizeLinear" else None
    if node is None or node.op_type != "DepthToSpace":
        return None
    mode = node.attributes.get("mode")
    source = grid_of(node.outputs[0])
    if mode is None or mode.as_string() != "CRD" or source is None:
        return None
    if node.inputs[0].producer() is not source:
        return None
    grids = [[constant(value) for value in n.inputs[1:3]] for n in (source, quantize)]
    for one, other in zip(*grids, strict=True):
        if one is None or other is None or not np.array_equal(one, other):
            return None
    return node if array_of(source.inputs[2]).dtype == np.uint8 else None
