"""The weights of a network whose names are known, wherever a trainer's file has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmaunet.errors import UserError
from lmaunet.net.unwrapping import mappings, printable

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|module)\.")
_AVERAGED = re.compile(r"(?:^|[^a-z])(?:ema|swa|averaged?|avg|shadow|teacher)(?:[^a-z]|$)", re.I)
PLAIN = "save it as torch.save(model.state_dict(), path)"


def matching_state(
    content: Any, own: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the state dict in a file whose names are a network's, and what to say of it.

    Mappings may be nested (``state_dict``, ``model``), and their names may share a prefix
    (``model.``, ``net.``) or have those of wrappers in them (``module.``, ``_orig_mod.``). Where
    several have the network's names, averages (EMA, SWA) are passed over. Where none has them, the
    one with most of them is returned, so that what does not fit can be told.

    Args:
        content: what the file holds.
        own: the network's own state dict.
        path: the file.

    Raises:
        UserError: where nothing has a name of the network's, or several differ.
    """
    found = [
        (where, state)
        for keys, mapping in mappings(content)
        for where, state in _candidates(keys, mapping, own)
    ]
    whole = [pair for pair in found if pair[1].keys() == own.keys()]
    trained = [pair for pair in whole if not _AVERAGED.search(pair[0])]
    chosen = trained or whole
    if not chosen:
        most = max(found, key=lambda pair: len(pair[1].keys() & own.keys()), default=None)
        if most is None:
            raise UserError(
                f"{path} has no tensor that the network names, such as {next(iter(own), 'any')}; "
                f"give the weights of this network: {PLAIN}"
            )
        return most[1], []
    first, *others = chosen
    if any(not _same(first[1], other) for _, other in others):
        raise UserError(
            f"{path} holds {len(chosen)} sets of weights that differ, "
            f"{', '.join(printable(where or 'the file itself') for where, _ in chosen[:4])}; keep "
            f"the one to deploy: {PLAIN}"
        )
    notes = []
    if first[0]:
        passed = [printable(where) for where, _ in whole if where != first[0]]
        beside = f"; passed over {', '.join(passed)}" if passed else ""
        notes.append(f"weights: {printable(first[0])} of the file{beside}")
    return first[1], notes


def _candidates(
    keys: tuple[str, ...], mapping: Mapping[str, Any], own: Mapping[str, Tensor]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Return where a network's names are in a mapping, with the tensors under each prefix."""
    tensors = {
        _WRAPPERS.sub("", name): value
        for name, value in mapping.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    ends = [next(iter(own), ""), *list(own)[-1:]]
    prefixes = {
        name.removesuffix(end)
        for name in tensors
        for end in ends
        if name == end or name.endswith(f".{end}")
    }
    for prefix in sorted(prefixes):
        where = ".".join([*keys, *filter(None, [prefix.rstrip(".")])])
        yield (
            where,
            {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            },
        )


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)
