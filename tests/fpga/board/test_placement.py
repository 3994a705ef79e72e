from __future__ import annotations

import pytest

from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import SHELL_FF, Placed, held_in, total


def test_what_a_memory_takes_in_each_place():
    fifo = Memory("m", 8, 32)
    assert held_in(fifo, "distributed") == Placed(8, 0, 0, 0, 8)  # the register behind its port
    assert held_in(fifo, "block") == Placed(0, 0, 0.5, 0)
    assert held_in(fifo, "ultra") == Placed(0, 0, 0, 1)
    assert held_in(Memory("m", 8, 64, initialised=True), "distributed") == Placed(8, 0, 0, 0)
    assert held_in(Memory("m", 100, 1030), "ultra") == Placed(0, 0, 0, 2)


def test_a_chain_takes_its_segments_and_what_controls_each():
    chain = Memory("m", 64, 3 * 4096 + 1, control=lambda rows: (50, 40))
    assert held_in(chain, "ultra") == Placed(4 * 50, 0, 0, 4, 4 * (40 + 64))
    # 25 times two block RAMs of 512 x 36, where three times 16 of 4096 x 4 leave a word over
    assert held_in(chain, "block") == Placed(25 * 50, 0, 25, 0, 25 * (40 + 64))
    short = Memory("m", 14, 64, control=lambda rows: (50, 40))
    assert held_in(short, "distributed") == Placed(50 + 16, 0, 0, 0, 40 + 14 + 14)


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
