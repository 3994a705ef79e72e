"""The network of a checkpoint, where it is an LMa-UNet and where its graph says what it is."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "graph"))

from graph_networks import PlainUNet

from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.file import topology_digest, topology_json
from lmaunet.graph.module import GraphModule
from lmaunet.graph_spec import GraphSpec
from lmaunet.net.checkpoint import load_checkpoint, save_checkpoint
from lmaunet.net.checkpoint import restore as restore_lmaunet
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.quant.qat import load_quantized
from lmaunet.sources.checkpoint import graph_in, restore, save_network, spec_of
from lmaunet.stated_spec import StatedSpec

SHAPE = (1, 1, 8, 12)


class OneOutput(PlainUNet):
    """The network of others without its deep supervision."""

    def __init__(self):
        super().__init__(2)
        del self.heads[1]

    def forward(self, image):
        first = self.first(image)
        second = self.down(first)
        joined = self.join(torch.cat([self.widen(self.deep(second)), second], 1))
        return self.heads[0](self.last(torch.cat([self.up(joined), first], 1)))


@pytest.fixture(scope="module")
def foreign():
    """Module, graph and weights of a network that is none of ours."""
    torch.manual_seed(1)
    net = OneOutput().eval()
    return (net, *capture(net, SHAPE))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).standard_normal((4, *SHAPE[1:])).astype(np.float32)


@pytest.fixture
def written(foreign, tmp_path):
    """The checkpoint of that network as a file."""
    _, graph, weights = foreign
    path = tmp_path / "foreign.pt"
    save_network(path, spec_of(graph, "of others"), GraphModule(graph, weights), dice=0.5)
    return path


def far(left, right):
    return float((left - right).abs().max() / right.abs().max())


def changed(path, change):
    """Change the content of a checkpoint file."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_a_foreign_network_comes_back_from_its_file(foreign, written, images):
    net, graph, weights = foreign
    loaded = load_checkpoint(written)
    assert loaded.spec == GraphSpec("of others", 1, 3, (8, 12), topology_digest(graph))
    assert loaded.kind == "float32" and loaded.notes["dice"] == 0.5
    assert graph_in(loaded, written) == graph
    module = restore(loaded, written)
    assert isinstance(module, GraphModule) and not module.training and module.graph == graph
    restored = module.weights()
    assert all(np.array_equal(restored[name], weights[name]) for name in weights)
    assert set(restored) == set(weights)
    image = torch.from_numpy(images)
    with torch.no_grad():
        assert far(module(image), net(image)) < 1e-5


def test_an_lmaunet_is_written_and_read_as_before(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "ours.pt"
    save_network(path, tiny_spec, tiny_model, dice=0.25)
    loaded = load_checkpoint(path)
    assert loaded.spec == tiny_spec and loaded.graph is None and graph_in(loaded, path) is None
    assert "graph" not in torch.load(path, weights_only=True)
    for model in (restore(loaded, path), restore_lmaunet(loaded, path)):
        assert type(model) is type(tiny_model)
        assert all(
            torch.equal(v, model.state_dict()[k]) for k, v in tiny_model.state_dict().items()
        )


def test_a_foreign_network_is_no_lmaunet(written):
    loaded = load_checkpoint(written)
    with pytest.raises(UserError, match=rf"^{written} is of network of others; expected an LMa-U"):
        restore_lmaunet(loaded, written)


def other_axis(content):
    node = next(n for n in content["graph"]["nodes"] if n["operator"] == "concat")
    node["inputs"].reverse()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_axis, "its graph: the file was altered"),
        (lambda c: c["graph"].update(digest="0" * 64), "its graph: the file was altered"),
        (lambda c: c.pop("graph"), "its graph: it is no graph"),
        (lambda c: c.update(graph=[1]), "its graph: it is no graph"),
        (lambda c: c.update(graph=topology_json(capture(nn.Conv2d(1, 3, 1), SHAPE)[0])),
         "it names network of others, .* its graph is another; give the file as it was written"),
        (lambda c: c["spec"].update(graph="0" * 64), "it names network of others, 000000000000, "),
        (lambda c: c["spec"].update(classes=4), "it names .* its graph is another"),
        (lambda c: c["spec"].update(in_channels=2), "it names .* its graph is another"),
        (lambda c: c["spec"].update(input_size=[12, 8]), "it names .* its graph is another"),
    ],
)  # fmt: skip
def test_a_graph_that_was_altered_is_refused(written, change, said):
    changed(written, change)
    with pytest.raises(UserError, match=rf"^{written}: {said}"):
        loaded = load_checkpoint(written)
        restore(loaded, written)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("w:first/0/weight"),
        lambda state: state.update({"w:more": torch.zeros(3)}),
        lambda state: state.update({"w:first/0/weight": torch.zeros(4, 1, 3, 1)}),
    ],
)
def test_other_weights_than_the_graphs_are_refused(written, change):
    changed(written, lambda content: change(content["state"]))
    with pytest.raises(UserError, match=rf"^{written}"):
        restore(load_checkpoint(written), written)


