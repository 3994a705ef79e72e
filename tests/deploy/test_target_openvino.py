import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))
sys.path.append(str(Path(__file__).parents[1] / "export"))

from packing_models import BITS, narrow_network
from qcdq_nets import DENSE, DEPTHWISE, images, small_network
from recorded import recorded

from lmaunet.artifacts import Measurement
from lmaunet.cpu import openvino_file, openvino_runtime
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.export.reference import reference_logits
from lmaunet.export.segments import cut, exported_values

ROOT = Path(__file__).parents[2]
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)
# how many convolutions are integer is OpenVINO's choice for a processor
needs_vnni = pytest.mark.skipif(
    platform.machine() != "x86_64" or not openvino_runtime.has_vnni(),
    reason="needs an x86 processor with VNNI",
)
TOTAL = len(DENSE) + len(DEPTHWISE)


def request(folder, model, samples=None):
    folder.mkdir(parents=True)
    path = folder.parent / "network.onnx"
    onnx.save(model, path)
    samples = images() if samples is None else samples
    return BuildRequest(folder, path, Path("unused"), samples, {}, lambda line: None)


@pytest.fixture(scope="module")
def building(tmp_path_factory):
    """A build, and how it was checked."""
    folder = tmp_path_factory.mktemp("build") / "openvino"
    with recorded("lmaunet.export.segments.check_segments_in") as calls:
        return get_target("openvino").build(request(folder, small_network())), calls


