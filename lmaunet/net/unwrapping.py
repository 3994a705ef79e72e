"""Where in a checkpoint of another trainer the network's weights are, and under which wrappers.

A trainer nests the weights (``state_dict``, ``model``, ``ema``) and prefixes their names
(``module.``, ``model.``, ``_orig_mod.``). What the weights are is told by the names of
:class:`~lmaunet.net.network.LMaUNet`'s own tensors, not by those of the wrappers: any nesting and
any prefix that all names of a network share is taken off, and named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmaunet.errors import UserError
from lmaunet.net.plain_pickle import PlainArray

_NORM = r"norm\.(?:weight|bias|running_mean|running_var|num_batches_tracked)"
_MAMBA = (
    r"mamba\.(?:A_log|D|in_proj\.weight|conv1d\.(?:weight|bias)|x_proj\.weight"
    r"|dt_proj\.(?:weight|bias)|out_proj\.weight)"
)
NETWORK_NAME = re.compile(
    rf"shallow\.\d+\.(?:conv\.weight|{_NORM})"
    rf"|stages\.\d+\.(?:proj\.(?:weight|bias)|local\.weight|{_NORM}|{_MAMBA}"
    rf"|pair\.\d+\.(?:local\.weight|conv\.weight|{_NORM}))"
    rf"|pyramid\.(?:(?:reduce|bin\.\d+)\.(?:weight|bias)|out\.(?:conv\.weight|{_NORM}))"
    rf"|decoder\.\d+\.(?:(?:up|skip)\.(?:weight|bias)|convs\.\d+\.(?:conv\.weight|{_NORM}))"
    r"|head\.(?:weight|bias)"
)
"""The names that a tensor of an LMa-UNet may have."""

_OWN = re.compile(
    r"(?:shallow\.\d+\.conv|stages\.\d+\.(?:local|pair\.\d+\.conv)|pyramid\.out\.conv)\.weight"
)
"""Names that few other networks have."""

_ESSENTIAL = (
    "shallow.0.conv.weight", "pyramid.out.conv.weight", "decoder.0.up.weight",
    "decoder.3.up.weight", "head.weight",
)  # fmt: skip
_STAGES = tuple((f"stages.{i}.local.weight", f"stages.{i}.pair.0.conv.weight") for i in range(4))
"""A tensor of each encoder stage: of an LKM, and of a block of convolutions."""

INFIXES = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
_INFIX = re.compile(rf"(?:^|(?<=\.))({'|'.join(INFIXES)})\.")
PREFIXES = {
    "module": "DataParallel or DDP",
    "_forward_module": "Lightning Fabric",
    "n_averaged": "AveragedModel",
}

_AVERAGED = re.compile(
    r"(?:^|[^a-z])(?:ema|swa|averaged?|avg|polyak|shadow|teacher|momentum|target)(?:[^a-z]|$)"
    r"|(?:model|net|network|weights|params)ema$|^ema(?:model|net|network|weights|params)",
    re.IGNORECASE,
)
_NO_WEIGHTS = re.compile(
    r"optim|grad(?:ient)?s?$|exp_avg|momentum_buffer|sched|scaler|fisher", re.IGNORECASE
)
_BESIDE = re.compile(
    r"(?:\w*_)?(?:criterion|criteria|loss|losses|loss_fn|loss_func|loss_function|metric|metrics)"
    r"(?:_\w+)?|teacher|ema|ema_model|model_ema|averaged_model|swa_model|discriminator"
)
"""What stands beside a network in a trainer's module: its loss, its metrics, an averaged copy."""
_COUNTERS = frozenset(
    ("n_averaged", "num_updates", "decay", "initted", "step", "steps", "epoch", "global_step")
)
_PROFILED = frozenset(("total_ops", "total_params"))
"""Buffers that the profiler thop leaves in every layer."""

LARGEST_VIEW = 1_000_000
"""Numbers in a tensor up to which several may be one in the file, as after ``expand``."""

MAX_DEPTH, MAX_MAPPINGS, MAX_ITEMS, MAX_NETWORKS = 8, 2000, 16, 32


@dataclass(frozen=True)
class WeightSet:
    """The weights of one network in a file.

    Args:
        name: as ``--weights`` names it.
        unwrapped: what was taken off, each in words.
        tensors: by the network's own names; what is not known keeps its name.
        averaged: whether the file calls it an average (EMA, SWA) of the weights that were trained.
        aside: names beside the network that are known not to be of it.
    """

    name: str
    unwrapped: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    averaged: bool
    aside: tuple[str, ...] = ()


