import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

sys.path.append(str(Path(__file__).parent))

from graph_view import View
from packing_models import BITS, narrow_network, weight_model
from qcdq_nets import DENSE, DEPTHWISE, convolutions_only, images, small_network

from lmaunet.cpu import cpu_form, saturation
from lmaunet.cpu.cpu_form import (
    integer_biases,
    unsigned_activations,
    unsigned_weights,
    widen_codes,
)
from lmaunet.cpu.saturation import adds_without_saturation, signed_weights
from lmaunet.errors import UserError
from lmaunet.export import reference
from lmaunet.export.check import run_onnx
from lmaunet.export.convolutions import grid_of, prepare
from lmaunet.export.model_messages import read_messages
from lmaunet.export.passes import constant, read


def outputs(model):
    return np.concatenate(
        [run_onnx(model, {"image": i[None] * 3}, optimize=False)[0] for i in images()]
    )


def quantizer_types(model):
    graph = View(model)
    points = [graph.constant(n.input[2]) for n in graph.nodes if n.op_type == "QuantizeLinear"]
    return {(p.dtype.name, int(p)) for p in points}


def test_unsigned_codes_change_no_bit():
    prepared = prepare(small_network())
    unsigned = unsigned_activations(prepared)
    onnx.checker.check_model(unsigned)
    assert quantizer_types(unsigned) == {("uint8", 0), ("uint8", 128)}
    assert not any(node.op_type == "Relu" for node in unsigned.graph.node)
    # the images are large enough for codes to saturate on both sides
    assert np.array_equal(outputs(unsigned), outputs(prepared))


def test_without_the_clip_saturated_codes_would_differ(monkeypatch):
    monkeypatch.setattr(cpu_form, "LARGEST_RELU_CODE", 255)
    prepared = prepare(small_network())
    assert not np.array_equal(outputs(unsigned_activations(prepared)), outputs(prepared))


def test_a_relu_that_something_else_reads_stays():
    model = convolutions_only()
    relu = next(n for n in model.graph.node if n.op_type == "Relu")
    model.graph.output.append(
        helper.make_tensor_value_info(relu.output[0], onnx.TensorProto.FLOAT, [1, 4, 16, 16])
    )
    unsigned = unsigned_activations(prepare(model))
    assert quantizer_types(unsigned) == {("uint8", 128)}
    onnx.checker.check_model(unsigned)


def test_codes_that_are_computed_with_are_refused():
    model = prepare(convolutions_only())
    quantize = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    codes, clipped = quantize.output[0], "clipped"
    for node in model.graph.node:
        if codes in node.input:
            node.input[0] = clipped
    index = list(model.graph.node).index(quantize)
    model.graph.node.insert(index + 1, helper.make_node("Clip", [codes], [clipped], name="/narrow"))
    with pytest.raises(UserError, match=r"Clip /narrow computes with the codes .*; expected only"):
        unsigned_activations(model)


def test_biases_become_accumulator_values():
    prepared = prepare(small_network())
    rounded = integer_biases(prepared)
    before, after = View(prepared), View(rounded)
    convs = {n.name: n for n in before.nodes if n.op_type == "Conv"}
    changed = 0
    for node in after.nodes:
        if node.op_type != "Conv":
            continue
        unit = after.constant(after.producers[node.input[0]].input[1]) * after.constant(
            after.producers[node.input[1]].input[1]
        )
        old, new = before.constant(convs[node.name].input[2]), after.constant(node.input[2])
        assert np.abs(new / unit - np.rint(new / unit)).max() < 1e-3
        assert (np.abs(new - old) <= 0.5001 * unit).all()
        changed += int((new != old).any())
    assert changed == len(DENSE) + len(DEPTHWISE)


def weights_of(model):
    """The codes and scale of each convolution's weight."""
    graph = View(model)
    found = {}
    for node in graph.nodes:
        if node.op_type == "Conv":
            dequantize = graph.producers[node.input[1]]
            found[node.name] = [graph.constant(name) for name in dequantize.input[:2]]
    return found


def test_wide_codes_are_the_same_weights_within_64():
    narrow = prepare(narrow_network())
    wide = widen_codes(narrow)
    onnx.checker.check_model(wide)
    factors = {}
    for name, (codes, scale) in weights_of(wide).items():
        old_codes, old_scale = weights_of(narrow)[name]
        values, old_values = (
            c.astype(np.float32) * s.reshape(-1, 1, 1, 1)
            for c, s in ((codes, scale), (old_codes, old_scale))
        )
        assert codes.dtype == np.int8 and np.array_equal(values, old_values)
        factors[name] = float((old_scale / scale).max())
        assert np.abs(codes.astype(int)).max() <= (64 if factors[name] > 1 else 127)
    # -2, -4 and -8 become -64, and codes of 8 bits stay
    wanted = {
        f"/{name.strip('/').removesuffix('.codes')}": 128 >> bits for name, bits in BITS.items()
    }
    assert factors == dict.fromkeys(factors, 1) | wanted
    assert np.array_equal(outputs(wide), outputs(narrow))


