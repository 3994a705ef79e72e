"""Take out of an ONNX file what computing does not need; no output changes by a bit.

The names that an exporter writes take 0.2 MB in a network of 11 million parameters, as many bytes
as 600,000 weights of 3 bits.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lmaunet.export.convolutions import copy_node, remove_unused
from lmaunet.export.function import all_nodes
from lmaunet.export.packing import is_unpack

if TYPE_CHECKING:
    import onnx

    Pass = Callable[[onnx.ModelProto], onnx.ModelProto]


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after each of :data:`PASSES`.

    Names go last: what a pass before it adds is renamed too. Whoever compares tensors by their
    names does it on the model as it was.
    """
    for step in PASSES:
        model = step(model)
    return model


def drop_unread_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the nodes of the main graph that no output depends on.

    ONNX Runtime computes them, and they keep it from fusing what is around them.
    """
    result = _copy(model)
    graph = result.graph
    needed = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            continue
        kept.append(node)
        # a body may read tensors of the graph around it
        needed.update(name for inner in all_nodes([node]) for name in inner.input)
    nodes = [copy_node(node) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(nodes)
    remove_unused(result)
    return result


def drop_weight_zero_points(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which no weight has a zero point of zeros; one that lacks counts as 0.

    A weight is a constant, or a packed constant, under a DequantizeLinear of the main graph. The
    zero points of activations stay.
    """
    from onnx import numpy_helper

    result = _copy(model)
    graph = result.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    weights = {*constants, *(n.output[0] for n in graph.node if is_unpack(n))}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in weights:
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and not numpy_helper.to_array(zero).any():
            del node.input[2]
    remove_unused(result)
    return result


def share_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which each constant of the main graph is stored once.

    Constants are equal when type, dimensions and bytes are. Inputs of the graph (which a caller may
    replace) and outputs keep a constant of their own.
    """
    from onnx import numpy_helper

    result = _copy(model)
    graph = result.graph
    public = {value.name for value in (*graph.input, *graph.output)}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed = {}
    for tensor in graph.initializer:
        if tensor.name not in public:
            array = numpy_helper.to_array(tensor)
            key = (tensor.data_type, tuple(tensor.dims), array.tobytes())
            renamed[tensor.name] = first.setdefault(key, tensor.name)
    for _, nodes in _scopes(graph):
        for node in nodes:
            node.input[:] = [renamed.get(name, name) for name in node.input]
    remove_unused(result)
    return result


def strip_text(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without documentation, metadata and the shapes of intermediate tensors."""
    result = _copy(model)
    for field in ("doc_string", "metadata_props", "producer_name", "producer_version"):
        result.ClearField(field)
    for graph, nodes in _scopes(result.graph):
        for field in ("doc_string", "metadata_props", "value_info"):
            graph.ClearField(field)
        for item in (*nodes, *graph.initializer, *graph.input, *graph.output):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
    return result


def drop_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the attributes of Conv whose value is what a missing one means."""
    from onnx import helper

    defaults = {"group": 1, "dilations": [1, 1], "strides": [1, 1], "pads": [0, 0, 0, 0]}
    result = _copy(model)
    for _, nodes in _scopes(result.graph):
        for node in nodes:
            if node.op_type != "Conv":
                continue
            for attribute in list(node.attribute):
                if helper.get_attribute_value(attribute) == defaults.get(attribute.name):
                    node.attribute.remove(attribute)
    return result


def shorten_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with short names of tensors and none of nodes.

    The graph's inputs and outputs keep their names. The codes of a weight are called after the
    convolution that reads them, as ``stages/0/mamba/in_proj/0``. Every other tensor gets a few
    letters.
    """
    result = _copy(model)
    graph = result.graph
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    for tensor, convolution in _convolution_of_weights(graph).items():
        if tensor not in names and convolution not in names.values():
            names[tensor] = convolution
    taken = set(names.values())
    letters = (name for name in _letters() if name not in taken)

    def renamed(name: str) -> str:
        # an optional input that is left out has no name
        if name and name not in names:
            names[name] = next(letters)
        return names.get(name, "")

    for scope, nodes in _scopes(graph):
        for value in (*scope.input, *scope.initializer, *scope.output):
            value.name = renamed(value.name)
        for node in nodes:
            node.ClearField("name")
            node.input[:] = [renamed(name) for name in node.input]
            node.output[:] = [renamed(name) for name in node.output]
    return result


def _convolution_of_weights(graph: onnx.GraphProto) -> dict[str, str]:
    """Return a name for the tensor of codes of each weight, after the convolution's node."""
    producers = {name: node for node in graph.node for name in node.output}
    found: dict[str, str] = {}
    for node in graph.node:
        dequantize = producers.get(node.input[1]) if node.op_type == "Conv" else None
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            # torch names a module's node MODULE/conv/Conv
            name = node.name.strip("/").removesuffix("/Conv").removesuffix("/conv")
            if name:
                found.setdefault(dequantize.input[0], name)
    return found


def _letters() -> Iterator[str]:
    """Yield a, b, ..., then names of two characters, and so on."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            yield "".join(letters)


def _scopes(
    graph: onnx.GraphProto,
) -> Iterator[tuple[onnx.GraphProto, list[onnx.NodeProto]]]:
    """Yield a graph and the body of every Scan, Loop and If in it, each with its nodes."""
    nodes = list(graph.node)
    yield graph, nodes
    for node in nodes:
        for attribute in node.attribute:
            bodies = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
            for body in bodies:
                yield from _scopes(body)


def bytes_by_purpose(model: onnx.ModelProto) -> dict[str, int]:
    """Return what the bytes of a model's file are for; they sum up to the file's size.

    ``weights`` are the codes as stored, ``scales`` the weights' scales, ``biases`` those of the
    convolutions, ``scans`` the other float constants (A and D of the scans, scales of
    activations), ``integers`` shapes and the like, ``graph`` the nodes, names and everything else.
    """
    from onnx import TensorProto, numpy_helper

    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    purposes: dict[str, str] = {}
    for node in model.graph.node:
        if is_unpack(node):
            purposes[node.input[0]] = "weights"
            continue
        unpacked = producers.get(node.input[0]) if node.input else None
        if node.op_type == "DequantizeLinear" and (
            node.input[0] in constants or (unpacked is not None and is_unpack(unpacked))
        ):
            purposes[node.input[0]] = "weights"
            purposes.setdefault(node.input[1], "scales")
        if node.op_type == "Conv" and len(node.input) > 2:
            purposes.setdefault(node.input[2], "biases")
    totals = dict.fromkeys(("weights", "scales", "biases", "scans", "integers"), 0)
    for name, tensor in constants.items():
        other = "scans" if tensor.data_type == TensorProto.FLOAT else "integers"
        totals[purposes.get(name, other)] += numpy_helper.to_array(tensor).nbytes
    return totals | {"graph": model.ByteSize() - sum(totals.values())}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


PASSES: tuple[Pass, ...] = (
    drop_unread_nodes,
    drop_weight_zero_points,
    share_constants,
    strip_text,
    drop_defaults,
    shorten_names,
)
