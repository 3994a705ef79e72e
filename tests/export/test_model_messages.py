"""ONNX files read by a small schema: the same fields as the whole one's, and nothing lost."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import small_network

from lmaunet.errors import UserError
from lmaunet.export.model_messages import SCHEMA, message, read_messages

WHOLE = {
    "Model": onnx.ModelProto, "Graph": onnx.GraphProto, "Node": onnx.NodeProto,
    "Attribute": onnx.AttributeProto, "Tensor": onnx.TensorProto,
    "Sparse": onnx.SparseTensorProto, "Function": onnx.FunctionProto,
    "Value": onnx.ValueInfoProto, "Type": onnx.TypeProto,
    "TensorType": onnx.TypeProto.Tensor, "Shape": onnx.TensorShapeProto,
    "Dimension": onnx.TensorShapeProto.Dimension, "OperatorSet": onnx.OperatorSetIdProto,
    "Entry": onnx.StringStringEntryProto,
}  # fmt: skip


def saved(path, model):
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", SCHEMA)
def test_a_field_has_the_number_and_the_type_that_onnx_gives_it(name):
    ours, theirs = message(name).DESCRIPTOR, WHOLE[name].DESCRIPTOR
    assert ours.fields
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        # an enumeration is read as the integer that it is
        kind = field.TYPE_INT32 if other.type == other.TYPE_ENUM else other.type
        assert (field.number, field.type) == (other.number, kind), field.name
        assert field.label == other.label, field.name
        if field.type == field.TYPE_MESSAGE:
            named = WHOLE[field.message_type.name].DESCRIPTOR
            assert other.message_type.full_name == named.full_name


def test_what_the_schema_does_not_name_is_written_as_it_was_read(tmp_path):
    model = small_network()
    model.doc_string, model.producer_name = "text", "someone"
    model.graph.node[0].doc_string = "more"
    model.metadata_props.add(key="a", value="b")
    light = read_messages(saved(tmp_path / "a.onnx", model))
    assert len(light.graph.node) == len(model.graph.node) > 10
    assert onnx.ModelProto.FromString(light.SerializeToString()) == model


def far_tensor():
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "far")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    return tensor


def with_far_tensor(place):
    """Return a model with a tensor in another file, at a place of the graph."""
    model, tensor = small_network(), far_tensor()
    constant = helper.make_node("Constant", [], ["far"], value=tensor)
    if place == "initializer":
        model.graph.initializer.append(tensor)
    if place == "node":
        model.graph.node.append(constant)
    if place == "function":
        model.functions.append(
            helper.make_function("ours", "f", [], ["far"], [constant], model.opset_import)
        )
    if place == "body":
        body = helper.make_graph([constant], "body", [], [])
        model.graph.node.append(
            helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        )
    if place == "body's initializer":
        body = helper.make_graph([], "body", [], [], [tensor])
        model.graph.node.append(
            helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        )
    if place == "sparse":
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(
                tensor, helper.make_tensor("i", TensorProto.INT64, [2], [0, 1]), [2]
            )
        )
    return model


@pytest.mark.parametrize(
    "place", ["initializer", "node", "function", "body", "body's initializer", "sparse"]
)
def test_a_tensor_in_another_file_is_refused_wherever_it_stands(tmp_path, place):
    path = saved(tmp_path / "a.onnx", with_far_tensor(place))
    with pytest.raises(UserError, match=r"tensor 'far' lies in another file\); build it again"):
        read_messages(path)
    assert read_messages(saved(path, small_network())).graph.node


@pytest.mark.parametrize("content", [b"\xff" * 40, b"this is no model"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"a.onnx is no ONNX model .*; build it again"):
        read_messages(tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"b.onnx is no ONNX model"):
        read_messages(tmp_path / "b.onnx")
