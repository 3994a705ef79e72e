import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import lmaunet.export.convolutions

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import DENSE, float_network, images, small_network
from recorded import recorded

from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.export import reference
from lmaunet.export.reference import reference_logits
from lmaunet.stage import read_json
from lmaunet.trt import adapter, gpu, loaded_engine, policy, runner
from lmaunet.trt.gpu import Gpu, probe_gpu

needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
without_gpu = pytest.mark.skipif(isinstance(probe_gpu(), Gpu), reason="there is a GPU")
SIZE = 16


def request(folder, model, **options):
    folder.mkdir(parents=True)
    onnx.save(model, folder.parent / "network.onnx")
    samples = images(size=SIZE)
    path = folder.parent / "network.onnx"
    return BuildRequest(folder, path, Path("unused"), samples, options, lambda line: None)


@pytest.fixture(scope="module")
def building(tmp_path_factory):
    """A build, and how it was checked."""
    folder = tmp_path_factory.mktemp("build") / "trt"
    with recorded(
        "lmaunet.export.segments.check_segments", "lmaunet.export.reference.open_session"
    ) as calls:
        asked = request(folder, small_network(SIZE), sms=["SM86"])
        return get_target("trt").build(asked), calls


@pytest.fixture(scope="module")
def built(building):
    return building[0]


@without_gpu
def test_tools_that_are_missing_say_why():
    tools = {tool.name: tool for tool in get_target("trt").probe()}
    device = tools["a CUDA GPU"]
    assert not device.found and not device.required and device.fix
    assert device.purpose.startswith("measures latency; ")
    assert not tools["cuda-bindings"].required
    assert tools["tensorrt_rtx"].required and tools["tensorrt_rtx"].fix == adapter.FIX


def test_a_gpu_is_found(monkeypatch):
    monkeypatch.setattr(gpu, "probe_gpu", lambda: Gpu("RTX 3060", "SM86"))
    device = get_target("trt").probe()[-1]
    assert device.found and (device.version, device.place) == ("SM86", "RTX 3060")


@needs_tensorrt
def test_a_build_holds_the_plan_its_tables_and_its_network(built):
    assert built.shipped == built.folder / "engine.plan.xz"
    assert sorted(p.name for p in built.folder.iterdir()) == [
        "engine.json", "engine.log", "engine.plan", "engine.plan.xz", "layers.json", "network.onnx",
        "precision.json",
    ]  # fmt: skip
    rows = read_json(built.folder / "precision.json")["convolutions"]
    assert [row["node"] for row in rows if row["kind"] == "dense"] == list(DENSE)
    assert {(row["kind"], row["input"], row["weights"]) for row in rows} == {
        ("dense", "Int8", "Int8"), ("depthwise", "Float", "Int8"),
    }  # fmt: skip


@needs_tensorrt
def test_the_detail_sums_the_table_up(built):
    detail = built.detail
    assert detail["int8_convolutions"]["dense"] == {"int8": len(DENSE), "quantized": len(DENSE)}
    assert detail["sms"] == ["SM86"] and detail["build_seconds"] > 0
    parts = detail["bytes"]
    assert parts["packed"] == built.shipped.stat().st_size < parts["plan"]
    assert parts["plan"] == parts["constants"] + parts["kernels"] + parts["rest"]
    assert detail["weight_only_convolutions"] == {"int8": 1, "quantized": 1}
    by_type = detail["bytes"]["weights_by_datatype"]
    assert detail["bytes"]["weights"] == sum(by_type.values())
    json.dumps(detail)


@needs_tensorrt
def test_the_graph_agrees_without_and_with_optimization(built):
    assert [a.name for a in built.agreements] == [
        *(
            f"trt graph, optimization {level}, {quantity}"
            for level in ("off", "full")
            for quantity in ("codes within one", "codes", "logits from the same codes")
        ),
        "trt graph, classes",
    ]
    assert all(a.passed and a.n_total > 0 for a in built.agreements)


