"""What stands between the nodes: width converters and FIFOs."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
from collections.abc import Sequence

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, mutated, needs_verilator

from fpga.operators import fifo, width_converter
from fpga.operators.rtl_module import RTL_FOLDER, RtlModule, pack
from fpga.simulation.compilation import Compiled, compile_module, lint, verilator_place
from fpga.simulation.simulator import Simulation, SimulationFailed, Stalls, Watch, simulate
from fpga.simulation.streams import Beats, checksum
from lmaunet.errors import UserError

WIDTHS = [(8, 24), (30, 10), (12, 20), (16, 16)]


def convert(compiled: Compiled, bits_in: int, bits_out: int, stalls: Stalls):
    """Send random bits through; return the run and whether the bits are the same."""
    bits = np.random.default_rng(0).integers(0, 2, math.lcm(bits_in, bits_out) * 40)
    beats = pack(bits.reshape(-1, bits_in), 1)
    expected = pack(bits.reshape(-1, bits_out), 1)
    got = simulate(compiled, {"in0_V": beats}, {"out0_V": len(expected)}, stalls)
    return got, (got.outputs["out0_V"] == expected).all()


@needs_verilator
@pytest.mark.parametrize(("bits_in", "bits_out"), WIDTHS)
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


def through(compiled: Compiled, stalls: Stalls, words: int = 300, watch: Sequence[Watch] = ()):
    bits = compiled.module.inputs[0].bits
    beats = pack(np.random.default_rng(1).integers(0, 2, (words, bits)), 1)
    got = simulate(compiled, {"in0_V": beats}, {"out0_V": words}, stalls, watch=watch)
    return got, (got.outputs["out0_V"] == beats).all()


@needs_verilator
@pytest.mark.parametrize(("depth", "style"), [(2, "auto"), (3, "distributed"), (19, "block")])
def test_a_fifo_holds_its_depth_at_full_rate(simulations, depth, style):
    module = fifo.module(12, depth, style)
    lint(module)
    compiled = compile_module(module, simulations)
    for stalls in STALLS:
        got, equal = through(compiled, stalls)
        assert equal
        if stalls == NO_STALLS:
            assert (np.diff(got.cycles["out0_V"]) == 1).all()
            assert held(got) <= 3
            assert counter(got, "blocked") == 0
    got, equal = through(compiled, Stalls(outputs=0.95, seed=9))
    assert equal
    assert held(got) == fifo.capacity(depth)
    assert counter(got, "blocked") > 0


@needs_verilator
@pytest.mark.parametrize("depth", [3, 5, 6, 19])
def test_a_depth_of_the_run_is_as_good_as_one_that_is_compiled(simulations, depth):
    """The same words in the same cycles, and the same counters."""
    roomy = compile_module(fifo.module(12, 300), simulations)
    compiled = compile_module(fifo.module(12, depth), simulations)
    for stalls in (*STALLS, Stalls(outputs=0.95, seed=9)):
        got, equal = through(roomy, stalls, watch=[Watch("core", 300, depth)])
        other, _ = through(compiled, stalls)
        assert equal and got.counters == other.counters
        for port, cycles in other.cycles.items():
            np.testing.assert_array_equal(got.cycles[port], cycles)


@needs_verilator
def test_a_depth_beyond_the_compiled_one_is_refused(simulations):
    compiled = compile_module(fifo.module(12, 19), simulations)
    with pytest.raises(SimulationFailed, match="core: a depth of 20, expected at most 19"):
        through(compiled, NO_STALLS, watch=[Watch("core", 300, 20)])


def told(compiled: Compiled, stalls: Stalls) -> list[bool]:
    """Tell whether the checksums of three images and the words kept are those that came in."""
    bits = compiled.module.inputs[0].bits
    beats = np.random.default_rng(1).integers(0, 2, (300, bits))
    words = Beats(1, bits, signed=False).words(beats)
    watch = [Watch("core", words[:100].size, keeps=True)]
    got, _ = through(compiled, stalls, watch=watch)
    sums = tuple(checksum(words[i : i + 100]) for i in (0, 100, 200))
    return [got.checksums["core"] == sums, got.kept["core"].tolist() == words.ravel().tolist()]


@needs_verilator
@pytest.mark.parametrize(("bits", "depth"), [(12, 2), (64, 19), (150, 2), (150, 19)])
def test_a_fifo_tells_every_word(simulations, bits, depth):
    compiled = compile_module(fifo.module(bits, depth), simulations)
    for stalls in STALLS:
        assert told(compiled, stalls) == [True, True]


@needs_verilator
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("in0_V_tvalid && in0_V_tready)\n            for", "in0_V_tvalid)\n            for"),
        ("padded[i*64+:64]", "padded[63:0]"),
        ("(PARTS * 64)'(in0_V_tdata[BITS-1:0])", "(PARTS * 64)'(in0_V_tdata[BITS-2:0])"),
    ],
)
def test_a_fifo_that_tells_other_words_is_caught(simulations, tmp_path, old, new):
    """The mutants: words that are not taken, the low part of all, a bit too few."""
    module = fifo.module(150, 2)
    compiled = mutated(module, simulations, "fifo.sv", old, new, tmp_path)
    assert told(compiled, Stalls(0.3, 0.6, seed=3)) == [False, False]


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


@needs_verilator
def test_a_fifo_tells_the_depth_that_it_needs(simulations):
    """Exactly that depth refuses no word under the same stalls, and one less does."""
    stalls = Stalls(0.5, 0.45, seed=5)
    roomy, _ = through(compile_module(fifo.module(12, 300), simulations), stalls)
    needed = counter(roomy, "needed")
    assert 5 < needed < 100
    for depth, refuses in ((needed, False), (needed - 1, True)):
        got, equal = through(compile_module(fifo.module(12, depth), simulations), stalls)
        assert equal
        assert (counter(got, "blocked") > 0) == refuses


@needs_verilator
@pytest.mark.parametrize("depth", [2, 19])
@pytest.mark.parametrize("stalls", [NO_STALLS, Stalls(0.5, 0.45, seed=5)])
def test_a_fifo_tells_when_it_took_its_first_and_last_word(simulations, depth, stalls):
    got, _ = through(compile_module(fifo.module(12, depth), simulations), stalls)
    taken = got.cycles["in0_V"]
    assert (counter(got, "first"), counter(got, "last")) == (taken[0], taken[-1])


@needs_verilator
@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("if (!taken) first <=", "first <=", "first"),
        ("last <= int'($time)", "if (!taken) last <= int'($time)", "last"),
    ],
)
def test_a_fifo_that_tells_another_cycle_is_caught(simulations, tmp_path, old, new, wrong):
    """The mutants: the first word is any word, and the last is the first."""
    module = fifo.module(12, 19)
    got, _ = through(mutated(module, simulations, "fifo.sv", old, new, tmp_path), NO_STALLS)
    taken = got.cycles["in0_V"]
    assert counter(got, wrong) != {"first": taken[0], "last": taken[-1]}[wrong]


def held(got: Simulation) -> int:
    """Return how many words were inside at most, counted at the ports."""
    ends = 1 + max(int(cycles[-1]) for cycles in got.cycles.values())
    into, out = (np.bincount(got.cycles[name], minlength=ends) for name in ("in0_V", "out0_V"))
    return int(np.cumsum(into - out).max())


def counter(got: Simulation, name: str) -> int:
    return next(value for path, value in got.counters.items() if path.endswith(f".{name}"))


MUTANTS = {
    "width_up.sv": (WIDTHS[0], "!last || !out0_V_tvalid", "1'b1"),
    "width_down.sv": (WIDTHS[1], "waits ? waiting : in0", "in0"),
    "width_converter.sv": (WIDTHS[2], "PARTS(COMMON_BITS / OUTPUT_BITS)", "PARTS(2)"),
    "fifo.sv": (None, "count != $bits(count)'(`ROOM)", "1'b1"),
}


@needs_verilator
@pytest.mark.parametrize("source", MUTANTS)
def test_a_fault_is_caught(simulations, tmp_path, source):
    widths, old, new = MUTANTS[source]
    module: RtlModule = width_converter.module(*widths) if widths else fifo.module(12, 19)
    try:
        compiled = mutated(module, simulations, source, old, new, tmp_path)
        for stalls in STALLS:
            equal = (convert(compiled, *widths, stalls) if widths else through(compiled, stalls))[1]
            if not equal:
                return
    except (SimulationFailed, UserError):
        return
    raise AssertionError("the fault was not seen")


def test_bad_sizes_are_refused(simulations):
    with pytest.raises(UserError, match="bits_out=0, expected 1 or more"):
        width_converter.module(8, 0)
    with pytest.raises(UserError, match="depth=1, style=auto; expected a depth of 2 or more"):
        fifo.module(8, 1)
    with pytest.raises(UserError, match="style=lut; expected a depth of 2 or more and one of auto"):
        fifo.module(8, 4, "lut")


@needs_verilator
@pytest.mark.parametrize(
    ("module", "parameter", "value", "message"),
    [
        (width_converter.module(12, 20), "COMMON_BITS", 40, "COMMON_BITS=40 is no multiple"),
        (fifo.module(8, 4), "DEPTH", 1, "DEPTH=1, expected at least 1 and 2"),
    ],
)
def test_bad_parameters_are_refused_at_elaboration(simulations, module, parameter, value, message):
    bad = dataclasses.replace(module, parameters=dict(module.parameters) | {parameter: value})
    with pytest.raises(UserError, match=message):
        compile_module(bad, simulations)
