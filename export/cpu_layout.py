"""Where codes are and how they lie between the convolutions of a CPU's file.

ONNX Runtime computes in codes only what stands between a DequantizeLinear and a QuantizeLinear,
and its integer convolutions want the channels last. Neither pass changes a value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmaunet.export.convolutions import Graph, copy_node
from lmaunet.export.lower import static_shapes

if TYPE_CHECKING:
    import onnx

QUANTIZABLE = frozenset({"Add", "Mul", "Concat", "MaxPool"})
CHANNELS_LAST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def requantize_moves(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with a quantizer behind each Resize that an Add or the like reads.

    A Resize that takes the nearest value, between a DequantizeLinear and such an operator, would
    move floats. With a QuantizeLinear and DequantizeLinear of the same scale behind it, it moves
    codes, and the Add behind it adds codes. The model is one that
    :func:`lmaunet.export.convolutions.prepare` returned.
    """
    import onnx
    from onnx import helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        copy = copy_node(node)
        if node.op_type in QUANTIZABLE:
            copy.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(copy)
        if node.op_type != "Resize":
            continue
        source = graph.dequantize(node.output[0])
        if source is None or not any(r.op_type in QUANTIZABLE for r in readers[node.output[0]]):
            continue
        codes, values = f"{node.output[0]}/codes", f"{node.output[0]}/values"
        grid = list(source.input[1:])
        for op_type, before, after in (
            ("QuantizeLinear", node.output[0], codes),
            ("DequantizeLinear", codes, values),
        ):
            name = f"{node.name}/{op_type}"
            nodes.append(helper.make_node(op_type, [before, *grid], [after], name=name))
        renamed[node.output[0]] = values
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def channels_last_reshapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which maps become tokens, and tokens maps, with the channels last.

    A Reshape of a map ``(B, C, H, W)`` to ``(B, C, H', W')`` keeps the order of the pixels. Between
    two Transposes it is one of ``(B, H, W, C)`` to ``(B, H', W', C)``, and a runtime cancels these
    Transposes against those around its convolutions; with the channels first it could not.
    """
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    shapes = static_shapes(result)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        before, after = (shapes.get(name) for name in (_first_input(node), node.output[0]))
        if (
            node.op_type != "Reshape"
            or before is None
            or after is None
            or len(before) != 4
            or len(after) != 4
            or before[:2] != after[:2]
        ):
            nodes.append(copy_node(node))
            continue
        output = node.output[0]
        shape = f"{output}/channels_last_shape"
        result.graph.initializer.append(
            numpy_helper.from_array(np.array([after[0], *after[2:], after[1]], np.int64), shape)
        )
        last, reshaped = f"{output}/channels_last", f"{output}/reshaped"
        nodes += [
            helper.make_node(
                "Transpose", [node.input[0]], [last], name=f"{node.name}/last", perm=CHANNELS_LAST
            ),
            helper.make_node("Reshape", [last, shape], [reshaped], name=f"{node.name}/reshape"),
            helper.make_node(
                "Transpose", [reshaped], [output], name=f"{node.name}/first", perm=CHANNELS_FIRST
            ),
        ]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result


def _first_input(node: onnx.NodeProto) -> str:
    return node.input[0] if node.input else ""
