"""A folder of modules as a registry: a file that defines the right name is an entry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from lmaunet.errors import UserError
from lmaunet.packages import missing_package

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Missing:
    """An entry whose file could not be imported, and why."""

    name: str
    why: str
    cause: Exception | None = field(default=None, compare=False)


def find_entries(
    package: str, folders: Iterable[str], attribute: str, kind: type[Entry]
) -> dict[str, Entry | Missing]:
    """Return every entry of a package's folders by its ``name``, in alphabetical order of files.

    Args:
        package: the package's name.
        folders: its ``__path__``.
        attribute: the name that a module defines its entry as.
        kind: the entries' class, which has a ``name``.

    Returns:
        Entries by name; a file that cannot be imported, or that defines no entry of this kind, is
        :class:`Missing` under the file's name.
    """
    found: dict[str, Entry | Missing] = {}
    for module in pkgutil.iter_modules(folders):
        # whatever a file does wrong while it is imported concerns that entry alone
        try:
            entry = getattr(importlib.import_module(f"{package}.{module.name}"), attribute)
            if not isinstance(entry, kind):
                raise TypeError(f"{attribute} is a {type(entry).__name__}, not a {kind.__name__}")
            found[entry.name] = entry  # type: ignore[attr-defined]
        except Exception as error:
            found[module.name] = Missing(module.name, f"{type(error).__name__}: {error}", error)
    return found


def get_entry(entries: Mapping[str, Entry | Missing], name: str, word: str) -> Entry:
    """Return one entry.

    Raises:
        ToolNotFound: where it cannot be imported because a Python package is missing.
        UserError: where it is unknown or cannot be imported.
    """
    if name not in entries:
        raise UserError(f"unknown {word} {name!r}; use one of: {', '.join(entries)}")
    entry = entries[name]
    if isinstance(entry, Missing):
        lacks = None if entry.cause is None else missing_package(entry.cause)
        raise lacks or UserError(f"{word} {name} cannot be loaded: {entry.why}")
    return entry
