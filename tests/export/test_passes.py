"""What every pass promises: it does its work once, says so if it did not, and leaves the rest."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from normed_models import DENSE, arrays_of, chain, shuffle_model
from packing_models import narrow_network, weight_model
from qcdq_nets import Network, convolutions_only, float_network, small_network
from scan_models import info, make_model, random_arrays, scan_model, scan_node

import lmaunet.cpu.cpu_file
import lmaunet.cpu.openvino_file
from lmaunet.cpu.averages import ExactAverages
from lmaunet.cpu.code_functions import CodeFunctions, FunctionDefinitions
from lmaunet.cpu.compact import Defaults, SharedConstants, ShortNames, Text, WeightZeroPoints
from lmaunet.cpu.cpu_form import (
    IntegerBiases,
    UnsignedActivations,
    UnsignedWeights,
    WideCodes,
    unsigned_activations,
)
from lmaunet.cpu.cpu_layout import ChannelsLast, MoveQuantizers
from lmaunet.cpu.normed_convolutions import NormedConvolutions
from lmaunet.cpu.openvino_file import Int4Weights
from lmaunet.cpu.packing import WeightPacking, WeightUnpacking, pack_weights
from lmaunet.cpu.pixel_shuffles import PixelShuffles
from lmaunet.errors import UserError
from lmaunet.export import network
from lmaunet.export.convolutions import InputQuantizers, WeightClips, prepare
from lmaunet.export.function import ScanFunction
from lmaunet.export.lower import ScanLowering
from lmaunet.export.network import (
    GraphNames,
    Identities,
    PadFolding,
    ScanFunctionIfAny,
    Shapes,
    StateMatrices,
    StoredConstants,
)
from lmaunet.export.passes import DeadNodes, NodeNames, Pass, UnreadConstants, run
from lmaunet.trt import policy
from lmaunet.trt.float_forms import HalfProducts, Int4Products
from lmaunet.trt.half_emulation import RoundedCasts

DOCS = Path(__file__).parents[2] / "docs" / "onnx.md"


def padded():
    net = Network()
    amounts = net.constant("amounts", np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    return net.model(net.conv("/conv", net.op("Pad", "image", amounts), 1, 2), 10, 2)


def unread(nodes=True):
    model = convolutions_only()
    if nodes:
        model.graph.node.append(helper.make_node("Relu", ["logits"], ["more"], name="more"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2), "nobody's"))
    return model


def computed_state():
    arrays = random_arrays(1, 4, 2, 2)
    model = scan_model(arrays)
    (A,) = (t for t in model.graph.initializer if t.name == "A")
    A.CopyFrom(numpy_helper.from_array(-arrays["A"], "rate"))
    model.graph.node.insert(0, helper.make_node("Neg", ["rate"], ["A"], name="Neg"))
    return model


def constant_node():
    model = convolutions_only()
    scale = next(t for t in model.graph.initializer if t.name.endswith("/scale"))
    model.graph.node.insert(0, helper.make_node("Constant", [], [scale.name], value=scale))
    model.graph.initializer.remove(scale)
    return model


def upsampled():
    net = Network()
    x = net.quantized("image")
    scales = net.constant("/twice", np.array([1, 1, 2, 2], np.float32))
    x = net.op("Resize", x, "", scales, mode="nearest")
    return prepare(net.model(net.op("Add", x, x), 8, 1))


def named_after_modules():
    def renamed(name):
        return f"layers.{name}" if name.endswith(".bias") else name.replace("/stem", "//stem")

    model = convolutions_only()
    for node in model.graph.node:
        node.name = node.name.replace("/stem", "//stem")
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = renamed(tensor.name)
    return model


def bias_by_another_name():
    model = convolutions_only()
    conv = next(node for node in model.graph.node if node.name == "/stem")
    model.graph.node.insert(0, helper.make_node("Identity", [conv.input[2]], ["same"], name="id"))
    conv.input[2] = "same"
    return model


def laid_out():
    net = Network()
    x = net.op("Reshape", "image", net.constant("/tokens", np.array([1, 1, 1, 64])))
    return net.model(net.op("Reshape", x, net.constant("/map", np.array([1, 1, 8, 8]))), 8, 1)


def averaged():
    net = Network()
    x = net.op("AveragePool", net.quantized("image"), kernel_shape=[2, 2], strides=[2, 2])
    return prepare(net.model(net.quantized(net.op("Abs", x)), 4, 1))


def silu():
    net = Network()
    x = net.quantized("image")
    x = net.quantized(net.op("Mul", x, net.op("Sigmoid", x)))
    return unsigned_activations(prepare(net.model(x, 8, 1)))


def two_equal_constants():
    model = convolutions_only()
    model.doc_string = "made for a test"
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.attribute.append(helper.make_attribute("strides", [1, 1]))
    return model


def depthwise():
    return run(policy.PREPARATION, small_network())


CASES = {
    NodeNames(): lambda: weight_model(np.ones((2, 3), np.int8)),
    DeadNodes(): unread,
    UnreadConstants(): lambda: unread(nodes=False),
    StoredConstants(): constant_node,
    GraphNames(): named_after_modules,
    Identities(): bias_by_another_name,
    PadFolding(): padded,
    WeightClips(): lambda: small_network(clip=True),
    StateMatrices(): computed_state,
    ScanFunction(): lambda: scan_model(random_arrays(1, 4, 2, 2)),
    Shapes(): convolutions_only,
    InputQuantizers(): small_network,
    ScanLowering("two_level"): lambda: scan_model(random_arrays(1, 4, 2, 2)),
    MoveQuantizers(): upsampled,
    ChannelsLast(): laid_out,
    UnsignedActivations(): lambda: prepare(small_network()),
    WideCodes(): narrow_network,
    UnsignedWeights(): lambda: unsigned_activations(prepare(small_network())),
    IntegerBiases(): lambda: unsigned_activations(prepare(small_network())),
    NormedConvolutions(): lambda: chain(DENSE, arrays_of(DENSE)),
    PixelShuffles(): lambda: shuffle_model((1, 12, 5, 7), 2),
    CodeFunctions(): silu,
    FunctionDefinitions(): lambda: scan_model(random_arrays(1, 4, 2, 2)),
    WeightPacking(): narrow_network,
    WeightUnpacking(): lambda: pack_weights(narrow_network()),
    WeightZeroPoints(): lambda: weight_model(np.ones((2, 3), np.int8)),
    SharedConstants(): two_equal_constants,
    Text(): two_equal_constants,
    Defaults(): two_equal_constants,
    ShortNames(): convolutions_only,
    ExactAverages(): averaged,
    Int4Weights(): narrow_network,
    policy.PooledWeights(): depthwise,
    policy.FloatInputs(): lambda: run([policy.PooledWeights()], depthwise()),
    HalfProducts(): float_network,
    RoundedCasts(): lambda: run([HalfProducts()], float_network()),
    Int4Products(stored=True): float_network,
}
EVERY = pytest.mark.parametrize("step", CASES, ids=lambda step: step.name)


def test_each_pass_has_a_case_and_a_name_of_its_own():
    kinds = {kind for kind in Pass.__subclasses__() if kind.__module__.startswith("lmaunet.")}
    assert kinds == {type(step) for step in CASES}
    assert len({step.name for step in CASES}) == len(CASES)


@EVERY
def test_a_pass_does_its_work_once_and_leaves_the_model_it_is_given(step):
    model = CASES[step]()
    before = model.SerializeToString()
    once = run([step], model)
    assert model.SerializeToString() == before
    assert once.SerializeToString() != run([], model).SerializeToString()
    # short names of weights are those of nodes, which have none afterwards
    assert isinstance(step, ShortNames) or run([step], once) == once


@EVERY
def test_a_pass_that_does_nothing_is_caught(step, monkeypatch):
    """The mutant of each: it leaves everything as it is. Shapes change nothing that is computed."""
    model = CASES[step]()
    monkeypatch.setattr(type(step), "rewrite", lambda self, model: 0)
    if isinstance(step, Shapes):
        assert run([step], model) == run([], model)
        return
    with pytest.raises(ir.passes.PostconditionError, match=f"^{step.name}: "):
        run([step], model)


@EVERY
def test_a_pass_leaves_a_model_without_its_places_alone(step):
    node = helper.make_node("Abs", ["x"], ["y"], name="" if isinstance(step, ShortNames) else "a")
    model = make_model(helper.make_graph([node], "other", [info("x", 2)], [info("y", 2)]))
    del model.opset_import[1:]
    if isinstance(step, ScanFunction):
        with pytest.raises(UserError, match=r"the model has no node ai\.lmaunet::SelectiveScan"):
            run([step], model)
    elif isinstance(step, Int4Products):
        assert run([step], model).graph == run([], model).graph
    else:
        assert run([step], model) == run([], model)


def test_names_are_those_of_the_graph():
    named, plain = run([GraphNames()], named_after_modules()), run([], convolutions_only())
    assert list(named.graph.node) == list(plain.graph.node)
    stored = [
        {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}
        for model in (named, plain)
    ]
    assert stored[0] == stored[1]


def test_a_name_that_stands_for_another_is_read_by_nobody():
    model = run([Identities()], bias_by_another_name())
    assert model == run([Identities()], convolutions_only())


def test_a_network_without_scans_needs_no_function():
    assert run([ScanFunctionIfAny()], convolutions_only()) == run([], convolutions_only())
    model = scan_model(random_arrays(1, 4, 2, 2))
    assert run([ScanFunctionIfAny()], model) == run([ScanFunction()], model)


class Broken(Pass):
    """The mutant: a pass that forgets a node whose output is read, or gives two tensors a name."""

    name = "a broken pass"

    def __init__(self, breaking):
        self.rewrite = breaking


def forget(model):
    model.graph.remove(next(n for n in model.graph if n.op_type == "Relu"))
    return 1


def move_to_the_end(model):
    node = model.graph[0]
    model.graph.remove(node)
    model.graph.append(node)
    return 1


def name_twice(model):
    model.graph[1].outputs[0].name = model.graph[0].outputs[0].name
    return 1


@pytest.mark.parametrize(
    ("breaking", "problem"),
    [
        (forget, r"QuantizeLinear \S+ reads '/Relu_\d+_out', which nothing before it puts out"),
        (move_to_the_end, r"DequantizeLinear \S+ reads '\S+', which nothing before it puts out"),
        (name_twice, r"DequantizeLinear \S+ puts out '\S+', as something before it does"),
    ],
)
def test_a_pass_that_breaks_the_graph_is_named(breaking, problem):
    with pytest.raises(ir.passes.PostconditionError, match=f"^a broken pass: {problem}"):
        run([Broken(breaking), DeadNodes()], convolutions_only())


def test_a_body_that_reads_what_comes_later_is_seen():
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    body = helper.make_graph(
        [helper.make_node("Abs", ["later"], ["a"])], "body", [], [info("a", 2)]
    )
    nodes = [
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=body),
        helper.make_node("Abs", ["x"], ["later"]),
    ]
    model = make_model(helper.make_graph(nodes, "g", [condition, info("x", 2)], [info("y", 2)]))
    with pytest.raises(UserError, match="not valid ONNX: Abs a reads 'later', which nothing"):
        run([DeadNodes()], model)


def test_what_a_body_reads_is_no_dead_node():
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Abs", ["far"], ["a"])], "body", [], [info("a", 2)])
    nodes = [
        helper.make_node("Neg", ["x"], ["far"], name="far"),
        helper.make_node("Neg", ["x"], ["dead"], name="dead"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=body),
    ]
    model = make_model(helper.make_graph(nodes, "g", [condition, info("x", 2)], [info("y", 2)]))
    assert [n.name for n in run([DeadNodes()], model).graph.node] == ["far", "if"]


def test_a_model_comes_through_no_passes_as_it_was():
    model = prepare(small_network())
    assert run([], model) == model
    nodes = [scan_node(), helper.make_node("Abs", ["y"], ["z"])]
    given = make_model(
        helper.make_graph(
            nodes, "named", [info(name, 1, 4, 2) for name in ("x", "dt", "B", "C")],
            [info("z", 1, 4, 2)],
            [
                numpy_helper.from_array(np.ones(shape, np.float32), name)
                for name, shape in (("A", (2, 2)), ("D", 2))
            ],
        )
    )  # fmt: skip
    got = onnx.ModelProto.FromString(run([], given).SerializeToString())
    assert got.graph == given.graph


def test_the_docs_list_the_passes_of_each_backend():
    text = DOCS.read_text(encoding="utf-8")
    paths = {
        "network.float32.onnx": network.FLOAT32_FILE,
        "network.qcdq.onnx": network.QCDQ_FILE,
        "network.qonnx.onnx": network.QONNX_FILE,
        "CPU": (
            *lmaunet.cpu.cpu_file.CODES,
            *lmaunet.cpu.cpu_file.ROUNDED,
            *lmaunet.cpu.cpu_file.FUSED["any"],
            *lmaunet.cpu.cpu_file.FILE,
        ),
        "OpenVINO": (
            *lmaunet.cpu.openvino_file.form_passes(vnni=False),
            *lmaunet.cpu.openvino_file.FILE_PASSES,
        ),
        "TensorRT": (*policy.PREPARATION, *policy.POLICY),
    }
    for backend, passes in paths.items():
        names = dict.fromkeys(step.name for step in passes)
        assert f"| {backend} | {', '.join(names)} |" in text, (backend, ", ".join(names))
