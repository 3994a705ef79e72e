"""What moves codes and at most adds them: pooling, upsampling, concatenation, reshapes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph import joins
from lmaunet.fpga.graph.builder import HardwareGraph
from lmaunet.fpga.graph.convolution import pad, window
from lmaunet.fpga.graph.values import Accumulators, Codes, Joined, Value, map_layout
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.bin_sum import sum_type

# Bits of integers that float32 holds exactly, as FINN+'s tensors are.
FLOAT32_BITS = 25


def require_codes(graph: HardwareGraph, value: Value, what: str) -> Codes:
    """Return the value as a map of codes; raises :class:`UserError` where it is not quantized."""
    if isinstance(value, Joined):
        joins.refuse_unequal(graph.current, "Concat", [part.codes for part in value.parts])
    if not isinstance(value, Codes):
        raise UserError(
            f"{graph.current}: its input {value.origin} is not quantized; put an activation "
            f"quantizer before this {what}"
        )
    mapped = graph.as_map(value, graph.current)
    return mapped


def max_pool(
    graph: HardwareGraph, value: Value, attributes: dict[str, Any], origin: str
) -> Codes:  # fmt: skip
    """Lower a max pooling of codes; a border is filled with the smallest code."""
    codes = require_codes(graph, value, "MaxPool")
    kernel, strides = tuple(attributes["kernel_shape"]), tuple(attributes.get("strides", [1, 1]))
    if attributes.get("ceil_mode", 0) or any(d != 1 for d in attributes.get("dilations", [1])):
        raise UserError(f"{graph.current}: MaxPool with ceil_mode or dilations is not mapped")
    pads = tuple(attributes.get("pads", [0, 0, 0, 0]))
    # a border of the smallest code never wins, as ONNX's minus infinity never does
    tensor, stream = pad(graph, codes, pads, codes.low)  # type: ignore[arg-type]
    tensor, stream = window(graph, tensor, stream, codes.dtype, kernel, strides, True)
    channels = codes.stream[3]
    shape = (1, stream[1], stream[2], channels)
    output = graph.emit(
        "Pool", [tensor], shape, codes.dtype, f"{origin}_codes", Channels=channels, PE=1,
        KernelSize=list(kernel), Function="MaxPool", OutImgDims=[stream[1], stream[2]],
        InputDataType=codes.dtype, OutputDataType=codes.dtype, BatchSize=1,
    )  # fmt: skip
    result = dataclasses.replace(
        codes, tensor=output, stream=shape, layout=map_layout(shape), origin=origin
    )
    return graph.record(result, "exact")


def average_pool(
    graph: HardwareGraph, value: Value, attributes: dict[str, Any], origin: str
) -> Value:  # fmt: skip
    """Lower an average over bins that divide the map: their sums, and a scale for the division.

    Args:
        graph: the hardware graph.
        value: codes as a map ``(1, C, H, W)``.
        attributes: the ONNX node's; without ``kernel_shape`` the bin is the whole map.
        origin: the ONNX node's output.

    Raises:
        UserError: where bins overlap, leave pixels out or have a border.
    """
    user = graph.current
    codes = require_codes(graph, value, "average pooling")
    _, height, width, channels = codes.stream
    size = tuple(attributes.get("kernel_shape", (height, width)))
    strides = tuple(attributes.get("strides", [1, 1])) if "kernel_shape" in attributes else size
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UserError(f"{user}: auto_pad; export with explicit pads")
    bordered = any(attributes.get("pads", [0])) or any(
        d != 1 for d in attributes.get("dilations", [1])
    )
    if len(size) != 2 or bordered or strides != size or height % size[0] or width % size[1]:
        raise UserError(
            f"{user}: averages of {'x'.join(map(str, size))} pixels at strides of "
            f"{'x'.join(map(str, strides))} on a map of {height}x{width}"
            f"{', padded or dilated' if bordered else ''}; only bins that divide the map are mapped"
        )
    pixels = size[0] * size[1]
    if pixels == 1:
        return codes.renamed(origin)
    dtype = sum_type(codes.dtype, pixels)
    if type_bits(dtype) > FLOAT32_BITS:
        raise UserError(
            f"{user}: sums of {pixels} codes have {type_bits(dtype)} bits; at most {FLOAT32_BITS} "
            "are mapped, which the comparison with the node itself holds exactly"
        )
    shape = (1, height // size[0], width // size[1], channels)
    output = graph.emit(
        "BinSum", [codes.tensor], shape, dtype, f"{origin}_sums", ImgDim=[height, width],
        Bin=list(size), NumChannels=channels, PE=1, inputDataType=codes.dtype,
        outputDataType=dtype,
    )  # fmt: skip
    low, high = min(0, pixels * codes.low), max(0, pixels * codes.high)
    return Accumulators(
        output, shape, map_layout(shape), origin, dtype, low, high,
        np.full(channels, codes.scale / pixels), np.zeros(channels), pixels,
        np.full(channels, float(max(-low, high))),
    )  # fmt: skip


def upsample(
    graph: HardwareGraph, value: Value, factors: tuple[int, int], origin: str
) -> Codes:  # fmt: skip
    """Lower a nearest-neighbour Resize by whole factors."""
    codes = require_codes(graph, value, "Resize")
    if factors == (1, 1):
        return dataclasses.replace(codes, origin=origin)
    _, height, width, channels = codes.stream
    shape = (1, height * factors[0], width * factors[1], channels)
    output = graph.emit(
        "UpsampleNearestNeighbour", [codes.tensor], shape, codes.dtype, f"{origin}_codes",
        HO=shape[1], WO=shape[2], HI=height, WI=width, NumChannels=channels, SIMD=1,
        inputDataType=codes.dtype, batchSize=1,
    )  # fmt: skip
    result = dataclasses.replace(
        codes, tensor=output, stream=shape, layout=map_layout(shape), origin=origin
    )
    return graph.record(result, "exact")


def concat(graph: HardwareGraph, values: list[Value], axis: int, origin: str) -> Value:
    """Lower a concatenation of maps of codes along the channels."""
    codes = [require_codes(graph, value, "Concat") for value in values]
    if axis not in (1, -3):
        raise UserError(f"{graph.current}: Concat along axis {axis}; only channels (1) are mapped")
    return joins.concat(graph, codes, origin)


def relayout(value: Value, layout: np.ndarray, origin: str) -> Value:
    """Return the value under another ONNX shape; the stream stays as it is."""
    return dataclasses.replace(value, layout=layout, origin=origin)
