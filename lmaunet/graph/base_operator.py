"""What every operator of a graph has: a name, attributes, weights by role, a shape to give."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lmaunet.errors import UserError
from lmaunet.graph.layouts import BATCH, Layout

Shape = tuple[int, ...]
SPATIAL = (1, 2, 3)
"""How many spatial axes there may be."""


@dataclass(frozen=True)
class Operator(abc.ABC):
    """One operator of the closed set.

    ``name`` is its name in a file, ``arity`` the least and largest number of inputs, ``roles`` its
    weights: for each role whether it must be there. Attributes are checked when it is made.
    """

    name: ClassVar[str] = ""
    arity: ClassVar[tuple[int, int]] = (1, 1)
    weight_roles: ClassVar[Mapping[str, bool]] = {}

    def __post_init__(self) -> None:
        self.check()

    @property
    def roles(self) -> Mapping[str, bool]:
        """The weights that it takes, by role: whether each must be there."""
        return self.weight_roles

    @abc.abstractmethod
    def check(self) -> None:
        """Raise UserError where an attribute is not what it may be."""

    @abc.abstractmethod
    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the shape of what it gives.

        Args:
            inputs: the shapes of its inputs.
            weights: the shapes of its weights, by role.
            sizes: the size of every symbol of the graph's layouts.

        Raises:
            UserError: where the shapes do not fit the operator.
        """

    def along(self, rank: int) -> Sequence[int]:
        """Return the axes of a value of ``rank`` axes whose elements it tells from each other.

        The images of a batch may be on none of them. None where each element stands alone, or
        keeps its neighbours.
        """
        return ()

    def fail(self, message: str) -> UserError:
        """Return the error of this operator with a message."""
        return UserError(f"operator {self.name}: {message}")

    def need(self, what: str, got: object, expected: object) -> None:
        """Raise UserError where got is not what is expected."""
        if got != expected:
            raise self.fail(f"{what} is {got}, expected {expected}")

    def attribute(self, key: str) -> str:
        """Return how an attribute is named in an error."""
        return f"operator {self.name}: {key}"


@dataclass(frozen=True)
class ImageOperator(Operator):
    """One that treats each image as a whole, such as a convolution."""

    def along(self, rank: int) -> Sequence[int]:
        """Return all axes but the first."""
        return range(1, rank)


def check_axes(operator: Operator, axes: Sequence[int], rank: int) -> None:
    """Raise UserError where axes are none, repeated, or not those of a value of ``rank`` axes."""
    if not axes or len(set(axes)) != len(axes) or max(axes) >= rank:
        raise operator.fail(f"axes {tuple(axes)} of a value with {rank} axes")


def check_images(operator: Operator, layouts: Sequence[Layout]) -> None:
    """Raise UserError where an operator would mix the images of a batch."""
    for layout in layouts:
        for axis in operator.along(len(layout)):
            if axis < len(layout) and BATCH in layout[axis]:
                raise operator.fail(
                    f"it mixes the images of a batch, which are on axis {axis}; a graph treats "
                    "each image alone"
                )


def attributes_of(operator: Operator) -> dict[str, Any]:
    """Return an operator's attributes by name."""
    return {f.name: getattr(operator, f.name) for f in dataclasses.fields(operator)}


def elements(shape: Sequence[int]) -> int:
    """Return how many elements a value of a shape has."""
    return math.prod(shape)


def positive_sizes(operator: Operator, spatial: list[int]) -> list[int]:
    """Return the spatial sizes of an output; raises UserError where one is not positive."""
    if min(spatial) < 1:
        raise operator.fail(f"its output would be {spatial}; give a larger input")
    return spatial
