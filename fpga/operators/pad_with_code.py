"""PadWithCode's RTL, and FMPadding's, whose code is 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides, type_bits, type_range
from fpga.operators.common import REGISTER, stream, text
from fpga.operators.rtl_module import RtlModule
from lmaunet.errors import UserError


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray] = ()) -> RtlModule:
    """Return the RTL of a ``PadWithCode`` or ``FMPadding`` node.

    Raises:
        UserError: where SIMD does not divide the channels, a border is negative, or the code does
            not fit the type.
    """
    simd, channels = attributes["SIMD"], attributes["NumChannels"]
    check_divides("SIMD", simd, "channels", channels)
    dtype, code = text(attributes["inputDataType"]), attributes.get("Code", 0)
    low, high = type_range(dtype)
    if not low <= code <= high:
        raise UserError(f"PadWithCode: Code={code}, expected {low} to {high} ({dtype})")
    top, left, bottom, right = attributes["Padding"]
    if min(top, left, bottom, right) < 0:
        raise UserError(f"PadWithCode: Padding={list(attributes['Padding'])}, expected 0 or more")
    height, width = attributes["ImgDim"]
    return RtlModule(
        "pad_with_code",
        (REGISTER, "pad_with_code.sv"),
        {
            "SIMD": simd,
            "BITS": type_bits(dtype),
            "BEATS": channels // simd,
            "HEIGHT": height,
            "WIDTH": width,
            "TOP": top,
            "LEFT": left,
            "BOTTOM": bottom,
            "RIGHT": right,
            "CODE": code,
        },
        (stream("in0_V", dtype, simd),),
        (stream("out0_V", dtype, simd),),
    )
