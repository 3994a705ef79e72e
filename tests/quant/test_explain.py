import copy

import torch

from quant.explain import explain, quantizers_of

SILENT = lambda fraction, line: None  # noqa: E731


def test_a_bad_scale_is_found_and_the_network_comes_back_as_it_was(tiny_quantized, tiny_data):
    network = copy.deepcopy(tiny_quantized)
    images = tiny_data.train.images[:4]
    spoilt = "decoder.3.quant_convs.0"
    found = {path: proxy for path, (_, proxy) in quantizers_of(network).items()}
    path = next(p for p in found if p.startswith(spoilt))
    scaling = found[path].fused_activation_quant_proxy.tensor_quant.scaling_impl
    with torch.no_grad():
        scaling.value.mul_(40.0)  # three codes are left
        before = network(torch.from_numpy(images))
    rows = explain(network, images, SILENT)
    assert rows[0]["quantizer"] == path and rows[0]["kind"] == "activations"
    assert rows[-1]["quantizer"] == "all"
    assert len(rows) == len(found) + 1
    costs = [row["divergence"] for row in rows[:-1]]
    assert costs == sorted(costs, reverse=True) and costs[0] > 3 * costs[1]
    assert 0 < rows[0]["foreground_changed"] <= 1
    with torch.no_grad():
        assert torch.equal(network(torch.from_numpy(images)), before)


def test_weights_and_activations_are_both_told(tiny_quantized):
    kinds = [kind for kind, _ in quantizers_of(tiny_quantized).values()]
    # in_proj is divided in two and x_proj in three, in each of four stages
    layers = sum(1 for layer in tiny_quantized.spec.layers() if layer.weights)
    assert kinds.count("weights") == layers + 4 * (1 + 2)
    assert kinds.count("activations") > kinds.count("weights")
