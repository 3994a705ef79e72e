"""Values a thousand times larger: FP16 where they fit, FP32 where not, and never a black mask."""

import importlib.util

import numpy as np
import onnx
import pytest
from nnunet_like import CONVOLUTIONS, NORMS, SIZE, captured, float_form
from onnx import helper, numpy_helper
from qcdq_nets import float_network, images

from lmaunet.deploy.targets import BuildRequest, get_target
from lmaunet.errors import Disagreement, UserError
from lmaunet.export.reference import open_session, run_images
from lmaunet.trt import half_range
from lmaunet.trt.engine import build_engine
from lmaunet.trt.float_checks import check_half, check_products
from lmaunet.trt.float_forms import HALF_LARGEST, in_half, products
from lmaunet.trt.half_emulation import emulated
from lmaunet.trt.half_range import HalfRange, half_ranges, kept_in_float, range_detail

needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
BATCH = images(3, SIZE)
LARGER = 1.5e5
"""Outputs of about 1 become more than FP16 holds; no weight does."""


def logits_of(model, optimize):
    with np.errstate(all="ignore"):
        return run_images(open_session(emulated(model), optimize=optimize), BATCH)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return float_form(captured(), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return float_form(captured(LARGER), tmp_path_factory.mktemp("larger"))


def test_a_product_s_range_is_its_input_s_and_that_of_its_sums(plain):
    found = products(plain)
    ranges = half_ranges(plain, found, BATCH)
    assert [entry.node for entry in ranges] == [product.node for product in found]
    first = plain.graph.node[0]
    stored = {t.name: numpy_helper.to_array(t) for t in plain.graph.initializer}
    weight, bias = (np.abs(stored[name]).astype(np.float64) for name in first.input[1:])
    wide = np.pad(np.abs(BATCH[:, 0]).astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (1, 2))
    sums = np.einsum("nhwij,oij->nohw", windows, weight[:, 0]) + bias[:, None, None]
    assert ranges[0].input == np.abs(BATCH).max()
    assert ranges[0].sums == pytest.approx(sums.max(), rel=1e-5)


def test_what_fits_is_all_in_half(plain):
    ranges = half_ranges(plain, products(plain), BATCH)
    assert kept_in_float(ranges) == []
    found = range_detail(ranges, len(BATCH))
    assert found["products"] == CONVOLUTIONS and found["in_fp32"] == []
    assert found["images"] == 3 and found["margin"] == 4
    worst = max(ranges, key=lambda entry: max(entry.input, entry.sums))
    assert found["largest_in_half"] == {
        "node": worst.node, "input": worst.input, "sums": worst.sums
    }  # fmt: skip


@pytest.mark.parametrize("optimize", [False, True], ids=["off", "full"])
def test_larger_activations_without_the_check_are_a_black_mask(larger, optimize):
    """The mutant: every product in half, as the policy had it before it looked at a range."""
    assert not np.isfinite(logits_of(in_half(larger), optimize)).any()


@pytest.mark.parametrize("optimize", [False, True], ids=["off", "full"])
def test_larger_activations_stay_float_and_the_logits_right(plain, larger, tmp_path, optimize):
    kept = [entry.node for entry in kept_in_float(half_ranges(larger, products(larger), BATCH))]
    assert 0 < len(kept) < CONVOLUTIONS
    form = in_half(larger, kept)
    found = logits_of(form, optimize)
    wanted = logits_of(larger, optimize)
    assert np.isfinite(found).all() and np.abs(wanted).max() > 0.1
    assert np.abs(found - wanted).max() < 0.01 * np.abs(wanted).max()
    # a product of either kind is what its precision can make of it
    assert check_half(form, larger, BATCH[:1], tmp_path, kept).max_abs < 1
    # the norms took the factor out, so that these are the logits of the plain network too
    assert np.abs(wanted - logits_of(plain, optimize)).max() < 0.01 * np.abs(wanted).max()


def test_the_margin_is_four():
    fits = HALF_LARGEST / 4
    assert HalfRange("a", fits, 1).fits and HalfRange("a", 1, fits).fits
    assert not HalfRange("a", 1, np.nextafter(fits, np.inf)).fits
    assert not HalfRange("a", np.nextafter(fits, np.inf), 1).fits


def test_a_product_beyond_half_is_float_though_its_output_is_small():
    """Sums that cancel: whichever is added first may overflow."""
    model = float_network()
    (tensor,) = (t for t in model.graph.initializer if t.name == "/head.weight")
    weight = np.zeros(tensor.dims, np.float32)
    weight[:, 0], weight[:, 1] = 3e4, -3e4
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    for node in model.graph.node:  # both channels are the same, so that they cancel
        if node.name == "/head":
            one = numpy_helper.from_array(np.zeros(8, np.int64), "channels")
            model.graph.initializer.append(one)
            same = helper.make_node("Gather", [node.input[0], "channels"], ["same"], "same", axis=1)
            node.input[0] = "same"
    place = [node.name for node in model.graph.node].index("/head")
    model.graph.node.insert(place, same)
    (head,) = (e for e in half_ranges(model, products(model), BATCH) if e.node == "/head")
    assert head.sums > HALF_LARGEST / 4 and not head.fits


def test_if_nothing_fits_the_build_is_refused_by_the_worst_product():
    ranges = [HalfRange("/a", 2e4, 3e4), HalfRange("/b", 1e5, 5e6)]
    with pytest.raises(UserError) as error:
        kept_in_float(ranges)
    assert str(error.value) == (
        "every one of the 2 products comes near the end of FP16's range: /b adds up to 5e+06, of "
        "inputs up to 1e+05, and 4 times that is to stay below 65504; build with --precision int8 "
        "or fp32"
    )


def test_a_float_network_that_gives_nan_is_refused(plain):
    broken = onnx.ModelProto()
    broken.CopyFrom(plain)
    tensor = broken.graph.initializer[0]
    array = numpy_helper.to_array(tensor) * np.float32(1e38)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(UserError, match="the float network itself computes NaN or infinity"):
        half_ranges(broken, products(broken), 100 * BATCH)


def test_a_norm_whose_squares_leave_fp32_is_refused_by_name(tmp_path):
    model = float_form(captured(3e17), tmp_path)
    norm = next(n.name for n in model.graph.node if n.op_type == "InstanceNormalization")
    with pytest.raises(UserError) as error:
        half_ranges(model, products(model), BATCH)
    assert str(error.value).startswith(f"{norm}: the squares of what it normalizes add up to ")
    assert "near the end of FP32's range (3.4e+38); make the weights before it smaller" in str(
        error.value
    )


def asked(folder, model, batch=BATCH):
    folder.mkdir(parents=True)
    path = folder.parent / "float32.onnx"
    onnx.save(model, path)
    options = {"precision": "fp16", "sms": ["SM86"]}
    return BuildRequest(folder, path, path, batch[:2], options, lambda line: None, path, batch)


@needs_tensorrt
def test_a_build_says_what_stayed_float_and_the_engine_does_so(larger, tmp_path):
    built = get_target("trt").build(asked(tmp_path / "trt", larger))
    found = built.detail["half_range"]
    kept = {entry["node"] for entry in found["in_fp32"]}
    assert 0 < len(kept) < CONVOLUTIONS and found["images"] == len(BATCH)
    assert built.detail["precisions"] == {
        "Half weights": CONVOLUTIONS - len(kept), "Float weights": len(kept)
    }  # fmt: skip
    counts = built.detail["layer_precisions"]["by_precision"]
    assert counts["FP32"]["norms"] == NORMS and counts["FP16"]["norms"] == 0
    assert np.isfinite(get_target("trt").run(built, BATCH)).all()


@needs_tensorrt
def test_an_image_far_from_those_of_training_is_refused_and_not_segmented(plain, tmp_path):
    built = get_target("trt").build(asked(tmp_path / "trt", plain))
    assert np.isfinite(get_target("trt").run(built, BATCH)).all()
    with pytest.raises(UserError, match="takes the engine beyond FP16's range, 65504; compare its"):
        get_target("trt").run(built, 1e5 * BATCH)


@needs_tensorrt
def test_a_build_whose_graph_gives_nan_stops(larger, tmp_path, monkeypatch):
    """The mutant: a range that is not looked at."""
    monkeypatch.setattr(half_range, "half_ranges", lambda *given: [])
    with pytest.raises(Disagreement, match=r"NaN or infinity|difference over its bound"):
        get_target("trt").build(asked(tmp_path / "trt", larger))
    assert not (tmp_path / "trt" / "engine.plan").exists()


@needs_tensorrt
def test_an_engine_with_a_product_in_another_precision_than_planned_is_named(larger, tmp_path):
    found = products(larger)
    kept = [entry.node for entry in kept_in_float(half_ranges(larger, found, BATCH))]
    onnx.save(in_half(larger, kept), tmp_path / "form.onnx")
    layers = build_engine(tmp_path / "form.onnx", tmp_path / "engine", ["SM86"]).layers
    rows = check_products(layers, found, "fp16", kept)
    assert {row["weights"] for row in rows if row["node"] in kept} == {"Float"}
    with pytest.raises(Disagreement, match=f"{len(kept)} of {CONVOLUTIONS} products are not fp16"):
        check_products(layers, found, "fp16")
