from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.board.memories import Memory, Outside
from lmaunet.fpga.board.placement import KINDS, ON_CHIP, SHELL, Placed, Resources
from lmaunet.fpga.sizing import solver
from lmaunet.fpga.sizing.solver import (
    GAP,
    Option,
    may_fit,
    options_of,
    place,
    solve,
    undominated,
    usage_of,
)  # fmt: skip

BOARD = BOARDS["ZCU104"]
NOTHING = Placed(0, 0, 0.0, 0)


def option(
    lut: int, dsp: int, bram36: float = 0.0, uram: int = 0, ff: int = 0, *, choice: object = None
) -> Option:
    return Option(Placed(lut, dsp, bram36, uram, ff), (), choice)


def shares(options: tuple[Option, ...]) -> np.ndarray:
    limits = np.array([BOARD.limits[kind] for kind in KINDS])
    return sum((np.array(o.usage) for o in options), np.zeros(len(KINDS))) / limits


def random_parts(random: np.random.Generator, count: int, scale: float) -> list[list[Option]]:
    limits = np.array([BOARD.limits[kind] for kind in ON_CHIP])
    return [
        [
            option(*(int(v) for v in random.random(len(ON_CHIP)) * limits * scale), choice=i)
            for i in range(random.integers(1, 5))
        ]
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(12))
def test_the_program_finds_what_trying_everything_finds(seed):
    """Half of these fit; of the others the smallest overload is wanted."""
    random = np.random.default_rng(seed)
    parts = random_parts(random, 5, 0.3 if seed % 2 else 0.7)

    def cost(options):
        used = shares(options)
        return used.sum() + 1e3 * max(0.0, used.max() - 1)

    best = min(cost(every) for every in itertools.product(*parts))
    found = solve(parts, BOARD, NOTHING)
    assert cost(found.taken) <= best * (1 + GAP) + 1e-9
    assert found.load == pytest.approx(shares(found.taken).max())


def test_what_may_not_fit_does_not_and_most_that_does_not_is_known():
    """A linear program never denies a choice that is there; it knows 80% of where there is none."""
    known = 0
    for seed in range(60):
        parts = random_parts(np.random.default_rng(seed), 5, 0.3 + seed / 150)
        fits = any(shares(every).max() <= 1 for every in itertools.product(*parts))
        told = may_fit(parts, BOARD, NOTHING)
        assert told or not fits
        known += told == fits
    assert 48 <= known < 60
    whole = random_parts(np.random.default_rng(1), 5, 0.3)
    assert may_fit(whole, BOARD, NOTHING)
    # as much as there is besides leaves no room
    assert not may_fit(whole, BOARD, Placed(int(BOARD.limits["lut"]), 0, 0.0, 0))


def test_the_integer_program_is_not_solved_where_nothing_can_fit(monkeypatch):
    """With nothing loaded or in DRAM the memories do not fit: only what can is looked at."""
    solved = []

    def counted(program, integer):
        solved.append((integer, any(o.loaded for o in program.columns)))
        return old(program, integer)

    old = solver._Program.solve
    monkeypatch.setattr(solver._Program, "solve", counted)
    weights = Memory("weights", 72, 4096, initialised=True, loader=(17, 99))
    parts = [options_of(Resources(0, 0, (weights,))) for _ in range(20)]
    board = BOARDS["KV260"]
    found = solve(parts, board)
    assert found.load <= 1 and sum(option.loaded for option in found.taken) == 4
    # the linear program of what is not loaded, then the integer program of all
    assert solved == [(False, False), (True, True)]
    solved.clear()
    assert solve(parts[:16], board).load <= 1
    assert solved == [(False, False), (True, False)]


def test_what_is_used_in_any_case_counts():
    # two ways to build one part; beside a full shell only the one with DSPs fits
    ways = [option(60_000, 0, choice="logic"), option(100, 900, choice="DSPs")]
    assert solve([ways], BOARD, NOTHING).taken[0].choice == "logic"
    assert solve([ways], BOARD, Placed(120_000, 0, 0.0, 0)).taken[0].choice == "DSPs"


def test_what_a_board_has_none_of_is_left_out():
    board = BOARDS["ZCU102"]
    ways = [option(0, 0, uram=1, choice="ultra"), option(0, 0, bram36=8, choice="block")]
    assert solve([ways], board).taken[0].choice == "block"
    assert solve([ways[:1]], board).load == float("inf")


def test_dominated_options_are_dropped_and_no_others():
    random = np.random.default_rng(0)
    options = random_parts(random, 1, 1.0)[0] + [option(5, 5, 5, 5), option(5, 5, 5, 6)]
    options += random_parts(random, 8, 1.0)[7]
    kept = undominated(options)
    for one in options:
        table = np.array([other.usage for other in options if other is not one])
        beaten = (table <= np.array(one.usage)).all(axis=1).any()
        assert (one in kept) == (not beaten)


