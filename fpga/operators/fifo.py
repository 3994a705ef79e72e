"""The queue between two nodes; it is no node itself."""

from __future__ import annotations

from fpga.board.memories import Memory
from fpga.board.placement import Resources
from fpga.operators.common import REGISTER, count_bits, register, require_positive
from fpga.operators.rtl_module import Port, RtlModule
from lmaunet.errors import UserError

STYLES = ("auto", "distributed", "block", "ultra")


def module(bits: int, depth: int, style: str = "auto") -> RtlModule:
    """Return a FIFO for words of ``bits`` bits.

    Args:
        bits: of a word.
        depth: words that it holds at least: exactly 2 for 2, else the larger of 5 and ``depth``.
        style: the memory, one of :data:`STYLES`.
    """
    require_positive("FIFO", bits=bits)
    if depth < 2 or style not in STYLES:
        raise UserError(
            f"FIFO: depth={depth}, style={style}; expected a depth of 2 or more and one of "
            f"{', '.join(STYLES)}"
        )
    return RtlModule(
        "fifo",
        (REGISTER, "fifo.sv"),
        {"BITS": bits, "DEPTH": depth, "RAM_STYLE": style},
        (Port("in0_V", bits),),
        (Port("out0_V", bits),),
    )


def capacity(depth: int) -> int:
    """Return how many words a FIFO of a depth holds."""
    return depth if depth == 2 else max(5, depth)


def resources(bits: int, depth: int, stream: str = "") -> Resources:
    """Return the estimate of a FIFO of ``depth`` words (*yosys*, 8 to 80 bits, 2 to 700 words).

    One of two words is a register; a deeper one has a memory, two addresses and a count before it.
    """
    end = register(bits)
    if depth <= 2:
        return end
    address = count_bits(depth - 3) if depth > 5 else 1
    memory = Memory("fifo", bits, max(2, depth - 3), stream=stream)
    return Resources(end.lut + 3 + 3 * address, 0, (memory,), end.ff + 3 * address + 2)
