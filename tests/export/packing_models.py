"""Models with weights of few bits, for the tests of packing and of what ships for CPUs."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

sys.path.append(str(Path(__file__).parents[1] / "trt"))

from qcdq_nets import small_network

BITS = {"/middle.codes": 2, "/decoder.codes": 3, "/large.codes": 4}


def weight_model(codes, opset=18):
    """A graph without inputs that puts out one dequantized weight."""
    nodes = [helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["values"], axis=0)]
    channels = codes.shape[0]
    graph = helper.make_graph(
        nodes,
        "weight",
        [],
        [helper.make_tensor_value_info("values", onnx.TensorProto.FLOAT, codes.shape)],
        [
            numpy_helper.from_array(codes, "weight"),
            numpy_helper.from_array(np.ones(channels, np.float32), "scale"),
            numpy_helper.from_array(np.zeros(channels, np.int8), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def narrow_network(bits=BITS):
    """The small network of the targets' tests, some of its weights in fewer bits."""
    model = small_network()
    for tensor in model.graph.initializer:
        if tensor.name in bits:
            low = -(1 << (bits[tensor.name] - 1))
            codes = numpy_helper.to_array(tensor).astype(np.int64) % (-2 * low) + low
            tensor.CopyFrom(numpy_helper.from_array(codes.astype(np.int8), tensor.name))
        elif tensor.name.replace(".scale", ".codes") in bits:
            # a weight keeps its magnitude
            factor = 128 >> (bits[tensor.name.replace(".scale", ".codes")] - 1)
            scaled = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    return model
