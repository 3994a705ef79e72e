"""Every operator by its name, found in this folder: a new file is enough."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError
from lmaunet.fpga.operators.operator import Attributes, Operator


def _below(kind: Any) -> Iterator[type[Operator]]:
    for each in kind.__subclasses__():
        if not inspect.isabstract(each) and each.__module__.startswith(f"{__package__}."):
            yield each
        yield from _below(each)


for _file in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if _file.name != Path(__file__).stem:
        importlib.import_module(f"{__package__}.{_file.name}")

OPERATORS: dict[str, type[Operator]] = {kind.name(): kind for kind in _below(Operator)}


def kind_of(op_type: str) -> type[Operator]:
    """Return an operator's class.

    Args:
        op_type: its name, with or without the suffix of FINN+'s backend.

    Raises:
        UserError: for an operator that is none of these; nothing of it is ever taken as 0.
    """
    name = op_type.removesuffix("_rtl").removesuffix("_hls")
    if name not in OPERATORS:
        raise UserError(
            f"unknown hardware operator {op_type}; known are: {', '.join(sorted(OPERATORS))}; a "
            "new one is a file in fpga/operators"
        )
    return OPERATORS[name]


def operator(op_type: str, attributes: Attributes) -> Operator:
    """Return a node's operator; raises :class:`UserError` for one that is not known."""
    return kind_of(op_type)(attributes)
