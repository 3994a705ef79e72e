"""Rewrites of a graph and its weights into others that compute the same.

A quantized network is made of a graph in the form that integer kernels take: norms in the
convolutions before them, one convolution for each part of a result that is taken apart, and no
value with one spatial axis. A weight that changes keeps its name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lmaunet.graph import operators as op
from lmaunet.graph import relayouts as move
from lmaunet.graph import resampling as grid
from lmaunet.graph.base_operator import Operator
from lmaunet.graph.graph import Array, Graph, Node, Weight, Weights
from lmaunet.graph.layouts import Layout

Network = tuple[Graph, dict[str, Array]]
"""A graph and its weights by name."""

STATISTICS = ("mean", "variance")
"""The weights of a batch normalization that are not learned, by role."""


def norm_of(graph: Graph, conv: Node) -> Node | None:
    """Return the batch normalization that alone takes what a convolution gives; None without."""
    users = graph.users(conv.name)
    if not isinstance(conv.operator, op.Conv) or len(users) != 1 or conv.name in graph.outputs:
        return None
    operator = users[0].operator
    return users[0] if isinstance(operator, op.Norm) and operator.kind == "batch" else None


def batch_factor(role: Mapping[str, Array], epsilon: float) -> tuple[Array, Array]:
    """Return ``scale / sqrt(variance + epsilon)`` and the shift, ``(C,)`` each, of a norm."""
    ones = np.ones_like(role["mean"])
    factor = role.get("scale", ones) / np.sqrt(role["variance"] + np.float32(epsilon))
    return factor, role.get("shift", np.zeros_like(ones))


def fold_norms(graph: Graph, weights: Weights) -> Network:
    """Fold each batch normalization into the convolution whose result it alone takes.

    ``w' = w * g / sqrt(var + eps)``, ``b' = (b - mean) * g / sqrt(var + eps) + shift``, after
    Jacob et al., arXiv 1712.05877, section 3.2. What a norm gave, its convolution gives.
    """
    new = Rewrite(graph)
    for node in graph.nodes:
        norm = norm_of(graph, node)
        arrays = {role: weights[name] for role, name in node.weights.items()}
        if node.name in new.renamed:
            continue
        if norm is not None:
            assert isinstance(norm.operator, op.Norm)
            role = {key: weights[name] for key, name in norm.weights.items()}
            factor, shift = batch_factor(role, norm.operator.epsilon)
            bias = arrays.get("bias", np.float32(0))
            arrays["bias"] = (bias - role["mean"]) * factor + shift
            arrays["weight"] = arrays["weight"] * _along_first(factor, arrays["weight"].ndim)
            new.renamed[norm.name] = node.name
        new.add(node, arrays, variant=tuple(norm.weights.values()) if norm else ())
    return new.network()


def split_by_slices(graph: Graph, weights: Weights) -> Network:
    """Give each part of a convolution's channels that is taken by itself a convolution of its own.

    So each part has a scale of its own where it is rounded. Mamba's ``in_proj`` and ``x_proj`` are
    such. A convolution stays whole where anything takes it whole, or where parts overlap.
    """
    new = Rewrite(graph)
    for node in graph.nodes:
        arrays = {role: weights[name] for role, name in node.weights.items()}
        if node.name in new.renamed:
            continue
        parts = _parts(graph, node)
        for number, (start, stop, part) in enumerate(parts):
            names = {role: f"{name}[{start}:{stop}]" for role, name in node.weights.items()}
            cut = {role: array[start:stop] for role, array in arrays.items()}
            made = replace(node, name=f"{node.name}.{number}", weights=names, layout=part.layout)
            new.add(made, cut)
            new.renamed[part.name] = made.name
        if not parts:
            new.add(node, arrays)
    return new.network()


def _parts(graph: Graph, node: Node) -> list[tuple[int, int, Node]]:
    """Return start, stop and node of the slices that take a convolution apart; none if whole."""
    users = graph.users(node.name)
    whole = not isinstance(node.operator, op.Conv) or node.operator.groups != 1
    if whole or node.name in graph.outputs:
        return []
    parts = []
    for user in users:
        cut = user.operator
        if not isinstance(cut, move.Slice) or cut.axis != 1 or cut.step != 1:
            return []
        parts.append((cut.start, cut.stop, user))
    parts.sort(key=lambda part: part[0])
    apart = all(left[1] <= right[0] for left, right in itertools.pairwise(parts))
    taken = {f"{node.name}.{number}" for number in range(len(parts))}
    return parts if apart and not taken & {other.name for other in graph.nodes} else []


def as_maps(graph: Graph, weights: Weights) -> Network:
    """Write each value ``(N, C, L)`` as a map ``(N, C, 1, L)``, and what works on it likewise.

    Integer kernels are for convolutions with two spatial axes. Inputs and values of other ranks
    stay.
    """
    new = Rewrite(graph)
    for node in graph.nodes:
        arrays = {role: weights[name] for role, name in node.weights.items()}
        operator = node.operator
        thin = all(len(graph.layout(value)) == 3 for value in node.inputs)
        if isinstance(operator, move.Reshape):
            operator = replace(operator, layout=_widened(operator.layout))
        elif thin:
            operator = _WIDEN.get(type(operator), _same)(operator)
            arrays = {role: _widened_weight(node.operator, v) for role, v in arrays.items()}
        made = replace(node, operator=operator, layout=_widened(node.layout))
        new.add(made, arrays, variant=thin)
    return new.network()


def _widened(layout: Layout) -> Layout:
    return (*layout[:2], (), layout[2]) if len(layout) == 3 else layout


def _widened_weight(operator: Operator, array: Array) -> Array:
    """Return a weight for maps; one of an affine is aligned with the value's last axes."""
    if isinstance(operator, op.Conv | op.TransposedConv) and array.ndim == 3:
        return array[:, :, None]
    if isinstance(operator, op.Affine) and array.ndim > 1:
        return np.expand_dims(array, -2)
    return array


