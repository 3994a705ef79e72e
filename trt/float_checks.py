"""Checks of the float network's other precisions: the graph's values, and the engine's layers."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.errors import Disagreement
from lmaunet.export.agreement import FLOAT32_TOLERANCE
from lmaunet.export.passes import array_of, read
from lmaunet.export.reference import open_session, reference_logits, run_images
from lmaunet.trt.float_forms import Product, copy_named, products
from lmaunet.trt.half_emulation import emulated
from lmaunet.trt.layer_table import EngineLayer, EngineTensor
from lmaunet.trt.precision import CONVOLVES

if TYPE_CHECKING:
    import numpy as np
    import onnx

HALF_ROUNDOFF = 2.0**-11
FLOAT_ROUNDOFF = 2.0**-24
HALF_CHAIN = ("/to_half", "/to_half/rounded", "", "/to_float/rounded", "/to_float")
"""What is added to the name of a product for the nodes that it becomes in half, in their order."""
GENERATED = "(generated)"
"""The input of a product that a generated kernel computes among other things."""


def check_half(
    form: onnx.ModelProto,
    model: onnx.ModelProto,
    image: np.ndarray,
    evidence: Path,
    in_float: Collection[str] = (),
) -> Agreement:
    """Require each product in half to be what FP16 can make of the float graph's input to it.

    With S the sum of the magnitudes of an output's products and its bias, u = 2**-11 and v = 2**-24
    the unit roundoffs of FP16 and FP32, and n products, rounding the input, the weights and the
    output moves the output by at most 3 u S to first order (Higham, "Accuracy and Stability of
    Numerical Algorithms", section 3.1), and the sums in FP32 of both sides by 2 n v S; 4 u S covers
    the second order. Subnormal FP16 numbers add 2**-25 for each factor.

    Args:
        form: from :func:`in_half`, lowered.
        model: the float graph that it was made of, lowered.
        image: ``(1, channels, H, W)``.
        evidence: where the tensors go that disagree.
        in_float: the products that were left in FP32.

    Raises:
        Disagreement: naming the product.
    """
    import numpy as np

    named = copy_named(model)
    found = [product for product in products(named) if product.node not in in_float]
    nodes = {node.name: node for node in named.graph.node}
    ends = [(nodes[p.node].input[0], nodes[p.node].output[0]) for p in found]
    values = _values(named, [name for pair in ends for name in pair], image)
    rounded = emulated(form)
    halves = {node.name: node for node in rounded.graph.node}
    total, worst = 0, 0.0
    for product in found:
        node = nodes[product.node]
        x, y = values[node.input[0]], values[node.output[0]]
        if product.node not in halves or f"{product.node}/to_half" not in halves:
            raise Disagreement(f"{product.node} is not in half in the form; build again")
        chain = [product.node + part for part in HALF_CHAIN]
        got = _single(rounded, [halves[name] for name in chain], x, y.shape)
        bound = _bound(named, node, x, y.shape, product.terms)
        agreed = require_agreement(
            f"trt graph in half, {product.node}, difference over its bound",
            (got.astype(np.float64) - y) / bound, np.zeros(y.shape), 1.0, evidence=evidence,
        )  # fmt: skip
        total, worst = total + agreed.n_total, max(worst, agreed.max_abs)
    return Agreement("trt graph in half, products over their bound", worst, 0, total, 1.0, True)


def _values(model: onnx.ModelProto, names: list[str], image: np.ndarray) -> dict[str, np.ndarray]:
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    wanted = [n for n in dict.fromkeys(names) if n != model.graph.input[0].name]
    known = {output.name for output in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in wanted
        if name not in known
    )
    session = open_session(copy, optimize=False)
    got = session.run(wanted, {session.get_inputs()[0].name: image})
    return {model.graph.input[0].name: image, **dict(zip(wanted, got, strict=True))}


def _single(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], x: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Return what a chain of nodes of a model makes of an array."""
    import onnx
    from onnx import helper

    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info(nodes[0].input[0], onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, shape)],
        [tensor for tensor in model.graph.initializer if tensor.name in read],
    )
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = open_session(single, optimize=False)
    return session.run(None, {nodes[0].input[0]: x})[0]  # type: ignore[no-any-return]


