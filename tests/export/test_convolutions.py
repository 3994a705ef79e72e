import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from graph_view import View
from qcdq_nets import DENSE, DEPTHWISE, Network, convolutions_only, images, small_network

from lmaunet.errors import UserError
from lmaunet.export.check import run_onnx
from lmaunet.export.convolutions import (
    float_convolutions,
    prepare,
    quantized_convolutions,
)
from lmaunet.export.passes import NodeNames, run


def outputs(model, count=2, size=32):
    return [run_onnx(model, {"image": i[None]}, optimize=False)[0] for i in images(count, size)]


def kinds(model):
    return {c.node: c.kind for c in quantized_convolutions(model)}


def test_quantized_convolutions_are_found_through_what_moves_values():
    found = kinds(small_network())
    assert found == dict.fromkeys(DENSE, "dense") | dict.fromkeys(DEPTHWISE, "depthwise")
    assert float_convolutions(small_network()) == []


def test_a_convolution_without_codes_on_its_weights_is_float():
    model = small_network(float_conv="/point")
    assert "/point" not in kinds(model)
    assert float_convolutions(model) == ["/point"]


def joined(scale):
    """A network whose last convolution reads two maps of codes, one with another scale."""
    net = Network()
    x = net.quantized("image")
    one, two = (net.quantized(net.conv(n, x, 1, 2), s) for n, s in (("/a", 0.03), ("/b", scale)))
    return net.model(net.conv("/c", net.op("Concat", one, two, axis=1), 4, 2), 8, 2)


def test_joined_maps_are_on_one_grid_only_with_equal_scales():
    assert set(kinds(joined(0.03))) == {"/a", "/b", "/c"}
    assert set(kinds(joined(0.04))) == {"/a", "/b"}


@pytest.mark.parametrize(("mode", "on_grid"), [("nearest", True), ("linear", False)])
def test_only_a_nearest_resize_keeps_values(mode, on_grid):
    net = Network()
    scales = net.constant("/scales", np.array([1, 1, 2, 2], np.float32))
    x = net.op("Resize", net.quantized("image"), "", scales, mode=mode)
    model = net.model(net.conv("/head", x, 1, 2), 8, 2)
    assert ("/head" in kinds(model)) == on_grid


@pytest.mark.parametrize(("value", "on_grid"), [(0.0, True), (0.01, False)])
def test_only_a_zero_pad_keeps_values(value, on_grid):
    net = Network()
    amounts = net.constant("/amounts", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    x = net.op("Pad", net.quantized("image"), amounts, net.constant("/v", np.float32(value)))
    assert ("/head" in kinds(net.model(net.conv("/head", x, 1, 2), 8, 2))) == on_grid


@pytest.mark.parametrize(("value", "on_grid"), [(None, True), (0.0, True), (0.01, False)])
def test_zeros_that_are_joined_on_lie_on_every_grid(value, on_grid):
    net = Network()
    given = {} if value is None else {"value": numpy_helper.from_array(np.float32([value]))}
    shape = net.constant("/shape", np.array([2, 1, 8, 8], np.int64))
    more = net.op("ConstantOfShape", shape, **given)
    x = net.op("Concat", net.quantized("image"), more, axis=1)
    assert ("/head" in kinds(net.model(net.conv("/head", x, 2, 2), 8, 2))) == on_grid


@pytest.mark.parametrize("clip", [False, True])
def test_preparing_changes_no_bit_and_puts_codes_at_every_convolution(clip):
    model = small_network(clip=clip)
    prepared = prepare(model)
    for got, expected in zip(outputs(prepared), outputs(model), strict=True):
        assert np.array_equal(got, expected)
    graph = View(prepared)
    convs = [n for n in prepared.graph.node if n.op_type == "Conv"]
    for conv in convs:
        assert graph.producers[conv.input[0]].op_type == "DequantizeLinear"
        assert graph.producers[conv.input[1]].op_type == "DequantizeLinear"
    assert not any(n.op_type == "Clip" for n in prepared.graph.node)
    onnx.checker.check_model(prepared)


def test_a_weight_clip_is_computed_and_not_dropped():
    model = small_network(clip=True)
    for tensor in model.graph.initializer:
        if tensor.name in ("/stem.low", "/stem.high"):
            value = -3 if tensor.name.endswith("low") else 3
            tensor.CopyFrom(numpy_helper.from_array(np.array(value, np.int8), tensor.name))
    prepared = prepare(model)
    codes = View(prepared).constant("/stem.codes")
    assert (codes.min(), codes.max()) == (-3, 3)
    for got, expected in zip(outputs(prepared), outputs(model), strict=True):
        assert np.array_equal(got, expected)


def test_a_scale_in_a_constant_node_counts_too():
    model = convolutions_only()
    scale = next(i for i in model.graph.initializer if i.name.endswith("/scale"))
    model.graph.node.insert(0, helper.make_node("Constant", [], [scale.name], value=scale))
    model.graph.initializer.remove(scale)
    assert set(kinds(model)) == {"/stem", "/head"}


@pytest.mark.parametrize(
    ("dtype", "zero", "got"),
    [(np.int8, 3, "int8 with zero point 3"), (np.uint8, 0, "uint8 with zero point 0")],
)
def test_other_codes_are_refused(dtype, zero, got):
    with pytest.raises(UserError) as error:
        prepare(convolutions_only(activation=dtype, zero=zero))
    assert str(error.value).endswith(
        f"/QuantizeLinear: {got}; expected int8 with zero point 0; quantize activations "
        "symmetrically to INT8"
    )


def test_every_node_gets_a_name_of_its_own():
    model = convolutions_only()
    for node in model.graph.node:
        node.name = "same" if node.op_type == "Conv" else ""
    model = run([NodeNames()], model)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and all(names)
    assert [n.name for n in model.graph.node if n.op_type == "Conv"] == ["same", "same_2"]
