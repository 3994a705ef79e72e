"""What the operators share: how types and lanes become ports, and what a register costs."""

from __future__ import annotations

from typing import Any

from fpga.board.placement import Resources
from fpga.operators.arithmetic import type_bits
from fpga.operators.rtl_module import Port
from lmaunet.errors import UserError

REGISTER = "stream_register.sv"


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


def register(bits: int) -> Resources:
    """Return the two words that nearly every module ends with (*yosys*, 8 to 80 bits: exact)."""
    return Resources(bits + 3, 0, (), 2 * bits + 2)
