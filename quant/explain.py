"""Which quantizers cost the accuracy: each one switched on alone in a network left in float."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from lmaunet.quant.network import QuantLMaUNet
from lmaunet.train.metrics import divergence
from lmaunet.train.schedule import Progress


def quantizers_of(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Return every quantizer in use: its path in the network, its kind, its Brevitas proxy."""
    found: dict[str, tuple[str, nn.Module]] = {}
    for path, module in model.named_modules():
        for kind, name in (("weights", "weight_quant"), ("activations", "act_quant")):
            proxy = getattr(module, name, None)
            if proxy is not None and proxy.is_quant_enabled:
                found[path] = (kind, proxy)
    return found


@torch.no_grad()
def explain(model: QuantLMaUNet, images: np.ndarray, progress: Progress) -> list[dict[str, Any]]:
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
    with _switched_off([proxy for _, proxy in found.values()]):
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

        for index, (path, (kind, proxy)) in enumerate(found.items()):
            progress(index / len(found), f"what the {kind} of {path} cost")
            proxy.disable_quant = False
            rows.append(row(path, kind, model(batch)))
            proxy.disable_quant = True
        total = row("all", "all", everything)
    return [*sorted(rows, key=lambda r: -r["divergence"]), total]


@contextmanager
def _switched_off(proxies: list[Any]) -> Iterator[None]:
    before = [proxy.disable_quant for proxy in proxies]
    for proxy in proxies:
        proxy.disable_quant = True
    try:
        yield
    finally:
        for proxy, value in zip(proxies, before, strict=True):
            proxy.disable_quant = value
