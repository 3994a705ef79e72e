import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import DENSE, DEPTHWISE, convolutions_only, images, small_network

from export import cpu_form
from export.check import run_onnx
from export.convolutions import Graph, prepare
from export.cpu_form import integer_biases, unsigned_activations
from lmaunet.errors import UserError


def outputs(model):
    return np.concatenate(
        [run_onnx(model, {"image": i[None] * 3}, optimize=False)[0] for i in images()]
    )


def quantizer_types(model):
    graph = Graph(model)
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
    before, after = Graph(prepared), Graph(rounded)
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


def test_rounded_biases_make_optimization_change_next_to_nothing():
    """ONNX Runtime rounds biases only when it optimizes; a file that has done it computes alike."""
    unsigned = unsigned_activations(prepare(convolutions_only()))
    image = {"image": images(1, 16)}

    def difference(model):
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
