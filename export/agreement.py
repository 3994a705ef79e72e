"""Check the exported files: each form and lowering against torch, each scan against the golden.

The float graph must give torch's logits up to float32 rounding. The quantized graph is compared
quantizer by quantizer (see :mod:`lmaunet.export.segments`). Every scan must give what the golden
scan gives for the inputs that the graph itself feeds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from torch import nn

from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.export.check import check_graph, run_onnx
from lmaunet.export.lower import executable_lowerings, lower, sites
from lmaunet.export.network import FLOAT32, INPUT, QCDQ
from lmaunet.export.segments import check_segments, torch_values
from lmaunet.scan.real import selective_scan
from lmaunet.train.metrics import predict_logits

FLOAT32_TOLERANCE = 1e-4
"""Of the float graph's logits, relative to their largest magnitude."""

SCAN_TOLERANCE = 1e-5
"""Of one scan's output in float32, relative to its largest magnitude."""

CODE_SHARE = 1e-3
"""Share of a quantizer's codes that may differ by one: values on the border between two codes,
which float32 sums of another order round to the other side."""


def check_exports(
    folder: Path, image: np.ndarray, float32: nn.Module, quantized: nn.Module
) -> tuple[Agreement, ...]:
    """Check the files of an export folder on one image ``(1, channels, H, W)``.

    Args:
        folder: where :mod:`lmaunet.export.network` wrote; evidence of a disagreement goes beside
            it, because the folder itself is thrown away then.
        image: a normalised image.
        float32, quantized: the networks in torch.
    """
    evidence = folder.parent / "disagreement"
    return (
        *check_float32(folder / FLOAT32, image, float32, evidence),
        *check_quantized(folder / QCDQ, image, quantized, evidence),
        *check_scans(folder / QCDQ, image, evidence),
    )


def check_float32(
    path: Path, image: np.ndarray, network: nn.Module, evidence: Path
) -> tuple[Agreement, ...]:
    """Compare the float graph, with the scan as a function and in each lowering, with torch."""
    expected = predict_logits(network, image)
    tolerance = FLOAT32_TOLERANCE * float(np.abs(expected).max())
    found: list[Agreement] = []
    for form, graph in forms(onnx.load(path)):
        name = f"float32 graph, scan {form}, against torch"
        found += check_graph(name, graph, {INPUT: image}, expected, tolerance, evidence)
    return tuple(found)


def check_quantized(
    path: Path, image: np.ndarray, network: nn.Module, evidence: Path
) -> tuple[Agreement, ...]:
    """Compare the QCDQ graph with torch, quantizer by quantizer, in the same forms."""
    model = onnx.load(path)
    values = torch_values(network, model, image)
    found: list[Agreement] = []
    for form, graph in forms(model):
        for words, optimize in (("optimization off", False), ("optimization full", True)):
            found += check_segments(
                f"INT8 graph, scan {form}, {words}, against torch", graph, values, image,
                evidence, share=CODE_SHARE, optimize=optimize, float_biases=True,
            )  # fmt: skip
    return tuple(found)


def check_scans(path: Path, image: np.ndarray, evidence: Path) -> tuple[Agreement, ...]:
    """Compare every scan of the QCDQ graph, in each form, with the golden scan.

    The golden scan computes in float64 from the inputs that the graph gives the scan. Graph
    optimization is off here: with it ONNX Runtime moves the quantizer of y up to the scan
    (QDQPropagationTransformer), and what it shows as the scan's output is rounded already.
    """
    model = onnx.load(path)
    nodes = {n.name: n for n in model.graph.node if n.op_type == "SelectiveScan"}
    constants = {i.name: i for i in model.graph.initializer}
    found = []
    for form, graph in forms(model):
        for site in sites(model):
            node = nodes[site.name]
            watched = [*(node.input[i] for i in (0, 1, 3, 4)), node.output[0]]
            x, dt, B, C, y = run_onnx(_with_outputs(graph, watched), {INPUT: image}, optimize=False)
            A, D = (numpy_helper.to_array(constants[node.input[i]]) for i in (2, 5))
            golden = selective_scan(x, dt, A, B, C, D)
            tolerance = SCAN_TOLERANCE * float(np.abs(golden).max())
            name = f"scan {site.name} {form} against the golden scan"
            found.append(require_agreement(name, y, golden, tolerance, evidence=evidence))
    return tuple(found)


def forms(model: onnx.ModelProto) -> list[tuple[str, onnx.ModelProto]]:
    """Return the graph with the scan as a function, and in each lowering that runtimes execute.

    Without a scan there is one form.
    """
    if not sites(model):
        return [("absent", model)]
    lowered = [(f"as {name}", lower(model, name)) for name in executable_lowerings()]
    return [("as a function", model), *lowered]


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        copy.graph.output.append(value)
    return copy
