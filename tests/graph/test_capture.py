"""The graph of a module computes what the module computes, for any number of images."""

import copy
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from graph_networks import CrossScan, MambaUNet, Pieces, PlainUNet, Rest
from torch import nn

from lmaunet.errors import UserError
from lmaunet.graph.agreement import BOUND, check_capture
from lmaunet.graph.capture import capture
from lmaunet.graph.graph import Graph
from lmaunet.graph.layers import layers
from lmaunet.graph.module import RUN, GraphModule, execute
from lmaunet.graph.relayouts import OPERATORS
from lmaunet.net import scan_lanes
from lmaunet.net.network import LMaUNet
from lmaunet.spec import SPECS


@pytest.fixture(scope="module", autouse=True)
def scan_without_compiling():
    """The scan's form in torch operations: nothing is compiled for a few small scans."""
    from lmaunet.net import scan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_form", lambda x: scan_lanes)
        yield


def images(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen(net, seed=0):
    """The network with norms that have seen data, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
    return net.eval()


def far(left, right):
    """Return the largest difference of two outputs, of the largest number on the right."""
    if isinstance(right, (list, tuple)):
        return max(far(a, b) for a, b in zip(left, right, strict=True))
    return float((left - right).abs().max() / right.abs().max())


def outputs(net, image):
    with torch.no_grad():
        return net(image)


CASES = {
    "demo": (lambda: LMaUNet(SPECS["demo"]), (1, 1, 32, 32)),
    "edge": (lambda: LMaUNet(SPECS["edge"]), (1, 1, 16, 32)),
    "base": (lambda: LMaUNet(SPECS["base"]), (1, 1, 128, 128)),
    "both": (lambda: LMaUNet(SPECS["demo"].replace(mamba="both", skip="concat")), (1, 1, 16, 16)),
    "plain-2d": (lambda: PlainUNet(2), (1, 1, 8, 12)),
    "plain-3d": (lambda: PlainUNet(3), (1, 1, 4, 8, 12)),
    "mamba": (MambaUNet, (1, 2, 8, 12)),
    "pieces": (Pieces, (1, 4, 4, 4)),
    "cross-scan": (CrossScan, (1, 4, 4, 6)),
    "rest": (Rest, (1, 4, 4, 2, 4)),
}


@pytest.fixture(scope="module")
def captured():
    """A function that gives a case's module, graph and weights, each captured once."""
    made = {}

    def get(name):
        if name not in made:
            torch.manual_seed(5)
            build, shape = CASES[name]
            net = seen(build())
            made[name] = (net, *capture(net, shape))
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_a_graph_computes_what_its_module_computes(captured, name):
    net, graph, weights = captured(name)
    for count in (1, 3):
        image = images((count, *CASES[name][1][1:]))
        assert far(execute(graph, weights, image), outputs(net, image)) <= BOUND


def test_a_capture_is_checked_for_another_number_of_images(captured, tmp_path):
    net, graph, weights = captured("plain-2d")
    agreement = check_capture(net, graph, weights, evidence=tmp_path)
    assert agreement.passed and agreement.n_total == 3 * (3 * 8 * 12 + 3 * 4 * 6)


def test_a_graph_is_copied_with_its_module(captured):
    _, graph, weights = captured("plain-2d")
    assert pickle.loads(pickle.dumps(graph)) == graph
    copied = copy.deepcopy(GraphModule(graph, weights))
    assert copied.graph == graph and set(copied.weights()) == set(weights)


def test_every_operator_is_captured_and_run(captured):
    used = {node.operator.name for name in CASES for node in captured(name)[1].nodes}
    assert used == set(OPERATORS)
    assert set(RUN) == set(OPERATORS.values())


def mutated(graph, index, **changes):
    nodes = list(graph.nodes)
    nodes[index] = replace(nodes[index], **changes)
    return Graph(graph.sizes, graph.inputs, tuple(nodes), graph.outputs, graph.weights)


def operator_mutants(graph, name, **changes):
    return [
        mutated(graph, i, operator=replace(node.operator, **changes))
        for i, node in enumerate(graph.nodes)
        if node.operator.name == name
    ]


def test_a_flip_of_another_axis_is_seen(captured):
    net, graph, weights = captured("mamba")
    image = images((2, 2, 8, 12))
    mutants = operator_mutants(graph, "flip", axes=(1,))
    assert len(mutants) == 2
    for mutant in mutants:
        assert far(execute(mutant, weights, image), outputs(net, image)) > 100 * BOUND


@pytest.mark.parametrize(
    ("name", "operator", "changes"),
    [
        ("plain-2d", "activation", {"slope": 0.11}),
        ("plain-3d", "norm", {"epsilon": 1e-2}),
        ("demo", "pool", {"kind": "average"}),
        ("mamba", "upsample", {"align_corners": True}),
    ],
)
def test_another_attribute_is_seen(captured, name, operator, changes):
    net, graph, weights = captured(name)
    image = images((1, *CASES[name][1][1:]))
    for mutant in operator_mutants(graph, operator, **changes)[:2]:
        assert far(execute(mutant, weights, image), outputs(net, image)) > 2 * BOUND


@pytest.mark.parametrize("name", ["demo", "plain-2d", "plain-3d", "mamba"])
def test_a_dropped_bias_or_a_changed_weight_is_seen(captured, name):
    net, graph, weights = captured(name)
    image = images((1, *CASES[name][1][1:]))
    expected = outputs(net, image)
    for chosen in ("bias", "weight"):
        last = [w for w in weights if w.endswith(chosen)][-1]
        other = {**weights, last: np.zeros_like(weights[last])}
        assert far(execute(graph, other, image), expected) > 100 * BOUND


def test_a_scan_stays_one_node_and_tokens_stay_in_place(captured):
    _, graph, _ = captured("edge")
    names = [node.operator.name for node in graph.nodes]
    assert names.count("scan") == 4
    assert "permute" not in names
    causal = [n.operator for n in graph.nodes if n.name.endswith("conv1d")]
    assert [conv.padding for conv in causal] == [((3, 0),)] * 4
    scans = [node for node in graph.nodes if node.operator.name == "scan"]
    assert scans[0].weights["rates"] == "stages.0.mamba.A_log" and scans[0].operator.log_rates


def test_tokens_of_a_two_way_mamba_stay_in_place(captured):
    _, graph, weights = captured("mamba")
    assert "permute" not in {node.operator.name for node in graph.nodes}
    assert weights["mamba.scale"].shape == (1, 8, 1)


def test_each_scan_of_a_network_has_its_part_of_the_rates(captured):
    net, graph, weights = captured("cross-scan")
    scans = [node for node in graph.nodes if node.operator.name == "scan"]
    assert [node.operator.log_rates for node in scans] == [True] * 4
    parts = np.concatenate([weights[node.weights["rates"]] for node in scans])
    assert np.array_equal(parts, net.A_logs.detach().numpy())
    assert len({node.weights["rates"] for node in scans}) == 4


def computed(net, image):
    """Return multiply-accumulates and output positions by layer, from what its modules compute."""
    found = {}

    def count(module, inputs, output, name):
        linear = isinstance(module, nn.Linear)
        positions = output[0, ..., 0] if linear else output[0, 0]
        if isinstance(module, nn.Conv1d):  # the causal convolution's surplus outputs are cut off
            positions = positions[: inputs[0].shape[-1]]
        macs = positions.numel() * module.weight.numel()
        found[name] = found.get(name, (0,))[0] + macs, positions.numel()

    kinds = nn.Conv1d | nn.Conv2d | nn.Linear
    handles = [
        module.register_forward_hook(partial(count, name=name))
        for name, module in net.named_modules()
        if isinstance(module, kinds)
    ]
    outputs(net, image)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["demo", "edge", "base", "both"])
