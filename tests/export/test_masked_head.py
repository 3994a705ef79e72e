"""The head over masks: what each target's file gives, against the head in float64."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import convolutions_only, images, small_network

from lmaunet.cpu import openvino_runtime
from lmaunet.cpu.cpu_file import cpu_file
from lmaunet.cpu.openvino_file import openvino_file, openvino_form
from lmaunet.data.confidence import draw_masks, predictive_entropy, softmax
from lmaunet.errors import UserError
from lmaunet.export import masked_head, masked_samples
from lmaunet.export.lower import lower
from lmaunet.export.reference import open_session, run_images
from lmaunet.trt import policy

RATE = 0.2
CHANNELS = 8


def forms(exported):
    """The file of each target, its session with and without the second output, and what runs it."""
    yield "export", exported, "ort"
    yield "ort", cpu_file(exported), "ort"
    yield "trt", lower(policy.apply(exported)[0], "two_level"), "ort"
    yield "openvino", openvino_file(openvino_form(exported, vnni=True)), "openvino"


def opened(model, runtime):
    if runtime == "openvino":
        return openvino_runtime.compile_model(model)
    return open_session(model, optimize=True)


def computed(exported, model, runtime, masks, batch):
    """Logits without and with masks, the trunk's integers, and how often the trunk ran."""
    head, features = masked_head.masked_head(model, exported)
    alone = opened(model, runtime)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    trunk = opened(masked_samples.with_output(copy, features), runtime)
    runs = {"ort": masked_samples.session_runs, "openvino": masked_samples.compiled_runs}[runtime]
    run_trunk, run_head = runs(trunk, opened(head, runtime))
    seen = []

    def counted(image):
        seen.append(run_trunk(image))
        return seen[-1]

    plain, sampled = masked_samples.masked_samples(batch, masks, counted, run_head)
    run = {"ort": run_images, "openvino": openvino_runtime.run_images}[runtime]
    np.testing.assert_array_equal(plain, run(alone, batch))
    return plain, sampled, np.concatenate([integers for _, integers in seen])


def by_hand(exported, integers, masks):
    """The masked head in float64, from the export's weights and a trunk's integers."""
    stored = {t.name: numpy_helper.to_array(t) for t in exported.graph.initializer}
    weight = stored["/head.codes"][:, :, 0, 0] * stored["/head.scale"][:, None].astype(np.float64)
    (quantizer,) = (
        n.input for n in exported.graph.node if n.op_type == "DequantizeLinear"
        and n.output[0] == next(m.input[0] for m in exported.graph.node if m.name == "/head")
    )  # fmt: skip
    # INT8 around 0 in the export; a file for a CPU may have the same as UINT8, of a ReLU from 0
    value = integers.astype(np.float64) * stored[quantizer[1]]
    masked = masks[None, :, :, None, None].astype(np.float64) * value[:, None]
    return np.einsum("kc,ntchw->ntkhw", weight, masked) + stored["/head.bias"][:, None, None]


@pytest.fixture(scope="module")
def exported():
    return small_network(scan=False)


@pytest.mark.parametrize("form", range(4), ids=["export", "ort", "trt", "openvino"])
def test_each_file_gives_the_masked_head_of_its_own_trunk(exported, form):
    """Ten masks, which the head takes in two calls; the trunk runs once for an image."""
    _, model, runtime = list(forms(exported))[form]
    masks = draw_masks(10, CHANNELS, RATE, 3)
    plain, sampled, integers = computed(exported, model, runtime, masks, images()[:2])
    assert len(integers) == 2 and sampled.shape == (2, 10, 3, 32, 32)
    want = by_hand(exported, integers, masks)
    scale = np.abs(want).max()
    # a file for ONNX Runtime has its biases rounded to integers of the accumulators
    np.testing.assert_allclose(sampled, want, atol=(2e-5 if form == 1 else 5e-7) * scale)
    assert np.abs(sampled - plain[:, None]).max() > 0.05 * scale  # masks do something
    assert np.abs(sampled[:, 0] - sampled[:, 1]).max() > 0.05 * scale  # and not the same
    # without 1/(1-p), or without masks, it would be told
    for wrong in (masks * (1 - RATE), np.ones_like(masks)):
        assert np.abs(by_hand(exported, integers, wrong) - sampled).max() > 1e-3 * scale


