import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from packing_models import BITS, narrow_network, weight_model
from qcdq_nets import images

from lmaunet.cpu import packing
from lmaunet.cpu.packing import (
    pack_weights,
    smallest_bits,
    unpack_codes,
    unpack_weights,
    weight_bits_of,
)
from lmaunet.errors import UserError
from lmaunet.export.check import run_onnx
from lmaunet.quant.packed import FEWEST_PACKED, packed_bytes

# the last dimensions make the count odd, and no multiple of 8
SHAPES = st.tuples(
    st.integers(9, 20), st.integers(4, 9), st.sampled_from((1, 3, 5)), st.sampled_from((3, 5))
).filter(lambda shape: math.prod(shape) >= FEWEST_PACKED)


def codes_of(shape, bits, kind, seed=0):
    """Codes that need exactly so many bits."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if kind != "random":
        return np.full(shape, low if kind == "lowest" else high, np.int8)
    codes = np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.int8)
    codes.flat[0], codes.flat[-1] = low, high
    return codes


def constants(model):
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


def outputs(codes):
    """What the packed weight is in ONNX Runtime, off and full, and in onnx's own evaluator."""
    packed = pack_weights(weight_model(codes))
    # the evaluator has no DequantizeLinear of 18
    newer = pack_weights(weight_model(codes, opset=19))
    return [
        *(run_onnx(packed, {}, optimize=optimize)[0] for optimize in (False, True)),
        ReferenceEvaluator(newer).run(None, {})[0],
    ]


@settings(max_examples=40, deadline=None)
@given(
    SHAPES, st.sampled_from((2, 3, 4)), st.sampled_from(("random", "lowest", "highest")),
    st.integers(0, 4), st.integers(0, 999),
)  # fmt: skip
def test_every_runtime_unpacks_what_was_packed(shape, bits, kind, shift, seed):
    codes = codes_of(shape, bits, kind, seed) << shift
    packed = pack_weights(weight_model(codes))
    onnx.checker.check_model(packed)
    # if all are equal, zeros at their ends may leave fewer bits
    (found,) = weight_bits_of(packed).values()
    assert found == bits if kind == "random" else found <= bits
    bits = found
    planes = constants(packed)["weight/planes"]
    assert planes.dtype == np.uint8 and planes.nbytes == packed_bytes(codes.size, bits)
    assert planes.nbytes == math.ceil(codes.size / 8) * bits
    for values in outputs(codes):
        assert np.array_equal(values, codes.astype(np.float32))
    (places,) = (a for name, a in constants(packed).items() if "/places_" in name)
    assert np.array_equal(unpack_codes(planes, places, shape), codes)
    restored = constants(unpack_weights(packed))["weight"]
    assert restored.dtype == np.int8 and np.array_equal(restored, codes)


def test_the_layout_is_as_documented():
    codes = codes_of((3, 11, 3, 3), 3, "random")
    stored = constants(pack_weights(weight_model(codes)))
    planes, places = stored["weight/planes"].astype(int), stored["UnpackCodes/places_3_shifted_0"]
    assert places.tolist() == [[1], [2], [-4]]
    shifted = constants(pack_weights(weight_model(codes * 16)))
    assert np.array_equal(shifted["weight/planes"], planes)
    assert shifted["UnpackCodes/places_3_shifted_4"].tolist() == [[16], [32], [-64]]
    assert stored["UnpackCodes/shape_3x11x3x3"].tolist() == [3, 11, 3, 3]
    for n, code in enumerate(codes.reshape(-1).tolist()):
        i, k = divmod(n, 8)
        assert code == sum(((planes[i, p] >> k) & 1) * int(places[p, 0]) for p in range(3))


def wrong_order(monkeypatch):
    original = packing.pack_codes
    monkeypatch.setattr(packing, "pack_codes", lambda *a: original(*a)[:, ::-1].copy())


def sign_lost(monkeypatch):
    original = packing._places
    monkeypatch.setattr(packing, "_places", lambda *a: np.abs(original(*a)))


def bits_reversed_in_a_byte(monkeypatch):
    body = packing._BODY.replace("{0, 1, 2, 3, 4, 5, 6, 7}", "{7, 6, 5, 4, 3, 2, 1, 0}")
    assert body != packing._BODY
    monkeypatch.setattr(packing, "_BODY", body)


