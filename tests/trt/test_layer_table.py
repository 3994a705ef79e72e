import json

import pytest

from lmaunet.errors import UserError
from lmaunet.trt.layer_table import (
    EngineLayer,
    EngineTensor,
    bytes_by_datatype,
    parse_inspector,
    parse_layers,
    read_bytes_line,
)


def tensor(name, dims, datatype):
    return (
        f"{{ Name: {name}, Dimensions: [{dims}], Strides: [1], StrideOrder: [0], "
        f"Datatype: {datatype}, Format: (NHWC) Channel major format }}"
    )


CONV = (
    "Name: /stem/Conv_myl0_1, LayerType: correlation, "
    f"Inputs: [ {tensor('x', '1,4,8,8', 'Int8')}], "
    f"Constants: [ {tensor('w', '16,4,3,3', 'Int8')}, {tensor('s', '1,16,1,1', 'Float')}], "
    f"Outputs: [ {tensor('y', '1,16,8,8', 'Float')}], "
    "TacticName: __myelin_CASK_STUB, StreamId: 0, "
    "Metadata: [ONNX Layer: /stem/Conv]\x1f[ONNX Layer: /a[0]/DequantizeLinear]"
)
FILL = (
    f"Name: fill, LayerType: kgen, Inputs: [], Outputs: [ {tensor('z', '', 'Int64')}], "
    "TacticName: t, StreamId: 0, Metadata: "
)
MESSAGE = f"Layers:\n{CONV}\n{FILL}\n\nI/O Tensors:\n Name: x, IOMode: Input"


def test_layers_are_read_with_their_operands_and_origin():
    conv, fill = parse_layers(MESSAGE)
    assert conv == EngineLayer(
        name="/stem/Conv_myl0_1",
        type="correlation",
        onnx_nodes=("/stem/Conv", "/a[0]/DequantizeLinear"),
        inputs=(EngineTensor("x", (1, 4, 8, 8), "Int8"),),
        constants=(
            EngineTensor("w", (16, 4, 3, 3), "Int8"),
            EngineTensor("s", (1, 16, 1, 1), "Float"),
        ),
        outputs=(EngineTensor("y", (1, 16, 8, 8), "Float"),),
    )
    assert fill == EngineLayer("fill", "kgen", (), (), (), (EngineTensor("z", (), "Int64"),))


def test_json_keeps_a_layer():
    for layer in parse_layers(MESSAGE):
        assert EngineLayer.from_json(layer.to_json()) == layer
    assert parse_layers(MESSAGE)[0].to_json()["constant_bytes"] == {"Int8": 576, "Float": 64}


def test_a_constant_of_several_layers_counts_once():
    one = EngineTensor("w", (3, 5), "Int8")
    assert bytes_by_datatype([one, one, EngineTensor("v", (2,), "Half")]) == {"Int8": 15, "Half": 4}
    assert EngineTensor("packed", (3, 5), "Int4").bytes == 8


def test_an_unknown_form_is_an_error():
    with pytest.raises(UserError, match=r"has a line in an unknown form: 'Name: x, Kind: y'"):
        parse_layers("Layers:\nName: x, Kind: y")
    with pytest.raises(UserError, match="has the unknown data type Int3 in 'Name: /stem"):
        parse_layers(MESSAGE.replace("Datatype: Int8", "Datatype: Int3"))
    with pytest.raises(UserError, match="has a tensor in an unknown form"):
        parse_layers(MESSAGE.replace("Datatype: Float", "Type: Float"))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Total Weights Memory: 72228 bytes", {"weights_memory_bytes": 72228}),
        ("Total Activation Memory: 849 bytes", {"activation_memory_bytes": 849}),
        ("Total Weights Memory: many bytes", {}),
        ("Parsing node: /stem [Conv]", {}),
    ],
)
def test_memory_lines(message, expected):
    assert read_bytes_line(message) == expected


INSPECTED = {
    "Name": "/stem/Conv + /stem/Relu",
    "LayerType": "CaskConvolution",
    "Inputs": [
        {"Name": "x", "Dimensions": [1, 4, 8, 8],
         "Format/Datatype": "Four wide channel vectorized row major Int8 format"}
    ],
    "Outputs": [
        {"Name": "y", "Dimensions": [1, 16, 8, 8], "Format/Datatype": "Row major linear FP32"}
    ],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 576},
    "Bias": {"Type": "Float", "Count": 16},
    "Metadata": "[ONNX Layer: /stem/Conv]\x1f[ONNX Layer: /stem/Relu]",
}  # fmt: skip


def test_the_full_librarys_table_is_read_too():
    (layer,) = parse_inspector(json.dumps({"Layers": [INSPECTED]}))
    assert layer.type == "CaskConvolution"
    assert layer.onnx_nodes == ("/stem/Conv", "/stem/Relu")
    assert layer.inputs == (EngineTensor("x", (1, 4, 8, 8), "Int8"),)
    assert layer.outputs == (EngineTensor("y", (1, 16, 8, 8), "Float"),)
    assert [(c.dims, c.datatype) for c in layer.constants] == [((576,), "Int8"), ((16,), "Float")]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"Layers": ["/stem/Conv"]}', '{"Layers": [{"Name": "a"}]}']
)
def test_another_table_is_refused(text):
    with pytest.raises(UserError, match="inspector's table is in an unknown form"):
        parse_inspector(text)
