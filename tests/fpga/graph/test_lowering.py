from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from qonnx_nets import Net, mamba

from lmaunet.errors import UserError
from lmaunet.fpga.agreement.nodes import host_codes, host_logits
from lmaunet.fpga.agreement.reference import Reference
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import RULES, lower
from lmaunet.fpga.toolchain.assemble import assemble


def lowered(net: Net, output: str, tmp_path):
    path = net.save(tmp_path / "net.onnx", output)
    reference = Reference(path)
    return lower(path, reference.run(net.images(), reference.scan_inputs()))


def operators(net: Net, output: str, tmp_path) -> list[str]:
    return [node.op_type for node in lowered(net, output, tmp_path).graph.nodes]


def quantized(net: Net, x: str, scale: float = 0.02) -> str:
    return net.quant(x, scale)


def test_a_convolution_is_border_window_matrix_and_rounding(tmp_path):
    net = Net()
    x = quantized(net, net.op("Relu", net.conv(net.image(), 4, 4, (3, 3))))
    assert operators(net, net.conv(x, 4, 2), tmp_path) == [
        "FMPadding", "ConvolutionInputGenerator", "MVAU", "Requantize", "MVAU",
    ]  # fmt: skip


def test_relu_and_bias_are_absorbed(tmp_path):
    net = Net()
    x = net.quant(net.op("Relu", net.conv(net.image(), 4, 4)), 0.02, signed=1)
    found = lowered(net, net.conv(x, 4, 2), tmp_path)
    node = next(n for n in found.graph.nodes if n.op_type == "Requantize")
    attributes = {a.name: a.i for a in node.attribute}
    assert (attributes["Low"], attributes["High"]) == (0, 127)
    offset = found.graph.constants[node.input[2]]
    assert len(set(offset.tolist())) > 1  # each channel's bias


def test_the_whole_network_is_made_of_these(whole):
    assert Counter(step.op_type for step in whole.executor.steps) == {
        "Requantize": 20, "MVAU": 15, "ConvolutionInputGenerator": 7, "DuplicateStreams": 7,
        "FMPadding": 4, "TableActivation": 2, "Pool": 3, "VVAU": 2, "Reshape": 2,
        "ElementwiseAdd": 2, "SelectiveScan": 1, "ElementwiseMul": 1, "PadWithCode": 2,
        "StreamingConcat": 1, "UpsampleNearestNeighbour": 2, "BinSum": 1,
    }  # fmt: skip


def test_every_tensor_has_one_consumer(whole):
    uses = Counter(name for step in whole.executor.steps for name in step.inputs)
    streamed = {name for step in whole.executor.steps for name in step.outputs}
    assert {name for name in streamed if uses[name] != 1} == {whole.executor.output}


def test_a_border_of_signed_codes_is_not_zero(tmp_path):
    net = Net()
    pool = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    signed = net.op("MaxPool", quantized(net, net.conv(net.image(), 4, 4)), **pool)
    rectified = net.op("Relu", net.conv(signed, 4, 4))
    positive = net.op("MaxPool", quantized(net, rectified), **pool)
    found = lowered(net, net.conv(positive, 4, 2), tmp_path)
    borders = [n for n in found.graph.nodes if n.op_type in ("PadWithCode", "FMPadding")]
    assert [n.op_type for n in borders] == ["PadWithCode", "FMPadding"]
    assert next(a.i for a in borders[0].attribute if a.name == "Code") == -128


def test_two_quantizers_of_one_tensor_make_a_table(tmp_path):
    net = Net()
    x = quantized(net, net.conv(net.image(), 4, 4))
    again = net.quant(x, 0.05)
    assert operators(net, net.conv(again, 4, 2), tmp_path)[2] == "TableActivation"


def test_the_same_quantizer_again_makes_nothing(tmp_path):
    net = Net()
    x = quantized(net, net.conv(net.image(), 4, 4))
    again = net.quant(x, 0.02)
    assert operators(net, net.conv(again, 4, 2), tmp_path) == ["MVAU", "Requantize", "MVAU"]


