import dataclasses
import shutil
import sys
from collections import Counter
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
from lmaunet.cpu import cpu_file, cpu_form, operators, packing, saturation
from lmaunet.cpu.operators import LIBRARY
from lmaunet.cpu.packing import weight_bits_of
from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.deploy.targets import ort as ort_target
from lmaunet.deploy.targets.ort import measuring, sessions
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.export import reference
from lmaunet.export.check import run_onnx
from lmaunet.export.passes import Pass, new_node


def request(folder, model, samples=None):
    folder.mkdir(parents=True)
    onnx.save(model, folder.parent / "network.onnx")
    samples = images() if samples is None else samples
    path = folder.parent / "network.onnx"
    return BuildRequest(folder, path, Path("unused"), samples, {}, lambda line: None)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A build in which three weights have 2, 3 and 4 bits."""
    folder = tmp_path_factory.mktemp("packed") / "ort"
    return get_target("ort").build(request(folder, narrow_network()))


@pytest.fixture(scope="module")
def building(tmp_path_factory):
    """A build, and how it was checked."""
    folder = tmp_path_factory.mktemp("build") / "ort"
    with recorded(
        "lmaunet.export.segments.check_segments", "lmaunet.export.reference.open_session"
    ) as calls:
        return get_target("ort").build(request(folder, small_network())), calls


@pytest.fixture(scope="module")
def built(building):
    return building[0]


def test_the_tool_is_found():
    tools = get_target("ort").probe()
    assert [tool.name for tool in tools] == ["onnxruntime", "g++"]
    assert all(tool.found and tool.version for tool in tools)
    assert [tool.required for tool in tools] == [True, False]


def test_every_convolution_but_the_head_runs_as_an_integer_kernel(built):
    total = len(DENSE) + len(DEPTHWISE)
    assert built.detail["convolutions"] == {
        "integer_kernels": total - 1,
        "float_kernels": 1,
        "quantized": total,
    }


def test_the_agreements_say_what_was_compared(built):
    quantities = ("codes within one", "codes", "logits from the same codes")
    assert [a.name for a in built.agreements] == [
        *(f"ort codes and functions, {quantity}" for quantity in quantities),
        "ort integer biases, codes within one",
        "ort integer biases, logits from the same codes",
        *(f"ort form, {quantity}" for quantity in quantities),
        *(f"ort operators, {quantity}" for quantity in quantities),
        "ort packing, integer and float kernels",
        "ort packing, logits, optimization off",
        "ort packing, logits, optimization full",
        "ort file, classes",
    ]
    assert all(a.passed and a.n_total > 0 for a in built.agreements)
    assert built.agreements[1].n_differ == 0
    assert built.agreements[3].max_abs == 1
    assert 0 < built.detail["codes_moved_by_rounded_biases"] < 0.01


def test_segments_are_compared_on_one_image_and_the_file_on_two(building):
    """Each form as it is run: optimized where the file would be, and with the operators."""
    built, calls = building
    library = built.folder / LIBRARY
    assert [
        (given[0], len(given[3]), options["share"], options["optimize"], options.get("operators"))
        for given, options in calls["check_segments"]
    ] == [
        ("ort codes and functions", 1, 0.0001, False, None),
        ("ort integer biases", 1, 1.0, False, None),
        ("ort form", 1, 0.0001, True, None),
        ("ort operators", 1, 0.0001, True, library),
    ]
    # both files for their kernels, then without and with optimization
    sessions = [options for _, options in calls["open_session"] if "operators" in options]
    assert [options["optimize"] for options in sessions] == [True, True, False, False, True, True]
    assert all(options["operators"] == library for options in sessions)
    totals = {a.name: a.n_total for a in built.agreements}
    assert totals["ort form, logits from the same codes"] == 3 * 32**2
    assert totals["ort file, classes"] == 2 * 32**2
    assert totals["ort packing, logits, optimization off"] == 2 * 3 * 32**2
    assert totals["ort packing, integer and float kernels"] == 2
    operators = built.detail["operators"]
    assert operators["built"] and operators["bytes"] == library.stat().st_size
    assert operators["nodes"] == {"SelectiveScan": 1}


def test_the_file_that_ships_needs_nothing_else(built):
    assert built.shipped.name == "model.onnx" and built.shipped.parent == built.folder
    assert sorted(p.name for p in built.folder.iterdir()) == [LIBRARY, "model.onnx"]
    model = onnx.load(built.shipped)
    assert [f.name for f in model.functions] == ["SelectiveScan"]
    alone = run_onnx(built.shipped, {"image": images(1)}, optimize=True)[0]
    np.testing.assert_array_equal(
        alone.argmax(1), get_target("ort").run(built, images(1)).argmax(1)
    )
    assert [i.name for i in model.graph.input] == ["image"]


def test_weights_of_few_bits_take_few_bits_and_keep_their_integer_kernels(built, packed):
    widths = Counter(weight_bits_of(onnx.load(packed.shipped)).values())
    assert widths == {8: len(DENSE) + len(DEPTHWISE) - len(BITS), 2: 1, 3: 1, 4: 1}
    detail = packed.detail["packing"]
    assert detail["weight_bits"] == {"2": 1, "3": 1, "4": 1, "8": widths[8]}
    # of 8 channels: /middle 3x3 in 2 bits, /decoder 3x3 of 16 in 3, /large 7x7 depthwise in 4
    saved = 576 * 6 // 8 + 1152 * 5 // 8 + 392 * 4 // 8
    assert detail["unpacked_bytes"] - detail["packed_bytes"] == saved
    assert packed.detail["convolutions"] == built.detail["convolutions"]
    exact = [a for a in packed.agreements if a.name.startswith("ort packing")]
    assert len(exact) == 3 and all(a.tolerance == a.max_abs == a.n_differ == 0 for a in exact)
    assert [f.name for f in onnx.load(packed.shipped).functions] == [
        "SelectiveScan",
        "UnpackCodes",
    ]


def test_what_the_file_holds_is_accounted_for(packed):
    size = packed.shipped.stat().st_size
    assert sum(packed.detail["bytes_by_purpose"].values()) == size
    assert sum(packed.detail["initializer_bytes"].values()) < size


def test_images_go_through_one_by_one(built):
    batch = images(3)
    logits = get_target("ort").run(built, batch)
    single = [run_onnx(built.shipped, {"image": i[None]}, optimize=True)[0] for i in batch]
    assert logits.shape == (3, 3, 32, 32)
    assert np.array_equal(logits, np.concatenate(single))
    with pytest.raises(UserError) as error:
        get_target("ort").run(built, images(1, size=16))
    assert str(error.value) == (
        "images of shape [1, 1, 16, 16]; expected ['n', 1, 32, 32]; resize them to the size that "
        "the network was exported for"
    )


def test_a_session_is_opened_once(built):
    assert sessions.session_of(built) is sessions.session_of(built)


def test_figures_are_measured(built):
    figures = get_target("ort").measure(built, images())
    assert list(figures) == ["size_mb", "weights_mb", "latency_ms"]
    assert all(isinstance(f, Measurement) and f.provenance == "measured" for f in figures.values())
    assert get_target("ort").provenance(built) == "measured"
    arrays = [numpy_helper.to_array(i) for i in onnx.load(built.shipped).graph.initializer]
    assert figures["weights_mb"].value == sum(a.nbytes for a in arrays) / 1e6
    latency = built.detail["latency"]
    assert latency["min_ms"] <= figures["latency_ms"].value <= latency["p90_ms"]
    assert latency["runs"] >= 20 and latency["threads"] >= 1 and latency["cpu"]
    assert latency["load_average"] >= 0
    assert latency["unsteady"] == (latency["spread"] > 1.2)
    load = built.detail["load"]
    assert load["packed_ms"] > 0 and load["unpacked_ms"] > 0 and load["loads"] >= 5
    assert "float32" not in built.detail


def test_the_size_is_that_of_all_that_ships(built):
    """The latency is that with the operators, so the library counts."""
    library = built.folder / "lmaunet_operators.so"
    assert built.ships == (built.shipped, library)
    size = get_target("ort").measure(built, images())["size_mb"].value
    assert size == (built.shipped.stat().st_size + library.stat().st_size) / 1e6
    assert size > built.shipped.stat().st_size / 1e6 + 0.01


def test_a_build_without_operators_ships_one_file(tmp_path):
    asked = dataclasses.replace(
        request(tmp_path / "ort", small_network()), options={"operators": False}
    )
    alone = get_target("ort").build(asked)
    assert alone.ships == (alone.shipped,)
    size = get_target("ort").measure(alone, images())["size_mb"].value
    assert size == alone.shipped.stat().st_size / 1e6


@pytest.mark.parametrize("with_operators", [True, False])
def test_the_fp32_network_is_timed_beside_with_the_same_operators(
    built, tmp_path, monkeypatch, with_operators
):
    float32 = tmp_path / "float32.onnx"
    onnx.save(small_network(), float32)
    build = dataclasses.replace(built, detail={})
    if not with_operators:
        for module in (sessions, measuring):
            monkeypatch.setattr(module, "has_operators", lambda build: False)
    figures = get_target("ort").measure(build, images(), float32)
    beside = build.detail["float32"]
    assert beside["speed_up"] == beside["median_ms"] / figures["latency_ms"].value
    assert beside["compression"] == beside["size_mb"] / figures["size_mb"].value
    library = (built.folder / "lmaunet_operators.so").stat().st_size / 1e6
    assert (beside["size_mb"] > library) == with_operators
    assert beside["runs"] == build.detail["latency"]["runs"]
    same = "FP32 in ONNX Runtime, with the same operators"
    assert (beside["form"] == same) == with_operators


def test_a_wrong_form_is_caught_and_both_tensors_are_kept(tmp_path, monkeypatch):
    # with another shift the codes saturate elsewhere, which large values show
    monkeypatch.setattr(cpu_form, "SHIFT", 120)
    bright = 3 * images()
    with pytest.raises(Disagreement, match=r"ort codes and functions, codes of .*_out: "):
        get_target("ort").build(request(tmp_path / "ort", small_network(), bright))
    (saved,) = (tmp_path / "disagreement").iterdir()
    with np.load(saved) as tensors:
        assert tensors["got"].shape == tensors["expected"].shape
        assert not np.array_equal(tensors["got"], tensors["expected"])


def test_biases_that_are_rounded_too_far_are_caught(tmp_path, monkeypatch):
    original = cpu_form.IntegerBiases.rewrite

    def without_biases(step, model):
        count = original(step, model)
        for value in model.graph.initializers.values():
            if value.name.endswith("/integer_bias"):
                zeros = np.zeros_like(value.const_value.numpy())
                value.const_value = ir.tensor(zeros, name=value.name)
        return count

    monkeypatch.setattr(cpu_form.IntegerBiases, "rewrite", without_biases)
    with pytest.raises(Disagreement, match=r"ort integer biases, codes of /quant_\d+/"):
        get_target("ort").build(request(tmp_path / "ort", small_network()))


def test_planes_in_the_wrong_order_are_caught(tmp_path, monkeypatch):
    original = packing.pack_codes
    monkeypatch.setattr(packing, "pack_codes", lambda *a: original(*a)[:, ::-1].copy())
    with pytest.raises(Disagreement, match=r"ort packing, logits, optimization off: "):
        get_target("ort").build(request(tmp_path / "ort", narrow_network()))


def test_a_file_that_keeps_fewer_integer_kernels_is_caught(tmp_path, monkeypatch):
    class InFloat(Pass):
        """The same values, but no DequantizeLinear right before a convolution."""

        name = "weights in float"

        def rewrite(self, model):
            conv = next(node for node in model.graph if node.op_type == "Conv")
            for name in ("negative", "positive"):
                negation = new_node("Neg", [conv.inputs[1]], name)
                model.graph.insert_before(conv, negation)
                conv.replace_input_with(1, negation.outputs[0])
            return 1

    monkeypatch.setattr(cpu_file, "FILE", (*cpu_file.FILE, InFloat()))
    with pytest.raises(Disagreement, match=r"ort packing, integer and float kernels: 2 of 2"):
        get_target("ort").build(request(tmp_path / "ort", narrow_network()))


def test_bad_input(tmp_path, built):
    missing = BuildRequest(tmp_path, tmp_path / "no.onnx", tmp_path, images(), {}, print)
    with pytest.raises(UserError, match=r"no.onnx does not exist; export the network first"):
        get_target("ort").build(missing)
    (tmp_path / "no.onnx").write_bytes(b"this is no model")
    with pytest.raises(UserError, match=r"no.onnx is no ONNX model .*; export the network again"):
        get_target("ort").build(missing)
    gone = type(built)("ort", tmp_path, tmp_path / "model.onnx", ())
    with pytest.raises(UserError, match=r"run lmaunet-deploy build --target ort"):
        get_target("ort").run(gone, images())


def test_a_library_that_cannot_be_loaded_is_left_out(built, tmp_path):
    folder = Path(shutil.copytree(built.folder, tmp_path / "copied"))
    copied = dataclasses.replace(built, folder=folder, shipped=folder / "model.onnx")
    target = get_target("ort")
    assert "operators" in target.arithmetic(built)
    (folder / LIBRARY).write_bytes(b"for another machine")
    assert "operators" not in target.arithmetic(copied)
    got, want = target.run(copied, images(1)), target.run(built, images(1))
    np.testing.assert_array_equal(got.argmax(1), want.argmax(1))


def test_without_operators_there_is_only_the_file(tmp_path):
    asked = dataclasses.replace(
        request(tmp_path / "ort", small_network()), options={"cpu": "any", "operators": False}
    )
    made = get_target("ort").build(asked)
    assert [p.name for p in made.folder.iterdir()] == ["model.onnx"]
    assert made.detail["operators"] == {"built": False, "bytes": 0, "nodes": {}}
    assert not any("operators" in a.name for a in made.agreements)


@pytest.mark.parametrize("vnni", [False, True])
def test_weights_are_signed_in_memory_where_sums_cannot_saturate(built, monkeypatch, vnni):
    """Both ways on any processor: one that saturates gets the other's sums from float kernels."""
    exact = saturation.runtime_adds_without_saturation()
    monkeypatch.setattr(saturation, "runtime_adds_without_saturation", lambda: vnni)
    signed = []
    original = saturation.signed_weights
    monkeypatch.setattr(
        saturation, "signed_weights", lambda model: signed.append(1) or original(model)
    )
    if vnni and not exact:
        opened = reference.open_session
        monkeypatch.setattr(
            reference, "open_session",
            lambda model, optimize, **options: opened(model, optimize=False, **options),
        )  # fmt: skip
    sessions._session.cache_clear()
    got = get_target("ort").run(built, images(1))
    sessions._session.cache_clear()
    monkeypatch.undo()
    want = run_onnx(built.shipped, {"image": images(1)}, optimize=True)[0]
    assert len(signed) == vnni
    np.testing.assert_array_equal(got.argmax(1), want.argmax(1))


def test_options_are_checked_before_anything_is_built(monkeypatch):
    assert ort_target.build_options("vnni", False) == {"cpu": "vnni", "operators": False}
    with pytest.raises(UserError, match="unknown --cpu 'arm'; use one of: any, vnni"):
        ort_target.build_options("arm")
    monkeypatch.setattr(operators.shutil, "which", lambda name: None)
    assert ort_target.build_options() == {"cpu": "any", "operators": False}
    with pytest.raises(ToolNotFound, match=r"g\+\+"):
        ort_target.build_options(operators=True)
