"""Passes over ONNX: what one is, how a list of them is run, and those that every backend needs.

A pass is one of onnx-ir's: ``requires`` says what a model must be before it, ``call`` changes the
model in place, ``ensures`` says what it is afterwards. Each has a name that says what it does, noun
first. The lists of the backends are in :mod:`lmaunet.export.network`,
:mod:`lmaunet.cpu.cpu_file`, :mod:`lmaunet.cpu.openvino_file` and :mod:`lmaunet.trt.policy`.
Graphs of onnx-ir know producer and readers of each tensor, through the bodies of Scan, Loop and If
too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np


class Pass(ir.passes.InPlacePass):
    """One step from a model to another, in place."""

    name: ClassVar[str]
    """What it does, noun first: ``dead-node elimination``."""

    def rewrite(self, model: ir.Model) -> int:
        """Change a model and return in how many places."""
        raise NotImplementedError

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield what this pass should have left otherwise."""
        yield from ()

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change a model; onnx-ir's interface to :meth:`rewrite`."""
        return ir.passes.PassResult(model, modified=bool(self.rewrite(model)))

    def ensures(self, model: ir.Model) -> None:
        """Raise ``PostconditionError`` where the graph is broken or the pass left something."""
        for problem in (*malformations(model.graph), *self.violations(model)):
            raise ir.passes.PostconditionError(f"{self.name}: {problem}")


def run(passes: Sequence[Pass], model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after passes, one after the other, each checked.

    Raises:
        UserError: where the model has a tensor that nothing puts out, or as a pass says.
        onnx_ir.passes.PostconditionError: where a pass did not do what its name says.
    """
    result = read(model)
    for problem in malformations(result.graph):
        raise UserError(f"the model is not valid ONNX: {problem}; export the network again")
    for step in passes:
        try:
            step(result)
        except ir.passes.PreconditionError as error:
            raise error.__cause__ or error from None
    return ir.to_proto(result)


def read(model: onnx.ModelProto) -> ir.Model:
    """Return a model as onnx-ir's; what happens to it does not happen to the messages."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # a tensor of onnx-ir that is renamed renames the message under it
    result = ir.from_proto(copy)
    inside = (graph for function in result.functions.values() for graph in function.subgraphs())
    for graph in (*result.graphs(), *inside):
        for value in graph.initializers.values():
            if not value.is_graph_input() and not value.is_graph_output():
                value.type = value.shape = None  # it would be written beside the tensor
    return result


def malformations(graph: ir.Graph, outside: Iterable[ir.Value] = ()) -> Iterator[str]:
    """Yield what makes a graph or a body in it no valid one: its order or its names.

    Args:
        graph: the graph.
        outside: the tensors of the graphs around it.
    """
    known, names = set(outside), set()
    for value in dict.fromkeys((*graph.inputs, *graph.initializers.values())):
        known.add(value)
        names.add(value.name)
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in known:
                yield f"{label(node)} reads {value.name!r}, which nothing before it puts out"
        for body in bodies(node):
            yield from malformations(body, known)
        for value in node.outputs:
            if value.name and value.name in names:
                yield f"{label(node)} puts out {value.name!r}, as something before it does"
            known.add(value)
            names.add(value.name)
    for value in graph.outputs:
        if value not in known:
            yield f"nothing puts out the output {value.name!r}"


def label(node: ir.Node) -> str:
    """Return what a node is called in messages."""
    return f"{node.op_type} {node.name or node.outputs[0].name}"


def bodies(node: ir.Node) -> list[ir.Graph]:
    """Return the bodies of a Scan, Loop or If."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of an initializer or a Constant node, or what is identical to one."""
    node = value.producer() if value is not None else None
    if node is None:
        stored = value.const_value if value is not None else None
        return None if stored is None else stored.numpy()
    if node.op_type == "Constant" and "value" in node.attributes:
        return node.attributes["value"].as_tensor().numpy()
    return constant(node.inputs[0]) if node.op_type == "Identity" else None


def array_of(value: ir.Value) -> np.ndarray:
    """Return the array of a tensor; raises ``ValueError`` where it is no constant."""
    array = constant(value)
    if array is None:
        raise ValueError(f"{value.name!r} is no constant")
    return array


def evaluated(value: ir.Value) -> np.ndarray | None:
    """Return the array of a tensor that depends on constants alone; None where it does not."""
    array, node = constant(value), value.producer()
    if array is not None or node is None or bodies(node):
        return array
    inputs = {read.name: evaluated(read) for read in node.inputs if read is not None}
    if any(array is None for array in inputs.values()):
        return None
    results = evaluate(ir.to_proto(node), inputs)
    return dict(zip((output.name for output in node.outputs), results, strict=True))[value.name]


def evaluate(node: Any, inputs: dict[str, Any]) -> list[np.ndarray]:
    """Return the outputs of a node from its inputs, by name, with ONNX's own definitions."""
    import numpy as np
    from onnx.reference import ReferenceEvaluator

    given = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None
        )
        for name, array in inputs.items()
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = onnx.helper.make_graph([node], "constant", given, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, inputs)]


