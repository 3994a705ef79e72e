"""Convolutions and paddings: windows, then a matrix or a vector unit that puts out accumulators."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph.builder import HardwareGraph
from lmaunet.fpga.graph.joins import refuse_unequal
from lmaunet.fpga.graph.shuffle import block_order
from lmaunet.fpga.graph.values import (
    Accumulators,
    Codes,
    Joined,
    Padded,
    Value,
    Weights,
    map_layout,
)
from lmaunet.fpga.operators.arithmetic import integer_bits


def pad(
    graph: HardwareGraph, codes: Codes, pads: tuple[int, int, int, int], code: int = 0
) -> tuple[str, tuple[int, int, int, int]]:
    """Emit the border of ``pads`` (top, left, bottom, right) and return its tensor and stream.

    A border of zeros is FINN+'s FMPadding, any other code is PadWithCode.
    """
    _, height, width, channels = codes.stream
    if not any(pads):
        return codes.tensor, codes.stream
    top, left, bottom, right = pads
    stream = (1, height + top + bottom, width + left + right, channels)
    own: dict[str, Any] = {"Code": code} if code else {}
    tensor = graph.emit(
        "PadWithCode" if code else "FMPadding", [codes.tensor], stream, codes.dtype,
        f"{codes.tensor}_padded", ImgDim=[height, width], Padding=list(pads),
        NumChannels=channels, SIMD=1, inputDataType=codes.dtype, **own,
    )  # fmt: skip
    return tensor, stream


def window(
    graph: HardwareGraph,
    tensor: str,
    stream: tuple[int, int, int, int],
    dtype: str,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    depthwise: bool,
) -> tuple[str, tuple[int, int, int, int]]:
    """Emit the sliding window of a padded map and return its tensor and stream.

    The stream is ``(1, OH, OW, kernel_h * kernel_w * C)``.
    """
    _, height, width, channels = stream
    out_h = (height - kernel[0]) // strides[0] + 1
    out_w = (width - kernel[1]) // strides[1] + 1
    if out_h < 1 or out_w < 1:
        raise UserError(
            f"{graph.current}: kernel {kernel[0]}x{kernel[1]} is larger than its padded input "
            f"{height}x{width}; use a larger image or fewer strides"
        )
    shape = (1, out_h, out_w, kernel[0] * kernel[1] * channels)
    result = graph.emit(
        "ConvolutionInputGenerator", [tensor], shape, dtype, f"{tensor}_window",
        ConvKernelDim=list(kernel), IFMChannels=channels, IFMDim=[height, width],
        OFMDim=[out_h, out_w], SIMD=1, Stride=list(strides), Dilation=[1, 1],
        inputDataType=dtype, outputDataType=dtype, depthwise=int(depthwise),
        parallel_window=0, is1D=int(height == 1 or width == 1), ram_style="auto",
    )  # fmt: skip
    return result, shape


def convolution(
    graph: HardwareGraph,
    value: Value,
    weights: Weights,
    bias: np.ndarray | None,
    attributes: dict[str, Any],
    origin: str,
    blocks: tuple[int, int] = (1, 1),
) -> Accumulators:
    """Lower a convolution of codes with quantized weights to accumulators.

    Args:
        graph: the hardware graph.
        value: codes, or codes with a border, as a map.
        weights: ``(O, I / group, kh, kw)`` codes, one scale for each O or one for all.
        bias: ``(O,)`` reals or None.
        attributes: the ONNX node's.
        origin: the ONNX node's output.
        blocks: of pixels that the channels become, which are then put out in the order of
            :func:`lmaunet.fpga.graph.shuffle.block_order`.
    """
    user = graph.current
    border = value.pads if isinstance(value, Padded) else (0, 0, 0, 0)
    codes = value.codes if isinstance(value, Padded) else value
    if isinstance(codes, Joined):
        refuse_unequal(user, "Concat", [part.codes for part in codes.parts])
    if not isinstance(codes, Codes):
        raise UserError(
            f"{user}: its input {value.origin} is not quantized; give it an activation quantizer"
        )
    mapped = graph.as_map(codes, user)
    out_channels, in_channels, *kernel_list = weights.codes.shape
    kernel = (kernel_list[0], kernel_list[1])
    group = attributes.get("group", 1)
    strides = tuple(attributes.get("strides", [1, 1]))
    if any(d != 1 for d in attributes.get("dilations", [1, 1])):
        raise UserError(f"{user}: dilations {attributes['dilations']}; only 1 is mapped")
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UserError(f"{user}: auto_pad; export with explicit pads")
    conv_pads = attributes.get("pads", [0, 0, 0, 0])
    pads = tuple(int(a + b) for a, b in zip(border, conv_pads, strict=True))
    depthwise = group > 1 and group == mapped.stream[3] == out_channels and in_channels == 1
    if group > 1 and not depthwise:
        raise UserError(
            f"{user}: group={group} with {mapped.stream[3]} inputs and {out_channels} outputs; "
            "only dense (group=1) and depthwise (group=channels) convolutions are mapped"
        )
    order = block_order(out_channels, blocks)
    weights = _reordered(weights, order)
    tensor, stream = pad(graph, mapped, pads)  # type: ignore[arg-type]
    if kernel != (1, 1) or strides != (1, 1):
        tensor, stream = window(
            graph, tensor, stream, mapped.dtype, kernel, strides, depthwise  # type: ignore[arg-type]
        )  # fmt: skip
    low, high, magnitude = _reach(weights.codes.reshape(out_channels, -1), mapped)
    bits = integer_bits(int(low.min()), int(high.max()))
    unit = _vector_unit if depthwise else _matrix_unit
    output = unit(graph, tensor, stream, mapped, weights, f"INT{bits}", origin)
    result = (1, stream[1], stream[2], out_channels)
    scale = np.broadcast_to(weights.scale.reshape(-1), (out_channels,)).astype(np.float64)
    return Accumulators(
        tensor=output,
        stream=result,
        layout=map_layout(result)[:, np.argsort(order)],
        origin=origin,
        dtype=f"INT{bits}",
        low=int(low.min()),
        high=int(high.max()),
        scale=scale * mapped.scale,
        bias=np.zeros(out_channels) if bias is None else bias.astype(np.float64)[order],
        terms=in_channels * kernel[0] * kernel[1],
        magnitude=magnitude,
    )


def _reordered(weights: Weights, order: np.ndarray) -> Weights:
    """Return weights ``(O, ...)`` with their output channels in another order."""
    scale = weights.scale
    if scale.size > 1:
        scale = scale.reshape(-1)[order]
    return Weights(weights.codes[order], scale, weights.bits)


def _reach(weights: np.ndarray, codes: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the smallest and largest sum, and the largest sum of magnitudes, per channel."""
    positive, negative = np.maximum(weights, 0).sum(1), np.minimum(weights, 0).sum(1)
    # the border's zeros count as a code, and so does an unused smallest code
    low_code, high_code = min(codes.low, 0), max(codes.high, 0)
    low = positive * low_code + negative * high_code
    high = positive * high_code + negative * low_code
    largest = max(-low_code, high_code)
    return low, high, np.abs(weights).sum(1) * largest


