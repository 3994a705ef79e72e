"""The file that ships for OpenVINO: from a QCDQ graph, as ONNX, which OpenVINO reads as it is.

OpenVINO's own format takes more than twice the bytes, most of them XML, and loads no faster.
Its ONNX reader knows no local functions, so that the weights of few bits cannot be the bit planes
of :mod:`lmaunet.cpu.packing`; :func:`store_int4` stores them as INT4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from lmaunet.cpu import compact
from lmaunet.cpu.averages import ExactAverages
from lmaunet.cpu.cpu_form import UnsignedActivations, UnsignedWeights, saturating
from lmaunet.export.convolutions import preparation
from lmaunet.export.lower import ScanLowering
from lmaunet.export.passes import (
    Pass,
    UnreadConstants,
    add_constant,
    constant,
    new_node,
    read,
    run,
)

LOWERING = "unrolled"
INT4_OPSET = 21
"""The first operator set with INT4."""
INT4_IR_VERSION = 10
FEWEST_INT4 = 256
"""Weights of fewer codes stay INT8: a node more takes as many bytes as it saves."""


class Int4Weights(Pass):
    """Store weights whose codes lie in -8 to 7 as INT4, two codes a byte.

    A Cast makes INT8 of them before DequantizeLinear, so that OpenVINO, which computes what depends
    on constants alone when it loads a file, finds the same INT8 weights as before and chooses the
    same integer kernels. Where there is such a weight, the model becomes one of operator set 21;
    the operators that the network uses mean in 21 what they mean in 18.
    """

    name = "INT4 weights"

    def rewrite(self, model: ir.Model) -> int:
        """Store them."""
        graph = model.graph
        found = list(_int4_weights(graph))
        casts = []
        for value, codes in found:
            flat = codes.reshape(-1).tolist()
            stored = helper.make_tensor(f"{value.name}/int4", TensorProto.INT4, codes.shape, flat)
            packed = add_constant(graph, stored.name, ir.from_proto(stored))
            cast = new_node("Cast", [packed], f"{value.name}/int8", to=TensorProto.INT8)
            for use in value.uses():
                if use.node.op_type == "DequantizeLinear":
                    use.node.replace_input_with(use.idx, cast.outputs[0])
            casts.append(cast)
        if casts:
            graph.insert_before(graph[0], casts)
            model.opset_imports[""] = max(model.opset_imports[""], INT4_OPSET)
            model.ir_version = max(model.ir_version, INT4_IR_VERSION)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each weight that would fit and is left."""
        yield from (f"the weight {v.name!r} fits INT4" for v, _ in _int4_weights(model.graph))


def _int4_weights(graph: ir.Graph) -> Iterator[tuple[ir.Value, np.ndarray]]:
    """Yield each weight that fits, in the order in which the graph reads them, and its codes."""
    read = [node.inputs[0] for node in graph if node.op_type == "DequantizeLinear"]
    for value in dict.fromkeys(read):
        codes = constant(value) if value.is_initializer() else None
        if codes is None or codes.dtype != np.int8 or codes.size < FEWEST_INT4:
            continue
        if codes.min() >= -8 and codes.max() <= 7:
            yield value, codes


def form_passes(*, vnni: bool) -> tuple[Pass, ...]:
    """Return the passes from a QCDQ graph to :func:`openvino_form`."""
    weights = () if vnni else (UnsignedWeights(),)
    return (
        *preparation(), UnsignedActivations(), *weights, UnreadConstants(), ScanLowering(LOWERING),
        ExactAverages(),
    )  # fmt: skip


FILE_PASSES = (*compact.PASSES, Int4Weights(), UnreadConstants())


def openvino_form(exported: onnx.ModelProto, *, vnni: bool) -> onnx.ModelProto:
    """Return a QCDQ graph with UINT8 activation codes and the scans lowered, all names kept.

    OpenVINO runs every quantized convolution of it on integers, and keeps biases in float.

    Args:
        exported: the graph.
        vnni: whether the processors that it is for add the products of codes in 32 bits. For
            others, weights whose sums could saturate get UINT8 codes, which OpenVINO convolves in
            float.
    """
    return run(form_passes(vnni=vnni), exported)


def openvino_file(form: onnx.ModelProto) -> onnx.ModelProto:
    """Return the file of a form: short names, each constant once, narrow weights as INT4."""
    return run(FILE_PASSES, form)


def saturating_convolutions(form: onnx.ModelProto) -> list[str]:
    """Return the convolutions whose sums may saturate on x86 processors without VNNI.

    Those add two products of an UINT8 and an INT8 code in INT16.
    """
    return [node.name or node.outputs[0].name for node in saturating(read(form).graph)]


def store_int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`Int4Weights`."""
    return run([Int4Weights(), UnreadConstants()], model)