@pytest.mark.parametrize(
    ("relu", "bits", "signed", "scale", "same"),
    [
        (False, 8, 1, 0.02, True),
        (False, 9, 1, 0.02, True),  # more codes than there are
        (False, 7, 1, 0.02, False),  # clips on both sides
        (False, 9, 0, 0.02, False),  # clips below zero
        (False, 8, 1, 0.0201, False),
        (True, 8, 0, 0.02, True),  # after a ReLU there is nothing below zero
        (True, 7, 1, 0.02, False),  # clips above
    ],
)
def test_a_quantizer_that_moves_a_code_is_never_left_out(tmp_path, relu, bits, signed, scale, same):
    net = Net()
    rectified = net.conv(net.image(), 4, 4)
    x = quantized(net, net.op("Relu", rectified) if relu else rectified)
    again = net.quant(x, scale, bits=bits, signed=signed)
    found = operators(net, net.conv(again, 4, 2), tmp_path)
    assert ("TableActivation" not in found) == same


PADS = list(itertools.permutations((0, 1, 2, 3)))[:12]


@pytest.mark.parametrize("own", [[0, 0, 0, 0], [2, 0, 1, 1]], ids=["Pad", "Pad and Conv"])
@pytest.mark.parametrize("pads", PADS, ids=str)
def test_a_border_may_be_another_on_each_side(tmp_path, pads, own):
    """Top, left, bottom and right, of a map that is not square; the values are ONNX's."""
    top, left, bottom, right = pads
    net = Net(2, (5, 7))
    amounts = net.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    padded = net.op("Pad", net.image(), amounts, mode="constant")
    output = net.conv(padded, 2, 3, (2, 3), pads=own)
    path, images = net.save(tmp_path / "net.onnx", output), net.images(2)
    reference = Reference(path)
    found = lower(path, reference.run(images, reference.scan_inputs()))
    (border,) = [n for n in found.graph.nodes if n.op_type == "FMPadding"]
    sides = next(list(a.ints) for a in border.attribute if a.name == "Padding")
    assert sides == [a + b for a, b in zip(pads, own, strict=True)]
    executor = Executor(assemble(found).model)
    logits = host_logits(found.host, executor.run(host_codes(found.host, images)))
    assert logits.shape[2:] == (5 + top + bottom + own[0] + own[2] - 1,
                                7 + left + right + own[1] + own[3] - 2)  # fmt: skip
    np.testing.assert_allclose(logits, reference.run(images)[output], atol=1e-4)


def refuse(net: Net, output: str, tmp_path, message: str) -> None:
    with pytest.raises(UserError) as caught:
        lowered(net, output, tmp_path)
    assert message in str(caught.value)


def test_concatenated_scales_must_be_equal_or_be_quantized_behind(tmp_path):
    net = Net()
    x = net.image()
    left, right = (net.quant(net.conv(x, 4, 4), s, name=n) for s, n in ((0.02, "a"), (0.03, "b")))
    joined = net.op("Concat", left, right, axis=1, name="joined")
    refuse(
        net, net.conv(joined, 8, 2), tmp_path,
        "Concat of a (INT8, scale 0.0199999996) and b (INT8, scale 0.0299999993); their codes can "
        "be joined only with equal scales: give both the same quantizer, or put one behind the "
        "Concat",
    )  # fmt: skip


def test_an_unmapped_operator_is_refused_by_name(tmp_path):
    net = Net()
    x = quantized(net, net.conv(net.image(), 4, 4))
    pooled = net.op("GlobalMaxPool", x, name="pooled")
    refuse(
        net, net.conv(pooled, 4, 2), tmp_path,
        "operator GlobalMaxPool (node node_pooled) has no hardware mapping; mapped are: Add, Aver",
    )  # fmt: skip


def test_a_norm_of_the_map_is_refused_with_what_to_do(tmp_path):
    net = Net()
    ones, zeros = (net.constant(np.full(4, value)) for value in (1, 0))
    normed = net.op("InstanceNormalization", net.conv(net.image(), 4, 4), ones, zeros)
    with pytest.raises(UserError, match=r"InstanceNormalization .* mapping; .*; qat --norm batch"):
        lowered(net, net.conv(quantized(net, normed), 4, 2), tmp_path)


def test_an_unquantized_tensor_is_refused(tmp_path):
    net = Net()
    float_map = net.conv(net.image(), 4, 4)
    message = "is not quantized; give it an activation quantizer"
    refuse(net, net.conv(float_map, 4, 2), tmp_path, message)


def test_an_unquantized_image_is_refused(tmp_path):
    net = Net()
    refuse(net, net.conv("image", 4, 2), tmp_path, "its input image is not quantized")


def test_a_quantized_output_is_refused(tmp_path):
    net = Net()
    refuse(
        net, quantized(net, net.conv(net.image(), 4, 4)), tmp_path,
        "does not come straight from a convolution's accumulators",
    )  # fmt: skip