@pytest.mark.parametrize(
    ("largest", "factor"), [(0, 1), (1, 64), (3, 16), (7, 8), (63, 1), (64, 1), (127, 1)]
)
def test_codes_are_multiplied_by_the_largest_power_that_fits(largest, factor):
    codes = np.zeros((4, 3), np.int8)
    codes[1, 1] = -largest
    wide = View(widen_codes(weight_model(codes)))
    got, scale = (wide.constant(name) for name in wide.nodes[0].input[:2])
    assert got.min() == -largest * factor and (scale * factor == 1).all()


def test_a_weight_with_a_zero_point_is_not_widened():
    model = weight_model(np.ones((2, 3), np.int8))
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.ones(2, np.int8), "zero"))
    assert widen_codes(model) == model


def test_wide_codes_make_the_rounding_of_biases_finer():
    narrow = prepare(narrow_network())

    def rounding(model):
        before, after = View(model), View(integer_biases(model))
        biases = {n.name: before.constant(n.input[2]) for n in before.nodes if n.op_type == "Conv"}
        return {
            n.name: np.abs(after.constant(n.input[2]) - biases[n.name]).max()
            for n in after.nodes
            if n.op_type == "Conv"
        }

    fine, coarse = rounding(widen_codes(narrow)), rounding(narrow)
    for name, bits in BITS.items():
        convolution = name.removesuffix(".codes")
        # half a unit at most, which is so much smaller; rounding errors are spread evenly below it
        assert fine[convolution] < coarse[convolution] * 2 / (128 >> bits)


def test_rounded_biases_make_optimization_change_next_to_nothing():
    """ONNX Runtime rounds biases only when it optimizes; a file that has done it computes alike."""
    unsigned = unsigned_activations(prepare(convolutions_only()))
    image = {"image": images(1, 16)}

    def difference(model):
        model = unsigned_weights(model)  # else sums of 8-bit weights saturate on some processors
        off, full = (run_onnx(model, image, optimize=o)[0] for o in (False, True))
        return np.abs(off - full).max()

    coarse = _with_coarse_bias_units(unsigned)
    assert difference(integer_biases(coarse)) < 1e-4 < 1e-2 < difference(coarse)


