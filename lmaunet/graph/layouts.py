"""Layouts: each axis of a value as a product of symbols, the slowest first.

``(N)(C1)(H W)`` is a map whose pixels are tokens in raster order. The symbol ``N`` is the images
of a batch: a graph is for any number of them, so no axis may mix them with anything but in front.
An axis of no symbol has the size 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lmaunet.errors import UserError

Axis = tuple[str, ...]
Layout = tuple[Axis, ...]
Fresh = Callable[[str, int], str]
"""Makes a symbol of a size whose name begins with a text."""

BATCH = "N"


def check_layout(what: str, layout: Any) -> None:
    """Raise UserError where it is not a tuple of tuples of names, each name once."""
    right = isinstance(layout, tuple) and all(
        isinstance(axis, tuple) and all(is_symbol(name) for name in axis) for axis in layout
    )
    names = [name for axis in layout for name in axis] if right else []
    if not right or len(set(names)) != len(names):
        raise UserError(f"{what}={str(layout)[:60]}; expected axes of symbols, each symbol once")


def is_symbol(name: Any) -> bool:
    """Return whether a name may stand in a layout: letters, digits, dots, at most 64."""
    return isinstance(name, str) and len(name) <= 64 and name.replace(".", "").isalnum()


def shape_of(layout: Layout, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of a layout; raises UserError for a symbol without a size."""
    unknown = [name for axis in layout for name in axis if name not in sizes]
    if unknown:
        raise UserError(f"layout {text_of(layout)}: {unknown[0]!r} has no size")
    return tuple(math.prod(sizes[name] for name in axis) for axis in layout)


def text_of(layout: Layout) -> list[str]:
    """Return a layout as one text an axis, such as ``["N", "C1", "H W"]``; 1 for no symbol."""
    return [" ".join(axis) or "1" for axis in layout]


def layout_of(text: Sequence[str]) -> Layout:
    """Return the layout that :func:`text_of` gave."""
    return tuple(() if axis == "1" else tuple(axis.split(" ")) for axis in text)


def image_layout(spatial: int) -> Layout:
    """Return the layout of an image with 1, 2 or 3 spatial axes."""
    return tuple((name,) for name in (BATCH, "C", *"DHW"[3 - spatial :]))


def resized(
    layout: Layout,
    shape: Sequence[int],
    sizes: Mapping[str, int],
    fresh: Fresh,
    renewed: Sequence[int] = (),
) -> Layout:
    """Return the layout of a result whose axes are the input's, where some changed their size.

    An axis that changed, or is in ``renewed``, gets a symbol of its own. Raises UserError where
    the images of the batch are on such an axis.
    """
    old = shape_of(layout, sizes)
    return tuple(
        axis if size == before and place not in renewed else _renewed(axis, size, place, fresh)
        for place, (axis, size, before) in enumerate(zip(layout, shape, old, strict=True))
    )


def _renewed(axis: Axis, size: int, place: int, fresh: Fresh) -> Axis:
    if BATCH in axis:
        raise UserError("it mixes the images of a batch; a graph treats each image alone")
    if size == 1:
        return ()
    letter = axis[0][0] if len(axis) == 1 else "C" if place == 1 else "L"
    return (fresh(letter, size),)


def regrouped(
    layout: Layout, shape: Sequence[int], sizes: Mapping[str, int], fresh: Fresh
) -> Layout:
    """Return the layout after a reshape: the same symbols in order, grouped into other axes.

    A symbol that ends up in two axes is split into two. Raises UserError where the images of the
    batch would be split, or mixed with other symbols.
    """
    rest = [name for axis in layout for name in axis]
    known = dict(sizes)
    groups: list[Axis] = []
    for size in shape:
        group: list[str] = []
        while math.prod(known[name] for name in group) < size:
            group.append(_take(rest, size // math.prod(known[n] for n in group), known, fresh))
        groups.append(tuple(group))
    return tuple(groups)


def _take(rest: list[str], need: int, known: dict[str, int], fresh: Fresh) -> str:
    """Take the first symbol from the rest, or the part of it that fits ``need``."""
    name = rest.pop(0)
    while known[name] == 1 and rest:  # only a batch has a symbol of size 1, and there it has more
        name = rest.pop(0)
    while need % known[name] and known[name] % need:  # neither divides: both are one axis
        if not rest or BATCH in (name, rest[0]):
            raise UserError("it mixes the images of a batch; a graph treats each image alone")
        size = known[name] * known[rest.pop(0)]
        name = fresh("L", size)
        known[name] = size
    if known[name] <= need:
        return name
    if name == BATCH:
        raise UserError("it splits the images of a batch; a graph treats each image alone")
    front, back = fresh(f"{name}.", need), fresh(f"{name}.", known[name] // need)
    known[front], known[back] = need, known[name] // need
    rest.insert(0, back)
    return front
