"""The examples in docstrings, run as they stand."""

from __future__ import annotations

import doctest
from typing import Any

import lmaunet


def run(*things: Any, **names: Any) -> int:
    """Run the examples of functions and classes; return how many there are, of which none fails.

    ``names`` are what the examples find beside the package.
    """
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for thing in things:
        for test in finder.find(thing, thing.__qualname__, globs={"lmaunet": lmaunet, **names}):
            runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    return runner.tries
