"""Pictures for the report: slices with the organs of the label and of each target over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.png import indexed_data_uri, png_data_uri
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

#: Okabe and Ito's colours for colour-blind readers, without black, and a violet that stays apart
#: from them for people with deutan and protan vision.
PALETTE = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#6E3BFF",
)  # fmt: skip

TILE_PIXELS = 288
GRAY_LEVELS = 64
FILL = 0.42
EDGE = 0.95
LINE = 0.85
#: How a target differs from the network that it is compared with, the word and the colour of each.
CHANGES = {"lost": "#D55E00", "added": "#56B4E9", "another organ": "#F0E442"}
MOST_ROWS = 12
MOST_BYTES = 1_000_000
"""Of all pictures of slices: a page that is sent by mail stays small."""


def colour(class_index: int) -> str:
    """Return the colour of a class as ``#RRGGBB``; class 1 is the first of :data:`PALETTE`."""
    return PALETTE[(class_index - 1) % len(PALETTE)]


def overlay_rows(
    images: np.ndarray,
    label: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    against: str = "FP32",
    rows: int = MOST_ROWS,
    titles: Sequence[str] | None = None,
    tile_pixels: int = TILE_PIXELS,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Any]:
    """Return slices as layers: the image, then label and predictions, each to lie over it.

    The slices are those in which a prediction differs most from the one called ``against``, the
    worst first; where none differs, those with the most organs. A slice is cropped to the body. The
    organs are filled with their colour and outlined; on a prediction a thin white line is the
    outline of the label.

    Args:
        images: ``(n, H, W)`` of any range.
        label: ``(n, H, W)`` class indices, 0 is background.
        predictions: name of the network or target to ``(n, H, W)`` class indices.
        class_names: name of each class index, the background's first.
        against: which prediction the others are compared with.
        rows: how many slices at most.
        titles: a name for each of the n slices; their indices where None.
        tile_pixels: the least length of a layer's longer side; the image stays as it is.
        most_bytes: of all layers as they stand in a page; beyond, there are fewer slices, but one.

    Returns:
        ``{"columns": [...], "rows": [{"title", "size", "tiles": [PNG data URI, ...], "changes"}],
        "legend": [{"name", "colour"}], "slices": n}``. A row has one tile for each column, the
        first of which is the image, its ``size`` in pixels, ``(width, height)``, and for each
        prediction that is compared in ``changes`` its ``name``, ``pixels`` that differ, their
        ``share`` of those where either has an organ, and a ``tile`` that shows them. ``rows`` is
        empty where no slice has an organ.

    Raises:
        UserError: where the shapes differ or a class has no name.
    """
    import numpy as np

    images, label = np.asarray(images, np.float64), np.asarray(label)
    maps = {"label": label, **{name: np.asarray(p) for name, p in predictions.items()}}
    _check(images, maps, class_names, titles)
    low, high = np.percentile(images, [0.5, 99.5]) if images.size else (0.0, 1.0)
    gray = np.clip((images - low) / max(high - low, 1e-12), 0, 1)
    compared = [name for name in predictions if name != against and against in predictions]
    shown: list[dict[str, Any]] = []
    size = 0
    for index in _worst_slices([maps[n] for n in compared], maps.get(against), label, rows):
        crop = _body(gray[index], [m[index] for m in maps.values()])
        of_slice = {name: classes[index][crop] for name, classes in maps.items()}
        scale = max(1, math.ceil(tile_pixels / max(of_slice["label"].shape)))
        tiles = [png_data_uri(_shades(gray[index][crop]))]
        for name, classes in of_slice.items():
            outline = None if name == "label" else of_slice["label"]
            tiles.append(_overlay(classes, scale, outline))
        changes = [_change(n, of_slice[n], of_slice[against], scale) for n in compared]
        title = str(titles[index] if titles is not None else f"slice {index}")
        size += sum(map(len, tiles)) + sum(len(change["tile"]) for change in changes)
        if shown and size > most_bytes:
            break
        height, width = of_slice["label"].shape
        shown.append({"title": title, "size": (width, height), "tiles": tiles, "changes": changes})
    present = sorted({int(c) for m in maps.values() for c in np.unique(m)} - {0})
    return {
        "columns": ["image", *maps],
        "rows": shown,
        "legend": [{"name": str(class_names[c]), "colour": colour(c)} for c in present],
        "slices": len(label),
    }


def _worst_slices(
    compared: Sequence[np.ndarray], reference: np.ndarray | None, label: np.ndarray, rows: int
) -> list[int]:
    """Return the slices in which one of some maps differs in most pixels, the worst first."""
    import numpy as np

    differ = np.zeros(len(label), int)
    if compared and reference is not None:
        each = [(m != reference).reshape(len(label), -1).sum(1) for m in compared]
        differ = np.max(each, axis=0)
    ranked = [int(i) for i in np.argsort(-differ, kind="stable") if differ[i]][:rows]
    return ranked or choose_slices(label, min(rows, 4))


def _change(name: str, own: np.ndarray, reference: np.ndarray, scale: int) -> dict[str, Any]:
    """Return where a map ``(H, W)`` differs from another, and in how many pixels."""
    import numpy as np

    kinds = np.zeros(own.shape, np.uint8)
    kinds[(own != reference) & (own == 0)] = 1
    kinds[(own != reference) & (reference == 0)] = 2
    kinds[(own != reference) & (own > 0) & (reference > 0)] = 3
    pixels, either = int((kinds > 0).sum()), int(((own > 0) | (reference > 0)).sum())
    palette = [(0, 0, 0, 0), *(_rgba(text, 1.0) for text in CHANGES.values())]
    large = kinds.repeat(scale, 0).repeat(scale, 1)
    return {
        "name": name, "pixels": pixels, "share": pixels / either if either else 0.0,
        "tile": indexed_data_uri(large, palette),
    }  # fmt: skip


