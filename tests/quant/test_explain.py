import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lmaunet.graph.layers import weight_layers
from lmaunet.quant.explain import explain, quantizers_of

SILENT = lambda fraction, line: None  # noqa: E731


def test_a_bad_scale_is_found_and_the_network_comes_back_as_it_was(tiny_quantized, tiny_data):
    network = copy.deepcopy(tiny_quantized)
    images = tiny_data.train.images[:4]
    path, kind = "decoder.3.convs.0.relu", "activations"
    found = {(name, kind): proxy for name, kind, proxy in quantizers_of(network)}
    assert len(found) == len(quantizers_of(network))
    scaling = found[path, kind].fused_activation_quant_proxy.tensor_quant.scaling_impl
    with torch.no_grad():
        scaling.value.mul_(40.0)  # three codes are left
        before = network(torch.from_numpy(images))
    rows = explain(network, images, SILENT)
    assert (rows[0]["quantizer"], rows[0]["kind"]) == (path, kind)
    assert rows[-1]["quantizer"] == "all"
    assert len(rows) == len(found) + 1
    costs = [row["divergence"] for row in rows[:-1]]
    assert costs == sorted(costs, reverse=True) and costs[0] > 3 * costs[1]
    assert 0 < rows[0]["foreground_changed"] <= 1
    with torch.no_grad():
        assert torch.equal(network(torch.from_numpy(images)), before)


def test_weights_and_activations_are_both_told(tiny_quantized):
    found = quantizers_of(tiny_quantized)
    kinds = [kind for _, kind, _ in found]
    # in_proj is divided in two and x_proj in three, in each of four stages
    layers = len(weight_layers(tiny_quantized.source))
    assert kinds.count("weights") == layers + 4 * (1 + 2)
    assert kinds.count("activations") > kinds.count("weights")
    names = [name for name, kind, _ in found if kind == "activations"]
    assert names == tiny_quantized.rounding.names()


class Proxy:
    """What Brevitas makes of a quantizer, as far as it is asked."""

    def __init__(self):
        self.disable_quant = False

    is_quant_enabled = True


class Told(torch.nn.Module):
    """A network of three quantizers that says beforehand which classes it shows with which on."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.of = {name: Proxy() for name in "abc"}
        self.rounding = SimpleNamespace(names=lambda: ["a", "c"])

    def forward(self, images):
        on = "".join(n for n, p in zip("abc", self.proxies(), strict=True) if not p.disable_quant)
        logits = torch.nn.functional.one_hot(torch.tensor(self.answers[on]), 3).float()
        return logits.view(1, 2, 5, 3).permute(0, 3, 1, 2) * (1 + len(on))

    def proxies(self):
        return tuple(self.of.values())

    def convolutions(self):
        return {"b": SimpleNamespace(conv=SimpleNamespace(weight_quant=self.of["b"]))}

    def quantizer(self, value):
        return SimpleNamespace(act_quant=self.of[value])


def test_what_a_quantizer_costs_is_told_by_hand():
    """The share is of pixels that show a class with it or without it: 5 are the background."""
    model = Told({
        "": [0, 0, 0, 0, 0, 1, 1, 2, 2, 2], "a": [0, 0, 0, 0, 0, 1, 1, 2, 2, 2],
        "b": [0, 0, 0, 1, 2, 2, 1, 2, 2, 2], "c": [0, 0, 0, 0, 0, 0, 1, 2, 2, 1],
        "abc": [0] * 10,
    })  # fmt: skip
    told = []
    rows = explain(model, np.zeros((1, 1, 2, 5), np.float32), lambda *said: told.append(said))
    assert [row["quantizer"] for row in rows] == ["b", "c", "a", "all"]
    assert [row["kind"] for row in rows] == ["weights", "activations", "activations", "all"]
    found = [row["foreground_changed"] for row in rows]
    assert found == pytest.approx([3 / 7, 2 / 5, 0, 1])
    assert rows[2]["divergence"] < rows[1]["divergence"] < rows[0]["divergence"]
    assert told == [
        (0.0, "what the weights of b cost"),
        (pytest.approx(1 / 3), "what the activations of a cost"),
        (pytest.approx(2 / 3), "what the activations of c cost"),
    ]  # fmt: skip
    assert not any(proxy.disable_quant for proxy in model.proxies()), "they are on again"


def test_a_network_that_shows_nothing_changes_nothing():
    model = Told(dict.fromkeys(("", "a", "b", "c", "abc"), [0] * 10))
    rows = explain(model, np.zeros((1, 1, 2, 5), np.float32), SILENT)
    assert [row["foreground_changed"] for row in rows] == [0, 0, 0, 0]
    model.of["b"].is_quant_enabled = False
    assert [(name, kind) for name, kind, _ in quantizers_of(model)] == [
        ("a", "activations"), ("c", "activations"),
    ]  # fmt: skip


def test_quantizers_come_back_as_they_were_after_an_error():
    model = Told({"": [0] * 10, "abc": [0] * 10})  # of one alone it says nothing
    with pytest.raises(KeyError, match="b"):
        explain(model, np.zeros((1, 1, 2, 5), np.float32), SILENT)
    assert [proxy.disable_quant for proxy in model.proxies()] == [False] * 3
