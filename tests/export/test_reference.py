"""Files that are no network, or a damaged one: one line that says so, no traceback."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from lmaunet.deploy.targets.ort import sessions
from lmaunet.errors import UserError
from lmaunet.export.reference import open_session, read_model, run_images

IMAGES = np.ones((2, 1, 8, 8), np.float32)


def model(groups=1):
    """A convolution of 3x3; ``groups`` is what its node says."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 8, 8])
        for name in ("image", "logits")
    ]
    node = helper.make_node("Conv", ["image", "w"], ["logits"], pads=[1] * 4, group=groups)
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def saved(path, made):
    path.write_bytes(made.SerializeToString())
    return path


def test_a_sound_file_is_computed(tmp_path):
    path = saved(tmp_path / "a.onnx", model())
    logits = run_images(open_session(read_model(path), optimize=True), IMAGES)
    assert logits.shape == (2, 1, 8, 8) and logits[0, 0, 4, 4] == 9


@pytest.mark.parametrize("place", ["/etc/hostname", "absent.bin", "../x.bin"])
def test_weights_in_another_file_are_refused(tmp_path, place):
    made = model()
    (weight,) = made.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", place
    with pytest.raises(UserError, match="is no ONNX model"):
        read_model(saved(tmp_path / "a.onnx", made))


def test_what_loads_and_cannot_be_computed_is_said(tmp_path):
    session = open_session(saved(tmp_path / "a.onnx", model(groups=0)), optimize=True)
    with pytest.raises(UserError, match=r"cannot compute the graph: .*; build it again"):
        run_images(session, IMAGES)


@pytest.mark.parametrize(
    ("name", "values"), [("pads", [1, 1, 1, -1]), ("strides", [0, 1]), ("dilations", [1, 0]),
                         ("kernel_shape", [3, 0])],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True], ids=["graph", "function"])
def test_a_window_that_reads_elsewhere_is_refused(tmp_path, name, values, inside):
    """ONNX Runtime loads a border of -1, and reads memory that is not the image's."""
    made = model()
    (node,) = made.graph.node
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, values)])
    if inside:
        body = helper.make_function("ours", "f", node.input, node.output, [node],
                                    made.opset_import)  # fmt: skip
        made.functions.append(body)
        made.opset_import.append(helper.make_opsetid("ours", 1))
        node.CopyFrom(helper.make_node("f", node.input, node.output, domain="ours"))
    match = rf"Conv 'logits' has {name} .*; expected [01] or more; build it again"
    for given in (made, saved(tmp_path / "a.onnx", made)):
        with pytest.raises(UserError, match=match):
            open_session(given, optimize=True)


def test_openvino_is_not_given_such_a_window_either(tmp_path):
    """It loads one, and its output has another size."""
    from lmaunet.cpu.openvino_runtime import compile_model

    made = model()
    (pads,) = (a for a in made.graph.node[0].attribute if a.name == "pads")
    pads.ints[:] = [1, 2, 1, -1]
    with pytest.raises(UserError, match=r"Conv 'logits' has pads \[1, 2, 1, -1\]; expected 0 or"):
        compile_model(saved(tmp_path / "a.onnx", made))


def test_a_graph_of_two_inputs_is_refused(tmp_path):
    made = model()
    made.graph.input.add().CopyFrom(made.graph.input[0])
    made.graph.input[1].name = "more"
    with pytest.raises(UserError, match="has 2 inputs; expected 1"):
        run_images(open_session(made, optimize=False), IMAGES)


def test_a_damaged_file_is_told_from_a_fault_of_ours(tmp_path, monkeypatch):
    """Where making its weights signed fails, ONNX Runtime is asked whether the file is sound."""

    def fail(exported):
        raise ValueError("cannot reshape")

    monkeypatch.setattr("lmaunet.cpu.saturation.runtime_adds_without_saturation", lambda: True)
    monkeypatch.setattr("lmaunet.cpu.saturation.signed_weights", fail)
    made = model()
    made.graph.initializer[0].raw_data = b""
    with pytest.raises(UserError, match="ONNX Runtime cannot load"):
        sessions._session(saved(tmp_path / "bad.onnx", made), 0, False)
    with pytest.raises(ValueError, match="cannot reshape"):
        sessions._session(saved(tmp_path / "good.onnx", model()), 0, False)
