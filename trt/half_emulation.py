"""An engine's FP16 on a CPU: ONNX Runtime made to round where the graph says so.

It has no FP16 kernels for convolutions on the CPU, so that it casts around each, and takes out a
pair of casts to FP16 and back, without optimization too: the values are FP32's then, and none
overflows. A ``Max`` in FP16 with the least number of it, for which there is a kernel, stands
between the pair and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto

from lmaunet.export.passes import Pass, add_constant, label, new_node, run

LEAST = "least_float16"


class RoundedCasts(Pass):
    """Put a ``Max`` behind each Cast to FP16 and before each Cast from it to FP32."""

    name = "rounding of casts to half"

    def rewrite(self, model: ir.Model) -> int:
        """Add them."""
        graph = model.graph
        found = list(_bare_casts(graph))
        for node, to_half in found:
            least = add_constant(graph, LEAST, np.array(-np.inf, np.float16))
            value = node.outputs[0] if to_half else node.inputs[0]
            name = f"{node.name}/rounded"
            kept = new_node("Max", [value, least], name, name=name)
            if to_half:
                value.replace_all_uses_with(kept.outputs[0])
                kept.replace_input_with(0, value)
                graph.insert_after(node, kept)
            else:
                node.replace_input_with(0, kept.outputs[0])
                graph.insert_before(node, kept)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each cast that ONNX Runtime may leave out."""
        yield from (f"nothing rounds at {label(node)}" for node, _ in _bare_casts(model.graph))


def _bare_casts(graph: ir.Graph) -> Iterator[tuple[ir.Node, bool]]:
    """Yield the casts to half whose result is read directly, and those from it of a bare result.

    The second says whether it is one to half.
    """
    for node in graph:
        if node.op_type != "Cast":
            continue
        source = node.inputs[0].producer()
        if node.attributes["to"].as_int() == TensorProto.FLOAT16:
            if any(use.node.op_type != "Max" for use in node.outputs[0].uses()):
                yield node, True
        elif source is not None and source.op_type in ("Conv", "MatMul") and _in_half(source):
            yield node, False


def _in_half(node: ir.Node) -> bool:
    weight = node.inputs[1].const_value
    return weight is not None and weight.dtype == ir.DataType.FLOAT16


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of an engine's graph that ONNX Runtime computes with FP16's rounding.

    A graph without FP16 comes back as it is.
    """
    return run((RoundedCasts(),), model)
