import importlib.util

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from qcdq_nets import float_network, images

from lmaunet.errors import Disagreement, UserError
from lmaunet.trt.engine import build_engine
from lmaunet.trt.float_checks import check_float, check_half, check_int4, check_products
from lmaunet.trt.float_forms import copy_named, in_half, in_int4, products

needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
SIZE = 16


@pytest.fixture
def model():
    return float_network()


def initializer(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def change(model, name, function):
    tensor = initializer(model, name)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(function(array).astype(array.dtype), name))


def test_products_are_found_with_their_output_axis(model):
    found = {p.node: (p.axis, p.terms, p.elements, p.depthwise) for p in products(model)}
    assert found == {
        "/stem": (0, 9, 72, False), "/large": (0, 25, 200, True), "/linear": (1, 8, 64, False),
        "/head": (0, 8, 24, False),
    }  # fmt: skip


def test_half_stays_inside_its_bound(model, tmp_path):
    batch = images(1, SIZE)
    agreed = check_half(in_half(model), model, batch, tmp_path)
    assert 0.05 < agreed.max_abs < 1 and agreed.n_total > 4 * SIZE * SIZE
    # what FP16 cannot make of it: one weight off by two in a thousand
    mutant = in_half(model)
    change(mutant, "/linear/half_1", lambda w: w * 1.01)
    with pytest.raises(Disagreement, match="trt graph in half, /linear, difference over its bound"):
        check_half(mutant, model, batch, tmp_path)


def test_weights_beyond_the_range_of_half(model):
    change(model, "/matrix", lambda w: w * 1e6)
    with pytest.raises(UserError, match=r"/linear: a weight is not constant or beyond 65504"):
        in_half(model)


def test_int4_weights_are_exact(model, tmp_path):
    batch = images(2, SIZE)
    form, reference = in_int4(model)
    weights, logits = check_int4(form, reference, batch, tmp_path)
    assert weights.max_abs == 0 and weights.n_total == 72 + 64 + 24 and logits.passed
    kinds = {t.name: t.data_type for t in form.graph.initializer if t.name.endswith("/codes")}
    assert kinds == dict.fromkeys(
        ("/stem/codes", "/linear/codes", "/head/codes"), onnx.TensorProto.INT4
    )
    onnx.checker.check_model(form)
    original = numpy_helper.to_array(initializer(model, "/matrix"))
    rounded = numpy_helper.to_array(initializer(reference, "/linear/weights"))
    step = np.abs(original).max(0) / 7
    assert (np.abs(rounded - original) <= 0.5001 * step).all()
    mutant, _ = in_int4(model)
    change(mutant, "/head/scale", lambda s: s * np.float32(1.0001))
    with pytest.raises(Disagreement, match="trt graph with INT4 weights, weights"):
        check_int4(mutant, reference, batch, tmp_path)
    mutant, _ = in_int4(model)
    change(mutant, "/head.bias", lambda b: b + 0.01)
    with pytest.raises(Disagreement, match="trt graph with INT4 weights, logits"):
        check_int4(mutant, reference, batch, tmp_path)


def test_float_agrees_and_a_mutant_does_not(model, tmp_path):
    batch = images(2, SIZE)
    assert check_float(model, float_network(), batch, tmp_path).passed
    change(model, "/matrix", lambda w: w * 1.001)
    with pytest.raises(Disagreement, match="trt graph in fp32, logits"):
        check_float(model, float_network(), batch, tmp_path)


def engine_of(form, folder):
    folder.mkdir()
    onnx.save(form, folder / "network.onnx")
    return build_engine(folder / "network.onnx", folder, ["SM86"])


@needs_tensorrt
def test_each_precision_is_that_of_the_engine(model, tmp_path):
    forms = {"fp32": model, "fp16": in_half(model), "int4-weights": in_int4(model)[0]}
    found, layers = products(model), {}
    for precision, form in forms.items():
        built = engine_of(form, tmp_path / precision)
        layers[precision] = built.layers
        rows = check_products(built.layers, found, precision)
        assert [row["node"] for row in rows] == ["/stem", "/large", "/linear", "/head"]
    for asked, other in (("fp32", "fp16"), ("fp16", "fp32"), ("int4-weights", "fp32")):
        with pytest.raises(Disagreement, match=rf"of 4 products are not {asked} in the engine: /"):
            check_products(layers[other], found, asked)


def test_a_product_that_no_layer_computes(model):
    with pytest.raises(Disagreement, match="/stem: no layer of the engine computes it"):
        check_products([], products(model), "fp32")


def test_names_are_the_nodes_own(model):
    node = helper.make_node("Relu", ["logits"], ["other"], name="/stem")
    model.graph.node.append(node)
    names = [n.name for n in copy_named(model).graph.node]
    assert len(set(names)) == len(names)
