"""The boards that a design can be sized for."""

from __future__ import annotations

from dataclasses import dataclass

from lmaunet.errors import UserError

# Above these shares of a device, placement and routing fail or the clock drops.
LUT_SHARE, DSP_SHARE, BRAM_SHARE, URAM_SHARE, FF_SHARE = 0.70, 0.85, 0.90, 0.95, 0.50
DRAM_SHARE = 0.75
"""Of what a port to the DRAM moves at most; an assumption. For the controller of a Zynq-7000 AMD
measured 79% to 97% and says that it was designed for about 75% (UG585, "DDR Efficiency")."""
PORT_MB_S = 1600.0
"""What one port of 64 bits moves at 200 MHz, reading and writing together: an assumption that holds
from 150 MHz on, with the share above. It is a twelfth of the 19,200 MB/s that 64 bits of DDR4-2400
move (AMD, Embedded Design Tutorials, "Evaluating High-Performance Ports"); the DRAM of an Ultra96
has 32 bits."""


@dataclass(frozen=True)
class Board:
    """One board: the device's part name and what it holds.

    ``bram36`` counts block RAMs of 36 kbit, ``uram`` UltraRAMs of 288 kbit, ``ff`` flip-flops.
    Source: the device tables of AMD DS890 (Zynq UltraScale+) and DS962 (Alveo U250). ``dram_mb_s``:
    MB/s of 10^6 bytes, read and written together, that FIFOs in the board's DRAM may have; None
    where they are not offered: a U250 reaches its DDR4 through a controller in its logic, of which
    nothing is known here.
    """

    name: str
    part: str
    lut: int
    dsp: int
    bram36: int
    uram: int
    ff: int
    dram_mb_s: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """How much of each resource a design may use."""
        return {
            "lut": LUT_SHARE * self.lut,
            "dsp": DSP_SHARE * self.dsp,
            "bram36": BRAM_SHARE * self.bram36,
            "uram": URAM_SHARE * self.uram,
            "ff": FF_SHARE * self.ff,
            "dram_mb_s": DRAM_SHARE * (self.dram_mb_s or 0.0),
        }

    @property
    def memory_bits(self) -> int:
        """Bits of block RAM and UltraRAM."""
        return self.bram36 * 36 * 1024 + self.uram * 288 * 1024


# Ordered from small to large: the next entry is the next larger board.
BOARDS = {
    board.name: board
    for board in (
        Board("Ultra96", "xczu3eg-sbva484-1-e", 70_560, 360, 216, 0, 141_120, PORT_MB_S),
        Board("KV260", "xck26-sfvc784-2LV-c", 117_120, 1_248, 144, 64, 234_240, PORT_MB_S),
        Board("ZCU104", "xczu7ev-ffvc1156-2-e", 230_400, 1_728, 312, 96, 460_800, PORT_MB_S),
        Board("ZCU102", "xczu9eg-ffvb1156-2-e", 274_080, 2_520, 912, 0, 548_160, PORT_MB_S),
        Board("U250", "xcu250-figd2104-2L-e", 1_728_000, 12_288, 2_688, 1_280, 3_456_000),
    )
}
DEFAULT_BOARD = "ZCU104"


def named_board(name: str) -> Board:
    """Return a board by name, in any case; raises :class:`UserError` for an unknown one."""
    for board in BOARDS.values():
        if board.name.lower() == name.lower():
            return board
    raise UserError(f"unknown board {name!r}; use one of: {', '.join(BOARDS)}")


def larger_board(board: Board) -> Board | None:
    """Return the next larger board, or None for the largest."""
    names = list(BOARDS)
    place = names.index(board.name) + 1
    return BOARDS[names[place]] if place < len(names) else None
