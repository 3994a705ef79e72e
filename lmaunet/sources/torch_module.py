"""A network of plain torch: a function or class that makes it, and a file with its weights."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lmaunet.data.user_json import read_user_json, shown
from lmaunet.errors import UserError
from lmaunet.sources.state_dicts import matching_state

__all__ = ["REMEDY", "WHOSE", "make", "parse_arguments", "parse_factory", "parse_size", "state"]

WHOSE = "--module"
REMEDY = "give the weights of the network that it makes, and --arguments as it was trained with"
FORM = "expected PACKAGE.MODULE:NAME, such as networks.unet:UNet"
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")

state = matching_state


def parse_factory(text: str) -> tuple[str, str]:
    """Return the module and the name of ``package.module:name``; raises UserError otherwise."""
    module, _, name = text.partition(":")
    if not _NAME.fullmatch(module) or not _NAME.fullmatch(name):
        raise UserError(f"--module {text}: {FORM}")
    return module, name


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of ``256`` or ``256x320``; raises UserError otherwise."""
    found = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text.strip().lower())
    size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if min(size) < 1:
        raise UserError(
            f"--input-size {text[:40]}; expected pixels, such as 256 or, height first, 256x320"
        )
    return size


def parse_arguments(text: str | None) -> dict[str, Any]:
    """Return keyword arguments: JSON itself, or the name of a file with it.

    Raises:
        UserError: where it is no JSON object.
    """
    if text is None:
        return {}
    if not text.lstrip().startswith("{"):
        found = read_user_json(Path(text))
    else:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--arguments {text[:60]}: no JSON ({str(error)[:100]})") from error
    if not isinstance(found, dict):
        raise UserError(
            f'--arguments {shown(found)}; expected an object of names and values, such as {{"base"'
            ": 32}"
        )
    return found


def make(arguments: Mapping[str, Any]) -> Any:
    """Return what a factory makes; runs its code.

    Args:
        arguments: ``factory`` as ``package.module:name``, and its keyword ``arguments``, in which
            ``"torch.nn.ReLU"`` is the class.

    Raises:
        UserError: where there is no such factory.
    """
    module, name = parse_factory(arguments["factory"])
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"--module {arguments['factory']}: there is no module {error.name}; give --code the "
            "folder that it is in, or install its package here"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            known = [n for n in vars(found) if not n.startswith("_")] if hasattr(
                found, "__dict__") else []  # fmt: skip
            raise UserError(
                f"--module {arguments['factory']}: {module} has no {name}; it has "
                f"{', '.join(known[:8]) or 'nothing'}: {FORM}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise UserError(
            f"--module {arguments['factory']}: it is a {type(found).__name__}, which can't be "
            "called; name a class or a function that returns the network"
        )
    return found(**_resolved(arguments["arguments"]))


def _resolved(value: Any) -> Any:
    """Return arguments with the classes of torch.nn in the place of their names."""
    if isinstance(value, dict):
        return {key: _resolved(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_resolved(entry) for entry in value]
    if isinstance(value, str) and value.startswith("torch.nn."):
        return getattr(nn, value.removeprefix("torch.nn."), value)
    return value
