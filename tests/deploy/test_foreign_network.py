"""Networks that are not ours, from float to builds, without one line of the project about them."""

import json

import docstring_examples
import numpy as np
import pytest
import torch
from foreign_networks import MambaUNet, PlainUNet

import lmaunet
from lmaunet.data.loaders import load_phantom
from lmaunet.deploy import commands, pipeline
from lmaunet.deploy.quantizing import QatOptions, qat
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.file import topology_digest
from lmaunet.graph.module import GraphModule
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.quant.qat import load_quantized
from lmaunet.sources.checkpoint import restore, save_network, spec_of
from lmaunet.stage import read_json
from lmaunet.train.loop import Schedule, fit
from lmaunet.train.processes import join_processes

SIZE = (32, 32)
NETWORKS = {"plain": PlainUNet, "mamba": MambaUNet}
# without a Mamba nothing runs that does not run with one
CASES = ["mamba", pytest.param("plain", marks=pytest.mark.slow)]
QUANTIZERS = {"plain": 7, "mamba": 32}
"""Scales in use: one for each group of values."""


@pytest.fixture(scope="module", params=CASES)
def made(request, tmp_path_factory):
    """A run in which such a network was captured, trained a little and quantized."""
    place = tmp_path_factory.mktemp("foreign")
    data = load_phantom(size=SIZE, seed=0)
    torch.manual_seed(0)
    graph, weights = capture(NETWORKS[request.param](), (1, 1, *SIZE))
    module = GraphModule(graph, weights)
    fit(
        module, data.train, Schedule(2, 1e-2), classes=9, seed=0, folder=None,
        processes=join_processes(), progress=lambda fraction, line: None,
    )  # fmt: skip
    checkpoint = place / "network.pt"
    spec = spec_of(graph, request.param)
    save_network(checkpoint, spec, module.eval(), classes=list(data.classes))
    run = place / "run"
    qat(run, checkpoint, DataSource(None), None, QatOptions(1, 1e-3, 8, 0, bits="3x3=4"))
    return request.param, run, checkpoint, graph


def test_the_float_network_comes_back(made):
    name, _, checkpoint, graph = made
    loaded = load_checkpoint(checkpoint)
    assert loaded.spec.name == name and loaded.spec.graph == topology_digest(graph)
    module = restore(loaded, checkpoint)
    assert isinstance(module, GraphModule) and module.graph == graph


def test_every_quantizer_agrees_from_torch_to_the_exported_graph(made):
    name, run, _, graph = made
    quantized = load_quantized(run / "qat" / "model.pt")
    assert len(quantized.rounding.names()) == QUANTIZERS[name]
    assert quantized.source == graph
    dense = [c.bits for c in quantized.convolutions().values() if c.conv.kernel_size == (3, 3)]
    assert dense.count(4) == len(dense) - 1  # the first layer stays at 8
    pipeline.export(run, DataSource(None), lambda fraction, line: None)
    found = read_json(run / "export" / "export.json")["agreements"]
    codes = [entry for entry in found if entry["name"].endswith(", codes")]
    assert len(codes) == (6 if name == "mamba" else 2)
    assert all(entry["passed"] and entry["n_differ"] <= entry["allowed"] for entry in codes)
    scans = [entry for entry in found if "golden scan" in entry["name"]]
    assert len(scans) == (6 if name == "mamba" else 0)
    digest = read_json(run / "export" / "interface.json")["graph"]
    assert digest == topology_digest(graph)


@pytest.mark.parametrize("target", ["ort", "openvino", "trt"])
def test_it_is_built_and_its_file_computes_what_torch_does(made, target):
    name, run, _, _ = made
    pytest.importorskip({"ort": "onnxruntime", "trt": "tensorrt_rtx"}.get(target, target))
    _, lines = commands.build(run, target, {})
    deployment = json.loads((run / "build" / target / "deployment.json").read_text())
    assert deployment["network"]["name"] == name and len(deployment["graph"]) == 64
    assert any("codes: " in line and line.startswith("agrees") for line in lines)


def test_an_fpga_design_is_refused_by_the_operator_s_name(made):
    _, run, _, _ = made
    pytest.importorskip("finn")
    with pytest.raises(UserError, match=r"operator InstanceNormalization .* no hardware mapping"):
        commands.build(run, "fpga", {})


def test_a_layer_that_is_not_there_is_named(made, tmp_path):
    _, _, checkpoint, _ = made
    options = QatOptions(1, 1e-3, 8, 0, bits="stages*=4")
    with pytest.raises(UserError, match=r"'stages\*' is no layer of the network; .* first\.0\.0"):
        qat(tmp_path / "run", checkpoint, DataSource(None), None, options)
    assert not (tmp_path / "run" / "qat").exists()


def test_a_changed_graph_is_refused(made, tmp_path):
    _, _, checkpoint, _ = made
    content = torch.load(checkpoint, weights_only=True)
    content["graph"]["nodes"][0]["name"] = "other"
    torch.save(content, tmp_path / "changed.pt")
    with pytest.raises(UserError, match="its graph: the file was altered: its digest is"):
        restore(load_checkpoint(tmp_path / "changed.pt"), tmp_path / "changed.pt")


def test_quantized_and_float_say_much_the_same(made):
    _, run, checkpoint, _ = made
    image = torch.from_numpy(load_phantom(size=SIZE, seed=0).val.images[:4])
    quantized = load_quantized(run / "qat" / "model.pt")
    float32 = restore(load_checkpoint(run / "control" / "control.pt"), checkpoint)
    with torch.no_grad():
        want, got = float32(image).numpy(), quantized(image).numpy()
    assert np.corrcoef(want.ravel(), got.ravel())[0, 1] > 0.9


def test_the_example_of_quantize_is_true(tmp_path, monkeypatch):
    """A module goes in, a build comes out."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert docstring_examples.run(lmaunet.quantize, network=PlainUNet()) == 3
    first = lmaunet.quantize(
        "runs/mine/import/model.pt", "phantom", run="runs/mine", epochs=1
    )  # fmt: skip
    assert first.cached and first.notices == () and len(first.graph) == 64
    assert [row["choice"] for row in first.joins] == ["shared"] * 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, r"input_size is None; give the height and width .* input_size=\(256, 256\)"),
        ({"input_size": (32, 32), "bit": 4}, "quantize has no option 'bit'; it has epochs"),
        ({"input_size": (33, 32)}, r"torch.export can't trace PlainUNet at .*foreign_networks.py:"),
        ({"input_size": (32, 32), "bits": "9"}, "cannot read '9'; give PATTERN=BITS"),
    ],
)
def test_what_quantize_cannot_use_is_said_and_nothing_is_written(
    arguments, message, tmp_path, capfd
):
    with pytest.raises(UserError, match=message):
        lmaunet.quantize(PlainUNet(), "phantom", run=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists() and "Traceback" not in capfd.readouterr().err


def test_a_network_of_other_classes_than_the_data_s_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has 9 classes, spec plainunet has 4"):
        lmaunet.quantize(
            PlainUNet(classes=4), "phantom", run=tmp_path / "run", input_size=(32, 32)
        )  # fmt: skip
    assert not (tmp_path / "run" / "qat").exists()
