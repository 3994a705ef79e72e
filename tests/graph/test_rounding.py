"""Where a quantized network rounds, and which values share a scale."""

from collections import Counter
from dataclasses import replace

import pytest
from graph_networks import MambaUNet, PlainUNet
from torch import nn

from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.operators import Activation, Add, Concat, Conv, Norm, Scan
from lmaunet.graph.relayouts import Flip, Reshape, Slice
from lmaunet.graph.resampling import Pool, Upsample
from lmaunet.graph.rewrites import as_maps, fold_norms, rewritten, split_by_slices
from lmaunet.graph.rounding import keeps_integers, rounding_of
from lmaunet.net.network import LMaUNet
from lmaunet.spec import SPECS


def quantized_form(net, shape):
    return rewritten(*capture(net.eval(), shape), [split_by_slices, as_maps, fold_norms])[0]


@pytest.fixture(scope="module")
def demo():
    return quantized_form(LMaUNet(SPECS["demo"]), (1, 1, 32, 32))


@pytest.fixture(scope="module")
def base():
    """Of bins and concatenations."""
    spec = SPECS["base"].replace(
        widths=(4, 4, 6, 6, 8), decoder_widths=(4, 4, 6, 6), pyramid_width=8, pyramid_bins=(1, 2)
    )
    return quantized_form(LMaUNet(spec), (1, 1, 32, 32))


def test_the_groups_of_a_network(demo):
    found = rounding_of(demo)
    names = found.names()
    assert len(names) == len(set(names)) == 68
    assert names[:5] == [
        "image", "shallow.0.relu", "shallow.1.relu", "stages.0.proj", "stages.0.local"
    ]  # fmt: skip
    per_stage = Counter(name.split(".")[1] for name in names if name.startswith("stages."))
    assert set(per_stage.values()) == {14}
    assert set(names) <= found.rounded, "a group is named after a value that is rounded"
    assert "head" not in found.groups, "logits are in float"
    assert found.rounded <= set(found.groups)


@pytest.mark.parametrize("name", ["demo", "base"])
def test_what_is_joined_shares_a_scale_and_what_moves_keeps_it(name, request):
    graph = request.getfixturevalue(name)
    found = rounding_of(graph)
    seen = Counter()
    for node in graph.nodes:
        group = found.groups.get(node.name)
        if isinstance(node.operator, Add | Concat):
            (shared,) = {found.groups[value] for value in node.inputs}
            seen[node.operator.name] += 1
            if isinstance(node.operator, Add):
                assert group == node.name and node.name in found.rounded
            else:
                assert group == shared and node.name not in found.rounded
        if keeps_integers(node.operator):
            assert group == found.groups[node.inputs[0]] and node.name not in found.rounded
            seen["moves"] += 1
        if isinstance(node.operator, Pool) and node.operator.kind == "average":
            assert group == node.name and node.name in found.rounded
            seen["average"] += 1
        if isinstance(node.operator, Conv):  # a kernel of integers takes integers
            assert set(node.inputs) <= set(found.groups)
    if name == "demo":
        assert seen == {"add": 8, "concat": 1, "moves": 4 * 3 + 2 + 4}
    else:
        assert seen["concat"] == 5 and seen["average"] == 2 and seen["add"] == 4


def test_what_keeps_integers():
    keeping = [Reshape((("N",),)), Flip((1,)), Slice(1, 0, 2, 1),
               Pool("max", (2,), (2,), (0,), True), Upsample("nearest", (4,), False)]  # fmt: skip
    others = [Pool("average", (2,), (2,), (0,), True), Upsample("linear", (4,), False), Add(),
              Concat(1), Activation("relu", 0.0), Norm("instance", 1, 1e-5)]  # fmt: skip
    assert all(map(keeps_integers, keeping)) and not any(map(keeps_integers, others))


def places(graph, **options):
    """Return the layers' and functions' values that are rounded, in order."""
    found = rounding_of(graph, **options)
    return [value for value in [*graph.inputs, *(n.name for n in graph.nodes)]
            if value in found.rounded]  # fmt: skip


def conv():
    return nn.Conv2d(2, 2, 3, padding=1)


class Turned(nn.Module):
    def forward(self, x):
        return x.flip(2)


@pytest.mark.parametrize(
    ("layers", "rounded"),
    [
        # one kernel computes convolution and ReLU: only what it gives is rounded
        ([conv(), nn.ReLU(), conv()], ["image", "1.relu"]),
        ([conv(), nn.LeakyReLU(0.1), conv()], ["image", "0", "1.leaky_relu"]),
        ([conv(), nn.BatchNorm2d(2), nn.LeakyReLU(0.1), conv()], ["image", "0", "2.leaky_relu"]),
        ([conv(), nn.InstanceNorm2d(2), nn.LeakyReLU(0.1), conv()], ["image", "2.leaky_relu"]),
        ([conv(), nn.InstanceNorm2d(2), nn.ReLU(), conv()], ["image", "2.relu"]),
        ([conv(), Turned(), nn.LeakyReLU(0.1), conv()], ["image", "0", "2.leaky_relu"]),
        # a function of a table takes integers
        ([conv(), nn.SiLU(), conv()], ["image", "0", "1.silu"]),
        ([conv(), nn.InstanceNorm2d(2), nn.GELU(), conv()], ["image", "1.norm", "2.gelu"]),
        # a pool and a ReLU are done in float where nothing before needs integers
        ([conv(), nn.MaxPool2d(2), nn.ReLU(), nn.MaxPool2d(2), conv()], ["image", "2.relu"]),
        ([nn.ReLU(), conv()], ["0.relu"]),
        # nothing needs what the last layers give
        ([conv(), conv(), nn.ReLU()], ["image", "0"]),
        ([conv(), nn.MaxPool2d(2)], ["image"]),
    ],
)  # fmt: skip
def test_a_function_is_done_before_the_rounding_where_that_is_free(layers, rounded):
    graph = quantized_form(nn.Sequential(*layers), (1, 2, 8, 8))
    (entry,) = graph.inputs
    names = {entry: "image"}
    assert [names.get(value, value) for value in places(graph)] == rounded


