"""Rules for what moves elements, joins values or leaves them as they are."""

from __future__ import annotations

from lmaunet.errors import UserError
from lmaunet.graph.calls import Call
from lmaunet.graph.operators import Concat
from lmaunet.graph.relayouts import PixelShuffle


def _axis(call: Call, axis: int) -> int:
    return axis % len(call.builder.shape(call.value()))


def reshape(call: Call) -> str:
    """All that keeps the order of the elements."""
    return call.builder.reshape(call.name("view"), call.value(), call.shape())


def permute(call: Call) -> str:
    """Axes in another order."""
    order = [_axis(call, axis) for axis in call["dims"]]
    return call.builder.permute(call.name("tokens"), call.value(), order)


def transpose(call: Call) -> str:
    """Two axes exchanged."""
    order = list(range(len(call.builder.shape(call.value()))))
    keys = [key for key in ("dim0", "dim1", "axis0", "axis1") if key in call.arguments]
    left, right = [_axis(call, call[key]) for key in keys] or order  # of t, both that there are
    order[left], order[right] = order[right], order[left]
    return call.builder.permute(call.name("tokens"), call.value(), order)


def movedim(call: Call) -> str:
    """Axes moved to other places."""
    rank = len(call.builder.shape(call.value()))
    source, target = (
        [axis % rank for axis in (found if isinstance(found, (list, tuple)) else [found])]
        for found in (call["source"], call["destination"])
    )
    order = [axis for axis in range(rank) if axis not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        order.insert(place, axis)
    return call.builder.permute(call.name("tokens"), call.value(), order)


def flip(call: Call) -> str:
    """Axes reversed."""
    axes = [_axis(call, axis) for axis in call["dims"]]
    return call.builder.flip(call.name("flip"), call.value(), axes)


def _cut(call: Call, axis: int, start: int, stop: int, step: int = 1) -> str:
    return call.builder.slice(call.name("slice"), call.value(), axis, start, stop, step)


def sliced(call: Call) -> str:
    """Part of an axis; of a causal convolution that drops its last outputs, less padding."""
    build, value, axis = call.builder, call.value(), _axis(call, call["dim"])
    size = build.shape(value)[axis]
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    source = call.node.all_input_nodes[0]
    alone = len(source.users) == 1 and str(source.target).startswith("aten.conv")
    if alone and (start, step) == (0, 1) and build.trim(value, axis, stop):
        return value
    return _cut(call, axis, start, stop, step)


def narrow(call: Call) -> str:
    """Part of an axis, by its length."""
    return _cut(call, _axis(call, call["dim"]), call["start"], call["start"] + call["length"])


def select(call: Call) -> str:
    """One element of an axis."""
    axis = _axis(call, call["dim"])
    index = call["index"] % call.builder.shape(call.value())[axis]
    one = _cut(call, axis, index, index + 1)
    return call.builder.reshape(call.name("select"), one, call.shape())


def split(call: Call) -> list[str]:
    """Split, chunk: torch itself says how large the parts are."""
    axis = _axis(call, call["dim"])
    parts, start = [], 0
    for part in call.node.meta["val"]:
        parts.append(_cut(call, axis, start, start + part.shape[axis]))
        start += part.shape[axis]
    return parts


def unbind(call: Call) -> list[str]:
    """The elements of an axis, one by one."""
    axis, name = _axis(call, call["dim"]), call.name("unbind")
    return [
        call.builder.reshape(name, _cut(call, axis, index, index + 1), part.shape)
        for index, part in enumerate(call.node.meta["val"])
    ]


def _values(call: Call) -> list[str]:
    if not all(isinstance(value, str) for value in call["tensors"]):
        raise UserError("it joins weights with values; expected values of the network alone")
    return list(call["tensors"])


def concat(call: Call) -> str:
    """Values one after the other."""
    values = _values(call)
    axis = call["dim"] % len(call.shape())
    return call.builder.concat(call.name("concat"), values, axis)


def stack(call: Call) -> str:
    """Values along a new axis."""
    shape, build, name = call.shape(), call.builder, call.name("stack")
    axis = call["dim"] % len(shape)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    parts = [build.reshape(name, value, one) for value in _values(call)]
    return build.emit(name, Concat(axis), parts)


def pixel_shuffle(call: Call) -> str:
    """Channels to pixels, in two spatial axes."""
    factors = (call["upscale_factor"],) * 2
    return call.builder.emit(call.name("shuffle"), PixelShuffle(factors), [call.value()])


def expand(call: Call) -> str:
    """Nothing to do where only sums and products follow: they repeat an axis of size 1."""
    kinds = {str(getattr(user.target, "_schema", user.target)).split("(")[0].split(".")[0]
             for user in call.node.users}  # fmt: skip
    if not kinds <= {"aten::add", "aten::mul", "aten::sub"}:
        raise UserError("it repeats a value; expected sums and products alone to use it")
    return call.value()


def same(call: Call) -> str:
    """Nothing to do."""
    return call.value()


def pad(call: Call) -> str:
    """Nothing to do where no side is padded."""
    if any(call["pad"]):
        raise UserError(f"padding {call['pad']}; expected that of a convolution or a pool")
    return call.value()


def dropout(call: Call) -> str:
    """Nothing to do, in evaluation."""
    if call["train"]:
        raise UserError("a dropout that works in evaluation too; leave it out")
    return call.value()


def nothing(call: Call) -> None:
    """A check of torch's own, which gives nothing."""
    return None