@pytest.mark.parametrize("mutate", [wrong_order, sign_lost, bits_reversed_in_a_byte])
def test_a_wrong_layout_is_caught(monkeypatch, mutate):
    mutate(monkeypatch)
    for bits in (2, 3, 4):
        codes = codes_of((9, 7, 3, 3), bits, "random")
        for values in outputs(codes):
            assert not np.array_equal(values, codes.astype(np.float32))


@pytest.mark.parametrize(
    ("some", "bits"),
    [
        ((0,), 2), ((-1, 1), 2), ((-2, 1), 2), ((-2, 1, 2), 3), ((-3, 1), 3), ((-4, 3), 3),
        ((-4, 1, 4), 4), ((-5, 0), 4), ((-8, 7), 4), ((-9, 0), 8), ((-1, 9), 8), ((-128, 127), 8),
        # times 16, 32, 64, 8; 16 times nine levels; a factor of only some
        ((-64, 48), 3), ((-64, 32), 2), ((-128, 64), 2), ((-64, 56), 4), ((-128, 16, 112), 4),
        ((-128, 64, 1), 8), ((-128, 8), 8),
    ],
)  # fmt: skip
def test_the_fewest_bits_are_taken(some, bits):
    codes = np.zeros((16, 32), np.int8)
    codes[0, : len(some)] = some
    assert smallest_bits(codes) == bits
    assert weight_bits_of(pack_weights(weight_model(codes))) == {"weight": bits}


def test_small_weights_and_those_of_8_bits_are_left():
    small = weight_model(np.ones((5, 51), np.int8))
    wide = weight_model(np.full((16, 32), 100, np.int8))
    for model, count, bits in ((small, 255, 2), (wide, 512, 8)):
        assert pack_weights(model) == model
        assert packed_bytes(count, bits) == count
        assert weight_bits_of(model) == {"weight": 8}
    assert packed_bytes(256, 2) == 64
    assert packed_bytes(257, 3) == 99


def test_a_weight_that_a_caller_may_replace_is_left():
    model = weight_model(np.ones((16, 32), np.int8))
    model.graph.input.append(
        helper.make_tensor_value_info("weight", onnx.TensorProto.INT8, [16, 32])
    )
    assert pack_weights(model) == model


def test_a_network_computes_the_same_and_packs_no_more_when_packed_again():
    model = narrow_network()
    packed = pack_weights(model)
    widths = weight_bits_of(packed)
    assert {name: widths[name] for name in BITS} == BITS
    assert sum(bits == 8 for bits in widths.values()) == len(widths) - len(BITS)
    for optimize in (False, True):
        feeds = {"image": 3 * images(1)}
        got, want = (run_onnx(m, feeds, optimize=optimize)[0] for m in (packed, model))
        assert np.array_equal(got, want)
    assert pack_weights(packed) == packed
    restored = unpack_weights(packed)
    assert [n.name for n in restored.graph.node] == [n.name for n in model.graph.node]
    assert weight_bits_of(restored).keys() == widths.keys()
    before, after = constants(model), constants(restored)
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_equal_shapes_and_widths_are_stored_once():
    model = weight_model(np.ones((16, 32), np.int8))
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(-np.ones((16, 32), np.int8), "other"))
    graph.node.append(helper.make_node("DequantizeLinear", ["other", "scale"], ["more"], axis=0))
    graph.output.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [16, 32]))
    packed = pack_weights(model)
    unpacking = [n for n in packed.graph.node if n.op_type == "UnpackCodes"]
    assert len(unpacking) == 2 and len(packed.functions) == 1
    assert unpacking[0].input[1:] == unpacking[1].input[1:]
    values, more = run_onnx(packed, {}, optimize=True)
    assert (values == 1).all() and (more == -1).all()


def test_an_older_operator_set_is_refused():
    model = weight_model(np.ones((16, 32), np.int8))
    model.opset_import[0].version = 17
    with pytest.raises(UserError, match=r"operator set 17; expected 18 or more.*opset_version=18"):
        pack_weights(model)