def test_the_targets_agree_on_masks_and_entropy(exported):
    """To 1e-5 nats in nine of ten pixels; where a float rounding moved a code, to 0.02."""
    masks = draw_masks(8, CHANNELS, RATE, 0)
    entropies, counts = [], []
    for _, model, runtime in forms(exported):
        _, sampled, _ = computed(exported, model, runtime, masks, images()[:1])
        entropies.append(predictive_entropy(softmax(sampled[0], 1.3).mean(0), 0))
        counts.append([np.bincount(s.argmax(0).ravel(), minlength=3) for s in sampled[0]])
    assert entropies[0].std() > 0.01
    for other, count in zip(entropies[1:], counts[1:], strict=True):
        assert np.mean(np.abs(other - entropies[0]) > 1e-5) < 0.1
        assert np.abs(other - entropies[0]).max() < 0.02
        assert np.abs(np.subtract(count, counts[0])).max() <= 10


def test_masks_of_ones_are_no_dropout(exported):
    _, model, runtime = list(forms(exported))[1]
    plain, sampled, _ = computed(exported, model, runtime, np.ones((2, CHANNELS)), images()[:1])
    np.testing.assert_allclose(sampled[:, 1], plain, atol=2e-6 * np.abs(plain).max())


def test_zero_points_and_packed_weights_are_those_of_the_file():
    """UINT8 around 128, as a value that may be negative has, and a head of 4-bit weights."""
    exported = convolutions_only()
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    stored = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.name == "/head":
            (dq,) = (n for n in model.graph.node if n.output[0] == node.input[0])
            (q,) = (n for n in model.graph.node if n.output[0] == dq.input[0])
            name = "moved zero"
            model.graph.initializer.append(numpy_helper.from_array(np.uint8(128), name))
            q.input[2] = dq.input[2] = name
    assert stored
    masks = draw_masks(3, 4, RATE, 1)
    batch = np.random.default_rng(0).normal(0, 1, (1, 1, 16, 16)).astype(np.float32)
    got, want = (computed(exported, m, "ort", masks, batch)[1] for m in (model, exported))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(want).max() > 0.1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [('["masks3", "weights"]', '["weights", "weights"]'),
     ('"columns"], ["integers"]', '"columns"], ["cast"]'),
     ('["cast", "zero"]', '["cast", "cast"]'), ("(scale.reshape(()) * ", "("),
     ('["scaled", "bias"]', '["scaled", "scaled"]')],
)  # fmt: skip
def test_a_wrong_head_is_noticed(exported, mutant_of, monkeypatch, right, wrong):
    mutant = mutant_of(masked_head, right, wrong)
    monkeypatch.setattr(masked_head, "masked_head", mutant.masked_head)
    with pytest.raises((AssertionError, UserError, onnx.checker.ValidationError, ValueError)):
        test_each_file_gives_the_masked_head_of_its_own_trunk(exported, 0)


def test_what_ends_in_no_quantized_convolution_is_refused(exported):
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    (last,) = (n for n in model.graph.node if n.output[0] == "logits")
    last.op_type = "Relu"
    with pytest.raises(UserError, match="ends in Relu, expected Conv"):
        masked_head.masked_head(model, exported)
    floating = small_network(scan=False, float_conv="/head")
    with pytest.raises(UserError, match="no constant scales"):
        masked_head.masked_head(floating, floating)
    alone = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "alone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")],
    )  # fmt: skip
    with pytest.raises(UserError, match="is not quantized"):
        masked_head.masked_head(helper.make_model(alone), exported)
    with pytest.raises(UserError, match="no tensor 'nowhere'"):
        masked_samples.with_output(model, "nowhere")
