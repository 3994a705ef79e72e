"""What the comparison of quantizers reads from graphs and tools, and how it ends on bad input."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests/export")]

import peer_graph  # noqa: E402
import peers  # noqa: E402
from peer_tools import ToolFailed, parse_answer, quantize_with_modelopt  # noqa: E402
from scan_models import feeds, random_arrays, scan_model  # noqa: E402

from lmaunet.errors import UserError  # noqa: E402
from lmaunet.export.function import attach  # noqa: E402
from lmaunet.export.reference import open_session  # noqa: E402
from lmaunet.stage import sha256, write_json  # noqa: E402

ARRAYS = random_arrays(1, 20, 3, 2)


@pytest.fixture
def exported() -> onnx.ModelProto:
    return attach(scan_model(ARRAYS))


def quantize_tensor(graph: onnx.GraphProto, name: str) -> None:
    """Put QuantizeLinear and DequantizeLinear between a tensor and all that read it."""
    scale, zero, codes, values = (f"{name}/{part}" for part in ("scale", "zero", "q", "dq"))
    for node in graph.node:
        node.input[:] = [values if i == name else i for i in node.input]
    pair = [
        helper.make_node("QuantizeLinear", [name, scale, zero], [codes], name=codes),
        helper.make_node("DequantizeLinear", [codes, scale, zero], [values], name=values),
    ]
    maker = next((i for i, n in enumerate(graph.node) if name in n.output), -1)
    nodes = [*graph.node[: maker + 1], *pair, *graph.node[maker + 1 :]]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.float32(0.05), scale))
    graph.initializer.append(numpy_helper.from_array(np.int8(0), zero))


@pytest.mark.parametrize("form", ["function", "inlined", "unrolled", "two_level"])
def test_forms_compute_the_same(exported, form):
    run = [
        open_session(model, optimize=True).run(None, feeds(ARRAYS))[0]
        for model in (exported, peer_graph.make_form(exported, form))
    ]
    np.testing.assert_allclose(run[1], run[0], atol=1e-5)


def test_without_state_leaves_the_skip_alone(exported):
    inputs, skip = feeds(ARRAYS), ARRAYS["D"] * ARRAYS["x"]
    whole = open_session(exported, optimize=False).run(None, inputs)[0]
    got = open_session(peer_graph.without_state(exported), optimize=False).run(None, inputs)[0]
    np.testing.assert_array_equal(got, skip)
    assert np.abs(whole - skip).max() > 0.01


@pytest.mark.parametrize("form", ["function", "inlined", "unrolled"])
def test_float_loops_are_reported_as_such(exported, form):
    model = peer_graph.make_form(exported, form)
    report = peer_graph.scan_report(model, exported, loop_free=False)
    assert report["verdict"] == "float loops, 0 of 4 inputs 8 bit"


def test_quantized_inputs_of_a_loop_are_counted(exported):
    model = peer_graph.make_form(exported, "unrolled")
    quantize_tensor(model.graph, "B")
    report = peer_graph.scan_report(model, exported, loop_free=False)
    assert report["verdict"] == "float loops, 1 of 4 inputs 8 bit"


def test_quantizers_in_a_body_are_counted(exported):
    model = peer_graph.make_form(exported, "unrolled")
    loop = next(node for node in model.graph.node if node.op_type == "Scan")
    body = next(a.g for a in loop.attribute if a.name == "body")
    quantize_tensor(body, body.input[0].name)
    report = peer_graph.scan_report(model, exported, loop_free=False)
    assert report["quantizers_in_loops"] == 2
    assert report["verdict"] == "loops with 2 quantizers, 0 of 4 inputs 8 bit"


def test_a_lost_loop_is_reported(exported):
    model = peer_graph.make_form(exported, "two_level")
    report = peer_graph.scan_report(model, exported, loop_free=False)
    assert report["verdict"] == "1 of 1 loops lost"


def test_quantized_tensors_of_a_recurrence_without_loop_are_counted(exported):
    model = peer_graph.make_form(exported, "two_level")
    inner = next(node for node in model.graph.node if node.op_type == "Exp").output[0]
    for name in ("B", inner):
        quantize_tensor(model.graph, name)
    report = peer_graph.scan_report(model, exported, loop_free=True)
    assert report["verdict"] == "1 tensors of the recurrence at 8 bit"


def test_kernels_are_counted_outside_of_loops(exported):
    model = peer_graph.make_form(exported, "unrolled")
    in_loop = [n for n in peer_graph.all_nodes(list(model.graph.node)) if n.op_type == "MatMul"]
    assert len(in_loop) == 1
    for op_type in ("QLinearConv", "QLinearMatMul", "FusedConv"):
        model.graph.node.append(helper.make_node(op_type, [], [op_type]))
    assert peer_graph.count_kernels(model) == {"integer": 2, "float": 1}


def test_decibels():
    signal = np.array([3.0, 4.0], np.float32)
    assert peers.decibels(signal, signal + np.float32([0.3, 0.4])) == pytest.approx(20, abs=1e-4)
    assert peers.decibels(signal, signal) is None


def test_answers_of_another_interpreter():
    assert parse_answer('log\n{"seconds": 2.0}\n', 0) == {"seconds": 2.0}
    with pytest.raises(ToolFailed, match=r"^too new$"):
        parse_answer('{"failed": "too new"}', 0)
    for output in ("", "Segmentation fault"):
        with pytest.raises(ToolFailed, match="status -11 and no answer"):
            parse_answer(output, -11)


def test_an_interpreter_without_modelopt_is_a_tool_that_failed(tmp_path, exported):
    if importlib.util.find_spec("modelopt") is not None:
        pytest.skip("ModelOpt is installed here")
    images = np.zeros((1, 1, 4, 4), np.float32)
    for python, expected in ((None, "not installed"), (Path(sys.executable), "modelopt")):
        with pytest.raises(ToolFailed, match=expected):
            quantize_with_modelopt(
                exported, images, tmp_path / "out.onnx", calibration="max", python=python
            )


def test_commands_show_no_folder_of_this_machine():
    given = ["--data", "../data/acdc_train.npz", "/x/peers/bin/python", "runs/a/model.pt", "32"]
    expected = ["--data", "DATA/acdc_train.npz", "PEERS/bin/python", "runs/a/model.pt", "32"]
    assert [peers.neutral(argument) for argument in given] == expected


def test_a_run_on_another_checkpoint_is_refused(tmp_path):
    checkpoint = tmp_path / "model.pt"
    checkpoint.write_bytes(b"weights")
    manifest = {
        "schema": 1,
        "key": "",
        "outputs": {},
        "inputs": {"checkpoint": {"sha256": sha256(checkpoint)}},
        "options": {"data_sha256": "of the data"},
    }
    (tmp_path / "qat").mkdir()
    write_json(tmp_path / "qat/manifest.json", manifest)
    with pytest.raises(UserError, match="other data"):
        peers.require_same(tmp_path, checkpoint, "of other data")
    with pytest.raises(UserError, match="no ort build"):
        peers.require_same(tmp_path, checkpoint, "of the data")
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(UserError, match="another checkpoint"):
        peers.require_same(tmp_path, checkpoint, "of the data")


def test_a_failed_tool_is_a_row_of_the_table():
    failed = {"tool": "a", "method": "b", "form": "c", "failed": "x | y"}
    row = peers.table([failed]).splitlines()[-1]
    assert row.count(" | ") == peers.table([]).splitlines()[0].count(" | ")
    assert "x \\| y" in row


@pytest.mark.slow
def test_a_missing_checkpoint_is_one_line_and_status_2(tmp_path):
    command = [
        sys.executable, ROOT / "benchmarks/peers.py", "--ckpt", tmp_path / "none.pt",
        "--data", tmp_path, "-o", tmp_path / "out.json",
    ]  # fmt: skip
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: checkpoint")
    assert not (tmp_path / "out.json").exists()


def test_a_row_of_float32_and_of_a_tool_that_breaks(tmp_path, tiny_model, tiny_data):
    """The tool here makes outputs that are not finite, or fails outright."""
    bench = object.__new__(peers.Bench)
    bench.folder, bench.data, bench.reference = tmp_path, tiny_data, None
    image = peers.torch.from_numpy(tiny_data.train.images[:1])
    peers.export_float32(tiny_model.eval(), image, tmp_path / "float32.onnx")
    bench.exported = onnx.load(tmp_path / "float32.onnx")

    def broken(out: Path):
        model = peer_graph.make_form(bench.exported, "unrolled")
        last = model.graph.node[-1]
        output = last.output[0]
        last.output[0] = "before"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(np.nan), "nan"))
        model.graph.node.append(helper.make_node("Add", ["before", "nan"], [output], name="nan"))
        onnx.save(model, out)
        return 1.0, {}

    def raises(out: Path):
        raise IndexError(f"{out} is out of range")

    def saves(out: Path):
        return bench._save(bench.exported, out)

    rows = [
        bench.measure(peers.Entry("t", "m", "unrolled", make))
        for make in (saves, saves, broken, raises)
    ]
    assert rows[0]["kernels"]["integer"] == 0 < rows[0]["kernels"]["float"]
    assert "same_class" not in rows[0]
    assert rows[1]["same_class"] == 1
    assert "not finite" in rows[2]["failed"]
    assert str(tmp_path) not in rows[3]["failed"]
    assert "IndexError in test_peers.py" in rows[3]["failed"]
    assert json.loads(json.dumps(rows)) == rows
