"""The queue between two nodes: a register, one memory, or a chain of segments with packed words."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, mutated, needs_verilator

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import URAM_DEPTH
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.operators.fifo import Layout
from lmaunet.fpga.operators.rtl_module import RtlModule, pack
from lmaunet.fpga.simulation.compilation import Compiled, compile_module, lint
from lmaunet.fpga.simulation.simulator import Simulation, SimulationFailed, Stalls, Watch, simulate
from lmaunet.fpga.simulation.streams import Beats, checksum

STOPPED = Stalls(outputs=0.95, seed=9)
CHAIN = Layout(12, 1, 5, 3, "block")
PACKED = Layout(10, 6, 4, 2, "ultra")
LAYOUTS = {
    "a register": fifo.layout(12, 2),
    "two rows": fifo.layout(12, 3, "distributed"),
    "one memory": fifo.layout(12, 19),
    "a memory of a power of two": Layout(12, 1, 16, 1, "block"),
    "a chain": CHAIN,
    "packed": PACKED,
    "packed, one segment": Layout(9, 4, 7, 1, "auto"),
}
COMPILED = {name: fifo.module(found) for name, found in LAYOUTS.items()}


def queue(bits: int, depth: int) -> RtlModule:
    return fifo.module(fifo.layout(bits, depth))


def through(compiled: Compiled, stalls: Stalls, words: int = 300, watch: Sequence[Watch] = ()):
    """Send random words through; return the run and whether they are the same."""
    bits = compiled.module.inputs[0].bits
    beats = pack(np.random.default_rng(1).integers(0, 2, (words, bits)), 1)
    got = simulate(compiled, {"in0_V": beats}, {"out0_V": words}, stalls, watch=watch)
    return got, (got.outputs["out0_V"] == beats).all()


def held(got: Simulation) -> int:
    """Return how many words were inside at most, counted at the ports."""
    ends = 1 + max(int(cycles[-1]) for cycles in got.cycles.values())
    into, out = (np.bincount(got.cycles[name], minlength=ends) for name in ("in0_V", "out0_V"))
    return int(np.cumsum(into - out).max())


def counter(got: Simulation, name: str) -> int:
    return next(value for path, value in got.counters.items() if path.endswith(f".{name}"))


@needs_verilator
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_fifo_holds_its_words_at_full_rate(simulations, name):
    lint(COMPILED[name])
    compiled, found = compile_module(COMPILED[name], simulations), LAYOUTS[name]
    for stalls in STALLS:
        got, equal = through(compiled, stalls)
        assert equal
        if stalls == NO_STALLS:
            assert (np.diff(got.cycles["out0_V"]) == 1).all()
            assert counter(got, "blocked") == 0
            delay = 1 if not found.rows else 1 + 3 * found.segments
            # a row leaves when it is whole
            delay += found.pack if found.pack > 1 else 0
            assert int(got.cycles["out0_V"][0] - got.cycles["in0_V"][0]) == delay
    got, equal = through(compiled, STOPPED)
    assert equal
    # what is about to become a row, or was one
    assert found.words <= held(got) < found.words + 2 * found.pack
    assert found.pack > 1 or held(got) == found.words
    assert counter(got, "blocked") > 0


@needs_verilator
@pytest.mark.parametrize("name", [n for n, found in LAYOUTS.items() if found.rows])
def test_a_size_of_the_run_is_as_good_as_one_that_is_compiled(simulations, name):
    """The same words in the same cycles, and the same counters; rows and segments of the run."""
    found = LAYOUTS[name]
    compiled = compile_module(COMPILED[name], simulations)
    larger = dataclasses.replace(found, rows=max(16, -(-300 // found.pack // 4)), segments=4)
    roomy = compile_module(fifo.module(larger), simulations)
    size = Watch("core", 300, found.rows, found.segments)
    for stalls in (*STALLS, STOPPED):
        got, equal = through(roomy, stalls, watch=[size])
        other, _ = through(compiled, stalls)
        assert equal and got.counters == other.counters
        for port, cycles in other.cycles.items():
            np.testing.assert_array_equal(got.cycles[port], cycles)


@needs_verilator
@pytest.mark.parametrize(
    ("rows", "segments", "message"),
    [
        (33, 1, "core: 33 rows, expected at most 32"),
        (17, 2, "core: 17 rows, expected at most 16"),
        (16, 3, "core: 3 segments, expected at most 2"),
    ],
)
def test_a_size_beyond_the_compiled_one_is_refused(simulations, rows, segments, message):
    compiled = compile_module(fifo.module(Layout(12, 1, 16, 2, "auto")), simulations)
    with pytest.raises(SimulationFailed, match=f"{message}, with which it was compiled"):
        through(compiled, NO_STALLS, watch=[Watch("core", 300, rows, segments)])
    assert through(compiled, NO_STALLS, watch=[Watch("core", 300, 32, 1)])[1]


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
    compiled = compile_module(queue(bits, depth), simulations)
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
    compiled = mutated(queue(150, 2), simulations, "fifo.sv", old, new, tmp_path)
    assert told(compiled, Stalls(0.3, 0.6, seed=3)) == [False, False]


@needs_verilator
@pytest.mark.parametrize(("words", "paused"), [(1, 0.45), (6, 0.6)])
def test_a_fifo_tells_the_depth_that_it_needs(simulations, words, paused):
    """Exactly that depth refuses no word under the same stalls, and a row less does."""
    stalls = Stalls(0.5, paused, seed=5)
    roomy = compile_module(fifo.module(fifo.layout(10, 300, pack=words)), simulations)
    needed = counter(through(roomy, stalls)[0], "needed")
    assert 5 < needed < 100
    for depth, refuses in ((needed, False), (needed - words, True)):
        compiled = compile_module(fifo.module(fifo.layout(10, depth, pack=words)), simulations)
        got, equal = through(compiled, stalls)
        assert equal
        assert (counter(got, "blocked") > 0) == refuses


@needs_verilator
@pytest.mark.parametrize("depth", [2, 19])
@pytest.mark.parametrize("stalls", [NO_STALLS, Stalls(0.5, 0.45, seed=5)])
def test_a_fifo_tells_when_it_took_its_first_and_last_word(simulations, depth, stalls):
    got, _ = through(compile_module(queue(12, depth), simulations), stalls)
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
    got, _ = through(mutated(queue(12, 19), simulations, "fifo.sv", old, new, tmp_path), NO_STALLS)
    taken = got.cycles["in0_V"]
    assert counter(got, wrong) != {"first": taken[0], "last": taken[-1]}[wrong]


FAULTS = {
    "a full memory takes a word": ("in_ready <= count != COUNT_BITS'(rows - 1);", ""),
    "an address does not wrap": ("!whole && write == address_t'(rows - 1) ? '0 : ", ""),
    "a word is read before it is written": ("wire put = step && some;", "wire put = step;"),
    "the last word of a memory stays": ("some <= count != COUNT_BITS'(1);", "some <= 1'b0;"),
    "a word is overwritten behind the port": ("!out_valid || out_ready", "1'b1"),
}


@needs_verilator
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(simulations, tmp_path, fault):
    old, new = FAULTS[fault]
    try:
        compiled = mutated(fifo.module(CHAIN), simulations, "fifo_segment.sv", old, new, tmp_path)
        if not all(through(compiled, stalls)[1] for stalls in (*STALLS, STOPPED)):
            return
    except SimulationFailed:
        return
    raise AssertionError("the fault was not seen")


def test_a_row_holds_as_many_words_as_fill_it_and_divide_an_image():
    image = 256 * 256
    assert fifo.words_of_a_row(8, image) == 8
    assert fifo.words_of_a_row(16, image) == 4
    assert fifo.words_of_a_row(64, image) == 1
    assert fifo.words_of_a_row(24, image) == 8  # three UltraRAMs side by side, 192 of 216 bits
    assert fifo.words_of_a_row(24, 3 * image) == 3  # one, whole
    assert fifo.words_of_a_row(8, 9 * image) == 9
    assert fifo.words_of_a_row(8, 7 * 5) == 7
    assert fifo.words_of_a_row(8, 11) == 11  # 88 bits in two
    assert fifo.words_of_a_row(8, 31) == 1
    assert fifo.words_of_a_row(300, image) == 1
    for bits, words in itertools.product((8, 12, 20, 96), (48 * 48, 63, 1024)):
        assert words % fifo.words_of_a_row(bits, words) == 0


def test_a_layout_has_the_rows_of_its_memories():
    assert fifo.layout(8, 2, "ultra") == Layout(8, 1, 0, 1, "auto")
    assert fifo.layout(8, 20) == Layout(8, 1, 17, 1, "auto")
    assert fifo.layout(8, 4) == Layout(8, 1, 2, 1, "auto")
    # 5.6 of a memory's 4096 rows
    assert fifo.layout(8, 183_503, "ultra", 8) == Layout(8, 8, URAM_DEPTH, 6, "ultra")
    # 4 block RAMs of 8192 x 2 beside each other, not 7 of 1024 x 18; 5 of 2048 x 9, not 8
    assert fifo.layout(8, 7003, "block") == Layout(8, 1, 8192, 1, "block")
    assert fifo.layout(8, 9003, "block") == Layout(8, 1, 2048, 5, "block")
    assert fifo.layout(64, 600, "block") == Layout(64, 1, 1024, 1, "block")
    assert fifo.layout(8, 20, "distributed") == Layout(8, 1, 17, 1, "distributed")
    for depth, words in itertools.product((5, 100, 12_345, 99_999), (1, 4)):
        for style in fifo.STYLES:
            assert fifo.layout(16, depth, style, words).words >= depth


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match="depth=1, style=auto; expected a depth of 2 or more"):
        fifo.layout(8, 1)
    with pytest.raises(UserError, match="style=lut; expected a depth of 2 or more and one of auto"):
        fifo.layout(8, 4, "lut")
    with pytest.raises(UserError, match="FIFO: pack=0, expected 1 or more"):
        fifo.layout(8, 4, pack=0)


@needs_verilator
@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("ROWS", 1, "ROWS=1, expected 0, or 2 or more"),
        ("PACK", 0, "BITS=8, PACK=0, SEGMENTS=1, expected 1 or more"),
    ],
)
def test_bad_parameters_are_refused_at_elaboration(simulations, parameter, value, message):
    module = queue(8, 4)
    bad = dataclasses.replace(module, parameters=dict(module.parameters) | {parameter: value})
    with pytest.raises(UserError, match=message):
        compile_module(bad, simulations)
