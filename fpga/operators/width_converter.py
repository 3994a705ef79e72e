"""The converter between two stream widths; it stands between nodes and is none itself."""

from __future__ import annotations

import math

from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.common import REGISTER, control_groups, count_bits, require_positive
from lmaunet.fpga.operators.rtl_module import Port, RtlModule

SOURCES = (REGISTER, "width_up.sv", "width_down.sv", "width_converter.sv")


def module(bits_in: int, bits_out: int) -> RtlModule:
    """Return a converter between beats of ``bits_in`` and ``bits_out`` bits, low bits first."""
    require_positive("width converter", bits_in=bits_in, bits_out=bits_out)
    return RtlModule(
        "width_converter",
        SOURCES,
        {
            "INPUT_BITS": bits_in,
            "OUTPUT_BITS": bits_out,
            "COMMON_BITS": math.lcm(bits_in, bits_out),
        },
        (Port("in0_V", bits_in),),
        (Port("out0_V", bits_out),),
    )


def resources(bits_in: int, bits_out: int) -> Resources:
    """Return the estimate of a converter between two widths (*yosys*, 8 to 864 bits).

    Where neither width divides the other, it goes up to their smallest multiple and down again.
    """
    if bits_in == bits_out:
        return Resources(0, 0)
    common = math.lcm(bits_in, bits_out)
    lut = ff = 0
    groups = control_groups(common)
    if common > bits_in:
        count = count_bits(common // bits_in)
        lut, ff = groups * (4 + count), 2 * common - bits_in + groups * (count + 1)
    if common > bits_out:
        count = count_bits(common // bits_out)
        lut += 2 * common - bits_out + groups * (6 + count)
        ff += 2 * common + groups * (2 + count)
    return Resources(lut, 0, (), ff)