def test_layers_are_those_of_the_module(captured, name):
    net, graph, _ = captured(name)
    modules = dict(net.named_modules())
    expected = computed(net, images(CASES[name][1]))
    for each in net.stages:  # a scan: a*h, delta*B*x and C*h
        path = next(path for path, module in modules.items() if module is each.mamba)
        tokens = expected[f"{path}.in_proj"][1]
        for scan in ("scan", "scan#2") if name == "both" else ("scan",):
            expected[f"{path}.{scan}"] = 3 * tokens * each.mamba.A_log.numel(), tokens
    found = {layer.name: layer for layer in layers(graph) if layer.macs}
    assert {n: (x.macs, np.prod(x.shape[2:])) for n, x in found.items()} == expected
    for path, layer in found.items():
        if layer.operator == "scan":
            mamba = modules[path.rpartition(".")[0]]  # both of its scans have the same weights
            params = 0 if "#" in path else mamba.A_log.numel() + mamba.D.numel()
            assert (layer.weights, layer.kernel, layer.groups) == (0, (), 1)
        else:
            weight = modules[path].weight
            params = sum(parameter.numel() for parameter in modules[path].parameters())
            assert (layer.weights, layer.shape[1]) == (weight.numel(), len(weight)), path
            assert layer.kernel == (tuple(weight.shape[2:]) or (1,)), path
            assert layer.groups == getattr(modules[path], "groups", 1), path
        assert layer.params == params, path
    total = sum(parameter.numel() for parameter in net.parameters())
    assert sum(layer.params for layer in layers(graph)) == total