def test_a_foreign_network_is_for_the_size_that_it_was_captured_for(written):
    loaded = load_checkpoint(
        written, StatedSpec(None, {"input_size": "here"}, {"input_size": (8, 12)})
    )
    assert loaded.spec.input_size == (8, 12)
    with pytest.raises(UserError, match=r"has a graph for 8x12, --size asks for another size; giv"):
        load_checkpoint(
            written, StatedSpec(None, {"input_size": "--size"}, {"input_size": (16, 24)})
        )


@pytest.mark.parametrize(
    ("net", "shape", "said"),
    [
        (nn.Conv2d(2, 3, 3), (1, 2, 8, 8), r"maps \(1, 2, 8, 8\) to \(1, 3, 6, 6\); expected ima"),
        (nn.Conv3d(1, 2, 1), (1, 1, 4, 4, 4), r"expected images \(N, C, H, W\) to logits"),
        (nn.Conv1d(1, 2, 1), (1, 1, 4), "expected images"),
        (nn.Conv2d(1, 1, 1), (1, 1, 4, 4), "two classes or more"),
    ],
)
def test_what_segments_no_images_is_refused(net, shape, said):
    graph, _ = capture(net, shape)
    with pytest.raises(UserError, match=said):
        spec_of(graph, "n")


@pytest.fixture(scope="module")
def quantized(foreign, images):
    network = QuantNetwork.from_module(foreign[0], images.shape, {"up": 4, "join.0": 2})
    calibrate(network, images)
    return network.eval()


def saved(path, quantized, graph):
    save_checkpoint(
        path, spec_of(quantized.source, "of others"), quantized, kind="quantized",
        graph=graph, bits=quantized.bits, scales=quantized.scales, classes=["a", "b", "c"],
    )  # fmt: skip
    return path


def test_a_quantized_foreign_network_comes_back(quantized, images, tmp_path):
    path = saved(tmp_path / "q.pt", quantized, topology_json(quantized.source))
    assert json.loads(json.dumps(dict(load_checkpoint(path).graph)))
    again = load_quantized(path)
    assert not again.training and again.bits == quantized.bits and again.source == quantized.source
    assert (again.bits["up"], again.bits["join.0"], again.bits["first.0"]) == (4, 2, 8)
    image = torch.from_numpy(images)
    with torch.no_grad():
        assert torch.equal(again(image), quantized(image))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in quantized.state_dict().items())
    with pytest.raises(UserError, match="is a quantized checkpoint; give the FP32 checkpoint"):
        restore(load_checkpoint(path), path)


def test_a_quantized_foreign_network_without_its_graph_is_refused(quantized, tmp_path):
    path = saved(tmp_path / "q.pt", quantized, None)
    with pytest.raises(UserError, match=rf"^{path}: its graph: it is no graph"):
        load_quantized(path)
    path = saved(tmp_path / "r.pt", quantized, topology_json(quantized.source))
    changed(path, other_axis)
    with pytest.raises(UserError, match=rf"^{path}: its graph: the file was altered"):
        load_quantized(path)
