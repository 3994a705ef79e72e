"""What a design takes of its board in all, and what it lacks, in numbers and in words."""

from __future__ import annotations

import math

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import BOARDS, larger_board
from lmaunet.fpga.sizing.design import NAMES, Design


def share(design: Design) -> float:
    """Return the sum of the shares of the board's limits."""
    used, limits = design.total, design.board.limits
    return sum(getattr(used, name) / limit for name, limit in limits.items() if limit)


def overload(design: Design) -> float:
    """Return by what factor the scarcest resource exceeds its limit."""
    used, limits = design.total, design.board.limits
    return max(
        getattr(used, name) / limit if limit else (math.inf if getattr(used, name) else 0.0)
        for name, limit in limits.items()
    )


def shortages(design: Design) -> str:
    """Return what exceeds its limit, and by how much; empty where everything fits."""
    total, limits = design.total, design.board.limits
    return "; ".join(
        f"{NAMES[name]} {getattr(total, name):g} of {limits[name]:g} usable ({over:g} too many)"
        for name, over in total.excess(design.board).items()
    )


def too_small(design: Design) -> UserError:
    """Return the error for a board on which this design lacks least."""
    larger = larger_board(design.board)
    advice = f"use --board {larger.name}, " if larger else ""
    known = BOARDS.get(design.board.name)
    if known and known.dram_mb_s and not design.board.dram_mb_s:
        advice += "--flow timing, which may put skips into DRAM, "
    return UserError(
        f"the network does not fit board {design.board.name}: at {design.latency_ms:.3g} ms "
        f"(estimated), where least is missing, it takes {shortages(design)}; {advice}or a smaller "
        "network"
    )
