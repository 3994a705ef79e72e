"""UpsampleNearestNeighbour's RTL: repeats pixels and rows out of a ring of about a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides
from fpga.operators.common import REGISTER, stream, text
from fpga.operators.rtl_module import RtlModule
from lmaunet.errors import UserError

# Words above a row, so that reading, freeing and filling again do not wait for each other.
SPARE_WORDS = 4


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray] = ()) -> RtlModule:
    """Return the RTL of an ``UpsampleNearestNeighbour`` node.

    Raises:
        UserError: where SIMD does not divide the channels or a factor is not whole.
    """
    simd, channels = attributes["SIMD"], attributes["NumChannels"]
    check_divides("SIMD", simd, "channels", channels)
    height, width = attributes["HI"], attributes["WI"]
    out_height, out_width = attributes["HO"], attributes["WO"]
    if out_height < height or out_width < width or out_height % height or out_width % width:
        raise UserError(
            f"UpsampleNearestNeighbour: {height} x {width} to {out_height} x {out_width}, expected "
            "whole factors"
        )
    dtype = text(attributes["inputDataType"])
    beats = channels // simd
    port = stream("in0_V", dtype, simd)
    return RtlModule(
        "upsample_nearest",
        (REGISTER, "upsample_nearest.sv"),
        {
            "BITS": port.bits,
            "BEATS": beats,
            "WIDTH": width,
            "FACTOR_H": out_height // height,
            "FACTOR_W": out_width // width,
            "DEPTH": width * beats + SPARE_WORDS,
        },
        (port,),
        (stream("out0_V", dtype, simd),),
    )
