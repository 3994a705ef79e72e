"""Skips in DRAM: when they are offered, what they take, and the way from sizing to the proof."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from bench import needs_verilator

from lmaunet.errors import UserError
from lmaunet.fpga.agreement.nodes import host_codes
from lmaunet.fpga.board.boards import BOARDS, DRAM_SHARE
from lmaunet.fpga.board.memories import Outside
from lmaunet.fpga.board.placement import Placed, held_in
from lmaunet.fpga.build import build
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.operators import dram_fifo
from lmaunet.fpga.operators.dram_fifo import OFFERED_BITS
from lmaunet.fpga.simulation.compilation import lint_files
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.proof import prove
from lmaunet.fpga.sizing.design import FIFOS, Fifo
from lmaunet.fpga.sizing.memory_map import memory_rows
from lmaunet.fpga.sizing.search import Sizing
from lmaunet.fpga.toolchain.assemble import apply_folding, specialize
from lmaunet.fpga.toolchain.bitstream import one_node
from lmaunet.fpga.toolchain.flow import sized_for

IMAGE = 256 * 256 * 24


def test_dram_is_offered_to_large_fifos_only():
    depth = OFFERED_BITS // 8
    (memory,) = Fifo(8, depth + 1, 8, IMAGE, 4000.0).resources().memories
    assert memory.styles == ("block", "ultra", "dram")
    (small,) = Fifo(8, depth, 8, IMAGE, 4000.0).resources().memories
    assert small.styles == ("block", "ultra")
    (unknown,) = Fifo(8, depth + 1, 8).resources().memories
    assert unknown.styles == ("block", "ultra")
    (wide,) = Fifo(72, depth, 1, IMAGE // 9, 4000.0).resources().memories
    assert wide.styles == ("block", "ultra")
    with pytest.raises(ValueError, match="there is none in DRAM"):
        held_in(small, "dram")


def test_what_one_takes_by_hand():
    """1.5 MB an image there and back, every 4 ms."""
    (memory,) = Fifo(8, 500_000, 8, IMAGE, 4000.0).resources().memories
    taken = held_in(memory, "dram")
    assert taken == Placed(122 + 200, 0, 2.0, 0, 270 + 340, 2 * IMAGE / 4000)
    assert memory.dram == taken.dram_mb_s == pytest.approx(786.432)
    # 2 words of 24 bits share 64 bits
    assert dram_fifo.outside(24, 100_000, 1 << 16, 1000.0) == Outside(
        322, 610, 2.0, 2 * 8 * (1 << 15) / 1000
    )


def test_the_boards_of_a_processor_offer_dram():
    offered = {name for name, board in BOARDS.items() if board.dram_mb_s}
    assert offered == {"Ultra96", "KV260", "ZCU104", "ZCU102"}
    board = BOARDS["KV260"]
    assert board.limits["dram_mb_s"] == DRAM_SHARE * 1600
    assert Placed(0, 0, 0.0, 0, 0, 1201.0).excess(board) == {"dram_mb_s": pytest.approx(1.0)}
    assert BOARDS["U250"].limits["dram_mb_s"] == 0


@pytest.fixture
def cheap(monkeypatch):
    """Offer DRAM to the small FIFOs of a small network, at little block RAM."""

    def outside(bits, depth, words, interval_us):
        found = old(bits, depth + OFFERED_BITS, words, interval_us) if depth > 300 else None
        return found and dataclasses.replace(found, lut=1, ff=1, bram36=0.0)

    old = dram_fifo.outside
    monkeypatch.setattr(dram_fifo, "outside", outside)


BOARD = dataclasses.replace(BOARDS["ZCU104"], name="small", uram=0, bram36=0)
"""A board with LUTs only, which reach 256 words."""


@pytest.fixture(scope="module")
def sizing(whole) -> Sizing:
    return Sizing(whole.executor, whole.lowered.graph.shapes)


@pytest.mark.usefixtures("cheap")
def test_without_room_on_the_chip_the_largest_skip_goes_to_dram(sizing):
    with_memory = dataclasses.replace(BOARD, bram36=1)
    on_chip = sizing.design(2000, with_memory, 250.0)
    assert on_chip.fits and not on_chip.total.dram_mb_s
    design = sizing.design(2000, BOARD, 250.0)
    assert design.fits
    (tensor,) = [t for t, style in design.fifo_styles().items() if style == "dram"]
    assert design.fifos[tensor].depth == max(queue.depth for queue in design.fifos.values())
    # 1024 bytes there and back
    interval_us = design.schedule.interval / 250.0
    assert design.total.dram_mb_s == design.placed[FIFOS].dram_mb_s == 2 * 1024 / interval_us
    assert sizing.design(2000, BOARD, 250.0).styles == design.styles
    (row,) = [row for row in memory_rows(design, {}) if row["kind"] == "dram"]
    assert (row["stream"], row["taken"]) == (tensor, design.total.dram_mb_s)
    # at the interval of a slower design it is less
    slow = sizing.design(8000, BOARD, 250.0)
    assert slow.total.dram_mb_s == pytest.approx(2 * 1024 * 250 / slow.schedule.interval)
    assert slow.total.dram_mb_s < design.total.dram_mb_s


@pytest.mark.usefixtures("cheap")
@pytest.mark.parametrize(("mb_s", "lacks"), [(400.0, "dram_mb_s"), (None, "bram36")])
def test_bandwidth_beyond_the_board_does_not_fit(sizing, mb_s, lacks):
    """329 MB/s of 300 that may be used, or none."""
    design = sizing.design(2000, dataclasses.replace(BOARD, dram_mb_s=mb_s), 250.0)
    assert not design.fits
    assert list(design.total.excess(design.board)) == [lacks]


@needs_verilator
@pytest.mark.usefixtures("cheap")
def test_the_skip_that_sizing_puts_into_dram_is_proved_there(whole, sizing, simulations, tmp_path):
    design = sizing.design(2000, BOARD, 250.0)
    mapped = specialize(copy.deepcopy(whole.model), BOARDS["ZCU104"])
    apply_folding(design, mapped)
    network = Network(Executor(mapped.model), sizing.shapes, estimated=design.fifos)
    codes = host_codes(whole.lowered.host, whole.images)
    found = prove(
        network, codes, tmp_path, tmp_path, print, simulations,
        lambda fifos: design.with_fifos(fifos).fifo_styles(),
    )  # fmt: skip
    (tensor,) = found.dram["fifos"]
    assert found.fifos[tensor].interval_us == design.fifos[tensor].interval_us
    simulated = design.with_fifos(found.fifos)
    assert simulated.fits and simulated.fifo_styles()[tensor] == "dram"
    module = network.placed(simulated.fifo_styles()).module(
        {t: queue.depth for t, queue in found.fifos.items()}
    )
    layout = found.layouts[tensor]
    text = module.generated["network.sv"]
    assert f".SLOTS({layout.rows})" in text and ".CLIENTS(1)" in text
    with pytest.raises(UserError, match=r"no bitstream of a network with skips in DRAM: .* --flow"):
        one_node(module, mapped, tmp_path)


def test_a_bitstream_is_sized_without_dram():
    board = BOARDS["KV260"]
    assert sized_for("vivado", board).dram_mb_s is None
    assert board.loads and not sized_for("vivado", board).loads
    assert sized_for("timing", board) == sized_for("none", board) == board


@pytest.mark.slow
@needs_verilator
@pytest.mark.usefixtures("cheap")
def test_a_build_writes_what_was_proved_and_names_the_bandwidth(whole, monkeypatch, tmp_path):
    """At the default target, which is the fastest that fits."""
    monkeypatch.setitem(BOARDS, "ZCU104", dataclasses.replace(BOARD, name="ZCU104"))
    built = build(whole.path, whole.images, tmp_path, {"simulate": True}, lambda line: None)
    simulated = json.loads((tmp_path / "simulation.json").read_text())
    resources = json.loads((tmp_path / "resources.json").read_text())
    (tensor,) = simulated["dram"]["fifos"]
    assert simulated["bit_exact"] and simulated["fifos"][tensor]["style"] == "dram"
    used = built.detail["resources"]["dram_mb_s"]
    assert used["available"] == 1600 and 0 < used["used"] <= resources["usable"]["dram_mb_s"]
    assert resources["total"]["dram_mb_s"] == used["used"]
    assert resources["between_nodes"][FIFOS]["dram_mb_s"] == used["used"]
    rtl = tmp_path / "rtl"
    text = (rtl / "network.sv").read_text()
    assert f".SLOTS({simulated['fifos'][tensor]['rows']})" in text
    sources = (rtl / "sources.txt").read_text().split()
    assert {"dram_fifo.sv", "dram_port.sv", "dram_image.sv"} <= set(sources)
    lint_files(sources, "network", rtl)
