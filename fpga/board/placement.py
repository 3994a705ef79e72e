"""What parts of a design take of a board: logic, and memories where they are placed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.board.memories import Memory

# What surrounds the network: DMA in and out, AXI interconnect, resets (assumed).
SHELL_LUT, SHELL_FF = 9_000, 12_000


@dataclass(frozen=True)
class Resources:
    """LUTs, DSPs and flip-flops without the memories, and the memories."""

    lut: int
    dsp: int
    memories: tuple[Memory, ...] = ()
    ff: int = 0

    @property
    def logic(self) -> Placed:
        """What it takes without its memories."""
        return Placed(self.lut, self.dsp, 0.0, 0, self.ff)


@dataclass(frozen=True)
class Placed:
    """What one node or a whole design takes of a board; ``dram_mb_s``: of its DRAM, in MB/s."""

    lut: int
    dsp: int
    bram36: float
    uram: int
    ff: int = 0
    dram_mb_s: float = 0.0

    def __add__(self, other: Placed) -> Placed:
        return Placed(
            self.lut + other.lut, self.dsp + other.dsp,
            self.bram36 + other.bram36, self.uram + other.uram, self.ff + other.ff,
            self.dram_mb_s + other.dram_mb_s,
        )  # fmt: skip

    def excess(self, board: Board) -> dict[str, float]:
        """Return by how much each resource exceeds the board's limit, where it does."""
        return {
            name: getattr(self, name) - limit
            for name, limit in board.limits.items()
            if getattr(self, name) > limit
        }


SHELL = Placed(SHELL_LUT, 0, 0.0, 0, SHELL_FF)
KINDS = tuple(field.name for field in dataclasses.fields(Placed))
"""The kinds of resources of a board, in one order."""
ON_CHIP = KINDS[:-1]
"""The same without DRAM, the last of them."""


def held_in(memory: Memory, style: str) -> Placed:
    """Return what a memory takes in the place of a ``ram_style``, control and loader included.

    Behind the read port of one in LUTs is a register; block RAM and UltraRAM have it inside. A
    segment has one more, which is counted as flip-flops although these have it inside, too.

    Raises:
        ValueError: for a memory in DRAM that cannot be there.
    """
    if style == "dram":
        if memory.outside is None:
            raise ValueError(f"{memory.purpose} of {memory.bits} bits: there is none in DRAM")
        outside = memory.outside
        return Placed(outside.lut, 0, outside.bram36, 0, outside.ff, outside.mb_s)
    lut, ff = 0, 0
    if memory.control is not None:
        count, (luts, ffs) = memory.segments(style), memory.control(memory.segment_rows(style))
        lut, ff = count * luts, count * (ffs + memory.width)
    if style == "distributed":
        ff += 0 if memory.initialised else memory.width
        return Placed(lut + memory.lutram, 0, 0.0, 0, ff)
    if style == "block":
        return Placed(lut, 0, memory.bram36, 0, ff)
    loader = (memory.loader or (0, 0)) if memory.initialised else (0, 0)
    return Placed(lut + loader[0], 0, 0.0, memory.uram, ff + loader[1])


def usually_placed(part: Resources, style: str = "auto") -> Placed:
    """Return what a part takes with every memory in the place of a style, or in its usual one."""
    takes = [held_in(m, style if style in m.styles else m.styles[0]) for m in part.memories]
    return sum(takes, part.logic)


def sum_of(parts: Iterable[Resources]) -> Resources:
    """Return the sum of several parts."""
    found = list(parts)
    return Resources(
        sum(part.lut for part in found),
        sum(part.dsp for part in found),
        tuple(memory for part in found for memory in part.memories),
        sum(part.ff for part in found),
    )


def total(placed: Iterable[Placed]) -> Placed:
    """Return the sum of a design's nodes and of the shell around them."""
    return sum(placed, SHELL)
