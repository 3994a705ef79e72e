from __future__ import annotations

import pytest

from fpga.boards import BOARDS
from fpga.placement import SHELL_FF, Memory, Placed, Resources, place, total


def test_memories_count_in_the_best_shape():
    assert Memory("m", 36, 512).bram18 == 1
    assert Memory("m", 8, 4096).bram18 == 2
    assert Memory("m", 72, 4096).uram == 1
    assert Memory("m", 8, 9 * 4096).uram == 1  # nine narrow words beside each other
    assert Memory("m", 8, 9 * 4096 + 9).uram == 2


def test_small_memories_go_to_luts_and_large_ones_to_ultraram():
    nodes = {
        "small": Resources(0, 0, (Memory("m", 8, 32),)),
        "large": Resources(0, 0, (Memory("fifo", 72, 4096),)),
        "constants": Resources(0, 0, (Memory("weights", 72, 4096, initialised=True),)),
    }
    placed = place(nodes, BOARDS["ZCU104"])
    assert placed["small"] == Placed(5, 0, 0, 0, 8)  # with the register behind its read port
    assert placed["large"] == Placed(0, 0, 0, 1)
    assert placed["constants"] == Placed(0, 0, 8.0, 0)
    assert place(nodes, BOARDS["ZCU102"])["large"] == Placed(0, 0, 8.0, 0)


def test_constants_move_to_ultraram_when_block_ram_is_full():
    weights = Memory("weights", 72, 4096, initialised=True)
    nodes = {f"n{i}": Resources(0, 0, (weights,)) for i in range(60)}
    placed = place(nodes, BOARDS["KV260"])
    assert sum(p.bram36 for p in placed.values()) <= 0.9 * 144
    assert sum(p.uram for p in placed.values()) == 60 - 16


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
