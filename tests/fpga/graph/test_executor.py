from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from lmaunet.errors import UserError
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.onnx_file import plain_attributes


def test_a_node_of_no_known_operator_is_named():
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 2, 1]) for n in ("x", "y")]
    node = helper.make_node("Crop_hls", ["x"], ["y"], name="crop_7")
    graph = helper.make_graph([node], "hardware", ends[:1], ends[1:])
    with pytest.raises(UserError, match="hardware node crop_7: unknown hardware operator Crop_hls"):
        Executor(helper.make_model(graph))


def test_text_is_text_in_attributes():
    node = helper.make_node("N", [], [], a="INT8", b=["INT8", "INT4"], c=[1, 2], d=0.5)
    assert plain_attributes(node) == {"a": "INT8", "b": ["INT8", "INT4"], "c": [1, 2], "d": 0.5}
