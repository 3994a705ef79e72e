"""U-Nets in plain torch, as nnU-Net builds them: nothing of the project knows them."""

import torch
from torch import nn

from lmaunet.graph.stand_ins import Mamba


def block(channels, out, stride=1):
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1), nn.InstanceNorm2d(out, affine=True),
        nn.LeakyReLU(0.01, inplace=True),
    )  # fmt: skip


class PlainUNet(nn.Module):
    """Strided convolutions down, transposed convolutions up, skips concatenated."""

    def __init__(self, classes=9):
        super().__init__()
        self.first = nn.Sequential(block(1, 8), block(8, 8))
        self.down, self.deep = block(8, 12, 2), block(12, 16, 2)
        self.bottom = nn.Identity()
        self.up1 = nn.ConvTranspose2d(16, 12, 2, 2)
        self.join1 = block(24, 12)
        self.up2 = nn.ConvTranspose2d(12, 8, 2, 2)
        self.join2 = block(16, 8)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, image):
        first = self.first(image)
        second = self.down(first)
        deep = self.bottom(self.deep(second))
        joined = self.join1(torch.cat([self.up1(deep), second], 1))
        return self.head(self.join2(torch.cat([self.up2(joined), first], 1)))


class TwoWay(nn.Module):
    """LayerNorm over the channels of each pixel, Mamba over the pixels in both orders, a sum."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.forwards = Mamba(d_model=channels, d_state=4, expand=1)
        self.backwards = Mamba(d_model=channels, d_state=4, expand=1)

    def forward(self, x):
        batch, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        both = self.forwards(tokens) + self.backwards(tokens.flip(1)).flip(1)
        return x + both.transpose(1, 2).reshape(batch, channels, height, width)


class MambaUNet(PlainUNet):
    """The same with a two-way Mamba at the bottom."""

    def __init__(self, classes=9):
        super().__init__(classes)
        self.bottom = TwoWay(16)
