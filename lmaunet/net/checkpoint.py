"""Checkpoints: our own, and plain state dicts of networks trained elsewhere.

A file is only ever read with ``weights_only=True``: a pickle that holds code is refused, not run.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec

SCHEMA = 1
LARGE_NETWORK = 100_000_000

_READ_ERRORS = (
    RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, OSError, TypeError,
    AttributeError, IndexError, MemoryError, RecursionError,
)  # fmt: skip


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
    """Write tensors and plain data: the old file stays until the new one is complete.

    Raises:
        OSError: where the file cannot be written. torch's own writer hides a full disk behind a
            fault of its format.
    """
    partial = path.with_name(f".{path.name}.partial")
    buffer = io.BytesIO()
    torch.save(content, buffer)
    try:
        partial.write_bytes(buffer.getbuffer())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
    _check_archive(path)
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
    except _READ_ERRORS as error:
        # torch explains at length; the first sentence names the fault
        reason = str(error).split("\n")[0].split(". ")[0]
        raise UserError(
            f"checkpoint {path} is damaged or truncated, or none ({type(error).__name__}: "
            f"{reason}); give a file that torch.save wrote, or copy or save it again"
        ) from error


def _check_archive(path: Path) -> None:
    """Raise :class:`UserError` where a file is empty, or an archive cut short or altered.

    torch.load itself does not look at the checksums: a flipped bit would be a weight.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        raise UserError(f"checkpoint {path} is damaged: it is empty; copy or save it again")
    if start != b"PK\x03\x04":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()
    # the last two: an encrypted archive, an unknown compression
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"checkpoint {path} is damaged or truncated ({error}); copy or save it again"
        ) from error
    if altered is not None:
        raise UserError(
            f"checkpoint {path} is damaged: {altered} in it does not match its checksum; copy or "
            "save it again"
        )


def load_checkpoint(path: Path, spec: NetSpec | None = None) -> LoadedCheckpoint:
    """Read a checkpoint of ours, or a plain state dict with the spec that it belongs to.

    Args:
        path: the file.
        spec: needed for a plain state dict; where the file names its own, both must be equal, and
            the error names the fields that differ.

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
        return _own_checkpoint(path, content, spec)
    for key in ("state_dict", "model_state_dict", "model", "network_weights"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    _check_state(path, content)
    if spec is None:
        raise UserError(f"{path} is a plain state dict; name its network with --spec")
    return LoadedCheckpoint(spec, {k.removeprefix("module."): v for k, v in content.items()})


def _own_checkpoint(
    path: Path, content: Mapping[str, Any], spec: NetSpec | None
) -> LoadedCheckpoint:
    try:
        own = NetSpec.from_json(content["spec"])
    except UserError as error:
        raise UserError(f"{path}: {error}; give the file as it was written") from error
    if spec is not None and spec != own:
        raise UserError(
            f"{path} is of spec {own.name!r}, which differs from the one given in "
            f"{_differences(own, spec)}; give the spec that it was trained with, or none"
        )
    notes = content.get("notes", {})
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
    state = content.get("state")
    _check_state(path, state)
    return LoadedCheckpoint(own, state, content["kind"], notes)  # type: ignore[arg-type]


def _all_text(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, str) for v in values)


def _check_state(path: Path, state: Any) -> None:
    """Raise :class:`UserError` unless this is a dictionary of dense tensors of real numbers."""
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    ):
        raise UserError(
            f"{path} holds no state dict; save it as torch.save(model.state_dict(), path)"
        )
    odd = [k for k, v in state.items() if v.layout != torch.strided or v.is_complex()]
    if odd:
        raise UserError(
            f"{path} holds sparse or complex tensors: {odd[:3]}; expected dense real ones; convert "
            "and save them again"
        )


def _differences(own: NetSpec, given: NetSpec) -> str:
    pairs = ((f.name, getattr(own, f.name), getattr(given, f.name)) for f in fields(NetSpec))
    return ", ".join(f"{name} ({a!r}, given {b!r})" for name, a, b in pairs if a != b)


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
    params = sum(layer.params for layer in loaded.spec.layers())
    numbers = sum(tensor.numel() for tensor in loaded.state.values())
    if params > max(numbers, LARGE_NETWORK):
        # before memory for it is asked for
        raise UserError(
            f"{path} is of another network: it holds {numbers:,} numbers, its spec "
            f"{loaded.spec.name} has {params:,} parameters; give the file as it was written"
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
