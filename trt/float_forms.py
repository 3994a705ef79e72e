"""The float network in other precisions than its own: half, and weights of four bits.

They are made of the float network of a run, its FP32 control, which no quantization has prepared
for them. The scan stays FP32 in each.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from lmaunet.errors import UserError
from lmaunet.export.convolutions import groups_of
from lmaunet.export.passes import (
    NodeNames,
    Pass,
    UnreadConstants,
    add_constant,
    array_of,
    constant,
    label,
    new_node,
    read,
    run,
)

INT4_OPSET, INT4_IR = 21, 10
INT4_LIMIT = 7
HALF_LARGEST = 65504.0


@dataclass(frozen=True)
class Product:
    """A convolution, or a matrix product with constant weights.

    ``axis`` is that of the output channels in its weights; ``terms`` is how many products are added
    for one output, ``elements`` how many weights there are.
    """

    node: str
    weight: str
    axis: int
    terms: int
    elements: int
    depthwise: bool


def products(model: onnx.ModelProto) -> list[Product]:
    """Return the convolutions and the matrix products with constant weights, in the graph's order.

    The nodes must have names of their own (:func:`copy_named`).
    """
    return list(_products(read(model).graph).values())


def _products(graph: ir.Graph) -> dict[ir.Node, Product]:
    found = {}
    for node in graph:
        weight = constant(node.inputs[1]) if node.op_type in ("Conv", "MatMul") else None
        if weight is None or weight.dtype.name != "float32":
            continue
        name = node.inputs[1].name
        if node.op_type == "Conv":
            depthwise = groups_of(node) > 1 and weight.shape[1] == 1
            found[node] = Product(node.name, name, 0, weight[0].size, weight.size, depthwise)
        else:
            axis, terms = weight.ndim - 1, weight.shape[-2]
            found[node] = Product(node.name, name, axis, terms, weight.size, False)
    return found


class HalfProducts(Pass):
    """Let convolutions and matrix products multiply FP16 by FP16.

    Casts stand around each; all else, the scan and the norms among it, stays FP32.

    Args:
        in_float: the products, by their nodes' names, that stay FP32 too.
    """

    name = "products in half"

    def __init__(self, in_float: Collection[str] = ()) -> None:
        self.in_float = frozenset(in_float)

    def _found(self, graph: ir.Graph) -> list[ir.Node]:
        return [node for node in _products(graph) if node.name not in self.in_float]

    def rewrite(self, model: ir.Model) -> int:
        """Cast; raises :class:`UserError` where a weight is beyond the range of FP16."""
        graph, found = model.graph, self._found(model.graph)
        for node in found:
            name, output = node.name, node.outputs[0]
            for index in range(1, len(node.inputs)):
                value = constant(node.inputs[index])
                if value is None or not (np.abs(value) <= HALF_LARGEST).all():
                    raise UserError(
                        f"{name}: a weight is not constant or beyond {HALF_LARGEST:g}, the largest "
                        "number of FP16; build with --precision fp32"
                    )
                half = add_constant(graph, f"{name}/half_{index}", value.astype("float16"))
                node.replace_input_with(index, half)
            cast_in = new_node(
                "Cast", [node.inputs[0]], f"{name}/half", name=f"{name}/to_half",
                to=TensorProto.FLOAT16,
            )  # fmt: skip
            cast_out = new_node(
                "Cast", [output], output.name, name=f"{name}/to_float", to=TensorProto.FLOAT
            )
            product = cast_out.outputs[0]
            product.type, product.shape = output.type, output.shape
            output.replace_all_uses_with(product, replace_graph_outputs=True)
            cast_out.replace_input_with(0, output)
            output.name, output.type, output.shape = f"{name}/product", None, None
            node.replace_input_with(0, cast_in.outputs[0])
            graph.insert_before(node, cast_in)
            graph.insert_after(node, cast_out)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each product that is still one of FP32."""
        yield from (f"{label(node)} multiplies float32" for node in self._found(model.graph))


class Int4Products(Pass):
    """Give dense convolutions and matrix products weights of -7 to 7.

    They have a float32 scale for each output channel and are rounded to nearest. Depthwise
    convolutions stay float: they hold 0.5% of the weights of base, and 3% of those of edge.

    Args:
        stored: whether they are stored as INT4; as float32 numbers of the same values otherwise.
    """

    name = "products with INT4 weights"

    def __init__(self, stored: bool) -> None:
        self.stored = stored

    def rewrite(self, model: ir.Model) -> int:
        """Round them."""
        graph, added = model.graph, []
        for node, product in _products(graph).items():
            if product.depthwise:
                continue
            codes, scale, spread = _int4(array_of(node.inputs[1]), product.axis)
            name = product.node
            if self.stored:
                four = helper.make_tensor(
                    f"{name}/codes", TensorProto.INT4, codes.shape, codes.reshape(-1)
                )
                inputs = [
                    add_constant(graph, four.name, ir.from_proto(four)),
                    add_constant(graph, f"{name}/scale", scale),
                ]
                names = f"{name}/weights"
                added.append(
                    new_node("DequantizeLinear", inputs, names, name=names, axis=product.axis)
                )
                node.replace_input_with(1, added[-1].outputs[0])
            else:
                same = (codes.astype(np.float32) * spread).astype(np.float32)
                node.replace_input_with(1, add_constant(graph, f"{name}/weights", same))
        if self.stored:
            graph.insert_before(graph[0], added)
            model.opset_imports[""] = max(model.opset_imports[""], INT4_OPSET)
            model.ir_version = max(model.ir_version, INT4_IR)
        return len(added)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each dense product whose weights take more than INT4 has."""
        for node, product in _products(model.graph).items():
            if self.stored and not product.depthwise:
                yield f"the weights of {label(node)} are float32"


def _int4(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the codes of weights, their scales along an axis, and these to multiply with."""
    others = tuple(i for i in range(weights.ndim) if i != axis)
    peak = np.abs(weights).max(others)
    scale = np.where(peak > 0, peak / INT4_LIMIT, 1).astype(np.float32)
    shape = [1] * weights.ndim
    shape[axis] = -1
    spread = scale.reshape(shape)
    codes = np.clip(np.rint(weights / spread), -INT4_LIMIT, INT4_LIMIT).astype(np.int8)
    return codes, scale, spread


INT4: tuple[Pass, ...] = (NodeNames(), Int4Products(stored=True), UnreadConstants())
INT4_REFERENCE: tuple[Pass, ...] = (NodeNames(), Int4Products(stored=False), UnreadConstants())


def copy_named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model in which every node has a name of its own."""
    return run([NodeNames()], model)


def in_half(model: onnx.ModelProto, in_float: Collection[str] = ()) -> onnx.ModelProto:
    """Return a float graph after :class:`HalfProducts`; raises as that does."""
    return run((NodeNames(), HalfProducts(in_float), UnreadConstants()), model)


def in_int4(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a float graph with INT4 weights, and the same graph with their values as float32."""
    return run(INT4, model), run(INT4_REFERENCE, model)
