"""Makes a graph node by node, with relayouts that cancel each other left out.

Axes that are permuted stay so for as long as nothing needs another order: what works on each
element, slices and flips are done before the permutation. So Mamba's tokens ``(N, L, C)``, which
are the permuted pixels of a map, become the map again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from lmaunet.graph import layouts
from lmaunet.graph.base_operator import Operator, Shape, check_images
from lmaunet.graph.graph import Array, Graph, Node, Weight
from lmaunet.graph.layouts import BATCH, Layout, image_layout, shape_of
from lmaunet.graph.operators import Concat, Conv, Join
from lmaunet.graph.relayouts import Flip, Permute, Reshape, Slice


class Builder:
    """A graph that grows. Values are known by their names; ``images`` is the size of a batch.

    Two or more images tell their axis from one of size 1.
    """

    def __init__(self, images: int) -> None:
        self.sizes: dict[str, int] = {BATCH: images}
        self.inputs: dict[str, Layout] = {}
        self.nodes: dict[str, Node] = {}
        self.arrays: dict[str, Array] = {}
        self.learned: dict[str, bool] = {}
        self._made: dict[tuple[Operator, tuple[str, ...]], str] = {}

    def input(self, name: str, shape: Shape) -> str:
        """Add an input ``(images, C, *spatial)``."""
        layout = image_layout(len(shape) - 2)
        self.sizes.update((axis[0], size) for axis, size in zip(layout, shape, strict=True))
        self.inputs[name] = layout
        return name

    def weight(self, name: str, tensor: Tensor, learned: bool) -> str:
        """Add a weight and return its name; another with the same name gets a number."""
        array = tensor.detach().cpu().float().contiguous().numpy()
        number, unique = 1, name
        while unique in self.arrays and not (
            self.arrays[unique].shape == array.shape and np.array_equal(self.arrays[unique], array)
        ):
            number += 1
            unique = f"{name}#{number}"
        self.arrays[unique], self.learned[unique] = array, learned
        return unique

    def layout(self, value: str) -> Layout:
        """Return a value's layout."""
        return self.inputs[value] if value in self.inputs else self.nodes[value].layout

    def shape(self, value: str) -> Shape:
        """Return a value's shape for the number of images."""
        return shape_of(self.layout(value), self.sizes)

    def emit(
        self,
        name: str,
        operator: Operator,
        inputs: Sequence[str],
        weights: Mapping[str, str] | None = None,
        renewed: Sequence[int] = (),
    ) -> str:
        """Add a node and return its value's name, ``name`` or that with a number.

        The axes in ``renewed`` are new ones even where their size stays.
        """
        key = operator, tuple(inputs)
        if not weights and key in self._made:
            return self._made[key]
        check_images(operator, [self.layout(value) for value in inputs])
        shapes = [self.shape(value) for value in inputs]
        roles = {role: self.arrays[weight].shape for role, weight in (weights or {}).items()}
        shape = operator.infer(shapes, roles, self.sizes)
        layout = self._layout(operator, inputs, shape, renewed)
        number, unique = 1, name
        while unique in self.nodes or unique in self.inputs:
            number += 1
            unique = f"{name}#{number}"
        self.nodes[unique] = Node(unique, operator, tuple(inputs), weights or {}, layout)
        if not weights:
            self._made[key] = unique
        return unique

    def order(self, value: str) -> Shape | None:
        """Return the order of a permuted value, None for any other."""
        node = self.nodes.get(value)
        if node is None or not isinstance(node.operator, Permute):
            return None
        return node.operator.order

    def elementwise(self, name: str, operator: Operator, inputs: Sequence[str]) -> str:
        """Add a node that works on each element, before permutations that its inputs share."""
        orders = {self.order(value) for value in inputs}
        order = orders.pop() if len(orders) == 1 else None
        if order is None:
            return self.emit(name, operator, inputs)
        sources = [self.nodes[value].inputs[0] for value in inputs]
        return self.permute(name, self.emit(name, operator, sources), order)

    def concat(self, name: str, values: Sequence[str], axis: int) -> str:
        """Return the values one after the other, before a permutation that they share."""
        orders = {self.order(value) for value in values}
        order = orders.pop() if len(orders) == 1 else None
        if order is None:
            return self.emit(name, Concat(axis), values)
        sources = [self.nodes[value].inputs[0] for value in values]
        return self.permute(name, self.emit(name, Concat(order[axis]), sources), order)

    def permute(self, name: str, value: str, order: Sequence[int]) -> str:
        """Return the value with its axes in another order."""
        before = self.order(value)
        if before is not None:
            value, order = self.nodes[value].inputs[0], [before[axis] for axis in order]
        if list(order) == sorted(order):
            return value
        return self.emit(f"{name}.permute", Permute(tuple(order)), [value])

    def reshape(self, name: str, value: str, shape: Sequence[int]) -> str:
        """Return the value with another shape."""
        node = self.nodes.get(value)
        if node is not None and isinstance(node.operator, Reshape):
            value = node.inputs[0]
        if self.shape(value) == tuple(shape):
            return value
        layout = layouts.regrouped(self.layout(value), shape, self.sizes, self.fresh)
        return self.emit(f"{name}.reshape", Reshape(layout), [value])

    def flip(self, name: str, value: str, axes: Sequence[int]) -> str:
        """Return the value with the elements along the axes in reverse order."""
        order = self.order(value)
        if order is None:
            return self.emit(name, Flip(tuple(sorted(axes))), [value])
        flipped = self.flip(name, self.nodes[value].inputs[0], [order[axis] for axis in axes])
        return self.permute(name, flipped, order)

    def slice(self, name: str, value: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        """Return the elements from start to before stop along an axis."""
        if (start, stop, step) == (0, self.shape(value)[axis], 1):
            return value
        order = self.order(value)
        if order is None:
            return self.emit(name, Slice(axis, start, stop, step), [value])
        source = self.nodes[value].inputs[0]
        return self.permute(name, self.slice(name, source, order[axis], start, stop, step), order)

    def trim(self, value: str, axis: int, stop: int) -> bool:
        """Let a convolution that nothing else uses end at ``stop``; return whether it can.

        It can where what is cut off saw padding beyond the end, as in a causal convolution.
        """
        node = self.nodes.get(value)
        if node is None or not isinstance(node.operator, Conv) or axis < 2:
            return False
        operator, place = node.operator, axis - 2
        (before, after), cut = operator.padding[place], self.shape(value)[axis] - stop
        if operator.stride[place] != 1 or not 0 < cut <= after:
            return False
        padding = list(operator.padding)
        padding[place] = (before, after - cut)
        trimmed = replace(operator, padding=tuple(padding))
        del self.nodes[value]
        self.emit(value, trimmed, node.inputs, node.weights, renewed=(1,))
        return True

    def channels_second(self, name: str, value: str) -> str:
        """Return ``(N, ..., C)`` as ``(N, C, ...)``."""
        rank = len(self.shape(value))
        return self.permute(name, value, (0, rank - 1, *range(1, rank - 1)))

    def channels_last(self, name: str, value: str) -> str:
        """Return ``(N, C, ...)`` as ``(N, ..., C)``."""
        rank = len(self.shape(value))
        return self.permute(name, value, (0, *range(2, rank), 1))

    def fresh(self, letter: str, size: int) -> str:
        """Return a new symbol of a size."""
        number = 1
        while f"{letter}{number}" in self.sizes:
            number += 1
        self.sizes[f"{letter}{number}"] = size
        return f"{letter}{number}"

    def graph(self, outputs: Sequence[str]) -> tuple[Graph, dict[str, Array]]:
        """Return the graph of what the outputs need, for one image, and its weights."""
        needed: set[str] = set(outputs)
        for name, node in reversed(self.nodes.items()):
            if name in needed:
                needed |= set(node.inputs)
        nodes = tuple(node for name, node in self.nodes.items() if name in needed)
        weights = {name for node in nodes for name in node.weights.values()}
        kept = [*self.inputs.values(), *(node.layout for node in nodes)]
        symbols = {symbol for layout in kept for axis in layout for symbol in axis}
        sizes = {name: size for name, size in self.sizes.items() if name in symbols}
        graph = Graph(
            {**sizes, BATCH: 1},
            self.inputs,
            nodes,
            tuple(outputs),
            {
                name: Weight(array.shape, self.learned[name])
                for name, array in self.arrays.items()
                if name in weights
            },
        )
        return graph, {name: self.arrays[name] for name in graph.weights}

    def _layout(
        self, operator: Operator, inputs: Sequence[str], shape: Shape, renewed: Sequence[int]
    ) -> Layout:
        first = self.layout(inputs[0])
        if isinstance(operator, Reshape):
            return operator.layout
        if isinstance(operator, Permute):
            return tuple(first[axis] for axis in operator.order)
        if isinstance(operator, Join):
            sizes = self.shape(inputs[0])
            pairs = zip(first, self.layout(inputs[1]), sizes, shape, strict=True)
            return tuple(left if size == wanted else right for left, right, size, wanted in pairs)
        if isinstance(operator, Concat) and len(inputs) > 1:
            renewed = (operator.axis,)
        return layouts.resized(first, shape, self.sizes, self.fresh, renewed)


def spatial_shape(shape: Shape) -> Shape:
    """Return the spatial axes that a convolution can have, for those of a value.

    One of size 1 where there is none, all as one where there are more than three.
    """
    if not shape:
        return (1,)
    return shape if len(shape) <= 3 else (math.prod(shape),)
