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

from fpga.board.boards import Board
from fpga.board.placement import KINDS, ON_CHIP, SHELL, Placed, Resources, held_in
from lmaunet.integer_program import quiet_solver

DRAM_COST = 1.0
"""What a FIFO in DRAM counts for, beside shares of the board: as much as all that there is of a
resource, so that as few as can be go there."""
OVERLOAD_COST = 1e3
"""What exceeding the scarcest limit by its whole counts for, beside shares of the board."""
GAP = 1e-3
"""How far from the best, in shares of it, a solution may be."""


@dataclass(frozen=True)
class Option:
    """One way to build a part.

    ``placed``: what it takes. ``styles``: where each memory goes, of
    :data:`fpga.board.memories.KIND_OF`. ``choice``: what the caller knows it by.
    """

    placed: Placed
    styles: tuple[str, ...]
    choice: Any = None

    @functools.cached_property
    def usage(self) -> tuple[float, ...]:
        """What it takes, in the order of :data:`fpga.board.placement.KINDS`."""
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
        found.append(Option(sum(takes, resources.logic), styles, choice))
    return found


def usage_of(placed: Placed) -> tuple[float, ...]:
    """Return a vector in the order of :data:`fpga.board.placement.KINDS`."""
    return tuple(float(getattr(placed, kind)) for kind in KINDS)


def place(parts: Mapping[str, Resources], board: Board) -> dict[str, Option]:
    """Place every memory of a design: the smallest sum of shares of the board that fits."""
    found = solve([options_of(part) for part in parts.values()], board)
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

    What is in DRAM is looked at only where nothing fits without it. Where nothing fits at all, the
    largest overload is made as small as can be.

    Args:
        parts: the options of each part, at least one.
        board: whose limits hold; an option that uses what it has none of is left out where the part
            has another one.
        fixed: what is used in any case.
    """
    on_chip = [[o for o in options if not o.placed.dram_mb_s] for options in parts]
    if not all(on_chip):
        return _solve(parts, board, fixed)
    found = _solve(on_chip, board, fixed)
    more = board.dram_mb_s and sum(map(len, on_chip)) < sum(map(len, parts))
    return _solve(parts, board, fixed) if more and found.load > 1 else found


def _solve(parts: Sequence[Sequence[Option]], board: Board, fixed: Placed) -> Solution:
    import highspy

    limit = np.array([board.limits[kind] for kind in KINDS])
    usable = [_without(options, limit <= 0) for options in parts]
    # without anything in DRAM the program is that of a board without any
    kinds = KINDS if any(o.placed.dram_mb_s for each in usable for o in each) else ON_CHIP
    limit = limit[: len(kinds)]
    none = limit <= 0
    columns = [option for options in usable for option in options]
    owner = np.repeat(np.arange(len(usable)), [len(options) for options in usable])
    scale = np.where(none, 1.0, limit)
    usage = np.array([option.usage for option in columns]).reshape(-1, len(KINDS))
    shares = usage[:, : len(kinds)] / scale
    costs = shares.sum(axis=1) + [DRAM_COST * (o.placed.dram_mb_s > 0) for o in columns]
    base = np.array(usage_of(fixed))[: len(kinds)] / scale
    count, rows = len(columns), len(usable)
    # a row for each part, then one for each kind of resource; the last column is the overload
    entries = [
        ([int(owner[j]), *(rows + np.flatnonzero(shares[j])).tolist()],
         [1.0, *shares[j][shares[j] != 0].tolist()])
        for j in range(count)
    ]  # fmt: skip
    entries.append(([rows + k for k in range(len(kinds))], [-1.0] * len(kinds)))
    starts = np.cumsum([0, *(len(index) for index, _ in entries)])
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = count + 1, rows + len(kinds)
    lp.col_cost_ = [*costs.tolist(), OVERLOAD_COST * (10 if kinds == KINDS else 1)]
    lp.col_lower_ = [0.0] * (count + 1)
    lp.col_upper_ = [1.0] * count + [highspy.kHighsInf]
    lp.row_lower_ = [1.0] * rows + [-highspy.kHighsInf] * len(kinds)
    lp.row_upper_ = [1.0] * rows + (np.where(none, 0.0, 1.0) - base).tolist()
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = starts.tolist()
    lp.a_matrix_.index_ = [i for index, _ in entries for i in index]
    lp.a_matrix_.value_ = [v for _, values in entries for v in values]
    lp.integrality_ = [highspy.HighsVarType.kInteger] * count + [highspy.HighsVarType.kContinuous]
    solver = quiet_solver()
    solver.setOptionValue("mip_rel_gap", GAP)
    # the heuristics print to standard output, and a problem of this kind hardly needs them
    solver.setOptionValue("mip_heuristic_effort", 0.0)
    solver.passModel(lp)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"the integer program was not solved: {solver.getModelStatus()}")
    values = np.array(solver.getSolution().col_value[:count])
    taken = tuple(
        columns[int(np.flatnonzero(owner == i)[values[owner == i].argmax()])] for i in range(rows)
    )
    taken_usage = sum((np.array(option.usage) for option in taken), np.zeros(len(KINDS)))
    used = base + taken_usage[: len(kinds)] / scale
    return Solution(taken, float(np.where(none, np.where(used > 0, np.inf, 0.0), used).max()))


def _without(options: Sequence[Option], none: np.ndarray) -> list[Option]:
    """Return the options that use nothing of what there is none of, or all where none is left."""
    usable = [o for o in options if not (np.array(o.usage)[none] > 0).any()]
    return usable or list(options)