def _bound(
    model: onnx.ModelProto, node: onnx.NodeProto, x: np.ndarray, shape: tuple[int, ...], terms: int
) -> np.ndarray:
    """Return the bound of :func:`check_half` for each output of a product."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    stored = {value.name: value for n in read(model).graph for value in n.inputs if value}

    def magnitude(x: np.ndarray, smallest: float) -> np.ndarray:
        copy, single = onnx.ModelProto(), onnx.NodeProto()
        copy.CopyFrom(model)
        single.CopyFrom(node)
        for name in node.input[1:]:
            array = np.maximum(np.abs(array_of(stored[name])), smallest).astype(np.float32)
            copy.graph.initializer.append(numpy_helper.from_array(array, f"{name}/magnitude"))
        single.input[1:] = [f"{name}/magnitude" for name in node.input[1:]]
        return _single(copy, [single], np.abs(x), shape).astype(np.float64)

    total = magnitude(x, 0)
    # a factor below 2**-14 is off by 2**-25 at most, whatever it is; it meets the other factor
    subnormal = 2.0**-25 * (magnitude(np.ones_like(x), 0) + magnitude(x, 1.0) + 1)
    spread = 4 * HALF_ROUNDOFF + 2 * terms * FLOAT_ROUNDOFF
    return spread * total + subnormal


def check_int4(
    form: onnx.ModelProto, reference: onnx.ModelProto, images: np.ndarray, evidence: Path
) -> tuple[Agreement, Agreement]:
    """Require INT4 weights to have exactly the values of a float graph, and its logits.

    A code times a scale is one product, rounded once, wherever it is computed, so that no weight
    may differ. The sums of the two graphs may be in another order, for which the tolerance of the
    logits is that of :func:`check_float`.
    """
    import numpy as np
    from onnx import numpy_helper

    names = [n.output[0] for n in form.graph.node if n.op_type == "DequantizeLinear"]
    got = _values(form, [*names, form.graph.output[0].name], images[:1])
    stored = {t.name: t for t in reference.graph.initializer if t.name in names}
    weights = require_agreement(
        "trt graph with INT4 weights, weights",
        np.concatenate([got[name].reshape(-1) for name in names]),
        np.concatenate([numpy_helper.to_array(stored[name]).reshape(-1) for name in names]),
        0, evidence=evidence,
    )  # fmt: skip
    expected = run_images(open_session(reference, optimize=False), images)
    logits = require_agreement(
        "trt graph with INT4 weights, logits",
        run_images(open_session(form, optimize=False), images), expected,
        FLOAT32_TOLERANCE * float(abs(expected).max()), evidence=evidence,
    )  # fmt: skip
    return weights, logits


def check_float(
    form: onnx.ModelProto, exported: onnx.ModelProto, images: np.ndarray, evidence: Path
) -> Agreement:
    """Require the float graph with a lowered scan to compute what the exported one does.

    Both are FP32 and add in another order inside the scan alone; the tolerance is the one that the
    export holds its own lowerings to.
    """
    got = run_images(open_session(form, optimize=True), images)
    expected = reference_logits(exported, images)
    tolerance = FLOAT32_TOLERANCE * float(abs(expected).max())
    return require_agreement(
        "trt graph in fp32, logits", got, expected, tolerance, evidence=evidence
    )


def check_products(
    layers: Sequence[EngineLayer],
    found: Sequence[Product],
    precision: str,
    in_float: Collection[str] = (),
) -> list[dict[str, str | int]]:
    """Return what the engine made of each product, each in the precision that was asked for.

    Args:
        layers: the engine's layer table.
        found: the products of the float graph.
        precision: ``fp32``, ``fp16`` or ``int4-weights``.
        in_float: the products that are FP32 whatever the precision.

    Raises:
        Disagreement: where no layer computes a product, or one multiplies another type, or stores
            weights of another.
    """
    rows: list[dict[str, str | int]] = []
    wrong = []
    for product in found:
        multiplied, kept = {
            "fp32": ("Float", "Float"),
            "fp16": ("Half", "Half"),
            "int4-weights": ("Float", "Float" if product.depthwise else "Int4"),
        }["fp32" if product.node in in_float else precision]
        layer, operand = _computing(layers, product, kept)
        stored = operand.datatype
        if operand in layer.inputs:
            sources = [
                constant
                for one in layers
                if any(output.name == operand.name for output in one.outputs)
                for constant in one.constants
            ]
            stored = max(sources, key=lambda t: math.prod(t.dims)).datatype if sources else stored
        generated = not CONVOLVES.search(layer.type)
        got = GENERATED if generated else layer.inputs[0].datatype
        if stored != kept or got not in (multiplied, GENERATED):
            wrong.append(
                f"{product.node} is {got} x {stored} in layer {layer.name}, "
                f"expected {multiplied} x {kept}"
            )
        rows.append({"node": product.node, "layer": layer.name, "input": got, "weights": stored})
    if wrong:
        raise Disagreement(
            f"{len(wrong)} of {len(found)} products are not {precision} in the engine: "
            + "; ".join(wrong)
        )
    return rows


def _computing(
    layers: Sequence[EngineLayer], product: Product, datatype: str
) -> tuple[EngineLayer, EngineTensor]:
    """Return the layer that computes a product, and its operand with the weights.

    A product of few terms may be unrolled in a generated kernel, which holds the weights in rows;
    among constants of a row's size, those of ``datatype`` come first.
    """
    mine = [one for one in layers if product.node in one.onnx_nodes and one.inputs]
    for layer in mine:
        if CONVOLVES.search(layer.type):
            operands = [
                t
                for t in (*layer.constants, *layer.inputs[1:])
                if math.prod(t.dims) >= product.elements
            ]
            if operands:
                return layer, max(operands, key=lambda t: t.bytes)
    sizes = (product.elements, product.elements // product.terms)
    for size in sizes:
        rows = [
            (layer, constant)
            for layer in mine
            for constant in layer.constants
            if math.prod(constant.dims) == size and not CONVOLVES.search(layer.type)
        ]
        if rows:
            return min(rows, key=lambda row: row[1].datatype != datatype)
    raise Disagreement(
        f"{product.node}: no layer of the engine computes it; build with another --precision, and "
        "report this network"
    )
