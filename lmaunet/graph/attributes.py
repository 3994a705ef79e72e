"""Checks of an operator's attributes; each raises UserError with what, got and expected."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from lmaunet.errors import UserError

LARGEST = 2**31 - 1
"""The largest whole number in a graph: far above any size or count that a machine holds."""


def is_whole(value: Any, least: int = 0) -> bool:
    """Return whether a value is an int, not a bool, from ``least`` to LARGEST."""
    return type(value) is int and least <= value <= LARGEST


def check_whole(what: str, value: Any, least: int = 0) -> None:
    """Refuse what is not a whole number from ``least``."""
    if not is_whole(value, least):
        raise UserError(f"{what}={_short(value)}; expected a whole number of {least} or more")


def check_wholes(what: str, value: Any, least: int = 0, lengths: Collection[int] = ()) -> None:
    """Refuse what is not a tuple of whole numbers from ``least``, of one of the lengths."""
    right = isinstance(value, tuple) and all(is_whole(v, least) for v in value)
    if not right or (lengths and len(value) not in lengths):
        count = " or ".join(map(str, lengths)) or "any number of"
        raise UserError(
            f"{what}={_short(value)}; expected {count} whole numbers of {least} or more"
        )


def check_number(what: str, value: Any, least: float = -math.inf) -> None:
    """Refuse what is not a finite float from ``least``."""
    if type(value) is not float or not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" of {least} or more"
        raise UserError(f"{what}={_short(value)}; expected a finite number{bound}")


def check_flag(what: str, value: Any) -> None:
    """Refuse what is not a bool."""
    if type(value) is not bool:
        raise UserError(f"{what}={_short(value)}; expected true or false")


def check_choice(what: str, value: Any, choices: Collection[str]) -> None:
    """Refuse what is not one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"{what}={_short(value)}; expected one of {', '.join(choices)}")


def _short(value: Any) -> str:
    return repr(value)[:60]
