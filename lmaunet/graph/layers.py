"""What a graph's layers cost: parameters, multiply-accumulates and output shapes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from lmaunet.graph.base_operator import Shape
from lmaunet.graph.graph import Graph, Node
from lmaunet.graph.operators import Conv, Scan, TransposedConv


@dataclass(frozen=True)
class GraphLayer:
    """One layer that has weights.

    Args:
        name: that of its weights; of a scan, that of its node.
        operator: that of its nodes.
        params: numbers that are learned.
        weights: of a convolution those without its bias; 0 for other operators.
        kernel: of a convolution ``(*spatial)``; empty for other operators.
        groups: of a convolution; 1 for other operators.
        macs: multiply-accumulates for one image, those of every node that uses the weights.
        shape: of the output for one image.
    """

    name: str
    operator: str
    params: int
    weights: int
    kernel: Shape
    groups: int
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
        weights, groups = 0, 1
        kernel: Shape = ()
        if isinstance(node.operator, Conv | TransposedConv):
            name = node.weights["weight"]
            shape = graph.weights[name].shape
            weights = math.prod(shape) if name in mine else 0
            kernel, groups = shape[2:], node.operator.groups
        made = GraphLayer(
            *key, params, weights, kernel, groups, macs_of(graph, node), graph.shape(node.name)
        )
        known[key] = _both(known[key], made) if key in known else made
    return list(known.values())


def _both(first: GraphLayer, other: GraphLayer) -> GraphLayer:
    return replace(
        first,
        params=first.params + other.params,
        weights=first.weights + other.weights,
        macs=first.macs + other.macs,
    )


def weight_layers(graph: Graph) -> list[GraphLayer]:
    """Return the layers whose weights can be quantized: the convolutions and linear maps."""
    return [layer for layer in layers(graph) if layer.weights]


def layer_name(node: Node) -> str:
    """Return the name of a node's layer: that of its weight, or of the node for a scan."""
    if isinstance(node.operator, Scan):
        return node.name
    first = next(iter(node.weights.values()))
    whole = re.sub(r"(#\d+|\[\d+:\d+\])+$", "", first)
    return re.sub(r"\.(weight|bias)$", "", whole)


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
