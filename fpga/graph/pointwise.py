"""Quantizers and what stands between them: tables, gates, sums, ReLU."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph.builder import HardwareGraph, Rounding
from lmaunet.fpga.graph.scan import selective_scan
from lmaunet.fpga.graph.values import Accumulators, Codes, Function, PendingScan, Quantizer, Value
from lmaunet.fpga.operators.arithmetic import fixed_point, integer_bits, type_range

MAX_TABLE_BITS = 12


def as_function(value: Value, user: str) -> Function:
    """Return the value as a function of codes; codes are the function code * scale."""
    if isinstance(value, Function):
        return value
    if isinstance(value, Codes):
        codes = np.arange(*_table_range(value, user))
        return Function(value.tensor, value.stream, value.layout, value.origin, value,
                        codes * value.scale)  # fmt: skip
    raise UserError(
        f"{user}: its input {value.origin} is not quantized; a table needs INT8 codes in and out: "
        "put an activation quantizer before it"
    )


def _table_range(codes: Codes, user: str) -> tuple[int, int]:
    low, high = type_range(codes.dtype)
    if high - low >= 1 << MAX_TABLE_BITS:
        raise UserError(
            f"{user}: a table over {codes.dtype} of {codes.origin} has {high - low + 1} entries; "
            f"at most {1 << MAX_TABLE_BITS} are mapped"
        )
    return low, high + 1


def unary(
    graph: HardwareGraph, value: Value, function: Callable[[np.ndarray], np.ndarray], origin: str
) -> Function:
    """Apply a real function to a value that is a function of codes."""
    inner = as_function(value, graph.current)
    return dataclasses.replace(inner, values=function(inner.values), origin=origin)


def relu(graph: HardwareGraph, value: Value, origin: str) -> Value:
    """Absorb a ReLU: into the requantization of accumulators, or into a table."""
    if isinstance(value, Accumulators):
        return dataclasses.replace(value, relu=True, origin=origin)
    return unary(graph, value, lambda v: np.maximum(v, 0.0), origin)


def binary(graph: HardwareGraph, op_type: str, left: Value, right: Value, origin: str) -> Value:
    """Lower Mul or Add: of two functions of the same codes, or of two tensors of codes."""
    user = graph.current
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
    require_equal_scales(graph.current, "Add", [left, right])
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


def require_equal_scales(user: str, op_type: str, codes: list[Codes]) -> None:
    """Raise :class:`UserError` naming the tensors where scales differ."""
    first = codes[0]
    for other in codes[1:]:
        if other.scale != first.scale:
            raise UserError(
                f"{user}: {op_type} of {first.origin} (scale {first.scale:.9g}) and "
                f"{other.origin} (scale {other.scale:.9g}); their codes can be joined only with "
                "equal scales: give both the same quantizer"
            )


def quantize(graph: HardwareGraph, value: Value, to: Quantizer, origin: str) -> Value:
    """Lower a Quant node on an activation."""
    if isinstance(value, Accumulators):
        return _requantize(graph, value, to, origin)
    if isinstance(value, PendingScan):
        return selective_scan(graph, value, to, origin)
    if isinstance(value, Codes) and _is_identity(value, to):
        return value.renamed(origin)
    return _table(graph, as_function(value, graph.current), to, origin)


def _is_identity(value: Codes, to: Quantizer) -> bool:
    return value.scale == to.scale and to.low <= value.low and value.high <= to.high


def _requantize(
    graph: HardwareGraph, value: Accumulators, to: Quantizer, origin: str
) -> Codes:  # fmt: skip
    low = max(to.low, 0) if value.relu else to.low
    ratio, bias = value.scale / to.scale, value.bias / to.scale
    largest = max(-value.low, value.high)
    rescaling = fixed_point(origin, ratio, bias, largest, max(-low, to.high))
    names = [
        graph.constant(f"{origin}_multiplier", rescaling.multiplier, "UINT17"),
        graph.constant(f"{origin}_offset", rescaling.offset, "INT48"),
        graph.constant(f"{origin}_shift", rescaling.shift, "UINT6"),
    ]
    output = graph.emit(
        "Requantize", [value.tensor, *names], value.stream, to.dtype, f"{origin}_codes",
        NumChannels=value.stream[-1], PE=1, numInputVectors=list(value.stream[:-1]),
        inputDataType=value.dtype, outputDataType=to.dtype, Low=low, High=to.high,
        IsShift=int(rescaling.is_shift),
    )  # fmt: skip
    codes = Codes(output, value.stream, value.layout, origin, to.dtype, low, to.high, to.scale)
    rounding = Rounding(
        value.tensor, ratio, bias, low, to.high, rescaling, _float32_error(value, ratio, bias)
    )
    return graph.record(codes, "rounded", rounding=rounding)


def _float32_error(value: Accumulators, ratio: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Bound what float32 arithmetic does to the QONNX model's value, in units of a code.

    A sum of n products in float32 is off by at most about ``sqrt(n) * 2^-24`` of the sum of their
    magnitudes with high probability (Higham and Mary, SIAM J. Sci. Comput. 41, 2019), taken four
    times; the scale, the bias and the division add four more roundings of the result.
    """
    unit = 2.0**-24
    sums = 4 * math.sqrt(value.terms) * value.magnitude * ratio
    return unit * (sums + 4 * (value.magnitude * ratio + np.abs(bias)))


def _table(graph: HardwareGraph, value: Function, to: Quantizer, origin: str) -> Codes:
    source = value.codes
    real = value.values / to.scale
    # half to even, as the QONNX model rounds: a table can follow it at an exact tie
    entries = np.clip(np.round(real), to.low, to.high).astype(np.int64)
    name = graph.constant(f"{origin}_table", entries, to.dtype)
    start = type_range(source.dtype)[0]
    output = graph.emit(
        "TableActivation", [source.tensor, name], source.stream, to.dtype, f"{origin}_codes",
        NumChannels=source.stream[-1], PE=1, numInputVectors=list(source.stream[:-1]),
        inputDataType=source.dtype, outputDataType=to.dtype, Low=start, Entries=len(entries),
    )  # fmt: skip
    codes = Codes(output, source.stream, value.layout, origin, to.dtype, to.low, to.high, to.scale)
    return graph.record(codes, "table", table_values=real)
