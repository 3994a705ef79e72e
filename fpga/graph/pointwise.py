"""Quantizers and what stands between them: tables, gates, sums, ReLU."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph.builder import HardwareGraph, Rounding
from lmaunet.fpga.graph.joins import emit_concat, emit_table, function_of, weighted_sum
from lmaunet.fpga.graph.scan import selective_scan
from lmaunet.fpga.graph.values import (
    Accumulators,
    Codes,
    Function,
    Joined,
    PendingScan,
    Quantizer,
    Value,
)
from lmaunet.fpga.operators.arithmetic import (
    Rescaling,
    fixed_point,
    integer_bits,
    type_bits,
    type_range,
)

MAX_TABLE_BITS = 12


def as_function(value: Value, user: str) -> Function:
    """Return the value as a function of codes; codes are the function code * scale.

    So are sums of codes that have one scale and few enough bits.
    """
    if isinstance(value, Function):
        return value
    if isinstance(value, Accumulators) and _is_plain(value):
        value = Codes(value.tensor, value.stream, value.layout, value.origin, value.dtype,
                      value.low, value.high, float(value.scale[0]))  # fmt: skip
    if isinstance(value, Codes):
        _check_entries(value, user)
        return function_of(value)
    raise UserError(
        f"{user}: its input {value.origin} is not quantized; a table needs INT8 codes in and out: "
        "put an activation quantizer before it"
    )


def _is_plain(sums: Accumulators) -> bool:
    """Return whether the sums are nothing but integers of one scale, few enough for a table."""
    one = (sums.scale == sums.scale[0]).all() and not sums.bias.any()
    few = type_bits(sums.dtype) <= MAX_TABLE_BITS
    return bool(one and few and not sums.relu and not sums.error)


def _check_entries(codes: Codes, user: str) -> None:
    low, high = type_range(codes.dtype)
    if high - low >= 1 << MAX_TABLE_BITS:
        raise UserError(
            f"{user}: a table over {codes.dtype} of {codes.origin} has {high - low + 1} entries; "
            f"at most {1 << MAX_TABLE_BITS} are mapped"
        )


def unary(
    graph: HardwareGraph, value: Value, function: Callable[[np.ndarray], np.ndarray], origin: str
) -> Function | Joined:
    """Apply a real function to a value that is a function of codes, or to several joined ones."""
    if isinstance(value, Joined):
        parts = tuple(dataclasses.replace(p, values=function(p.values)) for p in value.parts)
        return dataclasses.replace(value, parts=parts, origin=origin)
    inner = as_function(value, graph.current)
    return dataclasses.replace(inner, values=function(inner.values), origin=origin)


def relu(graph: HardwareGraph, value: Value, origin: str) -> Value:
    """Absorb a ReLU: into the requantization of accumulators, or into a table."""
    if isinstance(value, Accumulators):
        return dataclasses.replace(value, relu=True, slope=1.0, origin=origin)
    return unary(graph, value, lambda v: np.maximum(v, 0.0), origin)


def leaky_relu(graph: HardwareGraph, value: Value, slope: float, origin: str) -> Value:
    """Take a LeakyReLU into a table, or into the requantization of accumulators."""
    if isinstance(value, Accumulators) and not _is_plain(value):
        if slope <= 0 or value.relu or value.slope != 1:
            raise UserError(
                f"{graph.current}: a LeakyReLU of slope {slope:g} of accumulators; expected one of "
                "a positive slope, or a quantizer before it"
            )
        return dataclasses.replace(value, slope=slope, origin=origin)
    return unary(graph, value, lambda v: np.where(v < 0, slope * v, v), origin)


def binary(graph: HardwareGraph, op_type: str, left: Value, right: Value, origin: str) -> Value:
    """Lower Mul or Add: of two functions of the same codes, or of two tensors of codes."""
    user = graph.current
    if left.shape == right.shape and not np.array_equal(left.layout, right.layout):
        left, right = graph.as_map(left, user), graph.as_map(right, user)
    if left.shape != right.shape or not np.array_equal(left.layout, right.layout):
        raise UserError(
            f"{user}: {left.origin} {left.shape} and {right.origin} {right.shape} are not "
            "streamed in the same order; broadcasting is not mapped"
        )
    if left.tensor == right.tensor and isinstance(left, Codes | Function):
        one, other = as_function(left, user), as_function(right, user)
        operation = np.multiply if op_type == "Mul" else np.add
        return dataclasses.replace(one, values=operation(one.values, other.values), origin=origin)
    for value in (left, right):
        if not isinstance(value, Codes):
            raise UserError(
                f"{user}: its input {value.origin} is not quantized; put an activation quantizer "
                f"before this {op_type}"
            )
    assert isinstance(left, Codes) and isinstance(right, Codes)
    return (_product if op_type == "Mul" else _sum)(graph, left, right, origin)


def _operands(graph: HardwareGraph, left: Codes, right: Codes) -> list[str]:
    return [left.tensor, graph.streamed_as(right, left.stream)]


def _product(graph: HardwareGraph, left: Codes, right: Codes, origin: str) -> Accumulators:
    corners = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    low, high = min(0, *corners), max(0, *corners)
    return _elementwise(graph, "Mul", left, right, low, high, left.scale * right.scale, origin)


def _sum(graph: HardwareGraph, left: Codes, right: Codes, origin: str) -> Accumulators:
    if left.scale != right.scale:
        return weighted_sum(graph, left, right, origin)
    low, high = min(0, left.low + right.low), max(0, left.high + right.high)
    return _elementwise(graph, "Add", left, right, low, high, left.scale, origin)


def _elementwise(
    graph: HardwareGraph, op_type: str, left: Codes, right: Codes, low: int, high: int,
    scale: float, origin: str,
) -> Accumulators:  # fmt: skip
    dtype = f"INT{integer_bits(low, high)}"
    shape = left.stream
    output = graph.emit(
        f"Elementwise{op_type}", _operands(graph, left, right), shape, dtype,
        f"{origin}_{'product' if op_type == 'Mul' else 'sum'}",
        lhs_dtype=left.dtype, rhs_dtype=right.dtype, out_dtype=dtype, lhs_shape=list(shape),
        rhs_shape=list(shape), out_shape=list(shape), lhs_style="input", rhs_style="input", PE=1,
    )  # fmt: skip
    channels = shape[-1]
    return Accumulators(
        output, shape, left.layout, origin, dtype, low, high, np.full(channels, scale),
        np.zeros(channels), 2, np.full(channels, max(-low, high)),
    )  # fmt: skip


def quantize(graph: HardwareGraph, value: Value, to: Quantizer, origin: str) -> Value:
    """Lower a Quant node on an activation."""
    if isinstance(value, Accumulators):
        return _requantize(graph, value, to, origin)
    if isinstance(value, PendingScan):
        return selective_scan(graph, value, to, origin)
    if isinstance(value, Codes) and _is_identity(value, to):
        return value.renamed(origin)
    if isinstance(value, Joined):
        return _join(graph, value, to, origin)
    return _table(graph, as_function(value, graph.current), to, origin)


def _join(graph: HardwareGraph, value: Joined, to: Quantizer, origin: str) -> Codes:
    """Bring each part to the quantizer's codes, and join them."""
    tensors, real = [], []
    for part in value.parts:
        same = np.array_equal(part.values, function_of(part.codes).values)
        if same and part.codes.dtype == to.dtype and _is_identity(part.codes, to):
            tensors.append(part.codes.tensor)
            continue
        entries, exact = _entries(part, to)
        real.append(exact)
        hint = f"{origin}_{part.codes.origin}"
        tensors.append(emit_table(graph, part.codes, entries, to.dtype, hint, hint))
    output = emit_concat(graph, tensors, [part.codes for part in value.parts], to.dtype, origin)
    codes = Codes(output, value.stream, value.layout, origin, to.dtype, to.low, to.high, to.scale)
    return graph.record(codes, "table", table_values=np.concatenate([np.zeros(0), *real]))