def test_layers_see_a_dropped_group(captured):
    """The mutant: the depthwise convolutions taken for dense ones."""
    net, graph, _ = captured("demo")
    i = next(i for i, n in enumerate(graph.nodes) if n.name == "stages.0.local")
    weight = graph.nodes[i].weights["weight"]
    shape = graph.weights[weight].shape
    dense = replace(graph.weights[weight], shape=(shape[0], shape[0], *shape[2:]))
    operator = replace(graph.nodes[i].operator, groups=1)
    nodes = list(graph.nodes)
    nodes[i] = replace(nodes[i], operator=operator)
    mutant = replace(graph, nodes=tuple(nodes), weights={**graph.weights, weight: dense})
    macs, _ = computed(net, images((1, 1, 32, 32)))["stages.0.local"]
    counted = [{x.name: x.macs for x in layers(each)} for each in (graph, mutant)]
    assert counted[0]["stages.0.local"] == macs
    assert counted[1]["stages.0.local"] == macs * shape[0]


def test_a_graph_can_be_trained(captured):
    """The gradients are the module's, and the statistics of its norms move as the module's do."""
    torch.manual_seed(5)
    net = seen(LMaUNet(SPECS["demo"]))
    _, graph, weights = captured("demo")
    module = GraphModule(graph, weights).train()
    net.train()
    image = images((2, 1, 32, 32))
    for each in (net, module):
        each(image).square().sum().backward()
    expected = {
        name: weight.grad
        for name, weight in net.named_parameters()
        if name in ("stages.0.mamba.A_log", "head.bias", "stages.2.local.weight")
    }
    for name, grad in expected.items():
        assert far(module.weight(name).grad, grad) < 1e-3
    moved = net.state_dict()["shallow.0.norm.running_var"].numpy()
    assert np.allclose(module.weights()["shallow.0.norm.running_var"], moved, rtol=1e-5)
    assert not np.allclose(weights["shallow.0.norm.running_var"], moved, rtol=1e-3)


def test_a_capture_leaves_the_module_as_it_was():
    net = PlainUNet(2).train()
    net.deep.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    capture(net, (1, 1, 8, 8))
    assert net.training and net.first.training and not net.deep.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3, padding=2)

    def forward(self, image):
        y = self.conv(image)
        return y.contiguous()[..., :8] * y[..., 2:]


def test_a_convolution_that_is_used_twice_keeps_its_end():
    net = UsedTwice().eval()
    graph, weights = capture(net, (1, 1, 8))
    assert graph.nodes[0].operator.padding == ((2, 2),)
    image = images((3, 1, 8))
    assert far(execute(graph, weights, image), outputs(net, image)) <= BOUND


def test_inputs_of_another_size_are_refused(captured):
    _, graph, weights = captured("plain-2d")
    module = GraphModule(graph, weights)
    for image in (images((1, 1, 8, 8)), images((0, 1, 8, 12)), images((1, 2, 8, 12))):
        with pytest.raises(UserError, match=r"expected \('N', 1, 8, 12\)"):
            module(image)
    with pytest.raises(UserError, match="2 inputs"):
        module(images((1, 1, 8, 12)), images((1, 1, 8, 12)))
    with pytest.raises(UserError, match="example_shape"):
        capture(PlainUNet(2), (1, 8))


def test_a_captured_graph_comes_back_from_its_file(captured, tmp_path):
    from lmaunet.graph.file import read, write

    net, graph, weights = captured("mamba")
    write(tmp_path, graph, weights)
    again, arrays = read(tmp_path)
    assert again == graph
    image = images((2, 2, 8, 12))
    assert torch.equal(execute(again, arrays, image), execute(graph, weights, image))
    assert far(execute(again, arrays, image), outputs(net, image)) <= BOUND
