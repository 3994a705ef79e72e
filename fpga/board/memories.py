"""The memories of a design, and which kinds of memory on a board can hold each."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

# Block RAM of 18 kbit by depth and width; LUTRAM: 32 x 14 bits in 8 LUTs.
BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
LUT_PER_LUTRAM_BIT_32 = 8 / 14
LUTRAM_DEPTH = 32
# A memory goes into LUTs where that costs fewer LUTs than this for each block RAM it saves; where
# block RAM is scarce it may cost more.
LUT_WORTH_A_BRAM36, LUT_FOR_A_BRAM36_AT_MOST = 90, 300
URAM_WIDTH, URAM_DEPTH = 72, 4096

KINDS = ("lutram", "bram36", "uram")
KIND_OF = dict(zip(("distributed", "block", "ultra"), KINDS, strict=True))
"""The kind of memory by the value of the synthesis attribute ``ram_style``."""


@dataclass(frozen=True)
class Memory:
    """A memory of ``depth`` words of ``width`` bits.

    ``initialised``: it holds constants. ``decided``: its RTL puts it into its usual place.
    ``stream``: of a FIFO, the tensor that passes through it.
    """

    purpose: str
    width: int
    depth: int
    initialised: bool = False
    decided: bool = False
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
        """LUTs that hold it: 64 bits of constants a LUT, as two words of 32 or one; else as RAM."""
        if self.initialised:
            return math.ceil(self.width * math.ceil(self.depth / 32) / 2)
        return math.ceil(self.width * math.ceil(self.depth / 32) * LUT_PER_LUTRAM_BIT_32)

    @property
    def distributed(self) -> bool:
        """Whether LUTs are the cheaper place."""
        return self.depth <= LUTRAM_DEPTH or self.lutram <= LUT_WORTH_A_BRAM36 * self.bram36

    @property
    def styles(self) -> tuple[str, ...]:
        """Where it can go, of :data:`KIND_OF`, the usual place first.

        What is small goes into LUTs, and so may what takes few of them for a block RAM. UltraRAM
        cannot be initialised by a bitstream, and the RTL writes no constants at start-up, so that
        constants stay out of it.
        """
        if self.depth <= LUTRAM_DEPTH:
            return ("distributed",)
        if self.decided:
            return ("distributed" if self.distributed else "block",)
        blocks = ("block",) if self.initialised else ("block", "ultra")
        if self.distributed:
            return ("distributed", *blocks)
        affordable = self.lutram <= LUT_FOR_A_BRAM36_AT_MOST * self.bram36
        return (*blocks, "distributed") if affordable else blocks


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
