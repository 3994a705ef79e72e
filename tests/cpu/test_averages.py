"""Averages of quantized maps, which OpenVINO would round to integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lmaunet.cpu import openvino_runtime as runtime
from lmaunet.cpu.averages import ExactAverages
from lmaunet.export.passes import run
from lmaunet.export.reference import open_session, run_images

STEP = 0.02


def pooled(
    reader: str = "norm", sides: tuple[int, int] = (2, 2), **attributes: object
) -> onnx.ModelProto:
    """Quantized values, averages of ``sides``, a norm over the channels, and its quantizer."""
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "scale", "zero"], ["codes"]),
        node("DequantizeLinear", ["codes", "scale", "zero"], ["values"]),
        node("AveragePool", ["values"], ["averages"], name="pool", kernel_shape=sides,
             strides=sides, **attributes),
    ]  # fmt: skip
    if reader == "norm":
        nodes += [
            node("Transpose", ["averages"], ["last"], perm=[0, 2, 3, 1]),
            node("LayerNormalization", ["last", "ones"], ["normed"], axis=-1),
            node("Transpose", ["normed"], ["first"], perm=[0, 3, 1, 2]),
        ]
    nodes += [
        node("QuantizeLinear", ["first" if reader == "norm" else "averages", "step", "zero"],
             ["rounded"]),
        node("DequantizeLinear", ["rounded", "step", "zero"], ["logits"]),
    ]  # fmt: skip
    stored = {
        "scale": np.float32(0.1), "zero": np.int8(0), "step": np.float32(STEP),
        "ones": np.ones(8, np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "pooled",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 8, 12, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_norm_of_averages_is_that_of_the_graph_in_openvino():
    """The graph itself is off there by several steps, which is why it is changed."""
    pytest.importorskip("openvino")
    model, images = pooled(), np.random.default_rng(0).normal(size=(1, 8, 12, 16)).astype("f4")
    expected = run_images(open_session(model, optimize=False), images)
    errors = [
        np.abs(runtime.compile_model(form)(images)[0] - expected).max() / STEP
        for form in (run([ExactAverages()], model), model)
    ]
    assert errors[0] < 0.5 and errors[1] > 2


def test_the_averages_themselves_are_those_of_the_pooling():
    """A norm behind them would not see another scale."""
    images = np.random.default_rng(0).normal(size=(1, 8, 12, 16)).astype("f4")
    found = []
    for model in (pooled(sides=(3, 4)), run([ExactAverages()], pooled(sides=(3, 4)))):
        model.graph.output.append(
            helper.make_tensor_value_info("averages", TensorProto.FLOAT, None)
        )
        found.append(open_session(model, optimize=False).run(["averages"], {"image": images})[0])
    assert found[0].shape == (1, 8, 4, 4) and np.abs(found[0]).max() > 0.01
    np.testing.assert_allclose(*found, rtol=0, atol=1e-6)


def test_averages_that_quantizers_read_or_with_a_border_stay():
    for model in (pooled("quantizer"), pooled(pads=[1, 1, 1, 1]), pooled(ceil_mode=1),
                  pooled(auto_pad="SAME_UPPER")):  # fmt: skip
        kinds = [node.op_type for node in run([ExactAverages()], model).graph.node]
        assert "AveragePool" in kinds and "Conv" not in kinds
    changed = run([ExactAverages()], pooled())
    (conv,) = (node for node in changed.graph.node if node.op_type == "Conv")
    assert conv.name == "pool" and conv.output[0] == "averages"
