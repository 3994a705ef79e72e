"""Quantized networks of an elastic network's kernels, which share every weight but the depthwise.

Each kernel is a quantized network of its own with its own activation scales. What is no depthwise
convolution of an LKM is one module in all of them: one weight, one scale for each channel, and so
the same integers in every file. The depthwise weights come from the shared one by its transforms,
are folded with their kernel's norm, and are trained by themselves from there on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lmaunet.kernel_profiles import profile_spec
from lmaunet.net.elastic import profile_state
from lmaunet.net.network import LMaUNet
from lmaunet.quant.convolution import QuantConv
from lmaunet.quant.network import QuantNetwork
from lmaunet.spec import NetSpec


def extract(model: nn.Module, spec: NetSpec, kernel: int) -> LMaUNet:
    """Return the network of a fixed kernel that an elastic one is at this kernel, bit for bit."""
    fixed = LMaUNet(profile_spec(spec, kernel))
    fixed.load_state_dict(profile_state(model, kernel))
    return fixed.eval()


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two modules have the same state, bit for bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class ElasticQuant(nn.Module):
    """The quantized networks of an elastic network's kernels, one of which computes.

    Args:
        networks: by kernel the quantized network; those layers become one that are equal.
        kernel: which one computes at first.

    Attributes:
        kernel: the one that computes.
        own: the layers that each kernel has for itself.

    Raises:
        ValueError: where another layer than a depthwise one is not the same in all of them.
    """

    def __init__(self, networks: Mapping[int, QuantNetwork], kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        first = networks[kernel]
        self.own = tuple(key for key in first.layers if not _is_shared(networks, key))
        for key in self.own:
            conv = first.layers[key].conv  # type: ignore[union-attr]
            if conv.groups == 1 or conv.groups != conv.in_channels:
                raise ValueError(f"{key} differs between kernels, and is no depthwise convolution")
        for network in networks.values():
            for key in first.layers:
                if key not in self.own:
                    network.layers[key] = first.layers[key]
            network.kept = first.kept
        self.profiles = nn.ModuleDict({str(k): networks[k] for k in sorted(networks)})

    def network(self, kernel: int) -> QuantNetwork:
        """Return the quantized network of a kernel."""
        found = self.profiles[str(kernel)]
        assert isinstance(found, QuantNetwork)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits ``(B, classes, H, W)`` with the kernel in use."""
        return self.network(self.kernel)(image)

    def fold_norms(self) -> None:
        """Fold every batch normalization that was kept."""
        for network in self.profiles.values():
            network.fold_norms()  # type: ignore[operator]


def _is_shared(networks: Mapping[int, QuantNetwork], key: str) -> bool:
    first, *others = (network.layers[key] for network in networks.values())
    assert isinstance(first, QuantConv)
    return all(same_state(first, other) for other in others)
