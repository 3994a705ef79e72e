"""The flags of the command ``build``: what the targets' options declare, and nothing beside.

A target's ``options`` takes its options by keyword, each annotated with its type and a
:class:`~lmaunet.deploy.targets.Flag`. No other place names them.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Optional

import typer

from lmaunet.deploy.targets import Target, all_targets, option_hints

__all__ = ["Option", "takes_target_options", "target_flags"]


@dataclass(frozen=True)
class Option:
    """An option of one or more targets, as the command line has it.

    Args:
        name: of the keyword, with underscores.
        kind: the type of its values: ``str``, ``float``, ``int``, ``bool`` or ``list[str]``.
        help: what it does, for each target that takes it.
        undone: whether there is a ``--no-NAME`` beside ``--NAME``.
    """

    name: str
    kind: Any
    help: str
    undone: bool = False

    @property
    def flag(self) -> str:
        """The flag, such as ``--clock-mhz``."""
        return f"--{self.name.replace('_', '-')}"

    def parameter(self) -> inspect.Parameter:
        """Return the parameter that typer makes the flag of."""
        names = f"{self.flag}/--no-{self.flag[2:]}" if self.undone else self.flag
        asked = typer.Option(names, help=self.help)
        hint = bool if self.absent is False else Optional[self.kind]  # noqa: UP045
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(
            self.name, keyword, default=self.absent, annotation=Annotated[hint, asked]
        )

    @property
    def absent(self) -> bool | None:
        """What the command line has where the flag is not given."""
        return False if self.kind is bool and not self.undone else None


def target_flags() -> dict[str, Option]:
    """Return the options of all targets that can be loaded, by name, in the targets' order."""
    found: dict[str, Option] = {}
    for target in all_targets().values():
        if not isinstance(target, Target):
            continue
        for name, (hint, flag) in option_hints(target).items():
            kind, optional = _kind(hint)
            said = f"{target.name}: {flag.help}"
            if name in found:
                said = f"{found[name].help} {said}"
            found[name] = Option(name, kind, said, undone=kind is bool and optional)
    return found


def _kind(hint: Any) -> tuple[Any, bool]:
    """Return what typer takes for an annotation, and whether None is a value of it."""
    inner = [one for one in typing.get_args(hint) if one is not type(None)]
    optional = type(None) in typing.get_args(hint)
    kind = inner[0] if optional else hint
    if typing.get_origin(kind) is Sequence:
        kind = list[typing.get_args(kind)[0]]  # type: ignore[misc]
    return kind, optional


def takes_target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all targets' options; it takes those that were given as ``**given``."""
    own = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    flags = target_flags()
    options = {name: option.parameter() for name, option in flags.items()}

    def run(**values: Any) -> Any:
        given = {
            name: value
            for name, value in values.items()
            if name not in flags or (value != [] and value is not flags[name].absent)
        }
        return function(**given)

    hints = typing.get_type_hints(function, include_extras=True)
    hints.pop("given", None)
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + list(options.values())
    )
    run.__annotations__ = hints | {name: p.annotation for name, p in options.items()}
    return run
