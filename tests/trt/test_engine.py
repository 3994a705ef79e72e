import importlib.util
import os
import sys

import onnx
import pytest
from onnx import TensorProto, helper
from qcdq_nets import convolutions_only

from lmaunet.errors import UserError
from lmaunet.trt import engine
from lmaunet.trt.engine import build_engine, load_build
from lmaunet.trt.plan_bytes import unpack

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.onnx"
    onnx.save(convolutions_only(), path)
    return path


def test_a_build_leaves_its_files_and_says_what_it_does(network, tmp_path):
    lines = []
    built = build_engine(network, tmp_path / "out", ["SM86", "SM89"], lines.append)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "engine.json", "engine.log", "engine.plan", "engine.plan.xz", "layers.json",
    ]  # fmt: skip
    assert built.record["sms"] == ["SM86", "SM89"]
    assert built.record["plan_bytes"] == built.plan.stat().st_size > 10_000
    assert built.record["build_seconds"] > 0
    assert built.record["parser_errors"] == []
    assert lines[0].startswith("TensorRT: loading tensorrt_rtx ")
    assert "TensorRT: Building engine" in lines
    assert {node for layer in built.layers for node in layer.onnx_nodes} >= {"/stem", "/head"}
    assert load_build(tmp_path / "out") == built

    again = build_engine(network, tmp_path / "again", ["SM86", "SM89"])
    assert again.plan.read_bytes() == built.plan.read_bytes()
    assert again.packed.read_bytes() == built.packed.read_bytes()
    assert unpack(built.packed.read_bytes()) == built.plan.read_bytes()
    assert 5 * built.packed.stat().st_size < built.plan.stat().st_size

    parts = built.record["bytes"]
    assert parts["plan"] == parts["constants"] + parts["kernels"] + parts["rest"]
    assert parts["packed"] == built.packed.stat().st_size
    assert 0 < parts["kernel_count"] * parts["shared"] < parts["kernels"]


def test_a_network_that_the_library_refuses(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppressionX", ["image"], ["logits"], name="/strange")],
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, 4, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "network.onnx")
    with pytest.raises(UserError, match=r"TensorRT cannot parse network.onnx: .*/strange"):
        build_engine(tmp_path / "network.onnx", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_arguments(network, tmp_path):
    with pytest.raises(UserError, match=r"gone.onnx does not exist; give the path"):
        build_engine(tmp_path / "gone.onnx", tmp_path / "out")
    with pytest.raises(UserError, match="does not support SM90"):
        build_engine(network, tmp_path / "out", ["SM90"])
    assert not (tmp_path / "out").exists()


CRASH = """
import json, os, pathlib, sys
print(json.dumps({"progress": "TensorRT: Optimizing graph 3/30"}), flush=True)
pathlib.Path(sys.argv[2], "engine.log").write_text("first\\n[VERBOSE] tactic 17\\n")
print("glibc says no", file=sys.stderr, flush=True)
os.kill(os.getpid(), 11)
"""


def test_a_crash_inside_the_library(network, tmp_path, monkeypatch):
    monkeypatch.setattr(
        engine,
        "worker_command",
        lambda onnx, folder, sms: [sys.executable, "-c", CRASH, "x", folder],
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "engine.plan").write_text("the old engine")
    with pytest.raises(UserError) as error:
        build_engine(network, tmp_path / "out")
    assert str(error.value).startswith(
        "the TensorRT builder crashed with SIGSEGV after 'TensorRT: Optimizing graph 3/30'; its "
        "last lines:\n  first\n  [VERBOSE] tactic 17\n  glibc says no\n"
    )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["engine.plan"]
    assert (tmp_path / "out" / "engine.plan").read_text(encoding="utf-8") == "the old engine"


HANG = """
import json, os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(json.dumps({"progress": str(os.getpid())}), flush=True)
time.sleep(60)
"""


def test_ctrl_c_kills_the_worker(network, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "worker_command", lambda *_: [sys.executable, "-c", HANG])
    seen = []

    def interrupt(line):
        seen.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(network, tmp_path / "out", progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_worker_that_ends_without_an_answer(network, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "worker_command", lambda *_: [sys.executable, "-c", ""])
    with pytest.raises(UserError, match=r"builder ended with status 0 after 'start'"):
        build_engine(network, tmp_path / "out")


def test_damaged_builds(network, tmp_path):
    with pytest.raises(UserError, match=r"holds no engine: engine.plan is missing; build it again"):
        load_build(tmp_path)
    for name in ("engine.plan", "engine.plan.xz", "layers.json", "engine.json"):
        (tmp_path / name).write_text("{")
    with pytest.raises(UserError, match=r"the engine's tables are damaged; build it again"):
        load_build(tmp_path)
