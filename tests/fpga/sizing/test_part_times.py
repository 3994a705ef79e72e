"""Which part of the network a node is of, and when that part begins and ends."""

from __future__ import annotations

import pytest

from lmaunet.fpga.graph.executor import Executor, Step
from lmaunet.fpga.operators.registry import OPERATORS
from lmaunet.fpga.sizing.folding import FoldedNode
from lmaunet.fpga.sizing.part_times import parts_of, pipeline
from lmaunet.fpga.sizing.schedule import schedule

# name, op, inputs, the QONNX node that it comes from
NODES = [
    ("pad", "FMPadding", ["image"], "/shallow/0/conv/conv/Conv"),
    ("conv", "MVAU", ["pad"], "/shallow/0/conv/conv/Conv"),
    ("codes", "Requantize", ["conv"], "/shallow/0/relu/act_quant/export_handler/Quant"),
    ("pool", "Pool", ["codes"], "/pool/MaxPool"),
    ("local", "VVAU", ["pool"], "/stages/0/local/conv/Conv"),
    ("x", "MVAU", ["local"], "/stages/0/mamba/in_proj/0/conv/Conv"),
    ("y", "SelectiveScan", ["x"], "/stages/0/mamba/scan/act_quant/export_handler/Quant"),
    ("z", "MVAU", ["local"], "/stages/0/mamba/in_proj/1/conv/Conv"),
    ("gated", "ElementwiseMul", ["y", "z"], "/stages/0/mamba/mul/Mul"),
    ("sum", "ElementwiseAdd", ["local", "gated"], "/stages/0/add/Add"),
    ("logits", "MVAU", ["sum"], "/head/conv/Conv"),
]
PARTS = {
    "pad": "shallow.0", "conv": "shallow.0", "codes": "shallow.0",
    "pool": "stages.0 large kernel", "local": "stages.0 large kernel",
    "x": "stages.0 Mamba", "y": "stages.0 scan", "z": "stages.0 Mamba",
    "gated": "stages.0 gate and sum", "sum": "stages.0 gate and sum", "logits": "head",
}  # fmt: skip
ORIGINS = {name: origin for name, _, _, origin in NODES}


@pytest.fixture
def nodes():
    return [FoldedNode(Step(op, {}, tuple(inputs), (name,))) for name, op, inputs, _ in NODES]


def found(nodes, begin=None, end=None):
    begins = {name: 10.0 * i + 10 for i, (name, *_) in enumerate(NODES)} | {"image": 0.0}
    ends = {name: begin + 500 for name, begin in begins.items()}
    return pipeline(
        nodes, parts_of(nodes, ORIGINS), "image", begins | (begin or {}), ends | (end or {}),
        latency=700, clock_mhz=200.0, provenance="simulated",
    )  # fmt: skip


def test_each_node_is_of_a_part(nodes):
    assert parts_of(nodes, ORIGINS) == PARTS


def test_a_network_of_other_names_has_its_modules(nodes):
    origins = {name: f"/block{i // 4}/op/Conv" for i, (name, *_) in enumerate(NODES)}
    origins["logits"] = "Conv_7"
    parts = parts_of(nodes, origins)
    assert parts["pad"] == "block0" and parts["y"] == "block1 scan"
    assert parts["logits"] == "output"


def test_parts_come_in_the_order_of_the_data(nodes):
    rows = found(nodes)["parts"]
    assert [row["name"] for row in rows] == ["image", *dict.fromkeys(PARTS.values())]
    assert [row["nodes"] for row in rows] == [0, 3, 2, 2, 1, 2, 1]
    assert rows[1] == {
        "name": "shallow.0", "module": "shallow.0", "nodes": 3, "begin": 20, "end": 530,
        "begin_ms": 0.0001, "end_ms": 0.00265,
    }  # fmt: skip
    assert {row["module"] for row in rows[2:6]} == {"stages.0"}
    assert found(nodes)["ms"] == 0.0035


def test_a_border_does_not_begin_or_end_a_part(nodes, monkeypatch):
    def shallow():
        """Return the part of a border that is early, and early again for the next image."""
        row = found(nodes, begin={"pad": 1.0}, end={"pad": 690.0})["parts"][1]
        return row["begin"], row["end"]

    assert shallow() == (20, 530)
    # the mutant: a border counts
    for kind in OPERATORS.values():
        monkeypatch.setattr(kind, "moves_only", False)
    assert shallow() == (1, 690)


def test_the_schedule_tells_when_each_stream_begins_and_ends(whole):
    executor = Executor(whole.model.model)
    nodes = [FoldedNode(step) for step in executor.steps]
    planned = schedule(nodes, whole.lowered.graph.shapes, executor.input)
    assert set(planned.begins) == set(planned.ends)
    assert planned.begins[executor.input] == 0
    assert planned.ends[executor.output] == planned.latency
    assert all(planned.begins[t] <= planned.ends[t] <= planned.latency for t in planned.begins)
    parts = parts_of(nodes, whole.lowered.graph.origins)
    rows = pipeline(
        nodes, parts, executor.input, planned.begins, planned.ends,
        latency=planned.latency, clock_mhz=250.0, provenance="estimated",
    )["parts"]  # fmt: skip
    assert sum(row["nodes"] for row in rows) == len(nodes)
    assert rows[-1]["end"] == round(planned.latency)