def _with_coarse_bias_units(model):
    """Give the weights a scale so large that rounding a bias to a unit shows in the logits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name.endswith(".scale"):
            array = numpy_helper.to_array(tensor) * 100
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return copy


def may_saturate(model):
    """The convolutions of which two products of codes, added, can exceed INT16 as UINT8 x INT8."""
    found = set()
    for node in read(model).graph:
        codes = weights_of(model)[node.name][0] if node.op_type == "Conv" else None
        source = grid_of(node.inputs[0]) if node.op_type == "Conv" else None
        if source is not None and codes is not None and codes.dtype == np.int8:
            largest = 255 if constant(source.inputs[2]).any() else 127
            if 2 * largest * np.abs(codes.astype(int)).max() > 32_767:
                found.add(node.name)
    return found


def test_no_sum_of_two_products_saturates():
    signed = unsigned_activations(prepare(small_network()))
    unsigned = unsigned_weights(signed)
    onnx.checker.check_model(unsigned)
    assert may_saturate(signed) and not may_saturate(unsigned)
    assert np.array_equal(outputs(unsigned), outputs(signed))
    # only what could saturate has changed
    for name, (codes, _) in weights_of(unsigned).items():
        assert (codes.dtype == np.uint8) == (name in may_saturate(signed))


def test_weights_within_64_stay_signed():
    narrow = widen_codes(unsigned_activations(prepare(narrow_network())))
    types = {name: codes.dtype for name, (codes, _) in weights_of(unsigned_weights(narrow)).items()}
    small = {
        n for n, (codes, _) in weights_of(narrow).items() if np.abs(codes.astype(int)).max() < 65
    }
    assert small and all(types[name] == np.int8 for name in small)


def test_integer_kernels_compute_the_largest_codes_as_they_are():
    """All codes at their ends: what saturates on a processor without VNNI is off by thousands."""
    model = unsigned_activations(prepare(convolutions_only()))
    graph = View(model)
    ends = {n.input[0] for n in graph.nodes if n.op_type == "DequantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in ends and tensor.data_type == onnx.TensorProto.INT8:
            full = np.full(list(tensor.dims), 127, np.int8)
            tensor.CopyFrom(numpy_helper.from_array(full, tensor.name))
    bright = {"image": np.full_like(images(1, 16), 1e6)}
    form = unsigned_weights(integer_biases(model))
    off, full = (run_onnx(form, bright, optimize=o)[0] for o in (False, True))
    np.testing.assert_allclose(full, off, rtol=1e-5)


def test_signed_weights_are_the_inverse():
    before = unsigned_activations(prepare(small_network()))
    unsigned = unsigned_weights(before)
    signed = signed_weights(unsigned)
    kinds = [
        {i.data_type for i in model.graph.initializer if len(i.dims) == 4}
        for model in (unsigned, signed)
    ]
    assert onnx.TensorProto.UINT8 in kinds[0] and kinds[1] == {onnx.TensorProto.INT8}
    for got, want in zip(outputs(signed), outputs(before), strict=True):
        np.testing.assert_array_equal(got, want)


def test_weights_are_signed_without_the_package_onnx_too(tmp_path):
    """The same file comes of it, whichever classes hold the messages."""
    unsigned = unsigned_weights(unsigned_activations(prepare(small_network())))
    kept = unsigned.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(kept)
    light = signed_weights(read_messages(path)).SerializeToString()
    assert onnx.ModelProto.FromString(light) == signed_weights(unsigned)
    assert unsigned.SerializeToString() == kept  # a copy was changed
    # UINT8 codes may stand in the field of small integers as well
    for tensor in unsigned.graph.initializer:
        if tensor.data_type == onnx.TensorProto.UINT8:
            codes = list(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.int32_data.extend(codes)
    path.write_bytes(unsigned.SerializeToString())
    again = signed_weights(read_messages(path)).SerializeToString()
    assert (
        weights_of(onnx.ModelProto.FromString(again)).keys()
        == weights_of(onnx.ModelProto.FromString(light)).keys()
    )
    for got, want in zip(outputs(onnx.ModelProto.FromString(again)),
                         outputs(onnx.ModelProto.FromString(light)), strict=True):  # fmt: skip
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("machine", "flags", "answer"),
    [
        ("x86_64", "sse4_2 avx2", False),
        ("x86_64", "avx2 avx512_vnni", True),
        ("x86_64", "avx2 avx_vnni", True),
        ("aarch64", "asimd", True),
        ("riscv64", "", False),
    ],
)
def test_a_processor_tells_whether_sums_saturate(monkeypatch, machine, flags, answer):
    monkeypatch.setattr(saturation.platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda *args, **options: f"flags : {flags}\n")
    assert adds_without_saturation() is answer


class _Processor:
    """A session on a processor that adds pairs of products in so many bits, 16 without VNNI."""

    def __init__(self, model, bits):
        # made without the package onnx, which finds nothing wrong with it
        model = onnx.ModelProto.FromString(model.SerializeToString())
        onnx.checker.check_model(model)
        constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.weights, self.step = constants["weights"], float(constants["step"])
        self.largest = 2 ** (bits - 1) - 1

    def run(self, names, feeds):
        pixels = feeds["image"].astype(np.int64).transpose(0, 2, 3, 1)[..., None, :]
        products = pixels * self.weights[:, :, 0, 0].astype(np.int64)
        pairs = products.reshape(*products.shape[:-1], -1, 2).sum(-1)
        sums = pairs.clip(-self.largest - 1, self.largest).sum(-1)
        return [np.rint(sums / self.step).clip(0, 255).astype(np.uint8).transpose(0, 3, 1, 2)]


@pytest.mark.parametrize(
    ("bits", "claims", "answer"),
    [(16, True, False), (16, False, False), (32, True, True), (32, False, False)],
)
def test_sums_that_saturate_are_seen_whatever_the_processor_claims(
    monkeypatch, bits, claims, answer
):
    """The mutant is the processor: an emulated one shows the flags of the machine below it."""
    monkeypatch.setattr(saturation, "adds_without_saturation", lambda: claims)
    monkeypatch.setattr(reference, "open_session", lambda model, optimize: _Processor(model, bits))
    assert saturation._largest_sum() == {16: 51, 32: saturation.EXACT_SUM}[bits]
    assert saturation.runtime_adds_without_saturation.__wrapped__() is answer


def test_this_processor_does_one_or_the_other():
    assert saturation._largest_sum() in (51, saturation.EXACT_SUM)
