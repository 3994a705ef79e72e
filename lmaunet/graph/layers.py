"""What a graph's layers cost: parameters, multiply-accumulates and output shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmaunet.graph.base_operator import Shape
from lmaunet.graph.graph import Graph, Node
from lmaunet.graph.operators import Conv, Scan, TransposedConv


@dataclass(frozen=True)
class GraphLayer:
    """One layer that has weights.

    ``name`` is that of its weights, ``operator`` that of its nodes; ``params`` counts what is
    learned. ``macs`` are multiply-accumulates for one image, those of every node that uses the
    weights. ``shape`` is that of the output for one image.
    """

    name: str
    operator: str
    params: int
    macs: int
    shape: Shape


def layers(graph: Graph) -> list[GraphLayer]:
    """Return the layers with weights, in the order in which they first run.

    Nodes that share a weight are one layer. A scan counts three multiply-accumulates for each
    channel, state and token, a convolution one for each weight and output position. A norm, an
    affine and what has no weights count none.
    """
    known: dict[tuple[str, str], GraphLayer] = {}
    counted: set[str] = set()
    for node in graph.nodes:
        if not node.weights:
            continue
        key = layer_name(node), node.operator.name
        mine = set(node.weights.values()) - counted
        counted |= mine
        params = sum(math.prod(graph.weights[w].shape) for w in mine if graph.weights[w].learned)
        macs, shape = macs_of(graph, node), graph.shape(node.name)
        if key in known:
            before = known[key]
            params, macs, shape = before.params + params, before.macs + macs, before.shape
        known[key] = GraphLayer(*key, params, macs, shape)
    return list(known.values())


def layer_name(node: Node) -> str:
    """Return the name of a node's layer: the path of its first weight, without the weight's own."""
    return next(iter(node.weights.values())).rpartition(".")[0] or node.name


def macs_of(graph: Graph, node: Node) -> int:
    """Return a node's multiply-accumulates for one image."""
    operator, shape = node.operator, graph.shape(node.name)
    if isinstance(operator, Scan):
        states = graph.weights[node.weights["rates"]].shape[1]
        return 3 * math.prod(shape) * states
    if isinstance(operator, Conv):
        weight = graph.weights[node.weights["weight"]].shape
        return math.prod(shape) * math.prod(weight[1:])
    if isinstance(operator, TransposedConv):  # each input element meets each of its weights
        weight = graph.weights[node.weights["weight"]].shape
        return math.prod(graph.shape(node.inputs[0])) * math.prod(weight[1:])
    return 0
