"""Take out of an ONNX file what computing does not need; no output changes by a bit.

The names that an exporter writes take 0.2 MB in a network of 11 million parameters, as many bytes
as 600,000 weights of 3 bits.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateInitializersPass

from lmaunet.cpu.normed_convolutions import NORMED_CONV, WEIGHT
from lmaunet.cpu.packing import is_unpack
from lmaunet.export.passes import DeadNodes, Pass, array_of, label, read, run

DEFAULTS = {"group": 1, "dilations": (1, 1), "strides": (1, 1), "pads": (0, 0, 0, 0)}
"""What an attribute of a Conv is where it is missing."""


class WeightZeroPoints(Pass):
    """Drop the zero points of weights that are zeros; one that lacks counts as 0.

    A weight is a constant, or a packed constant, under a DequantizeLinear of the main graph. The
    zero points of activations stay.
    """

    name = "elimination of weights' zero points"

    def rewrite(self, model: ir.Model) -> int:
        """Drop them."""
        found = list(_zero_points_of_zero(model.graph))
        for node in found:
            node.resize_inputs(2)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        for node in _zero_points_of_zero(model.graph):
            yield f"the weight of {label(node)} has a zero point of zeros"


def _zero_points_of_zero(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
            continue
        source, zero = node.inputs[0], node.inputs[2]
        packed = source.producer() is not None and is_unpack(source.producer())
        stored = (packed or source.is_initializer()) and zero.is_initializer()
        if stored and not array_of(zero).any():
            yield node


class SharedConstants(Pass):
    """Store each constant of a graph once.

    Constants are equal when type, dimensions and bytes are. Inputs of the graph (which a caller may
    replace) and outputs keep a constant of their own.
    """

    name = "sharing of constants"

    def rewrite(self, model: ir.Model) -> int:
        """Share them by onnx-ir's own pass."""
        return int(DeduplicateInitializersPass(size_limit=2**63)(model).modified)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each constant that is stored again."""
        seen = set()
        for value in model.graph.initializers.values():
            tensor = value.const_value
            key = (tensor.dtype, tuple(tensor.shape), tensor.tobytes())
            if key in seen and not value.is_graph_input() and not value.is_graph_output():
                yield f"the constant {value.name!r} is stored twice"
            seen.add(key)


class Text(Pass):
    """Drop documentation, metadata and the shapes of intermediate tensors."""

    name = "elimination of text"

    def rewrite(self, model: ir.Model) -> int:
        """Drop them."""
        model.doc_string = model.producer_name = model.producer_version = None
        model.metadata_props.clear()
        for graph in model.graphs():
            graph.doc_string = None
            for value in _values(graph):
                value.doc_string = None
                value.metadata_props.clear()
                if not value.is_graph_input() and not value.is_graph_output():
                    value.type = value.shape = None
        return int(ClearMetadataAndDocStringPass()(model).modified)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield what still has documentation or metadata."""
        for thing in (model, *model.graphs(), *model.graph.all_nodes()):
            if thing.doc_string or thing.metadata_props:
                yield f"{thing.name if thing is not model else 'the model'!r} has text"


class Defaults(Pass):
    """Drop the attributes of Conv whose value is what a missing one means."""

    name = "elimination of default attributes"

    def rewrite(self, model: ir.Model) -> int:
        """Drop them."""
        found = list(_defaults(model.graph))
        for node, key in found:
            del node.attributes[key]
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        yield from (
            f"{key} of {label(node)} is the default" for node, key in _defaults(model.graph)
        )


