"""The operators that only move elements, and the table of all operators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lmaunet.graph import operators, resampling
from lmaunet.graph.attributes import check_whole, check_wholes
from lmaunet.graph.base_operator import (
    SPATIAL,
    ImageOperator,
    Operator,
    Shape,
    check_axes,
    elements,
)
from lmaunet.graph.layouts import Layout, check_layout, shape_of


@dataclass(frozen=True)
class Reshape(Operator):
    """The same elements in the same order, with the axes of ``layout``."""

    layout: Layout
    name: ClassVar[str] = "reshape"

    def check(self) -> None:
        """Check the attribute."""
        check_layout(self.attribute("layout"), self.layout)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the layout's shape."""
        shape = shape_of(self.layout, sizes)
        if elements(shape) != elements(inputs[0]):
            raise self.fail(f"{inputs[0]} to {shape}; expected as many elements")
        return shape


@dataclass(frozen=True)
class Permute(Operator):
    """The axes in another ``order``."""

    order: Shape
    name: ClassVar[str] = "permute"

    def check(self) -> None:
        """Check the attribute."""
        check_wholes(self.attribute("order"), self.order)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the sizes in that order."""
        (x,) = inputs
        self.need("order, sorted,", tuple(sorted(self.order)), tuple(range(len(x))))
        return tuple(x[axis] for axis in self.order)


@dataclass(frozen=True)
class Flip(Operator):
    """The elements along ``axes`` in reverse order."""

    axes: Shape
    name: ClassVar[str] = "flip"

    def check(self) -> None:
        """Check the attribute."""
        check_wholes(self.attribute("axes"), self.axes)

    def along(self, rank: int) -> Sequence[int]:
        """Return the axes."""
        return self.axes

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the input's shape."""
        check_axes(self, self.axes, len(inputs[0]))
        return inputs[0]


@dataclass(frozen=True)
class Slice(Operator):
    """The elements from ``start`` to before ``stop`` along ``axis``, each ``step``-th of them."""

    axis: int
    start: int
    stop: int
    step: int
    name: ClassVar[str] = "slice"

    def check(self) -> None:
        """Check the attributes."""
        check_whole(self.attribute("axis"), self.axis)
        check_whole(self.attribute("start"), self.start)
        check_whole(self.attribute("stop"), self.stop, self.start + 1)
        check_whole(self.attribute("step"), self.step, 1)

    def along(self, rank: int) -> Sequence[int]:
        """Return the axis."""
        return (self.axis,)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the input's shape, smaller along the axis."""
        (x,) = inputs
        check_axes(self, (self.axis,), len(x))
        if self.stop > x[self.axis]:
            raise self.fail(f"stop={self.stop}; expected at most {x[self.axis]}")
        kept = -(-(self.stop - self.start) // self.step)
        return (*x[: self.axis], kept, *x[self.axis + 1 :])


@dataclass(frozen=True)
class PixelShuffle(ImageOperator):
    """``(N, C * f1 * ... , s1, ...)`` to ``(N, C, s1 * f1, ...)``, one factor a spatial axis.

    Channel ``c * f1 * f2 + i * f2 + j`` goes to row i and column j of channel c.
    """

    factors: Shape
    name: ClassVar[str] = "pixel_shuffle"

    def check(self) -> None:
        """Check the attribute."""
        check_wholes(self.attribute("factors"), self.factors, 1, SPATIAL)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the shape with fewer channels and more positions."""
        (x,), factor = inputs, math.prod(self.factors)
        self.need("number of the input's axes", len(x), len(self.factors) + 2)
        if x[1] % factor:
            raise self.fail(f"factors={self.factors} need channels that {factor} divides: {x[1]}")
        spatial = (size * f for size, f in zip(x[2:], self.factors, strict=True))
        return (x[0], x[1] // factor, *spatial)


OPERATORS: Mapping[str, type[Operator]] = {
    kind.name: kind
    for kind in (
        operators.Conv, operators.TransposedConv, operators.Scan, operators.Add, operators.Mul,
        operators.Concat, operators.Activation, operators.Norm, operators.Affine, resampling.Pool,
        resampling.Upsample, resampling.Reduce, Reshape, Permute, Flip, Slice, PixelShuffle,
    )
}  # fmt: skip
"""Every operator, by its name in a file."""
