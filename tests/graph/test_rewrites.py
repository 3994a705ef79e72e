"""A graph that is rewritten computes what it did, in the form that integer kernels take."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from graph_networks import CrossScan, MambaUNet, Pieces, PlainUNet, Rest
from torch import nn

from lmaunet.graph.capture import capture
from lmaunet.graph.layers import layer_name, weight_layers
from lmaunet.graph.module import execute
from lmaunet.graph.operators import Conv, Norm, Scan
from lmaunet.graph.relayouts import Slice
from lmaunet.graph.rewrites import as_maps, fold_norms, norm_of, rewritten, split_by_slices
from lmaunet.net.network import LMaUNet
from lmaunet.spec import NetSpec

BOUND = 1e-5
REWRITES = (fold_norms, split_by_slices, as_maps)

SHAPES = {
    "local": dict(
        widths=(4, 6, 7, 9, 10), strides=(1, 2, 2, 2), kernels=(3, 5, 7, 3), skip="add",
        decoder_widths=(5, 6, 8, 9), pyramid_width=11, decoder_convs=2, input_size=(40, 24),
    ),
    "bins": dict(
        widths=(5, 4, 8, 6, 9), strides=(2, 1, 2, 2), kernels=(5, 3, 3, 5), skip="concat",
        pyramid="bins", pyramid_bins=(1, 2, 3), expand=2, input_size=(48, 96), in_channels=3,
    ),
    "plain": dict(widths=(3, 4, 4, 4, 4), strides=(4, 2, 1, 2), input_size=(32, 16), classes=2),
}  # fmt: skip


def lmaunet(name, **changes):
    spec = NetSpec(name, states=3, **{**SHAPES[name], **changes})
    return LMaUNet(spec), (1, spec.in_channels, *spec.input_size)


class Normed(nn.Module):
    """Batch normalizations in other places than behind a convolution that nothing else takes."""

    def __init__(self):
        super().__init__()
        self.conv, self.deep = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1, groups=2)
        self.first, self.second, self.third, self.fourth = (nn.BatchNorm2d(4) for _ in range(4))
        self.bare = nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        x = self.conv(x)
        x = self.first(x) + x  # what the convolution gives is taken beside the norm
        x = self.second(torch.relu(x))  # no convolution
        x = self.fourth(self.third(self.deep(x)))  # the second norm is not behind one
        return self.bare(self.deep(x))


class Shared(nn.Module):
    """One convolution that runs three times, with one norm behind it twice and another once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.once, self.twice = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x):
        x = self.twice(self.conv(x))
        x = self.once(self.conv(torch.relu(x)))
        return self.twice(self.conv(torch.relu(x)))


NETWORKS = {
    **{name: (lambda name=name: lmaunet(name)) for name in SHAPES},
    "both": lambda: lmaunet("plain", mamba="both"),
    "plain-2d": lambda: (PlainUNet(2), (1, 1, 8, 12)),
    "plain-3d": lambda: (PlainUNet(3), (1, 1, 4, 8, 12)),
    "mamba": lambda: (MambaUNet(), (1, 2, 8, 12)),
    "pieces": lambda: (Pieces(), (1, 4, 4, 4)),
    "cross-scan": lambda: (CrossScan(), (1, 4, 4, 6)),
    "rest": lambda: (Rest(), (1, 4, 4, 2, 4)),
    "normed": lambda: (Normed(), (1, 2, 6, 4)),
    "shared": lambda: (Shared(), (1, 2, 6, 4)),
}


def graph_of(net, shape):
    """Return the graph and the weights of a network whose norms have seen something."""
    generator = torch.Generator().manual_seed(2)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for values, low, high in (
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3),
            ):  # fmt: skip
                if values is not None:
                    values.data.uniform_(low, high, generator=generator)
    return capture(net.eval(), shape)


@pytest.fixture(scope="module")
def captured():
    """A function that gives a network's graph, weights, images and what it makes of them."""
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(5)
            net, shape = NETWORKS[name]()
            graph, weights = graph_of(net, shape)
            image = torch.randn(2, *shape[1:])
            made[name] = graph, weights, image, execute(graph, weights, image)
        return made[name]

    return get


