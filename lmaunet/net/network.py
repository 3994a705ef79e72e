"""LMa-UNet in torch: a U-Net whose encoder blocks are a large depthwise kernel plus Mamba.

The networks that the article compares it with are the same but for these blocks.

Shapes are said for slices, ``(B, C, H, W)``. A network of volumes takes ``(B, C, D, H, W)`` and has
operators of three spatial axes in the same places; its tokens are voxels, the width fastest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.net.elastic import ElasticDepthwise, ElasticNorm
from lmaunet.net.mamba import Mamba
from lmaunet.spec import NetSpec, Sides

CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOLS, AVERAGE_POOLS = {2: F.max_pool2d, 3: F.max_pool3d}, {2: F.avg_pool2d, 3: F.avg_pool3d}
"""By the number of spatial axes."""


def same(kernel: Sides) -> Sides:
    """Return the border with which a convolution of a kernel keeps an image's size."""
    return tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2


class ConvNormReLU(nn.Module):
    """A convolution without bias, a batch normalization and a ReLU."""

    def __init__(self, channels: int, out: int, kernel: Sides, dims: int = 2) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[dims](channels, out, kernel, padding=same(kernel), bias=False)
        self.norm = NORMS[dims](out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        return F.relu(self.norm(self.conv(x)))


class LargeKernelMamba(nn.Module):
    """LKM: local features by a KxK depthwise convolution, global ones by Mamba over its pixels.

    Of volumes the convolution is KxKxK and the tokens are voxels.

    ``local = norm(depthwise(proj(x)))``; ``out = local + mamba(local)`` over the H*W tokens in
    raster order. :class:`~lmaunet.spec.NetSpec` has variants of the second term. With kernel 1
    there is no large kernel: the local features are those of one dense 1x1 convolution.
    """

    def __init__(self, channels: int, out: int, kernel: Sides, spec: NetSpec) -> None:
        super().__init__()
        conv, size = CONVOLUTIONS[spec.dims], spec.sides(kernel)
        self.proj: nn.Module = nn.Identity()
        if max(size) == 1:
            self.local: nn.Module = conv(channels, out, 1, bias=False)
        else:
            if channels != out:
                self.proj = conv(channels, out, 1)
            self.local = conv(out, out, size, padding=same(size), groups=out, bias=False)
        self.norm: nn.Module = NORMS[spec.dims](out)
        if spec.elastic:
            self.local = ElasticDepthwise(out, spec.elastic)
            self.norm = ElasticNorm(out, spec.elastic)
        self.kind = spec.mamba
        if spec.mamba != "none":
            self.mamba = Mamba(out, spec.inner(out), spec.states)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        local = self.norm(self.local(self.proj(x)))
        if self.kind == "none":
            return local
        batch, channels, *sides = sizes(local)
        tokens = local.reshape(batch, channels, math.prod(sides)).transpose(1, 2)
        found = self.mamba(tokens)
        if self.kind == "both":
            found = (found + self.mamba(tokens.flip(1)).flip(1)) / 2
        return local + found.transpose(1, 2).reshape(sizes(local))


class SeparableConvNormReLU(nn.Module):
    """A depthwise convolution and a 1x1 behind it, both without bias, then norm and ReLU."""

    def __init__(self, channels: int, out: int, kernel: Sides, dims: int = 2) -> None:
        super().__init__()
        conv = CONVOLUTIONS[dims]
        self.local = conv(
            channels, channels, kernel, padding=same(kernel), groups=channels, bias=False
        )
        self.conv = conv(channels, out, 1, bias=False)
        self.norm = NORMS[dims](out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        return F.relu(self.norm(self.conv(self.local(x))))


class ConvBlock(nn.Module):
    """A U-Net's encoder block, two convolutions with norm and ReLU: dense or separable ones."""

    def __init__(self, channels: int, out: int, kernel: Sides, spec: NetSpec) -> None:
        super().__init__()
        layer = SeparableConvNormReLU if spec.block == "separable" else ConvNormReLU
        self.pair = nn.ModuleList(
            [layer(channels, out, kernel, spec.dims), layer(out, out, kernel, spec.dims)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        for conv in self.pair:
            x = conv(x)
        return x


def encoder_block(channels: int, out: int, kernel: Sides, spec: NetSpec) -> nn.Module:
    """Return an encoder block of the spec's kind."""
    if spec.block == "lkm":
        return LargeKernelMamba(channels, out, kernel, spec)
    return ConvBlock(channels, out, kernel, spec)


class LocalPyramid(nn.Module):
    """Spatial pyramid pooling with local windows: stride-1 max pools of 3 and 5.

    The pool of 5 is two pools of 3 in a row. No output waits for the whole map.
    """

    def __init__(self, channels: int, out: int, dims: int = 2) -> None:
        super().__init__()
        self.dims = dims
        self.reduce = CONVOLUTIONS[dims](channels, channels // 4, 1)
        self.out = ConvNormReLU(channels + 3 * (channels // 4), out, 1, dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        max_pool = MAX_POOLS[self.dims]
        pool1 = self.reduce(x)
        pool3 = max_pool(pool1, 3, 1, 1)
        pool5 = max_pool(pool3, 3, 1, 1)
        return self.out(torch.cat([x, pool1, pool3, pool5], 1))


class BinPyramid(nn.Module):
    """Spatial pyramid pooling as in the article: adaptive average pools into bins, then a 3x3."""

    def __init__(self, channels: int, out: int, bins: tuple[int, ...], dims: int = 2) -> None:
        super().__init__()
        self.bins, self.dims = bins, dims
        self.bin = nn.ModuleList(CONVOLUTIONS[dims](channels, channels // 4, 1) for _ in bins)
        self.out = ConvNormReLU(channels + len(bins) * (channels // 4), out, 3, dims)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``; the bins divide H and W."""
        sides = sizes(x)[2:]
        maps = [x]
        for bins, conv in zip(self.bins, self.bin, strict=True):
            # equal to adaptive pooling where the bins divide the map, and it exports as one node
            pooled = AVERAGE_POOLS[self.dims](x, tuple(side // bins for side in sides))
            maps.append(F.interpolate(conv(pooled), size=sides, mode="nearest"))
        return self.out(torch.cat(maps, 1))


class DecoderLevel(nn.Module):
    """A decoder level: 1x1, nearest upsampling to the skip's size, join, 3x3 convolutions.

    The 1x1 before the upsampling commutes with it and costs a quarter of one after it.
    """

    def __init__(self, channels: int, skip: int, out: int, spec: NetSpec) -> None:
        super().__init__()
        self.join = spec.skip
        self.up = CONVOLUTIONS[spec.dims](channels, out, 1)
        widen = spec.skip == "add" and skip != out
        self.skip = CONVOLUTIONS[spec.dims](skip, out, 1) if widen else nn.Identity()
        first = out + skip if spec.skip == "concat" else out
        self.convs = nn.ModuleList(
            ConvNormReLU(first if j == 0 else out, out, 3, spec.dims)
            for j in range(spec.decoder_convs)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map ``(B, channels, h, w)`` and a skip ``(B, skip, H, W)`` to ``(B, out, H, W)``."""
        factors = [a // b for a, b in zip(sizes(skip)[2:], sizes(x)[2:], strict=True)]
        up = upsample(self.up(x), factors)
        skip = self.skip(skip)
        x = up + skip if self.join == "add" else torch.cat([up, skip], 1)
        for conv in self.convs:
            x = conv(x)
        return x


def sizes(x: Tensor) -> tuple[int, ...]:
    """Return the shape as plain integers, so that an export traces it as constants."""
    return tuple(int(n) for n in x.shape)


def upsample(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Repeat each pixel by a factor for each axis (nearest neighbour)."""
    if max(factors) == 1:
        return x
    # a tuple of equal factors exports as one does
    return F.interpolate(x, scale_factor=tuple(map(float, factors)), mode="nearest")


class LMaUNet(nn.Module):
    """The network of a :class:`~lmaunet.spec.NetSpec`.

    Takes images ``(B, in_channels, H, W)`` and returns logits ``(B, classes, H, W)``.
    """

    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        assert spec.decoder_widths is not None and spec.pyramid_width is not None
        self.spec = spec
        widths = spec.widths
        self.shallow = nn.ModuleList(
            [
                ConvNormReLU(spec.in_channels, widths[0], 3, spec.dims),
                ConvNormReLU(widths[0], widths[0], 3, spec.dims),
            ]
        )
        self.stages = nn.ModuleList(
            encoder_block(widths[i], widths[i + 1], spec.kernels[i], spec) for i in range(4)
        )
        deep, out = widths[4], spec.pyramid_width
        self.pyramid = (
            LocalPyramid(deep, out, spec.dims)
            if spec.pyramid == "local"
            else BinPyramid(deep, out, spec.pyramid_bins, spec.dims)
        )
        channels = [spec.pyramid_width, *spec.decoder_widths[:0:-1]]
        self.decoder = nn.ModuleList(
            DecoderLevel(channels[j], widths[level], spec.decoder_widths[level], spec)
            for j, level in enumerate((3, 2, 1, 0))
        )
        self.head = CONVOLUTIONS[spec.dims](spec.decoder_widths[0], spec.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, in_channels, H, W)`` to logits ``(B, classes, H, W)``."""
        x = image
        for conv in self.shallow:
            x = conv(x)
        skips = [x]
        for stride, stage in zip(self.spec.strides, self.stages, strict=True):
            step = self.spec.sides(stride)
            x = stage(MAX_POOLS[self.spec.dims](x, step) if max(step) > 1 else x)
            skips.append(x)
        x = self.pyramid(skips.pop())
        for level in self.decoder:
            x = level(x, skips.pop())
        return self.head(x)
