"""What the benchmark of FPGA designs says of a build: simulated only where it was simulated."""

import subprocess
from pathlib import Path

import fpga_design as benchmark
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.fpga.build import Built
from lmaunet.graph.capture import capture
from lmaunet.graph.file import topology_digest, topology_json
from lmaunet.graph.module import GraphModule
from lmaunet.graph_spec import GraphSpec
from lmaunet.net.checkpoint import save_checkpoint
from lmaunet.sources.checkpoint import save_network
from lmaunet.sources.checkpoint import spec_of as source_spec

DETAIL = {
    "board": "ZCU104", "part": "xczu7ev", "clock_mhz": 250.0, "clock_status": "assumed",
    "latency_cycles": 9, "interval_cycles": 5, "latency_ms": 0.1, "interval_ms": 0.05,
    "resources": {"lut": {"used": 1, "available": 2}}, "resources_provenance": "estimated",
    "usable": {"lut": 1.4}, "fits": False, "nodes": 3, "slowest": [],
    "largest": [], "memories": {"depths_provenance": "estimated"},
    "pipeline": {"provenance": "estimated"}, "limits": "DSP", "dsp_bound_interval_cycles": 4,
    "network": {"logits_sqnr_db": 30.0},
    "simulation": {"bit_exact": True, "images": 8, "proof": {"images": 8}, "fifo_bits": 17},
}  # fmt: skip


@pytest.mark.parametrize("simulated", [True, False])
def test_figures_say_how_they_were_obtained(simulated):
    found = benchmark.figures(DETAIL, simulated)
    assert found["provenance"] == ("simulated" if simulated else "estimated")
    shown = ("bit_exact", "proof", "fifo_bits")
    assert [key in found for key in shown] == [simulated] * 3
    assert found["resources"]["lut"] == {"used": 1, "available": 2, "provenance": "estimated"}
    assert found["pipeline"] == {"provenance": "estimated"}
    assert found["fits"] is False and found["limits"] == "DSP"


VERBOSE = """\
tests/test_proof_mutants.py::test_without_a_fault_every_stream_is_equal PASSED [ 8%]
tests/test_proof_mutants.py::test_a_fault_in_the_rtl_is_named[a truncated state] PASSED
tests/test_proof_mutants.py::test_a_wrong_constant_is_named[one weight] PASSED [99%]
"""


@pytest.mark.parametrize(
    ("status", "text", "caught"), [(0, VERBOSE, 2), (1, VERBOSE, 0), (0, "", 0)]
)
def test_the_faults_that_the_proof_names_are_counted(monkeypatch, status, text, caught):
    """And none where a test failed, or none ran."""

    def run(command, **options):
        assert command[-1].endswith(benchmark.MUTANTS) and Path(command[-1]).exists()
        return subprocess.CompletedProcess(command, status, text, "")

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    if caught:
        assert benchmark.mutants_caught() == caught
    else:
        with pytest.raises(UserError, match="a fault is not named, or the tests do not run"):
            benchmark.mutants_caught()


@pytest.mark.slow
def test_an_untrained_network_is_that_of_the_spec():
    import numpy as np

    spec = benchmark.named_spec("demo").replace(
        widths=(2, 2, 2, 2, 4), decoder_widths=(2, 2, 2, 2), pyramid_width=4, pyramid="bins",
        pyramid_bins=(1, 2), states=2, input_size=(32, 64),
    )  # fmt: skip
    images = np.random.default_rng(0).normal(size=(12, 1, 32, 64)).astype(np.float32)
    made = [benchmark.untrained(spec, "3x3=4", images) for _ in range(2)]
    assert made[0].source.shape("image") == (1, 1, 32, 64) and not made[0].training
    assert made[0].bits["shallow.1.conv"] == 4 and made[0].bits["stages.0.local"] == 8
    first, second = (dict(m.state_dict()) for m in made)
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.slow
def test_a_checkpoint_is_exported_at_another_size(
    monkeypatch, tmp_path, tiny_spec, tiny_quantized, tiny_data
):
    """With the same weights and scales; a network of others has its one size."""
    import torch

    path = tmp_path / "model.pt"
    save_checkpoint(
        path, tiny_spec, tiny_quantized, kind="quantized", bits=tiny_quantized.bits,
        scales=tiny_quantized.scales, graph=topology_json(tiny_quantized.source),
    )  # fmt: skip
    large = benchmark.resized(tiny_quantized, tiny_spec.replace(input_size=(64, 64)))
    again = benchmark.resized(large, tiny_spec)
    images = torch.from_numpy(tiny_data.val.images[:2])
    with torch.no_grad():
        assert large(torch.zeros(1, 1, 64, 64)).shape == (1, 9, 64, 64)
        assert torch.equal(again(images), tiny_quantized(images))
    exported = {}

    def build(path, images, folder, options, progress):
        shape = onnx.load(path).graph.input[0].type.tensor_type.shape
        exported.update(shape=[d.dim_value for d in shape.dim], images=images.shape)
        return Built((), DETAIL)

    monkeypatch.setattr(benchmark, "build", build)
    load = DataSource.load
    phantom = DataSource(None, None)
    monkeypatch.setattr(DataSource, "load", lambda source, spec, training=None: load(phantom, spec))
    words = ["--model", str(path), "--data", "x", "--input-size", "64", "-o", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", ["fpga_design.py", *words])
    assert benchmark.main(benchmark.parse()) == 0
    assert exported == {"shape": [1, 1, 64, 64], "images": (2, 1, 64, 64)}
    foreign = GraphSpec("of others", 1, 9, (32, 32), topology_digest(tiny_quantized.source))
    save_checkpoint(
        path, foreign, tiny_quantized, kind="quantized", bits=tiny_quantized.bits,
        scales=tiny_quantized.scales, graph=topology_json(tiny_quantized.source),
    )  # fmt: skip
    with pytest.raises(UserError, match="network of others: input 64x64; its graph is for 32x32"):
        benchmark.main(benchmark.parse())


def test_a_spec_may_be_some_fields_of_a_named_one(tmp_path):
    path = tmp_path / "narrow.json"
    path.write_text('{"base": "edge", "name": "narrow", "states": 4, "input_size": [64, 64]}')
    found, network = benchmark.spec_of(str(path))
    assert network is None
    edge = benchmark.named_spec("edge")
    assert found == edge.replace(name="narrow", states=4, input_size=(64, 64))
    assert benchmark.spec_of("edge") == (edge, None)
    path.write_text('{"states": 4}')
    with pytest.raises(UserError, match="it has no 'name'"):
        benchmark.spec_of(str(path))
    with pytest.raises(UserError, match="unknown spec 'bass'"):
        benchmark.spec_of("bass")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "m.pt", "--spec", "base"], "not allowed with"),
        ([], "one of the arguments --model --spec is required"),
    ],
)
def test_a_network_is_a_checkpoint_or_a_spec(monkeypatch, capsys, words, message):
    monkeypatch.setattr("sys.argv", ["fpga_design.py", *words])
    with pytest.raises(SystemExit):
        benchmark.parse()
    assert message in capsys.readouterr().err


