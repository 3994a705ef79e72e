"""A network that starts from a checkpoint's weights, its head aside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lmaunet.errors import UserError
from lmaunet.net.checkpoint import load_checkpoint, load_state
from lmaunet.net.origin import described
from lmaunet.net.unwrapping import printable
from lmaunet.spec import NetSpec

HEAD = "head."


def initialize(model: nn.Module, spec: NetSpec, path: Path) -> Mapping[str, Any]:
    """Load a checkpoint's weights into a network, but for the head; return the file's notes.

    The head stays as it was initialized, so that the file's classes do not matter.

    Raises:
        UserError: for a file that is no FP32 checkpoint of such a network; the first layer of
            another shape, or that one of the two lacks, is named.
    """
    loaded = load_checkpoint(path)
    if loaded.kind != "float32" or not isinstance(loaded.spec, NetSpec):
        what = loaded.kind if isinstance(loaded.spec, NetSpec) else f"network {loaded.spec.name}"
        raise UserError(
            f"--init {path} is of a {what}; expected FP32 weights of an LMa-UNet; give the file "
            "that pretrain or train wrote"
        )
    own = model.state_dict()
    given = {name: value for name, value in loaded.state.items() if not name.startswith(HEAD)}
    wanted = {name: value for name, value in own.items() if not name.startswith(HEAD)}
    of_file = f"--init {path} is of {described(loaded.spec)}"
    for name, value in wanted.items():
        if name not in given:
            raise UserError(
                f"{of_file} and has no {name}, which spec {spec.name} has; give a file of the same "
                "spec, or train that spec"
            )
        if given[name].shape != value.shape:
            raise UserError(
                f"{of_file}: {name} is {_shape(given[name])}, spec {spec.name} has "
                f"{_shape(value)}; give a file of the same spec, or train that spec"
            )
    surplus = [name for name in given if name not in wanted]
    if surplus:
        raise UserError(
            f"{of_file} and has {printable(surplus[0])}, which spec {spec.name} has not; give a "
            "file of the same spec, or train that spec"
        )
    kept = {name: value for name, value in own.items() if name.startswith(HEAD)}
    load_state(model, {**given, **kept}, path)
    return loaded.notes


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
