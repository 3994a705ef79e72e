"""Rules for norms, functions of each element, sums and products, pools and resampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmaunet.errors import UserError
from lmaunet.graph.base_operator import Operator
from lmaunet.graph.calls import Call, Constant, Rule, constant, needed, wide
from lmaunet.graph.operators import Activation, Add, Affine, Mul, Norm
from lmaunet.graph.resampling import Pool, Reduce, Upsample


def _norm(
    call: Call,
    kind: str,
    value: str,
    groups: int = 1,
    statistics: Mapping[str, Constant] | None = None,
) -> str:
    scale = constant(call, "weight")
    names = call.weights(scale=scale, shift=constant(call, "bias"), **(statistics or {}))
    operator = Norm(kind, groups, float(call["eps"]))
    return call.builder.emit(call.layer(scale, "norm"), operator, [value], names)


def _statistics(call: Call) -> dict[str, Constant]:
    return {"mean": needed(call, "running_mean"), "variance": needed(call, "running_var")}


def batch_norm(call: Call) -> str:
    """Batch normalization by its statistics."""
    if call["training"]:
        raise UserError("a batch normalization without its statistics; track them in training")
    return _norm(call, "batch", call.value(), statistics=_statistics(call))


def decomposed_batch_norm(call: Call) -> list[str | None]:
    """The same in the form without changes in place, which gives three tensors."""
    return [_norm(call, "batch", call.value(), statistics=_statistics(call)), None, None]


def instance_norm(call: Call) -> str:
    """Instance normalization; by its statistics where it has them."""
    if not call["use_input_stats"]:  # it keeps statistics, and so is a batch normalization
        return _norm(call, "batch", call.value(), statistics=_statistics(call))
    return _norm(call, "instance", call.value())


def group_norm(call: Call) -> str:
    """Group normalization."""
    return _norm(call, "group", call.value(), call["num_groups"])


def layer_norm(call: Call) -> str:
    """Layer normalization over the last axis."""
    if len(call["normalized_shape"]) != 1:
        raise UserError(f"over {call['normalized_shape']}; expected the last axis alone")
    build, name = call.builder, call.name("norm")
    value = build.channels_second(name, call.value())
    return build.channels_last(name, _norm(call, "layer", value))


def activation(function: str, **fixed: Any) -> Rule:
    """Return the rule of a function; ``fixed`` are arguments that can't be other ones."""

    def rule(call: Call) -> str:
        for key, value in fixed.items():
            if call[key] != value:
                raise UserError(f"{key}={call[key]}; expected {value}")
        chosen, slope = function, 0.0
        if function == "leaky_relu":
            slope = float(call["negative_slope"])
        if function == "gelu" and call["approximate"] == "tanh":
            chosen = "gelu_tanh"
        operator = Activation(chosen, slope)
        return call.builder.elementwise(call.name(chosen), operator, [call.value()])

    return rule


def prelu(call: Call) -> str:
    """PReLU: LeakyReLU of the slope that was learned; ``relu(x) - a * relu(-x)`` for several."""
    slope = needed(call, "weight")
    numbers = slope.tensor.reshape(-1)
    build, name = call.builder, call.layer(slope, "prelu")
    if bool((numbers == numbers[0]).all()):
        operator = Activation("leaky_relu", float(numbers[0]))
        return build.elementwise(name, operator, [call.value()])
    value, rank = call.value(), len(build.shape(call.value()))
    relu = Activation("relu", 0.0)
    above = build.elementwise(f"{name}.above", relu, [value])
    turned = build.elementwise(f"{name}.turned", Affine(-1.0, 0.0), [value])
    below = build.elementwise(f"{name}.below", relu, [turned])
    # a weight of an affine lies along the last axes, a slope along the channels
    along = Constant(-numbers.reshape(-1, *[1] * (rank - 2)), slope.name, slope.learned)
    return build.elementwise(name, Add(), [above, _affine(call, below, "scale", along)])


def _factor(call: Call, value: str, factor: float, offset: float = 0.0) -> str:
    if (factor, offset) == (1.0, 0.0):
        return value
    operator = Affine(float(factor), float(offset))
    return call.builder.elementwise(call.name("affine"), operator, [value])


def _affine(call: Call, value: str, role: str, weight: Constant) -> str:
    """Scale or shift a value by a weight."""
    if weight.tensor.numel() == 1 and not weight.learned:
        number = float(weight.tensor)
        return _factor(call, value, *((number,) if role == "scale" else (1.0, number)))
    build, name = call.builder, call.layer(weight, "affine")
    order = build.order(value)
    if order is None:
        names = call.weights(**{role: weight})
        return build.emit(name, Affine(1.0, 0.0), [value], names)
    # before the permutation, with the weight's axes as they are there
    if weight.tensor.numel() > 1:
        wide_shape = (*[1] * (len(order) - weight.tensor.dim()), *weight.tensor.shape)
        back = [order.index(axis) for axis in range(len(order))]
        turned = weight.tensor.reshape(wide_shape).permute(back)
        weight = Constant(turned, weight.name, weight.learned)
    names = call.weights(**{role: weight})
    source = build.nodes[value].inputs[0]
    return build.permute(name, build.emit(name, Affine(1.0, 0.0), [source], names), order)


