"""Networks that a factory or a MONAI bundle makes."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.sources import foreign, foreign_worker
from lmaunet.sources.checkpoint import restore
from lmaunet.sources.given import bundle_network, class_names, import_given, module_network
from lmaunet.sources.monai_bundle import is_bundle, read_bundle
from lmaunet.sources.torch_module import parse_arguments, parse_size

CODE = """
import torch
from torch import nn

ANSWER = 42


class Small(nn.Module):
    def __init__(self, base=4, classes=3, function=nn.ReLU, heads=1):
        super().__init__()
        self.first, self.function = nn.Conv2d(1, base, 3, padding=1), function()
        self.heads = nn.ModuleList([nn.Conv2d(base, classes, 1) for _ in range(heads)])

    def forward(self, x):
        x = self.function(self.first(x))
        found = [head(x) for head in self.heads]
        return found if len(found) > 1 else found[0]


def make(**given):
    print("made")
    return Small(**given)


def make_names(**given):
    return ["no", "network"]


def make_slices():
    class Half(Small):
        def forward(self, x):
            return super().forward(x)[:, :, ::2]
    return Half()
"""
NETWORK = {
    "_target_": "UNet", "spatial_dims": 2, "in_channels": "@channels", "out_channels": 3,
    "channels": [4, 8], "strides": [2], "norm": "BATCH",
}  # fmt: skip


@pytest.fixture
def code(tmp_path):
    (tmp_path / "their_networks.py").write_text(CODE)
    (tmp_path / "broken_networks.py").write_text("import their_networks\n1 / 0\n")
    return tmp_path


def weights_of(code, base=4, function="ReLU", heads=1, classes=3):
    space: dict = {}
    exec(CODE, space)
    torch.manual_seed(0)
    network = space["Small"](base, classes, getattr(torch.nn, function), heads)
    torch.save({"state_dict": network.state_dict()}, code / "weights.pth")
    return network.eval()


def answered(network, folder):
    request = network.request.to_json()
    try:
        return foreign_worker._captured(request, folder, lambda **content: None)
    except BaseException as error:
        return foreign_worker._error(error, Path(request["code"]))


def given(code, factory="their_networks:make", arguments=None, classes=None, size=(8, 12)):
    return module_network(code / "weights.pth", factory, code, arguments, size, 1, classes)


def test_from_a_factory_to_a_checkpoint(code):
    theirs = weights_of(code, 6, "SiLU")
    arguments = '{"base": 6, "function": "torch.nn.SiLU"}'
    network = given(code, arguments=arguments, classes=("background", "a", "b"))
    written = import_given(network, code / "run" / "import" / "network.pt")
    assert written.spec.name == "make-weights" and written.network == "Small"
    assert written.spec.input_size == (8, 12) and written.spec.classes == 3
    assert written.notices[0] == "weights: state_dict of the file"
    loaded = load_checkpoint(written.path)
    assert loaded.notes["classes"] == ["background", "a", "b"]
    image = torch.randn(2, 1, 8, 12)
    with torch.no_grad():
        expected, got = theirs(image), restore(loaded, written.path)(image)
    assert (got - expected).abs().max() <= 2**-16 * expected.abs().max()
    # the mutant: another function
    assert (
        torch.relu(theirs.first(image)) - theirs.function(theirs.first(image))
    ).abs().max() > 0.1


@pytest.mark.parametrize(
    ("factory", "arguments", "said"),
    [
        ("their_lost:make", None, "there is no module their_lost; give --code the folder"),
        ("their_networks:lost", None, "has no lost; it has torch, nn, ANSWER, Small"),
        ("their_networks:ANSWER", None, "it is a int, which can't be called"),
        ("their_networks:make_names", None, "--module gives a list, not a torch.nn.Module"),
        ("their_networks:make", '{"bse": 4}', "raised TypeError: .*'bse' at .*networks.py:"),
        ("their_networks:make", '{"base": 5}', r"other shapes, .*\(4, .*, expected \(5, "),
        ("their_networks:make", '{"heads": 2}', r"2 tensors lack .*heads.1"),
        ("broken_networks:make", None, r"raised ZeroDivisionError: .*broken_networks.py:2 \(1"),
    ],
)  # fmt: skip
def test_what_is_no_such_network(code, here, factory, arguments, said):
    weights_of(code)
    answer = answered(given(code, factory, arguments), code)
    assert answer["kind"] == "UserError" and re.search(said, answer["error"]), answer
    assert "\n" not in answer["error"]


@pytest.mark.parametrize(
    ("made", "factory", "arguments", "classes", "said"),
    [
        ({"heads": 2}, "their_networks:make", '{"heads": 2}', None,
         "gives 2 outputs; expected the logits alone: switch deep supervision off"),
        ({"classes": 1}, "their_networks:make", '{"classes": 1}', None,
         "gives one output, as for a sigmoid; expected logits of two classes"),
        ({}, "their_networks:make_slices", None, None, "it maps .* to .*; expected images"),
        ({}, "their_networks:make", None, ("background", "a"),
         "gives 3 outputs, and there are 2 names of classes, background, a; give one for each"),
    ],
)  # fmt: skip
def test_networks_that_do_not_segment(code, monkeypatch, made, factory, arguments, classes, said):
    weights_of(code, **made)
    monkeypatch.setattr("lmaunet.sources.given.run_foreign", run_here)
    with pytest.raises(UserError, match=said):
        import_given(given(code, factory, arguments, classes), code / "run" / "network.pt")
    assert not (code / "run").exists()


def run_here(request, evidence, progress):
    """Do what the other process does, without one."""
    from lmaunet.graph.capture import capture
    from lmaunet.sources.torch_module import make

    space: dict = {}
    exec(CODE, space)
    name = request.arguments["factory"].partition(":")[2]
    network = space[name](**request.arguments["arguments"])
    assert make is not None
    graph, weights = capture(network, request.shape)
    return foreign.Captured(graph, weights, None, type(network).__name__)


def test_options_that_can_not_be_read(code):
    weights_of(code)
    for factory in ("their_networks", "a:b:c", "a/b:c", ":make", "9:x"):
        with pytest.raises(UserError, match=r"expected PACKAGE.MODULE:NAME, such as"):
            given(code, factory)
    with pytest.raises(UserError, match=r"one size; give --input-size, such as 256 or 256x320"):
        given(code, size=None)
    with pytest.raises(UserError, match=r"--code .* is no folder"):
        module_network(code / "weights.pth", "a:b", code / "lost", None, (8, 8), 1, None)
    with pytest.raises(UserError, match="does not exist"):
        module_network(code / "lost.pth", "a:b", None, None, (8, 8), 1, None)
    for text in ('{"a"', "[1]", '{"a": 1'):
        with pytest.raises(UserError, match=r"no JSON|cannot be read as JSON"):
            parse_arguments(text)
    (code / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="expected an object of names"):
        parse_arguments(str(code / "list.json"))
    assert parse_size("256") == (256, 256) and parse_size("8x12") == (8, 12)
    for text in ("", "0", "8x0", "8x", "8x9x3", "-3", "1000000", "\uff18", "8.5"):
        with pytest.raises(UserError, match="expected pixels, such as 256"):
            parse_size(text)
    assert class_names("background, liver") == ("background", "liver") and class_names(None) is None
    for text in ("a", "background,", "background,a,a", "a,background", "a\x07,b"):
        with pytest.raises(UserError, match="--class-names"):
            class_names(text)


@pytest.fixture
def bundle(tmp_path):
    """A function that writes a bundle; what is given replaces its files, None leaves them out."""
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    network = nets.UNet(2, 2, 3, [4, 8], [2], norm="BATCH").eval()

    def write(**files):
        folder = tmp_path / "spleen_2d"
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "models").mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / "models" / "model.pt")
        formats = {
            "inputs": {"image": {"num_channels": 2, "spatial_shape": [16, 24]}},
            "outputs": {"pred": {"channel_def": {"0": "background", "1": "spleen", "2": "cyst"}}},
        }
        contents = {
            "inference": {"channels": 2, "network_def": NETWORK, "bundle_root": "nowhere"},
            "metadata": {"network_data_format": formats}, **files,
        }  # fmt: skip
        for name, content in contents.items():
            if content is not None:
                (folder / "configs" / f"{name}.json").write_text(json.dumps(content))
        return folder

    write.network = network
    return write


def test_from_a_bundle_to_a_checkpoint(bundle, tmp_path):
    folder = bundle()
    assert is_bundle(folder) and not is_bundle(tmp_path)
    network = bundle_network(read_bundle(folder), None, None, None)
    assert network.name == "monai-spleen_2d" and network.request.shape == (1, 2, 16, 24)
    written = import_given(network, tmp_path / "run" / "import" / "network.pt")
    assert written.network == "UNet" and written.agreement.passed
    loaded = load_checkpoint(written.path)
    assert loaded.notes["classes"] == ["background", "spleen", "cyst"]
    image = torch.randn(3, 2, 16, 24)
    with torch.no_grad():
        expected, got = bundle.network(image), restore(loaded, written.path)(image)
    assert (got - expected).abs().max() <= 2**-16 * expected.abs().max()


def test_bundles_that_are_not_deployed(bundle, here, tmp_path, monkeypatch):
    flat = bundle_network(read_bundle(bundle()), (32, 16), 1, ("background", "a", "b"))
    assert flat.request.shape == (1, 1, 32, 16) and flat.classes == ("background", "a", "b")
    unsized = bundle(metadata={"network_data_format": {"inputs": {"image": {}}}})
    with pytest.raises(UserError, match=r"does not say the size of its images.*give --input-size"):
        bundle_network(read_bundle(unsized), None, None, None)
    three = {"network_data_format": {"inputs": {"image": {"spatial_shape": [8, 8, 8]}}}}
    with pytest.raises(UserError, match="images of 3 dimensions; 2-D networks are deployed"):
        read_bundle(bundle(metadata=three))
    with pytest.raises(UserError, match="spatial_dims of network_def: a network for images of 3"):
        read_bundle(bundle(inference={"network_def": {**NETWORK, "spatial_dims": 3}}))
    with pytest.raises(UserError, match="has no network_def, which makes a bundle's network"):
        read_bundle(bundle(inference={"net": NETWORK}))
    lost = {"channels": 2, "network_def": {**NETWORK, "_target_": "NoSuchNet"}}
    broken = read_bundle(bundle(inference=lost))
    answer = answered(bundle_network(broken, (16, 16), None, None), tmp_path)
    assert answer["kind"] == "UserError" and "NoSuchNet" in answer["error"]
    folder = bundle()
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(UserError, match=r"a MONAI bundle without models/model.pt; download all"):
        read_bundle(folder)
    monkeypatch.setitem(sys.modules, "monai.bundle", None)
    answer = answered(flat, tmp_path)
    assert answer["kind"] == "ToolNotFound" and "monai" in answer["error"]
    assert isinstance(foreign._error_of(answer, tmp_path, tmp_path), ToolNotFound)
