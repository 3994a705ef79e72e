"""Gradient-weighted activation: by hand, where the cause is known, and that weights matter."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.net.mamba import Mamba
from lmaunet.quant import heatmaps
from lmaunet.quant.heatmaps import blocks_of, class_activation, randomized, value_of

SIZE = 24
ONE, OTHER = (slice(2, 8), slice(3, 9)), (slice(14, 20), slice(15, 21))


class Decided(nn.Module):
    """Two classes by squares anywhere: a bright one speaks for class 1, a dark one for class 2.

    The logit of every pixel is the mean of a channel over the image, so that the cause lies
    elsewhere than the pixels that are explained. A third channel answers to both and decides
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(1, 3, 1)
        self.decide = nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            self.block.weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1))
            self.block.bias.copy_(torch.tensor([-0.5, -0.5, 3.0]))
            self.decide.weight.copy_(
                torch.tensor([[0.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0]]).view(3, 3, 1, 1)
            )
            self.decide.bias.copy_(torch.tensor([0.01, 0.0, 0.0]))

    def forward(self, image):
        found = torch.relu(self.block(image))
        return self.decide(found.mean((2, 3), keepdim=True)) + 0 * image


@pytest.fixture(scope="module")
def decided():
    graph, weights = capture(Decided(), (1, 1, SIZE, SIZE))
    network = GraphModule(graph, weights).eval()
    (value,) = [node.name for node in graph.nodes if node.name.endswith("relu")]
    image = torch.zeros(1, 1, SIZE, SIZE)
    image[0, 0][ONE], image[0, 0][OTHER] = 2.0, -2.0
    return network, value, image


def share(found, where):
    return float(found[0, 0][where].sum() / found.sum())


def test_the_map_lies_on_what_decides_the_class(decided, mutant_of):
    network, value, image = decided
    for index, where in ((1, ONE), (2, OTHER)):
        found = class_activation(network, image, index, [value], "all")
        assert found.shape == (1, 1, SIZE, SIZE) and share(found, where) > 0.99
    right = "weighted = slope.mean((2, 3), keepdim=True) * kept[value].detach()"
    unweighted = mutant_of(heatmaps, right, "weighted = kept[value].detach()")
    assert share(unweighted.class_activation(network, image, 1, [value], "all"), ONE) < 0.2
    other = mutant_of(heatmaps, "score = logits[:, index]", "score = logits[:, 3 - index]")
    assert share(other.class_activation(network, image, 1, [value], "all"), ONE) < 0.01


def test_a_map_by_hand(decided):
    """dy/dA is 9 / pixels for each pixel of the logits, of which there are as many."""
    network, value, image = decided
    found = class_activation(network, image, 1, [value], "all")
    expected = torch.zeros_like(image)
    expected[0, 0][ONE] = 9.0 * 1.5
    assert torch.allclose(found, expected, rtol=1e-5)


def test_only_pixels_of_the_class_are_explained(decided):
    network, value, image = decided
    bright = image.clamp(min=0)
    assert float(class_activation(network, bright, 1, [value]).max()) == pytest.approx(13.5)
    assert not class_activation(network, bright, 2, [value]).any()
    assert not class_activation(network, torch.zeros_like(image), 1, [value]).any()


def test_images_of_a_batch_do_not_mix(decided, tiny_model, tiny_data):
    network, value, image = decided
    pair = torch.cat([image, image.clamp(min=0)])
    both = class_activation(network, pair, 1, [value], "all")
    alone = [class_activation(network, one[None], 1, [value], "all") for one in pair]
    assert torch.allclose(both, torch.cat(alone))
    images = torch.from_numpy(tiny_data.val.images[:2])
    values = list(blocks_of(tiny_model).values())
    both = class_activation(tiny_model, images, 4, values, "all")
    alone = [class_activation(tiny_model, one[None], 4, values, "all") for one in images]
    assert torch.allclose(both, torch.cat(alone), rtol=1e-3, atol=1e-5)


