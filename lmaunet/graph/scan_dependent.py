"""Which layers a selective scan depends on: those that are kept at 8 bits where there is room.

A scan carries an error on from token to token. Scan-dependent are the layers that feed a scan at
its own resolution, back to a pool or an upsampling, and those that take its result, up to where it
is joined with another value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lmaunet.graph.graph import Graph, Node
from lmaunet.graph.layers import layer_name
from lmaunet.graph.operators import Add, Concat, Conv, Scan
from lmaunet.graph.resampling import Pool, Upsample


def scan_dependent_layers(graph: Graph) -> frozenset[str]:
    """Return the names of the convolutions that scans depend on."""
    nodes = {node.name: node for node in graph.nodes}
    scans = [node for node in graph.nodes if isinstance(node.operator, Scan)]

    def makers(node: Node) -> Iterable[Node]:
        made = [nodes[value] for value in node.inputs if value in nodes]
        return [maker for maker in made if not _changes_resolution(graph, maker)]

    def takers(node: Node) -> Iterable[Node]:
        users = graph.users(node.name)
        return [user for user in users if not isinstance(user.operator, Add | Concat)
                and not _changes_resolution(graph, user)]  # fmt: skip

    found = {*_reached(scans, makers), *_reached(scans, takers)}
    return frozenset(
        layer_name(nodes[name]) for name in found if isinstance(nodes[name].operator, Conv)
    )


def _changes_resolution(graph: Graph, node: Node) -> bool:
    operator = node.operator
    strided = isinstance(operator, Conv) and max(operator.stride) > 1
    return strided or isinstance(operator, Pool | Upsample)


def _reached(start: Iterable[Node], following: Callable[[Node], Iterable[Node]]) -> set[str]:
    """Return the names of the nodes that are reached, those at the start with them."""
    pending, seen = list(start), set()
    while pending:
        node = pending.pop()
        if node.name not in seen:
            seen.add(node.name)
            pending.extend(following(node))
    return seen
