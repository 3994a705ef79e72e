from __future__ import annotations

import dataclasses

import pytest

from fpga.boards import BOARDS
from fpga.design import FIFOS
from fpga.placement import Placed
from fpga.sizing import Sizing, size
from lmaunet.errors import UserError

BOARD = BOARDS["ZCU104"]


@pytest.fixture(scope="module")
def sizing(whole) -> Sizing:
    return Sizing(whole.executor, whole.lowered.graph.shapes)


@pytest.fixture(scope="module")
def fastest(sizing):
    return size(sizing, BOARD, 250.0)


def test_the_fastest_that_fits_is_faster_than_any_one_bound(sizing, fastest):
    assert fastest.fits
    for step in sizing.steps():
        design = sizing.design(step, BOARD, 250.0)
        assert not design.fits or fastest.latency_ms <= design.latency_ms * (1 + 1e-9)


def test_it_says_what_limits(sizing, fastest):
    assert fastest.limits
    assert "no folding of" in fastest.limits  # nothing of the board does, in a network so small
    scarce = dataclasses.replace(BOARD, dsp=80)
    design = size(sizing, scarce, 250.0)
    assert design.fits and design.latency_ms > fastest.latency_ms
    assert design.limits.startswith("the next faster folding, ")
    assert "DSP" in design.limits and "of 68 usable" in design.limits


def test_a_target_latency_is_met_by_a_smaller_design(sizing, fastest):
    relaxed = size(sizing, BOARD, 250.0, target_ms=3 * fastest.latency_ms)
    assert fastest.latency_ms < relaxed.latency_ms <= 3 * fastest.latency_ms
    assert relaxed.total.dsp < fastest.total.dsp and relaxed.fits
    # no single bound for all nodes gives a smaller one
    for step in sizing.steps():
        design = sizing.design(step, BOARD, 250.0)
        if design.latency_ms <= 3 * fastest.latency_ms and design.fits:
            assert share(relaxed) <= share(design) + 1e-9


def share(design):
    limits = design.board.limits
    return sum(getattr(design.total, name) / limit for name, limit in limits.items())


def test_a_latency_that_cannot_be_is_refused(sizing):
    with pytest.raises(UserError, match="target_ms=1e-06: the fastest folding takes"):
        size(sizing, BOARD, 250.0, target_ms=1e-6)


def test_a_board_that_is_too_small_says_by_how_much(sizing):
    small = dataclasses.replace(BOARDS["Ultra96"], lut=20_000, dsp=10)
    with pytest.raises(UserError) as caught:
        size(sizing, small, 250.0)
    message = str(caught.value)
    assert message.startswith("the network does not fit board Ultra96: at ")
    assert "LUT" in message and "of 14000 usable" in message
    assert message.endswith("use --board KV260, or a smaller network")


def test_the_parts_of_a_network_follow_its_maps(sizing):
    assert sizing.parts[0] >= 0 and len(set(sizing.parts)) > 1
    for part in set(sizing.parts):
        steps = sizing.steps(part)
        assert steps == sorted(set(steps))
        assert set(steps) <= {c for u in sizing.units for c in u.steps}


def test_every_memory_has_a_place(fastest):
    located = fastest.located()
    for kind, name in (("bram36", "bram36"), ("uram", "uram")):
        held = sum(found.taken for found in located if found.kind == kind)
        assert held == getattr(fastest.total, name)
    assert {found.node for found in located} >= {FIFOS}
    deep = {t for t, queue in fastest.fifos.items() if queue.depth > 2}
    assert set(fastest.fifo_styles()) == deep and deep
    # constants are never where a bitstream cannot put them
    assert not any(f.memory.initialised and f.kind == "uram" for f in located)


def test_other_fifos_change_only_the_fifos(fastest):
    words = {t: (queue.bits, queue.depth + 40_000) for t, queue in fastest.fifos.items()}
    deeper = fastest.with_fifos(words)
    assert not deeper.fits and deeper.limits == fastest.limits
    assert deeper.schedule is fastest.schedule
    assert sum(deeper.placed.values(), Placed(0, 0, 0.0, 0)).dsp == fastest.total.dsp


def test_no_interval_is_shorter_than_the_dsps_allow(sizing, fastest):
    """Every unit's fastest folding keeps its DSPs busy at best as the bound says."""
    assert fastest.dsp_bound == sizing.dsp_bound(BOARD) > 0
    for step in sizing.steps()[:: max(1, len(sizing.steps()) // 6)]:
        design = sizing.design(step, BOARD, 250.0)
        dsps = dataclasses.replace(BOARD, dsp=design.total.dsp)
        assert design.schedule.interval >= sizing.dsp_bound(dsps)
