from __future__ import annotations

import dataclasses
import itertools
import math

import pytest

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.board.placement import SHELL, Placed
from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.sizing import shortages
from lmaunet.fpga.sizing.design import CONVERTERS, FIFOS
from lmaunet.fpga.sizing.search import Sizing, _Search, size
from lmaunet.fpga.sizing.solver import Option

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
    return sum(getattr(design.total, name) / limit for name, limit in limits.items() if limit)


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


def test_words_of_a_deep_fifo_share_rows_that_divide_an_image(sizing, monkeypatch):
    monkeypatch.setattr("lmaunet.fpga.sizing.search.PACKED_BITS", 256)
    fifos = sizing.design(2000, BOARD, 250.0).fifos
    deep = {t: q for t, q in fifos.items() if q.depth > 2 and q.depth * q.bits > 256}
    assert max(queue.pack for queue in deep.values()) > 1
    for tensor, queue in fifos.items():
        if tensor not in deep:
            assert queue.pack == 1
            continue
        node = next(n for n in sizing.nodes if tensor in n.step.outputs)
        lanes = node.operator.lanes(node.step.outputs.index(tensor), output=True)
        assert queue.image == math.prod(sizing.shapes[tensor]) // lanes
        assert queue.pack == fifo.words_of_a_row(queue.bits, queue.image)
        assert queue.image % queue.pack == 0


def test_neighbours_are_matched_by_luts_and_flip_flops_together(sizing, monkeypatch):
    """Of equal DSPs and memories; what the converters take counts, too."""
    board = dataclasses.replace(BOARD, lut=1000, ff=1000)  # limits of 700 and 500

    def option(lut, ff, converter):
        return Option(Placed(lut, 4, 0.0, 0, ff), (), (lut, Placed(*converter)))

    few_luts = option(70, 150, (0, 0, 0.0, 0, 0))
    few_together = option(140, 50, (0, 0, 0.0, 0, 10))
    with_converters = option(60, 40, (100, 0, 0.0, 0, 90))
    more_dsps = dataclasses.replace(option(1, 1, (0, 0, 0.0, 0, 0)), placed=Placed(1, 5, 0.0, 0, 1))
    taken = []

    class Unit:
        def options(self, bound):
            return [few_luts, few_together, with_converters, more_dsps]

        def take(self, choice):
            taken.append(choice[0])

    monkeypatch.setattr(sizing.neighbours, "converters", lambda unit, choice: choice[1])
    sizing._match_neighbours(Unit(), few_luts, 1, board)
    assert taken == [140]


def test_other_fifos_change_only_the_fifos(fastest):
    fifos = {
        t: dataclasses.replace(queue, depth=queue.depth + 40_000)
        for t, queue in fastest.fifos.items()
    }
    deeper = fastest.with_fifos(fifos)
    assert deeper.fifos == fifos
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


def test_a_part_is_a_run_of_nodes_on_maps_of_one_size(sizing):
    def pixels(node):
        # a border belongs to what it is put on, a sum to what is summed
        if node.op_type in ("FMPadding", "PadWithCode", "BinSum"):
            return math.prod(node.attributes["ImgDim"])
        return math.prod(sizing.shapes[node.name][1:3])

    runs = [list(group) for _, group in itertools.groupby(sizing.nodes, key=pixels)]
    part = {node.name: i for i, run in enumerate(runs) for node in run}
    assert sizing.parts == [part[unit.nodes[-1].name] for unit in sizing.units]
    assert len(runs) > 2


def test_the_bounds_and_steps_are_those_of_the_foldings(sizing):
    sizing.design(10**9, BOARD, 250.0)
    slowest = max(unit.fastest for unit in sizing.units)
    unfolded = [
        dataclasses.replace(node, attributes=dict(attributes)).cycles()
        for node, attributes in zip(sizing.nodes, sizing.unfolded, strict=True)
    ]
    assert sizing.bounds == (slowest, max(unfolded))
    for part in (None, *set(sizing.parts)):
        units = [u for u, p in zip(sizing.units, sizing.parts, strict=True) if part in (None, p)]
        low = max(unit.fastest for unit in units)
        every = {cycles for unit in units for cycles, _ in unit.foldings}
        assert sizing.steps(part) == sorted(c for c in every if c >= low)


