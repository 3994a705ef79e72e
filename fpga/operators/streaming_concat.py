"""StreamingConcat's RTL: the channels of several streams one after the other, pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides
from fpga.operators.common import REGISTER, stream, text
from fpga.operators.rtl_module import RtlModule
from lmaunet.errors import UserError

BEATS_BITS = 16


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray] = ()) -> RtlModule:
    """Return the RTL of a ``StreamingConcat`` node.

    Raises:
        UserError: where SIMD does not divide an input's channels or the inputs' types differ.
    """
    simd, channels = attributes["SIMD"], list(attributes["ChannelsPerStream"])
    types = [text(t) for t in attributes["inputDataTypes"]]
    for i, count in enumerate(channels):
        check_divides("SIMD", simd, f"channels of input {i}", count)
    if len(channels) < 2 or len(set(types)) > 1:
        raise UserError(f"StreamingConcat: inputs {types}, expected two or more of one type")
    beats = [count // simd for count in channels]
    if max(beats) >= 1 << BEATS_BITS:
        raise UserError(f"StreamingConcat: {max(beats)} beats a pixel, expected below 65536")
    port = stream("out0_V", types[0], simd)
    return RtlModule(
        "streaming_concat",
        (REGISTER, "streaming_concat.sv"),
        {
            "INPUTS": len(channels),
            "BITS": port.bits,
            "BEATS": sum(b << (BEATS_BITS * i) for i, b in enumerate(beats)),
        },
        tuple(stream(f"in{i}_V", types[0], simd) for i in range(len(channels))),
        (port,),
        bundled="in",
    )