def _defaults(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in graph.all_nodes():
        if node.op_type == "Conv":
            for key, attribute in node.attributes.items():
                if attribute.value == DEFAULTS.get(key):
                    yield node, key


class ShortNames(Pass):
    """Give tensors short names and nodes none.

    The graph's inputs and outputs keep their names. The codes of a weight are called after the
    convolution that reads them, as ``stages/0/mamba/in_proj/0``. Every other tensor gets a few
    letters.
    """

    name = "short names"

    def rewrite(self, model: ir.Model) -> int:
        """Rename them, in the order of the graph."""
        names = {value: value.name for value in (*model.graph.inputs, *model.graph.outputs)}
        for value, convolution in _convolution_of_weights(model.graph).items():
            if value not in names and convolution not in names.values():
                names[value] = convolution
        taken = set(names.values())
        letters = (name for name in _letters() if name not in taken)
        for value in dict.fromkeys(v for graph in model.graphs() for v in _values(graph)):
            # an optional output that is left out has no name
            if value.name and value not in names:
                names[value] = next(letters)
        ordered = [v for graph in model.graphs() for v in _values(graph) if v in names]
        ir.convenience.rename_values(ordered, [names[value] for value in ordered])
        for node in model.graph.all_nodes():
            node.name = ""
        return len(names)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each node that has a name."""
        yield from (f"{label(n)} has a name" for n in model.graph.all_nodes() if n.name)


def _convolution_of_weights(graph: ir.Graph) -> dict[ir.Value, str]:
    """Return a name for the tensor of codes of each weight, after the convolution's node."""
    found: dict[ir.Value, str] = {}
    for node in graph:
        codes = node.inputs[WEIGHT] if node.op_type == NORMED_CONV else None
        dequantize = node.inputs[1].producer() if node.op_type == "Conv" else None
        if dequantize is not None and dequantize.op_type == "DequantizeLinear":
            codes = dequantize.inputs[0]
        # torch names a module's node MODULE/conv/Conv
        name = (node.name or "").strip("/").removesuffix("/Conv").removesuffix("/conv")
        if name and codes is not None:
            found.setdefault(codes, name)
    return found


def _letters() -> Iterator[str]:
    """Yield a, b, ..., then names of two characters, and so on."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            yield "".join(letters)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield each tensor of a graph but those of bodies in it, as its file names them first."""
    seen = [*graph.inputs, *graph.initializers.values(), *graph.outputs]
    for node in graph:
        seen += [value for value in (*node.inputs, *node.outputs) if value is not None]
    yield from dict.fromkeys(seen)


PASSES = (
    WeightZeroPoints(),
    DeadNodes(),
    SharedConstants(),
    Text(),
    Defaults(),
    ShortNames(),
)
"""Names go last: what a pass before it adds is renamed too. Whoever compares tensors by their names
does it on the model as it was."""


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after each of :data:`PASSES`."""
    return run(PASSES, model)


def bytes_by_purpose(model: onnx.ModelProto) -> dict[str, int]:
    """Return what the bytes of a model's file are for; they sum up to the file's size.

    ``weights`` are the codes as stored, ``scales`` the weights' scales, ``biases`` those of the
    convolutions, ``scans`` the other float constants (A and D of the scans, scales of
    activations), ``integers`` shapes and the like, ``graph`` the nodes, names and everything else.
    """
    graph = read(model).graph
    purposes: dict[ir.Value, str] = {}
    for node in graph:
        if is_unpack(node):
            purposes[node.inputs[0]] = "weights"
        elif node.op_type == "DequantizeLinear":
            source = node.inputs[0].producer()
            if source is None or is_unpack(source):
                purposes[node.inputs[0]] = "weights"
                purposes.setdefault(node.inputs[1], "scales")
        elif node.op_type == NORMED_CONV:
            purposes[node.inputs[WEIGHT]] = "weights"
            purposes.setdefault(node.inputs[WEIGHT + 1], "scales")
        elif node.op_type == "Conv" and len(node.inputs) > 2:
            purposes.setdefault(node.inputs[2], "biases")
    totals = dict.fromkeys(("weights", "scales", "biases", "scans", "integers"), 0)
    for value in graph.initializers.values():
        other = "scans" if value.const_value.dtype == ir.DataType.FLOAT else "integers"
        totals[purposes.get(value, other)] += value.const_value.numpy().nbytes
    return totals | {"graph": model.ByteSize() - sum(totals.values())}
