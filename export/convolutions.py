"""Which convolutions of a QCDQ graph are quantized, and the graph in the form that runtimes fuse.

A runtime uses an integer kernel only where it recognises the pattern: an INT8 constant, then
DequantizeLinear, then Conv, with a DequantizeLinear on the other input as well. The exporter
leaves two things in the way, an INT8 Clip on the weights and operators that move codes about
(Resize ...) between DequantizeLinear and Conv. :func:`prepare` removes both without changing a
single value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import onnx

# Operators whose output holds values of their inputs (or zero, or the larger of them) and no
# others: what lies on the grid of a quantizer before them lies on it after them.
MOVES = frozenset(
    {
        "Concat", "DepthToSpace", "Flatten", "Identity", "MaxPool", "Pad", "Relu", "Reshape",
        "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip


@dataclass(frozen=True)
class QuantizedConvolution:
    """A convolution with INT8 weights and an input on the grid of an INT8 quantizer.

    ``node`` is the ONNX node's name. ``weight_dims`` is ``(out, in / groups, height, width)``.
    ``kind`` is ``dense`` (one group), ``depthwise`` (a group for each input channel) or
    ``grouped``.
    """

    node: str
    weight: str
    weight_dims: tuple[int, ...]
    groups: int

    @property
    def kind(self) -> str:
        """``dense``, ``depthwise`` or ``grouped``."""
        if self.groups == 1:
            return "dense"
        return "depthwise" if self.weight_dims[1] == 1 else "grouped"


class Graph:
    """A model's main graph with its producers and constants at hand."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.producers = {name: node for node in self.nodes for name in node.output}
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(self, name: str) -> np.ndarray | None:
        """Return the array of an initializer or a Constant node; None where it is neither."""
        from onnx import numpy_helper

        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        node = self.producers.get(name)
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return numpy_helper.to_array(node.attribute[0].t)
        if node is not None and node.op_type == "Identity":
            return self.constant(node.input[0])
        return None

    def weight(self, name: str) -> tuple[str, np.ndarray] | None:
        """Return the INT8 constant that a convolution's weight input dequantizes, and its name."""
        dequantize = self.producers.get(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        source = dequantize.input[0]
        producer = self.producers.get(source)
        while producer is not None and producer.op_type in ("Clip", "Identity"):
            source = producer.input[0]
            producer = self.producers.get(source)
        codes = self.constant(source)
        if codes is None or codes.dtype.name != "int8":
            return None
        return source, codes

    def dequantize(self, name: str) -> onnx.NodeProto | None:
        """Return the per-tensor DequantizeLinear on whose grid a tensor lies; None where none.

        Every path from the tensor must end in one, and all of these must have equal scale and
        zero point.
        """
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op_type == "DequantizeLinear":
            scale = self.constant(node.input[1])
            return node if scale is not None and scale.size == 1 else None
        if node.op_type not in MOVES or not self._keeps_values(node):
            return None
        inputs = node.input if node.op_type == "Concat" else node.input[:1]
        found = [self.dequantize(source) for source in inputs]
        first = found[0]
        if first is None or any(f is None or not self._same_grid(f, first) for f in found):
            return None
        return first

    def _keeps_values(self, node: onnx.NodeProto) -> bool:
        """Tell whether a Resize takes the nearest value and a Pad fills with zero."""
        if node.op_type == "Resize":
            return _is_nearest(node)
        if node.op_type == "Pad":
            value = self.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            return len(node.input) < 3 or (value is not None and not value.any())
        return True

    def _same_grid(self, one: onnx.NodeProto, other: onnx.NodeProto) -> bool:
        import numpy as np

        for a, b in zip(one.input[1:], other.input[1:], strict=True):
            left, right = self.constant(a), self.constant(b)
            if left is None or right is None or not np.array_equal(left, right):
                return False
        return True


def _is_nearest(resize: onnx.NodeProto) -> bool:
    modes = [a.s.decode() for a in resize.attribute if a.name == "mode"]
    return not modes or modes[0] == "nearest"


def groups_of(conv: onnx.NodeProto) -> int:
    """Return a convolution's number of groups."""
    return next((int(a.i) for a in conv.attribute if a.name == "group"), 1)


def quantized_convolutions(model: onnx.ModelProto) -> list[QuantizedConvolution]:
    """Return the quantized convolutions of a graph, in its order.

    A convolution counts when its weights are an INT8 constant under DequantizeLinear and its input
    lies on the grid of one DequantizeLinear, directly or through operators that only move values.
    """
    graph = Graph(model)
    found = []
    for node in graph.nodes:
        if node.op_type != "Conv":
            continue
        weight = graph.weight(node.input[1])
        if weight is not None and graph.dequantize(node.input[0]) is not None:
            name, codes = weight
            found.append(
                QuantizedConvolution(
                    node.name or node.output[0], name, tuple(codes.shape), groups_of(node)
                )
            )
    return found


def float_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that are not quantized, in the graph's order."""
    quantized = {convolution.node for convolution in quantized_convolutions(model)}
    names = [node.name or node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    return [name for name in names if name not in quantized]


def prepare(
    model: onnx.ModelProto, kinds: Sequence[str] = ("dense", "depthwise", "grouped")
) -> onnx.ModelProto:
    """Return a copy of a QCDQ model in the form that runtimes turn into integer kernels.

    Every node gets a name of its own, the INT8 Clip of each weight is computed, and each quantized
    convolution of ``kinds`` whose DequantizeLinear is further up gets a QuantizeLinear and
    DequantizeLinear of the same scale right before it. The values stay as they are, bit for bit:
    with a code q and a float32 scale s, ``(q * s) / s`` differs from q by less than ``q * 2**-22``
    and rounds to q, and ``q * s`` is then the same product as before.

    Raises:
        UserError: where an activation is not INT8 with zero point 0.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    name_nodes(result)
    check_zero_points(result)
    _fold_weight_clips(result)
    _requantize(result, kinds)
    return result


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node of the main graph a name of its own, in place."""
    taken: set[str] = set()
    for node in model.graph.node:
        base = node.name or f"{node.op_type}_{next(o for o in node.output if o)}"
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        node.name = name
        taken.add(name)


def check_zero_points(model: onnx.ModelProto) -> None:
    """Raise :class:`UserError` where a quantizer is not INT8 with zero point 0.

    TensorRT refuses a zero point other than 0 and reads UINT8 codes as INT8, which would be wrong.
    """
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear":
            continue
        zero = graph.constant(node.input[2]) if len(node.input) > 2 else None
        got = "uint8" if zero is None else zero.dtype.name
        if zero is None or got != "int8" or zero.any():
            value = 0 if zero is None else zero.reshape(-1)[0]
            raise UserError(
                f"quantizer {node.name}: {got} with zero point {value}; expected int8 with zero "
                "point 0; quantize activations symmetrically to INT8"
            )


def _fold_weight_clips(model: onnx.ModelProto) -> None:
    """Compute the Clip of each constant INT8 weight, and drop the node."""
    import numpy as np
    from onnx import numpy_helper

    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type != "Clip":
            continue
        codes = graph.constant(node.input[0])
        bounds = [graph.constant(name) if name else None for name in node.input[1:]]
        if codes is None or codes.dtype.name != "int8" or any(b is None for b in bounds):
            continue
        low, high = ([*bounds, None, None])[:2]
        clipped = np.clip(codes, -128 if low is None else low, 127 if high is None else high)
        model.graph.initializer.append(
            numpy_helper.from_array(clipped.astype(np.int8), node.output[0])
        )
        model.graph.node.remove(node)
    remove_unused(model)


def _requantize(model: onnx.ModelProto, kinds: Sequence[str]) -> None:
    from onnx import helper

    graph = Graph(model)
    wanted = {c.node for c in quantized_convolutions(model) if c.kind in kinds}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.op_type == "Conv" and node.name in wanted:
            source = graph.dequantize(node.input[0])
            direct = graph.producers.get(node.input[0])
            if source is not None and direct is not None and direct.op_type != "DequantizeLinear":
                grid = list(source.input[1:])
                codes, values = f"{node.name}/input_codes", f"{node.name}/input_values"
                nodes += [
                    helper.make_node(
                        "QuantizeLinear", [node.input[0], *grid], [codes],
                        name=f"{node.name}/QuantizeLinear",
                    ),
                    helper.make_node(
                        "DequantizeLinear", [codes, *grid], [values],
                        name=f"{node.name}/DequantizeLinear",
                    ),
                ]  # fmt: skip
                node.input[0] = values
        nodes.append(node)
    kept = [copy_node(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy of a node that belongs to no graph."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def remove_unused(model: onnx.ModelProto) -> None:
    """Remove the initializers that no node reads, in place."""
    read = {name for node in model.graph.node for name in node.input}
    read |= {output.name for output in model.graph.output}
    read |= _outer_reads(model)
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _outer_reads(model: onnx.ModelProto) -> set[str]:
    """Return the names that the bodies of Scan, Loop and If read from anywhere."""
    from lmaunet.export.function import all_nodes

    return {name for node in all_nodes(list(model.graph.node)) for name in node.input}
