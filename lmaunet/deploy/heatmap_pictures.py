"""Pictures of heat maps for the report: a slice, and each block's map of a class over it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.pictures import GRAY_LEVELS, choose_slices, enlarge
from lmaunet.deploy.png import indexed_data_uri, png_data_uri
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch.nn import Module

    from lmaunet.data.dataset import Dataset

MAPS_FILE = "heatmaps.npz"
TILE_PIXELS = 144
MOST_PIXELS = 256
"""Of the longer side of a map in a page."""
MOST_CLASSES = 3
HEAT_LEVELS = 48
"""So few look smooth over a picture, and make its file small."""
HEAT = ((0.0, (0.15, 0.0, 0.35)), (0.4, (0.80, 0.15, 0.35)), (0.7, (0.98, 0.55, 0.05)),
        (1.0, (1.0, 1.0, 0.55)))  # fmt: skip
"""Dark violet over red and orange to pale yellow: it gets lighter all the way, also in gray."""
STRONGEST = 0.85


def heatmap_rows(
    network: Module,
    images: np.ndarray,
    label: np.ndarray,
    class_names: Sequence[str],
    *,
    titles: Sequence[str],
    pixels: str = "mask",
    wanted: Sequence[int] | None = None,
    tile_pixels: int = TILE_PIXELS,
) -> dict[str, Any]:
    """Return the maps of the slice with the most organs, a row for each of its largest classes.

    Args:
        network: of which :func:`lmaunet.quant.heatmaps.blocks_of` knows the blocks.
        images: ``(n, channels, H, W)`` as the network takes them; the first channel is shown.
        label: ``(n, H, W)`` class indices.
        class_names: by index.
        titles: a name for each slice.
        pixels: which are explained, ``mask`` or ``all``.
        wanted: the classes; those with the most pixels in the slice where None.
        tile_pixels: the least length of a tile's longer side.

    Returns:
        ``{"columns", "rows": [{"title", "size", "tiles"}]}``: first the image, ``size`` pixels wide
        and high, then each map, to lie over it, scaled by its own largest value.
    """
    maps = heatmaps(network, images, label, pixels=pixels, wanted=wanted)
    return {} if maps is None else rows_of(maps, images, class_names, titles, tile_pixels)


def heatmaps(
    network: Module,
    images: np.ndarray,
    label: np.ndarray,
    *,
    pixels: str = "mask",
    wanted: Sequence[int] | None = None,
) -> dict[str, Any] | None:
    """Return ``{"slice", "classes", "blocks", "maps"}`` of the slice with the most organs.

    ``maps`` is float32 ``(classes, blocks, H, W)``. None where no slice has an organ.
    """
    import numpy as np
    import torch

    from lmaunet.quant.heatmaps import blocks_of, class_activation

    chosen = choose_slices(label, 1)
    if not chosen:
        return None
    index = chosen[0]
    if wanted is None:
        counts = np.bincount(label[index].ravel())
        counts[0] = 0
        wanted = [int(c) for c in np.argsort(-counts, kind="stable")[:MOST_CLASSES] if counts[c]]
    blocks = blocks_of(network)
    image = torch.from_numpy(np.ascontiguousarray(images[index : index + 1]))
    how: Any = pixels
    maps = [class_activation(network, image, c, list(blocks.values()), how)[0] for c in wanted]
    return {
        "slice": index, "classes": list(wanted), "blocks": list(blocks),
        "maps": _bounded(torch.stack(maps).numpy()),
    }  # fmt: skip


def write_heatmaps(folder: Path, network: Module, data: Dataset) -> None:
    """Write the maps of a held-out slice; of a network without blocks, or of volumes, none."""
    import numpy as np

    maps = None
    if data.val.images.ndim == 4:
        # a network whose blocks nobody knows is one that the command asks --stage of
        with contextlib.suppress(UserError):
            maps = heatmaps(network, data.val.images, data.val.labels)
    if maps is not None:
        np.savez_compressed(folder / MAPS_FILE, **{**maps, "maps": maps["maps"].astype(np.float16)})


def heat_rows(
    folder: Path, side: Any, class_names: Sequence[str], titles: Sequence[str]
) -> dict[str, Any]:
    """Return the pictures of the maps that a measurement wrote; empty where it wrote none."""
    import numpy as np

    if not (folder / MAPS_FILE).exists():
        return {}
    with np.load(folder / MAPS_FILE) as stored:
        return rows_of(dict(stored), side.images, class_names, titles)


def rows_of(
    maps: Mapping[str, Any],
    images: np.ndarray,
    class_names: Sequence[str],
    titles: Sequence[str],
    tile_pixels: int = TILE_PIXELS,
) -> dict[str, Any]:
    """Return what :func:`heatmap_rows` does, of maps that :func:`heatmaps` returned."""
    import math

    import numpy as np

    index = int(maps["slice"])
    image = np.asarray(images[index, 0], np.float64)
    low, high = np.percentile(image, [0.5, 99.5])
    gray = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    # a map is coarser than its image, and a page is to stay small
    step = math.ceil(max(gray.shape) / MOST_PIXELS)
    gray = gray[::step, ::step]
    scale = max(1, math.ceil(tile_pixels / max(gray.shape)))
    plain = np.rint(gray * (GRAY_LEVELS - 1)) / (GRAY_LEVELS - 1)
    base = png_data_uri((plain * 255 + 0.5).astype(np.uint8))
    palette = _palette()
    rows = []
    for c, of_class in zip(maps["classes"], maps["maps"], strict=True):
        tiles = [base]
        for values in of_class[:, ::step, ::step]:
            largest = float(values.max())
            share = np.asarray(values, np.float64) / largest if largest > 0 else values
            levels = np.rint(enlarge(share, scale) * (HEAT_LEVELS - 1))
            tiles.append(indexed_data_uri(levels.astype(np.uint8), palette))
        nothing = "" if np.any(of_class) else "; the network gives it no pixel there"
        title = f"{class_names[int(c)]}: {titles[index]}{nothing}"
        size = (gray.shape[1], gray.shape[0])
        rows.append({"title": title, "size": size, "tiles": tiles})
    return {"columns": ["image", *map(str, maps["blocks"])], "rows": rows}


def _bounded(maps: np.ndarray) -> np.ndarray:
    """Return maps ``(classes, blocks, H, W)`` of which each has 1 as its largest value, or 0."""
    largest = maps.max((2, 3), keepdims=True)
    return maps / (largest + (largest == 0))


def _palette() -> list[tuple[int, int, int, int]]:
    """Return the colour of each level of heat, the more of it the less of what lies beneath."""
    import numpy as np

    heat = np.arange(HEAT_LEVELS) / (HEAT_LEVELS - 1)
    places = [place for place, _ in HEAT]
    bands = [np.interp(heat, places, [rgb[axis] for _, rgb in HEAT]) for axis in range(3)]
    rgba = np.stack([*bands, STRONGEST * np.sqrt(heat)], axis=1)
    return [(int(r), int(g), int(b), int(a)) for r, g, b, a in np.rint(255 * rgba)]
