"""Fold batch normalizations into the convolutions before them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from lmaunet.net.network import ConvNormReLU, LargeKernelMamba, LMaUNet


@torch.no_grad()
def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a convolution with bias that equals ``norm(conv(x))`` in evaluation mode.

    ``w' = w * g / sqrt(var + eps)``, ``b' = (b - mean) * g / sqrt(var + eps) + shift``, after
    Jacob et al., arXiv 1712.05877, section 3.2.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = conv.bias if conv.bias is not None else torch.zeros_like(norm.running_mean)
    folded = copy.deepcopy(conv)
    folded.weight.copy_(conv.weight * scale[:, None, None, None])
    folded.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias)
    return folded


def fold(model: LMaUNet) -> LMaUNet:
    """Return a copy without batch normalizations that computes the same in evaluation mode."""
    folded = copy.deepcopy(model).eval()
    for module in folded.modules():
        if isinstance(module, ConvNormReLU) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fold_norm(module.conv, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
        elif isinstance(module, LargeKernelMamba) and isinstance(module.norm, nn.BatchNorm2d):
            module.local = fold_norm(module.local, module.norm)
            module.norm = nn.Identity()  # type: ignore[assignment]
    return folded
