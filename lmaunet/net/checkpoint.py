"""Checkpoints: our own, and those of other trainers.

Our own names its spec, classes and normalization. Of any other the weights are found by the names
of their tensors (``unwrapping``), their spec by the shapes (``inferred_spec``); a file without such
weights is told from them by name (``recognition``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.graph_spec import NetworkSpec, network_spec_of
from lmaunet.net.checkpoint_file import read_file, require_file, save_atomically
from lmaunet.net.inferred_spec import differences, infer_spec
from lmaunet.net.network import LMaUNet
from lmaunet.net.norm_statistics import check_statistics
from lmaunet.net.origin import Origin, described, listed, trainer_of
from lmaunet.net.recognition import HERE, recognise, recognise_altered
from lmaunet.net.unwrapping import (
    WeightSet,
    choose_weights,
    find_weights,
    holds_its_numbers,
    is_whole,
    printable,
)
from lmaunet.spec import NetSpec
from lmaunet.stated_spec import StatedSpec

__all__ = [
    "LoadedCheckpoint", "Origin", "load_checkpoint", "load_state", "read_file", "require_file",
    "restore", "save_atomically", "save_checkpoint",
]  # fmt: skip

SCHEMA = 1
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint file holds: the spec, the weights and what was noted with them.

    ``graph`` is there for a quantized network, and for one that is none of our own specs: plain
    JSON, as :func:`lmaunet.graph.file.topology_json` gives.
    """

    spec: NetworkSpec
    state: Mapping[str, Tensor]
    kind: str = "float32"
    notes: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    graph: Mapping[str, Any] | None = None


def save_checkpoint(
    path: Path,
    spec: NetworkSpec,
    model: nn.Module,
    kind: str = "float32",
    *,
    graph: Mapping[str, Any] | None = None,
    **notes: Any,
) -> None:
    """Write a checkpoint atomically; ``notes`` is plain data such as the Dice or the classes."""
    content = {
        "schema": SCHEMA,
        "kind": kind,
        "spec": spec.to_json(),
        "state": model.state_dict(),
        "notes": notes,
        **({} if graph is None else {"graph": graph}),
    }
    save_atomically(path, content)


def load_checkpoint(
    path: Path, stated: StatedSpec | None = None, weights: str | None = None
) -> LoadedCheckpoint:
    """Read a checkpoint of ours, or the weights of an LMa-UNet in one of another trainer.

    Args:
        path: the file.
        stated: what is said of the network beside the file; must not contradict it, but for the
            size of its input, which may be another.
        weights: the name of the set to take from a file that holds more than one.

    Raises:
        UserError: for anything that is not a checkpoint of this network.
    """
    content = read_file(path)
    if isinstance(content, Mapping) and {"schema", "spec", "state"} <= content.keys():
        if type(content["schema"]) is not int or content["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {str(content['schema'])[:20]}, expected {SCHEMA}; another "
                "version wrote it: use that version, or train again"
            )
        if weights is not None:
            raise UserError(
                f"--weights {weights}: {path} is a checkpoint of this program and holds one set of "
                "weights; leave the option out"
            )
        return _own_checkpoint(path, content, stated)
    return _foreign_checkpoint(path, content, stated, weights)


def _foreign_checkpoint(
    path: Path, content: Any, stated: StatedSpec | None, weights: str | None
) -> LoadedCheckpoint:
    """Return the network in another trainer's file."""
    sets = find_weights(content, path)
    if not sets:
        what, remedy = recognise(content)
        raise UserError(f"{path} {what}; {remedy}")
    altered = recognise_altered([name for found in sets for name in found.tensors])
    if altered is not None:
        raise UserError(f"{path} {altered[0]}; {altered[1]}")
    if not is_whole(sets[0]):
        raise UserError(_partial(path, sets))
    chosen = choose_weights(sets, weights, path)
    check_state(path, chosen.tensors)
    state, filled = _with_counters(chosen.tensors)
    inferred = infer_spec(state, stated, path)
    spec = inferred.spec
    check_names(state, _expected(spec), path)
    notes = [f"left aside: {listed(chosen.aside)}"] if chosen.aside else []
    if filled:
        notes.append("the norms' num_batches_tracked are not in the file; nothing depends on them")
    notes += _conversion(state)
    several = len(sets) > 1
    origin = Origin(
        trainer_of(content),
        described(spec),
        chosen.unwrapped,
        chosen.name if several or weights is not None else None,
        tuple(s.name for s in sets if s is not chosen),
        inferred.assumed,
        tuple(notes),
    )
    return LoadedCheckpoint(spec, state, origin=origin)


