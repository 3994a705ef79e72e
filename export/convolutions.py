"""Which convolutions of a QCDQ graph are quantized, and the graph in the form that runtimes fuse.

A runtime uses an integer kernel only where it recognises the pattern: an INT8 constant, then
DequantizeLinear, then Conv, with a DequantizeLinear on the other input as well. The exporter
leaves two things in the way, an INT8 Clip on the weights and operators that move codes about
(Resize ...) between DequantizeLinear and Conv. :func:`preparation` removes both without changing
a single value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from lmaunet.errors import UserError
from lmaunet.export.passes import (
    NodeNames,
    Pass,
    UnreadConstants,
    add_constant,
    constant,
    label,
    new_node,
    read,
    run,
)

if TYPE_CHECKING:
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


def weight_of(value: ir.Value) -> tuple[ir.Value, np.ndarray] | None:
    """Return the INT8 constant that a convolution's weight input dequantizes, and its codes."""
    dequantize = value.producer()
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    source = dequantize.inputs[0]
    while (producer := source.producer()) is not None and producer.op_type in ("Clip", "Identity"):
        source = producer.inputs[0]
    codes = constant(source)
    if codes is None or codes.dtype.name != "int8":
        return None
    return source, codes


def grid_of(value: ir.Value) -> ir.Node | None:
    """Return the per-tensor DequantizeLinear on whose grid a tensor lies; None where none.

    Every path from the tensor must end in one, and all of these must have equal scale and zero
    point.
    """
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "DequantizeLinear":
        scale = constant(node.inputs[1])
        return node if scale is not None and scale.size == 1 else None
    if node.op_type not in MOVES or not _keeps_values(node):
        return None
    inputs = node.inputs[:1]
    if node.op_type == "Concat":
        inputs = [source for source in node.inputs if not _is_zero(source)]
    found = [grid_of(source) for source in inputs]
    first = found[0] if found else None
    if first is None or any(f is None or not _same_grid(f, first) for f in found):
        return None
    return first


def _is_zero(value: ir.Value) -> bool:
    """Tell whether a tensor is zeros of some shape, which lie on every grid."""
    node = value.producer()
    if node is None or node.op_type != "ConstantOfShape":
        return False
    return "value" not in node.attributes or not node.attributes["value"].as_tensor().numpy().any()


def _keeps_values(node: ir.Node) -> bool:
    """Tell whether a Resize takes the nearest value and a Pad fills with zero."""
    if node.op_type == "Resize":
        return "mode" not in node.attributes or node.attributes["mode"].as_string() == "nearest"
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        value = constant(node.inputs[2])
        return value is not None and not value.any()
    return True


def _same_grid(one: ir.Node, other: ir.Node) -> bool:
    for a, b in zip(one.inputs[1:], other.inputs[1:], strict=True):
        left, right = constant(a), constant(b)
        if left is None or right is None or not np.array_equal(left, right):
            return False
    return True


def groups_of(conv: ir.Node) -> int:
    """Return a convolution's number of groups."""
    return conv.attributes["group"].as_int() if "group" in conv.attributes else 1


def quantized(graph: ir.Graph) -> dict[ir.Node, QuantizedConvolution]:
    """Return the quantized convolutions of a graph by their nodes, in its order.

    A convolution counts when its weights are an INT8 constant under DequantizeLinear and its input
    lies on the grid of one DequantizeLinear, directly or through operators that only move values.
    """
    found = {}
    for node in graph:
        weight = weight_of(node.inputs[1]) if node.op_type == "Conv" else None
        if weight is not None and grid_of(node.inputs[0]) is not None:
            value, codes = weight
            found[node] = QuantizedConvolution(
                node.name or node.outputs[0].name, value.name, tuple(codes.shape), groups_of(node)
            )
    return found


def quantized_convolutions(model: onnx.ModelProto) -> list[QuantizedConvolution]:
    """Return the quantized convolutions of a model, in its order, as :func:`quantized` does."""
    return list(quantized(read(model).graph).values())


def float_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that are not quantized, in the graph's order."""
    graph = read(model).graph
    found = quantized(graph)
    return [n.name or n.outputs[0].name for n in graph if n.op_type == "Conv" and n not in found]