def far(left, right):
    """Return the largest difference of two outputs, of the largest number on the right."""
    if isinstance(right, (list, tuple)):
        return max(far(a, b) for a, b in zip(left, right, strict=True))
    # a value with one spatial axis that is given out is a map then
    return float((left.reshape(right.shape) - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rewrite", [*REWRITES, None])
def test_a_rewritten_graph_computes_the_same(captured, name, rewrite):
    """Each rewrite by itself, and all of them one after the other."""
    graph, weights, image, want = captured(name)
    before = {key: array.copy() for key, array in weights.items()}
    got, arrays = rewritten(graph, weights, REWRITES if rewrite is None else [rewrite])
    assert far(execute(got, arrays, image), want) <= BOUND
    assert all(np.array_equal(weights[key], array) for key, array in before.items())
    assert got.inputs == graph.inputs
    for value, other in zip(got.outputs, graph.outputs, strict=True):
        if rewrite in (fold_norms, split_by_slices):
            assert got.shape(value) == graph.shape(other)
    learned = {key: weight.learned for key, weight in graph.weights.items()}
    assert all(got.weights[key].learned is learned.get(key, True) for key in got.weights)


@pytest.mark.parametrize("name", ["local", "bins", "plain", "both"])
def test_what_a_quantized_network_is_made_of(captured, name):
    """Convolutions on maps without norms behind them, and one for each scale."""
    before, weights, *_ = captured(name)
    graph, arrays = rewritten(before, weights, REWRITES)
    kinds = {node.operator.name for node in graph.nodes}
    assert "norm" not in kinds and "slice" not in kinds and "norm" in {
        node.operator.name for node in before.nodes
    }  # fmt: skip
    assert {len(graph.layout(node.name)) for node in graph.nodes} == {4}
    for node in graph.nodes:
        if isinstance(node.operator, Conv):
            assert len(node.operator.stride) == 2 and arrays[node.weights["weight"]].ndim == 4
        if isinstance(node.operator, Scan):
            assert graph.shape(node.name)[2] == 1
    names = {node.name: node for node in graph.nodes}
    for stage in range(4):
        mamba = f"stages.{stage}.mamba"
        x, z = (names[f"{mamba}.in_proj.{part}"] for part in range(2))
        inner = weights[f"{mamba}.in_proj.weight"].shape[0] // 2
        assert x.weights == {"weight": f"{mamba}.in_proj.weight[0:{inner}]"}
        assert z.weights == {"weight": f"{mamba}.in_proj.weight[{inner}:{2 * inner}]"}
        whole = np.concatenate([arrays[part.weights["weight"]] for part in (x, z)])
        assert np.array_equal(whole[:, :, 0, 0], weights[f"{mamba}.in_proj.weight"][:, :, 0])
        assert [f"{mamba}.x_proj.{part}" in names for part in range(4)] == [True] * 3 + [False]
        assert names[f"{mamba}.conv1d"].inputs == (x.name,)
    # layers are named as before, and have as many weights
    ours, theirs = ({x.name: x.weights for x in weight_layers(g)} for g in (graph, before))
    assert ours == theirs


def test_a_folded_norm_is_in_the_weights(captured):
    """By hand, with a bias that the norm brings."""
    before, weights, *_ = captured("local")
    graph, arrays = fold_norms(before, weights)
    role = {r: weights[f"shallow.0.norm.{r}"] for r in
            ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
    factor = role["weight"] / np.sqrt(role["running_var"] + 1e-5)
    name = "shallow.0.conv"
    want = weights[f"{name}.weight"] * factor[:, None, None, None]
    np.testing.assert_allclose(arrays[f"{name}.weight"], want, rtol=1e-6)
    want = role["bias"] - role["running_mean"] * factor
    np.testing.assert_allclose(arrays[f"{name}.bias"], want, rtol=1e-5, atol=1e-7)
    (node,) = (node for node in graph.nodes if node.name == name)
    assert node.weights == {"weight": f"{name}.weight", "bias": f"{name}.bias"}
    assert len(graph.nodes) == len(before.nodes) - sum(
        isinstance(node.operator, Norm) for node in before.nodes
    )
    assert not [key for key in arrays if ".norm." in key]


def test_a_norm_stays_where_no_convolution_gives_to_it_alone(captured):
    graph, weights, *_ = captured("normed")
    folded, arrays = fold_norms(graph, weights)
    left = [node for node in folded.nodes if isinstance(node.operator, Norm)]
    assert [layer_name(node) for node in left] == ["first", "second", "fourth"]
    convs = [node for node in folded.nodes if isinstance(node.operator, Conv)]
    # of one convolution with two norms behind it there are two now, of one layer
    assert [node.weights["weight"] for node in convs] == [
        "conv.weight", "deep.weight", "deep.weight#2"
    ]  # fmt: skip
    assert [layer_name(node) for node in convs] == ["conv", "deep", "deep"]
    assert not np.allclose(arrays["deep.weight"], arrays["deep.weight#2"])
    assert [norm_of(graph, node) is None for node in graph.nodes if isinstance(
        node.operator, Conv)] == [True, False, False]  # fmt: skip


def test_a_convolution_that_is_an_output_keeps_its_norm_behind_it():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            x = self.conv(x)
            return x, self.norm(x)

    graph, weights = graph_of(Both(), (1, 1, 4, 4))
    folded, arrays = fold_norms(graph, weights)
    image = torch.randn(2, 1, 4, 4)
    assert [node.operator.name for node in folded.nodes] == ["conv", "norm"]
    assert far(execute(folded, arrays, image), execute(graph, weights, image)) <= BOUND


def test_shared_weights_stay_one(captured):
    graph, weights, *_ = captured("shared")
    folded, arrays = fold_norms(graph, weights)
    names = [node.weights["weight"] for node in folded.nodes if "weight" in node.weights]
    assert names == ["conv.weight", "conv.weight#2", "conv.weight"]
    assert sorted(arrays) == ["conv.bias", "conv.bias#2", "conv.weight", "conv.weight#2"]
    again = [split_by_slices, as_maps]
    assert sorted(rewritten(graph, weights, again)[1]) == sorted(weights)


class Taken(nn.Module):
    """A convolution, and a function that takes its result apart."""

    def __init__(self, take, groups=1):
        super().__init__()
        self.conv, self.take = nn.Conv2d(2, 4, 3, padding=1, groups=groups), take

    def forward(self, x):
        return self.take(self.conv(x))


TAKEN = {
    "in two": (lambda y: torch.cat([torch.relu(y[:, :1]), y[:, 1:]], 1), ["0:1", "1:4"]),
    "in another order": (lambda y: torch.cat([y[:, 2:], torch.relu(y[:, :2])], 1), ["0:2", "2:4"]),
    "with a gap": (lambda y: y[:, :1] * y[:, 2:], ["0:1", "2:4"]),
    "one part": (lambda y: torch.relu(y[:, 1:3]), ["1:3"]),
    "overlapping": (lambda y: y[:, :3] * y[:, 1:], []),
    "the same twice": (lambda y: y[:, :2] * y[:, :2].flip(2), None),
    "one part in strides": (lambda y: torch.relu(y[:, ::2]), []),
    "strided": (lambda y: y[:, ::2] * y[:, 1::2], []),
    "whole too": (lambda y: torch.cat([y[:, :2], torch.relu(y)], 1), []),
    "another axis": (lambda y: y[:, :, :2] * y[:, :, 2:], []),
    "and given out": (lambda y: (y, y[:, :2], y[:, 2:]), []),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_convolution_is_split_where_all_that_takes_it_takes_parts(case):
    take, parts = TAKEN[case]
    graph, weights = graph_of(Taken(take), (1, 2, 4, 4))
    split, arrays = split_by_slices(graph, weights)
    image = torch.randn(2, 2, 4, 4)
    assert far(execute(split, arrays, image), execute(graph, weights, image)) <= BOUND
    convs = [node for node in split.nodes if isinstance(node.operator, Conv)]
    slices = [node for node in split.nodes if isinstance(node.operator, Slice)]
    if parts is None:  # one slice that two take, or two slices of the same channels
        assert len(convs) == 1
    elif parts:
        assert [node.name for node in convs] == [f"conv.{i}" for i in range(len(parts))]
        assert [node.weights for node in convs] == [
            {"weight": f"conv.weight[{part}]", "bias": f"conv.bias[{part}]"} for part in parts
        ]
        assert not slices and {layer_name(node) for node in convs} == {"conv"}
    else:
        assert [node.name for node in convs] == ["conv"] and split == graph and slices


def test_a_convolution_in_groups_stays_whole():
    """A part of its channels takes a part of the input."""
    graph, weights = graph_of(Taken(TAKEN["in two"][0], groups=2), (1, 2, 4, 4))
    assert split_by_slices(graph, weights)[0] == graph


def test_a_split_that_would_take_a_name_is_left_out():
    graph, weights = graph_of(Taken(TAKEN["in two"][0]), (1, 2, 4, 4))
    last = replace(graph.nodes[-1], name="conv.1")
    taken = replace(graph, nodes=(*graph.nodes[:-1], last), outputs=("conv.1",))
    assert split_by_slices(taken, weights)[0] == taken
