"""Rules for linear maps: convolutions all, and the scan."""

from __future__ import annotations

from lmaunet.errors import UserError
from lmaunet.graph.builder import spatial_shape
from lmaunet.graph.calls import Call, Constant, constant, needed, wide
from lmaunet.graph.operators import Conv, Scan, TransposedConv
from lmaunet.graph.relayouts import PixelShuffle

MOVES = ("aten.slice", "aten.select", "aten.view", "aten.reshape", "aten.chunk", "aten.split",
         "aten.split_with_sizes", "aten.unbind", "aten.narrow", "aten.to", "aten.contiguous",
         "aten.clone")  # fmt: skip
"""Operators of torch that only take or move elements."""


def conv(call: Call) -> str:
    """A convolution with one to three spatial axes."""
    weight, bias = needed(call, "weight"), constant(call, "bias")
    rank = weight.tensor.dim() - 2
    dilation = wide(call["dilation"], rank)
    if isinstance(call["padding"], str):
        same = call["padding"] == "same"
        totals = [
            d * (taps - 1) * same for d, taps in zip(dilation, weight.tensor.shape[2:], strict=True)
        ]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    else:
        padding = tuple((pad, pad) for pad in wide(call["padding"], rank))
    operator = Conv(wide(call["stride"], rank), padding, dilation, call["groups"])
    names = call.weights(weight=weight, bias=bias)
    return call.builder.emit(
        call.layer(weight, "conv"), operator, [call.value()], names, renewed=(1,)
    )


def _pointwise(
    call: Call, value: str, weight: Constant, bias: Constant | None, groups: int = 1
) -> str:
    """Return a linear map of the channels of ``(N, C, ...)``; the weight is ``(out, in)``."""
    build, name = call.builder, call.layer(weight, "linear")
    shape = build.shape(value)
    spatial = spatial_shape(shape[2:])
    rank = len(spatial)
    kernel = Constant(
        weight.tensor.reshape(*weight.tensor.shape, *[1] * rank), weight.name, weight.learned
    )
    operator = Conv((1,) * rank, ((0, 0),) * rank, (1,) * rank, groups)
    flat = build.reshape(name, value, (*shape[:2], *spatial))
    mapped = build.emit(
        name, operator, [flat], call.weights(weight=kernel, bias=bias), renewed=(1,)
    )
    return build.reshape(name, mapped, (shape[0], weight.tensor.shape[0], *shape[2:]))


def linear(call: Call) -> str:
    """A linear map of the last axis."""
    weight, name = needed(call, "weight"), call.name("linear")
    value = call.builder.channels_second(name, call.value())
    mapped = _pointwise(call, value, weight, constant(call, "bias"))
    return call.builder.channels_last(name, mapped)


def matmul(call: Call) -> str:
    """A product with a weight ``(in, out)``."""
    weight = call["other"] if "other" in call.arguments else call["mat2"]
    if not isinstance(weight, Constant) or weight.tensor.dim() != 2:
        raise UserError(
            "a product of two values of the network; expected one with a weight (in, out)"
        )
    value = call.builder.channels_second(call.name("linear"), call.value())
    turned = Constant(weight.tensor.T, weight.name, weight.learned)
    mapped = _pointwise(call, value, turned, None)
    return call.builder.channels_last(call.name("linear"), mapped)