@needs_tensorrt
def test_segments_are_compared_on_one_image_and_the_graph_on_two(building):
    """With float biases, as the engine has them."""
    built, calls = building
    assert [
        (given[0], len(given[3]), options["share"], options["optimize"], options["float_biases"])
        for given, options in calls["check_segments"]
    ] == [
        ("trt graph, optimization off", 1, 0.0001, False, True),
        ("trt graph, optimization full", 1, 0.0001, True, True),
    ]
    sessions = [options for _, options in calls["open_session"] if "float_biases" in options]
    assert sessions == [{"optimize": True, "float_biases": True}]
    totals = {a.name: a.n_total for a in built.agreements}
    assert totals["trt graph, classes"] == 2 * SIZE**2
    assert totals["trt graph, optimization off, logits from the same codes"] == 3 * SIZE**2


@needs_tensorrt
@without_gpu
def test_without_a_gpu_the_engines_graph_runs_on_the_cpu(built):
    batch = images(3, SIZE)
    logits = get_target("trt").run(built, batch)
    expected = reference_logits(small_network(SIZE), batch)
    assert logits.shape == expected.shape == (3, 3, SIZE, SIZE)
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()
    assert built.detail["runs_here"] == probe_gpu().why
    assert get_target("trt").provenance(built) == "emulated"


@needs_tensorrt
def test_with_a_gpu_the_engine_runs(built, monkeypatch):
    monkeypatch.setattr(gpu, "probe_gpu", lambda: Gpu("RTX 3060", "SM86"))
    monkeypatch.setattr(runner, "infer", lambda plan, batch: (plan, len(batch)))
    assert get_target("trt").run(built, images(3, SIZE)) == (built.shipped, 3)
    assert get_target("trt").provenance(built) == "measured"
    monkeypatch.setattr(gpu, "probe_gpu", lambda: Gpu("H200", "SM90"))
    assert get_target("trt").run(built, images(1, SIZE)).shape == (1, 3, SIZE, SIZE)
    assert get_target("trt").provenance(built) == "emulated"


@needs_tensorrt
@without_gpu
def test_figures(built):
    figures = get_target("trt").measure(built, images(1, SIZE))
    size, weights, latency = (figures[k] for k in ("size_mb", "weights_mb", "latency_ms"))
    assert size == Measurement("size_mb", built.shipped.stat().st_size / 1e6, "MB", "measured")
    assert weights.value == built.detail["bytes"]["weights"] / 1e6
    assert 0 < weights.value < size.value
    reason = probe_gpu()
    assert latency == Unavailable("latency_ms", "a CUDA GPU", reason.why, reason.fix)


@needs_tensorrt
def test_a_timing_is_kept_with_the_build(built, monkeypatch):
    timing = loaded_engine.Latency(
        "RTX 3060", 1.5, 2.0, 2.5, 2.0, 2.5, 3.0, 700.0, 500, True, min_ms=1.25
    )
    monkeypatch.setattr(runner, "time_engine", lambda plan, batch, sms: timing)
    expected = get_target("trt").run(built, images(1, SIZE))
    monkeypatch.setattr(runner, "infer", lambda plan, batch: expected + np.float32(0.5))
    figures = get_target("trt").measure(built, images(1, SIZE))
    assert figures["latency_ms"] == Measurement("latency_ms", 1.5, "ms", "measured")
    latency = built.detail["latency"]
    assert latency["p99_ms"] == 2.5 and latency["min_ms"] == 1.25
    assert latency["spread"] == 1.6 and latency["unsteady"]
    parity = built.detail["parity"]
    assert parity["max_abs"] == pytest.approx(0.5, abs=1e-5) and parity["classes_differ"] == 0
    assert parity["pixels"] == SIZE * SIZE
    # what bench asks for is the same timing
    assert get_target("trt").time(built, images(1, SIZE)) == latency
    monkeypatch.setattr(runner, "time_engine", lambda *given: gpu.NoGpu("none here", "get one"))
    with pytest.raises(ToolNotFound, match=r"^a CUDA GPU is missing: .*\(none here\); get one$"):
        get_target("trt").time(built, images(1, SIZE))


