"""What the operators share: how types and lanes become ports, and what a register costs."""

from __future__ import annotations

import math
from typing import Any

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import LUTRAM_LUTS, LUTRAM_SHAPES
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.rtl_module import Port

REGISTER = "stream_register.sv"
ENABLE_BITS = 240
"""Bits of a word that one enable reaches, as in stream_register.sv, width_up.sv, width_down.sv."""
LONGEST_CHAIN = 4
"""The columns that a chain of DSPs adds at most.

A column waits for those before it in registers. With twice the columns there are half as many
sums to add; behind four of them the registers are more than that saves.
"""


def is_signed(dtype: str) -> int:
    """Return 1 for a type such as ``INT8`` and 0 for one such as ``UINT8``."""
    return int(not dtype.startswith("U"))


def stream(name: str, dtype: str, lanes: int) -> Port:
    """Return the port of a stream of ``lanes`` values of an integer type a beat."""
    return Port(name, type_bits(dtype) * lanes)


def require_positive(what: str, **values: Any) -> None:
    """Raise :class:`UserError` where a value is below 1."""
    for name, value in values.items():
        if value < 1:
            raise UserError(f"{what}: {name}={value}, expected 1 or more")


def count_bits(values: int) -> int:
    """Return the bits of a counter of so many values."""
    return (values - 1).bit_length()


def balanced_chain(terms: int, longest: int = LONGEST_CHAIN) -> int:
    """Return the terms of a chain of DSPs: the fewest with which no chain more is needed.

    Args:
        terms: in all.
        longest: the terms of a chain at most.
    """
    return math.ceil(terms / math.ceil(terms / longest))


def delayed(columns: int, chain: int) -> int:
    """Return by how many registers the columns wait in all for those before them in their chains.

    A chain that is short of columns lacks the first ones.
    """
    absent = math.ceil(columns / chain) * chain - columns
    return math.ceil(columns / chain) * (chain * (chain - 1) // 2) - absent * (absent - 1) // 2


def adder_tree(
    terms: int, bits: int, limit: int, *, carries: bool = False, signed: bool = False
) -> Resources:
    """Return what adder_tree.sv takes (*yosys*): a flip-flop for each bit of a sum, a LUT for most.

    The top bit of an unsigned sum is a carry and takes no LUT.

    Args:
        terms: how many are added.
        bits: of a term.
        limit: of a sum at most.
        carries: whether each term has a carry of its own.
        signed: whether terms and sums are.
    """
    lut = ff = 0
    while terms > 1:
        wider = min(bits + 1, limit)
        lut += terms // 2 * (wider if signed else bits)
        ff += terms // 2 * wider + terms % 2 * bits
        terms, bits = math.ceil(terms / 2), wider
        ff += terms * carries
    return Resources(lut, 0, (), ff)


def credit_queue(bits: int) -> Resources:
    """Return what credit_queue.sv takes with up to 32 places, its memory included.

    *architecture*: 32 x 14 bits of RAM in 8 LUTs. *yosys*: the rest.
    """
    (_, beside), *_ = LUTRAM_SHAPES
    return Resources(22 + math.ceil(bits * LUTRAM_LUTS / beside), 0, (), 26 + bits)


def control_groups(bits: int) -> int:
    """Return how many copies of its control a register of a stream has, one for each 240 bits."""
    return math.ceil(bits / ENABLE_BITS)


def register(bits: int) -> Resources:
    """Return the two words that nearly every module ends with (*yosys*, 8 to 432 bits: exact)."""
    groups = control_groups(bits)
    return Resources(bits + 3 * groups, 0, (), 2 * (bits + groups))
