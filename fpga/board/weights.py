"""Whether a network's weights can be on a board's chip at all, before a design is sized."""

from __future__ import annotations

from lmaunet.artifacts import Refusal
from lmaunet.fpga.board.boards import BOARDS, named_board
from lmaunet.graph.graph import Graph
from lmaunet.graph.layers import weight_layers

BITS = (8, 4, 3, 2)
"""Bits that a weight may have, the first where nothing is said."""
MBIT = 1 << 20


def weights_beyond(graph: Graph, board: str) -> Refusal | None:
    """Return what weights are too many for a board's memories, None where they fit with 8 bits.

    A design keeps all of them on the chip; maps and FIFOs, which take memory too, are not counted.

    Args:
        graph: the float network's.
        board: its name.

    Returns:
        the count is of the layers that have them.
    """
    rows = weight_layers(graph)
    count, chip = sum(row.weights for row in rows), named_board(board)
    if count * BITS[0] <= chip.memory_bits:
        return None
    fewer = [bits for bits in BITS[1:] if count * bits <= chip.memory_bits]
    larger = [other for other in BOARDS.values() if count * BITS[0] <= other.memory_bits]
    remedies = [
        *(f"qat --bits {bits} ({count * bits / MBIT:.3g} Mbit)" for bits in fewer[:1]),
        *(f"--board {b.name} ({b.memory_bits / MBIT:.3g} Mbit)" for b in larger[:1]),
        f"a network with at most {chip.memory_bits // BITS[0] / 1e6:.3g} M weights",
    ]
    why = (
        f"{count * BITS[0] / MBIT:.3g} Mbit at {BITS[0]} bits, all of them on the chip; a "
        f"{chip.name} has {chip.memory_bits / MBIT:.3g} Mbit of block RAM and UltraRAM, for maps "
        "and FIFOs too"
    )
    return Refusal("weights", len(rows), why, ", or ".join(remedies))