def test_blocks_of_each_kind_of_network(tiny_model, tiny_quantized):
    names = ["lkm1", "lkm2", "lkm3", "lkm4"]
    assert blocks_of(tiny_model) == dict(zip(names, [f"stages.{i}" for i in range(4)], strict=True))
    assert list(blocks_of(tiny_quantized)) == names
    assert value_of(tiny_model, "lkm3") == "stages.2"
    assert value_of(tiny_quantized, "lkm3") == "stages.2.add"
    assert value_of(tiny_quantized, "stages.1.local") == "stages.1.local"
    with pytest.raises(UserError, match="no block 'lkm9'; the network's are lkm1, lkm2"):
        value_of(tiny_model, "lkm9")
    with pytest.raises(UserError, match="no block or map 'x' in the network; there are lkm1"):
        value_of(tiny_quantized, "x")


def test_a_graph_is_explained_as_the_module_that_it_was_captured_of(tiny_model, tiny_data):
    graph, weights = capture(tiny_model, (1, 1, 32, 32))
    images = torch.from_numpy(tiny_data.val.images[:1])
    network = GraphModule(graph, weights)
    maps = [class_activation(n, images, 4, list(blocks_of(n).values()), "all")
            for n in (tiny_model, network)]  # fmt: skip
    assert torch.allclose(*maps, rtol=1e-3, atol=1e-5) and maps[0].any()
    assert network.watch_value is None


def test_the_blocks_of_another_network_are_its_scans(decided):
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mamba = nn.Conv2d(1, 4, 3, padding=1), Mamba(4, 4, 2)
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.first(x)
            n, c, h, w = (int(s) for s in x.shape)
            found = self.mamba(x.reshape(n, c, h * w).transpose(1, 2)).transpose(1, 2)
            return self.last(x + found.reshape(n, c, h, w))

    torch.manual_seed(0)
    network = GraphModule(*capture(Other(), (1, 1, 8, 8)))
    assert list(blocks_of(network)) == ["add"]
    found = class_activation(network, torch.randn(1, 1, 8, 8), 1, ["add"], "all")
    assert found.shape == (1, 1, 8, 8)
    with pytest.raises(UserError, match="no scan that joins a map; name a value"):
        blocks_of(decided[0])


def test_a_value_that_the_class_does_not_depend_on_is_said(decided):
    class Aside(nn.Module):
        def forward(self, x):
            return torch.cat([x * 2, x * 3], 1)

    network = GraphModule(*capture(Aside(), (1, 1, 8, 8)))
    names = [node.name for node in network.graph.nodes]
    image = torch.ones(1, 1, 8, 8)
    assert class_activation(network, image, 1, names[1:2], "all").shape == (1, 1, 8, 8)
    network.forward = lambda images: images * 0 + torch.ones(1, 2, 8, 8)
    with pytest.raises((UserError, KeyError)):
        class_activation(network, image, 1, names[1:2], "all")


LARGEST_CORRELATION = 0.8
"""Of ranks. The maps of lkm4 have four values for an image here, so that chance alone gives 0.6."""


def ranks(values):
    return values.ravel().argsort().argsort().astype(float)


@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_randomised_weights_change_the_maps(tiny_model, tiny_quantized, tiny_data, kind):
    """Rank correlation over held-out slices: a map of the image alone would stay as it is."""
    network = {"float": tiny_model, "quantized": tiny_quantized}[kind]
    images = torch.from_numpy(tiny_data.val.images[::3])
    values = list(blocks_of(network).values())
    before = class_activation(network, images, 4, values, "all").numpy()
    again = class_activation(network, images, 4, values, "all").numpy()
    assert np.array_equal(before, again)
    shuffled = copy.deepcopy(network)
    randomized(shuffled, 1)
    after = class_activation(shuffled, images, 4, values, "all").numpy()
    # where the ReLU leaves nothing of a map all ranks are ties
    there = [p for p in range(len(values)) if before[:, p].any() and after[:, p].any()]
    assert len(there) >= 2
    for place in there:
        value = values[place]
        pair = [ranks(m[:, place]) for m in (before, after)]
        assert abs(np.corrcoef(*pair)[0, 1]) < LARGEST_CORRELATION, value
        # what no weight has a part in, such as the image, would be the same
        assert np.corrcoef(pair[0], pair[0])[0, 1] > LARGEST_CORRELATION