@pytest.fixture(scope="module")
def built(building):
    return building[0]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A build in which three weights have 2, 3 and 4 bits."""
    folder = tmp_path_factory.mktemp("narrow") / "openvino"
    return get_target("openvino").build(request(folder, narrow_network()))


def test_a_module_of_the_librarys_name_does_not_hide_it():
    import lmaunet.deploy.targets.openvino as module

    assert module.TARGET is get_target("openvino") and "lmaunet" in module.__file__
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        assert "lmaunet" not in openvino.__file__


@needs_openvino
def test_the_tool_is_found():
    (tool,) = get_target("openvino").probe()
    assert tool.found and tool.version and tool.required


@needs_openvino
@needs_vnni
def test_every_quantized_convolution_runs_on_integers(built):
    assert built.detail["convolutions"] == {"integer_kernels": TOTAL, "float_kernels": 0}
    assert built.detail["quantized_convolutions"] == TOTAL
    (loop,) = built.detail["costly_float_layers"]
    assert loop.startswith("TensorIterator /scan/")
    table = json.loads((built.folder / "layers.json").read_text())["layers"]
    named = {name for row in table if row["kind"] == "Convolution" for name in row["nodes"]}
    # the last one is called after the output
    assert {*DENSE, *DEPTHWISE} - {"/head"} <= named
    assert sum(built.detail["precisions"].values()) == len(table)


@needs_openvino
@needs_vnni
def test_integer_kernels_survive_the_cuts():
    """Otherwise the segments would not run what the whole network runs."""
    form = openvino_file.openvino_form(small_network(), vnni=True)
    model, _, _ = cut(form, exported_values(small_network(), images(1)))
    found = openvino_runtime.layers(openvino_runtime.compile_model(model))
    assert sum(layer.integer for layer in found if layer.kind == "Convolution") == TOTAL


@needs_openvino
def test_the_agreements_say_what_was_compared(built):
    assert [a.name for a in built.agreements] == [
        "openvino kernels, codes within one",
        "openvino kernels, codes",
        "openvino kernels, logits from the same codes",
        "openvino file and its form, integer and float convolutions",
        "openvino file and its form, logits",
        "openvino file, classes",
    ]
    assert all(a.passed and a.n_total > 0 for a in built.agreements)
    assert built.agreements[4].max_abs == 0


@needs_openvino
def test_segments_are_compared_on_one_image_and_the_file_on_two(building):
    built, calls = building
    (((_, name, _, _, image, _), options),) = calls["check_segments_in"]
    assert (name, len(image), options) == ("openvino kernels", 1, {"share": 0.0005})
    totals = {a.name: a.n_total for a in built.agreements}
    assert totals["openvino kernels, logits from the same codes"] == 3 * 32**2
    assert totals["openvino file, classes"] == 2 * 32**2
    assert totals["openvino file and its form, logits"] == 2 * 3 * 32**2
    assert all(a.tolerance == 0 for a in built.agreements if " its form" in a.name)
    packing = built.detail["packing"]
    # a weight is a byte, and so is each of its zero points, in the form and in the file
    assert 0 < packing["packed_bytes"] <= packing["unpacked_bytes"]


@needs_openvino
def test_the_file_that_ships_needs_nothing_else(built):
    assert sorted(p.name for p in built.folder.iterdir()) == ["layers.json", "model.onnx"]
    model = onnx.load(built.shipped)
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions and {node.domain for node in model.graph.node} == {""}


@needs_openvino
def test_weights_of_four_bits_and_less_take_half_a_byte(built, narrow):
    model = onnx.load(narrow.shipped)
    onnx.checker.check_model(model, full_check=True)
    kinds = [t.data_type for t in model.graph.initializer]
    assert kinds.count(onnx.TensorProto.INT4) == len(BITS)
    packing = narrow.detail["packing"]
    # of 8 channels: /middle 3x3, /decoder 3x3 of 16, /large 7x7 depthwise; without zero points
    assert packing["unpacked_bytes"] - packing["packed_bytes"] >= (576 + 1152 + 392) // 2
    assert narrow.detail["convolutions"] == built.detail["convolutions"]
    codes = {
        tuple(t.dims): numpy_helper.to_array(t).astype(np.int8)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.INT4
    }
    for tensor in narrow_network().graph.initializer:
        if tensor.name in BITS:
            got = codes[tuple(tensor.dims)]
            np.testing.assert_array_equal(got, numpy_helper.to_array(tensor))


@needs_openvino
def test_images_go_through_one_by_one(built):
    batch = images(3)
    logits = get_target("openvino").run(built, batch)
    expected = reference_logits(small_network(), batch)
    assert logits.shape == expected.shape == (3, 3, 32, 32)
    single = get_target("openvino").run(built, batch[2:])
    np.testing.assert_array_equal(single[0], logits[2])
    assert (logits.argmax(1) != expected.argmax(1)).mean() < 0.01
    with pytest.raises(UserError, match=r"images of shape \[1, 1, 16, 16\]; expected \['n', 1, 32"):
        get_target("openvino").run(built, images(1, size=16))


@needs_openvino
def test_figures_are_measured(narrow):
    float32 = narrow.folder.parent / "network.onnx"
    figures = get_target("openvino").measure(narrow, images(), float32)
    assert list(figures) == ["size_mb", "weights_mb", "latency_ms"]
    assert all(isinstance(f, Measurement) and f.provenance == "measured" for f in figures.values())
    assert figures["size_mb"].value == narrow.shipped.stat().st_size / 1e6
    assert figures["weights_mb"].value == sum(narrow.detail["initializer_bytes"].values()) / 1e6
    assert 0 < figures["weights_mb"].value < figures["size_mb"].value
    latency, beside = narrow.detail["latency"], narrow.detail["float32"]
    assert latency["min_ms"] <= figures["latency_ms"].value <= latency["p90_ms"]
    assert latency["cpu"] and latency["threads"] and latency["load_average"] >= 0
    assert beside["speed_up"] == beside["median_ms"] / figures["latency_ms"].value
    assert beside["size_mb"] > 0 and beside["form"] == "FP32 in OpenVINO"
    assert narrow.ships == (narrow.shipped,)
    assert narrow.detail["load"]["load_ms"] > 0


@needs_openvino
def test_a_wrong_form_is_caught(tmp_path, monkeypatch):
    from lmaunet.cpu.cpu_form import UnsignedActivations

    original = UnsignedActivations.rewrite

    def without_skip(step, model):
        skip = model.graph.initializers["/scan.D"]
        skip.const_value = ir.tensor(0.9 * skip.const_value.numpy(), name=skip.name)
        return original(step, model)

    monkeypatch.setattr(UnsignedActivations, "rewrite", without_skip)
    with pytest.raises(Disagreement, match=r"openvino kernels, codes of /quant_\d+/"):
        get_target("openvino").build(request(tmp_path / "openvino", small_network()))


@needs_openvino
def test_a_file_of_other_weights_than_its_form_is_caught(tmp_path, monkeypatch):
    original = openvino_file._int4_weights

    def one_code_off(graph):
        for index, (value, codes) in enumerate(original(graph)):
            changed = codes.copy()
            changed.reshape(-1)[0] ^= index == 0
            yield value, changed

    monkeypatch.setattr(openvino_file, "_int4_weights", one_code_off)
    with pytest.raises(Disagreement, match=r"openvino file and its form, logits: "):
        get_target("openvino").build(request(tmp_path / "openvino", narrow_network()))


# A process of its own: OpenVINO's kernels look at the processor once.
BUILD = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from lmaunet.cpu import openvino_runtime
openvino_runtime.has_vnni = lambda: {vnni}
from test_target_openvino import request
from qcdq_nets import images, small_network
from lmaunet.deploy.targets import get_target
from lmaunet.errors import Disagreement
try:
    # large values: sums that stay small do not saturate
    built = get_target("openvino").build(
        request(Path({folder!r}), small_network(), 3 * images()))
except Disagreement as error:
    print("DISAGREES", error)
else:
    print("AGREES", built.detail["convolutions"], built.detail["saturate_without_vnni"])
"""


