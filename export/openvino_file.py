"""The file that ships for OpenVINO: from a QCDQ graph, as ONNX, which OpenVINO reads as it is.

OpenVINO's own format takes more than twice the bytes, most of them XML, and loads no faster.
Its ONNX reader knows no local functions, so that the weights of few bits cannot be the bit planes
of :mod:`lmaunet.export.packing`; :func:`store_int4` stores them as INT4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmaunet.export.convolutions import Graph, copy_node, remove_unused

if TYPE_CHECKING:
    import onnx

LOWERING = "unrolled"
INT4_OPSET = 21
"""The first operator set with INT4."""
INT4_IR_VERSION = 10
FEWEST_INT4 = 256
"""Weights of fewer codes stay INT8: a node more takes as many bytes as it saves."""


def openvino_form(exported: onnx.ModelProto, *, vnni: bool) -> onnx.ModelProto:
    """Return a QCDQ graph with UINT8 activation codes and the scans lowered, all names kept.

    OpenVINO runs every quantized convolution of it on integers, and keeps biases in float.

    Args:
        exported: the graph.
        vnni: whether the processors that it is for add the products of codes in 32 bits. For
            others, weights whose sums could saturate get UINT8 codes, which OpenVINO convolves in
            float.
    """
    from lmaunet.export.convolutions import prepare
    from lmaunet.export.cpu_form import unsigned_activations, unsigned_weights
    from lmaunet.export.lower import lower

    codes = unsigned_activations(prepare(exported))
    return lower(codes if vnni else unsigned_weights(codes), LOWERING)


def openvino_file(form: onnx.ModelProto) -> onnx.ModelProto:
    """Return the file of a form: short names, each constant once, narrow weights as INT4."""
    from lmaunet.export.compact import compact

    return store_int4(compact(form))


def saturating_convolutions(form: onnx.ModelProto) -> list[str]:
    """Return the convolutions whose sums may saturate on x86 processors without VNNI.

    Those add two products of an UINT8 and an INT8 code in INT16. It is the convolutions whose
    weights :func:`lmaunet.export.cpu_form.unsigned_weights` would change.
    """
    from lmaunet.export.cpu_form import unsigned_weights

    changed = Graph(unsigned_weights(form))
    before = Graph(form)
    found = []
    for node in before.nodes:
        if node.op_type != "Conv" or before.weight(node.input[1]) is None:
            continue
        source = changed.producers[node.input[1]]
        codes = changed.constant(source.input[0])
        if codes is not None and codes.dtype.name == "uint8":
            found.append(node.name or node.output[0])
    return found


def store_int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which weights whose codes lie in -8 to 7 are INT4, two codes a byte.

    A Cast makes INT8 of them before DequantizeLinear, so that OpenVINO, which computes what depends
    on constants alone when it loads a file, finds the same INT8 weights as before and chooses the
    same integer kernels. Where there is such a weight, the model becomes one of operator set 21;
    the operators that the network uses mean in 21 what they mean in 18.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    casts: list[onnx.NodeProto] = []
    for node in graph.nodes:
        name = node.input[0] if node.input else ""
        if node.op_type != "DequantizeLinear" or name not in graph.initializers:
            continue
        codes = graph.constant(name)
        if codes is None or codes.dtype != np.int8 or codes.size < FEWEST_INT4:
            continue
        if codes.min() < -8 or codes.max() > 7:
            continue
        if not any(f"{name}/int8" in cast.output for cast in casts):
            flat = codes.reshape(-1).tolist()
            stored = helper.make_tensor(f"{name}/int4", TensorProto.INT4, codes.shape, flat)
            result.graph.initializer.append(stored)
            casts.append(
                helper.make_node("Cast", [stored.name], [f"{name}/int8"], to=TensorProto.INT8)
            )
        node.input[0] = f"{name}/int8"
    if not casts:
        return result
    nodes = [*casts, *(copy_node(node) for node in result.graph.node)]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    remove_unused(result)
    for entry in result.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, INT4_OPSET)
    result.ir_version = max(result.ir_version, INT4_IR_VERSION)
    return result