def _is_identity(value: Codes, to: Quantizer) -> bool:
    return value.scale == to.scale and to.low <= value.low and value.high <= to.high


def _requantize(
    graph: HardwareGraph, value: Accumulators, to: Quantizer, origin: str
) -> Codes:  # fmt: skip
    low = max(to.low, 0) if value.relu else to.low
    ratio, bias = value.scale / to.scale, value.bias / to.scale
    leaky = value.slope != 1
    output, rescaling = _rescale(graph, value, to, (0 if leaky else low, to.high), 1.0, origin)
    below = None
    if leaky and low < 0:
        # what is not negative is 0 in the one, what is not positive in the other
        other, below = _rescale(graph, value, to, (low, 0), value.slope, f"{origin}_below")
        shape = value.stream
        output = graph.emit(
            "ElementwiseAdd", [output, other], shape, to.dtype, f"{origin}_codes",
            lhs_dtype=to.dtype, rhs_dtype=to.dtype, out_dtype=to.dtype, lhs_shape=list(shape),
            rhs_shape=list(shape), out_shape=list(shape), lhs_style="input", rhs_style="input",
            PE=1,
        )  # fmt: skip
    codes = Codes(output, value.stream, value.layout, origin, to.dtype, low, to.high, to.scale)
    rounding = Rounding(
        value.tensor, ratio, bias, low, to.high, rescaling, _float32_error(value, ratio, bias),
        value.slope, below,
    )  # fmt: skip
    return graph.record(codes, "rounded", rounding=rounding)


