from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lmaunet.cpu.cpu_form import unsigned_activations
from lmaunet.cpu.cpu_layout import channels_last_reshapes, requantize_moves
from lmaunet.export.check import run_onnx
from lmaunet.export.convolutions import prepare
from lmaunet.export.network import export_qcdq


@pytest.fixture(scope="module")
def prepared(tiny_quantized, tiny_data, tmp_path_factory):
    import torch

    path = tmp_path_factory.mktemp("layout") / "network.onnx"
    export_qcdq(tiny_quantized, torch.from_numpy(tiny_data.train.images[:1]), path)
    return prepare(onnx.load(path))


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("step", [requantize_moves, channels_last_reshapes])
def test_a_pass_changes_no_bit(prepared, tiny_data, step):
    feeds = {"image": tiny_data.train.images[:1]}
    changed = step(prepared)
    onnx.checker.check_model(changed)
    assert len(changed.graph.node) > len(prepared.graph.node)
    want, got = (run_onnx(m, feeds, optimize=False)[0] for m in (prepared, changed))
    assert np.abs(want).max() > 0
    np.testing.assert_array_equal(got, want)


def test_every_upsampling_moves_codes(prepared):
    resizes = kinds(prepared)["Resize"]
    more = kinds(requantize_moves(prepared)) - kinds(prepared)
    assert more == {"QuantizeLinear": resizes, "DequantizeLinear": resizes} and resizes == 4


def test_maps_become_tokens_with_the_channels_last(prepared, tiny_spec):
    more = kinds(channels_last_reshapes(prepared)) - kinds(prepared)
    # a map becomes tokens and tokens a map in each stage; the scan's own have three dimensions
    assert more == {"Transpose": 4 * len(tiny_spec.strides)}


def test_codes_of_a_relu_stay_without_an_offset_where_they_are_pooled(prepared):
    model = unsigned_activations(requantize_moves(prepared))
    points = {
        tensor.name: int(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name.startswith("unsigned/zero_point")
    }
    pools = {n.output[0] for n in model.graph.node if n.op_type == "MaxPool"}
    pooled = [
        points[node.input[2]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in pools
    ]
    # the first pooling is behind a ReLU, the others behind an addition
    assert pooled[0] == 0 and set(pooled[1:]) == {128}


def test_channels_that_change_are_not_laid_out_anew():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    graph = helper.make_graph(
        nodes, "reshape", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 3])],
        [numpy_helper.from_array(np.array([1, 2, 4, 3]), "shape")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert kinds(channels_last_reshapes(model)) == {"Reshape": 1}
