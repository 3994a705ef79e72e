"""Checkpoints: our own, and plain state dicts of networks trained elsewhere.

A file is only ever read with ``weights_only=True``: a pickle that holds code is refused, not run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec

SCHEMA = 1


@dataclass(frozen=True)
class LoadedCheckpoint:
    """What a checkpoint file holds: the spec, the weights and what was noted with them."""

    spec: NetSpec
    state: Mapping[str, Tensor]
    kind: str = "float32"
    notes: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    path: Path, spec: NetSpec, model: nn.Module, kind: str = "float32", **notes: Any
) -> None:
    """Write a checkpoint atomically; ``notes`` is plain data such as the Dice or the classes."""
    content = {
        "schema": SCHEMA,
        "kind": kind,
        "spec": spec.to_json(),
        "state": model.state_dict(),
        "notes": notes,
    }
    save_atomically(path, content)


def save_atomically(path: Path, content: Any) -> None:
    """Write tensors and plain data: the old file stays until the new one is complete."""
    partial = path.with_name(f".{path.name}.partial")
    torch.save(content, partial)
    partial.replace(path)


def require_file(path: Path) -> None:
    """Raise :class:`UserError` where there is no such file."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist or is not a file; give a .pt file")


def read_file(path: Path) -> Any:
    """Return what ``torch.load`` finds in a file, without ever running code from it.

    Raises:
        UserError: no such file, not a checkpoint, truncated, or a pickle with code in it.
    """
    require_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch names what a pickle asked for and was not given
        if "allowed global" in str(error) or "unrecognized function" in str(error):
            raise UserError(
                f"checkpoint {path} is a pickle that holds more than tensors and plain data; it "
                "was not executed. Save it again as torch.save(model.state_dict(), path)"
            ) from error
        raise UserError(
            f"{path} is not a torch checkpoint; give a file that torch.save wrote"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {path} is damaged or truncated ({reason}); copy or save it again"
        ) from error


def load_checkpoint(path: Path, spec: NetSpec | None = None) -> LoadedCheckpoint:
    """Read a checkpoint of ours, or a plain state dict with the spec that it belongs to.

    Args:
        path: the file.
        spec: needed for a plain state dict; where the file names its own, both must be equal.

    Raises:
        UserError: for anything that is not a checkpoint of this network.
    """
    content = read_file(path)
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a {type(content).__name__}, expected a dictionary of tensors"
        )
    if "schema" in content and "spec" in content:
        if content["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {content['schema']}, expected {SCHEMA}; another version wrote "
                "it: use that version, or train again"
            )
        own = NetSpec.from_json(content["spec"])
        if spec is not None and spec != own:
            raise UserError(f"{path} is of spec {own.name!r}, which differs from the one given")
        return LoadedCheckpoint(own, content["state"], content["kind"], content.get("notes", {}))
    for key in ("state_dict", "model_state_dict", "model", "network_weights"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(
            f"{path} holds no state dict; save it as torch.save(model.state_dict(), path)"
        )
    if spec is None:
        raise UserError(f"{path} is a plain state dict; name its network with --spec")
    return LoadedCheckpoint(spec, {k.removeprefix("module."): v for k, v in content.items()})


def restore(loaded: LoadedCheckpoint, path: Path) -> LMaUNet:
    """Return the FP32 network with the checkpoint's weights, in evaluation mode.

    Raises:
        UserError: names or shapes differ (the first few are named), a weight is not finite, or
            the checkpoint is of a network that is quantized already.
    """
    if loaded.kind != "float32":
        raise UserError(
            f"{path} is a {loaded.kind} checkpoint; give the FP32 checkpoint that it came from"
        )
    model = LMaUNet(loaded.spec)
    load_state(model, loaded.state, path)
    return model.eval()


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load a state dict whose names and shapes must equal the model's exactly."""
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    if missing or surplus:
        raise UserError(
            f"{path} is of another network: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(surplus)} unknown {surplus[:3]}; choose its --spec"
        )
    wrong = [k for k in own if own[k].shape != state[k].shape]
    if wrong:
        shapes = ", ".join(
            f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}" for k in wrong[:3]
        )
        raise UserError(f"{path} has other shapes: {shapes}; choose its --spec")
    broken = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise UserError(
            f"{path} holds weights that are not finite: {broken[:3]}; training diverged"
        )
    model.load_state_dict(dict(state))
