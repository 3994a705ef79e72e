import importlib.util
import re

import onnx
import pytest
from qcdq_nets import DENSE, DEPTHWISE, SCAN_CONVS, small_network

from lmaunet.errors import Disagreement
from lmaunet.export.convolutions import QuantizedConvolution, prepare
from lmaunet.trt import policy
from lmaunet.trt.engine import build_engine
from lmaunet.trt.layer_table import EngineLayer, EngineTensor
from lmaunet.trt.precision import check_policy, constant_bytes, find_layer, precision_table, summary

needs_tensorrt = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="TensorRT for RTX is not installed"
)
DENSE_HERE = [name for name in DENSE if name not in SCAN_CONVS]
EXPECTED = policy.apply(small_network(scan=False))[1]


def layers_of(model, folder):
    folder.mkdir()
    onnx.save(model, folder / "network.onnx")
    return build_engine(folder / "network.onnx", folder, ["SM86"]).layers


def without_pair(model, name):
    """The model with a convolution that reads what its QuantizeLinear/DequantizeLinear read."""
    nodes = {node.name: node for node in model.graph.node}
    nodes[name].input[0] = nodes[f"{name}/QuantizeLinear"].input[0]
    return model


@pytest.fixture(scope="module")
def prepared_layers(tmp_path_factory):
    return layers_of(
        policy.apply(small_network(scan=False))[0], tmp_path_factory.mktemp("engine") / "prepared"
    )


@needs_tensorrt
def test_every_quantized_dense_convolution_is_int8(prepared_layers):
    table = check_policy(prepared_layers, EXPECTED)
    assert [row.node for row in table if row.kind == "dense"] == DENSE_HERE
    assert all(row.is_int8 for row in table if row.kind == "dense")
    rows = {row.node: row for row in table}
    assert (rows["/middle"].weight_bytes, rows["/middle"].exported_bytes) == (576, 576)
    # a kernel's channels are a multiple of 4: one becomes four
    assert (rows["/stem"].weight_bytes, rows["/stem"].exported_bytes) == (4 * 72, 72)


@needs_tensorrt
def test_a_depthwise_convolution_keeps_one_byte_a_weight(prepared_layers):
    (row,) = [row for row in check_policy(prepared_layers, EXPECTED) if row.node in DEPTHWISE]
    assert (row.kind, row.form) == ("depthwise", policy.WEIGHT_ONLY)
    assert (row.input, row.weights) == ("Float", "Int8")
    assert row.weight_bytes == row.exported_bytes == 8 * 49


@needs_tensorrt
def test_a_depthwise_convolution_in_another_form_is_named(tmp_path):
    # the mutants: codes that the builder sees, which it pads; and weights that lost their codes
    model = small_network(scan=False)
    layers = layers_of(prepare(model), tmp_path / "visible")
    with pytest.raises(Disagreement) as error:
        check_policy(layers, EXPECTED)
    assert str(error.value).startswith(
        "1 of 1 weight-only INT8 convolutions are otherwise in the engine: /large is Int8 x Int8 "
        f"in layer {find_layer(layers, '/large').name}; expected float values from a Max after"
    )
    layers = layers_of(prepare(small_network(scan=False, float_conv="/large")), tmp_path / "float")
    with pytest.raises(Disagreement, match="/large is Float x Float in layer /large"):
        check_policy(layers, EXPECTED)


@needs_tensorrt
def test_constants_are_weights_or_padding(prepared_layers):
    found = constant_bytes(prepared_layers, EXPECTED)
    table = precision_table(prepared_layers, EXPECTED)
    assert found.weights["Int8"] == sum(row.weight_bytes for row in table)
    # three zero maps beside the image's one; the depthwise convolution's channels get none
    assert found.padding == 3 * 32 * 32
    assert found.weights_total == sum(found.weights.values())


@needs_tensorrt
def test_summary_counts(prepared_layers):
    counts = summary(prepared_layers, check_policy(prepared_layers, EXPECTED))
    assert counts["int8_convolutions"] == {
        "dense": {"int8": len(DENSE_HERE), "quantized": len(DENSE_HERE)},
    }
    assert counts["weight_only_convolutions"] == {"int8": 1, "quantized": 1}
    assert counts["layers"] == sum(counts["layers_by_type_and_input"].values())