def test_a_zero_point_is_refused(tmp_path):
    net = Net()
    x = net.quant(net.conv(net.image(), 4, 4), 0.02, zero_point=3.0)
    refuse(net, net.conv(x, 4, 2), tmp_path, "zero point 3.0; only 0 is mapped")


def test_a_scale_per_channel_on_an_activation_is_refused(tmp_path):
    net = Net()
    x = net.quant(net.conv(net.image(), 4, 4), np.full((1, 4, 1, 1), 0.02))
    refuse(net, net.conv(x, 4, 2), tmp_path, "4 scales on an activation; expected one per tensor")


def test_a_grouped_convolution_is_refused(tmp_path):
    net = Net()
    x = quantized(net, net.conv(net.image(), 4, 4, group=2))
    refuse(net, net.conv(x, 4, 2), tmp_path, "group=2 with 4 inputs and 4 outputs; only dense")


def test_a_real_reordering_is_refused(tmp_path):
    net = Net()
    x = quantized(net, net.conv(net.image(), 4, 4))
    turned = net.op("Transpose", x, perm=[0, 1, 3, 2])
    refuse(net, net.conv(turned, 4, 2), tmp_path, "is not streamed pixel by pixel")


def test_missing_calibration_of_a_scan_is_refused(tmp_path):
    net = Net()
    local = net.quant(net.conv(net.image(), 4, 4), 0.03)
    path = net.save(tmp_path / "net.onnx", net.conv(mamba(net, local, 4, 4, (8, 8)), 4, 2))
    with pytest.raises(UserError, match=r"no calibration data for .*; give sample images"):
        lower(path, {})


def test_a_file_that_is_no_network_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; export the network first"):
        lower(tmp_path / "none.onnx", {})
    (tmp_path / "text.onnx").write_text("not a model")
    with pytest.raises(UserError, match=r"text.onnx (is not an ONNX file|holds no nodes)"):
        lower(tmp_path / "text.onnx", {})


def test_the_host_quantizes_as_the_first_node(whole):
    first = whole.reference.run(whole.images, [whole.reference.activations()[0]])
    codes = host_codes(whole.lowered.host, whole.images)
    scale = np.float32(whole.lowered.host.input_scale)
    want = next(iter(first.values())).transpose(0, 2, 3, 1)
    assert np.array_equal(codes.astype(np.float32) * scale, want)


def leaky(net: Net, tmp_path, **slope):
    """A network of one LeakyRelu, on an image with every code of 8 bits; and its QONNX tensor."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    activated = net.op("LeakyRelu", net.image(0.02), **slope)
    codes = net.quant(activated, 0.015, name="activated")
    path = net.save(tmp_path / "net.onnx", net.conv(codes, 1, 2))
    image = (np.arange(-128, 128) * 0.02).astype(np.float32).reshape(1, 1, 16, 16)
    model = ModelWrapper(str(path)).transform(InferShapes())
    seen = execute_onnx(model, {"image": image}, True)["activated"]
    return path, image, np.rint(seen / 0.015).astype(int).transpose(0, 2, 3, 1)


def codes_of(path, image) -> np.ndarray:
    """What the hardware graph has behind its one table, ``(1, H, W, C)``."""
    found = lower(path, {})
    assert [n.op_type for n in found.graph.nodes] == ["TableActivation", "MVAU"]
    (table,) = (n.output[0] for n in found.graph.nodes if n.op_type == "TableActivation")
    streams: dict[str, np.ndarray] = {}
    executor = Executor(assemble(found).model)
    executor.run(host_codes(found.host, image), lambda name, v: streams.update({name: v}))
    return streams[table]


@pytest.mark.parametrize("slope", [{}, {"alpha": 0.1}, {"alpha": 0.3}, {"alpha": 1.5}])
def test_a_leaky_relu_is_a_table_that_equals_qonnx(tmp_path, slope):
    path, image, expected = leaky(Net(1, (16, 16)), tmp_path, **slope)
    assert expected.min() < 0 < expected.max()
    np.testing.assert_array_equal(codes_of(path, image), expected)


def test_a_leaky_relu_of_another_slope_is_caught(tmp_path, monkeypatch):
    path, image, expected = leaky(Net(1, (16, 16)), tmp_path, alpha=0.1)
    rule = RULES["LeakyRelu"]
    for wrong in (0.0, 0.01, 0.11):
        monkeypatch.setitem(
            RULES, "LeakyRelu", lambda w, n, a, i, s=wrong: rule(w, n, a | {"alpha": s}, i)
        )
        assert (codes_of(path, image) != expected).any()
