"""Pictures for the report: slices with the organs of the label and of each target over them."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


def colour(class_index: int) -> str:
    """Return the colour of a class as ``#RRGGBB``; class 1 is the first of :data:`PALETTE`."""
    return PALETTE[(class_index - 1) % len(PALETTE)]


def overlay_rows(
    images: np.ndarray,
    label: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    *,
    rows: int = 4,
    titles: Sequence[str] | None = None,
    tile_pixels: int = TILE_PIXELS,
) -> dict[str, Any]:
    """Return the slices with the most organs as tiles: image, label, then each prediction.

    A tile is cropped to the body and enlarged. The organs are filled with their colour and
    outlined; on a prediction a thin white line is the outline of the label.

    Args:
        images: ``(n, H, W)`` of any range.
        label: ``(n, H, W)`` class indices, 0 is background.
        predictions: name of the network or target to ``(n, H, W)`` class indices.
        class_names: name of each class index, the background's first.
        rows: how many slices at most.
        titles: a name for each of the n slices; their indices where None.
        tile_pixels: the least length of a tile's longer side.

    Returns:
        ``{"columns": [...], "rows": [{"title", "tiles": [PNG data URI, ...]}], "legend":
        [{"name", "colour"}]}`` with one tile for each column; ``rows`` is empty where no slice has
        an organ.

    Raises:
        UserError: where the shapes differ or a class has no name.
    """
    import numpy as np

    images, label = np.asarray(images, np.float64), np.asarray(label)
    maps = {"label": label, **{name: np.asarray(p) for name, p in predictions.items()}}
    _check(images, maps, class_names, titles)
    low, high = np.percentile(images, [0.5, 99.5]) if images.size else (0.0, 1.0)
    gray = np.clip((images - low) / max(high - low, 1e-12), 0, 1)
    shown = []
    for index in choose_slices(label, rows):
        crop = _body(gray[index], [m[index] for m in maps.values()])
        scale = max(1, math.ceil(tile_pixels / max(gray[index][crop].shape)))
        tiles = [_picture(gray[index][crop], scale)]
        tiles += [
            _picture(
                gray[index][crop],
                scale,
                classes[index][crop],
                None if name == "label" else label[index][crop],
            )
            for name, classes in maps.items()
        ]
        title = titles[index] if titles is not None else f"slice {index}"
        shown.append({"title": str(title), "tiles": [png_data_uri(tile) for tile in tiles]})
    present = sorted({int(c) for m in maps.values() for c in np.unique(m)} - {0})
    return {
        "columns": ["image", *maps],
        "rows": shown,
        "legend": [{"name": str(class_names[c]), "colour": colour(c)} for c in present],
    }


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


def _picture(
    gray: np.ndarray,
    scale: int,
    classes: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> np.ndarray:
    """Return one tile ``(H * scale, W * scale, 3)`` uint8."""
    import numpy as np

    # so many levels look smooth, and make the file half as large as 256 do
    shades = np.rint(enlarge(gray, scale) * (GRAY_LEVELS - 1)) / (GRAY_LEVELS - 1)
    picture = np.repeat(shades[..., None], 3, axis=2)
    if classes is None:
        return (picture * 255 + 0.5).astype(np.uint8)
    smooth = _enlarge_classes(classes, scale)
    edge = _inner_edge(smooth, max(1, scale // 2))
    for index in sorted(set(np.unique(smooth).tolist()) - {0}):
        rgb = np.array([int(colour(index)[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        for where, alpha in (((smooth == index) & ~edge, FILL), ((smooth == index) & edge, EDGE)):
            picture[where] = (1 - alpha) * picture[where] + alpha * rgb
    if reference is not None:
        line = _inner_edge(_enlarge_classes(reference, scale), 1)
        picture[line] = 0.15 * picture[line] + 0.85
    return (picture * 255 + 0.5).astype(np.uint8)


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


def png_data_uri(rgb: np.ndarray) -> str:
    """Return ``(H, W, 3)`` uint8 as a ``data:image/png`` URI."""
    import numpy as np

    height, width, _ = rgb.shape
    # filter 1 (difference to the pixel on the left) packs smooth images well
    difference = rgb.copy()
    difference[:, 1:] -= rgb[:, :-1]
    lines = np.concatenate(
        [np.full((height, 1), 1, np.uint8), difference.reshape(height, -1)], axis=1
    )
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return "data:image/png;base64," + base64.b64encode(content).decode()
