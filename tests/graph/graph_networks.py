"""Networks as others write them, in plain torch, for the tests of the capture."""

import torch
import torch.nn.functional as F
from torch import nn

from lmaunet.graph.stand_ins import selective_scan_fn
from lmaunet.net.mamba import Mamba

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def block(rank, channels, out, stride=1):
    conv = CONV[rank](channels, out, 3, stride, 1)
    return nn.Sequential(conv, NORM[rank](out, affine=True), nn.LeakyReLU(0.1, inplace=True))


class PlainUNet(nn.Module):
    """Two levels: strided convolutions down, transposed convolutions up, skips concatenated."""

    def __init__(self, rank):
        super().__init__()
        self.first, self.down = block(rank, 1, 4), block(rank, 4, 6, 2)
        self.deep = block(rank, 6, 8, (1, 2, 2)[-rank:])
        self.widen = TRANSPOSED[rank](8, 6, (1, 2, 2)[-rank:], (1, 2, 2)[-rank:])
        self.up = TRANSPOSED[rank](6, 4, 2, 2)
        self.join, self.last = block(rank, 12, 6), block(rank, 8, 4)
        self.heads = nn.ModuleList([CONV[rank](4, 3, 1), CONV[rank](6, 3, 1)])

    def forward(self, image):
        first = self.first(image)
        second = self.down(first)
        joined = self.join(torch.cat([self.widen(self.deep(second)), second], 1))
        last = self.last(torch.cat([self.up(joined), first], 1))
        return [self.heads[0](last), self.heads[1](joined)]


class TwoWayMamba(nn.Module):
    """Tokens normalized, one Mamba over them in order, another from the last to the first."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.forwards, self.backwards = (Mamba(channels, channels, 3) for _ in range(2))
        self.scale = nn.Parameter(torch.linspace(0.5, 1, channels))

    def forward(self, x):
        batch, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        back = self.backwards(tokens.flip(1)).flip(1)
        mixed = (self.forwards(tokens) + back) * self.scale
        return x + mixed.transpose(1, 2).reshape(batch, channels, height, width)


class MambaUNet(nn.Module):
    """A two-way Mamba at the bottom, bilinear upsampling, a gate."""

    def __init__(self):
        super().__init__()
        self.first, self.deep = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.mamba = nn.GroupNorm(2, 8), TwoWayMamba(8)
        self.gate, self.head = nn.Linear(8, 8), nn.Conv2d(8, 3, 1)

    def forward(self, image):
        first = F.gelu(self.norm(self.first(image)))
        deep = self.mamba(self.deep(F.avg_pool2d(first, 2)))
        gate = torch.sigmoid(self.gate(F.adaptive_avg_pool2d(deep, 1).flatten(1)))
        up = F.interpolate(deep * gate[:, :, None, None], scale_factor=2.0, mode="bilinear")
        return self.head(first - 0.5 * up)


class Pieces(nn.Module):
    """What the others do not use, one after the other."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 4, 3, 2, 1, 1)
        self.einsum = nn.Parameter(torch.randn(2, 3, 2))
        self.directions = nn.Parameter(torch.randn(5, 8))
        self.wide = nn.Conv2d(3, 8, 3, padding="same", dilation=2)
        self.shift = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, image):
        a, b = self.up(image).chunk(2, 1)  # (N, 2, 8, 8) each
        c = torch.stack([a, 2 - b], 1)  # (N, 2, 2, 8, 8)
        c = torch.einsum("n k d h w, k c d -> n c k h w", c, self.einsum)
        windows = c.reshape(c.shape[0], 3, 2, 2, 4, 2, 4).permute(0, 3, 5, 1, 2, 4, 6)
        windows = windows.reshape(-1, 3, 2, 16) / 3
        most, _ = windows.max(2)  # (4 N, 3, 16)
        windows = F.softplus(windows).amax(2, keepdim=True).squeeze(2) + most
        windows = windows[..., ::2] + windows[:, :, 8:].mean(2, keepdim=True).expand(-1, -1, 8)
        tokens = windows.reshape(image.shape[0], 4, 3, 8).transpose(1, 2).reshape(-1, 3, 4, 8)
        wide = self.wide(tokens) + self.shift
        small = F.pixel_shuffle(wide, 2)  # (N, 2, 8, 16)
        mapped = torch.einsum("ncl,dc->nld", wide.flatten(2), self.directions)
        extra = mapped.transpose(1, 2).unflatten(2, (4, 8))
        extra = F.interpolate(extra, (8, 16), mode="nearest")
        return torch.cat([F.silu(small), extra[:, 0].unsqueeze(1)], 1)


