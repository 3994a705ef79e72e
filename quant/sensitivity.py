"""How much each layer's weights can be rounded before the network says something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from lmaunet.net.fold import fold
from lmaunet.net.layers import weights_of
from lmaunet.net.network import LMaUNet
from lmaunet.quant.convolution import round_weight
from lmaunet.quant.settings import WEIGHT_BITS, Scales
from lmaunet.train.metrics import divergence
from lmaunet.train.schedule import Progress

Sensitivity = Mapping[str, Mapping[int, float]]
"""By layer and weight bits, the mean divergence of a pixel's classes, in nats."""


@torch.no_grad()
def measure(
    model: LMaUNet, images: np.ndarray, progress: Progress, scales: Scales = "free"
) -> dict[str, dict[int, float]]:
    """Return every layer's sensitivity to 2, 3, 4 and 8 bits, with all others left in float.

    What is rounded is the weight that ships, with its normalization folded in: powers of two for
    scales fit it differently than the weight before.

    Args:
        model: the trained float network; comes back unchanged.
        images: calibration images ``(n, channels, H, W)``.
        progress: told the fraction done.
        scales: what the weights' scales may be.
    """
    model = fold(model).eval()
    batch = torch.from_numpy(images).to(next(model.parameters()).device)
    reference = model(batch)
    weights = weights_of(model)
    found: dict[str, dict[int, float]] = {}
    for index, (name, weight) in enumerate(weights.items()):
        progress(index / len(weights), f"sensitivity of {name}")
        found[name] = {}
        for bits in WEIGHT_BITS:
            with _replaced(weight, round_weight(weight, bits, scales)):
                found[name][bits] = float(divergence(model(batch), reference))
    return found


@contextmanager
def _replaced(weight: nn.Parameter, other: Tensor) -> Iterator[None]:
    kept = weight.detach().clone()
    weight.data.copy_(other)
    try:
        yield
    finally:
        weight.data.copy_(kept)
