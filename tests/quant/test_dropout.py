"""Dropout before the head: where it acts, that a seed repeats it, and what is fitted after it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lmaunet.data.calibration_scores import of_interest, temperature_loss
from lmaunet.data.confidence import TEMPERATURES, Dropout, draw_masks
from lmaunet.errors import UserError
from lmaunet.graph.head import head_of
from lmaunet.net.dropout import ChannelDropout
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.confidence import fit_temperature, sampled_logits
from lmaunet.quant.network import QuantNetwork, graph_of
from lmaunet.quant.settings import QatSettings
from lmaunet.train.loop import fit
from lmaunet.train.processes import join_processes
from lmaunet.train.schedule import Schedule


def quantized(model, data, rate=0.3):
    torch.manual_seed(0)
    made = QuantNetwork.from_module(model, data.train.images.shape, dropout=rate, keep_norms=True)
    calibrate(made, data.train.images[:8])
    return made


def test_channels_are_dropped_for_each_image_and_the_mean_is_kept():
    layer = ChannelDropout(0.25).train()
    layer.reseed(3, 1)
    x = torch.full((400, 50, 2, 3), 2.0)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 2 / 0.75])
    flat = y.reshape(400, 50, -1)
    assert (flat == flat[..., :1]).all()  # whole channels
    assert float(y.mean()) == pytest.approx(2, rel=0.02)
    assert (y[0] != y[1]).any()
    layer.reseed(3, 1)
    assert torch.equal(layer(x), y)
    layer.reseed(3, 2)
    assert not torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(ChannelDropout(0.0).train()(x), x)
    assert torch.equal(copy.deepcopy(layer).eval()(x), x)


def test_it_stands_before_the_head_and_nowhere_else(tiny_model, tiny_data):
    """A network in training with all its masks is one whose head's input is masked."""
    network = quantized(tiny_model, tiny_data, 0.5)
    seen = []
    for name, layer in network.convolutions().items():
        layer.register_forward_pre_hook(
            lambda module, inputs, name=name: seen.append((name, inputs[0].detach().clone()))
        )
    images = torch.from_numpy(tiny_data.train.images[:4])
    with torch.no_grad():
        network.eval()  # norms move while they are trained
        network.dropout.train()
        network.dropout.reseed(1)
        network(images)
        dropped = dict(seen)
        seen.clear()
        network.dropout.rate = 0.0
        network(images)
    head = head_of(network.graph).name
    for name, value in seen:
        if name != head:
            assert torch.equal(value, dropped[name]), name
    plain, masked = dict(seen)[head], dropped[head]
    ratio = masked / torch.where(plain == 0, 1.0, plain)
    assert set(ratio[plain != 0].round(decimals=4).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("interrupted", [pytest.param(False, marks=pytest.mark.slow), True])
def test_training_is_of_the_seed_whatever_interrupts_it(
    tiny_model, tiny_data, tmp_path, interrupted
):
    def train(folder, seed, stop=False):
        network = quantized(tiny_model, tiny_data)
        folder.mkdir(exist_ok=True)

        def progress(share, line):
            if stop and share > 0.5:
                raise KeyboardInterrupt

        fit(network, tiny_data.train.take(np.arange(12)), Schedule(2, 1e-3, 4), classes=9,
            seed=seed, folder=folder, processes=join_processes(), progress=progress)  # fmt: skip
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    want = train(tmp_path / "a", 5)
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "b", 5, stop=True)
        torch.randn(7)
        assert torch.equal(train(tmp_path / "b", 5), want)
    else:
        assert torch.equal(train(tmp_path / "b", 5), want)
        assert not torch.equal(train(tmp_path / "c", 6), want)


