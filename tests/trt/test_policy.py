import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from qcdq_nets import DENSE, DEPTHWISE, images, small_network

from lmaunet.errors import Disagreement, UserError
from lmaunet.export.lower import lower
from lmaunet.export.segments import check_segments, exported_values
from lmaunet.trt import policy

DOCS = Path(__file__).parents[2] / "docs" / "tensorrt.md"


def test_every_quantized_convolution_has_a_form():
    _, planned = policy.apply(small_network())
    forms = {one.convolution.node: one.form for one in planned}
    assert forms == {
        **dict.fromkeys(DENSE, policy.W8A8), **dict.fromkeys(DEPTHWISE, policy.WEIGHT_ONLY),
    }  # fmt: skip


def check_values(model, form, tmp_path, optimize):
    batch = images(1)
    values = exported_values(model, batch)
    return check_segments(
        "policy", lower(form, "two_level"), values, batch, tmp_path, share=0, optimize=optimize,
        float_biases=True,
    )  # fmt: skip


@pytest.mark.parametrize("optimize", [False, True], ids=["off", "full"])
def test_no_value_changes(optimize, tmp_path):
    model = small_network()
    form, _ = policy.apply(model)
    near, exact, _ = check_values(model, form, tmp_path, optimize)
    assert near.n_differ == exact.n_differ == 0 and exact.n_total > 10_000


def test_joined_weights_in_the_wrong_order_are_caught(tmp_path):
    model = small_network()
    form, _ = policy.apply(model)
    (pool,) = (t for t in form.graph.initializer if t.name == "depthwise_7x7/codes")
    codes = numpy_helper.to_array(pool)
    pool.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(codes[::-1]), pool.name))
    with pytest.raises(Disagreement, match="policy, codes of /quant_"):
        check_values(model, form, tmp_path, optimize=False)


def test_equal_kernels_are_joined():
    form, planned = policy.apply(small_network())
    (pool,) = {one.pool for one in planned if one.pool}
    (codes,) = (t for t in form.graph.initializer if t.name == f"{pool}/codes")
    assert pool == "depthwise_7x7" and tuple(codes.dims) == (8, 1, 7, 7)
    (split,) = (node for node in form.graph.node if node.op_type == "Split")
    assert list(split.output) == ["/large/weights"]
    names = [node.name for node in form.graph.node]
    assert names.index(split.name) < names.index("/large")
    assert not any(t.name == "/large.codes" for t in form.graph.initializer)


def test_a_network_without_depthwise_convolutions_stays():
    from qcdq_nets import convolutions_only

    form, planned = policy.apply(convolutions_only())
    assert {one.form for one in planned} == {policy.W8A8}
    assert not any(node.op_type == "Max" for node in form.graph.node)


def test_a_transposed_convolution_is_refused():
    model = small_network(scan=False)
    model.graph.node.append(
        helper.make_node("ConvTranspose", ["image", "image"], ["up"], name="/up/ConvTranspose")
    )
    with pytest.raises(UserError, match=r"/up/ConvTranspose is a transposed convolution, .*Resize"):
        policy.apply(model)


def test_scales_along_the_inputs_are_refused():
    model = small_network(scan=False)
    (node,) = (n for n in model.graph.node if n.name == "/point/weight")
    node.attribute[0].i = 1
    with pytest.raises(UserError) as error:
        policy.apply(model)
    assert str(error.value) == (
        "/point: the scales of its weights lie along axis 1; expected axis 0, the output channels; "
        "quantize the weights for each output channel"
    )


def test_scales_that_are_not_float32_are_refused():
    model = small_network(scan=False)
    (scale,) = (t for t in model.graph.initializer if t.name == "/point.scale")
    array = numpy_helper.to_array(scale).astype(np.float16)
    scale.CopyFrom(numpy_helper.from_array(array, scale.name))
    with pytest.raises(UserError, match="/point: the scale of its weights is float16; expected a"):
        policy.apply(model)


def test_the_docs_show_the_policy():
    text = DOCS.read_text(encoding="utf-8")
    for rule in policy.RULES:
        row = f"| {rule.operation} | {rule.form} | {rule.why} | {rule.engine} |"
        assert row in text, row


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
def test_sm75_would_make_the_engine_float(tmp_path):
    from lmaunet.trt.engine import build_engine
    from lmaunet.trt.precision import check_policy

    form, planned = policy.apply(small_network(scan=False))
    onnx.save(form, tmp_path / "network.onnx")
    for sms in (["SM75"], ["SM86", "SM75"]):
        layers = build_engine(tmp_path / "network.onnx", tmp_path / "out", sms).layers
        with pytest.raises(Disagreement, match="5 of 5 W8A8 convolutions are otherwise"):
            check_policy(layers, planned)
