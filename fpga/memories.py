"""The memories of a design, and which kind of memory on a board each is placed in."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fpga.boards import URAM_SHARE, Board

# Block RAM of 18 kbit by depth and width; LUTRAM: 32 x 14 bits in 8 LUTs.
BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
LUT_PER_LUTRAM_BIT_32 = 8 / 14
# A memory goes into LUTs where that costs fewer LUTs than this for each block RAM it saves.
LUT_WORTH_A_BRAM36 = 90
URAM_WIDTH, URAM_DEPTH = 72, 4096
KINDS = ("lutram", "bram36", "uram")


@dataclass(frozen=True)
class Memory:
    """A memory of ``depth`` words of ``width`` bits; ``initialised`` holds constants.

    ``stream``: of a FIFO, the tensor that passes through it.
    """

    purpose: str
    width: int
    depth: int
    initialised: bool = False
    stream: str = ""

    @property
    def bits(self) -> int:
        """Bits that it holds."""
        return self.width * self.depth

    @functools.cached_property
    def bram18(self) -> int:
        """18 kbit block RAMs, in the best of their shapes."""
        return min(
            math.ceil(self.depth / depth) * math.ceil(self.width / width)
            for depth, width in BRAM18_SHAPES
        )

    @property
    def bram36(self) -> float:
        """36 kbit block RAMs, in halves."""
        return self.bram18 / 2

    @functools.cached_property
    def uram(self) -> int:
        """UltraRAMs; words narrower than 72 bits are packed side by side."""
        together = max(1, URAM_WIDTH // self.width)
        width, depth = self.width * together, math.ceil(self.depth / together)
        return math.ceil(width / URAM_WIDTH) * math.ceil(depth / URAM_DEPTH)

    @functools.cached_property
    def lutram(self) -> int:
        """LUTs that hold it as distributed RAM."""
        return math.ceil(self.width * math.ceil(self.depth / 32) * LUT_PER_LUTRAM_BIT_32)

    @property
    def distributed(self) -> bool:
        """Whether LUTs are the cheaper place."""
        return self.depth <= 32 or self.lutram <= LUT_WORTH_A_BRAM36 * self.bram36


@dataclass(frozen=True)
class Located:
    """A memory of a node, and the kind of memory on the board that holds it: of :data:`KINDS`."""

    node: str
    memory: Memory
    kind: str

    @property
    def taken(self) -> float:
        """LUTs, block RAMs or UltraRAMs that it takes."""
        return float(getattr(self.memory, self.kind))


def locate(nodes: Mapping[str, Sequence[Memory]], board: Board) -> list[Located]:
    """Return where every memory goes, given those of each node.

    Small memories go into LUTs. Of the others those that save most block RAM for an UltraRAM go
    into UltraRAM while it lasts; memories with constants last, because UltraRAM cannot be
    initialised by a bitstream and the host must then write them at start-up.
    """
    large = [
        (name, memory)
        for name, memories in nodes.items()
        for memory in memories
        if not memory.distributed
    ]
    large.sort(key=lambda item: (item[1].initialised, -item[1].bram36 / item[1].uram))
    bram_left, uram_left = board.limits["bram36"], math.floor(URAM_SHARE * board.uram)
    in_uram: list[tuple[str, Memory]] = []
    in_bram: list[tuple[str, Memory]] = []
    for name, memory in large:
        if (
            memory.uram <= uram_left
            and memory.bram36 >= 1.5 * memory.uram
            and not (memory.initialised)
        ):
            in_uram.append((name, memory))
            uram_left -= memory.uram
        else:
            in_bram.append((name, memory))
            bram_left -= memory.bram36
    for item in sorted(in_bram, key=lambda item: -item[1].bram36 / item[1].uram):
        if bram_left >= 0:
            break
        if item[1].uram <= uram_left:
            in_bram.remove(item)
            in_uram.append(item)
            uram_left -= item[1].uram
            bram_left += item[1].bram36
    small = [(n, m) for n, memories in nodes.items() for m in memories if m.distributed]
    return [
        Located(name, memory, kind)
        for kind, held in zip(KINDS, (small, in_bram, in_uram), strict=True)
        for name, memory in held
    ]
