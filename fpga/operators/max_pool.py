"""Pool's RTL: the maximum of the taps that FINN+'s depthwise window generator puts out.

That generator's order is (pixel, group of SIMD channels, row of the window, column, SIMD), and the
window's parallelism is the pool's PE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides, type_bits
from fpga.operators.common import REGISTER, is_signed, stream, text
from fpga.operators.rtl_module import RtlModule
from lmaunet.errors import UserError


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray] = ()) -> RtlModule:
    """Return the RTL of a ``Pool`` node; raises :class:`UserError` where it is no maximum."""
    pe = attributes["PE"]
    check_divides("PE", pe, "channels", attributes["Channels"])
    kinds = [text(attributes[name]) for name in ("InputDataType", "OutputDataType")]
    if text(attributes["Function"]) != "MaxPool" or kinds[0] != kinds[1]:
        raise UserError(
            f"Pool: {text(attributes['Function'])} of {kinds[0]} to {kinds[1]}, expected MaxPool "
            "between equal types"
        )
    return RtlModule(
        "max_pool",
        (REGISTER, "max_pool.sv"),
        {
            "PE": pe,
            "BITS": type_bits(kinds[0]),
            "SIGNED": is_signed(kinds[0]),
            "TAPS": math.prod(attributes["KernelSize"]),
        },
        (stream("in0_V", kinds[0], pe),),
        (stream("out0_V", kinds[0], pe),),
    )
