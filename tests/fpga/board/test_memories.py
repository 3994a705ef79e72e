"""What memories take, against FINN+'s model, which was fitted to Vivado's counts, and by hand."""

from __future__ import annotations

import itertools

import pytest

from lmaunet.fpga.board.memories import URAM_DEPTH, Memory, block_rams
from lmaunet.fpga.operators import fifo

finn = pytest.importorskip("finn.util.resource_models", reason="needs finn-plus")

WIDTHS = (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 18, 24, 27, 36, 37, 40, 64, 72, 90, 135, 288, 5000)
DEPTHS = (1, 33, 511, 512, 513, 1024, 1025, 2047, 3000, 4096, 5001, 8192, 9000, 16384, 20000)


def test_block_rams_are_those_of_finn():
    """Ultrascale+ in Vivado cuts a word into columns of several shapes; 330 sizes."""
    for depth, width in itertools.product(DEPTHS, WIDTHS):
        assert block_rams(depth, width) == finn._bram18_plan(depth, width)[0], (depth, width)


def test_block_rams_by_hand():
    assert Memory("m", 36, 512).bram18 == 1
    assert Memory("m", 8, 4096).bram18 == 2
    assert Memory("m", 10, 5000).bram18 == 4  # 3 of 9 bits, and 1 for the last bit
    assert Memory("m", 8, 2048).bram36 == 0.5


def test_an_ultraram_has_rows_of_72_bits_and_nothing_else():
    """As FINN+ counts them: a word is never split, narrow ones are never joined."""
    for depth, width in itertools.product((1, 4096, 4097, 9 * 4096, 40_000), (1, 8, 72, 73, 300)):
        assert Memory("m", width, depth).uram == finn._uram_plan(depth, width)[0]
    assert Memory("m", 8, 9 * 4096).uram == 9
    assert Memory("m", 72, 4096).uram == 1
    assert Memory("m", 73, 4096).uram == 2


@pytest.mark.parametrize(
    ("bits", "depth", "image"),
    # the seven largest FIFOs of `edge` on a ZCU104; images of 24, 48, 96 and 192 channels
    [
        (16, 559_877, 786_432), (8, 507_052, 1_572_864), (8, 219_489, 786_432),
        (8, 76_274, 393_216), (8, 24_561, 196_608), (8, 23_930, 196_608), (8, 23_596, 196_608),
    ],
)  # fmt: skip
def test_a_chain_of_packed_segments_takes_what_finn_counts_for_each(bits, depth, image):
    """A segment is a FIFO of FINN+ with 4096 rows of memory, behind which it has 17 words."""
    pack = fifo.words_of_a_row(bits, image)
    found = fifo.layout(bits, depth, "ultra", pack)
    (memory,) = fifo.resources(bits, depth, pack=pack).memories
    each = finn._fifo_cost(found.rows + 17, bits * found.pack, "ultra")
    assert (found.rows, each.bram) == (URAM_DEPTH, 0)
    assert memory.uram == found.segments * each.uram
    # what FINN+ takes for the same words without joining them
    assert memory.uram * 3 < finn._fifo_cost(depth, bits, "ultra").uram


def test_where_a_memory_can_go():
    assert Memory("small", 8, 32).styles == ("distributed",)
    assert Memory("narrow", 8, 64).styles == ("distributed", "block", "ultra")
    assert Memory("fifo", 72, 4096).styles == ("block", "ultra")
    # UltraRAM cannot be initialised
    assert Memory("weights", 72, 4096, initialised=True).styles == ("block",)
    assert Memory("weights", 36, 200, initialised=True).styles == ("block", "distributed")
    # its RTL puts it into its usual place
    assert Memory("row", 36, 256, decided=True).styles == ("block",)
    assert Memory("row", 8, 64, decided=True).styles == ("distributed",)
    # rows behind each other with nothing between them
    assert Memory("line", 72, 4097).styles == ("block",)
    assert Memory("fifo", 72, 4097, control=lambda rows: (1, 1)).styles == ("block", "ultra")
    # the multiplexers behind LUTs reach 256 words
    assert "distributed" in Memory("fifo", 8, 256, control=lambda rows: (1, 1)).styles
    assert "distributed" not in Memory("fifo", 8, 257, control=lambda rows: (1, 1)).styles
    assert "distributed" in Memory("table", 8, 257).styles


def test_a_chain_has_segments_of_one_block_ram_deep():
    chain = Memory("m", 8, 9000, control=lambda rows: (1, 1))
    assert (chain.segment_rows("block"), chain.segments("block"), chain.bram18) == (2048, 5, 5)
    assert (chain.segment_rows("ultra"), chain.segments("ultra"), chain.uram) == (4096, 3, 3)
    assert (chain.segment_rows("distributed"), chain.segments("distributed")) == (9000, 1)
    whole = Memory("m", 8, 9000)
    assert (whole.segment_rows("block"), whole.segments("block")) == (9000, 1)


def test_constants_in_luts_take_one_for_64():
    assert Memory("m", 8, 64, initialised=True).lutram == 8
    assert Memory("m", 8, 65, initialised=True).lutram == 12
    assert Memory("m", 8, 32, initialised=True).lutram == 4


def test_ram_in_luts_takes_whole_banks_and_what_selects_among_them():
    assert Memory("m", 14, 32).lutram == 8
    assert Memory("m", 15, 32).lutram == 16
    assert Memory("m", 7, 64).lutram == 8  # one bank of 64, not two of 32
    assert Memory("m", 8, 33).lutram == 16
    # 4 banks of 64 words, a LUT a bit to select one of four, and 4 a bank to write to one
    assert Memory("m", 32, 250).lutram == 4 * 40 + 32 + 16
    assert Memory("m", 32, 257).lutram == 5 * 40 + 2 * 32 + 20
