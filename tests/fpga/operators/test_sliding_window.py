"""FINN+'s window generator, behind a register of ours, against the executor's integers."""

from __future__ import annotations

import dataclasses
import importlib.util

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, corners, needs_verilator

from fpga.operators.rtl_module import pack, unpack
from fpga.operators.sliding_window import ConvolutionInputGenerator
from fpga.simulation.compilation import compile_module
from fpga.simulation.simulator import BrokenRule, simulate
from lmaunet.errors import UserError

pytestmark = [
    needs_verilator,
    pytest.mark.skipif(
        importlib.util.find_spec("finn") is None, reason="the window generator needs finn-plus"
    ),
]
FRAMES = 3


def generator(height, width, channels, kernel, simd, depthwise, parallel):
    return {
        "ConvKernelDim": list(kernel), "IFMChannels": channels, "IFMDim": [height, width],
        "OFMDim": [height - kernel[0] + 1, width - kernel[1] + 1], "SIMD": simd,
        "Stride": [1, 1], "Dilation": [1, 1], "inputDataType": "INT8", "outputDataType": "INT8",
        "depthwise": depthwise, "parallel_window": parallel,
        "is1D": int(height == 1 or width == 1), "ram_style": "auto",
    }  # fmt: skip


def windows(attributes, x):
    """Return the executor's windows ``(beats, lanes)`` in the order in which they stream."""
    simd, taps = attributes["SIMD"], int(np.prod(attributes["ConvKernelDim"]))
    found = ConvolutionInputGenerator(attributes).execute([x])
    found = found.reshape(-1, taps, attributes["IFMChannels"] // simd, simd)
    if attributes["depthwise"]:
        found = found.transpose(0, 2, 1, 3)
    return found.reshape(-1, simd * (taps if attributes["parallel_window"] else 1))


@pytest.mark.parametrize(
    ("height", "width", "channels", "kernel", "simd", "depthwise", "parallel"),
    [
        (6, 7, 4, (3, 3), 2, 0, 0),
        (6, 7, 4, (3, 3), 4, 0, 1),
        (6, 7, 4, (3, 3), 2, 1, 0),
        (8, 8, 2, (5, 5), 2, 1, 1),
        (1, 12, 4, (1, 4), 2, 1, 0),
    ],
)
def test_a_window_gives_the_executors_elements(
    simulations, height, width, channels, kernel, simd, depthwise, parallel
):
    attributes = generator(height, width, channels, kernel, simd, depthwise, parallel)
    module = ConvolutionInputGenerator(attributes).module()
    x = corners(np.random.default_rng(2), -128, 127, (FRAMES, height, width, channels))
    want = windows(attributes, x)
    compiled = compile_module(module, simulations)
    beats = {"in0_V": pack(x.reshape(-1, simd), 8)}
    for stalls in STALLS:
        got = simulate(compiled, beats, {"out0_V": len(want)}, stalls)
        np.testing.assert_array_equal(unpack(got.outputs["out0_V"], 8, want.shape[1]), want)
        if stalls == NO_STALLS:
            # FINN+ counts some cycles too many; a design may be faster than that, never slower
            counted = ConvolutionInputGenerator(attributes).cycles()
            assert (got.intervals("out0_V", FRAMES) <= counted).all()
            assert (got.intervals("out0_V", FRAMES) >= 0.8 * counted).all()


def test_the_register_behind_it_is_needed(simulations):
    """In the parallel form a tready would pass through to the input in the same cycle."""
    attributes = generator(6, 7, 4, (3, 3), 4, 0, 1)
    module = ConvolutionInputGenerator(attributes).module()
    core = dataclasses.replace(
        module,
        generated={
            name: text.replace("stream_register #", "through #")
            + (THROUGH if name == f"{module.name}.sv" else "")
            for name, text in module.generated.items()
        },
    )
    x = corners(np.random.default_rng(2), -128, 127, (FRAMES, 6, 7, 4))
    want = windows(attributes, x)
    with pytest.raises(BrokenRule, match="combinational path"):
        simulate(
            compile_module(core, simulations), {"in0_V": pack(x.reshape(-1, 4), 8)},
            {"out0_V": len(want)}, STALLS[3],
        )  # fmt: skip


THROUGH = """
module through #(parameter int BITS = 8) (
    input  wire ap_clk, input wire ap_rst_n,
    input  wire [BITS-1:0] in0_V_tdata, input wire in0_V_tvalid, output wire in0_V_tready,
    output wire [BITS-1:0] out0_V_tdata, output wire out0_V_tvalid, input wire out0_V_tready
);
    assign out0_V_tdata = in0_V_tdata;
    assign out0_V_tvalid = in0_V_tvalid;
    assign in0_V_tready = out0_V_tready;
endmodule
"""


def test_a_folding_that_does_not_divide():
    with pytest.raises(UserError, match="SIMD=3 does not divide channels=4"):
        ConvolutionInputGenerator(generator(6, 7, 4, (3, 3), 3, 0, 0)).module()


def test_equal_attributes_give_equal_modules():
    first, again = (
        ConvolutionInputGenerator(generator(6, 7, 4, (3, 3), 2, 0, 0)).module() for _ in range(2)
    )
    other = ConvolutionInputGenerator(generator(6, 7, 4, (3, 3), 2, 1, 0)).module()
    assert first == again and first.name != other.name


def test_another_library_of_finn_is_refused(monkeypatch):
    monkeypatch.setattr("fpga.operators.sliding_window.SHIFT", "no such text")
    with pytest.raises(UserError, match="has not the shift register that FINN"):
        ConvolutionInputGenerator(generator(6, 7, 4, (3, 3), 2, 0, 0)).module()
