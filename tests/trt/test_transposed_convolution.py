"""A transposed convolution is a 1x1 convolution and a pixel shuffle in the engine: exactly.

All numbers are integers so small that FP16, FP32 and INT8 codes hold every product and sum.
"""

import importlib.util

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lmaunet.export.lower import lower
from lmaunet.export.network import export_float32, export_qcdq
from lmaunet.export.reference import open_session, read_model
from lmaunet.graph.capture import capture
from lmaunet.graph.module import GraphModule
from lmaunet.graph.operators import Conv
from lmaunet.graph.relayouts import PixelShuffle
from lmaunet.quant.calibration import calibrate
from lmaunet.quant.network import QuantNetwork
from lmaunet.trt import float_forms, policy
from lmaunet.trt.engine import build_engine
from lmaunet.trt.precision import check_policy

needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
KERNELS = [(2, 2), (1, 2), (2, 1), (3, 3)]
PRECISIONS = ["int8", "fp32", "fp16", "int4-weights"]
LARGEST_WEIGHT, LARGEST_PIXEL = 7, 15


def case(kernel, seed, bias=True):
    """A module with integer weights of random channels, an image of integers, and what it gives."""
    rng = np.random.default_rng(seed)
    ins, outs, height, width = rng.integers((1, 1, 2, 2), (9, 7, 7, 7))
    module = nn.ConvTranspose2d(ins, outs, kernel, kernel, bias=bias).eval()
    weight = rng.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, tuple(module.weight.shape))
    weight[0] = LARGEST_WEIGHT  # the largest of each output channel of the 1x1, so that INT4 is 1:1
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
        if bias:
            module.bias.copy_(torch.from_numpy(rng.integers(-9, 10, outs)))
    image = rng.integers(-LARGEST_PIXEL, LARGEST_PIXEL + 1, (1, ins, height, width))
    image.reshape(-1)[0] = LARGEST_PIXEL
    wanted = F.conv_transpose2d(
        torch.from_numpy(image).double(), module.weight.double(),
        module.bias.double() if bias else None, kernel,
    ).detach().numpy()  # fmt: skip
    return module, image.astype(np.float32), wanted


def given_to_tensorrt(module, image, precision, folder):
    """The ONNX graph that an engine of a precision would be built from."""
    graph, weights = capture(module, image.shape)
    if precision == "int8":
        network = QuantNetwork(graph, weights, scales="pow2")
        calibrate(network, np.repeat(image, 4, 0))
        export_qcdq(network.eval(), torch.from_numpy(image), folder / "network.onnx")
        form, _ = policy.apply(read_model(folder / "network.onnx"))
        return lower(form, "two_level")
    export_float32(GraphModule(graph, weights), torch.from_numpy(image), folder / "network.onnx")
    named = float_forms.copy_named(lower(read_model(folder / "network.onnx"), "two_level"))
    if precision == "fp16":
        return float_forms.in_half(named)
    return float_forms.in_int4(named)[0] if precision == "int4-weights" else named


def computed(model, image):
    session = open_session(model, optimize=False)
    return session.run(None, {session.get_inputs()[0].name: image})[0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_engine_s_graph_computes_exactly_what_the_transposed_convolution_does(
    kernel, precision, tmp_path
):
    for seed in range(3):
        module, image, wanted = case(kernel, seed, bias=seed != 1)
        model = given_to_tensorrt(module, image, precision, tmp_path)
        assert not any(node.op_type == "ConvTranspose" for node in model.graph.node)
        assert np.abs(wanted).max() > 100 and wanted.shape[1] == module.out_channels
        assert np.array_equal(computed(model, image), wanted)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_it_is_exact_in_float64_for_any_weights(kernel):
    """The same two operators in float64: equal up to the order of the sums."""
    rng = np.random.default_rng(7)
    module = nn.ConvTranspose2d(5, 3, kernel, kernel).eval()
    graph, weights = capture(module, (1, 5, 4, 6))
    assert [type(node.operator) for node in graph.nodes] == [Conv, PixelShuffle]
    image = torch.from_numpy(rng.normal(size=(1, 5, 4, 6)))
    got = GraphModule(graph, weights).eval().double()(image)
    wanted = module.double()(image)
    assert got.shape == wanted.shape
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-14)


def shuffled_wrongly(model):
    """The mutant: an element of a block where another belongs, or channels of two blocks mixed."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "DepthToSpace":
            assert attributes["mode"].s == b"CRD"
            attributes["mode"].s = b"DCR"
            return changed
        if node.op_type == "Transpose":  # (N, C, rows of a block, its columns, H, W)
            assert list(attributes["perm"].ints) == [0, 1, 4, 2, 5, 3]
            attributes["perm"].ints[:] = [0, 1, 2, 4, 3, 5]
            return changed
    raise AssertionError("nothing shuffles")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_wrong_order_of_the_shuffle_is_caught(kernel, tmp_path):
    module, image, wanted = case(kernel, 0)
    model = given_to_tensorrt(module, image, "int8", tmp_path)
    assert np.array_equal(computed(model, image), wanted)
    mutant = computed(shuffled_wrongly(model), image)
    assert mutant.shape == wanted.shape and not np.array_equal(mutant, wanted)


@needs_tensorrt
@pytest.mark.parametrize("kernel", KERNELS[:2], ids=str)
def test_the_engine_multiplies_it_in_int8(kernel, tmp_path):
    module, image, _ = case(kernel, 0)
    graph, weights = capture(module, image.shape)
    network = QuantNetwork(graph, weights)
    calibrate(network, np.repeat(image, 4, 0))
    export_qcdq(network.eval(), torch.from_numpy(image), tmp_path / "network.onnx")
    form, planned = policy.apply(read_model(tmp_path / "network.onnx"))
    onnx.save(form, tmp_path / "form.onnx")
    layers = build_engine(tmp_path / "form.onnx", tmp_path / "engine", ["SM86"]).layers
    (row,) = check_policy(layers, planned)
    assert row.is_int8 and row.kind == "dense" and row.exported_bytes == module.weight.numel()
