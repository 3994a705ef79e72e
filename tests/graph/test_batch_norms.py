"""InstanceNorm and GroupNorm as batch normalization: exact where images share their statistics."""

import numpy as np
import pytest
import torch
from graph_networks import MambaUNet, PlainUNet
from torch import nn

from lmaunet.graph.batch_norms import (
    ChannelStatistics,
    as_batch_norms,
    map_norm,
    norm_counts,
    unfolded_norms,
)
from lmaunet.graph.capture import capture
from lmaunet.graph.module import execute
from lmaunet.graph.operators import Norm
from lmaunet.graph.rewrites import fold_norms

CHANNELS, SIZE = 6, 8


class Normed(nn.Module):
    """A convolution and one norm, by name."""

    def __init__(self, kind, affine):
        super().__init__()
        self.conv = nn.Conv2d(2, CHANNELS, 3, padding=1)
        self.norm = {
            "instance": lambda: nn.InstanceNorm2d(CHANNELS, affine=affine, eps=1e-3),
            "group": lambda: nn.GroupNorm(2, CHANNELS, affine=affine, eps=1e-3),
            "layer": lambda: nn.GroupNorm(1, CHANNELS, affine=affine, eps=1e-3),
        }[kind]()
        if affine:
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)
            nn.init.uniform_(self.norm.bias, -0.5, 0.5)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


def statistics_of(graph, weights, images):
    """The statistics of the only norm's input over some images, by numpy."""
    (node,) = (node for node in graph.nodes if map_norm(node))
    place = graph.nodes.index(node)
    before = {name: weights[name] for n in graph.nodes[:place] for name in n.weights.values()}
    conv = torch.nn.functional.conv2d(
        images, *(torch.from_numpy(before[name]) for name in graph.nodes[0].weights.values()),
        padding=1,
    ).double().numpy()  # fmt: skip
    found = ChannelStatistics(conv.mean((0, 2, 3)), conv.var((0, 2, 3)))
    return {node.name: found}


@pytest.fixture
def image():
    return torch.randn(1, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "bare"])
@pytest.mark.parametrize("kind", ["instance", "group", "layer"])
def test_for_an_image_with_the_statistics_it_computes_the_same(kind, affine, image):
    torch.manual_seed(0)
    graph, weights = capture(Normed(kind, affine).eval(), image.shape)
    found = statistics_of(graph, weights, image)
    turned, arrays = as_batch_norms(graph, weights, found)
    assert norm_counts(turned) == {"batch": 1} and unfolded_norms(turned) == []
    got, wanted = execute(turned, arrays, image), execute(graph, weights, image)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)
    # for another image it does not: its own statistics no longer count
    other = 3 * image.flip(2) + 1
    far = (execute(turned, arrays, other) - execute(graph, weights, other)).abs().max()
    assert far > 0.5


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_it_folds_into_the_convolution(kind, image):
    torch.manual_seed(0)
    graph, weights = capture(Normed(kind, True).eval(), image.shape)
    turned, arrays = as_batch_norms(graph, weights, statistics_of(graph, weights, image))
    folded, numbers = fold_norms(turned, arrays)
    assert not any(isinstance(node.operator, Norm) for node in folded.nodes)
    torch.testing.assert_close(
        execute(folded, numbers, image), execute(graph, weights, image), rtol=0, atol=5e-6
    )


def test_the_statistics_are_those_of_torch_s_batch_norm(image):
    """By hand: two channels of constant statistics, and the scale and the shift of the norm."""
    graph, weights = capture(nn.InstanceNorm2d(2, affine=True).eval(), image.shape)
    (node,) = graph.nodes
    found = ChannelStatistics(np.array([1.0, -2.0]), np.array([4.0, 0.25]))
    turned, arrays = as_batch_norms(graph, weights, {node.name: found})
    names = turned.nodes[0].weights
    assert arrays[names["mean"]].tolist() == [1.0, -2.0]
    assert arrays[names["variance"]].tolist() == [4.0, 0.25]
    assert [turned.weights[names[r]].learned for r in ("scale", "shift", "mean", "variance")] == [
        True, True, False, False,
    ]  # fmt: skip
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    torch.testing.assert_close(execute(turned, arrays, image), norm(image))


def test_a_deviation_in_place_of_a_variance_is_caught(image):
    """The mutant: the square was forgotten."""
    torch.manual_seed(0)
    graph, weights = capture(Normed("instance", True).eval(), image.shape)
    ((name, found),) = statistics_of(graph, weights, image).items()
    wrong = ChannelStatistics(found.mean, np.sqrt(found.variance))
    turned, arrays = as_batch_norms(graph, weights, {name: wrong})
    far = execute(turned, arrays, image) - execute(graph, weights, image)
    assert far.abs().max() > 0.05


def test_a_norm_that_runs_twice_keeps_one_scale_and_has_statistics_of_each_place(image):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.InstanceNorm2d(2, affine=True)

        def forward(self, x):
            return self.norm(torch.relu(self.norm(x)) + 1)

    graph, weights = capture(Twice().eval(), image.shape)
    places = [node.name for node in graph.nodes if map_norm(node)]
    found = {
        name: ChannelStatistics(np.full(2, index), np.full(2, index + 1.0))
        for index, name in enumerate(places)
    }
    turned, arrays = as_batch_norms(graph, weights, found)
    first, second = (node for node in turned.nodes if isinstance(node.operator, Norm))
    assert first.weights["scale"] == second.weights["scale"]
    assert arrays[first.weights["mean"]].tolist() == [0, 0]
    assert arrays[second.weights["variance"]].tolist() == [2, 2]


def test_layer_norms_and_those_that_are_not_named_stay():
    graph, weights = capture(MambaUNet().eval(), (1, 2, 8, 12))
    assert norm_counts(graph) == {"group": 1, "layer": 1}
    assert as_batch_norms(graph, weights, {})[0] == graph
    ones = ChannelStatistics(np.zeros(8), np.ones(8))
    (name,) = (node.name for node in graph.nodes if map_norm(node))
    turned, _ = as_batch_norms(graph, weights, {name: ones})
    assert norm_counts(turned) == {"batch": 1, "layer": 1}


def test_in_three_dimensions_too():
    graph, weights = capture(PlainUNet(3).eval(), (1, 1, 4, 8, 12))
    channels = {n.name: graph.shape(n.inputs[0])[1] for n in graph.nodes if map_norm(n)}
    found = {name: ChannelStatistics(np.zeros(c), np.ones(c)) for name, c in channels.items()}
    turned, _ = as_batch_norms(graph, weights, found)
    assert norm_counts(turned) == {"batch": 5} and unfolded_norms(turned) == []


def test_a_norm_behind_a_sum_is_named_as_one_that_does_not_fold(image):
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            return self.norm(self.conv(x) + x)

    graph, _ = capture(Summed().eval(), image.shape)
    assert unfolded_norms(graph) == ["norm"]
