"""Reports of Vivado are read, or refused: no figure is made up from one that is laid out otherwise.

The samples are written by hand after the layout of the tool's tables.
"""

from __future__ import annotations

import fake_xilinx
import pytest
from fake_xilinx import WISHES

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import named_board
from lmaunet.fpga.toolchain.vivado_reports import (
    Timing,
    Use,
    read_timing,
    read_utilisation,
    read_version,
    require_routed,
    to_json,
)

ZCU104, ZCU102 = named_board("ZCU104"), named_board("ZCU102")
USED = fake_xilinx.UTILISATION.format(boxes="")


def timing(**wishes):
    return fake_xilinx.TIMING.format(**(WISHES | wishes))


def route(**wishes):
    return fake_xilinx.ROUTE.format(**(WISHES | wishes))


def test_the_slacks_are_read_from_their_columns():
    assert read_timing(timing(wns=-0.321, whs=0.015, wpws=1.1)) == Timing(-0.321, 0.015, 1.1)
    assert read_timing(timing()).met and not read_timing(timing(wns=-0.001)).met


@pytest.mark.parametrize(
    ("slacks", "clock"),
    [
        ((0.1, 0.01, 1.0), 250.0),
        ((0.0, 0.0, 0.0), 250.0),
        ((-1.0, 0.01, 1.0), 200.0),
        ((0.1, 0.01, -0.5), 200.0),  # a half period that is 0.5 ns too short
        ((-1.0, 0.01, -0.1), 200.0),
    ],
)
def test_the_clock_that_is_kept_follows_from_the_worst_violation(slacks, clock):
    assert Timing(*slacks).clock_mhz(4.0) == pytest.approx(clock)


def test_no_clock_repairs_a_hold_time():
    with pytest.raises(UserError, match=r"violates a hold time by 0\.02 ns.*works at no clock"):
        Timing(0.1, -0.02, 1.0).clock_mhz(4.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nothing of the kind",
        timing(wns="NA"),
        timing().replace("WPWS(ns)", "PWS(ns) "),
        timing().partition("    -------")[0],
        timing().replace("| Design Timing Summary", "| Other Summary"),
    ],
)
def test_a_timing_report_of_another_layout_is_refused(text):
    with pytest.raises(UserError, match="timing summary report is not laid out as expected"):
        read_timing(text)


def test_the_counts_are_read_with_what_the_device_has():
    assert read_utilisation(USED, ZCU104) == {
        "lut": Use(91234, 230400), "ff": Use(60123, 460800), "dsp": Use(700, 1728),
        "bram36": Use(101.5, 312), "uram": Use(12, 96),
    }  # fmt: skip
    assert to_json({"bram36": Use(101.5, 312.0)}) == {"bram36": {"used": 101.5, "available": 312}}
    assert read_version(USED) == "2024.2"


def test_older_tables_without_a_column_and_with_a_star_are_read():
    older = USED.replace(" Prohibited |", "").replace("|          0 |", "|")
    older = older.replace("| CLB LUTs ", "| CLB LUTs*")
    assert read_utilisation(older, ZCU104) == read_utilisation(USED, ZCU104)


def test_a_device_without_ultraram_may_lack_its_row():
    without = "\n".join(line for line in USED.splitlines() if not line.startswith("| URAM"))
    assert read_utilisation(without, ZCU102)["uram"] == Use(0, 0)
    with pytest.raises(UserError, match="lacks rows for URAM"):
        read_utilisation(without, ZCU104)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("| DSPs  ", "| Multipliers  ", "lacks rows for DSPs"),
        ("|  700 |     0 |          0 |      1728 |", "|  700 |", "lacks rows for DSPs"),
        ("| 91234 |     0 |", "|  many |     0 |", "lacks numbers for CLB LUTs"),
        ("Used |", "Count |", "lacks rows for"),
    ],
)
def test_a_utilisation_report_of_another_layout_is_refused(right, wrong, message):
    assert right in USED
    with pytest.raises(UserError, match=message):
        read_utilisation(USED.replace(right, wrong), ZCU104)


def test_a_black_box_is_refused():
    boxed = fake_xilinx.UTILISATION.format(boxes="| fifo     |    3 |\n")
    with pytest.raises(UserError, match="left out fifo as a black box"):
        read_utilisation(boxed, ZCU104)


def test_a_report_without_a_version_is_refused():
    with pytest.raises(UserError, match="Tool Version"):
        read_version("| CLB LUTs |")


def test_all_nets_must_be_routed():
    require_routed(route())
    with pytest.raises(UserError, match="routed 3999 of 4000 nets, 1 with errors"):
        require_routed(route(routed=3999, wrong=1))
    with pytest.raises(UserError, match="routed 3999 of 4000 nets, 0 with errors"):
        require_routed(route(routed=3999))
    with pytest.raises(UserError, match="route status report is not laid out as expected"):
        require_routed("# of nets : 7 :")
