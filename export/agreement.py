"""Check the exported files: each form and lowering against torch, each scan against the golden.

A float graph must give torch's logits up to float32 rounding. In a quantized graph a value that
lies between two codes can round either way when a runtime sums in another order, and one such code
changes logits further on; so its class maps are compared, and a small share of the foreground may
differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from export.check import run_onnx
from export.function import scan_nodes
from export.lower import Lowering, all_lowerings, lower, sites
from lmaunet.artifacts import Agreement, require_agreement
from lmaunet.scan.real import selective_scan

FLOAT32_TOLERANCE = 1e-4
"""Of a float graph's logits, relative to their largest magnitude."""

SCAN_TOLERANCE = 1e-5
"""Of one scan's output in float32, relative to its largest magnitude."""

FOREGROUND_SHARE = 0.01
"""Share of the foreground pixels at which two class maps of one quantized network may differ."""


def require_same_classes(
    name: str, logits: np.ndarray, expected: np.ndarray, evidence: Path
) -> Agreement:
    """Compare the class maps of two logits ``(n, classes, H, W)`` of one quantized network.

    At most :data:`FOREGROUND_SHARE` of the pixels that either calls foreground may differ.

    Raises:
        Disagreement: where more do, or a logit is not finite.
    """
    got, want = logits.argmax(1), expected.argmax(1)
    if not np.isfinite(logits).all():
        got = np.where(np.isfinite(logits).all(1), got, -1)
    foreground = int(((got > 0) | (want > 0)).sum())
    allowed = int(FOREGROUND_SHARE * foreground)
    return require_agreement(name, got, want, 0, evidence=evidence, allowed=allowed)


def check_float32(
    path: Path, images: np.ndarray, expected: np.ndarray, evidence: Path
) -> tuple[Agreement, ...]:
    """Compare the float graph, as it is and in each lowering, with torch's logits."""
    tolerance = FLOAT32_TOLERANCE * float(np.abs(expected).max())
    model = onnx.load(path)
    return tuple(
        require_agreement(
            f"float32 {name} in ONNX Runtime, {words}, against torch",
            run_images(graph, images, optimize), expected, tolerance, evidence=evidence,
        )
        for name, graph in _forms(model)
        for words, optimize in (("optimization off", False), ("optimization full", True))
    )  # fmt: skip


def check_quantized(
    path: Path, images: np.ndarray, expected: np.ndarray, evidence: Path
) -> tuple[Agreement, ...]:
    """Compare the QCDQ graph, as it is and in each lowering, with torch's class maps."""
    model = onnx.load(path)
    return tuple(
        require_same_classes(
            f"INT8 {name} in ONNX Runtime, {words}, against torch: classes",
            run_images(graph, images, optimize), expected, evidence,
        )
        for name, graph in _forms(model)
        for words, optimize in (("optimization off", False), ("optimization full", True))
    )  # fmt: skip


def check_scans(path: Path, image: np.ndarray, evidence: Path) -> tuple[Agreement, ...]:
    """Compare every scan of the QCDQ graph, in each lowering, with the golden scan.

    The golden scan computes in float64 from the inputs that the graph itself gives the scan on one
    image ``(1, channels, H, W)``.
    """
    model = onnx.load(path)
    nodes = {n.name: n for n in model.graph.node if n.op_type == "SelectiveScan"}
    constants = {
        i.name: onnx.numpy_helper.to_array(i)
        for i in model.graph.initializer
        if any(i.name in n.input for n in nodes.values())
    }
    found = []
    for form, graph in _forms(model):
        for site in sites(model):
            node = nodes[site.name]
            watched = [*(node.input[i] for i in (0, 1, 3, 4)), node.output[0]]
            x, dt, B, C, y = run_onnx(with_outputs(graph, watched), {"image": image}, optimize=True)
            golden = selective_scan(x, dt, constants[node.input[2]], B, C, constants[node.input[5]])
            tolerance = SCAN_TOLERANCE * float(np.abs(golden).max())
            found.append(
                require_agreement(
                    f"scan {site.name} as {form} against the golden scan", y, golden, tolerance,
                    evidence=evidence,
                )
            )  # fmt: skip
    return tuple(found)


def check_exports(
    folder: Path, images: np.ndarray, float32: np.ndarray, quantized: np.ndarray
) -> tuple[Agreement, ...]:
    """Check the files of an export folder on images ``(n, channels, H, W)``.

    Args:
        folder: holds ``network.float32.onnx`` and ``network.qcdq.onnx``; evidence of a
            disagreement goes beside it, because the folder itself is thrown away then.
        images: normalised images.
        float32, quantized: torch's logits of them, of the control and the quantized network.
    """
    evidence = folder.parent / "disagreement"
    return (
        *check_float32(folder / "network.float32.onnx", images, float32, evidence),
        *check_quantized(folder / "network.qcdq.onnx", images, quantized, evidence),
        *check_scans(folder / "network.qcdq.onnx", images[:1], evidence),
    )


def run_images(model: onnx.ModelProto, images: np.ndarray, optimize: bool) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of a graph with batch 1."""
    parts = [run_onnx(model, {"image": i[None]}, optimize=optimize)[0] for i in images]
    return np.concatenate(parts)


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of a model that gives the named float tensors as its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        copy.graph.output.append(value)
    return copy


def _forms(model: onnx.ModelProto) -> list[tuple[str, onnx.ModelProto]]:
    """Return the graph with the scan as a function, and in each lowering that a runtime can run."""
    names = [name for name, found in all_lowerings().items() if isinstance(found, Lowering)]
    lowered = [(name, lower(model, name)) for name in names]
    runnable = [(name, graph) for name, graph in lowered if not scan_nodes(graph)]
    return [("with the scan as a function", model), *runnable]
