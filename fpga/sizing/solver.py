"""The integer program behind folding and placement: one option for each part, within a board.

A part is a node with its legal foldings, or a queue; an option is one folding with a place for each
of its memories, and what that takes of the board. Choosing one for each part so that the sum stays
within every limit is a multiple-choice knapsack of several dimensions, which HiGHS solves.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.board.placement import KINDS, ON_CHIP, SHELL, Placed, Resources, held_in
from lmaunet.integer_program import quiet_solver

DRAM_COST = 1.0
"""What a FIFO in DRAM counts for, beside shares of the board: as much as all that there is of a
resource, so that as few as can be go there."""
LOAD_COST = 0.1
"""What weights of a node count for that are loaded, beside shares of the board: a tenth of all that
there is of a resource, so that these save at least so much block RAM or share it with DRAM."""
OVERLOAD_COST = 1e3
"""What exceeding the scarcest limit by its whole counts for, beside shares of the board."""
RELAXED_TOLERANCE = 1e-6
"""Overload below which a linear program's answer counts as one that fits, a share of a limit."""
GAP = 1e-3
"""How far from the best, in shares of it, a solution may be."""


@dataclass(frozen=True)
class Option:
    """One way to build a part.

    ``placed``: what it takes. ``styles``: where each memory goes, of
    :data:`lmaunet.fpga.board.memories.KIND_OF`. ``choice``: what the caller knows it by.
    ``loaded``: how many of the memories hold constants that are loaded at the start.
    """

    placed: Placed
    styles: tuple[str, ...]
    choice: Any = None
    loaded: int = 0

    @functools.cached_property
    def usage(self) -> tuple[float, ...]:
        """What it takes, in the order of :data:`lmaunet.fpga.board.placement.KINDS`."""
        return usage_of(self.placed)


@dataclass(frozen=True)
class Solution:
    """The option taken for each part, and the largest share of a limit, above 1 where none fits."""

    taken: tuple[Option, ...]
    load: float


def options_of(resources: Resources, choice: Any = None) -> list[Option]:
    """Return every way to place the memories of a part; equal memories go to one place."""
    groups = list(dict.fromkeys(resources.memories))
    found = []
    for ways in itertools.product(*(memory.styles for memory in groups)):
        style = dict(zip(groups, ways, strict=True))
        styles = tuple(style[memory] for memory in resources.memories)
        takes = [held_in(m, s) for m, s in zip(resources.memories, styles, strict=True)]
        loaded = sum(m.loaded(s) for m, s in zip(resources.memories, styles, strict=True))
        found.append(Option(sum(takes, resources.logic), styles, choice, loaded))
    return found


def usage_of(placed: Placed) -> tuple[float, ...]:
    """Return a vector in the order of :data:`lmaunet.fpga.board.placement.KINDS`."""
    return tuple(float(getattr(placed, kind)) for kind in KINDS)


def place(
    parts: Mapping[str, Resources], board: Board, loaded: Mapping[str, int] | None = None
) -> dict[str, Option]:
    """Place every memory of a design: the smallest sum of shares of the board that fits.

    Args:
        parts: with their memories, by name.
        board: whose limits hold.
        loaded: how many memories of a part are loaded at the start, where that is decided.
    """
    options = {name: options_of(part) for name, part in parts.items()}
    for name, count in (loaded or {}).items():
        options[name] = [o for o in options[name] if o.loaded == count]
    found = solve(list(options.values()), board)
    return dict(zip(parts, found.taken, strict=True))


def undominated(options: Sequence[Option]) -> list[Option]:
    """Return the options that no other one betters in every kind of resource."""
    ordered = sorted(options, key=lambda option: (sum(option.usage), option.usage))
    kept: list[Option] = []
    table = np.empty((len(ordered), len(KINDS)))
    for option in ordered:
        usage = np.array(option.usage)
        if not (table[: len(kept)] <= usage).all(axis=1).any():
            table[len(kept)] = usage
            kept.append(option)
    return kept


def solve(parts: Sequence[Sequence[Option]], board: Board, fixed: Placed = SHELL) -> Solution:
    """Choose one option for each part: the smallest sum of shares of the board that fits.

    What is in DRAM is looked at only where nothing fits without it, and weights that are loaded at
    the start only where nothing fits without these. Where nothing fits at all, the largest overload
    is made as small as can be.

    Args:
        parts: the options of each part, at least one.
        board: whose limits hold; an option that uses what it has none of is left out where the part
            has another one.
        fixed: what is used in any case.
    """
    *narrower, widest = _widening(parts, board)
    for options in narrower:
        if _may_fit(options, board, fixed):
            found = _solve(options, board, fixed)
            if found.load <= 1:
                return found
    return _solve(widest, board, fixed)


def may_fit(parts: Sequence[Sequence[Option]], board: Board, fixed: Placed = SHELL) -> bool:
    """Tell whether a choice may fit; what is said not to fit does not, whatever is chosen.

    A linear program says it, in which a part may take a share of each option. That takes
    milliseconds, where the integer program may take a minute to make an overload small.

    Args:
        parts, board, fixed: see :func:`solve`.
    """
    return _may_fit(_widening(parts, board)[-1], board, fixed)


def _may_fit(parts: Sequence[Sequence[Option]], board: Board, fixed: Placed) -> bool:
    overload = _Program(parts, board, fixed).solve(integer=False)[-1]
    return bool(overload <= RELAXED_TOLERANCE)


