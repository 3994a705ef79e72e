"""Where limits come from: defaults, ``lmaunet.toml`` of the working folder, ``--gate``.

The defaults are a file for all targets, and what each target states of its own. Each source is a
table of limits by figure, for all targets or for one. A later source replaces an earlier
one: a limit for all targets also replaces those that an earlier source has for one.
"""

from __future__ import annotations

import math
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError

DEFAULTS = Path(__file__).with_name("gates.toml")
SETTINGS = Path("lmaunet.toml")

#: The figures that a gate may be on, and the largest limit that makes sense for each.
LARGEST = {
    "size_mb": math.inf,
    "weights_mb": math.inf,
    "dice": 1.0,
    "dice_drop_points": 100.0,
    "class_drop_points": 100.0,
    "hd95_mm": math.inf,
    "latency_ms": math.inf,
}
#: Figures of which more is better: their limit is a floor.
FLOORS = frozenset({"dice"})


@dataclass(frozen=True)
class Limit:
    """A limit, None for no gate, and why it is this one where that is stated."""

    value: float | None
    why: str = ""


Limits = dict[str, dict[str, Limit]]
"""Limits by target, ``""`` for all targets, and by figure."""


def read_limits(path: Path) -> Limits:
    """Return the limits of a TOML file.

    Raises:
        UserError: where it cannot be read, or has another table, target, figure or limit.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise UserError(f"{path} is not TOML: {error}") from error
    for name in content:
        if name != "gates":
            raise UserError(f"{path}: unknown table {name!r}; expected [gates]")
    table = content.get("gates", {})
    if not isinstance(table, Mapping):
        raise UserError(f"{path}: gates is {table!r}; expected a table [gates]")
    found: Limits = {"": {}}
    for name, value in table.items():
        if isinstance(value, Mapping) and name not in LARGEST:
            target = _target(name, f"{path}: [gates.{name}]")
            found[target] = {
                figure: _limit(figure, limit, f"{path}: {name}.{figure}")
                for figure, limit in value.items()
            }
        else:
            found[""][name] = _limit(name, value, f"{path}: {name}")
    return found


def parse_gates(given: Iterable[str]) -> Limits:
    """Return the limits of ``--gate`` options, each ``FIGURE=LIMIT`` or ``TARGET.FIGURE=LIMIT``.

    ``>=`` and ``<=`` may stand for ``=`` and must then be the figure's own direction; ``false`` is
    no gate, as in a file.

    Raises:
        UserError: for another form, an unknown target or figure, a limit that is none, or two
            limits for the same.
    """
    found: Limits = {"": {}}
    for text in given:
        where = f"--gate {text}"
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals:
            raise UserError(f"{where}: expected FIGURE=LIMIT, such as ort.latency_ms=50")
        sign = name[-1:] if name[-1:] in ("<", ">") else ""
        target, dot, figure = name.removesuffix(sign).strip().rpartition(".")
        if dot:
            _target(target, where)
        try:
            number: Any = float(value)
        except ValueError:
            number = False if value.strip() == "false" else value
        limit = _limit(figure, number, where)
        direction = ">" if figure in FLOORS else "<"
        if sign not in ("", direction):
            raise UserError(f"{where}: a limit on {figure} is {direction}=; turn the sign")
        if figure in found.setdefault(target, {}):
            raise UserError(f"{where}: {name.rstrip('<> ')} has two limits; give one")
        found[target][figure] = limit
    return found


def chosen_limits(given: Iterable[str] = (), of_run: Limits | None = None) -> Limits:
    """Return the limits that hold: the defaults, those that a run was made for, ``lmaunet.toml``
    where there is one, ``--gate``.

    Raises:
        UserError: as :func:`read_limits` and :func:`parse_gates`.
    """
    layers = [default_limits(), of_run or {}]
    # a link that leads nowhere is read too, and refused: its limits are not to be lost in silence
    if SETTINGS.exists() or SETTINGS.is_symlink():
        layers.append(read_limits(SETTINGS))
    return merge([*layers, parse_gates(given)])


def default_limits() -> Limits:
    """Return the limits of the default file, and each target's own."""
    from lmaunet.deploy.targets import Target, all_targets

    found = read_limits(DEFAULTS)
    for target in all_targets().values():
        if isinstance(target, Target) and target.gates:
            found[target.name] = {
                figure: _limit(figure, value, f"the gates of target {target.name}")
                for figure, value in target.gates.items()
            }
    return found


def merge(layers: Iterable[Limits]) -> Limits:
    """Return the limits of several sources, the later before the earlier."""
    merged: Limits = {"": {}}
    for layer in layers:
        for figure in layer.get("", {}):
            for table in merged.values():
                table.pop(figure, None)
        for target, table in layer.items():
            merged.setdefault(target, {}).update(table)
    return merged


def _target(name: str, where: str) -> str:
    from lmaunet.deploy.targets import all_targets

    known = all_targets()
    if name not in known:
        raise UserError(f"{where}: unknown target {name!r}; use one of: {', '.join(known)}")
    return name


def _limit(figure: str, value: Any, where: str) -> Limit:
    """Return a number, ``false``, or a table of ``limit`` and ``why`` as a limit."""
    if figure not in LARGEST:
        raise UserError(f"{where}: unknown figure {figure!r}; use one of: {', '.join(LARGEST)}")
    if isinstance(value, Mapping):
        if set(value) != {"limit", "why"} or not isinstance(value["why"], str):
            raise UserError(f"{where}: {dict(value)!r}; expected {{ limit = NUMBER, why = TEXT }}")
        if isinstance(value["limit"], Mapping):
            raise UserError(f"{where}: limit is a table; expected {{ limit = NUMBER, why = TEXT }}")
        return Limit(_limit(figure, value["limit"], where).value, value["why"])
    if value is False:
        return Limit(None)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= min(LARGEST[figure], sys.float_info.max):
        largest = f" to {LARGEST[figure]:g}" if math.isfinite(LARGEST[figure]) else " or more"
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        raise UserError(f"{where}: {shown} is no limit; give a number from 0{largest}")
    return Limit(float(value))
