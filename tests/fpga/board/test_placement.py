from __future__ import annotations

import pytest

from fpga.board.boards import BOARDS
from fpga.board.memories import Memory
from fpga.board.placement import SHELL_FF, Placed, held_in, total


def test_memories_count_in_the_best_shape():
    assert Memory("m", 36, 512).bram18 == 1
    assert Memory("m", 8, 4096).bram18 == 2
    assert Memory("m", 72, 4096).uram == 1
    assert Memory("m", 8, 9 * 4096).uram == 1  # nine narrow words beside each other
    assert Memory("m", 8, 9 * 4096 + 9).uram == 2


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


def test_what_a_memory_takes_in_each_place():
    fifo = Memory("m", 8, 32)
    assert held_in(fifo, "distributed") == Placed(5, 0, 0, 0, 8)  # the register behind its port
    assert held_in(fifo, "block") == Placed(0, 0, 0.5, 0)
    assert held_in(fifo, "ultra") == Placed(0, 0, 0, 1)
    assert held_in(Memory("m", 8, 64, initialised=True), "distributed") == Placed(8, 0, 0, 0)


def test_constants_in_luts_take_one_for_64():
    assert Memory("m", 8, 64, initialised=True).lutram == 8
    assert Memory("m", 8, 65, initialised=True).lutram == 12
    assert Memory("m", 8, 32, initialised=True).lutram == 4
    assert Memory("m", 14, 32).lutram == 8


def test_excess_names_what_is_too_much():
    excess = Placed(200_000, 10, 0, 0).excess(BOARDS["ZCU104"])
    assert list(excess) == ["lut"]
    assert excess["lut"] == pytest.approx(200_000 - 0.7 * 230_400)


def test_a_design_has_flip_flops_and_a_board_has_two_for_each_lut():
    parts = [Placed(10, 0, 0, 0, 30), Placed(1, 0, 0, 0, 2)]
    assert total(parts).ff == 32 + SHELL_FF
    assert all(board.ff == 2 * board.lut for board in BOARDS.values())
    half = BOARDS["KV260"].ff / 2
    assert Placed(0, 0, 0, 0, int(half)).excess(BOARDS["KV260"]) == {}
    assert Placed(0, 0, 0, 0, int(half) + 1).excess(BOARDS["KV260"]) == {"ff": 1}
