import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from qcdq_nets import float_network, small_network

from lmaunet.export.reference import open_session
from lmaunet.trt.float_forms import copy_named, in_half
from lmaunet.trt.half_emulation import emulated

VALUES = np.array([[[[1.0001, 65519.0, 7e4, np.pi]]]], np.float32)
ROUNDED = np.array([1.0, 65504.0, np.inf, 3.140625], np.float32)


@pytest.fixture
def model():
    """One convolution by 1 in half, as the policy writes it."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], "/conv"),
    ]
    shape = [1, 1, 1, 4]
    graph = helper.make_graph(
        nodes, "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")],
    )  # fmt: skip
    opset = [helper.make_opsetid("", 18)]
    return in_half(helper.make_model(graph, opset_imports=opset, ir_version=8))


def computed(model, optimize):
    return open_session(model, optimize=optimize).run(None, {"x": VALUES})[0].ravel()


@pytest.mark.parametrize("optimize", [False, True], ids=["off", "full"])
def test_values_are_rounded_to_half_and_overflow(model, optimize):
    assert np.array_equal(computed(emulated(model), optimize), ROUNDED)
    # the mutant: ONNX Runtime left alone takes the casts out, and nothing overflows
    assert np.array_equal(computed(model, optimize), VALUES.ravel())


def test_what_a_product_gives_is_rounded_too(model):
    """A weight of two: 40,000 fits, 80,000 does not."""
    (weight,) = (t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT16)
    two = np.full((1, 1, 1, 1), 2, np.float16)
    weight.CopyFrom(numpy_helper.from_array(two, weight.name))
    session = open_session(emulated(model), optimize=True)
    given = np.array([[[[4e4, 1.0, -4e4, 1.0005]]]], np.float32)
    assert session.run(None, {"x": given})[0].ravel().tolist() == [np.inf, 2, -np.inf, 2.001953125]


def test_each_product_of_a_network_rounds_and_once_is_enough():
    once = emulated(in_half(copy_named(float_network())))
    kinds = [node.op_type for node in once.graph.node]
    assert kinds.count("Max") == 2 * 4 == kinds.count("Cast")
    assert emulated(once) == once
    onnx.checker.check_model(once)


def test_a_graph_without_half_stays():
    model = copy_named(small_network(scan=False))
    assert emulated(model) == emulated(emulated(model))
    assert [n.op_type for n in emulated(model).graph.node] == [n.op_type for n in model.graph.node]
