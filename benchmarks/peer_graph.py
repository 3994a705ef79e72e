"""What ``peers.py`` asks of a graph: the forms of the scan, the kernels, what became of the scan.

The forms that a tool is given hold the same weights and compute the same:

- ``function``: as exported, each scan one call of the local function ``ai.lmaunet::SelectiveScan``;
- ``inlined``: standard ONNX, each scan an ONNX Scan over single steps;
- ``unrolled``: each scan an ONNX Scan over blocks of unrolled steps, the form that the CPU gets;
- ``two_level``: no loop, the recurrence spelled out in the main graph, the form that TensorRT gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx
import onnx.inliner

from lmaunet.export.convolutions import grid_of
from lmaunet.export.function import is_scan, node_name, scan_nodes
from lmaunet.export.lower import lower
from lmaunet.export.model_messages import all_nodes
from lmaunet.export.passes import read

INTEGER_KERNELS = frozenset(
    {
        "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm",
        "QLinearConv", "QLinearMatMul",
    }
)  # fmt: skip
FLOAT_KERNELS = frozenset(
    {"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "NhwcFusedConv"}
)
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def make_form(exported: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """Return the exported float network with its scans in a form."""
    if form == "function":
        return exported
    if form == "inlined":
        return onnx.inliner.inline_local_functions(exported)
    return lower(exported, form)


def without_state(exported: onnx.ModelProto) -> onnx.ModelProto:
    """Return the network with C = 0 in each scan, so that y = D * x and no state is ever read."""
    result = onnx.ModelProto()
    result.CopyFrom(exported)
    del result.graph.node[:]
    for original in exported.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        if is_scan(node):
            zero = f"{node_name(node)}/no_state"
            read = node.input[4]
            result.graph.node.append(onnx.helper.make_node("Sub", [read, read], [zero], name=zero))
            node.input[4] = zero
        result.graph.node.append(node)
    return result


def count_kernels(optimized: onnx.ModelProto) -> dict[str, int]:
    """Count convolutions and matrix products by their arithmetic; the scans' bodies do not count.

    Args:
        optimized: the graph that ONNX Runtime runs, as it saves it.
    """
    types = Counter(node.op_type for node in optimized.graph.node)
    return {
        "integer": sum(types[name] for name in INTEGER_KERNELS),
        "float": sum(types[name] for name in FLOAT_KERNELS),
    }


def scan_report(
    model: onnx.ModelProto, exported: onnx.ModelProto, loop_free: bool
) -> dict[str, Any]:
    """Return what is left of the scans in a file.

    Args:
        model: the file's graph.
        exported: the network as exported, which says how many scans there were.
        loop_free: whether the tool was given a form without loops.

    ``verdict`` sums up the others: ``loops`` of ``scans`` are there, ``quantizers_in_loops`` is the
    number of quantizing nodes in their bodies, ``sequences_8bit`` of ``sequences`` that go into
    them lie on an 8-bit grid. Without loops ``quantized_tensors`` counts the tensors of the
    recurrence that are quantized.
    """
    scans = scan_nodes(exported)
    report: dict[str, Any] = {"scans": len(scans)}
    if loop_free:
        prefixes = tuple(f"{node_name(node)}/" for node in scans)
        tensors = {
            node.input[0]
            for node in model.graph.node
            if node.op_type == "QuantizeLinear" and node.input[0].startswith(prefixes)
        }
        report["quantized_tensors"] = len(tensors)
        report["verdict"] = f"{len(tensors)} tensors of the recurrence at 8 bit"
        return report
    inlined = onnx.inliner.inline_local_functions(model)
    loops = [node for node in inlined.graph.node if node.op_type == "Scan"]
    sequences = [name for loop in loops for name in loop.input[2:]]
    values = {v.name: v for node in read(inlined).graph for v in node.inputs if v is not None}
    on_grid = sum(grid_of(values[name]) is not None for name in sequences)
    inside = count_quantizers(loops)
    report |= {
        "loops": len(loops),
        "quantizers_in_loops": inside,
        "sequences": len(sequences),
        "sequences_8bit": on_grid,
    }
    if len(loops) < len(scans):
        report["verdict"] = f"{len(scans) - len(loops)} of {len(scans)} loops lost"
    else:
        state = f"loops with {inside} quantizers" if inside else "float loops"
        report["verdict"] = f"{state}, {on_grid} of {len(sequences)} inputs 8 bit"
    return report


def count_quantizers(loops: Iterable[onnx.NodeProto]) -> int:
    """Count the quantizing nodes in the bodies of loops."""
    return sum(
        inner.op_type in QUANTIZERS or inner.op_type.startswith("QLinear")
        for loop in loops
        for inner in all_nodes([loop])
    )
