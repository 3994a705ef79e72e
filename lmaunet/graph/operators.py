"""The operators that compute: what their attributes are, and the shape of what they give.

An operator is a frozen dataclass whose fields are its attributes. Values are channels second,
``(N, C, ...)`` with one to three spatial axes, wherever an operator names channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lmaunet.graph.attributes import (
    check_choice,
    check_flag,
    check_number,
    check_whole,
    check_wholes,
)
from lmaunet.graph.base_operator import (
    SPATIAL,
    ImageOperator,
    Operator,
    Shape,
    check_axes,
    positive_sizes,
)

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Conv(ImageOperator):
    """A convolution in one to three spatial axes; a linear map is one with a kernel of 1.

    ``padding`` has zeros before and after for each spatial axis. The weight is
    ``(out, in / groups, *kernel)``, the bias ``(out,)``.
    """

    stride: Shape
    padding: Pads
    dilation: Shape
    groups: int
    name: ClassVar[str] = "conv"
    weight_roles: ClassVar[Mapping[str, bool]] = {"weight": True, "bias": False}

    def check(self) -> None:
        """Check the attributes."""
        check_wholes(self.attribute("stride"), self.stride, 1, SPATIAL)
        rank = len(self.stride)
        check_wholes(self.attribute("dilation"), self.dilation, 1, (rank,))
        check_whole(self.attribute("groups"), self.groups, 1)
        if not isinstance(self.padding, tuple) or len(self.padding) != rank:
            raise self.fail(f"padding={self.padding!r}; expected {rank} pairs (before, after)")
        for pair in self.padding:
            check_wholes(self.attribute("padding"), pair, 0, (2,))

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return ``(N, out, *spatial)``."""
        (x,), weight, rank = inputs, weights["weight"], len(self.stride)
        self.need("number of the input's axes", len(x), rank + 2)
        self.need("number of the weight's axes", len(weight), rank + 2)
        if weight[0] % self.groups:
            raise self.fail(f"groups={self.groups} does not divide {weight[0]} output channels")
        self.need("input channels of the weight", weight[1] * self.groups, x[1])
        if "bias" in weights:
            self.need("shape of the bias", weights["bias"], (weight[0],))
        spatial = [
            (size + sum(pads) - dilation * (taps - 1) - 1) // stride + 1
            for size, pads, dilation, taps, stride in zip(
                x[2:], self.padding, self.dilation, weight[2:], self.stride, strict=True
            )
        ]
        return (x[0], weight[0], *positive_sizes(self, spatial))


@dataclass(frozen=True)
class TransposedConv(ImageOperator):
    """A transposed convolution. The weight is ``(in, out / groups, *kernel)``, the bias ``(out,)``.

    One whose kernel equals its stride is captured as a 1x1 convolution and a pixel shuffle.
    """

    stride: Shape
    padding: Shape
    output_padding: Shape
    dilation: Shape
    groups: int
    name: ClassVar[str] = "transposed_conv"
    weight_roles: ClassVar[Mapping[str, bool]] = {"weight": True, "bias": False}

    def check(self) -> None:
        """Check the attributes."""
        check_wholes(self.attribute("stride"), self.stride, 1, SPATIAL)
        lengths = (len(self.stride),)
        check_wholes(self.attribute("padding"), self.padding, 0, lengths)
        check_wholes(self.attribute("output_padding"), self.output_padding, 0, lengths)
        check_wholes(self.attribute("dilation"), self.dilation, 1, lengths)
        check_whole(self.attribute("groups"), self.groups, 1)
        limits = [max(pair) for pair in zip(self.stride, self.dilation, strict=True)]
        if any(o >= limit for o, limit in zip(self.output_padding, limits, strict=True)):
            raise self.fail(f"output_padding={self.output_padding}; expected less than {limits}")

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return ``(N, out, *spatial)``."""
        (x,), weight, rank = inputs, weights["weight"], len(self.stride)
        self.need("number of the input's axes", len(x), rank + 2)
        self.need("number of the weight's axes", len(weight), rank + 2)
        self.need("input channels of the weight", weight[0], x[1])
        if x[1] % self.groups:
            raise self.fail(f"groups={self.groups} does not divide {x[1]} input channels")
        out = weight[1] * self.groups
        if "bias" in weights:
            self.need("shape of the bias", weights["bias"], (out,))
        spatial = [
            (size - 1) * stride - 2 * pad + dilation * (taps - 1) + extra + 1
            for size, stride, pad, dilation, taps, extra in zip(
                x[2:], self.stride, self.padding, self.dilation, weight[2:],
                self.output_padding, strict=True,
            )
        ]  # fmt: skip
        return (x[0], out, *positive_sizes(self, spatial))


@dataclass(frozen=True)
class Scan(ImageOperator):
    """The selective scan of x, dt ``(N, D, *spatial)``, B and C ``(N, S, *spatial)``.

    Its tokens are the positions in raster order; see docs/scan.md. ``dt`` is the time step before
    softplus. The weight ``rates`` ``(D, S)`` is A, or A_log where
    ``log_rates``; ``skip`` ``(D,)`` is D.
    """

    log_rates: bool
    name: ClassVar[str] = "scan"
    arity: ClassVar[tuple[int, int]] = (4, 4)
    weight_roles: ClassVar[Mapping[str, bool]] = {"rates": True, "skip": True}

    def check(self) -> None:
        """Check the attribute."""
        check_flag(self.attribute("log_rates"), self.log_rates)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the shape of x."""
        x, dt, B, C = inputs
        if len(x) < 3:
            raise self.fail(f"x is {x}; expected (N, D, *spatial)")
        self.need("number of the rates' axes", len(weights["rates"]), 2)
        states = weights["rates"][1]
        self.need("shape of dt", dt, x)
        self.need("shape of B", B, (x[0], states, *x[2:]))
        self.need("shape of C", C, (x[0], states, *x[2:]))
        self.need("channels of the rates", weights["rates"][0], x[1])
        self.need("shape of the skip", weights["skip"], (x[1],))
        return x


