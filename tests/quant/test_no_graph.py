"""What looks at a network and trains nothing keeps nothing for a backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from lmaunet.graph.module import GraphModule
from lmaunet.quant import sensitivity
from lmaunet.quant.calibration import calibrate, choose_slices, notices
from lmaunet.quant.convolution import QuantConv, best_thresholds, round_weight
from lmaunet.quant.explain import explain
from lmaunet.quant.integer_network import record_scans
from lmaunet.quant.network import graph_of
from lmaunet.quant.qat import evaluate
from lmaunet.train.metrics import predict_logits

SILENT = lambda fraction, line: None  # noqa: E731
LOOKS = {
    "notices": lambda graph, model, quantized, data: notices(*graph, data, choose_slices(data)),
    "calibrate": lambda graph, model, quantized, data: calibrate(quantized, data.train.images[:4]),
    "explain": lambda graph, model, quantized, data: explain(
        quantized, data.train.images[:2], SILENT
    ),
    "measure": lambda graph, model, quantized, data: sensitivity.measure(
        *graph, data.train.images[:2], SILENT
    ),
    "record_scans": lambda graph, model, quantized, data: record_scans(
        quantized, data.train.images[:2]
    ),
    "predict_logits": lambda graph, model, quantized, data: predict_logits(
        model, data.val.images[:2]
    ),
    "evaluate": lambda graph, model, quantized, data: evaluate(model, data),
}


class Seen(Exception):
    """What is asked for is known as soon as the first convolution or a graph runs."""


@pytest.mark.parametrize("name", LOOKS)
def test_no_layer_runs_for_a_backward_pass(name, tiny_model, tiny_quantized, tiny_data):
    networks = copy.deepcopy(tiny_model), copy.deepcopy(tiny_quantized)
    graph = graph_of(tiny_model, tiny_data.train.images.shape)

    def look(module, arguments):
        if isinstance(module, torch.nn.Conv2d | GraphModule):
            raise Seen(torch.is_grad_enabled())

    handle = register_module_forward_pre_hook(look)
    try:
        with pytest.raises(Seen) as seen:
            LOOKS[name](graph, *networks, tiny_data)
    finally:
        handle.remove()
    assert seen.value.args == (False,) and torch.is_grad_enabled()


def test_a_scale_that_is_searched_depends_on_no_weight():
    weight = torch.nn.Parameter(torch.randn(3, 5))
    assert not best_thresholds(weight, 4).requires_grad
    assert not best_thresholds(weight, 4, "pow2").requires_grad
    assert round_weight(weight, 4).requires_grad, "the weight itself does"


def test_a_folded_convolution_can_be_trained_on():
    """Folding is no step that a gradient could go back through."""
    conv, norm = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4)
    folded = QuantConv(conv, norm=norm)
    assert not folded.conv.bias.requires_grad, "the norm has the bias until then"
    folded.fold()
    for parameter in (folded.conv.weight, folded.conv.bias):
        assert parameter.requires_grad and parameter.is_leaf