def _rescale(
    graph: HardwareGraph, value: Accumulators, to: Quantizer, clip: tuple[int, int], factor: float,
    origin: str,
) -> tuple[str, Rescaling]:  # fmt: skip
    """Emit the rounding of accumulators times a factor; return its tensor and constants."""
    ratio, bias = factor * value.scale / to.scale, factor * value.bias / to.scale
    largest = max(-value.low, value.high)
    rescaling = fixed_point(origin, ratio, bias, largest, max(-clip[0], clip[1]))
    names = [
        graph.constant(f"{origin}_multiplier", rescaling.multiplier, "UINT17"),
        graph.constant(f"{origin}_offset", rescaling.offset, "INT48"),
        graph.constant(f"{origin}_shift", rescaling.shift, "UINT6"),
    ]
    output = graph.emit(
        "Requantize", [value.tensor, *names], value.stream, to.dtype, f"{origin}_codes",
        NumChannels=value.stream[-1], PE=1, numInputVectors=list(value.stream[:-1]),
        inputDataType=value.dtype, outputDataType=to.dtype, Low=clip[0], High=clip[1],
        IsShift=int(rescaling.is_shift),
    )  # fmt: skip
    return output, rescaling


def _float32_error(value: Accumulators, ratio: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Bound what float32 arithmetic does to the QONNX model's value, in units of a code.

    A sum of n products in float32 is off by at most about ``sqrt(n) * 2^-24`` of the sum of their
    magnitudes with high probability (Higham and Mary, SIAM J. Sci. Comput. 41, 2019), taken four
    times; the scale, the bias and the division add four more roundings of the result.
    """
    unit = 2.0**-24
    sums = 4 * math.sqrt(value.terms) * value.magnitude * ratio
    return unit * (sums + 4 * (value.magnitude * ratio + np.abs(bias))) + value.error * ratio


def _table(graph: HardwareGraph, value: Function, to: Quantizer, origin: str) -> Codes:
    entries, real = _entries(value, to)
    source = value.codes
    output = emit_table(graph, source, entries, to.dtype, f"{origin}_codes", origin)
    codes = Codes(output, source.stream, value.layout, origin, to.dtype, to.low, to.high, to.scale)
    return graph.record(codes, "table", table_values=real)


def _entries(value: Function, to: Quantizer) -> tuple[np.ndarray, np.ndarray]:
    """Return a table's codes, and its exact values in units of one."""
    real = value.values / to.scale
    # half to even, as the QONNX model rounds: a table can follow it at an exact tie
    return np.clip(np.round(real), to.low, to.high).astype(np.int64), real
