"""A network made to lean on its scans: without them it knows nothing of its image but fine texture.

In a network as it is trained, the local features and the skip D * x go around the scan, and what
the scan computes hardly moves the Dice. Here D is zero and the local features are not added after
Mamba, so that all that the encoder's stages put out has passed through a scan.
"""

from __future__ import annotations

import types

import numpy as np
import torch
import torch.nn.functional as F

from lmaunet.data.dataset import SliceSet
from lmaunet.graph.operators import Scan
from lmaunet.net.network import LMaUNet, sizes
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork, module_key
from lmaunet.train.loop import Progress, Schedule, fit
from lmaunet.train.processes import join_processes

LIMIT = 4.0
QAT_EPOCHS, QAT_RATE = 2, 3e-4


def _stage(self, x):
    local = self.norm(self.local(self.proj(x)))
    batch, channels, height, width = sizes(local)
    tokens = local.reshape(batch, channels, height * width).transpose(1, 2)
    found = _limited(self.mamba(tokens))
    return found.transpose(1, 2).reshape(sizes(local))


def _limited(x: torch.Tensor) -> torch.Tensor:
    """Clip to plus and minus LIMIT, in functions that a graph has."""
    return LIMIT - F.relu(2 * LIMIT - F.relu(x + LIMIT))


def train_leaning(
    model: LMaUNet, data: SliceSet, classes: int, epochs: int, seed: int, progress: Progress
) -> LMaUNet:
    """Turn a trained float network into one that leans on its scans, and train it further.

    It comes back on the device that networks are trained on.
    """
    with torch.no_grad():
        for stage in model.stages:
            stage.forward = types.MethodType(_stage, stage)
            stage.mamba.D.zero_().requires_grad_(False)
            # what was added to the scan's output is missing now
            stage.mamba.out_proj.weight.mul_(2)
    fit(
        model, data, Schedule(epochs, 2e-3), classes=classes, seed=seed, folder=None,
        processes=join_processes(), progress=progress, name="leaning network",
    )  # fmt: skip
    return model.eval()


def quantize_leaning(model: LMaUNet, images: np.ndarray) -> QuantNetwork:
    """Return the leaning network in INT8, calibrated on images, on the model's device."""
    device = next(model.parameters()).device
    # it is captured on the CPU
    quantized = QuantNetwork.from_module(model.cpu(), images.shape).to(device)
    for node in quantized.graph.nodes:
        if isinstance(node.operator, Scan):
            quantized.kept[module_key(node.weights["skip"])].requires_grad_(False)
    model.to(device)
    calibrate(quantized, images)
    return quantized.eval()


def train_quantized(
    quantized: QuantNetwork, data: SliceSet, classes: int, seed: int, progress: Progress
) -> QuantNetwork:
    """Train the leaning network in INT8 and fold its norms; calibrated only it loses much Dice.

    With nothing around four scans in a row, the rounding of the first grows through the others.
    """
    fit(
        quantized.train(), data, Schedule(QAT_EPOCHS, QAT_RATE), classes=classes, seed=seed,
        folder=None, processes=join_processes(), progress=progress, name="leaning network, QAT",
    )  # fmt: skip
    quantized.fold_norms()
    return quantized.eval()