def mappings(content: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Return each mapping from names to tensors (and more) in a file, with the keys to it."""
    queue: list[tuple[tuple[str, ...], Any, frozenset[int]]] = [((), content, frozenset())]
    for _ in range(MAX_MAPPINGS):
        if not queue:
            return
        path, value, above = queue.pop(0)
        if id(value) in above or len(path) > MAX_DEPTH:
            continue  # a pickle can hold itself
        above |= {id(value)}
        if isinstance(value, Mapping):
            if any(
                isinstance(v, (Tensor, PlainArray)) and isinstance(k, str) for k, v in value.items()
            ):
                yield path, value
            inside = [(k, v) for k, v in value.items() if isinstance(k, str)]
        elif isinstance(value, (list, tuple)):
            inside = [(str(i), v) for i, v in enumerate(value[:MAX_ITEMS])]
        else:
            continue
        queue += [
            ((*path, k), v, above)
            for k, v in inside
            if isinstance(v, (Mapping, list, tuple)) and not _NO_WEIGHTS.search(k)
        ]


def find_weights(content: Any, path: Path) -> list[WeightSet]:
    """Return the sets of weights of an LMa-UNet in a file, whole or in part.

    Raises:
        UserError: where names of two wrapped parts fall together.
    """
    root = content if isinstance(content, Mapping) else {}
    sets = [
        found
        for keys, mapping in mappings(content)
        for found in _sets_of(keys, mapping, root, path)
    ]
    whole = [s for s in sets if is_whole(s)]
    return _with_short_names(whole or sets)


def is_whole(found: WeightSet) -> bool:
    """Whether a set has every part of the network, if not every tensor of it."""
    return all(name in found.tensors for name in _ESSENTIAL) and all(
        lkm in found.tensors or pair in found.tensors for lkm, pair in _STAGES
    )


def _sets_of(
    keys: tuple[str, ...], mapping: Mapping[str, Any], root: Mapping[str, Any], path: Path
) -> list[WeightSet]:
    """Return the networks of one mapping: one for each prefix that its names have."""
    clean: dict[str, str] = {}
    infixes: dict[str, None] = {}
    for key in mapping:
        if not isinstance(key, str):
            continue
        bare = _INFIX.sub("", key)
        infixes |= dict.fromkeys(_INFIX.findall(key))
        if bare in clean:
            raise UserError(
                f"{path} has both {clean[bare]!r} and {key!r}, which are one name without their "
                f"wrappers; {_SAVE_AGAIN}"
            )
        clean[bare] = key
    prefixes: dict[str, dict[str, str]] = {}
    for bare, key in clean.items():
        split = _split(bare)
        if split is not None:
            prefixes.setdefault(split[0], {})[split[1]] = key
    networks = {p: names for p, names in prefixes.items() if any(map(_OWN.fullmatch, names))}
    if len(networks) > MAX_NETWORKS:
        raise UserError(f"{path} holds {len(networks)} networks; {_SAVE_AGAIN}")
    found = []
    for prefix, names in networks.items():
        inner = [p for p in networks if p != prefix]
        tensors: dict[str, Any] = {name: mapping[key] for name, key in names.items()}
        for name, key in names.items():
            if not isinstance(mapping[key], (Tensor, PlainArray)):
                raise UserError(
                    f"{path} holds a {type(mapping[key]).__name__} for {name}, expected a tensor; "
                    f"{_SAVE_AGAIN}"
                )
        aside: list[str] = []
        for bare, key in clean.items():
            if any(bare.startswith(p) and p.startswith(prefix) and p != prefix for p in inner):
                continue  # of another set, which is inside this prefix
            if bare.startswith(prefix) and bare[len(prefix) :] in tensors:
                continue
            if not bare.startswith(prefix) and any(bare.startswith(p) for p in inner):
                continue
            value = mapping[key]
            if not isinstance(value, (Tensor, PlainArray)) or _is_beside(bare, prefix):
                aside.append(printable(key))
            else:
                tensors[bare.removeprefix(prefix)] = value
        wrappers = tuple(part for part in prefix.split(".") if part)
        averaged = "n_averaged" in clean or any(_is_average(k) for k in (*keys, *wrappers))
        # Lightning's WeightAveraging keeps what was trained beside the average
        averaged |= keys == ("state_dict",) and isinstance(root.get("current_model_state"), Mapping)
        found.append(
            WeightSet(
                ".".join(map(printable, (*keys, *wrappers))),
                _in_words(keys, wrappers, list(infixes), "n_averaged" in clean),
                {name: _tensor(value) for name, value in tensors.items()},
                averaged,
                tuple(aside),
            )
        )
    return found


_SAVE_AGAIN = "save the network alone: torch.save(model.state_dict(), path)"


def _split(key: str) -> tuple[str, str] | None:
    """Return a name's prefix, with its dot, and the network's own name; None where it has none."""
    at = 0
    while True:
        if NETWORK_NAME.fullmatch(key, at):
            return key[:at], key[at:]
        at = key.find(".", at) + 1
        if not at:
            return None


def printable(name: str) -> str:
    """Return a name from a file as it may be shown: short, and without control characters."""
    name = name if len(name) <= 80 else f"{name[:77]}..."
    return name if name.isprintable() else ascii(name)[1:-1]


def _is_average(word: str) -> bool:
    return _AVERAGED.search(word) is not None


def _is_beside(bare: str, prefix: str) -> bool:
    """Whether a name is known not to be of the network: of a loss, a metric, a profiler."""
    within = bare.removeprefix(prefix)
    last = bare.rpartition(".")[2]
    if last in _PROFILED or bare in _COUNTERS or within in _COUNTERS:
        return True
    parts = [p for p in prefix.split(".") if p]
    # beside the network at any level of the prefix: model.criterion. beside model.net.
    for depth in range(len(parts) + 1):
        above = "".join(f"{part}." for part in parts[:depth])
        if bare.startswith(above):
            rest = bare[len(above) :]
            if rest in _COUNTERS or ("." in rest and _BESIDE.fullmatch(rest.split(".")[0])):
                return True
    return False


def _in_words(
    keys: tuple[str, ...], wrappers: tuple[str, ...], infixes: list[str], counted: bool
) -> tuple[str, ...]:
    """Return what was taken off, each in words."""
    words = [f"key {printable(key)!r}" for key in keys]
    for part in wrappers:
        whose = PREFIXES.get(part)
        if part == "module" and counted:
            whose = PREFIXES["n_averaged"]
        words.append(f"prefix {printable(part) + '.'!r}" + (f" ({whose})" if whose else ""))
    words += [f"{part + '.'!r} ({INFIXES[part]})" for part in infixes]
    return tuple(words)


def _tensor(value: Any) -> Tensor:
    """Return a tensor without what a pickle may have hung on it, or a numpy array as one."""
    if isinstance(value, PlainArray):
        values = value.values
        if values is None or values.dtype.kind not in "fiub" or values.dtype == "uint64":
            return torch.empty(0)
        return torch.tensor(values.astype(values.dtype.newbyteorder("=")))
    # the method of the class: an instance of a pickle may have attributes of any name
    return Tensor.detach(value) if isinstance(value, Tensor) else torch.empty(0)


def _with_short_names(sets: list[WeightSet]) -> list[WeightSet]:
    """Return the sets without the wrappers in their names that do not tell them apart."""

    def short(name: str) -> str:
        kept = [p for p in name.split(".") if p not in ("module", *INFIXES, *PREFIXES)]
        return ".".join(kept) or name or "weights"

    names = [short(s.name) for s in sets]
    if len(set(names)) < len(names):
        names = [s.name or "weights" for s in sets]
    return [
        WeightSet(name, s.unwrapped, s.tensors, s.averaged, s.aside)
        for name, s in zip(names, sets, strict=True)
    ]


def choose_weights(sets: list[WeightSet], wanted: str | None, path: Path) -> WeightSet:
    """Return one of the sets of a file: the wanted, else the only one that is no average.

    The weights that the optimizer trained are preferred to an average of them: their batch
    normalizations' statistics are their own, and a young average is near the random start.

    Raises:
        UserError: no set has the wanted name, or more than one may be meant; both name the sets.
    """
    names = ", ".join(s.name for s in sets)
    if wanted is not None:
        matches = [s for s in sets if s.name == wanted] or [
            s for s in sets if s.name.endswith(f".{wanted}")
        ]
        if len(matches) != 1:
            raise UserError(f"--weights {wanted}: {path} holds {names}; give one of these names")
        return matches[0]
    plain = [s for s in sets if not s.averaged] or sets
    if len(plain) > 1 and not all(_equal(plain[0], other) for other in plain[1:]):
        raise UserError(
            f"{path} holds {len(plain)} networks: {', '.join(s.name for s in plain)}; choose one: "
            f"--weights {plain[0].name}"
        )
    return plain[0]


def holds_its_numbers(tensor: Tensor) -> bool:
    """Whether a tensor is dense and in memory, not a view of few numbers as very many."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    stored = tensor.untyped_storage().nbytes()
    return tensor.numel() <= LARGEST_VIEW or tensor.numel() * tensor.element_size() <= stored


def _equal(a: WeightSet, b: WeightSet) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        holds_its_numbers(v)
        and holds_its_numbers(b.tensors[k])
        and v.dtype == b.tensors[k].dtype
        and torch.equal(v, b.tensors[k])
        for k, v in a.tensors.items()
    )