def _matrix_unit(
    graph: HardwareGraph, tensor: str, stream: tuple[int, int, int, int], codes: Codes,
    weights: Weights, dtype: str, origin: str,
) -> str:  # fmt: skip
    out_channels = weights.codes.shape[0]
    matrix = weights.codes.transpose(2, 3, 1, 0).reshape(-1, out_channels)
    name = graph.constant(f"{origin}_weights", matrix, f"INT{weights.bits}")
    return graph.emit(
        "MVAU", [tensor, name], (1, stream[1], stream[2], out_channels), dtype,
        f"{origin}_accumulators", MW=matrix.shape[0], MH=out_channels, SIMD=1, PE=1,
        inputDataType=codes.dtype, weightDataType=f"INT{weights.bits}", outputDataType=dtype,
        accDataType=dtype, noActivation=1, ActVal=0, binaryXnorMode=0,
        numInputVectors=[1, stream[1], stream[2]], mem_mode="internal_decoupled",
    )  # fmt: skip


def _vector_unit(
    graph: HardwareGraph, tensor: str, stream: tuple[int, int, int, int], codes: Codes,
    weights: Weights, dtype: str, origin: str,
) -> str:  # fmt: skip
    channels, _, kernel_h, kernel_w = weights.codes.shape
    name = graph.constant(f"{origin}_weights", weights.codes, f"INT{weights.bits}")
    return graph.emit(
        "VVAU", [tensor, name], (1, stream[1], stream[2], channels), dtype,
        f"{origin}_accumulators", Channels=channels, Kernel=[kernel_h, kernel_w],
        Dim=[stream[1], stream[2]], PE=1, SIMD=1, resType="dsp", inputDataType=codes.dtype,
        weightDataType=f"INT{weights.bits}", outputDataType=dtype, accDataType=dtype,
        noActivation=1, ActVal=0, mem_mode="internal_decoupled",
    )  # fmt: skip
