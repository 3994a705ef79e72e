"""What every command of the line has: ``-v``, ``-q``, and paths that can be used."""

from __future__ import annotations

import functools
import inspect
import typing
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lmaunet.deploy import console
from lmaunet.errors import UserError

VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the time of each stage, and tracebacks.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only.")]
UNUSABLE = ("Cc", "Cs")
"""Unicode's categories of control characters, and of bytes that are no UTF-8."""


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable], Callable]:
    """Register a function as a command, with ``-v`` and ``-q``; its paths are checked first."""

    def register(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(*, verbose: bool, quiet: bool, **given: Any) -> Any:
            # what stands before the command counts too
            console.choose_output(quiet=quiet or None, verbose=verbose or None)
            check_paths({labels[name]: value for name, value in given.items()})
            return function(**given)

        hints = typing.get_type_hints(function, include_extras=True)
        labels = {name: _label(name, hint) for name, hint in hints.items()}
        hints |= {"verbose": VerboseOption, "quiet": QuietOption}
        parameters = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function).parameters.values()
        ]
        parameters += [
            inspect.Parameter(
                option, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=hints[option]
            )
            for option in ("verbose", "quiet")
        ]
        del run.__wrapped__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = hints
        app.command(name)(run)
        return function

    return register


def _label(name: str, hint: Any) -> str:
    """Return what a parameter is called on the command line."""
    for noted in getattr(hint, "__metadata__", ()):
        # the first of an option's names stands where its default would
        names = [getattr(noted, "default", None), *(getattr(noted, "param_decls", None) or ())]
        declared = next((n for n in names if isinstance(n, str) and n.startswith("-")), None)
        return declared or getattr(noted, "metavar", None) or f"--{name.replace('_', '-')}"
    return name


def check_paths(given: dict[str, Any]) -> None:
    """Raise UserError for a path that a message, JSON or a library could not hold.

    Args:
        given: values by what they are called on the command line.
    """
    for name, value in given.items():
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, Path):
                continue
            odd = next((c for c in str(path) if unicodedata.category(c) in UNUSABLE), None)
            if odd is not None:
                kind = "bytes that are no UTF-8" if "\udc80" <= odd <= "\udcff" else f"{odd!r}"
                raise UserError(
                    f"{name}: the path {str(path)!a} holds {kind}; rename it, or the folder "
                    "that it is in"
                )


def offer(*words: str) -> Callable[[str], list[str]]:
    """Return a shell completion of an option that takes one of these words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]