def test_the_bound_by_dsps_is_the_least_work_of_every_unit(sizing):
    work = 0
    for unit in sizing.units:
        work += min(o.placed.dsp * cycles for cycles, options in unit.foldings for o in options)
    assert work > 0
    for dsp in (1, 7, work - 1, work):
        assert sizing.dsp_bound(dataclasses.replace(BOARD, dsp=dsp)) == -(-work // dsp)


def streams_of(design):
    """Each stream between two nodes of a design: tensor, consumer, input, bits at its ends."""
    made = {name: (n, i) for n in design.nodes for i, name in enumerate(n.step.outputs)}
    for node in design.nodes:
        for place, name in enumerate(node.step.inputs):
            if name in made:
                source, at = made[name]
                out = source.operator.stream_bits(at, output=True)
                yield (
                    name, node, place, out,
                    node.operator.stream_bits(place, output=False),
                )  # fmt: skip


def test_every_stream_has_its_fifo_and_its_converter(sizing, fastest):
    shapes, luts, ffs = sizing.shapes, 0, 0
    streams = list(streams_of(fastest))
    assert set(fastest.fifos) == {name for name, *_ in streams}
    deep = 0
    for name, node, place, out, into in streams:
        converter = width_converter.resources(out, into)
        luts, ffs = luts + converter.lut, ffs + converter.ff
        assert fastest.fifos[name].bits == out
        rows = fastest.schedule.rows_waiting.get((node.name, place), 0)
        _, height, width, channels = shapes[name]
        if height == 1:  # tokens: in the rows of the map that they were
            width = math.prod(shapes[name][1:3]) // 8
        words = math.ceil(rows * width * channels * 8 / out) if rows > 1 else 0
        assert fastest.fifos[name].depth == max(2, words), name
        deep += words > 2
    assert deep > 1
    assert (fastest.resources[CONVERTERS].lut, fastest.resources[CONVERTERS].ff) == (luts, ffs)
    assert luts > 0


def with_total(design, placed):
    """The design with nothing in it but this."""
    return dataclasses.replace(design, placed={"all": placed})


def test_shares_and_overload_by_hand(fastest):
    board = dataclasses.replace(BOARD, lut=1000, dsp=100, bram36=10, uram=0)
    limits = board.limits
    design = dataclasses.replace(fastest, board=board)
    half = Placed(0, int(limits["dsp"] / 2), limits["bram36"] / 4, 0, 0)
    full = with_total(design, half)
    lut, ff = SHELL.lut / limits["lut"], SHELL.ff / limits["ff"]
    assert shortages.share(full) == pytest.approx(lut + 0.5 + 0.25 + ff, rel=0.02)
    assert shortages.overload(full) == pytest.approx(max(lut, ff))
    some = with_total(design, Placed(0, 0, 0.0, 1, 0))
    assert shortages.overload(some) == math.inf, "the board has none of it"
    many = with_total(design, Placed(0, int(limits["dsp"] * 50), 0.0, 0, 0))
    assert shortages.overload(many) == pytest.approx(50, rel=0.02)


def test_the_next_bound_differs_by_more_than_a_little(sizing):
    search = _Search(sizing, BOARD, 250.0)
    for part in set(sizing.parts):
        steps = sizing.steps(part)
        for bound in steps:
            lower = [step for step in steps if step < 0.97 * bound]
            higher = [step for step in steps if step > 1.03 * bound]
            assert search._faster(part, bound) == (max(lower) if lower else None)
            assert search._slower(part, bound) == (min(higher) if higher else None)


def test_a_bound_may_be_another_in_each_part(sizing):
    slow = max(sizing.steps())
    bounds = dict.fromkeys(sizing.parts, slow)
    hurried = sizing.parts[-1]
    bounds[hurried] = sizing.steps(hurried)[0]
    design = sizing.design(bounds, BOARD, 250.0)
    cycles = {node.name: node.cycles() for node in design.nodes}
    for unit, part in zip(sizing.units, sizing.parts, strict=True):
        assert max(cycles[node.name] for node in unit.nodes) <= bounds[part]
    assert design.schedule.interval <= slow


def test_a_latency_that_only_other_bounds_for_its_parts_meet_is_met(monkeypatch, sizing, fastest):
    """The fastest design is refined part by part; one bound for all may not reach it."""
    schedule = dataclasses.replace(fastest.schedule, latency=fastest.schedule.latency / 10)
    refined = dataclasses.replace(fastest, schedule=schedule)
    monkeypatch.setattr(_Search, "fastest", lambda own: refined)
    found = size(sizing, BOARD, 250.0, target_ms=refined.latency_ms)
    assert found.schedule == schedule and "smallest that was found" in found.limits
    with pytest.raises(UserError, match=rf"takes {refined.latency_ms:.3g} ms at 250 MHz"):
        size(sizing, BOARD, 250.0, target_ms=refined.latency_ms * 0.99)


@pytest.mark.parametrize("factor", [1.0, 1.5, 4.0])
def test_the_smallest_design_meets_its_latency_exactly_or_better(sizing, fastest, factor):
    target = factor * fastest.latency_ms
    found = size(sizing, BOARD, 250.0, target_ms=target)
    assert found.fits and found.latency_ms <= target
    assert found.limits == f"the smallest that was found within {target:g} ms"
    assert found.dsp_bound == sizing.dsp_bound(BOARD)
