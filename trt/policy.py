"""What each operation is to be in the INT8 engine, and the graph in the form that makes it so.

:data:`RULES` is the policy, one rule an operation. :func:`apply` brings an exported QCDQ graph
into that form without changing a value, and says of every quantized convolution which rule holds
for it, so that :mod:`lmaunet.trt.precision` can compare the engine's own layer table with the
intention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.errors import UserError
from lmaunet.export.convolutions import (
    Graph,
    QuantizedConvolution,
    copy_node,
    prepare,
    quantized_convolutions,
    remove_unused,
)

if TYPE_CHECKING:
    import onnx

W8A8, WEIGHT_ONLY, FLOAT = "W8A8", "weight-only INT8", "float"


@dataclass(frozen=True)
class Rule:
    """One row of the policy: the form of an operation, why, and what TensorRT makes of it."""

    operation: str
    form: str
    why: str
    engine: str


RULES = (
    Rule(
        "Conv, dense",
        "W8A8: INT8 codes times INT8 weights, an FP32 scale for each output channel",
        "nearly all multiplications; tensor cores multiply INT8 twice as fast as FP16",
        "a library convolution Int8 x Int8; bias and rounding in the generated kernel after it",
    ),
    Rule(
        "Conv 1x1, dense (each linear map too)",
        "W8A8, the scale along the output channels (N), never along K",
        "a scale along K cannot be taken out of the sum",
        "as above; with a scale along K it would be float",
    ),
    Rule(
        "Conv, depthwise",
        "weight-only INT8: input rounded to its codes, weights INT8, arithmetic FP32",
        "0.7% of the multiplications in base, 3% in edge; INT8 kernels want 4 channels a group",
        "W8A8 would join three maps of zeros to every channel; so the weights stay 1 byte and one "
        "kernel dequantizes those of all equal kernel sizes",
    ),
    Rule(
        "ConvTranspose",
        "none: refused",
        "its INT8 weights are dequantized at run time and the arithmetic is float",
        "the network resizes by nearest neighbour after a W8A8 1x1 convolution instead",
    ),
    Rule(
        "SelectiveScan",
        "FP32, outside any Q/DQ pair, lowered to two_level",
        "a state in FP16 is off by 1e-3, in BF16 by 1e-2",
        "generated FP32 kernels; TF32 is off for the whole engine",
    ),
    Rule(
        "Add, Mul, Relu, Silu, Softplus, Exp, Resize",
        "FP32 between quantizers",
        "memory-bound",
        "fused into the generated kernel that also rounds to codes",
    ),
    Rule(
        "MaxPool, Concat, Reshape, Transpose",
        "INT8 codes",
        "they only move values",
        "on codes where both sides have the same scale",
    ),
)

LEAST = -3.4028234663852886e38
"""The least float32: ``Max(x, LEAST)`` is x. TensorRT does not look through it for Q/DQ pairs."""


@dataclass(frozen=True)
class PlannedConvolution:
    """A quantized convolution and its form; ``pool`` is the name of the joined weights, if any."""

    convolution: QuantizedConvolution
    form: str
    pool: str = ""


def form_of(convolution: QuantizedConvolution) -> str:
    """Return the form that the policy gives a quantized convolution."""
    return WEIGHT_ONLY if convolution.kind == "depthwise" else W8A8


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[PlannedConvolution, ...]]:
    """Return a copy of an exported QCDQ graph in the policy's form, and its quantized convolutions.

    The values stay as they are, bit for bit.

    Raises:
        UserError: where the graph has something that the policy has no form for: a transposed
            convolution, a scale that is not FP32 or not along the output channels, an activation
            that is not INT8 with zero point 0.
    """
    result = prepare(model, kinds=("dense", "grouped"))
    _refuse(result)
    found = quantized_convolutions(result)
    depthwise = [c for c in found if form_of(c) == WEIGHT_ONLY]
    pools = _pool_weights(result, depthwise)
    _hide_codes(result, {c.node for c in depthwise})
    planned = [PlannedConvolution(c, form_of(c), pools.get(c.node, "")) for c in found]
    return result, tuple(planned)


def _refuse(model: onnx.ModelProto) -> None:
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type == "ConvTranspose":
            raise UserError(
                f"{node.name} is a transposed convolution, which TensorRT computes in float; "
                "upsample by Resize with a 1x1 convolution before it"
            )
        if node.op_type != "Conv":
            continue
        weight = graph.weight(node.input[1])
        if weight is None:
            continue
        dequantize = graph.producers[node.input[1]]
        scale = graph.constant(dequantize.input[1])
        axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 1)
        if scale is None or scale.dtype.name != "float32":
            got = "not constant" if scale is None else scale.dtype.name
            raise UserError(
                f"{node.name}: the scale of its weights is {got}; expected a float32 constant; "
                "export the network again"
            )
        if scale.size > 1 and axis != 0:
            raise UserError(
                f"{node.name}: the scales of its weights lie along axis {axis}; expected axis 0, "
                "the output channels; quantize the weights for each output channel"
            )


def _pool_weights(
    model: onnx.ModelProto, convolutions: Sequence[QuantizedConvolution]
) -> dict[str, str]:
    """Join the INT8 weights of equal kernel sizes, in place; return each convolution's pool.

    A pool is dequantized at once and split: one generated kernel stands for one for each of the
    convolutions. The Max keeps TensorRT from splitting the constant instead.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = Graph(model)
    by_name = {node.name: node for node in graph.nodes}
    groups: dict[tuple[int, ...], list[QuantizedConvolution]] = {}
    for convolution in convolutions:
        groups.setdefault(convolution.weight_dims[1:], []).append(convolution)
    added: list[onnx.NodeProto] = []
    pools: dict[str, str] = {}
    for dims, members in groups.items():
        pool = f"depthwise_{'x'.join(map(str, dims[1:]))}"
        codes, scales = [], []
        for member in members:
            name = by_name[member.node].input[1]
            _, array = graph.weight(name) or ("", np.empty(0, np.int8))
            scale = graph.constant(graph.producers[name].input[1])
            assert scale is not None  # _refuse has seen to it
            codes.append(array)
            scales.append(np.broadcast_to(scale.reshape(-1), array.shape[:1]))
            pools[member.node] = pool
        channels = [len(part) for part in codes]
        constants = {
            f"{pool}/codes": np.concatenate(codes),
            f"{pool}/scales": np.concatenate(scales).astype(np.float32),
            f"{pool}/zeros": np.zeros(sum(channels), np.int8),
            f"{pool}/least": np.float32(LEAST),
            f"{pool}/channels": np.array(channels, np.int64),
        }
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        weights = [f"{member.node}/weights" for member in members]
        added += [
            helper.make_node(
                "DequantizeLinear", [f"{pool}/codes", f"{pool}/scales", f"{pool}/zeros"],
                [f"{pool}/values"], name=f"{pool}/DequantizeLinear", axis=0,
            ),
            helper.make_node(
                "Max", [f"{pool}/values", f"{pool}/least"], [f"{pool}/kept"], name=f"{pool}/Max"
            ),
            helper.make_node(
                "Split", [f"{pool}/kept", f"{pool}/channels"], weights, name=f"{pool}/Split", axis=0
            ),
        ]  # fmt: skip
        for member, weight in zip(members, weights, strict=True):
            by_name[member.node].input[1] = weight
    _replace_nodes(model, [*added, *graph.nodes])
    return pools


def _hide_codes(model: onnx.ModelProto, names: set[str]) -> None:
    """Put a Max before each named convolution, in place, so that its input is seen as float."""
    import numpy as np
    from onnx import helper, numpy_helper

    if not names:
        return
    least = "least_float32"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(LEAST)), least))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in names:
            values = f"{node.name}/values"
            nodes.append(
                helper.make_node("Max", [node.input[0], least], [values], name=f"{node.name}/Max")
            )
            node.input[0] = values
        nodes.append(node)
    _replace_nodes(model, nodes)


def _replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Set a model's nodes, without those whose outputs nothing reads any more."""
    kept = [copy_node(node) for node in nodes]
    read = {name for node in kept for name in node.input} | {o.name for o in model.graph.output}
    while True:
        used = [node for node in kept if any(name in read for name in node.output)]
        if len(used) == len(kept):
            break
        kept = used
        read = {n for node in kept for n in node.input} | {o.name for o in model.graph.output}
    del model.graph.node[:]
    model.graph.node.extend(kept)
    remove_unused(model)
