"""Replace the selective scans of an ONNX model by one of their lowerings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx_ir as ir

from lmaunet.errors import UserError
from lmaunet.export.function import (
    DOMAIN,
    DOMAIN_VERSION,
    INPUTS,
    NAME,
    is_scan,
    node_name,
    scan_nodes,
)
from lmaunet.export.lowerings import (
    Builder,
    Lowering,
    Missing,
    ScanInputs,
    ScanSite,
    all_lowerings,
    executable_lowerings,
    get_lowering,
)
from lmaunet.export.model_messages import all_nodes
from lmaunet.export.passes import Pass, replace, run

if TYPE_CHECKING:
    import onnx

__all__ = [
    "LOWERINGS_IN_ONNX_RUNTIME",
    "Builder",
    "Lowering",
    "Missing",
    "ScanInputs",
    "ScanSite",
    "all_lowerings",
    "count_nodes",
    "executable_lowerings",
    "get_lowering",
    "lower",
    "sites",
]

# Operators outside the standard whose output is as large as their first input.
SAME_SHAPE = frozenset({"Quant", "IntQuant", "FloatQuant", "BipolarQuant", "Trunc"})

LOWERINGS_IN_ONNX_RUNTIME = executable_lowerings()

Shape = tuple[int | str, ...]


def count_nodes(model: onnx.ModelProto) -> int:
    """Count the nodes of a model's main graph, those of bodies included."""
    return sum(1 for _ in all_nodes(list(model.graph.node)))


def sites(model: onnx.ModelProto) -> list[ScanSite]:
    """Return the scans of a model with their sizes, in the order of the graph.

    Raises:
        UserError: where a size is not static, the shapes do not fit each other, A depends on the
            model's input, or a scan is malformed.
    """
    nodes = scan_nodes(model)
    if not nodes:
        return []
    shapes = _shapes(model)
    variable = _variable_tensors(model)
    found = []
    for node in nodes:
        if node.input[2] in variable:
            raise UserError(
                f"scan {node_name(node)}: its A, {node.input[2]!r}, depends on the model's input; "
                "expected a constant; export A as a parameter of the network"
            )
        found.append(_site(node, [shapes.get(name) for name in node.input]))
    return found


def _site(node: onnx.NodeProto, shapes: list[Shape | None]) -> ScanSite:
    name = node_name(node)
    got = ", ".join(
        f"{key} {'unknown' if shape is None else '(' + ', '.join(map(str, shape)) + ')'}"
        for key, shape in zip(INPUTS, shapes, strict=True)
    )
    if any(shape is None or not all(isinstance(v, int) for v in shape) for shape in shapes):
        raise UserError(
            f"scan {name}: the shapes are not static: {got}; expected numbers everywhere; "
            "export the network for a fixed batch and image size"
        )
    x, _, A, *_ = shapes
    assert x is not None and A is not None
    sizes = [v for v in (*x, *A[1:]) if isinstance(v, int)]
    if len(x) == 3 and len(A) == 2 and min(sizes) > 0:
        batch, tokens, channels, states = sizes
        expected: list[Shape] = [
            x, x, (channels, states), (batch, tokens, states), (batch, tokens, states), (channels,),
        ]  # fmt: skip
        if shapes == expected:
            return ScanSite(name, batch, tokens, channels, states)
    raise UserError(
        f"scan {name}: the shapes do not fit each other: {got}; expected x and dt (batch, L, "
        "channels), A (channels, states), B and C (batch, L, states), D (channels); "
        "export the network again"
    )


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shape of each tensor that ONNX shape inference finds.

    A scan and a Quant node put out what is as large as their first input, which the inference
    cannot see, so that an Identity stands for them.
    """
    import onnx
    import onnx.shape_inference

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.functions[:]
    for node in copy.graph.node:
        if is_scan(node) or (node.op_type in SAME_SHAPE and node.domain not in ("", "ai.onnx")):
            del node.input[1:], node.attribute[:]
            node.op_type, node.domain = "Identity", ""
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes: dict[str, Shape] = {i.name: tuple(i.dims) for i in inferred.initializer}
    for info in (*inferred.input, *inferred.value_info, *inferred.output):
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            shapes.setdefault(
                info.name,
                tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims),
            )
    return shapes


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the main graph whose sizes are all known, by name."""
    return {
        name: tuple(size for size in shape if isinstance(size, int))
        for name, shape in _shapes(model).items()
        if all(isinstance(size, int) for size in shape)
    }


def _variable_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of the tensors that depend on the model's input."""
    constants = {i.name for i in model.graph.initializer}
    variable = {i.name for i in model.graph.input} - constants
    for node in model.graph.node:
        # a body may use tensors of the graph around it that are no inputs of its node
        if any(variable.intersection(inner.input) for inner in all_nodes([node])):
            variable.update(node.output)
    return variable


class ScanLowering(Pass):
    """Put a lowering in the place of each scan, and drop the function ``SelectiveScan``.

    All other nodes and constants stay as they are, byte for byte.

    Args:
        lowering: the name of a lowering; raises :class:`UserError` where it is unknown.
    """

    name = "scan lowering"

    def __init__(self, lowering: str) -> None:
        self.lowering = get_lowering(lowering)

    def rewrite(self, model: ir.Model) -> int:
        """Lower them; raises :class:`UserError` for a site that is refused."""
        graph = model.graph
        found = sites(ir.to_proto(model))
        refusals = [reason for site in found if (reason := self.lowering.accepts(site))]
        if refusals:
            raise UserError(refusals[0])
        model.functions.pop((DOMAIN, NAME, ""), None)
        taken = _names(graph)
        scans = [node for node in graph if is_scan(node)]
        for node, site in zip(scans, found, strict=True):
            builder = Builder(_free_prefix(site.name, taken))
            output = self.lowering.emit(builder, site, ScanInputs(*node.inputs))
            graph.insert_before(node, builder.nodes)
            for value in builder.constants:
                graph.register_initializer(value)
            replace(node.outputs[0], output)
        self._import_domain(model)
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each scan that is left and should not be."""
        if self.lowering.executable:
            yield from (f"scan {node.name} is left" for node in model.graph if is_scan(node))

    def _import_domain(self, model: ir.Model) -> None:
        """Import the scan's domain exactly where a node or a function of it is left."""
        users = (*model.graph.all_nodes(), *model.functions.values())
        model.opset_imports.pop(DOMAIN, None)
        if any(user.domain == DOMAIN for user in users):
            model.opset_imports[DOMAIN] = DOMAIN_VERSION


def lower(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy of a model in which a lowering stands for each of its scans.

    Args:
        model: a model with ``SelectiveScan`` nodes, with or without the function attached.
        name: the name of a lowering.

    Raises:
        UserError: where the lowering is unknown or refuses a site, or the model is one that
            :func:`sites` rejects.
    """
    return run([ScanLowering(name)], model)


def _names(graph: ir.Graph) -> set[str]:
    names = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph.all_nodes():
        names.update([node.name, *(value.name for value in node.outputs)])
    return names


def _free_prefix(name: str, taken: set[str]) -> str:
    """Return a prefix that begins no name of the model, and mark it as taken."""
    prefix = f"{name}/"
    while any(other.startswith(prefix) for other in taken):
        prefix = f"{prefix[:-1]}_/"
    taken.add(prefix)
    return prefix
