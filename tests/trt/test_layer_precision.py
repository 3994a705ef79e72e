import importlib.util

import onnx
import pytest
from nnunet_like import CONVOLUTIONS, NORMS, SIZE, captured, float_form, int8_form
from qcdq_nets import images, small_network

from lmaunet.errors import Disagreement
from lmaunet.trt import policy
from lmaunet.trt.engine import build_engine
from lmaunet.trt.float_forms import in_half
from lmaunet.trt.layer_precision import (
    check_norms,
    layer_precisions,
    norm_nodes,
    precision_of_layer,
)
from lmaunet.trt.layer_table import EngineLayer, EngineTensor

needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)


def layer(kind, inputs, outputs, nodes=(), constants=()):
    def tensors(names):
        return tuple(EngineTensor(name, (1,), name) for name in names)

    return EngineLayer(
        f"{kind}_layer", kind, tuple(nodes), tensors(inputs), tensors(constants), tensors(outputs)
    )


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "constants", "wanted"),
    [
        ("correlation", ["Int8"], ["Float"], ["Int8", "Float"], "INT8"),
        ("correlation", ["Half"], ["Half"], ["Half", "Float"], "FP16"),
        ("correlation", ["Float"], ["Float"], ["Int8"], "FP32"),
        ("kgen", ["Int8"], ["Int8"], [], "INT8"),
        ("kgen", ["Float"], ["Int8"], [], "FP32"),
        ("kgen", ["Half"], ["Float"], [], "FP32"),
        ("kgen", ["Half"], ["Half"], [], "FP16"),
        ("runtime_function", ["BFloat16"], ["BFloat16"], [], "FP16"),
        ("kgen", [], ["Float"], ["Int8"], "FP32"),
        ("kgen", ["Int64"], ["Int64"], [], "other"),
        ("signal", [], [], [], "other"),
    ],
)
def test_a_layer_computes_in_what_it_multiplies_or_in_its_widest_type(
    kind, inputs, outputs, constants, wanted
):
    assert precision_of_layer(layer(kind, inputs, outputs, (), constants)) == wanted


def test_layers_and_norms_are_counted_by_precision():
    found = layer_precisions(
        [
            layer("correlation", ["Int8"], ["Float"], ["/conv"]),
            layer("runtime_function", ["Float"], ["Float"], ["/norm"]),
            layer("kgen", ["Float"], ["Int8"], ["/relu", "/norm#2", "/norm"]),
            layer("kgen", ["Float"], ["Float"], ["/relu"]),
        ],
        {"/norm", "/norm#2"},
    )
    assert found.to_json() == {
        "by_precision": {
            "INT8": {"layers": 1, "norms": 0}, "FP32": {"layers": 3, "norms": 2},
        },
        "norms_in_the_network": 2,
    }  # fmt: skip


def test_a_norm_in_half_and_one_that_is_missing_are_named():
    table = [layer("runtime_function", ["Half"], ["Half"], ["/norm"])]
    with pytest.raises(
        Disagreement, match=r"1 norms are computed in FP16, .*: /norm in layer runt"
    ):
        check_norms(table, {"/norm"})
    with pytest.raises(Disagreement, match=r"1 of 2 norms are in no layer of the engine: /lost;"):
        check_norms(table, {"/norm", "/lost"})


def test_norms_by_their_input_are_told_from_batch_normalization():
    nodes = [
        onnx.helper.make_node(f"{kind}Normalization", ["x"], [kind], f"/{kind}")
        for kind in ("Instance", "Layer", "Group", "Batch")
    ]
    model = onnx.ModelProto()
    model.graph.node.extend([*nodes, onnx.helper.make_node("Relu", ["x"], ["y"], "/relu")])
    assert norm_nodes(model) == {"/Instance", "/Layer", "/Group"}


def built(form, folder):
    onnx.save(form, folder / "form.onnx")
    return build_engine(folder / "form.onnx", folder / "engine", ["SM86"]).layers


@needs_tensorrt
def test_of_an_nnunet_s_int8_engine_each_norm_is_a_float_layer(tmp_path):
    form, _ = int8_form(captured(), images(1, SIZE), tmp_path)
    norms = norm_nodes(form)
    assert len(norms) == NORMS
    layers = built(form, tmp_path)
    found = check_norms(layers, norms)
    assert found.layers["INT8"] >= CONVOLUTIONS and "FP16" not in found.layers
    assert found.norms == {"FP32": NORMS}
    assert sum(found.layers.values()) == len(layers)


@needs_tensorrt
def test_in_half_the_norms_stay_float(tmp_path):
    form = in_half(float_form(captured(), tmp_path))
    found = check_norms(built(form, tmp_path), norm_nodes(form))
    assert found.norms == {"FP32": NORMS} and found.layers["FP16"] >= CONVOLUTIONS


@needs_tensorrt
def test_a_network_without_norms_has_none(tmp_path):
    form, _ = policy.apply(small_network(scan=False))
    found = check_norms(built(form, tmp_path), norm_nodes(form))
    assert found.norms == {} and found.norm_nodes == 0 and found.layers["INT8"] >= 5
