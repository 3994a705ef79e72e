"""The memories of a design, and which kinds of memory on a board can hold each.

A device has three kinds. Block RAM of 18 kbit takes one of the shapes of :data:`BRAM18_SHAPES`.
UltraRAM of 288 kbit is 4096 words of 72 bits and nothing else: a narrow word fills a row, and what
a row has beyond it is lost (UltraScale+, AMD UG573). LUTs hold 32 words of 14 bits in 8, or 64
constant bits in one. A large FIFO may be in the DRAM beside the device, too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

# By depth and width: block RAM of 18 kbit, and RAM in the 8 LUTs that share a write port.
BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
LUTRAM_SHAPES, LUTRAM_LUTS = ((32, 14), (64, 7)), 8
LUTRAM_DEPTH, LUTRAM_CHAIN_DEPTH = 32, 256
"""Words that LUTs hold in one row of them, and as many as their wide multiplexers still reach."""
# A memory goes into LUTs where that costs fewer LUTs than this for each block RAM it saves; where
# block RAM is scarce it may cost more.
LUT_WORTH_A_BRAM36, LUT_FOR_A_BRAM36_AT_MOST = 90, 300
URAM_WIDTH, URAM_DEPTH = 72, 4096

KINDS = ("lutram", "bram36", "uram", "dram")
KIND_OF = dict(zip(("distributed", "block", "ultra", "dram"), KINDS, strict=True))
"""The kind of memory by the value of the synthesis attribute ``ram_style``, or ``dram``."""


@dataclass(frozen=True)
class Outside:
    """What a FIFO in DRAM takes on the chip instead of a memory, and of the DRAM.

    ``mb_s``: MB/s, read and written together.
    """

    lut: int
    ff: int
    bram36: float
    mb_s: float


@functools.cache
def _fewest(depth: int) -> list[int]:
    """Return a table of the fewest block RAMs by width, as far as it was needed: from width 0."""
    return [0]


def block_rams(depth: int, width: int) -> int:
    """Return the fewest 18 kbit block RAMs that hold ``depth`` words of ``width`` bits.

    A word is cut into columns, each in the shape that suits it.
    """
    fewest = _fewest(depth)
    deep = [(math.ceil(depth / rows), bits) for rows, bits in BRAM18_SHAPES]
    while len(fewest) <= width:
        at = len(fewest)
        fewest.append(min(count + fewest[max(0, at - bits)] for count, bits in deep))
    return fewest[width]


@functools.cache
def _block_segment(depth: int, width: int) -> tuple[int, int]:
    """Return the rows of a segment that is one block RAM deep, and the block RAMs of the chain."""
    found = [
        (math.ceil(depth / rows) * math.ceil(width / bits), -rows) for rows, bits in BRAM18_SHAPES
    ]
    count, rows = min(found)
    return -rows, count


@dataclass(frozen=True)
class Memory:
    """A memory of ``depth`` words of ``width`` bits.

    ``initialised``: it holds constants. ``decided``: its RTL puts it into its usual place.
    ``stream``: of a FIFO, the tensor that passes through it. ``control``: of a memory that is a
    chain of segments, each no deeper than one memory of the device, the LUTs and flip-flops that
    control a segment of so many rows; None of one that is whole. ``outside``: what it takes in
    DRAM; None of one that cannot be there.
    """

    purpose: str
    width: int
    depth: int
    initialised: bool = False
    decided: bool = False
    stream: str = ""
    control: Callable[[int], tuple[int, int]] | None = None
    outside: Outside | None = None

    @property
    def dram(self) -> float:
        """MB/s of DRAM."""
        return self.outside.mb_s if self.outside else 0.0

    @property
    def bits(self) -> int:
        """Bits that it holds."""
        return self.width * self.depth

    def segment_rows(self, style: str) -> int:
        """Return the words of a segment in the place of a ``ram_style``; of the last one, too."""
        if self.control is None or style not in ("block", "ultra"):
            return self.depth
        return URAM_DEPTH if style == "ultra" else _block_segment(self.depth, self.width)[0]

    def segments(self, style: str) -> int:
        """Return how many segments it has in the place of a ``ram_style``."""
        return math.ceil(self.depth / self.segment_rows(style))

    @functools.cached_property
    def bram18(self) -> int:
        """18 kbit block RAMs."""
        if self.control is None:
            return block_rams(self.depth, self.width)
        return _block_segment(self.depth, self.width)[1]

    @property
    def bram36(self) -> float:
        """36 kbit block RAMs, in halves."""
        return self.bram18 / 2

    @functools.cached_property
    def uram(self) -> int:
        """UltraRAMs, each 4096 words of at most 72 bits."""
        return math.ceil(self.width / URAM_WIDTH) * math.ceil(self.depth / URAM_DEPTH)

    @functools.cached_property
    def lutram(self) -> int:
        """LUTs that hold it: 64 bits of constants a LUT, as two words of 32 or one; else as RAM.

        RAM is in banks of 32 or 64 words; behind several is a multiplexer (*yosys*).
        """
        if self.initialised:
            return math.ceil(self.width * math.ceil(self.depth / 32) / 2)
        found = []
        for rows, bits in LUTRAM_SHAPES:
            banks = math.ceil(self.depth / rows)
            selects = self.width * math.ceil((banks - 1) / 3) + (4 * banks if banks > 1 else 0)
            found.append(banks * math.ceil(self.width / bits) * LUTRAM_LUTS + selects)
        return min(found)

    @property
    def distributed(self) -> bool:
        """Whether LUTs are the cheaper place."""
        return self.depth <= LUTRAM_DEPTH or (
            self._reached_in_luts and self.lutram <= LUT_WORTH_A_BRAM36 * self.bram36
        )

    @property
    def _reached_in_luts(self) -> bool:
        return self.control is None or self.depth <= LUTRAM_CHAIN_DEPTH

    @property
    def styles(self) -> tuple[str, ...]:
        """Where it can go, of :data:`KIND_OF`, the usual place first.

        What is small goes into LUTs, and so may what takes few of them for a block RAM. UltraRAM
        cannot be initialised by a bitstream, and the RTL writes no constants at start-up, so that
        constants stay out of it; and so does what is deeper than one and no chain of segments,
        because nothing stands between the rows of UltraRAM that it would take. DRAM comes last.
        """
        return self._on_chip if self.outside is None else (*self._on_chip, "dram")

    @property
    def _on_chip(self) -> tuple[str, ...]:
        if self.depth <= LUTRAM_DEPTH:
            return ("distributed",)
        if self.decided:
            return ("distributed" if self.distributed else "block",)
        fits_ultra = self.control is not None or self.depth <= URAM_DEPTH
        blocks = ("block", "ultra") if fits_ultra and not self.initialised else ("block",)
        if self.distributed:
            return ("distributed", *blocks)
        affordable = self.lutram <= LUT_FOR_A_BRAM36_AT_MOST * self.bram36
        return (*blocks, "distributed") if affordable and self._reached_in_luts else blocks


@dataclass(frozen=True)
class Located:
    """A memory of a node, and the kind of memory on the board that holds it: of :data:`KINDS`."""

    node: str
    memory: Memory
    kind: str

    @property
    def taken(self) -> float:
        """LUTs, block RAMs or UltraRAMs that it takes, or MB/s of DRAM."""
        return float(getattr(self.memory, self.kind))
