"""A transposed convolution as a convolution and a pixel shuffle computes what it did, exactly."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lmaunet.errors import UserError
from lmaunet.graph import transposed
from lmaunet.graph.capture import capture
from lmaunet.graph.integer_form import FORMS
from lmaunet.graph.module import execute
from lmaunet.graph.operators import Norm, TransposedConv
from lmaunet.graph.rewrites import fold_norms, rewritten
from lmaunet.graph.transposed import Phases, norms_before_shuffles, shuffle_transposed
from lmaunet.quant.network import QuantNetwork

LAYERS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def wholes(module, seed=0):
    """Weights are small whole numbers, so that float32's sums are exact."""
    drawn = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data = torch.randint(-4, 5, weight.shape, generator=drawn).float()
    return module.eval()


def images(shape):
    return torch.randint(-5, 6, (2, *shape[1:]), generator=torch.Generator().manual_seed(1)).float()


def rewrite(module, shape):
    """The graph as captured, which has the operator, and after the rewriting, which has not."""
    graph, weights = capture(module, shape)
    assert any(isinstance(node.operator, TransposedConv) for node in graph.nodes)
    graph, weights = shuffle_transposed(graph, weights)
    assert not any(isinstance(node.operator, TransposedConv) for node in graph.nodes)
    return graph, weights


def equal(network, module, shape):
    x = images(shape)
    with torch.no_grad():
        return torch.equal(execute(*network, x), module(x))