def _check(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    titles: Sequence[str] | None,
) -> None:
    if images.ndim != 3:
        raise UserError(f"pictures: images have shape {images.shape}; expected (n, H, W)")
    for name, classes in maps.items():
        if classes.shape != images.shape:
            raise UserError(
                f"pictures: {name} has shape {classes.shape}, expected the images' {images.shape}"
            )
        if classes.size and not 0 <= classes.min() <= classes.max() < len(class_names):
            raise UserError(
                f"pictures: {name} has classes {classes.min()} to {classes.max()}; "
                f"there are names for 0 to {len(class_names) - 1}"
            )
    if titles is not None and len(titles) != len(images):
        raise UserError(f"pictures: {len(titles)} titles for {len(images)} slices; give one each")


def choose_slices(label: np.ndarray, rows: int) -> list[int]:
    """Return up to ``rows`` slices of ``(n, H, W)`` in order, those with the most organs first.

    Neighbours look alike, so slices closer than ``n / rows``, then ``n / (2 rows)``, to a chosen
    one wait until there is nothing else. Ties go to the slice with more organ pixels.
    """
    import numpy as np

    organs = [len(set(np.unique(one).tolist()) - {0}) for one in label]
    ranked = sorted(
        (i for i, n in enumerate(organs) if n),
        key=lambda i: (-organs[i], -int((label[i] > 0).sum()), i),
    )
    chosen: list[int] = []
    for share in (1, 2, len(label)):
        gap = max(1, len(label) // (share * max(rows, 1)))
        for index in ranked:
            if len(chosen) < rows and all(abs(index - other) >= gap for other in chosen):
                chosen.append(index)
    return sorted(chosen)


def _body(gray: np.ndarray, maps: Sequence[np.ndarray]) -> tuple[slice, slice]:
    """Return the crop that holds what is not air, and every organ, with a small margin."""
    import numpy as np

    body = gray > 0.08
    organs = np.any([m > 0 for m in maps], axis=0)
    found = []
    for axis in (1, 0):
        # a table or a tube is a few pixels of a row; the body is more than a twelfth of it
        inside = (body.mean(axis=axis) > 1 / 12) | organs.any(axis=axis)
        where = np.flatnonzero(inside)
        size = len(inside)
        if len(where):
            found.append(slice(max(0, int(where[0]) - 2), min(size, int(where[-1]) + 3)))
        else:
            found.append(slice(0, size))
    return found[0], found[1]


def _shades(gray: np.ndarray) -> np.ndarray:
    """Return an image ``(H, W)`` of 0 to 1 as uint8."""
    import numpy as np

    # so many levels look smooth, and make the file half as large as 256 do
    levels = np.rint(gray * (GRAY_LEVELS - 1)) / (GRAY_LEVELS - 1)
    return (levels * 255 + 0.5).astype(np.uint8)


def _overlay(classes: np.ndarray, scale: int, reference: np.ndarray | None = None) -> str:
    """Return the organs of a map ``(H, W)``, ``scale`` times as large, on a transparent ground."""
    import numpy as np

    smooth = _enlarge_classes(classes, scale)
    edge = _inner_edge(smooth, max(1, scale // 2))
    count = len(PALETTE)
    indices = np.where(smooth > 0, (smooth - 1) % count + 1, 0)
    indices[edge] += count
    if reference is not None:
        indices[_inner_edge(_enlarge_classes(reference, scale), 1)] = 2 * count + 1
    fills = [_rgba(text, FILL) for text in PALETTE]
    edges = [_rgba(text, EDGE) for text in PALETTE]
    palette = [(0, 0, 0, 0), *fills, *edges, _rgba("#FFFFFF", LINE)]
    return indexed_data_uri(indices.astype(np.uint8), palette)


def _rgba(text: str, alpha: float) -> tuple[int, int, int, int]:
    red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue, round(255 * alpha)


def enlarge(gray: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge ``(H, W)`` by a whole number, linearly between pixel centres."""
    import numpy as np

    for axis in (0, 1):
        size = gray.shape[axis]
        position = np.clip((np.arange(size * scale) + 0.5) / scale - 0.5, 0, size - 1)
        first = np.floor(position).astype(int)
        second = np.minimum(first + 1, size - 1)
        shape = [-1 if a == axis else 1 for a in (0, 1)]
        weight = (position - first).reshape(shape)
        gray = gray.take(first, axis) * (1 - weight) + gray.take(second, axis) * weight
    return gray


def _enlarge_classes(classes: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge class indices: each pixel gets the class with the largest share there."""
    import numpy as np

    present = np.unique(classes)
    share = np.stack([enlarge((classes == c).astype(np.float64), scale) for c in present])
    return present[share.argmax(axis=0)]


def _inner_edge(classes: np.ndarray, width: int) -> np.ndarray:
    """Return the pixels of a class within ``width`` pixels of another class."""
    import numpy as np

    edge = np.zeros(classes.shape, bool)
    for axis in (0, 1):
        for step in range(1, width + 1):
            ahead = np.roll(classes, -step, axis) != classes
            behind = np.roll(classes, step, axis) != classes
            # roll wraps around: the picture's own border is not an edge
            index = [slice(None), slice(None)]
            index[axis] = slice(-step, None)
            ahead[tuple(index)] = False
            index[axis] = slice(0, step)
            behind[tuple(index)] = False
            edge |= ahead | behind
    return edge & (classes > 0)
