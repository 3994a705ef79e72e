"""Nodes for the tests of the RTL: one function an operator, from its size and folding."""

from __future__ import annotations

import numpy as np
from bench import Case, corners

from lmaunet.fpga.operators.arithmetic import fixed_point, integer_bits, type_range
from lmaunet.fpga.operators.bin_sum import sum_type

FRAMES = 3


def _codes(random: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    return corners(random, *type_range(dtype), (FRAMES, *shape))


def requantize(
    channels=6, pe=2, dtype="INT20", to="INT8", low=-128, ratios=(1e-4, 3e-3), pixels=20, seed=0
) -> Case:
    random = np.random.default_rng(seed)
    ratio = np.exp(random.uniform(*np.log(ratios), channels))
    if ratios[0] == ratios[1]:
        ratio = np.full(channels, ratios[0])
    smallest, largest = type_range(dtype)
    form = fixed_point("t", ratio, random.uniform(-30, 30, channels), -smallest or largest, 255)
    tensor = _codes(random, dtype, 1, pixels, channels)
    # most values of a real tensor are not clipped
    near = np.rint(random.normal(0, 60 / ratio, tensor.shape)).clip(smallest, largest)
    tensor = np.where(random.random(tensor.shape) < 0.7, near.astype(np.int64), tensor)
    attributes = {
        "NumChannels": channels, "PE": pe, "numInputVectors": [1, pixels], "inputDataType": dtype,
        "outputDataType": to, "Low": low, "High": type_range(to)[1],
        "IsShift": int(form.is_shift),
    }  # fmt: skip
    constants = (form.multiplier, form.offset, form.shift)
    return Case("Requantize", attributes, (tensor,), constants, pe)


def table_activation(channels=6, pe=3, dtype="INT8", to="INT8", low=None, pixels=20, seed=0):
    random = np.random.default_rng(seed)
    smallest, largest = type_range(dtype)
    low = smallest if low is None else low
    table = random.integers(*type_range(to), largest - low + 1, endpoint=True)
    tensor = _codes(random, dtype, 1, pixels, channels).clip(low)
    attributes = {
        "NumChannels": channels, "PE": pe, "numInputVectors": [1, pixels], "inputDataType": dtype,
        "outputDataType": to, "Low": low, "Entries": len(table),
    }  # fmt: skip
    return Case("TableActivation", attributes, (tensor,), (table,), pe)


def elementwise(
    multiply=True, channels=6, pe=2, left="INT8", right="UINT8", pixels=20, seed=0
) -> Case:
    random = np.random.default_rng(seed)
    ends = [a * b if multiply else a + b for a in type_range(left) for b in type_range(right)]
    out = f"INT{integer_bits(min(ends), max(ends))}"
    shape = [1, 1, pixels, channels]
    attributes = {
        "lhs_dtype": left, "rhs_dtype": right, "out_dtype": out, "lhs_shape": shape,
        "rhs_shape": shape, "out_shape": shape, "PE": pe,
    }  # fmt: skip
    tensors = tuple(_codes(random, dtype, 1, pixels, channels) for dtype in (left, right))
    return Case(f"Elementwise{'Mul' if multiply else 'Add'}", attributes, tensors, (), pe)


def duplicate_streams(outputs=3, channels=6, pe=2, dtype="INT5", pixels=30, seed=0) -> Case:
    tensor = _codes(np.random.default_rng(seed), dtype, 1, pixels, channels)
    attributes = {
        "NumChannels": channels, "PE": pe, "NumOutputStreams": outputs, "inputDataType": dtype,
        "numInputVectors": [1, pixels],
    }  # fmt: skip
    return Case("DuplicateStreams", attributes, (tensor,), (), pe)


def streaming_concat(channels=(4, 2, 6), simd=2, dtype="INT8", pixels=20, seed=0) -> Case:
    random = np.random.default_rng(seed)
    attributes = {
        "SIMD": simd, "ChannelsPerStream": list(channels),
        "inputDataTypes": [dtype] * len(channels), "numInputVectors": [1, pixels],
    }  # fmt: skip
    tensors = tuple(_codes(random, dtype, 1, pixels, count) for count in channels)
    return Case("StreamingConcat", attributes, tensors, (), simd)


def upsample(
    height=3, width=4, factors=(2, 2), channels=6, simd=2, dtype="INT8", seed=0
) -> Case:  # fmt: skip
    attributes = {
        "HI": height, "WI": width, "HO": height * factors[0], "WO": width * factors[1],
        "NumChannels": channels, "SIMD": simd, "inputDataType": dtype,
    }  # fmt: skip
    tensor = _codes(np.random.default_rng(seed), dtype, height, width, channels)
    return Case("UpsampleNearestNeighbour", attributes, (tensor,), (), simd)


def depth_to_space(
    height=3, width=4, factors=(2, 2), channels=6, pe=2, dtype="INT8", seed=0
) -> Case:  # fmt: skip
    attributes = {
        "ImgDim": [height, width], "Factors": list(factors), "NumChannels": channels, "PE": pe,
        "inputDataType": dtype,
    }  # fmt: skip
    deep = factors[0] * factors[1] * channels
    tensor = _codes(np.random.default_rng(seed), dtype, height, width, deep)
    return Case("DepthToSpace", attributes, (tensor,), (), pe)


def max_pool(kernel=(2, 2), height=3, width=4, channels=6, pe=2, dtype="INT8", seed=0) -> Case:
    taps = kernel[0] * kernel[1]
    attributes = {
        "Channels": channels, "PE": pe, "KernelSize": list(kernel), "Function": "MaxPool",
        "OutImgDims": [height, width], "InputDataType": dtype, "OutputDataType": dtype,
    }  # fmt: skip
    tensor = _codes(np.random.default_rng(seed), dtype, height, width, taps * channels)
    return Case("Pool", attributes, (tensor,), (), pe)


def bin_sum(bins=(2, 3), pixels=(3, 2), channels=6, pe=2, dtype="INT8", seed=0) -> Case:
    """``bins`` along each axis of the map, of ``pixels`` each."""
    height, width = (count * size for count, size in zip(bins, pixels, strict=True))
    attributes = {
        "ImgDim": [height, width], "Bin": list(pixels), "NumChannels": channels, "PE": pe,
        "inputDataType": dtype, "outputDataType": sum_type(dtype, pixels[0] * pixels[1]),
    }  # fmt: skip
    tensor = _codes(np.random.default_rng(seed), dtype, height, width, channels)
    return Case("BinSum", attributes, (tensor,), (), pe)


def pad(
    code=-128, height=3, width=4, padding=(1, 2, 0, 1), channels=6, simd=2, dtype="INT8", seed=0
) -> Case:
    attributes = {
        "ImgDim": [height, width], "Padding": list(padding), "NumChannels": channels,
        "SIMD": simd, "inputDataType": dtype,
    }  # fmt: skip
    if code:
        attributes["Code"] = code
    tensor = _codes(np.random.default_rng(seed), dtype, height, width, channels)
    return Case("PadWithCode" if code else "FMPadding", attributes, (tensor,), (), simd)


def depthwise_conv(
    kernel=(3, 3), height=3, width=4, channels=6, pe=2, simd=1, dtype="INT8", weights="INT4",
    seed=0,
) -> Case:  # fmt: skip
    random = np.random.default_rng(seed)
    taps = kernel[0] * kernel[1]
    matrix = corners(random, *type_range(weights), (channels, 1, *kernel))
    low, high = type_range(dtype)
    reach = int(np.abs(matrix).sum((1, 2, 3)).max()) * max(-low, high)
    attributes = {
        "Channels": channels, "PE": pe, "SIMD": simd, "Kernel": list(kernel),
        "Dim": [height, width], "inputDataType": dtype, "weightDataType": weights,
        "outputDataType": f"INT{integer_bits(-reach, reach)}",
    }  # fmt: skip
    tensor = _codes(random, dtype, height, width, taps * channels)
    return Case("VVAU", attributes, (tensor,), (matrix,), pe)
