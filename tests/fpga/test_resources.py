from __future__ import annotations

import pytest

from fpga.boards import BOARDS
from fpga.memories import Memory
from fpga.placement import SHELL_FF, Placed, total
from fpga.resources import estimate, macs_per_dsp
from lmaunet.errors import UserError

MVAU = {"PE": 4, "SIMD": 9, "MW": 576, "MH": 64, "weightDataType": "INT8", "inputDataType": "INT8",
        "outputDataType": "INT25"}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "activations", "macs"), [(8, 8, 2), (4, 8, 3), (3, 8, 3), (4, 4, 4)]
)
def test_macs_per_dsp_are_those_of_the_rtl(weights, activations, macs):
    assert macs_per_dsp(weights, activations) == macs


def test_an_int8_matrix_unit_takes_a_dsp_for_two_products():
    found = estimate("MVAU_rtl", MVAU)
    assert found.dsp == 4 // 2 * 9
    assert found.lut > 0
    assert found.memories[0].bits == 576 * 64 * 8
    assert found.memories[1].bits == 2 * 576 * 8  # the vector at hand and the next one


def test_the_scan_follows_the_measured_core():
    scan = {"NumChannels": 64, "States": 16, "StateBits": 18, "ABits": 12, "DeltaBits": 16,
            "DBits": 16}  # fmt: skip
    # yosys for the 7 series, lengths of 4096: LUTs with those of memories, DSPs
    measured = {
        (1, 1): (604, 8), (1, 4): (1054, 23), (4, 1): (2043, 32), (1, 16): (3836, 83),
        (4, 4): (4728, 92), (4, 16): (10893, 332),
    }  # fmt: skip
    for (pd, pn), (lut, dsp) in measured.items():
        found = estimate("SelectiveScan", scan | {"PD": pd, "PN": pn})
        total = found.lut + sum(m.lutram for m in found.memories if m.distributed)
        assert found.dsp == dsp
        assert abs(total / lut - 1) < 0.12


def test_an_operator_without_an_estimate_is_refused():
    with pytest.raises(UserError, match="no resource estimate for Crop_rtl; known are: Conv"):
        estimate("Crop_rtl", {})


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
