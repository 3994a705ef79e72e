"""What a function was called with while something ran, which it does all the same."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

Calls = dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]


@contextlib.contextmanager
def recorded(*names: str) -> Iterator[Calls]:
    """Yield the calls of functions, each ``module.function``, by the function's name."""
    calls: Calls = {}
    with pytest.MonkeyPatch.context() as patch:
        for place in names:
            module, _, name = place.rpartition(".")
            calls[name] = []
            original = getattr(importlib.import_module(module), name)

            def note(*given: Any, _name: str = name, _work: Any = original, **options: Any) -> Any:
                calls[_name].append((given, options))
                return _work(*given, **options)

            patch.setattr(place, note)
        yield calls
