"""JSON that a user wrote or another program did: any Unicode encoding, nothing ambiguous."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError

LARGEST_FILE = 64 * 2**20

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlong = 24


def shown(value: Any) -> str:
    """Return a value as a message shows it: one line, cut where it is long."""
    return _SHORT.repr(value)


def read_user_json(path: Path) -> Any:
    """Return the content of a JSON file, with or without a byte order mark.

    Raises:
        UserError: where it cannot be read, is not JSON, gives a key twice or holds NaN.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"larger than {LARGEST_FILE // 2**20} MiB")
        content = path.read_bytes()
        text = content.decode(
            "utf-8-sig" if content[:1] == b"\xef" else json.detect_encoding(content)
        )
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read as JSON ({reason}); correct the file") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {shown(key)} is given twice")
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def check_names(classes: tuple[str, ...], where: str) -> None:
    """Raise :class:`UserError` unless these are names of 2 to 255 classes, the background first."""
    if not 2 <= len(classes) <= 255:
        raise UserError(f"{where}: {len(classes)} classes; expected 2 to 255 with the background")
    twice = sorted({c for c in classes if classes.count(c) > 1})
    if twice:
        raise UserError(
            f"{where}: class {shown(twice[0])} is listed {classes.count(twice[0])} times; expected "
            "a name once, because scores are told by name; give several codes one class"
        )
    for name in classes[1:]:
        if name.lower() == "background":
            raise UserError(f"{where}: {name!r} is not the first class; put the background first")


def is_name(value: Any) -> bool:
    """Tell whether a value of a file is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_whole(value: Any) -> bool:
    """Tell whether a value of a file is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