@needs_tensorrt
@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        # the Resize before it keeps the builder from seeing its input's codes
        (policy.apply(small_network(scan=False)), "/decoder"),
        # the mutant: its weights lost their codes on the way
        (policy.apply(small_network(scan=False, float_conv="/point")), "/point"),
    ],
    ids=["hidden input", "float weights"],
)
def test_a_convolution_that_fell_back_to_float_is_named(model, wrong, tmp_path):
    model, _ = model
    if wrong == "/decoder":
        model = without_pair(model, wrong)
    layers = layers_of(model, tmp_path / "engine")
    with pytest.raises(Disagreement) as error:
        check_policy(layers, EXPECTED)
    layer = find_layer(layers, wrong)
    # codes that are stored and multiplied as float, or no codes at all
    kept = "Int8" if wrong == "/decoder" else "Float"
    assert str(error.value).startswith(
        f"1 of {len(DENSE_HERE)} W8A8 convolutions are otherwise in the engine: "
        f"{wrong} is Float x {kept} in layer {layer.name}; expected a QuantizeLinear/"
        "DequantizeLinear pair right before each"
    )


PLANNED = policy.PlannedConvolution(
    QuantizedConvolution("/a", "/a.codes", (8, 8, 1, 1), 1), policy.W8A8
)


def conv_layer(nodes, datatype="Int8", kind="correlation", dims=(8, 8, 1, 1)):
    return EngineLayer(
        "+".join(nodes),
        kind,
        tuple(nodes),
        (EngineTensor("x", (1, 8, 4, 4), datatype),),
        (EngineTensor("w", dims, datatype),),
        (EngineTensor("y", (1, 8, 4, 4), "Float"),),
    )


def test_a_layer_is_found_by_its_origin_whatever_it_is_called():
    wanted = PLANNED
    layers = [
        conv_layer(["/a", "/relu"], "Float", "kgen"),
        conv_layer(["/b", "/a", "/relu"]),
        conv_layer(["/a2"], "Float"),
    ]
    assert find_layer(layers, "/a") is layers[1]
    assert check_policy(layers, [wanted])[0].layer == "/b+/a+/relu"


def test_int8_weights_with_a_float_input_are_not_int8():
    wanted = PLANNED
    layer = conv_layer(["/a"])
    mixed = EngineLayer(
        layer.name, layer.type, layer.onnx_nodes,
        (EngineTensor("x", (1, 8, 4, 4), "Half"),), layer.constants, layer.outputs,
    )  # fmt: skip
    with pytest.raises(Disagreement, match="/a is Half x Int8 in layer /a"):
        check_policy([mixed], [wanted])


TYPES = ("Int8", "Float", "Half", "(none)")


@pytest.mark.parametrize("form", [policy.W8A8, policy.WEIGHT_ONLY])
@pytest.mark.parametrize("weights", TYPES)
@pytest.mark.parametrize("multiplied", TYPES)
def test_one_pair_of_types_is_as_planned(form, multiplied, weights):
    """W8A8 is INT8 by INT8; weight-only is float by INT8: FP16 would not be what was promised."""
    wanted = {policy.W8A8: ("Int8", "Int8"), policy.WEIGHT_ONLY: ("Float", "Int8")}[form]
    planned = policy.PlannedConvolution(PLANNED.convolution, form)
    operand = EngineTensor("w", (8, 8, 1, 1), "Float" if weights == "(none)" else weights)
    layer = EngineLayer(
        "/a", "correlation", ("/a",),
        () if multiplied == "(none)" else (EngineTensor("x", (1, 8, 4, 4), multiplied),),
        () if weights == "(none)" else (operand,), (EngineTensor("y", (1, 8, 4, 4), "Float"),),
    )  # fmt: skip
    if (multiplied, weights) == wanted:
        (row,) = check_policy([layer], [planned])
        assert (row.input, row.weights, row.output) == (*wanted, "Float")
        return
    words = rf"1 of 1 {form} convolutions .*: /a is {re.escape(f'{multiplied} x {weights}')} in lay"
    with pytest.raises(Disagreement, match=words):
        check_policy([layer], [planned])


def test_a_convolution_that_no_layer_computes():
    wanted = PLANNED
    with pytest.raises(Disagreement) as error:
        check_policy([conv_layer(["/a"], kind="kgen")], [wanted])
    assert str(error.value) == (
        "convolution /a: no layer of the engine computes it; its name occurs in layers of type kgen"
    )


def test_a_message_names_five():
    planned = [PLANNED] * 7
    with pytest.raises(Disagreement) as error:
        check_policy([conv_layer(["/a"], "Half")], planned)
    assert str(error.value).count("/a is Half x Half") == 5
    assert "; and 2 more; expected" in str(error.value)