def test_options_are_all_places_of_the_memories():
    memory = Memory("fifo", 72, 4096)
    found = options_of(Resources(10, 1, (memory, memory)), "folding")
    assert [o.styles for o in found] == [("block",) * 2, ("ultra",) * 2]
    assert found[0].placed == Placed(10, 1, 16.0, 0) and found[1].placed == Placed(10, 1, 0.0, 2)
    assert {o.choice for o in found} == {"folding"}
    assert usage_of(SHELL) == tuple(float(v) for v in dataclasses.astuple(SHELL))


def test_memories_fill_the_board_that_there_is():
    """Constants keep to block RAM, so that what can be in UltraRAM goes there."""
    weights = Memory("weights", 72, 4096, initialised=True)
    fifo = Memory("fifo", 72, 4096)
    parts = {f"w{i}": Resources(0, 0, (weights,)) for i in range(16)}
    parts |= {f"f{i}": Resources(0, 0, (fifo,)) for i in range(16)}
    found = place(parts, BOARDS["KV260"])
    assert all(found[f"w{i}"].styles == ("block",) for i in range(16))
    assert all(found[f"f{i}"].styles == ("ultra",) for i in range(16))
    assert {o.styles for o in place({"f": parts["f0"]}, BOARDS["ZCU102"]).values()} == {("block",)}


def queue(bits: int, mb_s: float) -> Resources:
    """Return a FIFO in rows of 72 bits that may be in DRAM."""
    outside = Outside(300, 600, 2.0, mb_s)
    memory = Memory("fifo", 72, bits // 72, control=lambda rows: (50, 40), outside=outside)
    return Resources(0, 0, (memory,))


SMALL = dataclasses.replace(BOARDS["KV260"], name="small", uram=0)
"""A board without UltraRAM: 129.6 block RAMs of 36 kbit may be used, 4.8 Mbit."""


def test_what_fits_on_the_chip_stays_there():
    """As it is without DRAM, although that would take less of the board."""
    parts = {f"f{i}": queue(1 << 20, 100.0) for i in range(3)}
    found = place(parts, SMALL)
    assert {option.styles for option in found.values()} == {("block",)}
    closed = place(parts, dataclasses.replace(SMALL, dram_mb_s=None))
    assert [o.placed for o in found.values()] == [o.placed for o in closed.values()]


def test_what_does_not_fit_goes_into_dram():
    parts = {f"f{i}": queue((i + 1) << 20, 100.0) for i in range(4)}
    found = place(parts, SMALL)
    total = sum((option.placed for option in found.values()), SHELL)
    assert not total.excess(SMALL)
    outside = [name for name, option in found.items() if option.styles == ("dram",)]
    assert total.dram_mb_s == 100.0 * len(outside) and total.bram36 >= 2 * len(outside)
    # as few as can be: of 10 Mbit 6 go, or more
    assert len(outside) == 2
    assert [o.styles for o in place(parts, SMALL).values()] == [o.styles for o in found.values()]
    # on a board without DRAM the block RAM is exceeded instead
    closed = dataclasses.replace(SMALL, dram_mb_s=None)
    there = sum((option.placed for option in place(parts, closed).values()), SHELL)
    assert list(there.excess(closed)) == ["bram36"]


@pytest.mark.parametrize(("mb_s", "fits"), [(590.0, True), (610.0, False)])
def test_bandwidth_is_a_limit(mb_s, fits):
    """1,200 MB/s for two, neither of which fits the chip."""
    parts = [options_of(queue(8 << 20, mb_s)) for _ in range(2)]
    found = solve(parts, SMALL)
    assert (found.load <= 1) == fits
    if fits:
        assert {option.styles for option in found.taken} == {("dram",)}
        assert found.load == pytest.approx(2 * mb_s / 1200)


def test_bandwidth_that_is_not_there_is_not_used():
    board = dataclasses.replace(SMALL, dram_mb_s=None)
    assert [o.styles for o in solve([options_of(queue(8 << 20, 1.0))], board).taken] == [("block",)]


def test_the_search_never_restarts(monkeypatch):
    """A restart of HiGHS may hang, whatever limits it was given."""
    made = []

    def noted():
        made.append(quiet_solver())
        return made[-1]

    quiet_solver = solver.quiet_solver
    monkeypatch.setattr(solver, "quiet_solver", noted)
    solve(random_parts(np.random.default_rng(5), 30, 0.06), BOARD, NOTHING)
    assert made and all(one.getOptionValue("mip_allow_restart")[1] is False for one in made)
