"""Calibration: set every activation scale from what flows through the network on real images."""

from __future__ import annotations

import numpy as np
import torch
from brevitas.graph.calibrate import calibration_mode
from torch import nn

from lmaunet.errors import UserError

MINIMUM_IMAGES = 4


@torch.no_grad()
def calibrate(model: nn.Module, images: np.ndarray, batch: int = 8) -> None:
    """Set the activation scales of a quantized model from images ``(n, channels, H, W)``.

    Scales start at the 99.999th percentile of the magnitude (Brevitas) and are learned afterwards.

    Raises:
        UserError: too few images, or images that hold one value only.
    """
    if len(images) < MINIMUM_IMAGES:
        raise UserError(
            f"{len(images)} calibration images; give at least {MINIMUM_IMAGES}, from the data that "
            "the network will see"
        )
    if float(images.max()) == float(images.min()):
        raise UserError(
            f"every calibration pixel is {float(images.max()):g}; give images with content"
        )
    model.eval()
    device = next(model.parameters()).device
    with calibration_mode(model):
        for start in range(0, len(images), batch):
            model(torch.from_numpy(images[start : start + batch]).to(device))
    model.eval()


def fix_scales(model: nn.Module) -> None:
    """Make every activation scale a parameter now, instead of a statistic still to be collected.

    A network that is to be loaded needs it: Brevitas keeps the scale out of its state until then.
    """
    for module in model.modules():
        if hasattr(module, "init_scale"):
            module.init_scale()
