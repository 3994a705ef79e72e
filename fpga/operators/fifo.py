"""The queue between two nodes; it is no node itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import URAM_WIDTH, Memory, Outside
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators import width_converter
from lmaunet.fpga.operators.common import count_bits, register, require_positive
from lmaunet.fpga.operators.rtl_module import Port, RtlModule

STYLES = ("auto", "distributed", "block", "ultra")
SOURCES = (*width_converter.SOURCES, "fifo_segment.sv", "fifo.sv")
SHALLOW = 2
"""Words of a FIFO whose depth nobody asked for: a register, which has no memory."""
BEHIND = 3
"""Words of a depth that stand in registers behind the memories."""
SEGMENT_DELAY = 3
"""Cycles that a word takes through a segment."""
ROW_COLUMNS = 3
"""UltraRAMs side by side that words which do not divide one may share."""


@dataclass(frozen=True)
class Layout:
    """How a FIFO is built.

    ``bits``: of a word. ``pack``: words of a row. ``rows``: of a segment, 0 where a register
    is all. ``segments``: memories, one behind the other. ``style``: where they are, of
    :data:`STYLES`.
    """

    bits: int
    pack: int
    rows: int
    segments: int
    style: str

    @property
    def words(self) -> int:
        """Words that it holds, without those that are on their way into a row or out of one."""
        if not self.rows:
            return SHALLOW
        # each segment has two registers; behind them stands one of two words, or of two rows
        last = 2 * self.pack
        return (self.rows + 2) * self.segments * self.pack + last


def words_of_a_row(bits: int, words: int) -> int:
    """Return how many words of a FIFO in UltraRAM share a row.

    As many as fill its 72 bits best, or those of up to 3 side by side, of what divides an image.

    Args:
        bits: of a word.
        words: of an image.
    """

    def filled(count: int) -> float:
        return count * bits / (URAM_WIDTH * math.ceil(count * bits / URAM_WIDTH))

    most = max(1, ROW_COLUMNS * URAM_WIDTH // bits)
    counts = [count for count in range(1, most + 1) if words % count == 0]
    return max(counts, key=lambda count: (filled(count), -count))


def layout(bits: int, depth: int, style: str = "auto", pack: int = 1) -> Layout:
    """Return how a FIFO is built.

    Args:
        bits: of a word.
        depth: words that it holds at least; 2 is a register.
        style: the memory. In block RAM and UltraRAM it has all rows of as many segments as it
            needs; else one segment with as many as it needs.
        pack: words of a row; must divide the words of an image.
    """
    require_positive("FIFO", bits=bits, pack=pack)
    if depth < SHALLOW or style not in STYLES:
        raise UserError(
            f"FIFO: depth={depth}, style={style}; expected a depth of 2 or more and one of "
            f"{', '.join(STYLES)}"
        )
    if depth == SHALLOW:
        return Layout(bits, 1, 0, 1, "auto")
    memory = _memory(bits, depth, pack)
    return Layout(bits, pack, memory.segment_rows(style), memory.segments(style), style)


def module(found: Layout) -> RtlModule:
    """Return the RTL of a FIFO."""
    return RtlModule(
        "fifo",
        SOURCES,
        {
            "BITS": found.bits,
            "PACK": found.pack,
            "ROWS": found.rows,
            "SEGMENTS": found.segments,
            "RAM_STYLE": found.style,
        },
        (Port("in0_V", found.bits),),
        (Port("out0_V", found.bits),),
    )


def _control(rows: int) -> tuple[int, int]:
    """Return LUTs and flip-flops of a segment: two addresses, a count and flags (*yosys*).

    Where the rows are no power of two, an address has to be told where to begin again.
    """
    address = count_bits(rows)
    wraps = rows == 1 << address
    return round(1.75 * address + (4 if wraps else 9)), 3 * address + 5


def _memory(
    bits: int, depth: int, pack: int, stream: str = "", outside: Outside | None = None
) -> Memory:
    rows = max(2, math.ceil((depth - BEHIND) / pack))
    return Memory("fifo", bits * pack, rows, stream=stream, control=_control, outside=outside)


def resources(
    bits: int, depth: int, stream: str = "", pack: int = 1, outside: Outside | None = None
) -> Resources:
    """Return the estimate of a FIFO of ``depth`` words (*yosys*).

    One of two words is a register. A deeper one has a memory for each segment with its control, and
    where a row has several words what joins and parts them, which one in DRAM has too.
    ``outside``: what it takes in DRAM, where it may be there.
    """
    if depth <= SHALLOW:
        return register(bits)
    memory = _memory(bits, depth, pack, stream, outside)
    if pack == 1:
        end = register(bits)
        return Resources(end.lut, 0, (memory,), end.ff)
    row = bits * pack
    ff = 4 * row - bits + 2 * count_bits(pack) + 3
    return Resources(2 * row + 5 - bits // 3, 0, (memory,), ff)


def resources_of(found: Layout) -> Resources:
    """Return the estimate of a FIFO as it is built; its memory is in the place of its style."""
    depth = found.rows * found.segments * found.pack + BEHIND if found.rows else SHALLOW
    return resources(found.bits, depth, pack=found.pack)
