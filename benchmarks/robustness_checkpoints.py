"""Checkpoints as other trainers, other versions and bad disks leave them.

A file is written anew with other contents (wrappers, names, types, values, notes), or its zip
members and the opcodes of its pickle are changed and given checksums that fit again.
"""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import robustness_process as process
import torch
from robustness_images import Rng, pick
from robustness_oracle import Verdict
from robustness_pickles import change_bytes

Tensors = dict[str, torch.Tensor]


@dataclass
class Made:
    """A checkpoint as it is to be written, and which weights a reader may find in it.

    ``spec`` says that the command names the network; ``accepted`` are the weights that are right,
    None where that is not known here.
    """

    content: Any
    state: Tensors
    accepted: list[Tensors] | None
    spec: bool = False
    said: list[str] = field(default_factory=list)
    sound: bool = False
    both: bool = False


def own(original: dict[str, Any], state: Tensors) -> dict[str, Any]:
    """Return a checkpoint of the program's own form with these weights."""
    return {**copy.deepcopy({k: v for k, v in original.items() if k != "state"}), "state": state}


def prefixed(state: Tensors, prefix: str) -> Tensors:
    return {prefix + name: value for name, value in state.items()}


def wrap(rng: Rng, made: Made, original: dict[str, Any]) -> None:
    """Wrap the weights as trainers do, once or twice."""
    state: Any = made.state
    for _ in range(int(pick(rng, (1, 1, 2)))):
        prefix = pick(rng, ("module.", "_orig_mod.", "model.", "net.", "network.", "", ""))
        state = prefixed(state, prefix) if prefix else state
        made.said.append(f"prefix {prefix!r}")
    key = pick(rng, ("state_dict", "model_state_dict", "model", "net", "network_weights", "state",
                     "weights", "params", None, None))  # fmt: skip
    content: Any = state if key is None else {key: state, **extras(rng, made)}
    if key is not None and rng.random() < 0.2:
        content = {"checkpoint": content, "epoch": 3}
    if rng.random() < 0.15:
        other = {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}
        name = pick(rng, ("model_ema", "ema", "ema_state_dict", "state_dict_ema"))
        content = {pick(rng, ("model", "state_dict")): state, name: other}
        plain = {k: v + 1 if v.is_floating_point() else v for k, v in made.state.items()}
        made.accepted, made.both = [made.state, plain], True
        made.said.append(f"also {name}")
    if rng.random() < 0.1:
        content = {"n_averaged": torch.tensor(5), **prefixed(made.state, "module.")}
        made.accepted, made.both = [made.state], False
        made.said.append("averaged")
    made.content, made.spec = content, True
    made.said.append(f"under {key!r}")


def extras(rng: Rng, made: Made) -> dict[str, Any]:
    """Return what trainers keep beside the weights."""
    name, value = pick(rng, (
        ("epoch", 7), ("optimizer_states", []), ("opt", {}), ("pytorch-lightning_version", "2.1.0"),
        ("_best_ema", np.float64(0.4)), ("logging", {"dice": [np.float32(0.5)]}),
        ("hyper_parameters", {"lr": 1e-3, "none": None}), ("rng", np.arange(3)),
        ("size", torch.Size([1, 2])), ("dtype", torch.float16), ("device", torch.device("cpu")),
        ("args", argparse.Namespace(lr=1)), ("when", datetime.date(2020, 1, 1)), ("set", {1, 2}),
        ("bytes", b"\0\1"), ("complex", 1 + 2j), ("ordered", collections.OrderedDict(a=1)),
        ("slice", slice(1, 2)), ("path", Path("a")), ("default", collections.defaultdict(list)),
    ))  # fmt: skip
    made.said.append(f"beside it {name}")
    return {name: value}


def change_names(rng: Rng, made: Made, original: dict[str, Any]) -> None:
    """Rename, drop, add or exchange weights."""
    names = list(made.state)
    name, other = pick(rng, names), pick(rng, names)
    how = pick(
        rng, ("renamed", "gone", "added", "exchanged", "number", "empty", "none", "not text")
    )
    state: dict[Any, Any] = dict(made.state)
    if how == "renamed":
        state[name + "_x"] = state.pop(name)
    elif how == "gone":
        del state[name]
    elif how == "added":
        state["more.weight"] = torch.zeros(3)
    elif how == "exchanged":
        state[name], state[other] = state[other], state[name]
        same = made.state[name].shape == made.state[other].shape
        made.accepted = [dict(state)] if same else []
    elif how == "number":
        state[3] = state.pop(name)
    elif how == "empty":
        state = {}
    elif how == "none":
        state[name] = None
    else:
        state[name] = pick(rng, ("text", 3, [1.0], {"a": 1}, np.zeros(3)))
    if how != "exchanged":
        made.accepted = []
    made.content = own(original, state) if rng.random() < 0.5 else state
    made.spec = made.content is state
    made.said.append(f"{name} {how}")