class WeightClips(Pass):
    """Apply each Clip of a constant INT8 weight to the weight itself, which keeps its name.

    Brevitas says a narrow range (-127 to 127) with a Clip, which TensorRT does not read on INT8.
    """

    name = "weight-clip folding"

    def rewrite(self, model: ir.Model) -> int:
        """Compute them."""
        found = list(_weight_clips(model.graph))
        for node, codes, bounds in found:
            low, high = (
                default if b is None else b for b, default in zip(bounds, (-128, 127), strict=True)
            )
            clipped = np.clip(codes, low, high).astype(np.int8)
            source, output = node.inputs[0], node.outputs[0]
            if source.is_initializer() and len(source.uses()) == 1:
                source.const_value = ir.tensor(clipped, name=source.name)
                output.replace_all_uses_with(source)
            else:
                output.replace_all_uses_with(
                    add_constant(model.graph, f"{output.name}/clipped", clipped)
                )
            model.graph.remove(node, safe=True)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        for node, *_ in _weight_clips(model.graph):
            yield f"{label(node)} clips a constant weight"


def _weight_clips(
    graph: ir.Graph,
) -> Iterator[tuple[ir.Node, np.ndarray, list[np.ndarray | None]]]:
    """Yield each Clip of INT8 constants by constant bounds, with codes, lower and upper bound."""
    for node in graph:
        codes = constant(node.inputs[0]) if node.op_type == "Clip" else None
        if codes is None or codes.dtype.name != "int8" or node.outputs[0].is_graph_output():
            continue
        given = [*node.inputs[1:], None, None][:2]
        bounds = [constant(value) for value in given]
        if all(b is not None or value is None for b, value in zip(bounds, given, strict=True)):
            yield node, codes, bounds


class InputQuantizers(Pass):
    """Put a quantizer right before each quantized convolution whose DequantizeLinear is further up.

    Its scale is the same, so that the values stay as they are, bit for bit: with a code q and a
    float32 scale s, ``(q * s) / s`` differs from q by less than ``q * 2**-22`` and rounds to q, and
    ``q * s`` is then the same product as before.

    Args:
        kinds: of which :attr:`QuantizedConvolution.kind`.
    """

    name = "quantizers at convolutions"

    def __init__(self, kinds: Sequence[str] = ("dense", "depthwise", "grouped")) -> None:
        self.kinds = kinds

    def requires(self, model: ir.Model) -> None:
        """Raise :class:`UserError` where an activation is not INT8 with zero point 0.

        TensorRT refuses a zero point other than 0 and reads UINT8 codes as INT8, which would be
        wrong.
        """
        for node in model.graph:
            if node.op_type != "QuantizeLinear":
                continue
            zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
            got = "uint8" if zero is None else zero.dtype.name
            if zero is None or got != "int8" or zero.any():
                value = 0 if zero is None else zero.reshape(-1)[0]
                raise UserError(
                    f"quantizer {node.name}: {got} with zero point {value}; expected int8 with "
                    "zero point 0; quantize activations symmetrically to INT8"
                )

    def rewrite(self, model: ir.Model) -> int:
        """Add them."""
        found = list(self._without(model.graph))
        for node in found:
            names = f"{node.name}/input_codes", f"{node.name}/input_values"
            added = same_quantizer(node.inputs[0], *names, node.name)
            model.graph.insert_before(node, added)
            node.replace_input_with(0, added[-1].outputs[0])
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each convolution that still has none."""
        for node in self._without(model.graph):
            yield f"no quantizer stands before {label(node)}"

    def _without(self, graph: ir.Graph) -> Iterator[ir.Node]:
        for node, convolution in quantized(graph).items():
            if convolution.kind in self.kinds:
                direct = node.inputs[0].producer()
                if direct is not None and direct.op_type != "DequantizeLinear":
                    yield node


def same_quantizer(value: ir.Value, codes: str, values: str, name: str) -> list[ir.Node]:
    """Return a new quantizer, two nodes, of the grid that a tensor lies on.

    Args:
        value: the tensor, which it reads.
        codes, values: what its codes and the tensor that it puts out are called.
        name: begins the names of its nodes.
    """
    source = grid_of(value)
    assert source is not None
    grid = source.inputs[1:]
    quantize = new_node("QuantizeLinear", [value, *grid], codes, name=f"{name}/QuantizeLinear")
    inputs = [quantize.outputs[0], *grid]
    return [
        quantize, new_node("DequantizeLinear", inputs, values, name=f"{name}/DequantizeLinear")
    ]  # fmt: skip


def preparation(kinds: Sequence[str] = ("dense", "depthwise", "grouped")) -> tuple[Pass, ...]:
    """Return the passes that bring a QCDQ graph into the form that runtimes fuse."""
    return NodeNames(), WeightClips(), UnreadConstants(), InputQuantizers(kinds)


def prepare(
    model: onnx.ModelProto, kinds: Sequence[str] = ("dense", "depthwise", "grouped")
) -> onnx.ModelProto:
    """Return a copy of a QCDQ model after :func:`preparation`, with the same values, bit for bit.

    Raises:
        UserError: where an activation is not INT8 with zero point 0.
    """
    return run(preparation(kinds), model)
