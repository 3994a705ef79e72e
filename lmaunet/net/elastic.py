"""One depthwise weight whose centre serves smaller kernels, and norms of each kernel's own.

After Once-for-all (Cai et al., arXiv 1908.09791, section 3): the centre of a larger kernel, taken
as it is, is not the smaller kernel that a layer would have learned. So a smaller one is the centre
of the next larger, flattened, times a matrix that all channels of the layer share::

    w7 = centre7(w9) @ M7,   w5 = centre5(w7) @ M5,   M of (k*k, k*k)

``M = I + delta`` and ``delta`` begins at 0: weight decay pulls towards the plain centre and not
towards no kernel at all. What follows has other statistics at each kernel, so that each has a batch
normalization of its own (Yu et al., Slimmable networks, arXiv 1812.08928). It stands behind the
depthwise convolution alone and folds into it: every other weight is the same in all profiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ElasticDepthwise(nn.Module):
    """A depthwise convolution of stride 1 with one weight for several kernels.

    Args:
        channels: of the map.
        kernels: those that it serves; the largest is the weight's.
    """

    def __init__(self, channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.kernels = tuple(sorted(kernels))
        self.kernel = self.kernels[-1]
        largest = nn.Conv2d(channels, channels, self.kernel, groups=channels, bias=False)
        self.weight = nn.Parameter(largest.weight.detach())
        self.deltas = nn.ParameterDict(
            {str(k): nn.Parameter(torch.zeros(k * k, k * k)) for k in self.kernels[:-1]}
        )

    def weight_of(self, kernel: int) -> Tensor:
        """Return the weight ``(channels, 1, kernel, kernel)`` of one of its kernels."""
        weight = self.weight
        for k in reversed(self.kernels[:-1]):
            if k < kernel:
                break
            cut = (weight.shape[-1] - k) // 2
            centre = weight[:, :, cut : cut + k, cut : cut + k].reshape(len(weight), k * k)
            moved = centre + centre @ self.deltas[str(k)]
            weight = moved.reshape(len(weight), 1, k, k)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to the same shape, with the kernel that is in use."""
        weight = self.weight_of(self.kernel)
        return F.conv2d(x, weight, padding=self.kernel // 2, groups=len(weight))


class ElasticNorm(nn.Module):
    """A batch normalization for each kernel."""

    def __init__(self, channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.kernel = max(kernels)
        self.of = nn.ModuleDict({str(k): nn.BatchNorm2d(channels) for k in sorted(kernels)})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to the same shape, by the norm of the kernel in use."""
        return self.of[str(self.kernel)](x)


def _elastic(model: nn.Module) -> Iterator[ElasticDepthwise | ElasticNorm]:
    for module in model.modules():
        if isinstance(module, (ElasticDepthwise, ElasticNorm)):
            yield module


def use_kernel(model: nn.Module, kernel: int) -> None:
    """Have every LKM of an elastic network compute with one kernel from now on."""
    for module in _elastic(model):
        module.kernel = kernel


@torch.no_grad()
def profile_state(model: nn.Module, kernel: int) -> dict[str, Tensor]:
    """Return the state of the network of a fixed kernel that an elastic one is at this kernel.

    Its names are those of a network without ``elastic``; it computes the same, bit for bit.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, ElasticDepthwise)}
    norms = {n: m for n, m in model.named_modules() if isinstance(m, ElasticNorm)}
    state = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(tuple(f"{n}." for n in (*layers, *norms)))
    }
    for name, layer in layers.items():
        state[f"{name}.weight"] = layer.weight_of(kernel).clone()
    for name, norm in norms.items():
        of_kernel = norm.of[str(kernel)].state_dict()
        state |= {f"{name}.{key}": value for key, value in of_kernel.items()}
    return state
