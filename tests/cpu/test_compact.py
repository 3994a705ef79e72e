import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from packing_models import BITS, narrow_network, weight_model
from qcdq_nets import images

from lmaunet.cpu.compact import (
    PASSES,
    Defaults,
    SharedConstants,
    ShortNames,
    Text,
    WeightZeroPoints,
    bytes_by_purpose,
    compact,
)
from lmaunet.cpu.cpu_form import integer_biases, unsigned_activations
from lmaunet.cpu.packing import pack_weights, weight_bits_of
from lmaunet.export.check import run_onnx
from lmaunet.export.convolutions import prepare
from lmaunet.export.lower import lower
from lmaunet.export.passes import run


@pytest.fixture(scope="module")
def packed():
    """A network in the CPU's form, with packed weights, a lowered scan and text to strip."""
    model = lower(integer_biases(unsigned_activations(prepare(narrow_network()))), "unrolled")
    model = pack_weights(model)
    model.doc_string = model.graph.node[0].doc_string = "made for a test"
    model.graph.node.append(helper.make_node("Relu", ["logits"], ["unread"], name="unread"))
    model.graph.node[1].metadata_props.add(key="origin", value="a test")
    model.graph.value_info.append(
        helper.make_tensor_value_info("/stem_out", onnx.TensorProto.FLOAT, None)
    )
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.attribute.append(helper.make_attribute("strides", [1, 1]))
    onnx.checker.check_model(model)
    return model


def logits(model):
    feeds = {"image": 3 * images(1)}
    return [run_onnx(model, feeds, optimize=optimize)[0] for optimize in (False, True)]


@pytest.mark.parametrize(
    "steps", [*([step] for step in PASSES), PASSES], ids=lambda steps: steps[0].name
)
def test_a_pass_makes_the_file_smaller_and_changes_no_bit(packed, steps):
    before = packed.SerializeToString()
    smaller = run(steps, packed)
    assert packed.SerializeToString() == before
    onnx.checker.check_model(smaller)
    assert smaller.ByteSize() < packed.ByteSize()
    for got, want in zip(logits(smaller), logits(packed), strict=True):
        assert np.array_equal(got, want)


def test_the_bits_of_each_weight_are_found_under_its_convolution(packed):
    widths = weight_bits_of(compact(packed))
    wanted = {name.strip("/").removesuffix(".codes"): bits for name, bits in BITS.items()}
    assert {name: widths[name] for name in wanted} == wanted
    assert len(widths) == len(weight_bits_of(packed))


def test_a_zero_point_that_shifts_stays():
    model = weight_model(np.arange(6, dtype=np.int8).reshape(2, 3))
    assert len(run([WeightZeroPoints()], model).graph.node[0].input) == 2
    shift = numpy_helper.from_array(np.array([0, 1], np.int8), "zero")
    model.graph.initializer[2].CopyFrom(shift)
    kept = run([WeightZeroPoints()], model)
    assert kept.graph.node[0].input[2] == "zero"
    assert run_onnx(kept, {}, optimize=False)[0].tolist() == [[0, 1, 2], [2, 3, 4]]


def test_only_constants_that_are_equal_in_every_respect_are_shared():
    arrays = {
        "a": np.zeros(4, np.int32), "same": np.zeros(4, np.int32),
        "type": np.zeros(4, np.float32), "shape": np.zeros((2, 2), np.int32),
        "value": np.array([0, 0, 0, 1], np.int32), "input": np.zeros(4, np.int32),
    }  # fmt: skip
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in arrays]
    info = helper.make_tensor_value_info
    kinds = {k: helper.np_dtype_to_tensor_dtype(v.dtype) for k, v in arrays.items()}
    graph = helper.make_graph(
        nodes, "constants", [info("input", kinds["input"], [4])],
        [info(f"{name}_out", kinds[name], array.shape) for name, array in arrays.items()],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    shared = run([SharedConstants()], model)
    assert [i.name for i in shared.graph.initializer] == ["a", "type", "shape", "value", "input"]
    for got, want in zip(run_onnx(shared, {}, optimize=False), arrays.values(), strict=True):
        assert got.dtype == want.dtype and np.array_equal(got, want)


def test_text_goes_and_public_names_stay(packed):
    stripped = run([Text()], packed)
    assert b"a test" not in stripped.SerializeToString() and not stripped.graph.value_info
    short = run([ShortNames()], packed)
    assert [i.name for i in short.graph.input] == ["image"]
    assert [o.name for o in short.graph.output] == ["logits"]
    assert not any(node.name for node in short.graph.node)
    assert b"/SelectiveScan" not in short.SerializeToString()


def test_a_convolution_that_is_called_like_an_output_gets_no_second_name():
    model = weight_model(np.ones((4, 1, 3, 3), np.int8))
    model.graph.output[0].name = "a"
    model.graph.input.append(
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 8, 8])
    )
    model.graph.node.append(helper.make_node("Conv", ["x", "values"], ["a"], name="a"))
    short = run([ShortNames()], model)
    onnx.checker.check_model(short)
    assert [o.name for o in short.graph.output] == ["a"]
    assert run_onnx(short, {"x": np.ones((1, 1, 8, 8), np.float32)}, optimize=False)[0].max() == 9


def test_attributes_that_say_something_stay():
    attributes = {"group": 1, "strides": [1, 2], "dilations": [1, 1], "pads": [0, 0, 0, 1]}
    conv = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    info = helper.make_tensor_value_info
    inputs = [info(name, onnx.TensorProto.FLOAT, None) for name in "xw"]
    model = helper.make_model(helper.make_graph([conv], "conv", inputs, []))
    (node,) = run([Defaults()], model).graph.node
    assert sorted(a.name for a in node.attribute) == ["pads", "strides"]


def test_bytes_by_purpose_sum_up_to_the_file(packed, tmp_path):
    onnx.save(packed, tmp_path / "model.onnx")
    purposes = bytes_by_purpose(packed)
    assert sum(purposes.values()) == (tmp_path / "model.onnx").stat().st_size
    arrays = {i.name: numpy_helper.to_array(i) for i in packed.graph.initializer}
    names = (".codes", ".codes/planes")
    assert purposes["weights"] == sum(a.nbytes for n, a in arrays.items() if n.endswith(names))
    assert purposes["biases"] == sum(a.nbytes for n, a in arrays.items() if "bias" in n)
    scan = arrays["/scan.A"].nbytes + arrays["/scan.D"].nbytes
    assert purposes["scans"] > scan
