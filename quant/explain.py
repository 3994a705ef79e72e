"""Which quantizers cost the accuracy: each one switched on alone in a network left in float."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lmaunet.quant.network import QuantNetwork
from lmaunet.train.metrics import divergence
from lmaunet.train.schedule import Progress


def quantizers_of(model: QuantNetwork) -> list[tuple[str, str, Any]]:
    """Return every quantizer in use: name, kind and Brevitas proxy.

    Weights are named after their convolution, activations after the first value that has the scale.
    """
    found = [
        (name, "weights", layer.conv.weight_quant) for name, layer in model.convolutions().items()
    ]
    found += [
        (group, "activations", model.quantizer(group).act_quant) for group in model.rounding.names()
    ]
    return [entry for entry in found if entry[2].is_quant_enabled]


@torch.no_grad()
def explain(model: QuantNetwork, images: np.ndarray, progress: Progress) -> list[dict[str, Any]]:
    """Return what each quantizer costs by itself, the costliest first.

    The reference is the same network with every quantizer switched off. Beside the mean divergence
    of a pixel's classes (nats) stands the share of its foreground pixels that change their class.
    The last entry, ``all``, has every quantizer on.

    Args:
        model: the quantized network in evaluation mode; comes back unchanged.
        images: calibration images ``(n, channels, H, W)``.
        progress: told the fraction done.
    """
    model.eval()
    found = quantizers_of(model)
    batch = torch.from_numpy(images).to(next(model.parameters()).device)
    everything = model(batch)
    rows = []
    with switched_off([proxy for _, _, proxy in found]):
        reference = model(batch)
        classes = reference.argmax(1)

        def row(path: str, kind: str, logits: torch.Tensor) -> dict[str, Any]:
            shown = (classes > 0) | (logits.argmax(1) > 0)
            changed = (logits.argmax(1) != classes) & shown
            return {
                "quantizer": path,
                "kind": kind,
                "divergence": float(divergence(logits, reference)),
                "foreground_changed": float(changed.sum() / shown.sum().clamp_min(1)),
            }

        for index, (path, kind, proxy) in enumerate(found):
            progress(index / len(found), f"what the {kind} of {path} cost")
            proxy.disable_quant = False
            rows.append(row(path, kind, model(batch)))
            proxy.disable_quant = True
        total = row("all", "all", everything)
    return [*sorted(rows, key=lambda r: -r["divergence"]), total]


@contextmanager
def switched_off(proxies: list[Any]) -> Iterator[None]:
    """Have quantizers pass values on as they are inside the block."""
    before = [proxy.disable_quant for proxy in proxies]
    for proxy in proxies:
        proxy.disable_quant = True
    try:
        yield
    finally:
        for proxy, value in zip(proxies, before, strict=True):
            proxy.disable_quant = value
