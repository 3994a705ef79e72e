"""The float network in other precisions than its own: half, and weights of four bits.

They are made of the float network of a run, its FP32 control, which no quantization has prepared
for them. The scan stays FP32 in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.errors import UserError
from lmaunet.export.convolutions import Graph, copy_node, groups_of, name_nodes, remove_unused

if TYPE_CHECKING:
    import onnx

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

    The nodes must have names of their own (:func:`lmaunet.export.convolutions.name_nodes`).
    """
    graph, found = Graph(model), []
    for node in graph.nodes:
        if node.op_type not in ("Conv", "MatMul"):
            continue
        weight = graph.constant(node.input[1])
        if weight is None or weight.dtype.name != "float32":
            continue
        if node.op_type == "Conv":
            depthwise = groups_of(node) > 1 and weight.shape[1] == 1
            terms = weight[0].size
            found.append(Product(node.name, node.input[1], 0, terms, weight.size, depthwise))
        else:
            axis, terms = weight.ndim - 1, weight.shape[-2]
            found.append(Product(node.name, node.input[1], axis, terms, weight.size, False))
    return found


def copy_named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model in which every node has a name of its own."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    name_nodes(result)
    return result


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float graph whose convolutions and matrix products multiply FP16 by FP16.

    Casts stand around each; all else, the scan among it, stays FP32.

    Raises:
        UserError: where a weight is beyond the range of FP16.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    result = copy_named(model)
    graph, wanted = Graph(result), {p.node for p in products(result)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if node.name not in wanted:
            nodes.append(node)
            continue
        name, output = node.name, node.output[0]
        for index in range(1, len(node.input)):
            value = graph.constant(node.input[index])
            if value is None or not (np.abs(value) <= HALF_LARGEST).all():
                raise UserError(
                    f"{name}: a weight is not constant or beyond {HALF_LARGEST:g}, the largest "
                    "number of FP16; build with --precision fp32"
                )
            half = f"{name}/half_{index}"
            result.graph.initializer.append(numpy_helper.from_array(value.astype("float16"), half))
            node.input[index] = half
        cast_in = helper.make_node(
            "Cast", [node.input[0]], [f"{name}/half"], name=f"{name}/to_half",
            to=TensorProto.FLOAT16,
        )  # fmt: skip
        node.input[0], node.output[0] = f"{name}/half", f"{name}/product"
        cast_out = helper.make_node(
            "Cast", [f"{name}/product"], [output], name=f"{name}/to_float", to=TensorProto.FLOAT
        )
        nodes += [cast_in, node, cast_out]
    _set_nodes(result, nodes)
    return result


def in_int4(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return a float graph with INT4 weights, and the same graph with their values as float32.

    Each dense convolution and matrix product has weights of -7 to 7 with a float32 scale for each
    output channel, rounded to nearest. Depthwise convolutions stay float: they hold 0.5% of the
    weights of base, and 3% of those of edge.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    form, reference = copy_named(model), copy_named(model)
    graph = Graph(form)
    by_name = [{node.name: node for node in m.graph.node} for m in (form, reference)]
    added = []
    for product in products(form):
        if product.depthwise:
            continue
        value = graph.constant(product.weight)
        assert value is not None
        others = tuple(i for i in range(value.ndim) if i != product.axis)
        peak = np.abs(value).max(others)
        scale = np.where(peak > 0, peak / INT4_LIMIT, 1).astype(np.float32)
        shape = [1] * value.ndim
        shape[product.axis] = -1
        spread = scale.reshape(shape)
        codes = np.clip(np.rint(value / spread), -INT4_LIMIT, INT4_LIMIT).astype(np.int8)
        name = product.node
        form.graph.initializer.append(
            helper.make_tensor(f"{name}/codes", TensorProto.INT4, codes.shape, codes.reshape(-1))
        )
        form.graph.initializer.append(numpy_helper.from_array(scale, f"{name}/scale"))
        added.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}/codes", f"{name}/scale"], [f"{name}/weights"],
                name=f"{name}/weights", axis=product.axis,
            )
        )  # fmt: skip
        same = (codes.astype(np.float32) * spread).astype(np.float32)
        reference.graph.initializer.append(numpy_helper.from_array(same, f"{name}/weights"))
        for nodes in by_name:
            nodes[name].input[1] = f"{name}/weights"
    _set_nodes(form, [*added, *graph.nodes])
    remove_unused(reference)
    for entry in form.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, INT4_OPSET)
    form.ir_version = max(form.ir_version, INT4_IR)
    return form, reference


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [copy_node(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    remove_unused(model)
