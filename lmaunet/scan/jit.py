"""How this project compiles Python with numba: without Python's lock, and kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., None])


def compiled(fast_math: frozenset[str] = frozenset()) -> Callable[[F], F]:
    """Return a decorator that compiles a function when it is first called, once a machine.

    Args:
        fast_math: LLVM's flags for floating point; none by default.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": set(fast_math), "error_model": "numpy"}

    def decorate(function: F) -> F:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # there is no folder that it could be kept in
            return numba.njit(**options)(function)

    return decorate
