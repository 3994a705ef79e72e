"""LMa-UNet in torch: a U-Net whose encoder blocks are a large depthwise kernel plus Mamba.

The networks that the article compares it with are the same but for these blocks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.net.elastic import ElasticDepthwise, ElasticNorm
from lmaunet.net.mamba import Mamba
from lmaunet.spec import NetSpec


class ConvNormReLU(nn.Module):
    """A convolution without bias, a batch normalization and a ReLU."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        return F.relu(self.norm(self.conv(x)))


class LargeKernelMamba(nn.Module):
    """LKM: local features by a KxK depthwise convolution, global ones by Mamba over its pixels.

    ``local = norm(depthwise(proj(x)))``; ``out = local + mamba(local)`` over the H*W tokens in
    raster order. :class:`~lmaunet.spec.NetSpec` has variants of the second term. With kernel 1
    there is no large kernel: the local features are those of one dense 1x1 convolution.
    """

    def __init__(self, channels: int, out: int, kernel: int, spec: NetSpec) -> None:
        super().__init__()
        self.proj: nn.Module = nn.Identity()
        if kernel == 1:
            self.local: nn.Module = nn.Conv2d(channels, out, 1, bias=False)
        else:
            self.local = nn.Conv2d(out, out, kernel, padding=kernel // 2, groups=out, bias=False)
            if channels != out:
                self.proj = nn.Conv2d(channels, out, 1)
        self.norm: nn.Module = nn.BatchNorm2d(out)
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
        batch, channels, height, width = sizes(local)
        tokens = local.reshape(batch, channels, height * width).transpose(1, 2)
        found = self.mamba(tokens)
        if self.kind == "both":
            found = (found + self.mamba(tokens.flip(1)).flip(1)) / 2
        return local + found.transpose(1, 2).reshape(sizes(local))


class SeparableConvNormReLU(nn.Module):
    """A depthwise convolution and a 1x1 behind it, both without bias, then norm and ReLU."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(
            channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False
        )
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        return F.relu(self.norm(self.conv(self.local(x))))


class ConvBlock(nn.Module):
    """A U-Net's encoder block, two convolutions with norm and ReLU: dense or separable ones."""

    def __init__(self, channels: int, out: int, kernel: int, block: str) -> None:
        super().__init__()
        layer = SeparableConvNormReLU if block == "separable" else ConvNormReLU
        self.pair = nn.ModuleList([layer(channels, out, kernel), layer(out, out, kernel)])

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        for conv in self.pair:
            x = conv(x)
        return x


def encoder_block(channels: int, out: int, kernel: int, spec: NetSpec) -> nn.Module:
    """Return an encoder block of the spec's kind."""
    if spec.block == "lkm":
        return LargeKernelMamba(channels, out, kernel, spec)
    return ConvBlock(channels, out, kernel, spec.block)


class LocalPyramid(nn.Module):
    """Spatial pyramid pooling with local windows: stride-1 max pools of 3 and 5.

    The pool of 5 is two pools of 3 in a row. No output waits for the whole map.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.out = ConvNormReLU(channels + 3 * (channels // 4), out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``."""
        pool1 = self.reduce(x)
        pool3 = F.max_pool2d(pool1, 3, 1, 1)
        pool5 = F.max_pool2d(pool3, 3, 1, 1)
        return self.out(torch.cat([x, pool1, pool3, pool5], 1))


class BinPyramid(nn.Module):
    """Spatial pyramid pooling as in the article: adaptive average pools into bins, then a 3x3."""

    def __init__(self, channels: int, out: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.bins = bins
        self.bin = nn.ModuleList(nn.Conv2d(channels, channels // 4, 1) for _ in bins)
        self.out = ConvNormReLU(channels + len(bins) * (channels // 4), out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to ``(B, out, H, W)``; the bins divide H and W."""
        height, width = sizes(x)[2:]
        maps = [x]
        for bins, conv in zip(self.bins, self.bin, strict=True):
            # equal to adaptive pooling where the bins divide the map, and it exports as one node
            pooled = F.avg_pool2d(x, (height // bins, width // bins))
            maps.append(F.interpolate(conv(pooled), size=(height, width), mode="nearest"))
        return self.out(torch.cat(maps, 1))


class DecoderLevel(nn.Module):
    """A decoder level: 1x1, nearest upsampling to the skip's size, join, 3x3 convolutions.

    The 1x1 before the upsampling commutes with it and costs a quarter of one after it.
    """

    def __init__(self, channels: int, skip: int, out: int, spec: NetSpec) -> None:
        super().__init__()
        self.join = spec.skip
        self.up = nn.Conv2d(channels, out, 1)
        widen = spec.skip == "add" and skip != out
        self.skip = nn.Conv2d(skip, out, 1) if widen else nn.Identity()
        first = out + skip if spec.skip == "concat" else out
        self.convs = nn.ModuleList(
            ConvNormReLU(first if j == 0 else out, out, 3) for j in range(spec.decoder_convs)
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map ``(B, channels, h, w)`` and a skip ``(B, skip, H, W)`` to ``(B, out, H, W)``."""
        up = upsample(self.up(x), sizes(skip)[2] // sizes(x)[2])
        skip = self.skip(skip)
        x = up + skip if self.join == "add" else torch.cat([up, skip], 1)
        for conv in self.convs:
            x = conv(x)
        return x


def sizes(x: Tensor) -> tuple[int, ...]:
    """Return the shape as plain integers, so that an export traces it as constants."""
    return tuple(int(n) for n in x.shape)


def upsample(x: Tensor, factor: int) -> Tensor:
    """Repeat each pixel ``factor`` times in both directions (nearest neighbour)."""
    return F.interpolate(x, scale_factor=float(factor), mode="nearest") if factor > 1 else x


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
                ConvNormReLU(spec.in_channels, widths[0], 3),
                ConvNormReLU(widths[0], widths[0], 3),
            ]
        )
        self.stages = nn.ModuleList(
            encoder_block(widths[i], widths[i + 1], spec.kernels[i], spec) for i in range(4)
        )
        deep, out = widths[4], spec.pyramid_width
        self.pyramid = (
            LocalPyramid(deep, out)
            if spec.pyramid == "local"
            else BinPyramid(deep, out, spec.pyramid_bins)
        )
        channels = [spec.pyramid_width, *spec.decoder_widths[:0:-1]]
        self.decoder = nn.ModuleList(
            DecoderLevel(channels[j], widths[level], spec.decoder_widths[level], spec)
            for j, level in enumerate((3, 2, 1, 0))
        )
        self.head = nn.Conv2d(spec.decoder_widths[0], spec.classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``(B, in_channels, H, W)`` to logits ``(B, classes, H, W)``."""
        x = image
        for conv in self.shallow:
            x = conv(x)
        skips = [x]
        for stride, stage in zip(self.spec.strides, self.stages, strict=True):
            x = stage(F.max_pool2d(x, stride) if stride > 1 else x)
            skips.append(x)
        x = self.pyramid(skips.pop())
        for level in self.decoder:
            x = level(x, skips.pop())
        return self.head(x)