def change_tensor(rng: Rng, made: Made, original: dict[str, Any]) -> None:
    """Give weights another type, shape, layout or place, one of them or all."""
    names = [n for n, v in made.state.items() if v.is_floating_point()]
    chosen = names if rng.random() < 0.4 else [pick(rng, names)]
    how, change = pick(rng, TENSOR_CHANGES)
    state = dict(made.state)
    for name in chosen:
        state[name] = change(state[name])
    made.said.append(f"{how} of {len(chosen)}")
    if how in ("half", "bfloat16", "double", "parameter", "gradient", "not contiguous", "shared",
               "stride 0"):  # fmt: skip
        made.accepted = [
            {n: v.detach().float() if v.is_floating_point() else v for n, v in state.items()}
        ]
    else:
        made.accepted = []
    made.content = own(original, state) if rng.random() < 0.6 else state
    made.spec = made.content is state


TENSOR_CHANGES: tuple[tuple[str, Callable[[torch.Tensor], Any]], ...] = (
    ("half", torch.Tensor.half),
    ("bfloat16", torch.Tensor.bfloat16),
    ("double", torch.Tensor.double),
    ("int8", lambda v: v.to(torch.int8)),
    ("int64", lambda v: v.long()),
    ("bool", lambda v: v > 0),
    ("complex", lambda v: v.to(torch.complex64)),
    ("sparse", lambda v: v.to_sparse()),
    ("meta", lambda v: v.to("meta")),
    ("one more axis", lambda v: v[None]),
    ("flat", lambda v: v.reshape(-1) if v.ndim != 1 else v[None]),
    ("nothing", lambda v: v[:0] if v.ndim else v.reshape(1)[:0]),
    ("parameter", torch.nn.Parameter),
    ("gradient", lambda v: v.clone().requires_grad_()),
    ("not contiguous", lambda v: torch.stack([v, v], -1)[..., 0]),
    ("stride 0", lambda v: v.flatten()[:1].expand(v.numel()).reshape(v.shape) if v.numel() else v),
    ("shared", lambda v: torch.cat([v.flatten(), v.flatten()])[: v.numel()].reshape(v.shape)),
    ("nan", lambda v: v.clone().fill_(float("nan"))),
    ("inf", lambda v: v.clone().fill_(float("inf"))),
    ("quantized", lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)),
    ("float8", lambda v: v.to(torch.float8_e4m3fn)),
    ("uint8", lambda v: v.to(torch.uint8)),
)


def change_values(rng: Rng, made: Made, original: dict[str, Any]) -> None:
    """Put a value that is strange, or wrong, into a weight."""
    names = [n for n, v in made.state.items() if v.is_floating_point() and v.numel()]
    variances = [n for n in names if n.endswith("running_var")]
    name = pick(rng, variances) if rng.random() < 0.4 and variances else pick(rng, names)
    value = float(pick(rng, (float("nan"), float("inf"), -1.0, 0.0, 1e38, 1e-45, 3.0, -1e-9)))
    state = dict(made.state)
    state[name] = state[name].clone()
    state[name].flatten()[int(rng.integers(state[name].numel()))] = value
    made.accepted = [state]
    made.content = own(original, state)
    made.said.append(f"a value of {name} is {value}")


VALUES: tuple[Any, ...] = (
    None, 0, -1, 1, 3, 2**31, 2**63, 10**30, 0.5, float("nan"), "x", "", [], [1], [8] * 5, {}, True,
    [1e9] * 5, ["a"] * 5, [2, 2, 2, 2], "none", "both", "bins", "concat", b"x", (4, 8, 8, 8, 8),
    [10**6] * 5, [32, 32], [31, 33], [0, 0], [1 << 20, 1 << 20], torch.tensor(3), [None] * 5,
)  # fmt: skip