def einsum(call: Call) -> str:
    """One sum over a weight ``k c d``, ``c d`` or with their letters in any order.

    Letters of the value, the weight and the result are groups; of the first two, what is summed.
    """
    equation = call["equation"].replace(" ", "")
    weight = call["tensors"][-1]
    pattern, _, result = equation.partition("->")
    letters, _, others = pattern.partition(",")
    value = call["tensors"][0]
    groups = [a for a in letters if a in others and a in result]
    summed = [a for a in letters if a in others and a not in result]
    new = [a for a in others if a not in letters]
    rest = [a for a in letters if a not in others]
    right = (
        isinstance(value, str) and isinstance(weight, Constant) and len(call["tensors"]) == 2
        and (len(groups), len(summed), len(new)) in ((0, 1, 1), (1, 1, 1))
        and len(set(letters)) == len(letters) and letters[0] in rest
        and sorted(result) == sorted([*groups, *new, *rest]) and "." not in equation
    )  # fmt: skip
    if not right:
        raise UserError(f"einsum {equation!r}; expected a value and a weight, with one sum over it")
    build, name = call.builder, call.name("einsum")
    size = dict(zip(letters, build.shape(value), strict=True))
    order = [rest[0], *groups, *summed, *rest[1:]]
    moved = build.permute(name, value, [letters.index(a) for a in order])
    tail = [size[a] for a in rest[1:]]
    count = size[groups[0]] if groups else 1
    moved = build.reshape(name, moved, (size[rest[0]], count * size[summed[0]], *tail))
    matrix = weight.tensor.permute([others.index(a) for a in [*groups, *new, *summed]])
    new_size = matrix.shape[-2]
    matrix = matrix.reshape(count * new_size, size[summed[0]])
    mapped = _pointwise(call, moved, Constant(matrix, weight.name, weight.learned), None, count)
    mapped = build.reshape(name, mapped, (size[rest[0]], *[count] * len(groups), new_size, *tail))
    order = [rest[0], *groups, *new, *rest[1:]]
    return build.permute(name, mapped, [order.index(a) for a in result])


def transposed_conv(call: Call) -> str:
    """A transposed convolution; a 1x1 and a pixel shuffle where kernel and stride are equal."""
    weight, bias = needed(call, "weight"), constant(call, "bias")
    rank = weight.tensor.dim() - 2
    stride, padding, extra, dilation = (
        wide(call[key], rank) for key in ("stride", "padding", "output_padding", "dilation")
    )
    build, name = call.builder, call.layer(weight, "conv")
    kernel = tuple(weight.tensor.shape[2:])
    if (
        kernel != stride
        or any(padding)
        or any(extra)
        or call["groups"] != 1
        or set(dilation) != {1}
    ):
        operator = TransposedConv(stride, padding, extra, dilation, call["groups"])
        names = call.weights(weight=weight, bias=bias)
        return build.emit(name, operator, [call.value()], names, renewed=(1,))
    # each input element gives a block of its own: a 1x1 to the block's elements, then a shuffle
    block = weight.tensor.movedim(0, -1).reshape(-1, weight.tensor.shape[0])
    copies = weight.tensor[0, 0].numel()
    point = Constant(block, weight.name, weight.learned)
    repeated = bias and Constant(bias.tensor.repeat_interleave(copies), bias.name, bias.learned)
    mapped = _pointwise(call, call.value(), point, repeated)
    return build.emit(f"{name}.shuffle", PixelShuffle(stride), [mapped])


def scan(call: Call) -> str:
    """Tokens ``(N, L, C)`` to the scan's ``(N, C, L)``, and back."""
    build, name, rates = call.builder, call.name("scan"), needed(call, "A")
    inputs = [build.channels_second(name, call.value(key)) for key in ("x", "dt", "B", "C")]
    logs = _log_rates(rates)
    names = call.weights(rates=logs or rates, skip=needed(call, "D"))
    return build.channels_last(name, build.emit(name, Scan(logs is not None), inputs, names))


def _log_rates(rates: Constant) -> Constant | None:
    """Return the part of A_log whose ``-exp`` the rates are, None where they are something else.

    A network that runs several scans takes a part of its A for each.
    """
    parts = []
    while rates.made_by in MOVES and rates.again is not None and rates.source is not None:
        parts.append(rates.again)
        rates = rates.source
    power = rates.source
    if rates.made_by != "aten.neg" or power is None or power.made_by != "aten.exp":
        return None
    logs = power.source
    if logs is None:
        return None
    tensor = logs.tensor
    for part in reversed(parts):
        tensor = part(tensor)
    return Constant(tensor, logs.name, logs.learned)
