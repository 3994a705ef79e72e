"""Dropout of whole channels, with masks that a seed repeats whatever interrupted a training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class ChannelDropout(nn.Module):
    """Sets channels of ``(B, C, ...)`` to 0 while training, each image its own.

    What stays is multiplied by ``1 / (1 - rate)``, so that the expectation is the input (Srivastava
    et al., 2014; whole channels after Tompson et al., arXiv 1411.4280). In evaluation mode it is
    the identity.

    Args:
        rate: the probability of a channel to be dropped, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.reseed(0)

    def reseed(self, *parts: int) -> None:
        """Begin the masks anew; the same numbers, such as seed and epoch, give the same masks."""
        self._drawn = np.random.default_rng(list(parts))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, of the same shape."""
        if not self.training or not self.rate:
            return x
        kept = self._drawn.random(tuple(x.shape[:2])) >= self.rate
        mask = torch.from_numpy(kept.astype(np.float32) / (1 - self.rate)).to(x)
        return x * mask.reshape(*kept.shape, *[1] * (x.dim() - 2))