def _same(operator: Any) -> Operator:
    return operator  # type: ignore[no-any-return]


def _axis(axis: int) -> int:
    """Return the place of an axis of ``(N, C, L)`` in ``(N, C, 1, L)``."""
    return axis if axis < 2 else axis + 1


def _two(**ones: Any) -> Callable[[Any], Operator]:
    """Return what puts a number for the new axis before the one of each attribute."""

    def widen(operator: Any) -> Operator:
        return replace(
            operator, **{key: (one, *getattr(operator, key)) for key, one in ones.items()}
        )

    return widen


_WIDEN: Mapping[type[Operator], Callable[[Any], Operator]] = {
    op.Conv: _two(stride=1, padding=(0, 0), dilation=1),
    op.TransposedConv: _two(stride=1, padding=0, output_padding=0, dilation=1),
    grid.Pool: _two(kernel=1, stride=1, padding=0),
    grid.Upsample: _two(size=1),
    move.PixelShuffle: _two(factors=1),
    op.Concat: lambda o: replace(o, axis=_axis(o.axis)),
    move.Slice: lambda o: replace(o, axis=_axis(o.axis)),
    move.Flip: lambda o: replace(o, axes=tuple(_axis(axis) for axis in o.axes)),
    grid.Reduce: lambda o: replace(o, axes=tuple(_axis(axis) for axis in o.axes)),
    move.Permute: lambda o: replace(
        o, order=(*(_axis(axis) for axis in o.order[:2]), 2, _axis(o.order[2]))
    ),
}
"""How an operator on ``(N, C, L)`` becomes one on ``(N, C, 1, L)``; the others stay as they are."""


def _along_first(values: Array, rank: int) -> Array:
    return values.reshape(-1, *[1] * (rank - 1))


def _beside(weight: str, role: str) -> str:
    """Return the name of another weight of the layer that a weight belongs to."""
    return f"{weight.removesuffix('.weight')}.{role}"


class Rewrite:
    """A graph that is written anew. ``renamed`` has the new name of each value that is gone."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.renamed: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.arrays: dict[str, Array] = {}
        self.learned: dict[str, bool] = {}
        self.variants: dict[str, Hashable] = {}

    def add(self, node: Node, arrays: Mapping[str, Array], variant: Hashable = None) -> None:
        """Add a node with its weights by role.

        A weight that several nodes take has one name, and another for each further variant of it.
        """
        names = {}
        for role, array in arrays.items():
            name = node.weights.get(role) or _beside(node.weights["weight"], role)
            learned = role not in STATISTICS
            names[role] = self._weight(name, np.asarray(array, np.float32), variant, learned)
        inputs = tuple(self.renamed.get(value, value) for value in node.inputs)
        self.nodes.append(replace(node, inputs=inputs, weights=names))

    def _weight(self, name: str, array: Array, variant: Hashable, learned: bool) -> str:
        number, unique = 1, name
        while self.variants.setdefault(unique, variant) != variant:
            number += 1
            unique = f"{name}#{number}"
        before = self.graph.weights.get(name)
        self.arrays[unique], self.learned[unique] = array, before.learned if before else learned
        return unique

    def network(self, sizes: Mapping[str, int] | None = None) -> Network:
        """Return the graph and its weights; ``sizes`` of its symbols, where there are new ones."""
        weights = {n: Weight(a.shape, self.learned[n]) for n, a in self.arrays.items()}
        outputs = tuple(self.renamed.get(value, value) for value in self.graph.outputs)
        graph = replace(
            self.graph, sizes=sizes or self.graph.sizes, nodes=tuple(self.nodes), outputs=outputs,
            weights=weights,
        )  # fmt: skip
        return graph, self.arrays


def rewritten(
    graph: Graph, weights: Weights, rewrites: Iterable[Callable[[Graph, Weights], Network]]
) -> Network:
    """Return a network after several rewrites, one after the other."""
    arrays = dict(weights)
    for rewrite in rewrites:
        graph, arrays = rewrite(graph, arrays)
    return graph, arrays
