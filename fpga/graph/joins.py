"""What joins streams of codes: concatenation and addition, with equal scales or unequal ones.

Codes of one scale are joined as they are. Where the scales differ, concatenated codes are brought
to the scale of the quantizer behind by a table each, in which every code is rounded as the QONNX
model rounds it. Codes that are added are first brought to a finer unit that both share: the wider
scale divided by :data:`FINER`. The other operand's table is then off by half of that unit at most,
which the agreement allows beside the rounding of the sum.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.graph.builder import HardwareGraph
from lmaunet.fpga.graph.values import Accumulators, Codes, Function, Joined, Value, map_layout
from lmaunet.fpga.operators.arithmetic import integer_bits, type_bits, type_range

FINER = 256
"""Of two unequal scales that are added, the parts of the wider one; codes then have 16 bits.

Half as many where one is unsigned.
"""


def emit_table(graph: HardwareGraph, source: Codes, entries: np.ndarray, dtype: str, hint: str,
               origin: str) -> str:  # fmt: skip
    """Emit a table over all codes of the source's type and return its tensor."""
    name = graph.constant(f"{origin}_table", entries, dtype)
    return graph.emit(
        "TableActivation", [source.tensor, name], source.stream, dtype, hint,
        NumChannels=source.stream[-1], PE=1, numInputVectors=list(source.stream[:-1]),
        inputDataType=source.dtype, outputDataType=dtype, Low=type_range(source.dtype)[0],
        Entries=len(entries),
    )  # fmt: skip


def concat(graph: HardwareGraph, codes: list[Codes], origin: str) -> Value:
    """Join maps of codes along the channels: now, or with what the next quantizer asks for."""
    shape = (*codes[0].stream[:3], sum(c.stream[3] for c in codes))
    if any(c.stream[:3] != shape[:3] for c in codes):
        raise UserError(
            f"{graph.current}: Concat of {', '.join(f'{c.origin} {c.shape}' for c in codes)}; "
            "expected maps of one size"
        )
    if len({(c.scale, c.dtype) for c in codes}) > 1:
        return Joined("", shape, map_layout(shape), origin, tuple(map(function_of, codes)))
    output = emit_concat(graph, [c.tensor for c in codes], codes, codes[0].dtype, origin)
    low, high = min(c.low for c in codes), max(c.high for c in codes)
    result = dataclasses.replace(
        codes[0], tensor=output, stream=shape, layout=map_layout(shape), origin=origin, low=low,
        high=high,
    )  # fmt: skip
    return graph.record(result, "exact")


def emit_concat(
    graph: HardwareGraph, tensors: list[str], values: list[Any], dtype: str, origin: str
) -> str:
    """Emit the node that joins tensors with the streams of values; return its output."""
    shape = (*values[0].stream[:3], sum(v.stream[3] for v in values))
    return graph.emit(
        "StreamingConcat", tensors, shape, dtype, f"{origin}_codes", SIMD=1,
        ChannelsPerStream=[v.stream[3] for v in values], inputDataTypes=[dtype] * len(values),
        numInputVectors=list(shape[:3]),
    )  # fmt: skip


def function_of(codes: Codes) -> Function:
    """Return codes as the function code times scale, over all codes of their type."""
    low, high = type_range(codes.dtype)
    values = np.arange(low, high + 1) * codes.scale
    return Function(codes.tensor, codes.stream, codes.layout, codes.origin, codes, values)


def refuse_unequal(user: str, op_type: str, codes: list[Codes]) -> None:
    """Raise :class:`UserError` naming the tensors where scales or types differ."""
    first = codes[0]
    for other in codes[1:]:
        if (other.scale, other.dtype) != (first.scale, first.dtype):
            raise UserError(
                f"{user}: {op_type} of {first.origin} ({first.dtype}, scale {first.scale:.9g}) and "
                f"{other.origin} ({other.dtype}, scale {other.scale:.9g}); their codes can be "
                "joined only with equal scales: give both the same quantizer, or put one behind "
                f"the {op_type}"
            )


def weighted_sum(graph: HardwareGraph, left: Codes, right: Codes, origin: str) -> Accumulators:
    """Add codes of unequal scales in a unit that is a part of the wider one."""
    signed = left.dtype.startswith("INT") and right.dtype.startswith("INT")
    unit = max(left.scale, right.scale) / (FINER if signed else FINER // 2)
    tensors, ends, error = [], [], 0.0
    for side, codes in (("left", left), ("right", right)):
        exact = np.arange(type_range(codes.dtype)[0], type_range(codes.dtype)[1] + 1) * (
            codes.scale / unit
        )
        entries = np.round(exact).astype(np.int64)
        error += float(np.abs(entries - exact).max())
        dtype = f"INT{integer_bits(int(entries.min()), int(entries.max()))}"
        if type_bits(dtype) > type_bits("INT16"):
            raise UserError(
                f"{graph.current}: {codes.origin} is {codes.dtype}; codes of at most 8 bits are "
                "added with unequal scales: give both one quantizer"
            )
        hint = f"{origin}_{side}"
        tensors.append(emit_table(graph, codes, entries, dtype, hint, hint))
        ends.append((dtype, int(entries.min()), int(entries.max())))
    (left_type, low, high), (right_type, other_low, other_high) = ends
    low, high = low + other_low, high + other_high
    dtype, shape = f"INT{integer_bits(low, high)}", left.stream
    moved = dataclasses.replace(right, tensor=tensors[1])
    output = graph.emit(
        "ElementwiseAdd", [tensors[0], graph.streamed_as(moved, shape)], shape, dtype,
        f"{origin}_sum", lhs_dtype=left_type, rhs_dtype=right_type, out_dtype=dtype,
        lhs_shape=list(shape), rhs_shape=list(shape), out_shape=list(shape), lhs_style="input",
        rhs_style="input", PE=1,
    )  # fmt: skip
    channels = shape[-1]
    return Accumulators(
        output, shape, left.layout, origin, dtype, low, high, np.full(channels, unit),
        np.zeros(channels), 2, np.full(channels, float(max(-low, high))), error=error,
    )  # fmt: skip