class Taken(nn.Module):
    """A value that a convolution takes as it is, and another one behind a function of it."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.third, self.function = conv(), conv(), conv(), function

    def forward(self, x):
        x = self.first(x)
        return self.second(x) * self.third(self.function(x))


def test_a_relu_of_integers_gives_integers_of_the_same_scale():
    graph = quantized_form(Taken(nn.ReLU()), (1, 2, 8, 8))
    assert places(graph) == ["image", "first", "second", "third"]
    assert rounding_of(graph).groups["function.relu"] == "first"
    graph = quantized_form(Taken(nn.LeakyReLU(0.1)), (1, 2, 8, 8))
    assert places(graph) == ["image", "first", "second", "function.leaky_relu", "third"]


class Scaled(nn.Module):
    def forward(self, x):
        return 2 * x + 1


def test_a_sum_with_numbers_is_done_before_the_rounding():
    graph = quantized_form(nn.Sequential(conv(), Scaled(), conv()), (1, 2, 8, 8))
    found = rounding_of(graph)
    assert "0" not in found.groups and graph.nodes[-1].inputs[0] in found.rounded
    assert len(found.rounded) == 2


def test_a_scan_gives_integers_whatever_takes_them(graph):
    """Of the scan at the end of a graph nothing takes what it gives."""
    scan = next(i for i, node in enumerate(graph.nodes) if isinstance(node.operator, Scan))
    ended = replace(graph, nodes=graph.nodes[: scan + 1], outputs=("scan",))
    found = rounding_of(ended)
    assert "scan" in found.rounded and found.groups["scan"] == "scan"
    for value in ended.nodes[-1].inputs:
        assert value in found.groups


def test_what_takes_a_scan_of_another_order_shares_its_scale(graph):
    """Flipped and made a map again, it is added: the sum's inputs are a group, named in order."""
    found = rounding_of(graph)
    same = {value for value, group in found.groups.items() if group == found.groups["scan"]}
    assert {"relu", "tokens", "flip", "scan", "back", "map"} <= same
    assert found.groups["sum"] == "sum" == found.groups["pool"] == found.groups["cat"]
    assert "norm" not in found.groups and "stem" not in found.groups


def test_an_addition_keeps_scales_apart_where_asked(demo):
    before, found = (rounding_of(demo, separate) for separate in ((), ("stages.0.add",)))
    local, out = "stages.0.local", "stages.0.mamba.out_proj"
    assert before.groups[local] == before.groups[out] == local
    assert (found.groups[local], found.groups[out]) == (local, out)
    assert found.groups["stages.0.add"] == "stages.0.add"
    assert len(found.names()) == 69
    assert found.groups["stages.1.local"] == found.groups["stages.1.mamba.out_proj"]


def test_a_concatenation_keeps_scales_apart_where_asked_and_is_rounded_again(demo):
    before, found = (rounding_of(demo, separate) for separate in ((), ("pyramid.concat",)))
    skip, reduce = "stages.3.add", "pyramid.reduce"
    assert before.groups["pyramid.concat"] == before.groups[reduce] == before.groups[skip] == skip
    assert "pyramid.concat" not in before.rounded
    assert [found.groups[v] for v in (skip, reduce, "pyramid.pool#2", "pyramid.concat")] == [
        skip, reduce, reduce, "pyramid.concat"
    ]  # fmt: skip
    assert "pyramid.concat" in found.rounded and len(found.names()) == 70


@pytest.mark.parametrize("name", ["stages.0.local", "image", "stages.0.mamba.mul", "none", ""])
def test_only_what_joins_can_be_separate(demo, name):
    with pytest.raises(UserError, match=r"joins no values; give an addition or a concatenation"):
        rounding_of(demo, ["stages.0.add", name])


def test_networks_of_others_have_places_too():
    """Every input of a convolution is in integers, whatever made it."""
    for net, shape in ((PlainUNet(2), (1, 1, 8, 12)), (PlainUNet(3), (1, 1, 4, 8, 12)),
                       (MambaUNet(), (1, 2, 8, 12))):  # fmt: skip
        graph = quantized_form(net, shape)
        found = rounding_of(graph)
        for node in graph.nodes:
            if isinstance(node.operator, Conv | Scan | Add | Concat):
                assert set(node.inputs) <= set(found.groups), node.name
            if isinstance(node.operator, Norm):
                assert node.inputs[0] not in found.rounded or len(graph.users(node.inputs[0])) > 1
