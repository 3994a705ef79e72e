"""qat --norm batch, from a network with InstanceNorm to a graph that hardware takes."""

import onnx
import pytest
import torch
from torch import nn

from lmaunet.deploy import commands, pipeline
from lmaunet.deploy.outcome import asked_of, current_outcome
from lmaunet.deploy.quantizing import QatOptions, _norms, qat
from lmaunet.deploy.reporting import converted_norms
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.graph.capture import capture
from lmaunet.graph.file import topology_digest
from lmaunet.graph.module import GraphModule
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.quant.qat import load_quantized
from lmaunet.sources.checkpoint import restore, save_network, spec_of
from lmaunet.stage import read_json
from lmaunet.train.processes import process_count

SIZE = (32, 32)
PHANTOM = DataSource(None)
OPTIONS = QatOptions(1, 1e-3, 8, 0, joins="shared", norm="batch", norm_epochs=1)


def block(channels, out):
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, 1, 1), nn.InstanceNorm2d(out, affine=True), nn.ReLU()
    )


class Normed(nn.Module):
    """A U-Net of operators that hardware has, but for its norms."""

    def __init__(self, classes=9):
        super().__init__()
        self.first, self.deep, self.join = block(1, 8), block(8, 8), block(16, 8)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, image):
        first = self.first(image)
        deep = self.up(self.deep(self.pool(first)))
        return self.head(self.join(torch.cat([deep, first], 1)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run after the command, its checkpoint, what it said, the graph that went in."""
    place = tmp_path_factory.mktemp("norm")
    torch.manual_seed(0)
    graph, weights = capture(Normed().eval(), (1, 1, *SIZE))
    checkpoint, run = place / "network.pt", place / "run"
    save_network(checkpoint, spec_of(graph, "normed"), GraphModule(graph, weights).eval())
    content, lines, _ = qat(run, checkpoint, PHANTOM, None, OPTIONS)
    return run, checkpoint, graph, content, lines


def test_the_command_says_each_step_and_the_cost(made):
    _, _, _, content, lines = made
    named = [line.split("  ")[0] for line in lines]
    assert [name for name in named if name.startswith(("FP32", "quantized"))] == [
        "FP32 as it came", "FP32 control, the same extra steps",
        "FP32 with batch normalization, converted alone",
        "FP32 with batch normalization, distilled",
        "quantized, calibrated only (PTQ)", "quantized, after QAT",
    ]  # fmt: skip
    scores = content["scores"]
    cost = 100 * (scores["distilled"]["dice"] - scores["float32"]["dice"])
    assert (
        "norms: 3 InstanceNorm became batch normalization; after 1 epoch(s) of distillation Dice "
        f"on held-out slices changed by {cost:+.2f} points"
    ) in lines


def test_the_cost_is_said_of_the_last_step_that_there_is():
    norms = {"converted": {"InstanceNorm": 2, "GroupNorm": 1}, "epochs": 0}
    scores = {"float32": {"dice": 0.875}, "converted": {"dice": 0.75}}
    (line,) = _norms({"norms": norms, "scores": scores})
    assert line == (
        "norms: 2 InstanceNorm and 1 GroupNorm became batch normalization; without distillation "
        "Dice on held-out slices changed by -12.50 points"
    )
    scores["converted"]["dice"] = None
    assert _norms({"norms": norms, "scores": scores})[0].endswith("no held-out slice shows a class")
    assert _norms({"scores": scores}) == _norms({"norms": {"converted": {}}}) == []


def test_a_report_says_that_the_targets_network_has_other_norms(made):
    run = made[0]
    assert converted_norms(run) == [
        "the targets' network has batch normalization in place of 3 InstanceNorm (qat --norm "
        "batch); FP32 is the network as it came"
    ]


def test_the_reference_is_the_network_as_it_came(made):
    run, _, graph, _, _ = made
    control = run / "control" / "control.pt"
    float32 = restore(load_checkpoint(control), control)
    assert float32.graph == graph
    pipeline.export(run, PHANTOM, lambda fraction, line: None)
    kinds = {}
    for name in ("float32", "qcdq", "qonnx"):
        model = onnx.load(run / "export" / f"network.{name}.onnx")
        kinds[name] = {node.op_type for node in model.graph.node}
    assert "InstanceNormalization" in kinds["float32"]
    for name in ("qcdq", "qonnx"):
        assert not [kind for kind in kinds[name] if "Normalization" in kind], name
    quantized = load_quantized(run / "qat" / "model.pt")
    interface = read_json(run / "export" / "interface.json")
    assert interface["graph"] == topology_digest(quantized.source) != topology_digest(graph)
    assert interface["network"]["graph"] == topology_digest(graph)


def test_a_hardware_design_takes_it_and_not_the_one_with_its_norms(made, tmp_path):
    pytest.importorskip("finn")
    from lmaunet.export.network import export_qonnx
    from lmaunet.fpga.graph.lower import lower
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork

    run, checkpoint, graph, _, _ = made
    pipeline.export(run, PHANTOM, lambda fraction, line: None)
    lowered = lower(run / "export" / "network.qonnx.onnx", {})
    assert lowered.host.output_shape[1] == 9
    module = restore(load_checkpoint(checkpoint), checkpoint)
    kept = QuantNetwork(graph, module.weights())
    calibrate(kept, torch.rand(4, 1, *SIZE).numpy())
    export_qonnx(kept.eval(), torch.rand(1, 1, *SIZE), tmp_path / "kept.onnx")
    with pytest.raises(UserError, match=r"operator InstanceNormalization .* no hardware mapping"):
        lower(tmp_path / "kept.onnx", {})


def test_its_engine_has_no_norm_left(made):
    pytest.importorskip("tensorrt_rtx")
    run, *_ = made
    content, _ = commands.build(run, "trt", {"sms": ["SM86"], "precision": "int8"})
    found = content["detail"]["layer_precisions"]
    assert found["norms_in_the_network"] == 0
    assert {row["norms"] for row in found["by_precision"].values()} == {0}
    assert found["by_precision"]["INT8"]["layers"] >= 4


def test_a_result_is_current_for_its_own_norms_alone(made):
    run, checkpoint, *_ = made

    def current(**changes):
        options = QatOptions(**{**vars(OPTIONS), **changes})
        own = {"settings": options.settings().to_json(), "processes": process_count()}
        return current_outcome(run, "qat", checkpoint, PHANTOM, own, 0, asked_of(None, None))

    assert current().cached
    assert current(norm="keep") is None and current(norm_epochs=2) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "norm 'group'; use one of: keep, batch"),
        ({"norm": "batch", "norm_epochs": -1}, "norm_epochs -1; give 0"),
    ],
)
def test_what_can_t_be_is_refused_before_anything_is_loaded(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        qat(tmp_path, tmp_path / "none.pt", PHANTOM, None, QatOptions(**options))
