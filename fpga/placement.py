"""What a node takes of a device, and where the memories of a design are placed on a board."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fpga.boards import URAM_SHARE, Board

# Block RAM of 18 kbit by depth and width; LUTRAM: 32 x 14 bits in 8 LUTs.
BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
LUT_PER_LUTRAM_BIT_32 = 8 / 14
# A memory goes into LUTs where that costs fewer LUTs than this for each block RAM it saves.
LUT_WORTH_A_BRAM36 = 90
URAM_WIDTH, URAM_DEPTH = 72, 4096
# What surrounds the network: DMA in and out, AXI interconnect, resets (assumed).
SHELL_LUT, SHELL_FF = 9_000, 12_000


@dataclass(frozen=True)
class Memory:
    """A memory of ``depth`` words of ``width`` bits; ``initialised`` holds constants."""

    purpose: str
    width: int
    depth: int
    initialised: bool = False

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
        """LUTs that hold it: as distributed RAM; of constants, two times 32 bits in each."""
        if self.initialised:
            return math.ceil(self.width * math.ceil(self.depth / 32) / 2)
        return math.ceil(self.width * math.ceil(self.depth / 32) * LUT_PER_LUTRAM_BIT_32)

    @property
    def distributed(self) -> bool:
        """Whether LUTs are the cheaper place."""
        return self.depth <= 32 or self.lutram <= LUT_WORTH_A_BRAM36 * self.bram36


@dataclass(frozen=True)
class Resources:
    """LUTs, DSPs and flip-flops without the memories, and the memories."""

    lut: int
    dsp: int
    memories: tuple[Memory, ...] = ()
    ff: int = 0


@dataclass(frozen=True)
class Placed:
    """What one node or a whole design takes of a board."""

    lut: int
    dsp: int
    bram36: float
    uram: int
    ff: int = 0

    def __add__(self, other: Placed) -> Placed:
        return Placed(
            self.lut + other.lut, self.dsp + other.dsp,
            self.bram36 + other.bram36, self.uram + other.uram, self.ff + other.ff,
        )  # fmt: skip

    def excess(self, board: Board) -> dict[str, float]:
        """Return by how much each resource exceeds the board's limit, where it does."""
        return {
            name: getattr(self, name) - limit
            for name, limit in board.limits.items()
            if getattr(self, name) > limit
        }


def place(nodes: Mapping[str, Resources], board: Board) -> dict[str, Placed]:
    """Place every memory of a design and return what each node takes.

    Small memories go into LUTs. Of the others those that save most block RAM for an UltraRAM go
    into UltraRAM while it lasts; memories with constants last, because UltraRAM cannot be
    initialised by a bitstream and the host must then write them at start-up.
    """
    large = [
        (name, memory)
        for name, node in nodes.items()
        for memory in node.memories
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
    placed = {}
    for name, node in nodes.items():
        lut = node.lut + sum(m.lutram for m in node.memories if m.distributed)
        # block RAM and UltraRAM have the register behind their read port inside
        ram = (m for m in node.memories if m.distributed and not m.initialised)
        ff = node.ff + sum(m.width for m in ram)
        bram = sum(m.bram36 for owner, m in in_bram if owner == name)
        uram = sum(m.uram for owner, m in in_uram if owner == name)
        placed[name] = Placed(lut, node.dsp, bram, uram, ff)
    return placed


def total(placed: Iterable[Placed]) -> Placed:
    """Return the sum of a design's nodes and of the shell around them."""
    return sum(placed, Placed(SHELL_LUT, 0, 0.0, 0, SHELL_FF))