@needs_openvino
@needs_vnni
@pytest.mark.parametrize(("vnni", "answer"), [(True, "DISAGREES openvino kernels"), (False, "AG")])
def test_sums_saturate_without_vnni_and_the_other_form_does_not(tmp_path, vnni, answer):
    paths = [str(ROOT), *(str(ROOT / "tests" / name) for name in ("deploy", "trt", "export"))]
    code = BUILD.format(paths=paths, vnni=vnni, folder=str(tmp_path / "openvino"))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path,
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    )  # fmt: skip
    assert done.stdout.startswith(answer), done.stdout + done.stderr[-2000:]
    if not vnni:
        # what follows a ReLU, pooled or not, has codes up to 127 and stays on integers
        assert "'integer_kernels': 3" in done.stdout and done.stdout.endswith(" 0\n")


@needs_openvino
def test_a_file_for_vnni_is_refused_elsewhere(built, monkeypatch):
    if not built.detail["saturate_without_vnni"]:
        pytest.skip("built on a processor without VNNI")
    monkeypatch.setattr(openvino_runtime, "has_vnni", lambda: False)
    with pytest.raises(UserError, match=r"for processors with VNNI, and this one has none: the"):
        get_target("openvino").run(built, images())


def test_saturating_convolutions_are_those_that_no_relu_bounds():
    form = openvino_file.openvino_form(small_network(), vnni=True)
    found = openvino_file.saturating_convolutions(form)
    assert set(found) == {*DENSE, *DEPTHWISE} - {"/large", "/head", "/decoder"}
    assert (
        openvino_file.saturating_convolutions(
            openvino_file.openvino_form(small_network(), vnni=False)
        )
        == []
    )


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_runtime, "place", lambda: "")
    (tool,) = get_target("openvino").probe()
    assert not tool.found and tool.fix == "python -m pip install openvino==2026.4.1"
    with pytest.raises(ToolNotFound, match=r"openvino is missing: .* install openvino=="):
        get_target("openvino").build(request(tmp_path / "openvino", small_network()))
    assert list((tmp_path / "openvino").iterdir()) == []


SIGNAL = """
import gc, os, signal, sys
sys.path[:0] = {paths!r}
from lmaunet.cpu.openvino_runtime import compile_model, run_images
from lmaunet.cpu.openvino_file import openvino_form
from qcdq_nets import images, small_network
form = openvino_form(small_network(), vnni=True)
first = compile_model(form)
second = compile_model(form)
run_images(second, images(1))
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda number, frame: print("heard", flush=True))
os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""


@needs_openvino
def test_a_signal_after_two_models_is_heard(tmp_path):
    paths = [str(ROOT), str(ROOT / "tests/trt")]
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL.format(paths=paths)], capture_output=True, text=True,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["heard", "goes on"]), done.stderr


@needs_openvino
def test_bad_input(tmp_path, built):
    missing = BuildRequest(tmp_path, tmp_path / "no.onnx", tmp_path, images(), {}, print)
    with pytest.raises(UserError, match=r"no.onnx does not exist; export the network first"):
        get_target("openvino").build(missing)
    gone = type(built)("openvino", tmp_path, tmp_path / "model.onnx", ())
    with pytest.raises(UserError, match=r"run lmaunet-deploy build --target openvino"):
        get_target("openvino").run(gone, images())
    with pytest.raises(UserError, match=r"OpenVINO cannot load the model 'network': .*SelectiveSc"):
        openvino_runtime.compile_model(small_network())