def _partial(path: Path, sets: list[WeightSet]) -> str:
    """Return what to say of weights of which parts are missing."""
    if len(sets) > 1 and len({s.name.rpartition(".")[0] for s in sets}) < len(sets):
        return (
            f"{path} has the network's names in part under {', '.join(s.name for s in sets)}; "
            "expected one prefix for all; save the network alone: "
            "torch.save(model.state_dict(), path)"
        )
    best = max(sets, key=lambda s: len(s.tensors))
    missing = [
        part for part in ("shallow", "stages", "pyramid", "decoder", "head")
        if not any(name.startswith(f"{part}.") for name in best.tensors)
    ]  # fmt: skip
    return (
        f"{path} holds a part of an LMa-UNet: {len(best.tensors)} tensors, "
        f"{'none of its ' + ', '.join(missing) if missing else 'not all of its layers'}; give the "
        "checkpoint of the whole network"
    )


def _with_counters(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Return a state with the counters that torch before 0.4.1 did not keep, and if any lacked."""
    lacking = [
        name.replace("running_var", "num_batches_tracked")
        for name in state
        if name.endswith("norm.running_var")
        and name.replace("running_var", "num_batches_tracked") not in state
    ]
    return {**state, **{name: torch.tensor(0) for name in lacking}}, bool(lacking)


def _conversion(state: Mapping[str, Tensor]) -> list[str]:
    """Return a note where weights come in another precision than single."""
    others = {
        str(v.dtype).removeprefix("torch.")
        for v in state.values()
        if v.is_floating_point() and v.dtype != torch.float32
    }
    return [f"converted from {', '.join(sorted(others))} to float32"] if others else []


def _own_checkpoint(
    path: Path, content: Mapping[str, Any], stated: StatedSpec | None
) -> LoadedCheckpoint:
    try:
        own = network_spec_of(content["spec"])
    except UserError as error:
        raise UserError(f"{path}: {error}; give the file as it was written") from error
    notes, graph = content.get("notes", {}), content.get("graph")
    classes = notes.get("classes") if isinstance(notes, Mapping) else None
    if (
        not isinstance(content.get("kind"), str)
        or not isinstance(notes, Mapping)
        or not (classes is None or _all_text(classes))
    ):
        raise UserError(
            f"{path} lacks a usable kind or notes, which every checkpoint of ours has; give the "
            "file as it was written"
        )
    state: Any = content.get("state")
    if isinstance(state, Mapping):
        state = {k: Tensor.detach(v) if isinstance(v, Tensor) else v for k, v in state.items()}
    check_state(path, state)
    said: list[str] = _conversion(state) if content["kind"] == "float32" else []
    spec = own
    if stated is not None:
        differing = differences(own, stated) if isinstance(own, NetSpec) else ""
        if differing:
            raise UserError(
                f"{path} is of spec {own.name!r}, which differs from the one given in "
                f"{differing}; give the spec that it was trained with, or none"
            )
        size = stated.values.get("input_size", own.input_size)
        # of volumes --input-size says height and width
        size = (*own.input_size[:-2], *size) if len(size) == 2 else size
        if size != own.input_size:
            if not isinstance(own, NetSpec) or graph is not None:
                raise UserError(
                    f"{path} has a graph for {'x'.join(map(str, own.input_size))}, "
                    f"{stated.said['input_size']} asks for another size; give the float network "
                    "that it came from"
                )
            spec = replace(own, input_size=size)
            trained = "x".join(map(str, own.input_size))
            said.append(f"{stated.said['input_size']}: the network was trained at {trained}")
    origin = Origin(network=described(spec), notes=tuple(said))
    return LoadedCheckpoint(spec, state, content["kind"], notes, origin, graph)


def _all_text(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, str) for v in values)


def check_state(path: Path, state: Any) -> None:
    """Raise :class:`UserError` unless this is a dictionary of dense tensors of real numbers."""
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise UserError(
            f"{path} holds no state dict; save it as torch.save(model.state_dict(), path)"
        )
    odd = [
        k for k, v in state.items()
        if v.layout != torch.strided or v.is_complex() or v.is_quantized or v.is_nested
        or (v.is_floating_point() and v.dtype not in _FLOATS)
    ]  # fmt: skip
    if odd:
        raise UserError(
            f"{path} holds sparse or complex tensors, or quantized ones: "
            f"{[printable(name) for name in odd[:3]]} ({state[odd[0]].dtype}); expected dense real "
            "ones; convert and save them again"
        )
    absent = [k for k, v in state.items() if not holds_its_numbers(v)]
    if absent:
        raise UserError(
            f"{path} declares numbers that it does not hold: "
            f"{[printable(name) for name in absent[:3]]}; save the weights from "
            "memory: torch.save(model.state_dict(), path)"
        )


def restore(loaded: LoadedCheckpoint, path: Path) -> LMaUNet:
    """Return the FP32 network with the checkpoint's weights, in evaluation mode.

    Raises:
        UserError: names or shapes differ (the first few are named), a weight is not finite, norms
            have lost their variances, or the checkpoint is of a network that is quantized already.
    """
    if loaded.kind != "float32":
        raise UserError(
            f"{path} is a {loaded.kind} checkpoint; give the FP32 checkpoint that it came from"
        )
    if not isinstance(loaded.spec, NetSpec):
        raise UserError(f"{path} is of network {loaded.spec.name}; expected an LMa-UNet")
    # before memory for the spec's network is asked for
    check_names(loaded.state, _expected(loaded.spec), path)
    model = LMaUNet(loaded.spec)
    load_state(model, loaded.state, path)
    model.eval()
    check_statistics(model, path)
    return model


def _expected(spec: NetSpec) -> Mapping[str, Tensor]:
    """Return a network's state without its numbers: names and shapes."""
    with torch.device("meta"):
        return LMaUNet(spec).state_dict()


def check_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> None:
    """Raise :class:`UserError` unless names and shapes equal the network's exactly."""
    missing = sorted(own.keys() - state.keys())
    surplus = [printable(name) for name in sorted(state.keys() - own.keys())]
    if missing or surplus:
        raise UserError(
            f"{path} is of another network: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(surplus)} unknown {surplus[:3]}; {HERE}"
        )
    wrong = [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        shapes = ", ".join(
            f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}" for k in wrong[:3]
        )
        raise UserError(f"{path} has other shapes than its other tensors ask for: {shapes}; {HERE}")


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict whose names and shapes must equal the model's exactly."""
    own = model.state_dict()
    check_names(state, own, path)
    coded = [k for k in own if own[k].is_floating_point() and not state[k].is_floating_point()]
    if coded:
        raise UserError(
            f"{path} holds {state[coded[0]].dtype} for {coded[0]}; expected floating-point "
            "weights; give the FP32 checkpoint"
        )
    broken = [
        k for k, v in state.items() if v.is_floating_point() and not v.float().isfinite().all()
    ]
    if broken:
        raise UserError(
            f"{path} holds weights that are not finite: {broken[:3]}; training diverged"
        )
    negative = [k for k, v in state.items() if k.endswith("running_var") and (v < 0).any()]
    if negative:
        raise UserError(
            f"{path} holds variances below 0: {negative[:3]}; expected 0 or more; save it again"
        )
    model.load_state_dict(dict(state))
