"""Where a quantized network rounds, and which values share a scale: the rounding groups.

A value is rounded to integers once, where it is made, if anything that takes it needs integers.
What only moves elements, or picks the largest, leaves integers integers of the same scale. Values
that are added or concatenated share a scale, so that their integers can be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lmaunet.errors import UserError
from lmaunet.graph import operators as op
from lmaunet.graph import relayouts as move
from lmaunet.graph import resampling as grid
from lmaunet.graph.base_operator import Operator
from lmaunet.graph.graph import Graph, Node

_MOVES = (move.Reshape, move.Permute, move.Flip, move.Slice, move.PixelShuffle)
_LINEAR = (op.Conv, op.TransposedConv)
_IN_FLOAT = ("relu", "leaky_relu")
"""Functions that are done before the rounding: cheap in float, and the range is then known."""


@dataclass(frozen=True)
class Rounding:
    """The rounding groups of a graph.

    Args:
        groups: by value, the group whose scale its integers have; a value that is not in it is in
            float. A group is named after the first of its values that is rounded.
        rounded: the values that are rounded where they are made; the others of a group have
            integers because what they are made of has.
    """

    groups: Mapping[str, str]
    rounded: frozenset[str]

    def names(self) -> list[str]:
        """Return the groups in the order in which they first round."""
        return list(dict.fromkeys(self.groups.values()))


def keeps_integers(operator: Operator) -> bool:
    """Return whether what an operator gives are elements of its first input and no others."""
    if isinstance(operator, grid.Pool):
        return operator.kind == "max"
    if isinstance(operator, grid.Reduce):
        return operator.kind == "max"
    if isinstance(operator, grid.Upsample):
        return operator.mode == "nearest"
    return isinstance(operator, _MOVES)


def rounding_of(graph: Graph, separate: Collection[str] = ()) -> Rounding:
    """Return where a network rounds.

    Args:
        graph: the network.
        separate: additions and concatenations whose inputs keep scales of their own. A
            concatenation is then rounded once more to the scale of what it gives.

    Raises:
        UserError: where ``separate`` names anything else.
    """
    nodes = {node.name: node for node in graph.nodes}
    for name in separate:
        if name not in nodes or not isinstance(nodes[name].operator, op.Add | op.Concat):
            raise UserError(f"{name!r} joins no values; give an addition or a concatenation")
    needed = _needed(graph, nodes)
    first: dict[str, str] = {}  # the value that each one shares its scale with, or itself
    rounded = {value for value in graph.inputs if value in needed}
    first.update((value, value) for value in rounded)

    def root(value: str) -> str:
        while first[value] != value:
            value = first[value]
        return value

    order = {value: place for place, value in enumerate([*graph.inputs, *nodes])}

    def share(values: Collection[str]) -> str:
        roots = sorted({root(value) for value in values}, key=order.__getitem__)
        for other in roots[1:]:
            first[other] = roots[0]
        return roots[0]

    for node in graph.nodes:
        source = node.inputs[0]
        passes = keeps_integers(node.operator) or _function(node) == "relu"
        joined = isinstance(node.operator, op.Add | op.Concat) and node.name not in separate
        if joined:
            shared = share(node.inputs)
        if passes and source in first:
            first[node.name] = source
        elif isinstance(node.operator, op.Concat) and joined:
            first[node.name] = shared
        elif node.name in needed or isinstance(node.operator, op.Concat):
            first[node.name] = node.name
            rounded.add(node.name)
    return Rounding({value: root(value) for value in first}, frozenset(rounded))


def _needed(graph: Graph, nodes: Mapping[str, Node]) -> set[str]:
    """Return the values that something needs as integers."""
    needed: set[str] = set()
    for node in reversed(graph.nodes):
        if isinstance(node.operator, op.Scan):
            needed.add(node.name)  # so that a scan in integers has a scale to give
        if _needs(node, node.name in needed, nodes):
            needed.update(node.inputs)
    return needed


def _needs(node: Node, needed: bool, nodes: Mapping[str, Node]) -> bool:
    """Return whether a node needs integers, where what it gives is needed as integers or not."""
    operator = node.operator
    if keeps_integers(operator):
        return needed
    if isinstance(operator, op.Norm | op.Affine):
        return False
    if isinstance(operator, op.Activation):
        if operator.function == "leaky_relu":  # a convolution's result is rounded for its kernel
            return isinstance(_producer(node, nodes), _LINEAR)
        return operator.function not in _IN_FLOAT
    return True


def _producer(node: Node, nodes: Mapping[str, Node]) -> Operator | None:
    """Return the operator that made a node's first input, before it was moved."""
    while (source := nodes.get(node.inputs[0])) is not None:
        if not isinstance(source.operator, _MOVES):
            return source.operator
        node = source
    return None


def _function(node: Node) -> str:
    return node.operator.function if isinstance(node.operator, op.Activation) else ""
