"""Export torch networks to ONNX: float32, QCDQ for TensorRT and ONNX Runtime, QONNX for FINN."""

from __future__ import annotations

import contextlib
import logging
import re
import unittest.mock
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import torch
from onnx_ir.passes.common import IdentityEliminationPass, LiftConstantsToInitializersPass
from torch import nn

from lmaunet.export.convolutions import WeightClips
from lmaunet.export.function import ScanFunction, is_scan
from lmaunet.export.passes import (
    DeadNodes,
    Pass,
    add_constant,
    constant,
    evaluated,
    label,
    run,
)

OPSET = 18
INPUT, OUTPUT = "image", "logits"
FLOAT32, QCDQ, QONNX = "network.float32.onnx", "network.qcdq.onnx", "network.qonnx.onnx"


def export_float32(model: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Write the float network with the scan as a local function; fixed shapes, batch 1."""
    with _lean():
        torch.onnx.export(model.eval(), (image,), str(path), **_options())
    onnx.save(run(FLOAT32_FILE, onnx.load(path)), path)


def export_qcdq(model: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Write the quantized network with QuantizeLinear/DequantizeLinear, weights as INT8.

    The scan is one call of a local function. Shapes are fixed, batch 1.
    """
    from brevitas.export.onnx.standard.qcdq.manager import StdQCDQONNXManager

    _export_quantized(StdQCDQONNXManager, model, image, path)
    onnx.save(run(QCDQ_FILE, onnx.load(path)), path)


def export_qonnx(model: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Write the quantized network with QONNX's Quant nodes; the scan stays one opaque node."""
    from brevitas.export.onnx.qonnx.manager import QONNXManager

    _export_quantized(QONNXManager, model, image, path)
    onnx.save(run(QONNX_FILE, onnx.load(path)), path)


def _options() -> dict[str, Any]:
    return {
        "opset_version": OPSET, "dynamo": False, "input_names": [INPUT], "output_names": [OUTPUT],
    }  # fmt: skip


def _export_quantized(manager: Any, model: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Write what Brevitas exports, without two things that take it a third of its time.

    onnxoptimizer's passes, in place of which :class:`StoredConstants` is, search the whole graph
    for each constant. And a run of the network beforehand, for the formats of inputs and outputs,
    is of use for integer biases only.
    """

    class Lean(manager):
        run_onnx_passes = False

        @classmethod
        def _cache_inp_out(cls, *args: Any, **kwargs: Any) -> None:
            pass

    with _lean():
        # With initializers as inputs ONNX Runtime computes wrong results at EXTENDED and above.
        Lean.export(
            model.eval(), args=image, export_path=str(path), keep_initializers_as_inputs=False,
            **_options(),
        )  # fmt: skip


class GraphNames(Pass):
    """Name nodes and tensors after the graph's values, as ``/stages/0/mamba/silu/Mul``.

    The exporter names them after modules, whose names begin with a slash
    (:func:`lmaunet.quant.network.module_key`).
    """

    name = "names of the graph"

    def rewrite(self, model: ir.Model) -> int:
        """Rename them."""
        values = [value for value in _values(model.graph) if _graph_name(value.name) != value.name]
        ir.convenience.rename_values(values, [_graph_name(value.name) for value in values])
        for node in model.graph:
            node.name = _graph_name(node.name)
        return len(values)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is named after a module."""
        for named in (*model.graph, *_values(model.graph)):
            if _graph_name(named.name) != named.name:
                yield f"{named.name!r} is a module's name"


def _values(graph: ir.Graph) -> list[ir.Value]:
    outputs = (value for node in graph for value in node.outputs)
    return list(dict.fromkeys((*graph.initializers.values(), *outputs)))


def _graph_name(name: str | None) -> str | None:
    return name and re.sub(r"^(layers|kept)\./", "/", name).replace("//", "/")


class Identities(Pass):
    """Let each node read what an Identity reads instead of what it gives.

    The exporter stores equal weights once, and names the others by an Identity.
    """

    name = "identity elimination"

    def rewrite(self, model: ir.Model) -> int:
        """Do it by onnx-ir's own pass."""
        return int(IdentityEliminationPass()(model).modified)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each Identity between two nodes."""
        for node in model.graph:
            if node.op_type == "Identity" and not node.outputs[0].is_graph_output():
                yield f"{label(node)} is left"


class ScanFunctionIfAny(ScanFunction):
    """:class:`~lmaunet.export.function.ScanFunction` for a network that may have no scan."""

    def requires(self, model: ir.Model) -> None:
        """Raise :class:`UserError` where there are scans, and the operator set is older than 18."""
        if any(is_scan(node) for node in model.graph):
            super().requires(model)

    def rewrite(self, model: ir.Model) -> int:
        """Add the function where there are scans."""
        return super().rewrite(model) if any(is_scan(node) for node in model.graph) else 0


class PadFolding(Pass):
    """Move each zero Pad in front of a convolution into the convolution.

    The causal convolution pads on the left only, which torch can say with a Pad alone. Runtimes
    use an integer kernel only where nothing stands between DequantizeLinear and Conv.
    """

    name = "pad folding"

    def rewrite(self, model: ir.Model) -> int:
        """Move them; the Pads are left without readers."""
        found = list(_foldable_pads(model.graph))
        for conv, pad, amounts in found:
            own = conv.attributes["pads"].as_ints()
            extra = (*amounts[2:4], *amounts[6:8])
            sums = [a + b for a, b in zip(own, extra, strict=True)]
            conv.attributes["pads"] = ir.AttrInt64s("pads", sums)
            conv.replace_input_with(0, pad.inputs[0])
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        for conv, *_ in _foldable_pads(model.graph):
            yield f"a Pad stands before {label(conv)}"


def _foldable_pads(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node, list[int]]]:
    """Yield each convolution, the zero Pad of rows and columns before it, and its amounts.

    The amounts are those before, then those behind, of four axes.
    """
    for conv in graph:
        pad = conv.inputs[0].producer() if conv.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or len(pad.inputs) < 2:
            continue
        value = constant(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] else np.zeros(1)
        amounts = evaluated(pad.inputs[1])
        if value is None or value.any() or amounts is None or amounts.size != 8:
            continue
        if not amounts[[0, 1, 4, 5]].any():
            yield conv, pad, amounts.tolist()


class StateMatrices(Pass):
    """Make each scan's A, which is -exp(A_log), a constant of the graph."""

    name = "folding of state matrices"

    def rewrite(self, model: ir.Model) -> int:
        """Compute them."""
        found = list(_computed_states(model.graph))
        for node, array in found:
            matrix = add_constant(model.graph, f"{node.name}_A", array.astype(np.float32))
            node.replace_input_with(2, matrix)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        for node, _ in _computed_states(model.graph):
            yield f"A of {label(node)} is computed from constants"


def _computed_states(graph: ir.Graph) -> Iterator[tuple[ir.Node, np.ndarray]]:
    for node in graph:
        if is_scan(node) and not node.inputs[2].is_initializer():
            array = evaluated(node.inputs[2])
            if array is not None:
                yield node, array


class Shapes(Pass):
    """Write the shape of each tensor that ONNX shape inference finds, which QONNX reads."""

    name = "shape inference"

    def rewrite(self, model: ir.Model) -> int:
        """Infer them."""
        inferred = onnx.shape_inference.infer_shapes(ir.to_proto(model)).graph.value_info
        values = {value.name: value for node in model.graph for value in node.outputs}
        for info in inferred:
            ir.serde.deserialize_value_info_proto(info, values[info.name])
        return len(inferred)


class StoredConstants(Pass):
    """Store each constant tensor as one, instead of as a node."""

    name = "constants out of nodes"

    def rewrite(self, model: ir.Model) -> int:
        """Store them by onnx-ir's own pass."""
        lifted = LiftConstantsToInitializersPass(size_limit=0)(model)
        for value in model.graph.initializers.values():
            value.type = value.shape = None
        return int(lifted.modified)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is still a node."""
        for node in model.graph:
            if node.op_type == "Constant" and "value" in node.attributes:
                yield f"{label(node)} is a node"


FOLDING = GraphNames(), Identities(), PadFolding(), WeightClips(), StateMatrices(), DeadNodes()
"""What the exporter leaves in a graph, folded into what is around it."""
FLOAT32_FILE = *FOLDING, ScanFunctionIfAny()
QCDQ_FILE = StoredConstants(), *FOLDING, ScanFunctionIfAny()
QONNX_FILE = StoredConstants(), *FOLDING, Shapes()


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """Keep the exporters' warnings of what is so on purpose off the screen, and their pace up.

    On one thread, as thousands of small tensors are worked on, for each of which several threads
    wait for each other; and without TorchScript's check of its own graph, which takes a time that
    grows with the square of the nodes, ten times an export.
    """
    level, threads = logging.root.manager.disable, torch.get_num_threads()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    try:
        with (
            warnings.catch_warnings(),
            unittest.mock.patch.object(torch._C, "_jit_pass_lint", lambda graph: None),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.set_num_threads(threads)
