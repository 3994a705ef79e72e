"""The graph of a network: nodes in the order in which they run, checked when it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from lmaunet.errors import UserError
from lmaunet.graph.attributes import check_wholes, is_whole
from lmaunet.graph.base_operator import Operator, Shape, check_images
from lmaunet.graph.layouts import BATCH, Layout, check_layout, is_symbol, shape_of, text_of

Array = npt.NDArray[np.float32]
Weights = Mapping[str, Array]

LONGEST_NAME = 300


@dataclass(frozen=True)
class Weight:
    """What a weight is: its shape, and whether it is learned; a norm's statistics are not."""

    shape: Shape
    learned: bool


@dataclass(frozen=True)
class Node:
    """One operator at work. What it gives is a value of the node's name.

    Args:
        name: after its weights, or after the module that it comes from.
        operator: what it does.
        inputs: the names of values, nodes before it or inputs of the graph.
        weights: the names of its weights, by role.
        layout: of what it gives.
    """

    name: str
    operator: Operator
    inputs: tuple[str, ...]
    weights: Mapping[str, str]
    layout: Layout

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    def __reduce__(self) -> tuple[Any, ...]:
        parts = self.name, self.operator, self.inputs, dict(self.weights), self.layout
        return Node, parts


@dataclass(frozen=True)
class Graph:
    """A network for any number of images of one size.

    Args:
        sizes: the size of each symbol of the layouts; 1 for ``N``, the images.
        inputs: the layouts of its inputs, by name.
        nodes: in the order in which they run.
        outputs: names of values.
        weights: what its weights are, by name.

    Raises:
        UserError: where these do not fit each other.
    """

    sizes: Mapping[str, int]
    inputs: Mapping[str, Layout]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Weight]

    def __post_init__(self) -> None:
        for key in ("sizes", "inputs", "weights"):
            object.__setattr__(self, key, MappingProxyType(dict(getattr(self, key))))
        self._check_symbols()
        self._check_names()
        for images in (1, 2):  # what mixes the images of a batch has a wrong shape for two
            self._check_shapes(images)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = dict(self.sizes), dict(self.inputs), self.nodes, self.outputs, dict(self.weights)
        return Graph, parts

    def layout(self, value: str) -> Layout:
        """Return the layout of a value."""
        return self._layouts[value]

    def shape(self, value: str, images: int = 1) -> Shape:
        """Return the shape of a value for a number of images."""
        return shape_of(self.layout(value), self.sizes_for(images))

    def sizes_for(self, images: int) -> dict[str, int]:
        """Return the size of each symbol for a number of images."""
        return {**self.sizes, BATCH: images}

    def users(self, value: str) -> list[Node]:
        """Return the nodes that a value is an input of."""
        return [node for node in self.nodes if value in node.inputs]

    @cached_property
    def _layouts(self) -> Mapping[str, Layout]:
        return {**self.inputs, **{node.name: node.layout for node in self.nodes}}

    def _check_symbols(self) -> None:
        if self.sizes.get(BATCH) != 1:
            raise UserError(f"graph: the size of {BATCH} is {self.sizes.get(BATCH)}, expected 1")
        for name, size in self.sizes.items():
            if not is_symbol(name) or not is_whole(size, 1):
                raise UserError(f"graph: symbol {name!r:.40} has the size {size!r:.40}")

    def _check_names(self) -> None:
        known = set(self.inputs)
        used: set[str] = set()
        _check_texts("input", self.inputs)
        _check_texts("weight", self.weights)
        _check_texts("node", (node.name for node in self.nodes))
        if not self.inputs or not self.outputs:
            raise UserError("graph: it has no input or no output")
        for node in self.nodes:
            what = f"graph: node {node.name!r}"
            if node.name in known:
                raise UserError(f"{what}: the name is taken; give each value its own")
            for value in node.inputs:
                if value not in known:
                    raise UserError(f"{what}: its input {value!r:.80} is no value before it")
            _check_arity(what, node)
            for name in node.weights.values():
                if name not in self.weights:
                    raise UserError(f"{what}: the graph has no weight {name!r:.80}")
            known.add(node.name)
            used |= set(node.weights.values())
        for value in self.outputs:
            if value not in known:
                raise UserError(f"graph: its output {value!r:.80} is no value")
        for name, weight in self.weights.items():
            check_wholes(f"graph: weight {name!r}: shape", weight.shape, 1)
            if name not in used:
                raise UserError(f"graph: no node takes the weight {name!r}")

    def _check_shapes(self, images: int) -> None:
        sizes = self.sizes_for(images)
        shapes: dict[str, Shape] = {}
        for name, layout in self.inputs.items():
            check_layout(f"graph: input {name!r}: layout", layout)
            if layout[:1] != ((BATCH,),):
                raise UserError(f"graph: input {name!r} is {text_of(layout)}; expected N first")
            shapes[name] = shape_of(layout, sizes)
        for node in self.nodes:
            weights = {role: self.weights[name].shape for role, name in node.weights.items()}
            try:
                check_layout("layout", node.layout)
                given = shape_of(node.layout, sizes)
                check_images(node.operator, [self.layout(value) for value in node.inputs])
                shape = node.operator.infer([shapes[v] for v in node.inputs], weights, sizes)
            except UserError as error:
                raise UserError(f"graph: node {node.name!r}: {error}") from error
            if shape != given:
                raise UserError(
                    f"graph: node {node.name!r} gives {shape} for {images} images, its layout "
                    f"{text_of(node.layout)} says {given}"
                )
            shapes[node.name] = shape


def check_weights(graph: Graph, weights: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Raise UserError where the arrays are not those that a graph's weights say."""
    missing = [name for name in graph.weights if name not in weights]
    extra = [name for name in weights if name not in graph.weights]
    if missing or extra:
        raise UserError(
            f"weights: missing {missing[:3]}, not in the graph {extra[:3]}; give the arrays that "
            "were captured with this graph"
        )
    for name, weight in graph.weights.items():
        array = weights[name]
        if array.shape != weight.shape or array.dtype != np.float32:
            raise UserError(
                f"weights: {name!r} is {array.dtype} {array.shape}, expected float32 "
                f"{weight.shape}; give the arrays that were captured with this graph"
            )
        if not np.isfinite(array).all():
            raise UserError(f"weights: {name!r} is not finite everywhere; train the network again")


def _check_texts(what: str, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            raise UserError(f"graph: {what} {name!r:.40}; expected a printable name")


def _check_arity(what: str, node: Node) -> None:
    operator, (least, largest) = node.operator, node.operator.arity
    if not least <= len(node.inputs) <= largest:
        raise UserError(
            f"{what}: {operator.name} has {len(node.inputs)} inputs, expected {least} to {largest}"
        )
    roles = operator.roles
    missing = [role for role, needed in roles.items() if needed and role not in node.weights]
    extra = [role for role in node.weights if role not in roles]
    if missing or extra:
        raise UserError(
            f"{what}: {operator.name} lacks the weights {missing}, does not know {extra}; it takes "
            f"{', '.join(roles) or 'none'}"
        )
