"""Where codes are moved, and how maps lie, between the convolutions of a CPU's file.

ONNX Runtime computes in codes only what stands between a DequantizeLinear and a QuantizeLinear,
and its integer convolutions want the channels last. Neither pass changes a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from lmaunet.export.convolutions import grid_of, same_quantizer
from lmaunet.export.lower import static_shapes
from lmaunet.export.passes import Pass, add_constant, label, new_node, replace, run

if TYPE_CHECKING:
    import onnx

QUANTIZABLE = frozenset({"Add", "Mul", "Concat", "MaxPool"})
UPSAMPLINGS = frozenset({"DepthToSpace", "Resize"})


def channels_last(axes: int) -> list[int]:
    """Return the order that brings the channels of so many axes behind the others."""
    return [0, *range(2, axes), 1]


def channels_first(axes: int) -> list[int]:
    """Return the order that takes :func:`channels_last` back."""
    return [0, axes - 1, *range(1, axes - 1)]


CHANNELS_LAST, CHANNELS_FIRST = channels_last(4), channels_first(4)
"""Of maps ``(B, C, H, W)``."""


class MoveQuantizers(Pass):
    """Put a quantizer behind each Resize or DepthToSpace that an Add or the like reads.

    A Resize that takes the nearest value, between a DequantizeLinear and such an operator, would
    move floats. With a QuantizeLinear and DequantizeLinear of the same scale behind it, it moves
    codes, and the Add behind it adds codes. So does a DepthToSpace. The model is one after
    :func:`lmaunet.export.convolutions.preparation`.
    """

    name = "quantizers at upsamplings"

    def rewrite(self, model: ir.Model) -> int:
        """Add them."""
        found = list(_moved_floats(model.graph))
        for resize, uses in found:
            output = resize.outputs[0]
            names = f"{output.name}/codes", f"{output.name}/values"
            added = same_quantizer(output, *names, resize.name)
            model.graph.insert_after(resize, added)
            for use in uses:
                use.node.replace_input_with(use.idx, added[-1].outputs[0])
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each Resize and DepthToSpace that still has none."""
        for resize, _ in _moved_floats(model.graph):
            yield f"no quantizer stands behind {label(resize)}"


def _moved_floats(graph: ir.Graph) -> Iterator[tuple[ir.Node, list[ir.Usage]]]:
    """Yield what moves values on a grid that an Add or the like reads, and these readings."""
    for node in graph:
        if node.op_type in UPSAMPLINGS and grid_of(node.outputs[0]) is not None:
            uses = [u for u in node.outputs[0].uses() if u.node.op_type in QUANTIZABLE]
            if uses:
                yield node, uses


class ChannelsLast(Pass):
    """Make maps become tokens, and tokens maps, with the channels last.

    A Reshape of a map ``(B, C, H, W)`` to ``(B, C, H', W')`` keeps the order of the pixels. Between
    two Transposes it is one of ``(B, H, W, C)`` to ``(B, H', W', C)``, and a runtime cancels these
    Transposes against those around its convolutions; with the channels first it could not. A map of
    voxels has an axis more on its side.
    """

    name = "channels-last reshapes"

    def rewrite(self, model: ir.Model) -> int:
        """Put Transposes around them."""
        graph, shapes = model.graph, static_shapes(ir.to_proto(model))
        found = list(_channels_first(graph, shapes))
        for node in found:
            output = node.outputs[0]
            before, after = shapes[node.inputs[0].name], shapes[output.name]
            shape = add_constant(
                graph, f"{output.name}/channels_last_shape",
                np.array([after[0], *after[2:], after[1]], np.int64),
            )  # fmt: skip
            last = new_node(
                "Transpose", [node.inputs[0]], f"{output.name}/channels_last",
                name=f"{node.name}/last", perm=channels_last(len(before)),
            )  # fmt: skip
            reshaped = new_node(
                "Reshape", [last.outputs[0], shape], f"{output.name}/reshaped",
                name=f"{node.name}/reshape",
            )  # fmt: skip
            first = new_node(
                "Transpose", [reshaped.outputs[0]], f"{output.name}/channels_first",
                name=f"{node.name}/first", perm=channels_first(len(after)),
            )  # fmt: skip
            graph.insert_before(node, [last, reshaped, first])
            replace(output, first.outputs[0])
        return len(found)

    def violations(self, model: ir.Model) -> Iterator[str]:
        """Yield each map that still becomes tokens with the channels first."""
        for node in _channels_first(model.graph, static_shapes(ir.to_proto(model))):
            yield f"{label(node)} has the channels first"


def _channels_first(graph: ir.Graph, shapes: dict[str, tuple[int, ...]]) -> Iterator[ir.Node]:
    """Yield each Reshape of a map with the channels first that keeps batch and channels."""
    for node in graph:
        if node.op_type != "Reshape" or node.inputs[0] is None:
            continue
        before, after = (shapes.get(v.name, ()) for v in (node.inputs[0], node.outputs[0]))
        source = node.inputs[0].producer()
        if source is not None and order_of(source) == channels_last(len(before)):
            continue
        if {len(before), len(after)} <= {4, 5} and before[:2] == after[:2]:
            yield node


def order_of(node: ir.Node) -> list[int]:
    """Return the order that a Transpose brings axes into; empty for others, or where not given."""
    given = node.attributes.get("perm") if node.op_type == "Transpose" else None
    return list(given.as_ints()) if given is not None else []


def requantize_moves(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`MoveQuantizers`."""
    return run([MoveQuantizers()], model)


def channels_last_reshapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model after :class:`ChannelsLast`."""
    return run([ChannelsLast()], model)
