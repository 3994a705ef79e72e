"""Another range for one input of a concatenation, with the network's results unchanged.

Values that are concatenated share a scale when they are rounded, and a narrow one loses the most.
Where it comes from a linear map it can be made wider there, and the convolutions behind the
concatenation take the factor back: cross-layer equalization (Nagel et al., arXiv 1906.04721,
section 4.1) for a part of the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmaunet.graph import operators as op
from lmaunet.graph import relayouts as move
from lmaunet.graph import resampling as grid
from lmaunet.graph.graph import Array, Graph, Node, Weights

_HOMOGENEOUS = (
    move.Reshape, move.Permute, move.Flip, move.Slice, move.PixelShuffle, grid.Pool, grid.Upsample,
    grid.Reduce,
)  # fmt: skip
"""f(k x) = k f(x) for k > 0."""


@dataclass(frozen=True)
class Scalable:
    """What changes with the range of one input of a concatenation.

    ``made_by`` are the weights that are multiplied; ``taken_by`` those that are divided, in the
    input channels ``first`` to before ``last``.
    """

    made_by: tuple[str, ...]
    taken_by: tuple[str, ...]
    first: int
    last: int


def scalable(graph: Graph, join: Node, value: str) -> Scalable | None:
    """Return what to change for another range of an input of a concatenation of channels.

    None where nothing linear makes it, something else takes it or shares those weights, or
    something other than convolutions takes the result.
    """
    if not isinstance(join.operator, op.Concat) or join.operator.axis != 1:
        return None
    made_by = _makers(graph, value)
    takers = graph.users(join.name)
    dense = all(isinstance(t.operator, op.Conv) and t.operator.groups == 1 for t in takers)
    taken_by = tuple(dict.fromkeys(taker.weights.get("weight", "") for taker in takers))
    uses = [name for node in graph.nodes for name in node.weights.values()]
    alone = all(uses.count(name) == 1 for name in (*made_by, *taken_by))
    once = join.inputs.count(value) == 1 and join.name not in graph.outputs
    if not made_by or not takers or not dense or not alone or not once:
        return None
    place = join.inputs.index(value)
    first = sum(graph.shape(other)[1] for other in join.inputs[:place])
    return Scalable(made_by, taken_by, first, first + graph.shape(value)[1])


def _makers(graph: Graph, value: str) -> tuple[str, ...]:
    """Return the weights of the linear operator that alone makes a value; none where none does."""
    nodes = {node.name: node for node in graph.nodes}
    while value in nodes and len(graph.users(value)) == 1 and value not in graph.outputs:
        node = nodes[value]
        operator = node.operator
        if isinstance(operator, op.Conv):
            return tuple(node.weights.values())
        if isinstance(operator, op.Norm):
            kept = "scale" in node.weights and "shift" in node.weights
            return (node.weights["scale"], node.weights["shift"]) if kept else ()
        passes = isinstance(operator, op.Activation) and "relu" in operator.function
        if not passes and not isinstance(operator, _HOMOGENEOUS):
            return ()
        value = node.inputs[0]
    return ()


def scaled(weights: Weights, change: Scalable, factor: float) -> dict[str, Array]:
    """Return the weights with which a value is ``factor`` times as wide, a power of two."""
    changed = dict(weights)
    for name in change.made_by:
        changed[name] = weights[name] * np.float32(factor)
    for name in change.taken_by:
        changed[name] = weights[name].copy()
        changed[name][:, change.first : change.last] /= np.float32(factor)
    return changed
