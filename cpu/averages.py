"""Averages of quantized maps for OpenVINO, as convolutions of ones.

OpenVINO lets an average pooling of INT8 values put out INT8, so that each average is rounded,
unless a quantizer is all that reads it. Before a norm, which divides by what may be a small
deviation, that moved values by 19 steps of the quantizer behind it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from lmaunet.export.lower import static_shapes
from lmaunet.export.passes import Pass, add_constant, label, new_node, replace


class ExactAverages(Pass):
    """Make a depthwise convolution of each average pooling of quantized values.

    Its codes are ones and their scale is one over the pixels of a bin: the sums are integers, and
    the average is a float. A pooling that only quantizers read, or one with a border, stays.
    """

    name = "averages as convolutions"

    def rewrite(self, model: ir.Model) -> int:
        """Replace them."""
        graph = model.graph
        found = list(_rounded_averages(graph))
        shapes = static_shapes(ir.to_proto(model)) if found else {}
        for node in found:
            kernel = list(node.attributes["kernel_shape"].as_ints())
            output, image = node.outputs[0], node.inputs[0]
            assert image is not None
            channels = shapes[str(image.name)][1]
            codes = np.ones((channels, 1, *kernel), np.int8)
            stored = (
                add_constant(graph, f"{output.name}/ones", codes),
                add_constant(graph, f"{output.name}/share", np.float32(1 / math.prod(kernel))),
            )
            ones = new_node("DequantizeLinear", stored, f"{output.name}/weight")
            strides = node.attributes.get("strides")
            conv = new_node(
                "Conv", [image, ones.outputs[0]], f"{output.name}/averages", name=node.name,
                kernel_shape=kernel, group=channels,
                strides=list(strides.as_ints()) if strides else [1] * len(kernel),
            )  # fmt: skip
            graph.insert_before(node, [ones, conv])
            replace(output, conv.outputs[0])
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        yield from (f"{label(node)} would round" for node in _rounded_averages(model.graph))


def _rounded_averages(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield each average pooling of quantized values that something else than quantizers reads."""
    for node in graph:
        source = node.inputs[0].producer() if node.op_type == "AveragePool" else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        given = node.attributes
        border = "auto_pad" in given or ("pads" in given and any(given["pads"].as_ints()))
        rounded_up = "ceil_mode" in given and given["ceil_mode"].as_int()
        read_by = {use.node.op_type for use in node.outputs[0].uses()}
        if not border and not rounded_up and read_by - {"QuantizeLinear"}:
            yield node
