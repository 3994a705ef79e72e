"""A state dict into a network that somebody else's code built: strictly, tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.net.unwrapping import printable

_LOWER_HEAD = re.compile(r"decoder\.seg_layers\.(\d+)\.")


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights without the prefixes of DistributedDataParallel and torch.compile."""
    return {re.sub(r"^(?:module\.|_orig_mod\.)+", "", name): value for name, value in state.items()}


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], path: Path, *, maker: str, remedy: str
) -> None:
    """Give a network its weights, in float32; names, shapes and twins must be right.

    Args:
        module: it may be on the device ``meta``, without numbers.
        state: tensors by the network's own names.
        path: the file that they are from.
        maker: what the network was built by, such as ``plans.json``.
        remedy: what to give where the weights are another network's.

    Raises:
        UserError: for a tensor that lacks, is unknown, has another shape or is not finite, and for
            two that differ though the network has one for both.
    """
    own = module.state_dict(keep_vars=True)
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or surplus:
        raise UserError(
            f"{path} is not of the network that {maker} says: {len(missing)} tensors lack "
            f"{missing[:2]}, {len(surplus)} are unknown {list(map(printable, surplus[:2]))}; "
            f"{remedy}"
        )
    wrong = [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path} is of another network than {maker} says: {len(wrong)} tensors have other "
            f"shapes, {name} {tuple(state[name].shape)}, expected {tuple(own[name].shape)}; "
            f"{remedy}"
        )
    broken = [
        name for name, value in state.items()
        if value.is_floating_point() and not value.float().isfinite().all()
    ]  # fmt: skip
    if broken:
        raise UserError(
            f"{path} holds weights that are not finite: {broken[:3]}; its training diverged; give "
            "another checkpoint, such as the one that validated best"
        )
    # one tensor under two names, as decoder.encoder. beside encoder.
    first: dict[int, str] = {}
    for name, tensor in own.items():
        twin = first.setdefault(id(tensor), name)
        if twin != name and not torch.equal(state[twin], state[name]):
            raise UserError(
                f"{path} holds two tensors for one: {twin} and {name} differ; it was altered; give "
                "the file as it was written"
            )
    numbers = {
        name: value.float() if own[name].is_floating_point() else value
        for name, value in state.items()
    }
    on_meta = any(tensor.is_meta for tensor in own.values())
    module.load_state_dict(numbers, assign=on_meta)


def lower_heads(names: Iterable[str]) -> list[str]:
    """Return what to say of outputs for deep supervision, as nnU-Net names them, among tensors.

    A graph leaves them out: nothing computes them when a network is used.
    """
    heads = {int(found[1]) for name in names if (found := _LOWER_HEAD.match(name)) is not None}
    lower = sorted(heads - {max(heads, default=0)})
    if not lower:
        return []
    said = ", ".join(f"decoder.seg_layers.{level}" for level in lower)
    return [f"left out, they were for training alone (deep supervision): {said}"]