def add_constant(graph: ir.Graph, name: str, array: np.ndarray | ir.TensorProtocol) -> ir.Value:
    """Return a new initializer of a graph, or the one of that name that it has."""
    if name not in graph.initializers:
        stored = ir.tensor(array, name=name)
        graph.register_initializer(ir.Value(name=name, const_value=stored))
    return graph.initializers[name]


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    outputs: str | Sequence[str],
    /,
    name: str = "",
    domain: str = "",
    **attributes: Any,
) -> ir.Node:
    """Return a node that belongs to no graph yet; its outputs are new tensors of these names."""
    names = [outputs] if isinstance(outputs, str) else outputs
    return ir.node(
        op_type, inputs, {key: attributes[key] for key in sorted(attributes)}, domain=domain,
        outputs=[ir.Value(name=output) for output in names], name=name,
    )  # fmt: skip


def replace(old: ir.Value, new: ir.Value) -> None:
    """Put a tensor in another's place, name, type and shape included, and drop its node."""
    node = old.producer()
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if node is not None and node.graph is not None:
        node.graph.remove(node, safe=True)
    new.name = old.name


class DeadNodes(Pass):
    """Drop the nodes and constants that no output depends on.

    ONNX Runtime computes such nodes, and they keep it from fusing what is around them.
    """

    name = "dead-node elimination"

    def rewrite(self, model: ir.Model) -> int:
        """Drop them by onnx-ir's own pass."""
        return int(RemoveUnusedNodesPass()(model).modified)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each node and constant that is read by nothing."""
        for node in model.graph:
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                yield f"nothing reads what {label(node)} puts out"
        yield from UnreadConstants().violations(model)


class UnreadConstants(Pass):
    """Drop the constants that no node reads, and keep nodes whatever reads them."""

    name = "unread-constant elimination"

    def rewrite(self, model: ir.Model) -> int:
        """Drop them."""
        unread = list(_unread(model.graph))
        for value in unread:
            del model.graph.initializers[value.name]
        return len(unread)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each that is left."""
        yield from (f"nothing reads the constant {v.name!r}" for v in _unread(model.graph))


def _unread(graph: ir.Graph) -> Iterator[ir.Value]:
    for value in graph.initializers.values():
        if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
            yield value


class NodeNames(Pass):
    """Give each node of the main graph a name of its own."""

    name = "node naming"

    def rewrite(self, model: ir.Model) -> int:
        """Name the nodes that have none after their first output, and number equal names."""
        taken: set[str] = set()
        for node in model.graph:
            base = node.name or f"{node.op_type}_{next(o.name for o in node.outputs if o.name)}"
            name, count = base, 1
            while name in taken:
                count += 1
                name = f"{base}_{count}"
            node.name = name
            taken.add(name)
        return len(taken)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each name that is empty or given twice."""
        taken: set[str] = set()
        for node in model.graph:
            if not node.name or node.name in taken:
                yield f"{label(node)} has no name of its own"
            taken.add(node.name)
