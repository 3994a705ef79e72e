"""What each operation is to be in the INT8 engine, and the graph in the form that makes it so.

:data:`RULES` is the policy, one rule an operation. :func:`apply` brings an exported QCDQ graph
into that form without changing a value, and says of every quantized convolution which rule holds
for it, so that :mod:`lmaunet.trt.precision` can compare the engine's own layer table with the
intention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from lmaunet.errors import UserError
from lmaunet.export.convolutions import (
    QuantizedConvolution,
    grid_of,
    preparation,
    quantized,
    quantized_convolutions,
    weight_of,
)
from lmaunet.export.passes import (
    DeadNodes,
    Pass,
    add_constant,
    array_of,
    constant,
    label,
    new_node,
    run,
)

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


def pool_of(convolution: QuantizedConvolution) -> str:
    """Return what the weights are called that a convolution's are joined with; "" where none."""
    if form_of(convolution) != WEIGHT_ONLY:
        return ""
    return f"depthwise_{'x'.join(map(str, convolution.weight_dims[2:]))}"


class PooledWeights(Pass):
    """Join the INT8 weights of depthwise convolutions with equal kernel sizes.

    A pool is dequantized at once and split: one generated kernel stands for one for each of the
    convolutions. The Max keeps TensorRT from splitting the constant instead.
    """

    name = "pooling of depthwise weights"

    def requires(self, model: ir.Model) -> None:
        """Raise :class:`UserError` where the graph has something that the policy has no form for.

        That is a transposed convolution, or a scale that is not FP32 or not along the output
        channels.
        """
        for node in model.graph:
            if node.op_type == "ConvTranspose":
                raise UserError(
                    f"{node.name} is a transposed convolution, which TensorRT computes in float; "
                    "upsample by Resize with a 1x1 convolution before it"
                )
            if node.op_type == "Conv" and weight_of(node.inputs[1]) is not None:
                _check_scale(node)

    def rewrite(self, model: ir.Model) -> int:
        """Join them."""
        graph = model.graph
        pools: dict[str, list[ir.Node]] = {}
        for node, convolution in quantized(graph).items():
            if pool := pool_of(convolution):
                pools.setdefault(pool, []).append(node)
        added: list[ir.Node] = []
        for pool, members in pools.items():
            codes, scales = [], []
            for node in members:
                _, array = weight_of(node.inputs[1]) or (None, np.empty(0, np.int8))
                scale = array_of(node.inputs[1].producer().inputs[1])
                codes.append(array)
                scales.append(np.broadcast_to(scale.reshape(-1), array.shape[:1]))
            channels = [len(part) for part in codes]
            stored, scale, zeros, least, sizes = (
                add_constant(graph, f"{pool}/{name}", np.asarray(array))
                for name, array in (
                    ("codes", np.concatenate(codes)),
                    ("scales", np.concatenate(scales).astype(np.float32)),
                    ("zeros", np.zeros(sum(channels), np.int8)),
                    ("least", np.float32(LEAST)),
                    ("channels", np.array(channels, np.int64)),
                )
            )
            values = new_node(
                "DequantizeLinear", [stored, scale, zeros], f"{pool}/values",
                name=f"{pool}/DequantizeLinear", axis=0,
            )  # fmt: skip
            kept = new_node("Max", [*values.outputs, least], f"{pool}/kept", name=f"{pool}/Max")
            split = new_node(
                "Split", [*kept.outputs, sizes], [f"{node.name}/weights" for node in members],
                name=f"{pool}/Split", axis=0,
            )  # fmt: skip
            added += [values, kept, split]
            for node, weights in zip(members, split.outputs, strict=True):
                node.replace_input_with(1, weights)
        graph.insert_before(graph[0], added)
        return len(pools)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each depthwise convolution that has weights of its own."""
        for node, convolution in quantized(model.graph).items():
            if pool_of(convolution):
                yield f"the weights of {label(node)} are not joined"


def _check_scale(node: ir.Node) -> None:
    dequantize = node.inputs[1].producer()
    scale = constant(dequantize.inputs[1])
    axis = dequantize.attributes["axis"].as_int() if "axis" in dequantize.attributes else 1
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


class FloatInputs(Pass):
    """Put a Max before each convolution with joined weights, so that its input is seen as float."""

    name = "float inputs of depthwise convolutions"

    def rewrite(self, model: ir.Model) -> int:
        """Add them."""
        found = list(_visible_codes(model.graph))
        for node in found:
            least = add_constant(model.graph, "least_float32", np.asarray(np.float32(LEAST)))
            values = f"{node.name}/values"
            kept = new_node("Max", [node.inputs[0], least], values, name=f"{node.name}/Max")
            model.graph.insert_before(node, kept)
            node.replace_input_with(0, kept.outputs[0])
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that reads codes."""
        for node in _visible_codes(model.graph):
            yield f"{label(node)} is seen to read codes"


def _visible_codes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield each convolution whose weights are a part of a Split and whose input is on a grid."""
    for node in graph:
        source = node.inputs[1].producer() if node.op_type == "Conv" else None
        if source is not None and source.op_type == "Split" and grid_of(node.inputs[0]):
            yield node


PREPARATION = preparation(("dense", "grouped"))
POLICY: tuple[Pass, ...] = (PooledWeights(), FloatInputs(), DeadNodes())


def apply(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[PlannedConvolution, ...]]:
    """Return a copy of an exported QCDQ graph in the policy's form, and its quantized convolutions.

    The values stay as they are, bit for bit.

    Raises:
        UserError: where the graph has something that the policy has no form for: a transposed
            convolution, a scale that is not FP32 or not along the output channels, an activation
            that is not INT8 with zero point 0.
    """
    prepared = run(PREPARATION, model)
    found = quantized_convolutions(prepared)
    planned = tuple(PlannedConvolution(c, form_of(c), pool_of(c)) for c in found)
    return run(POLICY, prepared), planned
