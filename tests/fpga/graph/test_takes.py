"""What the lowering refuses, asked of a float network's graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nnunet_nets import UNet
from torch import nn

from lmaunet.fpga.graph.takes import CHECKS, Refusal, refusals
from lmaunet.graph.capture import capture
from lmaunet.graph.relayouts import OPERATORS
from lmaunet.net.network import LMaUNet
from lmaunet.spec import named_spec


def asked(module: nn.Module, *shape: int) -> list[Refusal]:
    graph, _ = capture(module.eval(), (1, *shape))
    return refusals(graph)


class Between(nn.Module):
    """Something between two convolutions."""

    def __init__(self, what) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 1), nn.LazyConv2d(2, 1)
        self.what = what

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.what(self.first(image)))


def between(what, size=(8, 8)) -> list[Refusal]:
    network = Between(what)
    network(torch.zeros(1, 1, *size))
    return asked(network, 1, *size)


def test_every_operator_of_a_graph_is_asked():
    assert set(CHECKS) == set(OPERATORS.values())


@pytest.mark.parametrize("residual", [False, True])
def test_nnunets_structure_with_batch_norms_is_taken(residual):
    network = UNet((8, 8, 16), ((1, 2), 2), 2, residual=residual)
    assert asked(network, 1, 16, 16) == []


def test_our_own_network_is_taken():
    assert asked(LMaUNet(named_spec("demo")), 1, 32, 32) == []


def test_a_norm_of_the_map_is_refused_with_its_buffer():
    """Norms of 8 and 16 channels, at 64x64 and 32x32, 8 bits an element: 0.625 Mbit."""
    kept = 8 * (2 * 8 * 64 * 64 + 16 * 32 * 32) / 2**20
    assert kept == 0.625
    found = asked(UNet((8, 16), (2,), norm="instance"), 1, 64, 64)
    assert found == [
        Refusal(
            "norm (instance)", 3,
            "every channel's whole map must be there before its first output: "
            f"{kept:g} Mbit at 64x64",
            "qat --norm batch, which folds its statistics into the convolution",
        )
    ]  # fmt: skip
    assert [r.operator for r in asked(UNet(norm="group"), 1, 16, 16)] == ["norm (group)"]


class Gate(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


CASES = {
    "a dilated convolution": (nn.Conv2d(4, 4, 3, padding=2, dilation=2), ["conv (dilated)"]),
    "a grouped convolution": (nn.Conv2d(4, 8, 3, groups=2), ["conv (grouped)"]),
    "a depthwise convolution": (nn.Conv2d(4, 4, 3, groups=4), []),
    "twice as many outputs": (nn.Conv2d(4, 8, 3, groups=4), ["conv (grouped)"]),
    "overlapping blocks": (nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), []),
    "blocks side by side": (nn.ConvTranspose2d(4, 4, 2, 2), []),
    "a shuffle of sums": (lambda x: F.pixel_shuffle(x + x.relu(), 2), ["pixel_shuffle"]),
    "layer norm": (Layer(), ["norm (layer)"]),
    "a second norm": (nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4)), ["norm (batch)"]),
    "gelu, silu": (lambda x: F.silu(F.gelu(x)), []),
    "gelu of a product": (lambda x: F.gelu(x * x.relu()), []),
    "leaky relu of a sum": (lambda x: F.leaky_relu(x + x.relu()), []),
    "leaky relu of a product": (lambda x: F.leaky_relu(x * x.relu()), []),
    "a falling slope": (lambda x: F.leaky_relu(x * x.relu(), -0.1), ["activation (leaky_relu)"]),
    "a gate": (Gate(), ["reduce", "mul (broadcast)"]),
    "max pooling": (nn.MaxPool2d(3, 2, 1), []),
    "bins": (nn.AvgPool2d(2), []),
    "bins that leave pixels out": (nn.AvgPool2d(3), ["pool (average)"]),
    "averages that overlap": (nn.AvgPool2d(3, 1, 1), ["pool (average)"]),
    "nearest": (nn.Upsample(scale_factor=2), []),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), ["upsample (linear)"]),
    "no whole factor": (lambda x: F.interpolate(x, size=(12, 12)), ["upsample (nearest)"]),
    "flipped": (lambda x: x.flip(3), ["flip"]),
    "each second channel": (lambda x: x[:, ::2], ["slice"]),
    "rows as columns": (lambda x: x.transpose(2, 3), ["permute (before conv)"]),
    "there and back": (lambda x: x.transpose(2, 3).relu().transpose(2, 3), []),
    "rows joined": (lambda x: torch.cat([x, x.relu()], 2), ["concat"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_stands_between_two_convolutions(name):
    what, expected = CASES[name]
    found = between(what)
    assert [r.operator for r in found] == expected
    assert all(r.count == 1 and r.why and r.remedy and "{" not in r.why for r in found)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = UNet()

    def forward(self, image):
        logits = self.network(image)
        return [logits, logits.relu()]


def test_other_outputs_and_images_are_refused():
    (found,) = asked(nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), 1, 8, 8)
    assert found.operator == "output" and "it comes from activation" in found.why
    (found,) = asked(Deep(), 1, 16, 16)
    assert (found.operator, found.why) == ("output", "2 outputs")
    (found,) = asked(nn.Conv3d(1, 2, 1), 1, 8, 8, 8)
    assert found.operator == "image" and "3 spatial axes" in found.why