@st.composite
def axes(draw):
    """One axis: size, kernel, stride, padding, output padding, dilation; not all can be."""
    stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    kernel = draw(st.integers(1, 5))
    padding = draw(st.integers(0, min(3, dilation * (kernel - 1))))
    extra = draw(st.integers(0, max(stride, dilation) - 1))
    size = draw(st.integers(2, 6))
    assume((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1 > 0)
    return size, kernel, stride, padding, extra, dilation


@settings(deadline=None, max_examples=40)
@given(st.lists(axes(), min_size=1, max_size=3), st.sampled_from([1, 2]), st.booleans())
def test_any_stride_padding_dilation_and_groups(sides, groups, bias):
    size, kernel, stride, padding, extra, dilation = (tuple(v) for v in zip(*sides, strict=True))
    # what is captured as a 1x1 and a shuffle anyway has another test
    assume(kernel != stride or any(padding) or any(extra) or groups > 1 or set(dilation) != {1})
    module = LAYERS[len(sides)](
        2 * groups, 3 * groups, kernel, stride, padding, extra, groups, bias, dilation
    )
    shape = (1, 2 * groups, *size)
    assert equal(rewrite(wholes(module), shape), module, shape)


class Up(nn.Module):
    """As MONAI's U-Net goes up: kernel 3, stride 2, padding 1, one more at the end."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(4, 3, 3, 2, 1, 1)

    def forward(self, image):
        return self.up(torch.relu(self.down(image)))


def test_it_has_one_phase_for_each_place_of_a_stride():
    module = wholes(Up())
    module.up.weight.data.abs_().add_(1)
    graph, weights = rewrite(module, (1, 1, 8, 8))
    assert [node.name for node in graph.nodes] == ["down", "relu", "up", "up.shuffle"]
    taps = weights["up.weight"].reshape(3, 4, 4, 2, 2)
    assert np.count_nonzero(taps, (2, 3, 4)).tolist() == [[4 * 1, 4 * 2, 4 * 2, 4 * 4]] * 3


def test_what_is_too_large_is_cut_off():
    module, shape = wholes(nn.ConvTranspose2d(1, 2, 4, 3, 1)), (1, 1, 5, 6)
    graph, weights = rewrite(module, shape)
    assert [node.operator.name for node in graph.nodes] == [
        "conv", "pixel_shuffle", "slice", "slice"
    ]  # fmt: skip
    assert graph.shape(graph.outputs[0]) == (1, 2, 14, 17) and equal(
        (graph, weights), module, shape
    )


def test_without_a_stride_it_is_a_convolution_alone():
    module, shape = wholes(nn.ConvTranspose2d(2, 3, 3, 1, 1)), (1, 2, 5, 6)
    graph, weights = rewrite(module, shape)
    assert [node.operator.name for node in graph.nodes] == ["conv"]
    assert equal((graph, weights), module, shape)


def test_a_layer_that_runs_for_two_paddings_has_a_kernel_for_each():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(2, 2, 3, 3))

        def forward(self, x):
            x = nn.functional.conv_transpose2d(x, self.weight, stride=2, padding=1)
            return nn.functional.conv_transpose2d(x, self.weight, stride=2)

    module, shape = wholes(Twice()), (1, 2, 3, 4)
    network = rewrite(module, shape)
    assert set(network[0].weights) == {"weight", "weight#2"} and equal(network, module, shape)


@pytest.mark.parametrize("fault", ["phases", "padding", "bias"])
def test_a_fault_is_noticed(monkeypatch, fault):
    of = Phases.of

    def faulty(*sides, **options):
        axis = of(*sides, **options)
        before, after = axis.padding
        if fault == "padding":
            return dataclasses.replace(axis, padding=(before + 1, after - 1))
        return dataclasses.replace(axis, taps=axis.taps[::-1])

    # of odd padding, zeros before and after differ
    module, shape = wholes(nn.ConvTranspose2d(2, 3, 3, 2, 1, 1)), (1, 2, 4, 5)
    assert equal(rewrite(module, shape), module, shape)
    if fault == "bias":
        graph, weights = rewrite(module, shape)
        weights["bias"] = np.tile(module.bias.detach().numpy(), 4)
        assert not equal((graph, weights), module, shape)
        return
    monkeypatch.setattr(transposed.Phases, "of", staticmethod(faulty))
    assert not equal(rewrite(module, shape), module, shape)


def test_a_quantized_network_keeps_the_names_of_its_layers_and_comes_close():
    torch.manual_seed(0)
    module = Up().eval()
    network = QuantNetwork.from_module(module, (1, 1, 8, 8)).train()
    assert set(network.convolutions()) == {"down", "up"} and set(network.bits) == {"down", "up"}
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        for _ in range(40):
            network(x)
        network.eval()
        error = network(x) - module(x)
    assert 0 < float(error.std()) < 0.03 * float(module(x).std())


def test_what_has_no_such_form_is_refused_by_its_name():
    graph, weights = capture(nn.ConvTranspose2d(1, 1, 2, 2, 2), (1, 1, 6, 6))
    with pytest.raises(UserError, match=r"padding \(2, 2\) can't be quantized: .*use less padding"):
        shuffle_transposed(graph, weights)


@pytest.mark.parametrize(("kernel", "extra"), [(2, 0), (3, 1), (3, 0)])
def test_a_norm_behind_it_folds_into_it(kernel, extra):
    """Through the pixel shuffle, and through what is cut off."""
    up = nn.ConvTranspose2d(2, 3, kernel, 2, kernel // 3, extra, bias=False)
    module, shape = nn.Sequential(up, nn.BatchNorm2d(3), nn.ReLU()).eval(), (1, 2, 4, 5)
    module[1].running_mean.copy_(torch.tensor([1.0, -2.0, 3.0]))
    module[1].running_var.copy_(torch.tensor([0.5, 2.0, 4.0]))
    module[1].weight.data.copy_(torch.tensor([1.0, 3.0, -0.5]))
    graph, weights = rewritten(*capture(module, shape), [*FORMS, fold_norms])
    assert not any(isinstance(node.operator, Norm) for node in graph.nodes)
    x = images(shape)
    with torch.no_grad():
        torch.testing.assert_close(execute(graph, weights, x), module(x), rtol=1e-5, atol=1e-5)


def test_a_norm_stays_where_something_else_takes_the_shuffled_map():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.norm = nn.ConvTranspose2d(1, 2, 2, 2), nn.BatchNorm2d(2)

        def forward(self, x):
            x = self.up(x)
            return self.norm(x) + x

    graph, weights = capture(Both().eval(), (1, 1, 2, 2))
    assert norms_before_shuffles(graph, weights)[0] == graph


def test_an_axis_by_hand():
    """Kernel 3, stride 2, padding 1: y[2q] = x[q] w1, y[2q + 1] = x[q] w2 + x[q + 1] w0."""
    axis = Phases.of(4, 8, kernel=3, stride=2, padding=1, dilation=1)
    assert axis == Phases(((1, -1), (2, 0)), (0, 1), 8)
    assert math.prod(len(taps) for taps in axis.taps) == 4
