import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import DENSE, DEPTHWISE, Network, images, small_network

from lmaunet.artifacts import Agreement
from lmaunet.cpu.cpu_form import unsigned_activations
from lmaunet.errors import Disagreement, UserError
from lmaunet.export.convolutions import prepare
from lmaunet.export.lower import lower
from lmaunet.export.reference import compare_classes, open_session, unsteady_share
from lmaunet.export.segments import (
    _sum,
    activations,
    allowed_steps,
    check_segments,
    cut,
    exported_values,
)

IMAGE = images(1)


def changed(model, name, change):
    """Return a copy of a model with another value in one constant."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (tensor,) = [i for i in copy.graph.initializer if i.name == name]
    array = change(numpy_helper.to_array(tensor))
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return copy


def check(form, folder, **options):
    options = {"share": 0.0001, "optimize": False} | options
    return check_segments(
        "form", form, exported_values(small_network(), IMAGE), IMAGE, folder, **options
    )


@pytest.mark.parametrize("lowering", ["unrolled", "two_level"])
@pytest.mark.parametrize("optimize", [False, True])
def test_forms_of_equal_arithmetic_agree(tmp_path, lowering, optimize):
    form = lower(unsigned_activations(prepare(small_network())), lowering)
    near, exact, logits = check(form, tmp_path, optimize=optimize, float_biases=True)
    values = exported_values(small_network(), IMAGE)
    codes = sum(value.size for name, value in values.items() if name != "logits")
    assert near.n_total == exact.n_total == codes
    assert (near.n_differ, exact.n_differ, logits.n_differ) == (0, 0, 0)
    assert logits.n_total == 3 * 32 * 32
    assert list(tmp_path.iterdir()) == []


def test_every_quantizer_is_cut():
    model = small_network()
    values = exported_values(model, IMAGE)
    names = activations(model)
    assert len(names) == sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    form, feeds, outputs = cut(prepare(model), values)
    assert len(feeds) == len(names)
    assert {entry.name for entry in form.graph.input} == {"image", *feeds}
    assert {entry.name for entry in form.graph.output} == {"logits", *outputs.values()}
    assert all(codes.dtype == np.int8 for codes in feeds.values())


def test_integer_kernels_survive_the_cuts(tmp_path):
    """Otherwise the segments would not run what the whole network runs."""
    form = lower(unsigned_activations(prepare(small_network())), "unrolled")
    cut_form, _, _ = cut(form, exported_values(small_network(), IMAGE))
    path = tmp_path / "optimized.onnx"
    open_session(cut_form, optimize=True, save_optimized=path)
    integer = sum(node.op_type == "QLinearConv" for node in onnx.load(path).graph.node)
    assert integer == len(DENSE) + len(DEPTHWISE) - 1


@pytest.mark.parametrize(
    ("constant", "change", "message"),
    [
        ("/scan.D", lambda a: 0.9 * a, r"form, codes of .*: \d+ of 8192 elements differ by more"),
        (
            "/b.scale",
            lambda a: 1.005 * a,
            r"form, codes of .* of 4096 elements differ by more than 0",
        ),
        ("/stem.bias", lambda a: a + 0.1, r"form, codes of .* differ by more than 1"),
        ("/head.bias", lambda a: a + 0.01, r"form, logits from the same codes: 3072 of 3072"),
    ],
)
def test_a_small_error_in_one_segment_is_caught(tmp_path, constant, change, message):
    form = changed(lower(prepare(small_network()), "unrolled"), constant, change)
    with pytest.raises(Disagreement, match=message):
        check(form, tmp_path)
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


def test_a_form_that_lost_a_quantizer_is_refused(tmp_path):
    model = prepare(small_network())
    node = next(n for n in model.graph.node if n.name.endswith("/DequantizeLinear"))
    old, node.output[0] = node.output[0], "renamed"
    for reader in model.graph.node:
        reader.input[:] = ["renamed" if name == old else name for name in reader.input]
    with pytest.raises(Disagreement, match=r"the form lacks 1 of the exported graph's quantized"):
        check(lower(model, "unrolled"), tmp_path)


def test_a_float_network_has_no_segments(tmp_path):
    net = Network()
    model = net.model(net.conv("/head", "image", 1, 3, quantized=False), 8, 3)
    with pytest.raises(UserError, match="has no quantizer; export the quantized network"):
        check_segments(
            "form", model, exported_values(model, IMAGE), IMAGE, tmp_path, share=0, optimize=False
        )


def test_a_small_tensor_may_have_three_deviations_more_than_its_part():
    assert [allowed_steps(1e-4, n) for n in (0, 1000, 8192, 65536, 10**6)] == [1, 1, 3, 14, 130]
    assert allowed_steps(0.0, 10**6) == 1


def test_all_quantizers_together_are_held_to_the_share(tmp_path):
    parts = [Agreement("part", 1.0, 3, 8192, 0, True, 3) for _ in range(4)]
    assert _sum("codes", parts, 12).n_differ == 12
    with pytest.raises(Disagreement, match="12 of 32768 elements differ in all quantizers tog"):
        _sum("codes", parts, 11)


def test_classes_may_differ_in_one_pixel_of_a_hundred(tmp_path):
    logits = np.zeros((1, 3, 20, 10), np.float32)
    other = logits.copy()
    other[0, 1, 0, :2] = 1
    assert compare_classes("form", other, logits, tmp_path).n_differ == 2
    other[0, 1, 0, 2] = 1
    with pytest.raises(Disagreement, match="form, classes: 3 of 200 elements differ"):
        compare_classes("form", other, logits, tmp_path)
    with pytest.raises(Disagreement, match="form, classes: 200 of 200 elements differ"):
        compare_classes("form", np.full_like(logits, np.nan), logits, tmp_path)


def test_classes_of_an_unsteady_network_may_differ_twice_as_much_as_its_own(tmp_path):
    """Up to 0.8 of what chance leaves, finite, and never where the network is steady."""
    logits = np.zeros((1, 2, 20, 10), np.float32)
    logits[0, 1, 10:] = 1
    other = logits.copy()
    other[0, 1, 0, :4] = 1
    found = compare_classes("form", other, logits, tmp_path, lambda: 0.011)
    assert (found.n_differ, found.allowed) == (4, 4)
    assert found.name == (
        "form, classes, where a step of a few pixels changes 1.1% of them in the exported graph "
        "itself"
    )
    with pytest.raises(Disagreement, match="form, classes: 4 of 200"):
        compare_classes("form", other, logits, tmp_path, lambda: 0.009)
    # half of the pixels are of each class: half would differ by chance, so 0.4 of them may
    for rows, right in ((4, True), (5, False)):
        other = logits.copy()
        other[0, 1, :rows], other[0, 1, 10 : 10 + rows] = 1, -1
        if right:
            assert compare_classes("form", other, logits, tmp_path, lambda: 0.4).allowed == 80
        else:
            with pytest.raises(Disagreement, match="100 of 200"):
                compare_classes("form", other, logits, tmp_path, lambda: 0.4)
    with pytest.raises(Disagreement, match="200 of 200"):
        compare_classes("form", np.full_like(logits, np.nan), logits, tmp_path, lambda: 0.5)


def test_what_a_step_of_the_image_changes():
    """The class is whether a pixel is above or below 0; one in a thousand is moved by a step."""
    stored = {
        "step": np.float32(0.5), "zero": np.int8(0),
        "signs": np.array([1, -1], np.float32).reshape(2, 1, 1, 1),
    }  # fmt: skip
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["image", "step", "zero"], ["codes"]),
        onnx.helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["values"]),
        onnx.helper.make_node("Conv", ["values", "signs"], ["logits"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "signs", [value("image", onnx.TensorProto.FLOAT, [1, 1, 32, 32])],
        [value("logits", onnx.TensorProto.FLOAT, [1, 2, 32, 32])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    zeros = np.zeros((4, 1, 32, 32), np.float32)
    assert 0 < unsteady_share(model, zeros) < 2 / 1000
    assert unsteady_share(model, zeros + 9.0) == 0
