"""The options of a CPU's file."""

from __future__ import annotations

from typing import Annotated, Any

from lmaunet.deploy.targets import Flag
from lmaunet.errors import ToolNotFound, UserError


def build_options(
    cpu: Annotated[str | None, Flag(
        "any processor, or vnni for a file that only those with VNNI compute right, faster where "
        "the program does not open it as this one does; any if not given."
    )] = None,
    operators: Annotated[bool | None, Flag(
        "also compile the operators that make the file faster; where there is a C++ compiler if "
        "not given."
    )] = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the options of a build: ``cpu`` any if not given, operators where they can be built.

    Raises:
        UserError: for an unknown ``cpu``.
        ToolNotFound: where operators are asked for and there is no compiler.
    """
    from lmaunet.cpu.operators import FIX, compiler
    from lmaunet.cpu.saturation import CPUS

    if cpu is not None and cpu not in CPUS:
        raise UserError(f"unknown --cpu {cpu!r}; use one of: {', '.join(CPUS)}")
    if operators and compiler() is None:
        raise ToolNotFound("g++", "to compile the operators of a CPU's file", FIX)
    wanted = compiler() is not None if operators is None else operators
    return {"cpu": cpu or "any", "operators": wanted}
