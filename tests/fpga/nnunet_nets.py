"""Networks of nnU-Net's structure, in plain torch: small, and with any norm."""

from __future__ import annotations

import torch
from torch import nn

NORMS = {
    "batch": nn.BatchNorm2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "group": lambda channels: nn.GroupNorm(2, channels),
}


def block(inputs: int, outputs: int, stride=1, norm: str = "batch") -> nn.Sequential:
    """A 3x3 convolution, a norm, a LeakyReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), NORMS[norm](outputs), nn.LeakyReLU(0.01)
    )


class ResidualBlock(nn.Module):
    """Two of them around which the input goes, averaged and convolved where it changes."""

    def __init__(self, inputs: int, outputs: int, stride=1, norm: str = "batch") -> None:
        super().__init__()
        self.first = block(inputs, outputs, stride, norm)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1), NORMS[norm](outputs))
        skip: list[nn.Module] = []
        if stride != 1:
            skip.append(nn.AvgPool2d(stride, stride))
        if inputs != outputs:
            skip += [nn.Conv2d(inputs, outputs, 1, bias=False), NORMS[norm](outputs)]
        self.skip, self.last = nn.Sequential(*skip), nn.LeakyReLU(0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x)) + self.skip(x))


class UNet(nn.Module):
    """nnU-Net's PlainConvUNet, or its residual encoder, without deep supervision.

    Args:
        widths: channels of each stage.
        strides: of each stage but the first.
        convolutions: of each stage, in the encoder and in the decoder.
        norm: a name of ``NORMS``.
        residual: whether the encoder's are residual blocks.
    """

    def __init__(
        self, widths=(8, 12), strides=(2,), convolutions=1, norm="batch", residual=False, classes=3,
        channels=1,
    ) -> None:  # fmt: skip
        super().__init__()
        kind = ResidualBlock if residual else block
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.up = nn.ModuleList()
        before = channels
        for width, stride in zip(widths, (1, *strides), strict=True):
            rest = [kind(width, width, 1, norm) for _ in range(convolutions - 1)]
            self.encoder.append(nn.Sequential(kind(before, width, stride, norm), *rest))
            before = width
        for width, stride in zip(widths[-2::-1], strides[::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(before, width, stride, stride))
            rest = [block(width, width, 1, norm) for _ in range(convolutions - 1)]
            self.decoder.append(nn.Sequential(block(2 * width, width, 1, norm), *rest))
            before = width
        self.head = nn.Conv2d(before, classes, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips = []
        x = image
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        for up, stage, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = stage(torch.cat([up(x), skip], 1))
        return self.head(x)


def settled(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return a network whose norms have the statistics of images ``(n, C, H, W)``."""
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(images)
    return network.eval()