class CrossScan(nn.Module):
    """A scan along rows, along columns, and along both from their ends, with weights of its own."""

    def __init__(self, channels=4, states=3, rank=2):
        super().__init__()
        self.sizes = [rank, states, states]
        self.project = nn.Parameter(torch.randn(4, sum(self.sizes), channels))
        self.steps = nn.Parameter(torch.randn(4, channels, rank))
        self.steps_bias = nn.Parameter(torch.randn(4 * channels))
        self.A_logs = nn.Parameter(torch.rand(4 * channels, states))
        self.skips = nn.Parameter(torch.rand(4 * channels))
        self.norm, self.out = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x):
        batch, channels, height, width = x.shape
        length = height * width
        rows, columns = x.flatten(2), x.transpose(2, 3).contiguous().flatten(2)
        ways = torch.stack([rows, columns], 1)
        ways = torch.cat([ways, ways.flip(-1)], 1)  # (N, 4, C, L)
        mapped = torch.einsum("b k d l, k c d -> b k c l", ways, self.project)
        dt, B, C = mapped.split(self.sizes, 2)
        dt = torch.einsum("b k r l, k d r -> b k d l", dt, self.steps).reshape(batch, -1, length)
        y = selective_scan_fn(
            ways.reshape(batch, -1, length), dt, -torch.exp(self.A_logs.float()), B, C,
            self.skips, delta_bias=self.steps_bias, delta_softplus=True,
        ).view(batch, 4, channels, length)  # fmt: skip
        y = y[:, :2] + y[:, 2:].flip(-1)
        turned = y[:, 1].view(batch, channels, width, height).transpose(2, 3).flatten(2)
        tokens = self.norm((y[:, 0] + turned).transpose(1, 2).view(batch, height, width, channels))
        return self.out(tokens).permute(0, 3, 1, 2)


class Rest(nn.Module):
    """The rules that the others leave out, in 3-D."""

    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm3d(4, affine=True, track_running_stats=True)
        self.drop, self.up = nn.Dropout3d(0.5), nn.ConvTranspose3d(4, 4, 2, 2, bias=False)
        self.matrix, self.scale = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.ones(5) + 1)
        self.shift = nn.Parameter(torch.randn(1))
        self.register_buffer("mean", torch.linspace(0, 1, 4).reshape(4, 1, 1, 1))

    def forward(self, image):
        x = self.norm(F.pad((image - self.mean) / 2, (0, 0)))
        x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=True)
        x = self.drop(F.avg_pool3d(x, 3, 2, 1, count_include_pad=False))
        first, rest = x.split([1, 3], 1)
        third, last = torch.unbind(x, 1)[2], rest.narrow(1, 2, 1)
        x = self.up(x * first + third.unsqueeze(1) - last.expand_as(x))
        tokens = x.flatten(2).movedim(1, 2)
        mapped = 1.5 - (-(tokens @ self.matrix) / self.scale - self.shift)
        longer = F.interpolate(mapped.swapaxes(1, 2), scale_factor=2.0, mode="linear")
        return F.gelu(longer, approximate="tanh")[:, 1:, ::3] + longer.select(1, 0)[:, None, ::3]