@needs_tensorrt
def test_a_convolution_in_another_form_stops_the_build(tmp_path, monkeypatch):
    original = policy.apply

    def visible(model):
        return lmaunet.export.convolutions.prepare(model), original(model)[1]

    monkeypatch.setattr(policy, "apply", visible)
    model = small_network(SIZE, scan=False)
    with pytest.raises(Disagreement, match=r"/large is Int8 x Int8 in layer .*; expected float"):
        get_target("trt").build(request(tmp_path / "trt", model))


@needs_tensorrt
def test_another_graph_than_the_exported_one_is_caught(tmp_path, monkeypatch):
    original = policy.apply

    def without_skip(model):
        copy, planned = original(model)
        for tensor in copy.graph.initializer:
            if tensor.name == "/scan.D":
                array = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(0.9 * array, tensor.name))
        return copy, planned

    monkeypatch.setattr(policy, "apply", without_skip)
    with pytest.raises(Disagreement, match=r"trt graph, optimization off, codes of /quant_\d+/"):
        get_target("trt").build(request(tmp_path / "trt", small_network(SIZE)))
    assert not (tmp_path / "trt" / "engine.plan").exists()


@needs_tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int4-weights"])
def test_the_float_network_in_another_precision(precision, tmp_path, monkeypatch):
    opened, how = reference.open_session, []
    monkeypatch.setattr(
        reference, "open_session", lambda m, **o: how.append(o["optimize"]) or opened(m, **o)
    )
    onnx.save(float_network(), tmp_path / "float32.onnx")
    asked = request(tmp_path / "trt", small_network(SIZE), precision=precision, sms=["SM86"])
    asked = dataclasses.replace(asked, float32=tmp_path / "float32.onnx")
    built = get_target("trt").build(asked)
    assert how[-2:] == [False, True], "FP32 as it was exported, the other as it would be run"
    assert 0 <= built.detail["pixels_that_fp32_classifies_otherwise"] < 0.1
    weights = {"fp32": "Float", "fp16": "Half", "int4-weights": "Int4"}[precision]
    assert built.detail["precision"] == precision
    assert built.detail["precisions"][f"{weights} weights"] >= 3
    assert weights in built.detail["bytes"]["weights_by_datatype"]
    assert all(agreement.passed for agreement in built.agreements)
    logits = get_target("trt").run(built, images(1, SIZE))
    assert logits.shape == (1, 3, SIZE, SIZE)


@needs_tensorrt
def test_bad_input(tmp_path, built):
    with pytest.raises(
        UserError, match="SM 42 is unknown to tensorrt_rtx; use one or more of SM75"
    ):
        get_target("trt").build(request(tmp_path / "trt", small_network(SIZE), sms=["42"]))
    with pytest.raises(UserError, match="SM75: tensorrt_rtx multiplies no INT8 there"):
        get_target("trt").build(request(tmp_path / "a", small_network(SIZE), sms=["86", "75"]))
    with pytest.raises(UserError, match="--precision int2 is unknown; use one of int8, fp16, fp32"):
        get_target("trt").build(request(tmp_path / "b", small_network(SIZE), precision="int2"))
    with pytest.raises(UserError, match="--precision fp16 needs the float network"):
        get_target("trt").build(request(tmp_path / "c", small_network(SIZE), precision="fp16"))
    assert list((tmp_path / "trt").iterdir()) == []
    gone = type(built)("trt", tmp_path, tmp_path / "engine.plan", ())
    with pytest.raises(UserError, match=r"holds no engine: engine.plan is missing; build it again"):
        get_target("trt").run(gone, images(1, SIZE))


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "find", lambda: None)
    with pytest.raises(
        ToolNotFound, match=r"tensorrt-rtx is missing: .*pip install tensorrt-rtx-cu13=="
    ):
        get_target("trt").build(request(tmp_path / "trt", small_network(SIZE)))
    assert get_target("trt").probe()[0].found is False
