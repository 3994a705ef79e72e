"""The operators that give a value other positions: pools, upsampling, reductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lmaunet.graph.attributes import check_choice, check_flag, check_wholes
from lmaunet.graph.base_operator import (
    SPATIAL,
    ImageOperator,
    Operator,
    Shape,
    check_axes,
    positive_sizes,
)


@dataclass(frozen=True)
class Pool(ImageOperator):
    """The largest element or the average of windows.

    ``padding`` is the same before and after; an average divides by the window's size with it where
    ``count_padding``, by the elements that are there otherwise.
    """

    kind: str
    kernel: Shape
    stride: Shape
    padding: Shape
    count_padding: bool
    name: ClassVar[str] = "pool"

    def check(self) -> None:
        """Check the attributes."""
        check_choice(self.attribute("kind"), self.kind, ("max", "average"))
        check_wholes(self.attribute("kernel"), self.kernel, 1, SPATIAL)
        lengths = (len(self.kernel),)
        check_wholes(self.attribute("stride"), self.stride, 1, lengths)
        check_wholes(self.attribute("padding"), self.padding, 0, lengths)
        check_flag(self.attribute("count_padding"), self.count_padding)
        if any(2 * pad > taps for pad, taps in zip(self.padding, self.kernel, strict=True)):
            raise self.fail(f"padding={self.padding}; expected at most half of {self.kernel}")

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return ``(N, C, *spatial)``."""
        (x,) = inputs
        self.need("number of the input's axes", len(x), len(self.kernel) + 2)
        spatial = [
            (size + 2 * pad - taps) // stride + 1
            for size, pad, taps, stride in zip(
                x[2:], self.padding, self.kernel, self.stride, strict=True
            )
        ]
        return (*x[:2], *positive_sizes(self, spatial))


@dataclass(frozen=True)
class Upsample(ImageOperator):
    """Resampling of the spatial axes to ``size``: ``nearest`` or ``linear`` (bi-, trilinear)."""

    mode: str
    size: Shape
    align_corners: bool
    name: ClassVar[str] = "upsample"

    def check(self) -> None:
        """Check the attributes."""
        check_choice(self.attribute("mode"), self.mode, ("nearest", "linear"))
        check_wholes(self.attribute("size"), self.size, 1, SPATIAL)
        check_flag(self.attribute("align_corners"), self.align_corners)
        if self.mode == "nearest" and self.align_corners:
            raise self.fail("align_corners=true with nearest; only linear has it")

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return ``(N, C, *size)``."""
        (x,) = inputs
        self.need("number of the input's axes", len(x), len(self.size) + 2)
        return (*x[:2], *self.size)


@dataclass(frozen=True)
class Reduce(Operator):
    """The mean or the largest element along ``axes``, which keep a size of 1."""

    kind: str
    axes: Shape
    name: ClassVar[str] = "reduce"

    def check(self) -> None:
        """Check the attributes."""
        check_choice(self.attribute("kind"), self.kind, ("mean", "max"))
        check_wholes(self.attribute("axes"), self.axes)

    def along(self, rank: int) -> Sequence[int]:
        """Return the axes."""
        return self.axes

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the input's shape with 1 on the axes."""
        (x,) = inputs
        check_axes(self, self.axes, len(x))
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(x))
