"""The converter between two stream widths; it stands between nodes and is none itself."""

from __future__ import annotations

import math

from fpga.operators.common import REGISTER, require_positive
from fpga.operators.rtl_module import Port, RtlModule


def hardware(bits_in: int, bits_out: int) -> RtlModule:
    """Return a converter between beats of ``bits_in`` and ``bits_out`` bits, low bits first."""
    require_positive("width converter", bits_in=bits_in, bits_out=bits_out)
    return RtlModule(
        "width_converter",
        (REGISTER, "width_up.sv", "width_down.sv", "width_converter.sv"),
        {
            "INPUT_BITS": bits_in,
            "OUTPUT_BITS": bits_out,
            "COMMON_BITS": math.lcm(bits_in, bits_out),
        },
        (Port("in0_V", bits_in),),
        (Port("out0_V", bits_out),),
    )