def change_notes(rng: Rng, made: Made, original: dict[str, Any]) -> None:
    """Change a field of the spec, the notes or the head of a checkpoint of the program's own."""
    content = own(original, made.state)
    where = pick(rng, ("spec", "spec", "spec", "notes", "head"))
    place = content if where == "head" else content[where]
    name = pick(rng, [k for k in place if k != "state"])
    if rng.random() < 0.25:
        del place[name]
        made.said.append(f"{where}.{name} gone")
    else:
        place[name] = pick(rng, VALUES)
        made.said.append(f"{where}.{name} is {place[name]!r}"[:90])
    made.content = content


def other_files(rng: Rng, made: Made, original: dict[str, Any]) -> None:
    """Something that is no dictionary of weights at all."""
    made.content = pick(rng, (
        [made.state], (made.state,), "text", 3, None, torch.zeros(4), {}, [], {"a": 1},
        {"state_dict": {}}, {"state_dict": "x"}, {"model": None}, torch.nn.Linear(2, 2),
        {"schema": 1}, {"schema": 1, "spec": 3}, {"schema": 99, "spec": {}}, np.zeros(3),
        {"state_dict": {"conv_blocks_context.0.weight": torch.zeros(2)}},
        {"network_weights": {"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(8, 1, 3, 3)}},
        {"model.0.conv.unit0.conv.weight": torch.zeros(16, 1, 3, 3)},
    ))  # fmt: skip
    # weights in a list are found there
    held = isinstance(made.content, (list, tuple)) and len(made.content) == 1
    made.accepted, made.spec = [made.state] if held else [], rng.random() < 0.5
    made.said.append(f"a {type(made.content).__name__}")


CHANGES = (wrap, wrap, change_names, change_tensor, change_tensor, change_values, change_notes,
           change_notes, other_files)  # fmt: skip


def written(rng: Rng, made: Made) -> bytes:
    """Return the file's bytes, in one of torch's formats."""
    stream = io.BytesIO()
    choice = rng.random()
    try:
        if choice < 0.1:
            torch.save(made.content, stream, _use_new_zipfile_serialization=False)
            made.said.append("the old format")
        elif choice < 0.2:
            protocol = int(pick(rng, (3, 4, 5)))
            torch.save(made.content, stream, pickle_protocol=protocol)
            made.said.append(f"pickle protocol {protocol}")
            made.sound = False  # torch reads no such pickle where it may not run code
        else:
            torch.save(made.content, stream)
    except Exception as error:
        made.said.append(f"not saved: {type(error).__name__}")
        made.accepted, made.sound = [], False
        return pickle.dumps("not saved")
    return stream.getvalue()


def make(rng: Rng, source: Path) -> tuple[bytes, Made]:
    """Return a checkpoint's bytes, made from a sound one of the program's own."""
    original = torch.load(source, weights_only=True)
    state = dict(original["state"])
    made = Made(own(original, state), state, [state])
    choice = rng.random()
    if choice < 0.06:
        made.sound = True
    elif choice < 0.6:
        pick(rng, CHANGES)(rng, made, original)
    content = written(rng, made)
    if choice >= 0.55:
        content = change_bytes(rng, content, made.said)
        made.accepted = None
    return content, made


def load_only(arguments: Sequence[str]) -> int:
    """Load a checkpoint as ``qat`` does before it trains, and write the weights that it took.

    Arguments are the file, the name of the spec or nothing, and where the weights go.
    """
    from lmaunet.deploy.console import run_command
    from lmaunet.net.checkpoint import load_checkpoint, restore
    from lmaunet.stated_spec import state_spec

    path, name, out = arguments

    def work() -> int:
        loaded = load_checkpoint(Path(path), state_spec(name) if name else None)
        model = restore(loaded, Path(path))
        print(loaded.origin.line(), *loaded.origin.notes, sep="\n")
        torch.save(model.state_dict(), out)
        return 0

    return run_command(work)


def judge(taken: Path, made: Made, outcome: process.Outcome) -> Verdict:
    """Compare the weights that were taken with those that the file was made of."""
    if made.accepted is None:
        return Verdict(unverified="nothing but torch reads a changed pickle")
    state = torch.load(taken, weights_only=True)
    state = state.get("state", state)
    for expected in made.accepted:
        # a count that no norm of ours uses may be missing from a file
        missing = state.keys() - expected.keys()
        if (
            expected.keys() <= state.keys()
            and all(name.endswith(".num_batches_tracked") for name in missing)
            and all(torch.equal(state[n].float(), v.float()) for n, v in expected.items())
        ):
            if made.both and "ema" not in outcome.said.lower():
                return Verdict(("of two sets of weights one was taken without a word",))
            return Verdict()
    return Verdict(("other weights were taken than the file holds",))
