"""The head of a quantized file as a file of its own, over masks of its input: Monte Carlo dropout.

The head, a 1x1 convolution, is linear: with masks ``m_t`` over its input channels f, and integers q
of the features and w of the weights,

    logits_t[c] = scale[c] * sum_f m_t[f] * w[c, f] * (q[f] - zero) + bias[c]

so that T samples are one product of a matrix ``(T * classes, channels)`` with the features of all
pixels, and nothing before it is computed again. The sums are whole numbers, times 1/(1-p) for kept
channels: below 2**24 in float32 they are exact where that is a binary fraction, as 5/4 is for
p = 0.2, whatever the order in which a runtime adds.

The network's own file stays as it is. It has the head's input, the integers, inside; a runtime is
asked for them as a second output when it opens the file (:mod:`lmaunet.export.masked_samples`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lmaunet.errors import UserError
from lmaunet.export.convolutions import weight_of
from lmaunet.export.masked_samples import SAMPLES_PER_CALL
from lmaunet.export.passes import constant, read

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET, IR_VERSION = 18, 8
FEATURES, MASKS, LOGITS = "features", "masks", "logits"
AGAIN = "export the network again, with this version"


def masked_head(model: onnx.ModelProto, exported: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return the head of a file over masks, and the name of the tensor of its input's integers.

    The head takes ``features``, the integers ``(1, channels, H, W)`` as the file has them, and
    ``masks``, float32 ``(8, channels)`` of 0 and 1/(1-p), or ones; it gives ``logits``, float32
    ``(8, classes, H, W)``.

    Args:
        model: the file that a target runs.
        exported: the QCDQ graph that it was made of, for the head's weights, which a file may hold
            packed.

    Raises:
        UserError: where either does not end in a quantized 1x1 convolution.
    """
    graph = read(model).graph
    conv, dequantize = _head(graph)
    source, _ = _head(read(exported).graph)
    weight = weight_of(source.inputs[1])
    found = [constant(value) for value in dequantize.inputs[1:3]]
    found += [constant(source.inputs[1].producer().inputs[1])] if weight is not None else [None]
    scale, zero, weight_scale = found
    if weight is None or scale is None or zero is None or weight_scale is None:
        raise UserError(f"the head of {model.graph.name!r} has no constant scales; {AGAIN}")
    codes = weight[1][:, :, 0, 0].astype(np.float32)
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
    height, width = (int(side) for side in list(graph.outputs[0].shape or ())[2:])
    tail = _tail(
        codes, (scale.reshape(()) * weight_scale.reshape(-1)).astype(np.float32),
        np.zeros(len(codes), np.float32) if bias is None else bias.astype(np.float32),
        zero.reshape(()), (height, width),
    )  # fmt: skip
    return tail, str(dequantize.inputs[0].name)


def _head(graph: ir.Graph) -> tuple[ir.Node, ir.Node]:
    """Return the convolution that a graph ends in, and the DequantizeLinear before it."""
    conv = graph.outputs[0].producer()
    while conv is not None and conv.op_type == "Identity":
        conv = conv.inputs[0].producer()
    dequantize = conv.inputs[0].producer() if conv is not None and conv.inputs else None
    if conv is None or conv.op_type != "Conv":
        kind = "nothing" if conv is None else conv.op_type
        raise UserError(f"the graph {graph.name!r} ends in {kind}, expected Conv; {AGAIN}")
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        raise UserError(f"the input of the head of {graph.name!r} is not quantized; {AGAIN}")
    return conv, dequantize


def _tail(
    codes: np.ndarray, scale: np.ndarray, bias: np.ndarray, zero: np.ndarray, size: tuple[int, int]
) -> onnx.ModelProto:
    """Return the model; ``codes`` are the weights' integers ``(classes, channels)`` in float32."""
    classes, channels = codes.shape
    (height, width), count = size, SAMPLES_PER_CALL
    kind = helper.np_dtype_to_tensor_dtype(zero.dtype)
    constants = {
        "weights": codes[None], "zero": zero.astype(np.float32),
        "scale": scale.reshape(1, -1, 1, 1), "bias": bias.reshape(1, -1, 1, 1),
        "per_class": np.array([count, 1, channels]),
        "rows": np.array([count * classes, channels]),
        "columns": np.array([channels, height * width]),
        "maps": np.array([count, classes, height, width]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Reshape", [MASKS, "per_class"], ["masks3"]),
        helper.make_node("Mul", ["masks3", "weights"], ["masked3"]),
        helper.make_node("Reshape", ["masked3", "rows"], ["masked"]),
        helper.make_node("Reshape", [FEATURES, "columns"], ["integers"]),
        helper.make_node("Cast", ["integers"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["cast", "zero"], ["centred"]),
        helper.make_node("MatMul", ["masked", "centred"], ["sums"]),
        helper.make_node("Reshape", ["sums", "maps"], ["sums4"]),
        helper.make_node("Mul", ["sums4", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], [LOGITS]),
    ]
    graph = helper.make_graph(
        nodes,
        "masked head",
        [
            helper.make_tensor_value_info(FEATURES, kind, [1, channels, height, width]),
            helper.make_tensor_value_info(MASKS, TensorProto.FLOAT, [count, channels]),
        ],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [count, classes, height, width])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model)
    return model
