"""Export torch networks to ONNX: float32, QCDQ for TensorRT and ONNX Runtime, QONNX for FINN."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from lmaunet.export.function import attach, is_scan

OPSET = 18
INPUT, OUTPUT = "image", "logits"
FLOAT32, QCDQ, QONNX = "network.float32.onnx", "network.qcdq.onnx", "network.qonnx.onnx"
DOMAIN = "ai.lmaunet"


def export_float32(model: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Write the float network with the scan as a local function; fixed shapes, batch 1."""
    with _quiet():
        torch.onnx.export(
            model.eval(), (image,), str(path), opset_version=OPSET, dynamo=False,
            input_names=[INPUT], output_names=[OUTPUT],
        )  # fmt: skip
    _finish(path, function=True)


def export_qcdq(model: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Write the quantized network with QuantizeLinear/DequantizeLinear, weights as INT8.

    The scan is one call of a local function. Shapes are fixed, batch 1.
    """
    from brevitas.export import export_onnx_qcdq

    with _quiet():
        # With initializers as inputs ONNX Runtime computes wrong results at EXTENDED and above.
        export_onnx_qcdq(
            model.eval(), args=image, export_path=str(path), opset_version=OPSET, dynamo=False,
            keep_initializers_as_inputs=False, input_names=[INPUT], output_names=[OUTPUT],
        )  # fmt: skip
    _finish(path, function=True)


def export_qonnx(model: nn.Module, image: torch.Tensor, path: Path) -> None:
    """Write the quantized network with QONNX's Quant nodes; the scan stays one opaque node."""
    from brevitas.export import export_qonnx as brevitas_export

    with _quiet():
        brevitas_export(
            model.eval(), args=image, export_path=str(path), opset_version=OPSET, dynamo=False,
            keep_initializers_as_inputs=False, input_names=[INPUT], output_names=[OUTPUT],
        )  # fmt: skip
    _finish(path, function=False)


def _finish(path: Path, function: bool) -> None:
    model = onnx.load(path)
    tidy_names(model)
    skip_identities(model)
    fold_pads(model)
    clip_weights(model)
    fold_state_matrices(model)
    if function and any(is_scan(node) for node in model.graph.node):
        model = attach(model)
    model = onnx.shape_inference.infer_shapes(model) if not function else model
    onnx.save(model, path)


def tidy_names(model: onnx.ModelProto) -> None:
    """Name nodes and tensors after the graph's values, as ``/stages/0/mamba/silu/Mul``.

    The exporter names them after modules, whose names begin with a slash (``module_key``).
    """
    graph = model.graph
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    tidy = {name: re.sub(r"^(layers|kept)\./", "/", name).replace("//", "/") for name in names}
    if len(set(tidy.values())) < len(tidy):
        return
    for node in graph.node:
        node.name = node.name.replace("//", "/")
        node.input[:] = [tidy[name] for name in node.input]
        node.output[:] = [tidy[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name = tidy.get(tensor.name, tensor.name)
    for value in (*graph.value_info, *graph.output, *graph.input):
        value.name = tidy.get(value.name, value.name)


def skip_identities(model: onnx.ModelProto) -> int:
    """Let each node read what an Identity reads instead of what it gives; return how many.

    The exporter stores equal weights once, and names the others by an Identity.
    """
    graph = model.graph
    kept = {output.name for output in graph.output}
    source: dict[str, str] = {}
    for node in graph.node:
        node.input[:] = [source.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in kept:
            source[node.output[0]] = node.input[0]
    _remove_unused(graph)
    return len(source)


def fold_pads(model: onnx.ModelProto) -> int:
    """Move each zero Pad in front of a convolution into the convolution; return how many.

    The causal convolution pads on the left only, which torch can say with a Pad alone. Runtimes
    use an integer kernel only where nothing stands between DequantizeLinear and Conv.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    folded = 0
    for conv in graph.node:
        pad = producers.get(conv.input[0]) if conv.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or len(pad.input) < 2:
            continue
        amounts, value = _pad_amounts(pad, producers, constants)
        if amounts is None or value != 0 or any(amounts[:2]) or any(amounts[4:6]):
            continue
        attribute = next(a for a in conv.attribute if a.name == "pads")
        extra = [*amounts[2:4], *amounts[6:8]]
        attribute.ints[:] = [a + b for a, b in zip(attribute.ints, extra, strict=True)]
        conv.input[0] = pad.input[0]
        folded += 1
    _remove_unused(graph)
    return folded


def _pad_amounts(
    pad: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
    constants: dict[str, np.ndarray],
) -> tuple[list[int] | None, float]:
    """Return a Pad's amounts (begins, then ends, of four axes) and value, where constant."""
    value = float(constants.get(pad.input[2], np.zeros(1)).reshape(-1)[0]) if (
        len(pad.input) > 2 and pad.input[2]
    ) else 0.0  # fmt: skip
    amounts = constants.get(pad.input[1])
    if amounts is None:
        amounts = _evaluate(pad.input[1], producers, constants)
    if amounts is None or amounts.size != 8:
        return None, value
    return [int(v) for v in amounts.reshape(-1)], value


def _evaluate(
    name: str, producers: dict[str, onnx.NodeProto], constants: dict[str, np.ndarray]
) -> np.ndarray | None:
    """Compute a tensor that depends on constants alone; None where it does not."""
    from onnx.reference import ReferenceEvaluator

    nodes: list[onnx.NodeProto] = []
    pending, seen = [name], set()
    while pending:
        current = pending.pop()
        if current in seen or current in constants or not current:
            continue
        seen.add(current)
        node = producers.get(current)
        if node is None:
            return None
        # an ancestor that is met again moves in front of all that use it
        nodes = [node, *(n for n in nodes if n is not node)]
        seen -= set(node.input)
        pending.extend(node.input)
    used = {i for node in nodes for i in node.input if i in constants}
    graph = onnx.helper.make_graph(
        nodes, "constant", [], [onnx.helper.make_empty_tensor_value_info(name)],
        [numpy_helper.from_array(constants[i], i) for i in used],
    )  # fmt: skip
    small = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    return ReferenceEvaluator(small).run(None, {})[0]


def clip_weights(model: onnx.ModelProto) -> int:
    """Apply each Clip of a constant weight to the weight itself; return how many.

    Brevitas says a narrow range (-127 to 127) with a Clip, which TensorRT does not read on INT8.
    """
    graph = model.graph
    constants = {i.name: i for i in graph.initializer}
    producers = {o: n for n in graph.node for o in n.output}
    clipped = 0
    for node in graph.node:
        clip = producers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if clip is None or clip.op_type != "Clip" or clip.input[0] not in constants:
            continue
        low, high = (_constant(name, constants, producers) for name in clip.input[1:3])
        if low is None or high is None:
            continue
        weight = constants[clip.input[0]]
        values = np.clip(numpy_helper.to_array(weight), low, high)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        node.input[0] = weight.name
        clipped += 1
    _remove_unused(graph)
    return clipped


def fold_state_matrices(model: onnx.ModelProto) -> int:
    """Make the scan's A, which is -exp(A_log), a constant of the graph; return how many."""
    graph = model.graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    producers = {o: n for n in graph.node for o in n.output}
    folded = 0
    for node in graph.node:
        if node.op_type != "SelectiveScan" or node.input[2] in constants:
            continue
        value = _evaluate(node.input[2], producers, constants)
        if value is None:
            continue
        name = f"{node.name}_A"
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        node.input[2] = name
        folded += 1
    _remove_unused(graph)
    return folded


def _constant(
    name: str,
    initializers: dict[str, onnx.TensorProto],
    producers: dict[str, onnx.NodeProto],
) -> np.ndarray | None:
    if name in initializers:
        return numpy_helper.to_array(initializers[name])
    node = producers.get(name)
    if node is not None and node.op_type == "Constant":
        return numpy_helper.to_array(node.attribute[0].t)
    return None


def _remove_unused(graph: onnx.GraphProto) -> None:
    outputs = {o.name for o in graph.output}
    while True:
        used = {i for node in graph.node for i in node.input} | outputs
        dead = [n for n in graph.node if not any(o in used for o in n.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for initializer in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(initializer)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings of shapes that are fixed on purpose off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
