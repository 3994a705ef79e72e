"""Estimates of what stands between nodes: registers, converters and FIFOs."""

from __future__ import annotations

import math

import pytest

from lmaunet.fpga.board.placement import Resources, usually_placed
from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.operators.common import control_groups

# bits in and out; LUTs and flip-flops by yosys, of the last six in groups of 240 bits
CONVERTERS = {
    (8, 16): (5, 26), (40, 20): (67, 83), (84, 21): (154, 172),
    (64, 144): (1047, 2267), (96, 576): (16, 1068), (576, 96): (1082, 1167), (8, 384): (13, 774),
    (264, 528): (10, 798), (528, 264): (811, 1065),
}  # fmt: skip


def test_what_is_between_nodes_is_what_yosys_counts():
    for bits, lut, ff in ((32, 35, 66), (256, 262, 516), (300, 306, 604), (432, 438, 868)):
        found = fifo.resources(bits, 2)
        assert (found.lut, found.ff, found.memories) == (lut, ff, ())
    for (bits_in, bits_out), (lut, ff) in CONVERTERS.items():
        found = width_converter.resources(bits_in, bits_out)
        groups = control_groups(math.lcm(bits_in, bits_out))
        assert abs(found.lut - lut) <= (2 if groups == 1 else 9) and found.ff == ff
    assert width_converter.resources(24, 24) == Resources(0, 0)


# bits, words, place and words of a row; by yosys for UltraScale+: LUTs, flip-flops, block RAMs
# of 18 kbit and UltraRAMs (benchmarks/fpga_memories.py)
FIFOS = {
    (8, 40, "distributed", 1): (49, 56, 0, 0),
    (12, 100, "distributed", 1): (85, 75, 0, 0),
    (40, 200, "distributed", 1): (309, 190, 0, 0),
    (8, 2051, "block", 1): (35, 64, 1, 0),
    (8, 6000, "block", 1): (83, 156, 3, 0),
    (24, 3000, "block", 1): (52, 115, 6, 0),
    (8, 20000, "block", 8): (230, 737, 10, 0),
    (8, 40000, "ultra", 8): (180, 467, 0, 2),
    (16, 70000, "ultra", 4): (252, 772, 0, 5),
    (24, 100000, "ultra", 8): (470, 1685, 0, 12),
    (64, 9000, "ultra", 1): (142, 445, 0, 3),
    (8, 300000, "ultra", 8): (380, 1307, 0, 10),
}


@pytest.mark.parametrize("case", FIFOS)
def test_a_fifo_is_what_yosys_counts(case):
    bits, depth, style, pack = case
    lut, ff, bram18, uram = FIFOS[case]
    found = usually_placed(fifo.resources(bits, depth, pack=pack), style)
    assert (found.bram36, found.uram) == (bram18 / 2, uram)
    assert found.lut == pytest.approx(lut, rel=0.05)
    assert found.ff == pytest.approx(ff, rel=0.02)
    layout = fifo.layout(bits, depth, style, pack)
    assert usually_placed(fifo.resources_of(layout), style) == found


@pytest.mark.parametrize(
    ("bits_in", "bits_out", "lut", "ff"),
    [
        (8, 8, 0, 0),
        (8, 24, 4 + 2, 2 * 24 - 8 + 2 + 1),  # a count to 3
        (24, 8, 2 * 24 - 8 + 6 + 2, 2 * 24 + 2 + 2),
        (24, 16, (4 + 1) + (2 * 48 - 16 + 6 + 2), (2 * 48 - 24 + 1 + 1) + (2 * 48 + 2 + 2)),
    ],
)
def test_a_width_converter_by_hand(bits_in, bits_out, lut, ff):
    assert width_converter.resources(bits_in, bits_out) == Resources(lut, 0, (), ff)


@pytest.mark.parametrize(
    ("depth", "words", "lut", "ff"),
    [(3, 2, 6, 8), (5, 2, 6, 8), (6, 3, 12, 11), (7, 4, 8, 11), (100, 97, 21, 26)],
)
def test_a_fifo_by_hand(depth, words, lut, ff):
    """A register of two words, and for the memory two addresses, a count and flags."""
    found = fifo.resources(8, depth, "t")
    (memory,) = found.memories
    assert (found.lut, found.ff) == (11, 18)
    assert (memory.width, memory.depth, memory.stream) == (8, words, "t")
    assert memory.control is not None and memory.control(words) == (lut, ff)
    assert fifo.resources(8, 1, "t") == fifo.resources(8, 2, "t") == Resources(11, 0, (), 18)
