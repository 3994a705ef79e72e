"""The rows of the performance benchmark, the processes that measure, and the count of nodes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "tests/export")]

import performance  # noqa: E402
import performance_rows  # noqa: E402
import scan_in_onnx  # noqa: E402
from performance_rows import Missing, Row  # noqa: E402
from performance_worker import OPENERS  # noqa: E402
from performance_workers import Effort, Job, figures, measure  # noqa: E402
from scan_models import feeds, random_arrays, scan_model  # noqa: E402

FIGURES = {
    "median_ms", "q1_ms", "q3_ms", "runs", "ratio_to_ort_fp32", "peak_mb", "load_ms", "loads",
    "file_bytes", "nodes",
}  # fmt: skip
NAMES = {"name", "spec", "input", "backend", "precision", "lowering"}


def counted(forms) -> list[dict]:
    rows = []
    for tokens in (4096, 16384, 65536):
        model = scan_model(random_arrays(1, tokens, 2, 1))
        for name, form in forms.items():
            nodes = scan_in_onnx.count_nodes(form(model))
            row = {"lowering": name, "tokens": tokens, "channels": 2, "states": 1, "nodes": nodes}
            rows.append(row)
    return rows


def test_no_form_grows_with_the_tokens_but_two_level_by_a_logarithm():
    rows = counted(scan_in_onnx.forms())
    assert scan_in_onnx.growing_nodes(rows) == []
    nodes = {(row["lowering"], row["tokens"]): row["nodes"] for row in rows}
    assert nodes["unrolled", 4096] == nodes["unrolled", 65536] <= 136
    assert nodes["function", 4096] == nodes["function", 65536] < 30
    assert nodes["two_level", 65536] - nodes["two_level", 4096] == 4 * 11


def test_a_form_that_grows_is_caught():
    """The mutant: a node more for each 256 tokens."""

    def growing(model):
        result = scan_in_onnx.forms()["unrolled"](model)
        for index in range(model.graph.input[0].type.tensor_type.shape.dim[1].dim_value // 256):
            result.graph.node.append(helper.make_node("Identity", ["x"], [f"more_{index}"]))
        return result

    lines = scan_in_onnx.growing_nodes(counted({"unrolled": growing}))
    assert len(lines) == 3
    assert lines[0].startswith("unrolled: 147 nodes for 4096 tokens and 195 for 16384; expected at")


@pytest.fixture
def few_rows(monkeypatch):
    def missing(networks, path):
        raise Missing("tool", "not installed", "install it")

    def broken(networks, path):
        path.write_bytes(b"this is no model")

    kept = [
        row
        for row in performance_rows.rows()
        if row.backend == "onnxruntime"
        and row.lowering == "unrolled"
        and "ModelOpt" not in row.name
    ]
    kept += [
        Row("absent", "onnxruntime", "int8", "", "onnxruntime", missing),
        Row("broken", "torch", "fp32", "", "onnxruntime", broken),
    ]
    monkeypatch.setattr(performance, "rows", lambda: kept)
    forms = scan_in_onnx.forms()
    monkeypatch.setattr(scan_in_onnx, "forms", lambda: {"function": forms["function"]})
    monkeypatch.setattr(performance, "QUICK_LENGTHS", (16,))


@pytest.mark.slow
def test_a_quick_run_gives_each_row_its_figures_or_why_it_has_none(
    few_rows, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "performance.json"
    monkeypatch.setattr(
        sys, "argv", ["performance.py", "--quick", "--budget-s", "0.1", "-o", str(out)]
    )
    assert performance.main() == 0
    content = json.loads(out.read_text())
    fp32, int8, absent, broken = content["rows"]
    for row in (fp32, int8):
        assert set(row) == NAMES | FIGURES
        assert all(row[key] > 0 for key in FIGURES)
        assert (row["spec"], row["input"], row["loads"]) == ("quick", "32x32", 1)
        assert row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
    assert fp32["ratio_to_ort_fp32"] == 1
    assert (fp32["precision"], int8["precision"]) == ("fp32", "int8")
    assert int8["file_bytes"] < fp32["file_bytes"]
    assert absent == {k: absent[k] for k in NAMES} | {
        "unavailable": {"tool": "tool", "why": "not installed", "fix": "install it"}
    }
    assert "is no ONNX model" in broken["unavailable"]["why"] and not FIGURES - {"nodes"} & set(
        broken
    )
    assert content["weights"] == "untrained" and content["seed"] == 0
    assert content["machine"]["cpu"] and content["machine"]["threads"] >= 1
    assert {"onnxruntime", "torch", "python"} <= set(content["versions"])
    (scan,) = content["scans"]
    assert scan["ratio"] == 1 and scan["median_ms"] > 0 and scan["nodes"] > 10
    printed = capsys.readouterr().out
    assert "| unavailable: not installed; install it |" in printed
    assert printed.count("| quick 32x32 |") == 4


def test_every_row_has_a_runtime_and_a_name_of_its_own():
    rows = performance_rows.rows()
    assert {row.opener for row in rows} <= set(OPENERS)
    assert len({(row.name, row.lowering) for row in rows}) == len(rows)
    ours = {(row.backend, row.precision) for row in rows}
    assert {("torch", "fp32"), ("openvino", "fp32"), ("openvino", "int8")} <= ours


@pytest.mark.slow
def test_without_modelopt_the_row_says_how_to_get_it(tmp_path, tiny_spec):
    networks = performance_rows.make_networks(
        tiny_spec, tmp_path, seed=0, checkpoint=None, modelopt=Path(sys.executable)
    )
    with pytest.raises(Missing, match="modelopt"):
        performance_rows._modelopt(networks, tmp_path / "out.onnx")
    assert networks.images.shape[1:] == (1, 32, 32)
    assert {p.name for p in tmp_path.iterdir()} >= {"inputs.npz", "model.pt"}


def test_a_process_that_dies_is_a_failure_of_its_row_alone(tmp_path):
    arrays = random_arrays(1, 8, 2, 1)
    np.savez(tmp_path / "inputs.npz", **feeds(arrays))
    onnx.save(scan_in_onnx.forms()["unrolled"](scan_model(arrays)), tmp_path / "a.onnx")
    good = Job("onnxruntime", tmp_path / "a.onnx", tmp_path / "inputs.npz")
    bad = Job("no such runtime", tmp_path / "a.onnx", tmp_path / "inputs.npz")
    # nothing stays loaded between the turns
    measure([good, bad], Effort(1, 0.01, loads=1, memory_mb=0), lambda line: None)
    assert bad.failed == "KeyError: 'no such runtime'" and not bad.rounds_ms
    assert not good.failed and len(good.rounds_ms) == 3 and good.peak_mb[0] > 0


def test_ratios_are_of_turns_and_quartiles_of_runs(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    slow, fast = (
        Job("", path, path, [3.0, 1.0, 2.0], [7.0], rounds)
        for rounds in ([[2.0, 2.0], [40.0]], [[1.0], [20.0, 20.0]])
    )
    found = figures(slow, fast)
    assert found["ratio"] == 2 and found["load_ms"] == 2 and found["file_bytes"] == 5
    assert found["median_ms"] == 2 and found["runs"] == 3 and found["q3_ms"] == 21
    assert "ratio" not in figures(slow, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads 0"),
        (["--lengths", "0"], "give numbers above 0"),
        (["--modelopt-python", "nowhere"], "does not exist"),
        (["--specs", "huge"], "unknown spec 'huge'"),
        (["--sizes", "100"], "multiples of 16"),
        (["--ckpt", "missing.pt"], "missing.pt does not exist"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["performance.py", *arguments])
    assert performance.main() == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_options_choose_the_networks():
    options = argparse.Namespace(ckpt=None, quick=False, specs=["edge", "base"], sizes=[256, 512])
    wanted = performance.networks_wanted(options)
    assert [(s.name, s.input_size) for s in wanted] == [
        ("edge", (256, 256)), ("base", (256, 256)), ("edge", (512, 512)), ("base", (512, 512)),
    ]  # fmt: skip
