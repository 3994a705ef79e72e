"""Weights that are loaded into UltraRAM: where they may be, their cost, when they are chosen."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import pytest

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import SHELL, Placed, Resources, held_in
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.operators.matrix_vector import MVAU
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.sizing import search
from lmaunet.fpga.sizing.search import MORE_ROUNDS, ROUNDS, Sizing, size
from lmaunet.fpga.sizing.solver import LOAD_COST, options_of, place, solve
from lmaunet.fpga.toolchain.assemble import apply_folding, specialize

KV260 = BOARDS["KV260"]


def weights(width=72, depth=4096) -> Memory:
    return Memory("weights", width, depth, initialised=True, loader=(17, 99))


def test_weights_with_a_loader_may_be_in_ultraram():
    assert weights().styles == ("block", "ultra")
    assert weights(depth=4097).styles == ("block",)
    assert weights(depth=32).styles == ("distributed",)
    assert weights(36, 200).styles == ("block", "ultra", "distributed")
    assert weights().loaded("ultra") and not weights().loaded("block")
    assert not Memory("fifo", 72, 4096).loaded("ultra")


def test_a_loader_is_counted_where_it_is():
    assert held_in(weights(144), "ultra") == Placed(17, 0, 0.0, 2, 99)
    assert held_in(weights(144), "block") == Placed(0, 0, 16.0, 0)
    assert [option.loaded for option in options_of(Resources(0, 0, (weights(),)))] == [0, 1]


@pytest.mark.parametrize(("pe", "simd", "depth"), [(2, 9, 96), (1, 1, 1728), (6, 18, 16)])
def test_a_matrix_counts_its_loader(pe, simd, depth):
    """Of 18 columns or more and 72 rows: as yosys counts the flip-flops, to within 3."""
    attributes = {"MW": 72, "MH": 24, "PE": pe, "SIMD": simd, "weightDataType": "INT8",
                  "inputDataType": "INT8", "outputDataType": "INT23"}  # fmt: skip
    memory = MVAU(attributes).resources().memories[0]
    assert memory.depth == depth and memory.loader is not None
    columns, address = -(-pe * simd * 8 // 72), (depth - 1).bit_length()
    # data and valid of the hop; a row twice; a column twice; three flags
    assert memory.loader[1] == 72 + 1 + 2 * address + 2 * columns + 3


def test_what_fits_is_not_loaded():
    """16 memories of 288 kbit fill 128 of 129.6 block RAMs."""
    parts = {f"w{i}": Resources(0, 0, (weights(),)) for i in range(16)}
    assert {option.styles for option in place(parts, KV260).values()} == {("block",)}


def test_what_does_not_fit_is_loaded():
    parts = {f"w{i}": Resources(0, 0, (weights(),)) for i in range(20)}
    found = place(parts, KV260)
    total = sum((option.placed for option in found.values()), SHELL)
    assert not total.excess(KV260)
    # no more than must be
    assert sum(option.loaded for option in found.values()) == 4
    assert total.uram == 4 and LOAD_COST < 1
    for board in (dataclasses.replace(KV260, loads=False), dataclasses.replace(KV260, uram=0)):
        there = sum((option.placed for option in place(parts, board).values()), SHELL)
        assert list(there.excess(board)) == ["bram36"] and not there.uram


def test_what_is_decided_stays():
    parts = {f"w{i}": Resources(0, 0, (weights(),)) for i in range(3)}
    found = place(parts, KV260, {"w1": 1, "w2": 0})
    assert {name: option.loaded for name, option in found.items()} == {"w0": 0, "w1": 1, "w2": 0}
    # on a board without UltraRAM there is no way to build it
    only = [[option for option in options_of(parts["w1"]) if option.loaded]]
    assert solve(only, dataclasses.replace(KV260, uram=0)).load == float("inf")


def test_what_is_loaded_reaches_the_rtl_and_outlives_the_simulation(whole):
    """FINN+'s own checks pass; the simulation's FIFOs change no style of the weights."""
    shapes = whole.lowered.graph.shapes
    model = copy.deepcopy(whole.model)
    design = Sizing(Executor(model.model), shapes).design(10**9, KV260, 250.0)
    chosen = [
        node.name
        for node in design.nodes
        if node.op_type == "MVAU" and "ultra" in design.resources[node.name].memories[0].styles
    ]
    assert chosen
    assert not any(
        memory.loaded(style)
        for name, part in design.resources.items()
        for memory, style in zip(part.memories, design.styles[name], strict=True)
    )
    styles = {name: ("ultra", *design.styles[name][1:]) for name in chosen}
    loaded = dataclasses.replace(design, styles={**design.styles, **styles})
    later = loaded.with_fifos(loaded.fifos)
    assert {name: later.styles[name] for name in chosen} == styles
    mapped = specialize(model, KV260)
    apply_folding(later, mapped)
    network = Network(Executor(mapped.model), shapes)
    assert [node.name for node in network.loaded] == chosen
    writeable = [
        attribute.i
        for node in mapped.graph.node
        for attribute in node.attribute
        if attribute.name == "runtime_writeable_weights" and attribute.i
    ]
    assert len(writeable) == len(chosen)
    # and back: nothing of it stays in the graph
    apply_folding(design, mapped)
    assert not Network(Executor(mapped.model), shapes).loaded


@pytest.mark.parametrize(
    ("changed", "tried"),
    [
        ({}, [(None, False), (1600.0, False), (1600.0, True)]),
        ({"uram": 0}, [(None, False), (1600.0, False)]),
        ({"dram_mb_s": None}, [(None, False), (None, True)]),
        ({"dram_mb_s": None, "loads": False}, [(None, False)]),
    ],
)
def test_loading_is_tried_last(whole, monkeypatch, changed, tried):
    """Without DRAM first, then with it, then with weights that are loaded too."""
    seen = []

    def refuse(sizing, board, clock_mhz, target_ms):
        seen.append((board.dram_mb_s, board.loads))
        raise UserError("too small")

    monkeypatch.setattr(search, "_sized", refuse)
    sizing = Sizing(whole.executor, whole.lowered.graph.shapes)
    with pytest.raises(UserError, match="too small"):
        size(sizing, dataclasses.replace(KV260, **changed), 250.0)
    assert seen == tried


@pytest.mark.parametrize(
    ("possible", "tried"),
    [
        ([True, True, True], [0, 1, 2]),
        ([False, True, True], [1, 2]),
        ([True, False, True], [0, 1, 2]),
        ([False, False, False], [2]),
    ],
)
def test_what_cannot_fit_whatever_the_folding_is_not_tried(whole, monkeypatch, possible, tried):
    """From the first way on; the last is tried in any case, for what it lacks."""
    ways = [(None, False), (1600.0, False), (1600.0, True)]
    seen = []

    def refuse(sizing, board, clock_mhz, target_ms):
        seen.append(ways.index((board.dram_mb_s, board.loads)))
        raise UserError("too small")

    def may_fit(sizing, board):
        return possible[ways.index((board.dram_mb_s, board.loads))]

    monkeypatch.setattr(search, "_sized", refuse)
    monkeypatch.setattr(Sizing, "may_fit", may_fit)
    with pytest.raises(UserError, match="too small"):
        size(Sizing(whole.executor, whole.lowered.graph.shapes), KV260, 250.0)
    assert seen == tried


def test_a_network_that_no_folding_fits_is_known_at_once(whole):
    sizing = Sizing(whole.executor, whole.lowered.graph.shapes)
    assert sizing.may_fit(KV260)
    assert not sizing.may_fit(dataclasses.replace(KV260, lut=15_000))
    # fits with the slowest foldings alone, so that no others may be asked
    assert sizing.may_fit(dataclasses.replace(KV260, lut=23_000))


@pytest.mark.parametrize(("count", "rounds"), [(1, ROUNDS + MORE_ROUNDS), (0, ROUNDS)])
def test_what_was_not_known_is_left_free(whole, monkeypatch, count, rounds):
    """Where weights are loaded: what exceeds the board is kept free the next time."""
    fixed = []

    def solved(parts, board, in_any_case):
        fixed.append(in_any_case)
        found = solve(parts, board, in_any_case)
        taken = tuple(dataclasses.replace(option, loaded=count) for option in found.taken)
        return dataclasses.replace(found, taken=taken, load=1.0)

    monkeypatch.setattr(search, "solve", solved)
    sizing = Sizing(whole.executor, whole.lowered.graph.shapes)
    board = dataclasses.replace(KV260, ff=20_000)
    design = sizing.design(10**9, board, 250.0)
    assert not design.fits and len(fixed) == rounds
    over = [later.ff - before.ff for before, later in itertools.pairwise(fixed[ROUNDS - 1 :])]
    assert all(more > 1000 for more in over)
