"""VVAU's RTL: a depthwise convolution on DSP48E2, with the weights in a ROM at their own width.

FINN+ has RTL for it on Versal only. The input is what FINN+'s depthwise window generator puts out,
see :mod:`fpga.operators.max_pool`; with SIMD > 1 a beat holds SIMD taps of PE channels,
channels innermost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides, type_bits, type_range
from fpga.operators.common import REGISTER, is_signed, memory_style, stream, text
from fpga.operators.rtl_module import Port, RtlModule, lane_words
from lmaunet.errors import UserError

WEIGHTS = "weights.dat"


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray]) -> RtlModule:
    """Return the RTL of a node.

    Args:
        attributes: of the operator ``VVAU``.
        constants: the weights ``(channels, 1, kernel height, kernel width)``.

    Raises:
        UserError: where PE or SIMD do not divide the channels or the taps, or the weights do not
            fit their type.
    """
    channels, pe, simd = attributes["Channels"], attributes["PE"], attributes["SIMD"]
    taps = math.prod(attributes["Kernel"])
    check_divides("PE", pe, "channels", channels)
    check_divides("SIMD", simd, "taps", taps)
    input_type, weight_type = text(attributes["inputDataType"]), text(attributes["weightDataType"])
    output_type = text(attributes["outputDataType"])
    weights = np.asarray(constants[0]).astype(np.int64).reshape(channels, -1)
    if weights.shape != (channels, taps):
        raise UserError(f"VVAU: weights of shape {weights.shape}, expected {(channels, taps)}")
    if not is_signed(weight_type) or not is_signed(output_type):
        raise UserError(f"VVAU: {weight_type} weights to {output_type}, expected signed types")
    low, high = type_range(weight_type)
    if weights.min() < low or weights.max() > high:
        raise UserError(
            f"VVAU: weights of {weights.min()} to {weights.max()}, {weight_type} is {low} to {high}"
        )
    # (group, beat, tap of the beat, channel of the group)
    order = weights.reshape(channels // pe, pe, taps // simd, simd).transpose(0, 2, 3, 1)
    bits = type_bits(weight_type)
    return RtlModule(
        "depthwise_conv",
        (REGISTER, "depthwise_conv.sv"),
        {
            "PE": pe,
            "SIMD": simd,
            "TAPS": taps,
            "GROUPS": channels // pe,
            "INPUT_BITS": type_bits(input_type),
            "INPUT_SIGNED": is_signed(input_type),
            "WEIGHT_BITS": bits,
            "OUTPUT_BITS": type_bits(output_type),
            "WEIGHTS": WEIGHTS,
            "ROM_STYLE": memory_style(attributes),
        },
        (Port("in0_V", type_bits(input_type) * pe * simd),),
        (stream("out0_V", output_type, pe),),
        {WEIGHTS: lane_words(order.reshape(-1, simd * pe), bits)},
    )
