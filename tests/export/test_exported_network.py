import collections

import numpy as np
import onnx
import pytest
import torch

from lmaunet.errors import Disagreement
from lmaunet.export import check, reference, segments
from lmaunet.export.agreement import check_exports, check_float32, check_quantized, check_scans
from lmaunet.export.check import run_onnx
from lmaunet.export.lower import lower
from lmaunet.export.lowerings import executable_lowerings
from lmaunet.export.network import PadFolding, export_float32, export_qcdq, export_qonnx
from lmaunet.export.passes import DeadNodes, run


@pytest.fixture(scope="module")
def exported(tiny_model, tiny_quantized, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "export"
    folder.mkdir()
    image = torch.from_numpy(tiny_data.train.images[:1])
    export_float32(tiny_model, image, folder / "network.float32.onnx")
    export_qcdq(tiny_quantized, image, folder / "network.qcdq.onnx")
    export_qonnx(tiny_quantized, image, folder / "network.qonnx.onnx")
    return folder


@pytest.fixture(scope="module")
def samples(tiny_data):
    foreground = (tiny_data.train.labels > 0).sum((1, 2))
    return tiny_data.train.images[np.argsort(-foreground)[:2]]


def test_all_forms_agree_with_torch_and_the_golden_scan(
    exported, samples, tiny_model, tiny_quantized
):
    found = check_exports(exported, samples[:1], tiny_model, tiny_quantized)
    names = " ".join(a.name for a in found)
    assert all(a.passed for a in found)
    for word in ("unrolled", "two_level", "function", "optimization off", "optimization full"):
        assert word in names
    assert sum("golden" in a.name for a in found) == 3 * 4


def test_qcdq_has_int8_weights_and_nothing_between_dequantize_and_conv(exported):
    model = onnx.load(exported / "network.qcdq.onnx")
    producers = {o: n for n in model.graph.node for o in n.output}
    initializers = {i.name: i for i in model.graph.initializer}
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    # 2 shallow, 4 LKMs, 2 of the pyramid, 2 in each decoder level, the head
    projections = sum(a != b for a, b in ((4, 8), (8, 8), (8, 8), (8, 8)))
    assert len(convs) == 2 + 4 * 9 + projections + 2 + 4 * 2 + 1
    for conv in convs:
        dequantize = producers[conv.input[1]]
        assert dequantize.op_type == "DequantizeLinear"
        assert initializers[dequantize.input[0]].data_type == onnx.TensorProto.INT8
        source = producers[conv.input[0]].op_type
        assert source in ("DequantizeLinear", "Reshape", "MaxPool", "Concat"), (conv.name, source)
    kinds = collections.Counter(n.op_type for n in model.graph.node)
    assert kinds["SelectiveScan"] == 4
    assert not kinds["Pad"] and not kinds["If"] and not kinds["Shape"]


def test_qonnx_has_quant_nodes_and_opaque_scans(exported):
    model = onnx.load(exported / "network.qonnx.onnx")
    kinds = collections.Counter((n.domain, n.op_type) for n in model.graph.node)
    assert kinds[("ai.lmaunet", "SelectiveScan")] == 4 and not model.functions
    assert sum(v for (_, op), v in kinds.items() if op == "Quant") > 50


def test_a_wrong_graph_is_caught(exported, samples, tiny_quantized, tmp_path):
    """The mutants: B and C swapped in one scan, and a weight of one convolution off by one."""
    for mutate in (swap_b_and_c, change_one_weight):
        model = onnx.load(exported / "network.qcdq.onnx")
        mutate(model)
        path = tmp_path / f"{mutate.__name__}.onnx"
        onnx.save(model, path)
        with pytest.raises(Disagreement, match="INT8 graph, scan as a function"):
            check_quantized(path, samples[:1], tiny_quantized, tmp_path)


FORMS = ("as a function", *(f"as {name}" for name in executable_lowerings()))
LEVELS = {False: "optimization off", True: "optimization full"}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", FORMS)
def test_one_form_that_is_wrong_at_one_level_of_optimization_is_named(
    exported, samples, tiny_quantized, tmp_path, monkeypatch, form, level
):
    """The mutant: a runtime that computes one of the six otherwise than the others."""
    opened = []

    def open_session(model, *, optimize, **options):
        here = (FORMS[len(opened) // 2], optimize)
        opened.append(here)
        if here == (form, level):
            change_one_weight(model)
        return reference.open_session(model, optimize=optimize, **options)

    monkeypatch.setattr(segments, "open_session", open_session)
    name = f"INT8 graph, scan {form}, {LEVELS[level]}, against torch"
    with pytest.raises(Disagreement, match=name):
        check_quantized(exported / "network.qcdq.onnx", samples[:1], tiny_quantized, tmp_path)
    assert opened[-1] == (form, level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_float_graph_that_is_wrong_at_one_level_is_named(
    exported, samples, tiny_model, tmp_path, monkeypatch, level
):
    def run(model, feeds, *, optimize):
        (logits,) = run_onnx(model, feeds, optimize=optimize)
        return [logits * 1.01 if optimize == level else logits]

    monkeypatch.setattr(check, "run_onnx", run)
    name = f"float32 graph, scan as a function, against torch, {LEVELS[level]}"
    with pytest.raises(Disagreement, match=name):
        check_float32(exported / "network.float32.onnx", samples[:1], tiny_model, tmp_path)


def test_a_lowering_that_forgets_is_caught(exported, samples, tmp_path, monkeypatch):
    """The mutant: a lowering that takes its A from another channel."""
    from lmaunet.export import agreement

    def wrong(model, name):
        result = lower(model, name)
        if name == "two_level":
            for node in model.graph.node:
                if node.op_type == "SelectiveScan":
                    roll_constant(result, node.input[2])
        return result

    monkeypatch.setattr(agreement, "lower", wrong)
    with pytest.raises(Disagreement, match="as two_level against the golden scan"):
        check_scans(exported / "network.qcdq.onnx", samples[:1], tmp_path)


def swap_b_and_c(model):
    scan = next(n for n in model.graph.node if n.op_type == "SelectiveScan")
    scan.input[3], scan.input[4] = scan.input[4], scan.input[3]


def change_one_weight(model):
    weights = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8]
    weight = max((w for w in weights if len(w.dims) == 4), key=lambda w: np.prod(w.dims))
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, 0, 0, 0] += np.where(values[:, 0, 0, 0] > 0, -8, 8).astype(np.int8)
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))


def roll_constant(model, name):
    tensor = next(i for i in model.graph.initializer if i.name == name)
    values = np.roll(onnx.numpy_helper.to_array(tensor), 1, axis=1)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def test_a_pad_with_another_value_stays():
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.ones((1, 1, 1, 4), np.float32), "w")
    pads = onnx.numpy_helper.from_array(np.array([0, 0, 0, 3, 0, 0, 0, 0]), "pads")
    value = onnx.numpy_helper.from_array(np.float32(1), "value")

    def graph(inputs):
        return helper.make_model(
            helper.make_graph(
                [
                    helper.make_node("Pad", ["x", *inputs], ["p"]),
                    helper.make_node("Conv", ["p", "w"], ["y"], pads=[0, 0, 0, 0]),
                ],
                "g",
                [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 1, 8])],
                [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
                [weight, pads, value],
            )
        )

    kept = run([PadFolding(), DeadNodes()], graph(["pads", "value"]))
    assert [n.op_type for n in kept.graph.node] == ["Pad", "Conv"]
    model = run([PadFolding(), DeadNodes()], graph(["pads"]))
    assert [n.op_type for n in model.graph.node] == ["Conv"]
    assert list(model.graph.node[0].attribute[0].ints) == [0, 3, 0, 0]
