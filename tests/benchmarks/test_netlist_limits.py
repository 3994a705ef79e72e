"""The matrix and the depthwise unit within the limits of 250 MHz, by their netlists of yosys.

Of the 7 series, whose DSPs yosys fills: on UltraScale+ it leaves their registers and adders
outside, so that enables are held there too, but levels would be those of adders that a DSP has.
"""

from __future__ import annotations

import dataclasses
import re

import cases
import pytest
from test_dsp_counts import matrix
from test_synthesis import needs_yosys

from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.operators.rtl_module import Port, RtlModule
from lmaunet.fpga.toolchain.netlist_levels import Limits, Netlist, exceeded, read_netlist
from lmaunet.fpga.toolchain.yosys import for_dsp48e1, synthesize_netlists

pytestmark = [needs_yosys, pytest.mark.slow, pytest.mark.timeout(1800)]

LIMITS = Limits()
UNITS = {
    "matrix, 4 bits, PE 4 SIMD 12": lambda: matrix(12, 4, 4, "INT8"),
    "matrix, 4 bits, PE 6 SIMD 18": lambda: matrix(18, 6, 4, "INT8"),
    "matrix, 8 bits, PE 16 SIMD 2": lambda: matrix(2, 16, 8, "INT8"),
    "matrix, 4 bits, PE 32 SIMD 1": lambda: matrix(1, 32, 4, "INT8"),
    "matrix, 8 bits, PE 8 SIMD 18, loaded": lambda: dataclasses.replace(
        loaded := matrix(18, 8, 8, "INT8"), attributes={**loaded.attributes, "ram_style": "ultra"}
    ),
    "depthwise, PE 8 SIMD 7": lambda: cases.depthwise_conv(
        (7, 7), channels=8, pe=8, simd=7, weights="INT8"
    ),
    "depthwise, PE 24 SIMD 1": lambda: cases.depthwise_conv(channels=24, pe=24, weights="INT8"),
}
# what has a reset: that something is there, where a queue or a count stands
CONTROL = re.compile(
    r"(.*\.)?(valid|credits|written|read|following|returned|address|index|beat|complete|filled|base"
    r"|reading|writing|repetition|first|last|in_ready|in0_V_tready|out0_V_tvalid"
    r"|pass_valid|writes|whole|loaded|row|column)(\[\d+\])?"
)


def netlist(unit: str, family: str, tmp_path) -> Netlist:
    module = UNITS[unit]().module()
    if module.name == "depthwise_conv":
        # of constants in LUTs yosys makes resets by an address, where a word is 0
        parameters = dict(module.parameters) | {"ROM_STYLE": "block"}
        module = dataclasses.replace(module, parameters=parameters)
    module = for_dsp48e1(module) if family == "xc7" else module
    return read_netlist(synthesize_netlists([module], tmp_path, family))


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_within_the_limits(unit, tmp_path):
    found = netlist(unit, "xc7", tmp_path)
    assert exceeded(found, LIMITS) == []
    assert found.paths(1)[0].levels >= 1
    loaded = {name for net in found.nets("reset") for name in net.loaded}
    assert [name for name in loaded if not CONTROL.fullmatch(name)] == []


@pytest.mark.parametrize(
    "unit",
    ["matrix, 4 bits, PE 4 SIMD 12", "matrix, 8 bits, PE 8 SIMD 18, loaded",
     "depthwise, PE 24 SIMD 1"],
)  # fmt: skip
def test_a_units_enables_on_ultrascale_plus(unit, tmp_path):
    found = netlist(unit, "xcup", tmp_path)
    assert found.nets("enable")[0].loads <= LIMITS.enable_loads


WIDE = {
    "register": fifo.module(fifo.layout(432, fifo.SHALLOW)),
    "join": width_converter.module(96, 576),
    "part": width_converter.module(576, 96),
    "join and part": width_converter.module(64, 144),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_wide_words_enables_reach_a_part_of_it(name, tmp_path):
    found = read_netlist(synthesize_netlists([WIDE[name]], tmp_path))
    assert exceeded(found, LIMITS) == []
    assert sum(net.loads > LIMITS.enable_loads // 2 for net in found.nets("enable")) > 1


def test_a_products_registers_are_in_its_dsp(tmp_path):
    module = for_dsp48e1(cases.elementwise().module())
    found = read_netlist(synthesize_netlists([module], tmp_path, "xc7"))
    assert exceeded(found, LIMITS) == [] and found.unregistered_dsps() == []
    assert any(cell["type"].startswith("DSP") for cell in found.cells.values())


COUNTER = """\
module counter (input wire ap_clk, input wire ap_rst_n, input wire [15:0] in0_V_tdata,
    input wire in0_V_tvalid, output wire in0_V_tready, output reg [7:0] out0_V_tdata,
    output wire out0_V_tvalid, input wire out0_V_tready);
    reg [15:0] held;
    assign in0_V_tready = 1'b1;
    assign out0_V_tvalid = 1'b1;
    always @(posedge ap_clk) begin
        held <= in0_V_tdata;
        out0_V_tdata <= {7'b0, ^held[7:0]};
    end
endmodule
"""


def test_a_module_of_known_depth(tmp_path):
    """The parity of 8 bits: two levels of six-input LUTs; no carry, no enable."""
    module = RtlModule("counter", (), {}, (Port("in0_V", 16),), (Port("out0_V", 8),),
                       generated={"counter.sv": COUNTER})  # fmt: skip
    found = read_netlist(synthesize_netlists([module], tmp_path))
    path = found.paths(1)[0]
    assert (path.luts, path.carries, path.levels) == (2, 0, 2)
    assert found.nets("enable") == []
    assert exceeded(found, Limits(clock_ns=0.6 + 2 * 0.55)) == []
    assert len(exceeded(found, Limits(clock_ns=0.6 + 2 * 0.55 - 0.01))) == 1
