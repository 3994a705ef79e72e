"""Batch normalizations whose recorded variance is zero: dead channels, or a broken file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmaunet.errors import UserError
from lmaunet.net.network import LMaUNet

TINY_VARIANCE = 1e-10
"""A variance below it is none: 1e-5 of a unit input's deviation, and far below the norms' 1e-5."""
LARGEST_OUTPUT = 20.0
"""Of a channel of no variance: one that is constant puts out its norm's shift, a few at most."""
TRIAL_IMAGES, TRIAL_TILES = 2, 4
SHOWN = 8
LOST = (
    "The statistics were lost or never recorded: run the network in train mode over some "
    "training images (torch.optim.swa_utils.update_bn) and save it again"
)


def check_statistics(model: LMaUNet, path: Path) -> tuple[str, ...]:
    """Return notes on norms of no variance, in channels, and on norms that never saw data.

    A channel that is always the same has variance 0, rightly so. Where such a channel is alive, its
    norm multiplies it by up to 1/sqrt(eps), about 300, and a few of these in a row overflow: that
    is tried on two random images.

    Args:
        model: in evaluation mode.
        path: of its checkpoint, for messages.

    Raises:
        UserError: where outputs are absurd; the channels are named.
    """
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    still = without_variance(model)
    notes = []
    if still:
        largest = _largest_outputs(model, {name: norms[name] for name in still}, still)
        absurd = [n for n, value in largest.items() if not value <= LARGEST_OUTPUT]
        if absurd:
            shown = "; ".join(f"{n} ({_listed(still[n])})" for n in absurd[:4])
            more = f" and {len(absurd) - 4} norms more" if len(absurd) > 4 else ""
            worst = max(largest[n] for n in absurd)
            raise UserError(
                f"{path} holds running variances of 0 in {shown}{more}, for channels that are not "
                f"constant: on random images these norms reach {worst:.0e}, expected about 1. "
                f"{LOST}"
            )
        notes.append(
            f"running variances of 0: {named(still)}. These channels never change; if that is not "
            "meant, the statistics were not recorded"
        )
    if norms and all(_is_fresh(norm) for norm in norms.values()):
        notes.append(
            "every batch normalization has the mean 0 and variance 1 that it starts with: either "
            "the network was not trained, or its statistics were not recorded"
        )
    return tuple(notes)


def without_variance(model: nn.Module) -> dict[str, list[int]]:
    """Return the channels whose running variance is none, by the name of their norm."""
    still = {}
    for name, module in model.named_modules():
        variance = getattr(module, "running_var", None)
        if isinstance(variance, Tensor):
            channels = (variance < TINY_VARIANCE).nonzero().flatten().tolist()
            if channels:
                still[name] = channels
    return still


def named(channels: dict[str, list[int]]) -> str:
    """Return channels of norms as a text, the first norms of many."""
    listed = "; ".join(f"{n} ({_listed(c)})" for n, c in list(channels.items())[:SHOWN])
    return f"{listed}{'; ...' if len(channels) > SHOWN else ''}"


def _is_fresh(norm: nn.BatchNorm2d) -> bool:
    assert norm.running_mean is not None and norm.running_var is not None
    return bool((norm.running_mean == 0).all() and (norm.running_var == 1).all())


def _listed(channels: list[int]) -> str:
    shown = ", ".join(map(str, channels[:SHOWN]))
    more = f" and {len(channels) - SHOWN} more" if len(channels) > SHOWN else ""
    return f"channel{'s' * (len(channels) > 1)} {shown}{more}"


@torch.no_grad()
def _largest_outputs(
    model: LMaUNet, norms: dict[str, nn.BatchNorm2d], still: dict[str, list[int]]
) -> dict[str, float]:
    """Return for each norm the largest output of the channels of no variance, on random images."""
    largest: dict[str, float] = {}

    def watch(name: str) -> Callable[[Any, Any, Tensor], None]:
        def look(module: Any, inputs: Any, output: Tensor) -> None:
            value = output[:, still[name]].abs().max()
            largest[name] = float(value) if torch.isfinite(value) else float("inf")

        return look

    hooks = [norm.register_forward_hook(watch(name)) for name, norm in norms.items()]
    spec = model.spec
    longest = 128 if spec.dims == 2 else 32
    size = [step * max(1, min(TRIAL_TILES, longest // step)) for step in spec.size_multiples]
    generator = torch.Generator().manual_seed(0)
    try:
        model(torch.randn(TRIAL_IMAGES, spec.in_channels, *size, generator=generator))
    finally:
        for hook in hooks:
            hook.remove()
    return largest
