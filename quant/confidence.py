"""Monte Carlo dropout of a quantized network in torch, and its temperature on held-out patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lmaunet.data.calibration_scores import best_temperature, of_interest, temperature_loss
from lmaunet.data.confidence import SAMPLES, TEMPERATURES, Dropout, draw_masks
from lmaunet.graph.head import head_of
from lmaunet.quant.network import QuantNetwork

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset

SEED = 0


@torch.no_grad()
def sampled_logits(
    network: QuantNetwork, images: np.ndarray, masks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits without dropout and with each mask; what is before the head runs once.

    Args:
        network: in evaluation mode.
        images: float32 ``(n, channels, H, W)``.
        masks: float32 ``(samples, features)``.

    Returns:
        ``(n, classes, H, W)`` and ``(n, samples, classes, H, W)``.
    """
    head = network.convolutions()[head_of(network.graph).name]
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    device = next(network.parameters()).device
    try:
        logits = network(torch.from_numpy(images).to(device))
    finally:
        handle.remove()
    (features,) = seen
    ones = [1] * (features.dim() - 2)
    drawn = [torch.from_numpy(mask).to(device).reshape(1, -1, *ones) for mask in masks]
    sampled = torch.stack([head(features * mask) for mask in drawn], 1)
    return logits.cpu().numpy(), sampled.cpu().numpy()


def fit_temperature(network: QuantNetwork, data: Dataset, rate: float) -> dict[str, Any]:
    """Return the dropout of a network as JSON, its temperature fitted on the held-out patients.

    It has the least negative log-likelihood of the mean of the samples, over the voxels where label
    or prediction is foreground. No weight and no class depends on it. A score of calibration that
    is to mean something takes others: see ``lmaunet.deploy.calibrating``.
    """
    head = head_of(network.graph)
    channels = network.graph.weights[head.weights["weight"]].shape[1]
    masks = draw_masks(SAMPLES, channels, rate, SEED)
    loss, voxels = np.zeros(len(TEMPERATURES)), 0
    for image, label in zip(data.val.images, data.val.labels, strict=True):
        logits, sampled = sampled_logits(network.eval(), image[None], masks)
        inside = of_interest(label, logits[0].argmax(0))
        loss += temperature_loss(sampled[0][:, :, inside], label[inside])
        voxels += int(inside.sum())
    fitted = {
        "patients": len(data.patients_of("val")), "voxels": voxels, "samples": SAMPLES,
        "seed": SEED, "loss_at_1": float(loss[TEMPERATURES.index(1.0)] / max(voxels, 1)),
        "loss": float(loss.min() / max(voxels, 1)),
    }  # fmt: skip
    return Dropout(rate, int(channels), best_temperature(loss), fitted).to_json()
