"""Small float networks of the kinds that people train in nnU-Net, in torch.

    plain       nnU-Net's PlainConvUNet, narrow
    residual    nnU-Net's ResidualEncoderUNet, narrow
    mamba       a U-Net of LKM-UNet's kind: two-way selective scans in windows, over the whole map
                and over its mean of windows, LayerNorm before each, large-kernel convolutions

The first two are built by dynamic-network-architectures with the arguments that nnU-Net's plans
have (InstanceNorm with affine and bias, LeakyReLU of 0.01, transposed convolutions whose kernel is
their stride, concatenated skips). The third is written here, after the description of its blocks
in Wang et al., "LKM-UNet: Large Kernel Vision Mamba UNet for Medical Image Segmentation"
(arXiv 2403.07332); its Mamba is the project's own, with the parameters of mamba_ssm's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmaunet.graph.stand_ins import Mamba

SLOPE = 0.01
"""Of nnU-Net's LeakyReLU."""
WIDTHS = (16, 32, 64, 96, 128)
MAMBA_WIDTHS = (16, 32, 64, 96)
STATES = 8


def build(name: str, channels: int = 1, classes: int = 4) -> nn.Module:
    """Return a network of :data:`NETWORKS` with random weights, as nnU-Net starts it.

    It maps images ``(N, channels, H, W)``, H and W divisible by 16, to logits
    ``(N, classes, H, W)``.
    """
    return NETWORKS[name](channels, classes)


def _plans(channels: int, classes: int, widths: tuple[int, ...]) -> dict[str, Any]:
    """Return what a plan of nnU-Net says of both of its networks."""
    stages = len(widths)
    return {
        "input_channels": channels, "num_classes": classes, "n_stages": stages,
        "features_per_stage": widths, "conv_op": nn.Conv2d, "kernel_sizes": [[3, 3]] * stages,
        "strides": [[1, 1], *[[2, 2]] * (stages - 1)], "conv_bias": True,
        "norm_op": nn.InstanceNorm2d, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU, "nonlin_kwargs": {"negative_slope": SLOPE, "inplace": True},
        "deep_supervision": False,
    }  # fmt: skip


def plain(channels: int, classes: int, widths: tuple[int, ...] = WIDTHS) -> nn.Module:
    """Return nnU-Net's PlainConvUNet with two convolutions a stage."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    stages = len(widths)
    network = PlainConvUNet(
        n_conv_per_stage=[2] * stages, n_conv_per_stage_decoder=[2] * (stages - 1),
        **_plans(channels, classes, widths),
    )  # fmt: skip
    network.apply(network.initialize)
    return network


def residual(channels: int, classes: int, widths: tuple[int, ...] = WIDTHS) -> nn.Module:
    """Return nnU-Net's ResidualEncoderUNet: a block, then two a stage; its decoder has one."""
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet

    stages = len(widths)
    network = ResidualEncoderUNet(
        n_blocks_per_stage=[1, *[2] * (stages - 1)], n_conv_per_stage_decoder=[1] * (stages - 1),
        **_plans(channels, classes, widths),
    )  # fmt: skip
    network.apply(network.initialize)
    return network


class ConvNormLeaky(nn.Sequential):
    """Convolution, InstanceNorm and LeakyReLU, in nnU-Net's order."""

    def __init__(self, channels: int, out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels, out, kernel, stride, kernel // 2),
            nn.InstanceNorm2d(out, affine=True),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class LargeKernel(nn.Module):
    """A depthwise and a 1x1 convolution with a norm and LeakyReLU, added to what comes in."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, kernel, 1, kernel // 2, groups=channels)
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        self.act = nn.LeakyReLU(SLOPE, inplace=True)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        return x + self.mix(self.act(self.norm(self.spatial(x))))


class TwoWayMamba(nn.Module):
    """LayerNorm over each token, then Mamba over the tokens in both orders; the sum is given."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.onward = Mamba(d_model=channels, d_state=states, expand=1)
        self.backward_ = Mamba(d_model=channels, d_state=states, expand=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``(B, L, C)`` to the same shape."""
        normed = self.norm(tokens)
        return self.onward(normed) + self.backward_(normed.flip(1)).flip(1)


class MapScan(nn.Module):
    """A two-way scan over the pixels of the whole map, added to what comes in."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        self.scan = TwoWayMamba(channels, states)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        scanned = self.scan(x.flatten(2).transpose(1, 2))
        return x + scanned.transpose(1, 2).reshape(x.shape)


class WindowScan(nn.Module):
    """A two-way scan within each of ``windows`` x ``windows`` parts of the map, added to it.

    After it the means of the parts of ``pool`` x ``pool`` pixels are scanned as one map and added
    to each of their pixels, so that distant parts hear of each other.
    """

    def __init__(self, channels: int, states: int, windows: int, pool: int) -> None:
        super().__init__()
        self.windows, self.pool = windows, pool
        self.scan = TwoWayMamba(channels, states)
        self.mean = nn.AvgPool2d(pool)
        self.scan_of_means = TwoWayMamba(channels, states)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)``, H and W divisible by windows and by pool, to the same shape."""
        n, c, height, width = x.shape
        k, h, w = self.windows, height // self.windows, width // self.windows
        tokens = x.reshape(n, c, k, h, k, w).permute(0, 2, 4, 3, 5, 1).reshape(n * k * k, h * w, c)
        scanned = self.scan(tokens).reshape(n, k, k, h, w, c).permute(0, 5, 1, 3, 2, 4)
        x = x + scanned.reshape(n, c, height, width)
        means = self.mean(x)
        scanned = self.scan_of_means(means.flatten(2).transpose(1, 2))
        scanned = scanned.transpose(1, 2).reshape(means.shape)
        return x + nn.functional.interpolate(scanned, scale_factor=float(self.pool))


class MambaUNet(nn.Module):
    """A U-Net whose encoder scans: in windows at its second resolution, whole maps below.

    Args:
        channels, classes: of images and logits.
        widths: of the stages, the first at full resolution; each further one halves it.
        states: of each scan's channels.
        windows: along each axis of the second stage's map.
    """

    def __init__(
        self, channels: int, classes: int, widths: tuple[int, ...] = MAMBA_WIDTHS,
        states: int = STATES, windows: int = 4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.stem = nn.Sequential(ConvNormLeaky(channels, widths[0]), LargeKernel(widths[0], 5))
        stages: list[nn.Module] = []
        for place, (width, out) in enumerate(itertools.pairwise(widths)):
            scan = MapScan(out, states) if place else WindowScan(out, states, windows, 4)
            stages.append(nn.Sequential(ConvNormLeaky(width, out, 3, 2), LargeKernel(out, 7), scan))
        self.stages = nn.ModuleList(stages)
        pairs = list(itertools.pairwise(widths))[::-1]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(deep, width, 2, 2) for width, deep in pairs)
        self.joins = nn.ModuleList(ConvNormLeaky(2 * width, width) for width, _ in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(N, channels, H, W)`` to logits ``(N, classes, H, W)``."""
        x = self.stem(image)
        skips = []
        for stage in self.stages:
            skips.append(x)
            x = stage(x)
        for up, join, skip in zip(self.ups, self.joins, reversed(skips), strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.head(x)


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "plain": plain,
    "residual": residual,
    "mamba": MambaUNet,
}
