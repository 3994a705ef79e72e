"""Width converters; of every source, that a synthesis sees nothing of the simulation."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, mutated, needs_verilator

from lmaunet.errors import UserError
from lmaunet.fpga.operators import width_converter
from lmaunet.fpga.operators.common import ENABLE_BITS
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, pack
from lmaunet.fpga.simulation.compilation import Compiled, compile_module, lint, verilator_place
from lmaunet.fpga.simulation.simulator import SimulationFailed, Stalls, simulate

WIDTHS = [(8, 24), (30, 10), (12, 20), (16, 16)]
WIDE = [(96, 576), (576, 96), (264, 528), (320, 480), (300, 300)]
"""Of more bits than one enable reaches."""


def convert(compiled: Compiled, bits_in: int, bits_out: int, stalls: Stalls):
    """Send random bits through; return the run and whether the bits are the same."""
    bits = np.random.default_rng(0).integers(0, 2, math.lcm(bits_in, bits_out) * 40)
    beats = pack(bits.reshape(-1, bits_in), 1)
    expected = pack(bits.reshape(-1, bits_out), 1)
    got = simulate(compiled, {"in0_V": beats}, {"out0_V": len(expected)}, stalls)
    return got, (got.outputs["out0_V"] == expected).all()


@needs_verilator
@pytest.mark.parametrize(("bits_in", "bits_out"), WIDTHS + WIDE)
def test_the_narrow_side_never_waits(simulations, bits_in, bits_out):
    module = width_converter.module(bits_in, bits_out)
    lint(module)
    compiled = compile_module(module, simulations)
    for stalls in STALLS:
        got, equal = convert(compiled, bits_in, bits_out, stalls)
        assert equal
        if stalls == NO_STALLS:
            cycles = got.cycles["in0_V" if bits_in <= bits_out else "out0_V"]
            assert (np.diff(cycles) == 1).all()


@needs_verilator
@pytest.mark.parametrize("source", sorted(path.name for path in RTL_FOLDER.glob("*.sv")))
def test_a_synthesis_sees_nothing_of_the_simulation(source):
    root = verilator_place()
    text = subprocess.run(
        [root / "bin" / "verilator_bin", "-E", "-P", "-UVERILATOR", RTL_FOLDER / source],
        env=os.environ | {"VERILATOR_ROOT": str(root)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f"module {source[:-3]} " in text
    for word in ("DPI", "$time", "$display", "stream_word", "watched", "`"):
        assert word not in text.replace("`default_nettype", "").replace("`line", "")


@pytest.mark.parametrize("source", ["stream_register.sv", "width_up.sv", "width_down.sv"])
def test_an_enable_reaches_as_much_as_is_counted(source):
    assert f"localparam int GROUP = {ENABLE_BITS};" in (RTL_FOLDER / source).read_text()


def untyped(text: str) -> list[str]:
    """Return the parameters with a text but no type, in which yosys refuses a memory's style."""
    return re.findall(r'parameter +([A-Z_]+) *= *"', text)


@pytest.mark.parametrize("source", sorted(path.name for path in RTL_FOLDER.glob("*.sv")))
def test_texts_are_typed_parameters(source):
    assert untyped((RTL_FOLDER / source).read_text()) == []


def test_a_parameter_without_a_type_is_found():
    text = '    parameter     RAM_STYLE = "auto",\n    parameter string OTHER = "auto"'
    assert untyped(text) == ["RAM_STYLE"]


MUTANTS = {
    "takes while full": (WIDTHS[0], "width_up.sv", "!last || !offers", "1'b1"),
    "forgets what waits": (WIDTHS[1], "width_down.sv", "waits ? waiting : whole", "whole"),
    "too few parts": (
        WIDTHS[2], "width_converter.sv", "PARTS(COMMON_BITS / OUTPUT_BITS)", "PARTS(2)",
    ),
    "joins without its second group": (
        WIDE[0], "width_up.sv", "if (take && last) word", "if (take && last && group < 1) word",
    ),
    "parts without its second group": (
        WIDE[1], "width_down.sv", "out0_V_tready && last)", "out0_V_tready && last && group < 1)",
    ),
}  # fmt: skip


@needs_verilator
@pytest.mark.parametrize("fault", MUTANTS)
def test_a_fault_is_caught(simulations, tmp_path, fault):
    widths, source, old, new = MUTANTS[fault]
    module = width_converter.module(*widths)
    try:
        compiled = mutated(module, simulations, source, old, new, tmp_path)
        if not all(convert(compiled, *widths, stalls)[1] for stalls in STALLS):
            return
    except (SimulationFailed, UserError):
        return
    raise AssertionError("the fault was not seen")


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match="bits_out=0, expected 1 or more"):
        width_converter.module(8, 0)


@needs_verilator
def test_bad_parameters_are_refused_at_elaboration(simulations):
    module = width_converter.module(12, 20)
    bad = dataclasses.replace(module, parameters=dict(module.parameters) | {"COMMON_BITS": 40})
    with pytest.raises(UserError, match="COMMON_BITS=40 is no multiple"):
        compile_module(bad, simulations)