@dataclass(frozen=True)
class Join(Operator):
    """What joins two values element by element; an axis of size 1 is repeated."""

    arity: ClassVar[tuple[int, int]] = (2, 2)

    def check(self) -> None:
        """There are no attributes."""

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the larger of both sizes on each axis."""
        left, right = inputs
        self.need("number of the second input's axes", len(right), len(left))
        if any(a != b and 1 not in (a, b) for a, b in zip(left, right, strict=True)):
            raise self.fail(f"inputs of {left} and {right}; expected equal sizes, or 1")
        return tuple(max(pair) for pair in zip(left, right, strict=True))


@dataclass(frozen=True)
class Add(Join):
    """The sum of two values."""

    name: ClassVar[str] = "add"


@dataclass(frozen=True)
class Mul(Join):
    """The product of two values."""

    name: ClassVar[str] = "mul"


@dataclass(frozen=True)
class Concat(Operator):
    """Values one after the other along ``axis``."""

    axis: int
    name: ClassVar[str] = "concat"
    arity: ClassVar[tuple[int, int]] = (1, 4096)

    def check(self) -> None:
        """Check the attribute."""
        check_whole(self.attribute("axis"), self.axis)

    def along(self, rank: int) -> Sequence[int]:
        """Return the axis."""
        return (self.axis,)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the first shape with the sum of the sizes on the axis."""
        first, axis = inputs[0], self.axis
        check_axes(self, (axis,), len(first))
        for shape in inputs[1:]:
            rest = (*shape[:axis], *first[axis : axis + 1], *shape[axis + 1 :])
            self.need("an input but for its axis", rest, first)
        return (*first[:axis], sum(shape[axis] for shape in inputs), *first[axis + 1 :])


@dataclass(frozen=True)
class Activation(Operator):
    """A function of each element. ``slope`` is leaky_relu's for negative numbers, 0 elsewhere."""

    function: str
    slope: float
    name: ClassVar[str] = "activation"
    FUNCTIONS: ClassVar[tuple[str, ...]] = (
        "relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "sigmoid", "softplus",
    )  # fmt: skip

    def check(self) -> None:
        """Check the attributes."""
        check_choice(self.attribute("function"), self.function, self.FUNCTIONS)
        check_number(self.attribute("slope"), self.slope)
        if self.function != "leaky_relu" and self.slope:
            raise self.fail(f"slope={self.slope} with {self.function}; only leaky_relu has one")

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the input's shape."""
        return inputs[0]


@dataclass(frozen=True)
class Norm(Operator):
    """A normalization with an optional scale and shift ``(C,)``.

    ``kind``: ``batch``, by a mean and a variance that are weights; ``instance``, of each channel of
    an image; ``group``, of each of ``groups`` groups of channels (1 for the other kinds);
    ``layer``, of the channels of each position.
    """

    kind: str
    groups: int
    epsilon: float
    name: ClassVar[str] = "norm"
    KINDS: ClassVar[tuple[str, ...]] = ("batch", "instance", "group", "layer")

    @property
    def roles(self) -> Mapping[str, bool]:
        """A scale and a shift may be there; ``batch`` needs its statistics."""
        statistics = {"mean": True, "variance": True} if self.kind == "batch" else {}
        return {"scale": False, "shift": False, **statistics}

    def check(self) -> None:
        """Check the attributes."""
        check_choice(self.attribute("kind"), self.kind, self.KINDS)
        check_whole(self.attribute("groups"), self.groups, 1)
        check_number(self.attribute("epsilon"), self.epsilon, 0.0)
        if self.kind != "group" and self.groups != 1:
            raise self.fail(f"groups={self.groups} with {self.kind}; only group has them")

    def along(self, rank: int) -> Sequence[int]:
        """Return all axes but the first; of a layer's norm, the channels."""
        return (1,) if self.kind == "layer" else range(1, rank)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the input's shape."""
        (x,) = inputs
        if len(x) < 2 or (self.kind == "instance" and len(x) < 3):
            raise self.fail(f"the input is {x}; expected (N, C, ...)")
        if x[1] % self.groups:
            raise self.fail(f"groups={self.groups} does not divide {x[1]} channels")
        for role, shape in weights.items():
            self.need(f"shape of the {role}", shape, (x[1],))
        return x


@dataclass(frozen=True)
class Affine(Operator):
    """``x * factor * scale + offset + shift``; scale and shift are weights that x's shape holds."""

    factor: float
    offset: float
    name: ClassVar[str] = "affine"
    weight_roles: ClassVar[Mapping[str, bool]] = {"scale": False, "shift": False}

    def check(self) -> None:
        """Check the attributes."""
        check_number(self.attribute("factor"), self.factor)
        check_number(self.attribute("offset"), self.offset)

    def infer(
        self, inputs: Sequence[Shape], weights: Mapping[str, Shape], sizes: Mapping[str, int]
    ) -> Shape:
        """Return the input's shape."""
        (x,) = inputs
        for role, shape in weights.items():
            fits = len(shape) <= len(x) and all(
                size in (1, wide) for size, wide in zip(shape[::-1], x[::-1], strict=False)
            )
            if not fits:
                raise self.fail(f"{role} of {shape} beside {x}; expected its sizes or 1")
        return x
