"""What the operators' RTL share: how an attribute, a type and a stream of lanes are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fpga.operators.arithmetic import type_bits
from fpga.operators.rtl_module import Port
from lmaunet.errors import UserError

REGISTER = "stream_register.sv"


def text(value: str | bytes) -> str:
    """Return an attribute's text, which ONNX keeps as bytes."""
    return value.decode() if isinstance(value, bytes) else value


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


def memory_style(attributes: Mapping[str, Any]) -> str:
    """Return where a node's memory goes: one of ``auto``, ``distributed``, ``block``, ``ultra``."""
    return text(attributes.get("ram_style", "auto"))