def _widening(
    parts: Sequence[Sequence[Option]], board: Board
) -> list[Sequence[Sequence[Option]]]:  # fmt: skip
    """Return the sets of options that are looked at one after the other, the last one in any case.

    Those of a set are all in the next: first nothing is loaded, then something may be, and in each
    first nothing is in DRAM.
    """
    initialised = [[o for o in options if not o.loaded] for options in parts]
    fewer = sum(map(len, initialised)) < sum(map(len, parts))
    sets: list[Sequence[Sequence[Option]]] = [initialised] if all(initialised) else [parts]
    if all(initialised) and fewer and board.loads and board.uram:
        sets.append(parts)
    found: list[Sequence[Sequence[Option]]] = []
    for options in sets:
        on_chip = [[o for o in each if not o.placed.dram_mb_s] for each in options]
        if not all(on_chip):
            found.append(options)
            continue
        found.append(on_chip)
        if board.dram_mb_s and sum(map(len, on_chip)) < sum(map(len, options)):
            found.append(options)
    return found


class _Program:
    """The integer program of some options: a column for each, and one for the overload."""

    def __init__(
        self, parts: Sequence[Sequence[Option]], board: Board, fixed: Placed
    ) -> None:  # fmt: skip
        limit = np.array([board.limits[kind] for kind in KINDS])
        usable = [_without(options, limit <= 0) for options in parts]
        self.columns = [option for options in usable for option in options]
        # without anything in DRAM the program is that of a board without any
        in_dram = any(option.placed.dram_mb_s for option in self.columns)
        self.kinds = KINDS if in_dram else ON_CHIP
        limit = limit[: len(self.kinds)]
        self.none = limit <= 0
        self.rows = len(usable)
        self.owner = np.repeat(np.arange(self.rows), [len(options) for options in usable])
        self.scale = np.where(self.none, 1.0, limit)
        usage = np.array([option.usage for option in self.columns]).reshape(-1, len(KINDS))
        self.shares = usage[:, : len(self.kinds)] / self.scale
        self.base = np.array(usage_of(fixed))[: len(self.kinds)] / self.scale

    def solve(self, integer: bool) -> np.ndarray:
        """Return how much of each column is taken, and the overload as the last value."""
        import highspy

        count, shares = len(self.columns), self.shares
        costs = shares.sum(axis=1) + [
            DRAM_COST * (o.placed.dram_mb_s > 0) + LOAD_COST * o.loaded for o in self.columns
        ]
        # a row for each part, then one for each kind of resource
        entries = [
            ([int(self.owner[j]), *(self.rows + np.flatnonzero(shares[j])).tolist()],
             [1.0, *shares[j][shares[j] != 0].tolist()])
            for j in range(count)
        ]  # fmt: skip
        kinds = len(self.kinds)
        entries.append(([self.rows + k for k in range(kinds)], [-1.0] * kinds))
        starts = np.cumsum([0, *(len(index) for index, _ in entries)])
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = count + 1, self.rows + kinds
        lp.col_cost_ = [*costs.tolist(), OVERLOAD_COST * (10 if self.kinds == KINDS else 1)]
        lp.col_lower_ = [0.0] * (count + 1)
        lp.col_upper_ = [1.0] * count + [highspy.kHighsInf]
        lp.row_lower_ = [1.0] * self.rows + [-highspy.kHighsInf] * kinds
        lp.row_upper_ = [1.0] * self.rows + (np.where(self.none, 0.0, 1.0) - self.base).tolist()
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = starts.tolist()
        lp.a_matrix_.index_ = [i for index, _ in entries for i in index]
        lp.a_matrix_.value_ = [v for _, values in entries for v in values]
        if integer:
            kinds_of = highspy.HighsVarType
            lp.integrality_ = [kinds_of.kInteger] * count + [kinds_of.kContinuous]
        solver = quiet_solver()
        solver.setOptionValue("mip_rel_gap", GAP)
        # the heuristics print to standard output, and a problem of this kind hardly needs them
        solver.setOptionValue("mip_heuristic_effort", 0.0)
        # HiGHS 1.16 never came back from a restart in one program of `edge` on a KV260, past any
        # limit of time or nodes; without restarts it takes a second
        solver.setOptionValue("mip_allow_restart", False)
        solver.passModel(lp)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise RuntimeError(f"the integer program was not solved: {solver.getModelStatus()}")
        return np.array(solver.getSolution().col_value)

    def solution(self, values: np.ndarray) -> Solution:
        """Return the options that are taken."""
        values, owner = values[:-1], self.owner
        taken = tuple(
            self.columns[int(np.flatnonzero(owner == i)[values[owner == i].argmax()])]
            for i in range(self.rows)
        )
        usage = sum((np.array(option.usage) for option in taken), np.zeros(len(KINDS)))
        used = self.base + usage[: len(self.kinds)] / self.scale
        exceeded = np.where(used > 0, np.inf, 0.0)
        return Solution(taken, float(np.where(self.none, exceeded, used).max()))


def _solve(parts: Sequence[Sequence[Option]], board: Board, fixed: Placed) -> Solution:
    program = _Program(parts, board, fixed)
    return program.solution(program.solve(integer=True))


def _without(options: Sequence[Option], none: np.ndarray) -> list[Option]:
    """Return the options that use nothing of what there is none of, or all where none is left."""
    usable = [o for o in options if not (np.array(o.usage)[none] > 0).any()]
    return usable or list(options)
