"""How many bytes a weight takes in the file that ships; ``lmaunet.cpu.packing`` writes it so."""

from __future__ import annotations

PACKED_BITS = (2, 3, 4)
"""Widths of codes that are stored in as many bits; all others take a byte each."""

FEWEST_PACKED = 256
"""Weights of fewer codes stay INT8: their node and shape take what packing would save."""


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that the codes of a weight take in a packed file.

    Args:
        count: how many codes.
        bits: the bits that hold them; 8 where none of :data:`PACKED_BITS` does.
    """
    if bits not in PACKED_BITS or count < FEWEST_PACKED:
        return count
    return -(-count // 8) * bits
