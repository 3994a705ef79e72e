"""The lowering: one walk over the QONNX graph in which each operator has a named rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.environment import DOMAIN
from lmaunet.fpga.graph import convolution, function_rules, maps, pointwise, shuffle
from lmaunet.fpga.graph.builder import HardwareGraph
from lmaunet.fpga.graph.onnx_file import SCAN_DOMAIN, SCAN_OP, attributes_of, load
from lmaunet.fpga.graph.rules import RULES, Walk, constant, rule
from lmaunet.fpga.graph.takes import REMEDIES
from lmaunet.fpga.graph.values import (
    Accumulators,
    Codes,
    Padded,
    PendingScan,
    Quantizer,
    Value,
    Weights,
)

__all__ = ["RULES", "Host", "Lowered", "function_rules", "lower"]

OTHERWISE = "change the network's specification, or add a rule in fpga/graph/lower.py"
QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


@dataclass(frozen=True)
class Host:
    """What the host computes: the image to codes before, accumulators to logits after.

    ``scale`` and ``bias`` of the output are per class; ``relu`` never occurs on logits.
    """

    input_name: str
    input_tensor: str
    input_shape: tuple[int, ...]
    input_scale: float
    input_low: int
    input_high: int
    input_type: str
    output_name: str
    output_tensor: str
    output_shape: tuple[int, ...]
    output_scale: np.ndarray
    output_bias: np.ndarray


@dataclass(frozen=True)
class Lowered:
    """The hardware graph before its folding, and what the host does around it."""

    graph: HardwareGraph
    host: Host


def lower(path: Path, calibration: Mapping[str, np.ndarray]) -> Lowered:
    """Lower a QONNX file to a graph of hardware operators in integers.

    Args:
        path: the QONNX file; batch 1, fixed shapes.
        calibration: the tensors that enter the scans, by name, ``(n, L, channels)``, on images
            that stand for the data; see :func:`lmaunet.fpga.agreement.reference.run_reference`.

    Raises:
        UserError: for an operator without a hardware mapping, a tensor that is not quantized, or
            scales that should be equal and are not; the message names the node.
    """
    from onnx import numpy_helper

    model = load(path)
    walk = Walk(HardwareGraph(), {}, calibration, shuffle.blocks_of(model))
    for initializer in model.graph.initializer:
        walk.values[initializer.name] = numpy_helper.to_array(initializer)
    inputs = [i for i in model.graph.input if i.name not in walk.values]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise UserError(
            f"{path}: {len(inputs)} inputs and {len(model.graph.output)} outputs; expected one each"
        )
    walk.input_name = inputs[0].name
    shape = tuple(d.dim_value for d in inputs[0].type.tensor_type.shape.dim)
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
        raise UserError(f"{path}: input of shape {shape}; expected (1, channels, H, W), all fixed")
    walk.values[walk.input_name] = _image(walk.input_name, shape)
    for node in model.graph.node:
        _apply(walk, node)
    output = walk.values[model.graph.output[0].name]
    host = _host(walk, model.graph.output[0].name, output, shape)
    duplicate_streams(walk.graph, {host.output_tensor})
    return Lowered(walk.graph, host)


def _image(name: str, shape: tuple[int, ...]) -> Value:
    stream = (1, shape[2], shape[3], shape[1])
    layout = np.arange(np.prod(shape)).reshape(stream).transpose(0, 3, 1, 2)
    return Value(name, stream, layout, name)


def _apply(walk: Walk, node: Any) -> None:
    label = node.name or node.output[0]
    walk.graph.current = label
    inputs = [walk.values[name] if name else None for name in node.input]
    present = [value for value in inputs if value is not None]
    if node.op_type not in ("Quant", SCAN_OP) and all(isinstance(v, np.ndarray) for v in present):
        walk.values.update(zip(node.output, _evaluate(node, inputs), strict=True))
        return
    lowered = RULES.get(node.op_type)
    known = node.domain in ("", "ai.onnx", SCAN_DOMAIN, *QUANT_DOMAINS)
    if lowered is None or not known:
        raise UserError(
            f"operator {node.op_type} (node {label}) has no hardware mapping; mapped are: "
            f"{', '.join(sorted(RULES))}; {REMEDIES.get(node.op_type, OTHERWISE)}"
        )
    walk.values[node.output[0]] = lowered(walk, node, attributes_of(node), inputs)


def _evaluate(node: Any, inputs: list[Any]) -> list[np.ndarray]:
    """Compute a node whose inputs are all constant."""
    from lmaunet.export.passes import evaluate

    return evaluate(node, {n: v for n, v in zip(node.input, inputs, strict=True) if n})


@rule("Shape")
def _shape(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> np.ndarray:
    shape = inputs[0].shape[attributes.get("start", 0) : attributes.get("end")]
    return np.array(shape, np.int64)


@rule("Identity")
def _identity(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    return inputs[0].renamed(node.output[0])


@rule("Quant")
def _quant(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Any:
    label = walk.graph.current
    value = inputs[0]
    scale, zero_point, bits = (constant(walk, v, "a quantizer's parameter") for v in inputs[1:4])
    if zero_point.any():
        raise UserError(f"{label}: zero point {zero_point.reshape(-1)[0]}; only 0 is mapped")
    width = int(bits.reshape(-1)[0])
    signed, narrow = attributes.get("signed", 1), attributes.get("narrow", 0)
    if attributes.get("rounding_mode", b"ROUND") not in (b"ROUND", b"HALF_EVEN"):
        raise UserError(f"{label}: rounding {attributes['rounding_mode'].decode()}; expected ROUND")
    high = (1 << (width - 1)) - 1 if signed else (1 << width) - 1 - narrow
    low = -(1 << (width - 1)) + narrow if signed else 0
    if isinstance(value, np.ndarray):
        codes = np.clip(np.round(value / scale.astype(np.float32)), low, high).astype(np.int64)
        return Weights(codes, scale.astype(np.float64), width)
    if scale.size != 1:
        raise UserError(f"{label}: {scale.size} scales on an activation; expected one per tensor")
    dtype = f"INT{width}" if signed else f"UINT{width}"
    quantizer = Quantizer(float(scale.reshape(-1)[0]), dtype, low, high)
    if value.tensor == walk.input_name and walk.quantized_input is None:
        return _quantize_input(walk, value, quantizer, node.output[0])
    if value.tensor == walk.input_name and type(value) is Value:
        raise UserError(f"{label}: the image is quantized twice; quantize it once")
    return pointwise.quantize(walk.graph, value, quantizer, node.output[0])


def _quantize_input(
    walk: Walk, value: Value, quantizer: Quantizer, origin: str
) -> Codes:  # fmt: skip
    tensor = walk.graph.name(f"{walk.input_name}_codes")
    walk.graph.shapes[tensor] = value.stream
    walk.graph.dtypes[tensor] = quantizer.dtype
    codes = Codes(
        tensor, value.stream, value.layout, origin, quantizer.dtype, quantizer.low,
        quantizer.high, quantizer.scale,
    )  # fmt: skip
    walk.quantized_input = codes
    return codes


@rule("Conv")
def _conv(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    weights = inputs[1]
    if not isinstance(weights, Weights):
        raise UserError(f"{walk.graph.current}: its weights are not quantized; quantize them")
    bias = constant(walk, inputs[2], "the bias") if len(inputs) > 2 else None
    return convolution.convolution(
        walk.graph, inputs[0], weights, bias, attributes, node.output[0],
        walk.blocks.get(node.output[0], (1, 1)),
    )  # fmt: skip


@rule("Pad")
def _pad(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    label = walk.graph.current
    codes = maps.require_codes(walk.graph, inputs[0], "Pad")
    amounts = [int(v) for v in constant(walk, inputs[1], "the amount of padding")]
    value = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros(1)
    if attributes.get("mode", b"constant") != b"constant" or np.any(value):
        raise UserError(f"{label}: only zero padding is mapped")
    if len(amounts) != 8 or any(amounts[i] for i in (0, 1, 4, 5)) or min(amounts) < 0:
        raise UserError(f"{label}: padding {amounts}; only height and width are padded")
    pads = (amounts[2], amounts[3], amounts[6], amounts[7])
    layout = np.zeros(
        (1, codes.stream[3], codes.stream[1] + pads[0] + pads[2],
         codes.stream[2] + pads[1] + pads[3]), np.int64,
    )  # fmt: skip
    return Padded(codes.tensor, codes.stream, layout, node.output[0], codes, pads)


@rule("MaxPool")
def _max_pool(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    return maps.max_pool(walk.graph, inputs[0], attributes, node.output[0])


@rule("AveragePool", "GlobalAveragePool")
def _average_pool(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    return maps.average_pool(walk.graph, inputs[0], attributes, node.output[0])


@rule("Resize")
def _resize(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    label = walk.graph.current
    mode = attributes.get("mode", b"nearest")
    if mode != b"nearest":
        raise UserError(f"{label}: Resize {mode.decode()}; only nearest is mapped")
    if len(inputs) > 3 and inputs[3] is not None:
        sizes = constant(walk, inputs[3], "the size")
        factors = [float(s) / d for s, d in zip(sizes, inputs[0].shape, strict=True)]
    else:
        factors = [float(v) for v in constant(walk, inputs[2], "the factor")]
    if factors[:2] != [1, 1] or any(f != int(f) or f < 1 for f in factors[2:]):
        raise UserError(f"{label}: Resize by {factors}; only whole factors of H and W are mapped")
    return maps.upsample(walk.graph, inputs[0], (int(factors[2]), int(factors[3])), node.output[0])


@rule("Concat")
def _concat(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    return maps.concat(walk.graph, inputs, attributes["axis"], node.output[0])


@rule("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
def _relayout(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    value = inputs[0]
    if isinstance(value, Padded):
        raise UserError(f"{walk.graph.current}: a reshape between Pad and Conv is not mapped")
    layout = _evaluate(node, [value.layout, *inputs[1:]])[0]
    return maps.relayout(value, layout, node.output[0])


@rule("DepthToSpace")
def _depth_to_space(
    walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]
) -> Value:  # fmt: skip
    value = inputs[0]
    if isinstance(value, Padded):
        raise UserError(f"{walk.graph.current}: a shuffle between Pad and Conv is not mapped")
    size, mode = attributes["blocksize"], attributes.get("mode", b"DCR")
    layout = shuffle.shuffled(value.layout, (size, size), columns_last=mode == b"CRD")
    return maps.relayout(value, layout, node.output[0])


@rule(SCAN_OP)
def _scan(walk: Walk, node: Any, attributes: dict[str, Any], inputs: list[Any]) -> Value:
    from lmaunet.export.scan_metadata import read_scan_formats

    label = walk.graph.current
    streams = []
    for name, value in zip(
        ("x", "dt", "B", "C"), (inputs[0], inputs[1], *inputs[3:5]), strict=True
    ):
        if not isinstance(value, Codes):
            raise UserError(f"{label}: its input {name} is not quantized; quantize it to INT8")
        streams.append(walk.graph.as_tokens(value, label))
    x, dt, b, c = streams
    rates, skip = (constant(walk, v, n) for v, n in ((inputs[2], "A"), (inputs[5], "D")))
    formats = read_scan_formats(node)
    ranges = (*node.input[:2], node.input[3]) if formats is None else ()
    missing = [name for name in ranges if name not in walk.calibration]
    if missing:
        raise UserError(f"{label}: no calibration data for {missing[0]}; give sample images")
    seen = tuple(walk.calibration[name] for name in ranges)
    return PendingScan(
        x.tensor, x.stream, x.layout, node.output[0], x, dt, b, c, rates, skip, seen, formats
    )


def _host(walk: Walk, name: str, output: Any, shape: tuple[int, ...]) -> Host:
    if walk.quantized_input is None:
        raise UserError("the image is not quantized; put a quantizer on the network's input")
    if not isinstance(output, Accumulators) or output.relu or output.slope != 1:
        raise UserError(
            f"output {name} does not come straight from a convolution's accumulators; "
            "end the network with a convolution without an output quantizer"
        )
    output = walk.graph.as_map(output, f"output {name}")
    codes = walk.quantized_input
    return Host(
        walk.input_name, codes.tensor, shape, codes.scale, codes.low, codes.high, codes.dtype,
        name, output.tensor, output.shape, output.scale, output.bias,
    )  # fmt: skip


def duplicate_streams(graph: HardwareGraph, outputs: set[str]) -> None:
    """Insert a DuplicateStreams wherever a streamed tensor has several consumers."""
    from onnx import helper

    users: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.nodes:
        for place, name in enumerate(node.input):
            if name not in graph.constants:
                users.setdefault(name, []).append((node, place))
    for tensor, consumers in users.items():
        if len(consumers) + (tensor in outputs) < 2:
            continue
        if tensor in outputs:
            raise UserError(f"the network's output {tensor} is also used inside; not mapped")
        shape, dtype = graph.shapes[tensor], graph.dtypes[tensor]
        copies = [graph.name(f"{tensor}_copy") for _ in consumers]
        node = helper.make_node(
            "DuplicateStreams", [tensor], copies, domain=DOMAIN, backend="fpgadataflow",
            NumChannels=shape[-1], PE=1, NumOutputStreams=len(copies), inputDataType=dtype,
            numInputVectors=list(shape[:-1]), outFIFODepths=[2] * len(copies),
        )  # fmt: skip
        for copy, (consumer, place) in zip(copies, consumers, strict=True):
            consumer.input[place] = copy
            graph.shapes[copy], graph.dtypes[copy] = shape, dtype
        graph.origins[copies[0]] = graph.origins.get(tensor, "input")
        producers = [i for i, n in enumerate(graph.nodes) if tensor in n.output]
        graph.nodes.insert(producers[0] + 1 if producers else 0, node)