def _join(call: Call, operator: Operator, values: Sequence[str]) -> str:
    """Join two values; the one with fewer axes gets axes of size 1 in front."""
    build, name = call.builder, call.name(operator.name)
    shapes = [build.shape(value) for value in values]
    rank = max(map(len, shapes))
    widened = [
        build.reshape(name, value, (*[1] * (rank - len(shape)), *shape))
        for value, shape in zip(values, shapes, strict=True)
    ]
    return build.elementwise(name, operator, widened)


def addition(sign: float) -> Rule:
    """Return the rule of a sum, or of a difference where the sign is -1."""

    def rule(call: Call) -> str:
        left, right = call["self"], call["other"]
        scale = sign * float(call.arguments.get("alpha", 1))
        if isinstance(left, str) and isinstance(right, str):
            return _join(call, Add(), [left, _factor(call, right, scale)])
        if isinstance(left, str):
            if not isinstance(right, Constant):
                return _factor(call, left, 1.0, scale * float(right))
            scaled = Constant(right.tensor * scale, right.name, right.learned)
            return _affine(call, left, "shift", scaled)
        scaled_value = _factor(call, right, scale)
        if not isinstance(left, Constant):
            return _factor(call, scaled_value, 1.0, float(left))
        return _affine(call, scaled_value, "shift", left)

    return rule


def subtraction_from(call: Call) -> str:
    """A number without a value."""
    negative = _factor(call, call.value("self"), -float(call["alpha"]))
    if isinstance(call["other"], (str, Constant)):
        raise UserError("a number is expected to take the value from")
    return _factor(call, negative, 1.0, float(call["other"]))


def mul(call: Call) -> str:
    """A product of two values, or by a weight or a number."""
    left, right = call["self"], call["other"]
    if isinstance(left, str) and isinstance(right, str):
        return _join(call, Mul(), [left, right])
    value, other = (left, right) if isinstance(left, str) else (right, left)
    if isinstance(other, Constant):
        return _affine(call, value, "scale", other)
    return _factor(call, value, float(other))


def div(call: Call) -> str:
    """A quotient by a weight or a number."""
    value, other = call.value(), call["other"]
    if isinstance(other, str) or call.arguments.get("rounding_mode") is not None:
        raise UserError("a quotient of two values, or a rounded one; expected one by a weight")
    if isinstance(other, Constant):
        inverse = Constant(1 / other.tensor, other.name, other.learned)
        return _affine(call, value, "scale", inverse)
    return _factor(call, value, 1 / float(other))


def neg(call: Call) -> str:
    """A value with the other sign."""
    return _factor(call, call.value(), -1.0)


def pool(kind: str) -> Rule:
    """Return the rule of a pool of the kind ``max`` or ``average``."""

    def rule(call: Call) -> str:
        rank = len(call.shape()) - 2
        kernel = wide(call["kernel_size"], rank)
        stride = wide(call["stride"], rank) if call["stride"] else kernel
        if call["ceil_mode"] or call.arguments.get("divisor_override"):
            raise UserError("ceil_mode or divisor_override; expected neither")
        if set(wide(call.arguments.get("dilation", 1), rank)) != {1}:
            raise UserError(f"dilation={call['dilation']}; expected 1")
        padding = wide(call["padding"], rank)
        counted = bool(call.arguments.get("count_include_pad", True))
        operator = Pool(kind, kernel, stride, padding, counted)
        return call.builder.emit(call.name("pool"), operator, [call.value()])

    return rule


def adaptive_pool(call: Call) -> str:
    """An average pool to a size that divides the input's."""
    value = call.value()
    before, after = call.builder.shape(value)[2:], call.shape()[2:]
    if any(old % new for old, new in zip(before, after, strict=True)):
        raise UserError(f"adaptive pooling of {before} to {after}; expected sizes that divide")
    kernel = tuple(old // new for old, new in zip(before, after, strict=True))
    operator = Pool("average", kernel, kernel, (0,) * len(kernel), True)
    return call.builder.emit(call.name("pool"), operator, [value])


def upsample(mode: str) -> Rule:
    """Return the rule of a resampling in the mode ``nearest`` or ``linear``."""

    def rule(call: Call) -> str:
        value, size = call.value(), call.shape()[2:]
        before = call.builder.shape(value)[2:]
        for factor, old, new in zip(call["scale_factors"] or (), before, size, strict=False):
            if old * factor != new:
                raise UserError(f"scale_factor={factor} of {old}; expected one that gives a whole")
        operator = Upsample(mode, size, bool(call.arguments.get("align_corners")))
        return call.builder.emit(call.name("upsample"), operator, [value])

    return rule


def _reduced(call: Call, kind: str, axes: Sequence[int], shape: Sequence[int]) -> str:
    value, name = call.value(), call.name(kind)
    rank = len(call.builder.shape(value))
    places = tuple(sorted({axis % rank for axis in axes or range(rank)}))
    return call.builder.reshape(name, call.builder.emit(name, Reduce(kind, places), [value]), shape)


def reduce(kind: str) -> Rule:
    """Return the rule of a ``mean`` or ``max`` along axes."""
    return lambda call: _reduced(call, kind, call.arguments.get("dim") or (), call.shape())


def largest(call: Call) -> list[str | None]:
    """The largest element along an axis; where it is can't be said."""
    if "dim" not in call.arguments:
        raise UserError("a maximum of two values or of all elements; expected one along an axis")
    shape = call.node.meta["val"][0].shape
    return [_reduced(call, "max", (call["dim"],), shape), None]
