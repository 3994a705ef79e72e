"""Where the elements of a graph's values are in the streams in which hardware puts them out.

What the lowering finds out of a file with integer arrays (``Value.layout``) is found here of a
float network's graph: an operator puts its map out pixel by pixel with the channels innermost, and
a reshape or a transposition moves nothing.
"""

from __future__ import annotations

import numpy as np

from lmaunet.graph import operators as op
from lmaunet.graph import relayouts as move
from lmaunet.graph.graph import Graph
from lmaunet.graph.layouts import shape_of

_KEEPS = (op.Activation, op.Add, op.Mul, op.Affine, op.Norm)
"""What puts its elements out in the order in which they come."""


class Places:
    """The places of a graph's values, each found when it is asked for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._nodes = {node.name: node for node in graph.nodes}
        self._found: dict[str, np.ndarray] = {}
        self._moved = {
            node.name
            for node in graph.nodes
            if isinstance(node.operator, move.Reshape | move.Permute)
        }
        for node in graph.nodes:
            if isinstance(node.operator, _KEEPS) and node.inputs[0] in self._moved:
                self._moved.add(node.name)

    def of(self, value: str) -> np.ndarray:
        """Return the place in its stream of each element of a value, in the value's shape."""
        shape = self.graph.shape(value)
        if value not in self._moved:
            return map_places(shape)
        if value not in self._found:
            node = self._nodes[value]
            places = self.of(node.inputs[0])
            if isinstance(node.operator, move.Permute):
                places = places.transpose(node.operator.order)
            elif isinstance(node.operator, move.Reshape):
                places = places.reshape(shape_of(node.operator.layout, self.graph.sizes))
            self._found[value] = places
        return self._found[value]

    def in_order(self, value: str) -> bool:
        """Return whether a value's positions come in raster order, the channels innermost."""
        if value not in self._moved:
            return True
        return np.array_equal(self.of(value), map_places(self.graph.shape(value)))


def map_places(shape: tuple[int, ...]) -> np.ndarray:
    """Return the places of a map ``(1, C, *spatial)`` that is streamed position by position."""
    _, channels, *spatial = shape
    places = np.arange(np.prod(shape), dtype=np.int64).reshape(1, *spatial, channels)
    return np.moveaxis(places, -1, 1)