def test_a_checkpoint_needs_its_data(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["fpga_design.py", "--model", str(tmp_path / "m.pt")])
    with pytest.raises(UserError, match="without --data"):
        benchmark.main(benchmark.parse())


@pytest.mark.slow
def test_a_design_that_was_not_simulated_keeps_one_that_was(monkeypatch, tmp_path):
    """From the words of the command to the file, with a build that says what it was asked."""
    import json

    other, result = tmp_path / "narrow.json", tmp_path / "out.json"
    other.write_text('{"provenance": "simulated"}')
    spec = tmp_path / "tiny.json"
    spec.write_text(
        '{"base": "demo", "name": "tiny", "widths": [2, 2, 2, 2, 4], "pyramid_width": 4, '
        '"decoder_widths": [2, 2, 2, 2], "states": 2, "input_size": [32, 32]}'
    )
    asked = {}

    def build(path, images, folder, options, progress):
        asked.update(options, images=images.shape, exported=path.exists())
        return Built((), DETAIL)

    monkeypatch.setattr(benchmark, "build", build)
    words = ["--spec", str(spec), "--board", "U250", "--beside", str(other), "-o", str(result)]
    monkeypatch.setattr("sys.argv", ["fpga_design.py", *words])
    assert benchmark.main(benchmark.parse()) == 0
    assert asked["board"] == "U250" and asked["exported"] and asked["images"] == (2, 1, 32, 32)
    found = json.loads(result.read_text())
    assert (found["weights"], found["bits"], found["spec"]["name"]) == ("untrained", "8", "tiny")
    assert found["provenance"] == "estimated" and found["beside"] == {"provenance": "simulated"}
    assert str(tmp_path) not in result.read_text() and "model_sha256" not in found


NNUNET = '{"widths": [4, 6], "strides": [2], "input_size": [16, 16], "classes": 9, "channels": 1}'


def test_a_file_may_describe_an_nnunet_with_batch_norms(tmp_path):
    pytest.importorskip("dynamic_network_architectures")
    path = tmp_path / "nnunet.json"
    path.write_text(NNUNET)
    spec, network = benchmark.spec_of(str(path), 32)
    assert (spec.name, spec.input_size, spec.classes) == ("nnunet-4-6", (32, 32), 9)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2 * 2 + 2 and not any(
        isinstance(m, nn.InstanceNorm2d) for m in network.modules()
    )
    path.write_text(NNUNET.replace("[2]", "[2, 2]"))
    with pytest.raises(UserError, match="2 widths and 2 strides; expected one less"):
        benchmark.spec_of(str(path))


@pytest.mark.slow
def test_trained_weights_come_into_it_whatever_their_norms(tmp_path):
    """One of another network is refused by the name of a weight."""
    pytest.importorskip("dynamic_network_architectures")
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(1)
    trained = PlainConvUNet(
        1, 2, [4, 6], nn.Conv2d, 3, [1, 2], 2, 9, 2, True, nn.InstanceNorm2d, {"affine": True},
        nonlin=nn.LeakyReLU,
    )  # fmt: skip
    module = GraphModule(*capture(trained.eval(), (1, 1, 16, 16)))
    spec = source_spec(module.graph, "trained")
    checkpoint, path = tmp_path / "model.pt", tmp_path / "nnunet.json"
    save_network(checkpoint, spec, module)
    path.write_text(NNUNET)
    spec, network = benchmark.spec_of(str(path))
    made = benchmark.with_weights(network, spec, checkpoint)
    given, taken = module.weights(), made.weights()
    assert all(np.array_equal(array, taken[name]) for name, array in given.items())
    others = set(taken) - set(given)
    assert len(others) == 2 * 6 and not any(made.graph.weights[name].learned for name in others)
    path.write_text(NNUNET.replace("6]", "8]"))
    spec, other = benchmark.spec_of(str(path))
    with pytest.raises(UserError, match="is none of the --spec's network"):
        benchmark.with_weights(other, spec, checkpoint)


def test_weights_need_a_spec_and_data(monkeypatch):
    monkeypatch.setattr("sys.argv", ["fpga_design.py", "--spec", "edge", "--weights", "model.pt"])
    with pytest.raises(UserError, match="without --spec and --data"):
        benchmark.main(benchmark.parse())