def test_a_sample_is_the_network_with_its_heads_weights_masked(tiny_model, tiny_data):
    network = quantized(tiny_model, tiny_data).eval()
    network.fold_norms()
    images = tiny_data.val.images[:2]
    channels = network.graph.weights[head_of(network.graph).weights["weight"]].shape[1]
    masks = draw_masks(3, channels, 0.3, 2)
    plain, sampled = sampled_logits(network, images, masks)
    with torch.no_grad():
        np.testing.assert_array_equal(plain, network(torch.from_numpy(images)).numpy())
        head = network.convolutions()[head_of(network.graph).name]
        weight = head.conv.weight_quant(head.conv.weight)
        weight = getattr(weight, "value", weight)
        seen = []
        handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        network(torch.from_numpy(images))
        handle.remove()
        for index, mask in enumerate(masks):
            masked = weight * torch.from_numpy(mask)[None, :, None, None]
            want = nn.functional.conv2d(seen[0], masked, head.conv.bias)
            np.testing.assert_allclose(sampled[:, index], want.numpy(), atol=1e-4)
    assert np.abs(sampled - plain[:, None]).max() > 1e-2


def test_the_temperature_is_that_of_least_loss_on_the_held_out_slices(tiny_model, tiny_data):
    network = quantized(tiny_model, tiny_data).eval()
    found = Dropout.from_json(fit_temperature(network, tiny_data, 0.3))
    masks = draw_masks(8, found.channels, 0.3, 0)
    total, voxels = 0, 0
    for image, label in zip(tiny_data.val.images, tiny_data.val.labels, strict=True):
        logits, sampled = sampled_logits(network, image[None], masks)
        inside = of_interest(label, logits[0].argmax(0))
        total = total + temperature_loss(sampled[0][:, :, inside], label[inside])
        voxels += int(inside.sum())
    assert found.temperature == TEMPERATURES[int(total.argmin())]
    assert (found.rate, found.fitted["voxels"], found.fitted["samples"]) == (0.3, voxels, 8)
    assert found.fitted["loss"] <= found.fitted["loss_at_1"]


class Ends(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), last

    def forward(self, x):
        return self.last(self.first(x))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (nn.Conv2d(4, 3, 3, padding=1), "a convolution of 3x3"),
        (nn.Conv2d(4, 4, 1, groups=2), "a convolution of 1x1 with groups or a stride"),
        (nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU()), "ends in"),
    ],
)
def test_a_network_that_ends_in_no_1x1_convolution_is_refused(last, said):
    graph, weights = graph_of(Ends(last).eval(), (1, 1, 8, 8))
    with pytest.raises(UserError, match=said):
        head_of(graph)
    with pytest.raises(UserError, match="leave --dropout out"):
        QuantNetwork(graph, weights, dropout=0.2)


def test_a_network_of_volumes_is_refused():
    module = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 3, 1)).eval()
    graph, _ = graph_of(module, (1, 1, 8, 8, 8))
    with pytest.raises(UserError, match="for networks of slices"):
        head_of(graph)


@pytest.mark.parametrize("rate", [-0.1, 0.91, 1.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_is_refused(rate):
    with pytest.raises(UserError, match=r"such as 0\.2"):
        QatSettings(Schedule(1, 1e-3, 8), dropout=rate)


def test_settings_of_before_are_written_as_before():
    assert "dropout" not in QatSettings(Schedule(1, 1e-3, 8)).to_json()
    assert QatSettings(Schedule(1, 1e-3, 8), dropout=0.2).to_json()["dropout"] == 0.2


@pytest.mark.parametrize(
    ("right", "wrong"),
    [(">= self.rate", "< self.rate"), ("kept.astype(np.float32) / (1 - self.rate)",
                                       "kept.astype(np.float32)")],
)  # fmt: skip
def test_wrong_masks_are_noticed(mutant_of, monkeypatch, right, wrong):
    import lmaunet.net.dropout as module

    monkeypatch.setitem(globals(), "ChannelDropout",
                        mutant_of(module, right, wrong).ChannelDropout)  # fmt: skip
    with pytest.raises(AssertionError):
        test_channels_are_dropped_for_each_image_and_the_mean_is_kept()
