"""The command ``infer``: an image in, its segmentation on the image's own grid out.

What it computes is :mod:`lmaunet.deploy.segmenter`'s; here is what is read from and written to
files, and what is said of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.fusion import check_way
from lmaunet.data.images.masks import (
    LABEL_SUFFIXES,
    SEGMENTATION_SUFFIX,
    check_output,
    suffix_of,
)
from lmaunet.data.images.volumes import kind_of
from lmaunet.data.preparation import ReadyVolume
from lmaunet.deploy.console import table
from lmaunet.deploy.given import fusion_of
from lmaunet.deploy.segmenter import PHASES, Network, Say, Segmenter, Timer, check_options, load
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

MIRRORED = ("rows", "columns")
NONE = "-"


def infer(
    folder: Path,
    images: Sequence[Path],
    output: Path,
    *,
    overlap: float,
    batch: int,
    say: Say,
    tta: bool = False,
    fuse: str = "",
    missing: Sequence[int] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Segment an image with a build, from the build's folder alone.

    Args:
        folder: the build's; it may have been copied from its run to anywhere.
        images: a file or a DICOM folder for each channel of the network; ``-`` for a missing one.
        output: the segmentation: class indices on the image's own grid; the suffix chooses the
            format.
        overlap: the share of a window's side that its neighbour covers too, where slices are
            larger than the network's input.
        batch: slices, and windows of them, at a time.
        say: called with the share that is done and a line.
        tta: average the logits over mirrored images, where training mirrored.
        fuse: ``resample`` or ``register`` images that lie on another grid than the first; empty
            refuses them.
        missing: the numbers of images that are missing, from 1; the rest is given in order.

    Returns:
        The result as JSON, and as lines for a person.

    Raises:
        UserError: where the build or an image cannot be used, or the output cannot be written;
            nothing is written then.
    """
    began = time.perf_counter()
    check_options(overlap, batch)
    check_way(fuse)
    images, missing = _there(images, missing)
    check_output(output, images)
    kinds = [kind_of(path) for path in images]
    if suffix_of(output) == SEGMENTATION_SUFFIX and kinds[0] != "DICOM":
        raise UserError(
            f"{output}: DICOM SEG refers to the slices of a DICOM series, and {images[0]} is "
            f"{kinds[0]}; use {', '.join(LABEL_SUFFIXES)}"
        )
    timer = Timer()
    say(0.0, "opening the build")
    with timer.phase("open"):
        opened = load(folder)
    axes = opened.mirrored_along(tta)
    fusion = fusion_of(
        opened.deployment.interface, fuse, missing, lambda line: say(0.02, line)
    )  # fmt: skip
    say(0.0, f"reading {images[0].name}")
    with timer.phase("read"):
        volume = opened.read(images, fusion)
        of_output = volume.check_output(output)
    labels, _, network = opened.compute(
        volume, overlap=overlap, batch=batch, timer=timer, mirror_axes=axes,
        say=lambda share, line: say(0.05 + 0.9 * share, line),
    )  # fmt: skip
    say(0.95, f"writing {output.name}")
    with timer.phase("write"):
        volume.write(output, labels, opened.classes, opened.network)
    total_ms = 1e3 * (time.perf_counter() - began)
    content = {
        "output": str(output),
        "images": [str(path) for path in images],
        "build": _build_json(opened),
        "geometry": _geometry_json(volume),
        "modalities": list(volume.modalities),
        "intensity": list(volume.intensity),
        "slices": _slices_json(volume, network, opened.input_size, overlap, axes),
        "classes": _count(labels, opened.classes, volume.geometry.voxel_ml),
        "times_ms": {name: round(ms, 3) for name, ms in timer.times_ms.items()}
        | {"total": round(total_ms, 3)},
        "first_call_images": network.first_images,
        "notes": [*volume.notes, *of_output, *filter(None, [opened.backend.run_note])],
    }
    return content, _lines(content, opened.synthetic)


def _there(images: Sequence[Path], missing: Sequence[int]) -> tuple[list[Path], list[int]]:
    """Return the images that are there, and the numbers of those that are missing."""
    dashes = [number for number, path in enumerate(images, 1) if str(path) == NONE]
    if dashes and len(missing):
        raise UserError(
            f"{NONE} stands for a missing image, and --missing {missing[0]} names one; give either"
        )
    there = [path for path in images if str(path) != NONE]
    if not there:
        raise UserError("every image is missing; give one or more")
    return there, dashes or list(missing)


def _build_json(opened: Segmenter) -> dict[str, Any]:
    return {
        "folder": str(opened.folder),
        "target": opened.target,
        "network": opened.network,
        "shipped": opened.deployment.shipped,
        "sha256": opened.digests["shipped"],
        "arithmetic": opened.arithmetic,
    }


def _geometry_json(volume: ReadyVolume) -> dict[str, Any]:
    grid = volume.geometry.grid
    return {
        "format": volume.kind,
        "size": list(grid.size),
        "spacing_mm": list(grid.spacing_mm),
        "origin": list(grid.origin),
        "direction": list(grid.direction),
        "orientation": volume.geometry.orientation,
    }


def _slices_json(
    volume: ReadyVolume, network: Network, size: Sequence[int], overlap: float, axes: Sequence[int]
) -> dict[str, Any]:
    return {
        "count": len(volume),
        "at_network_spacing": list(volume.scaled),
        "window": list(size),
        # mirroring along each axis or not
        "windows_per_slice": network.images // (len(volume) << len(axes)),
        "overlap": overlap if volume.windowed else None,
        "mirrored": [MIRRORED[axis] for axis in axes],
    }


def _count(labels: np.ndarray, classes: Sequence[str], voxel_ml: float) -> list[dict[str, Any]]:
    import numpy as np

    counts = np.bincount(labels.ravel(), minlength=len(classes))
    return [
        {"index": i, "name": name, "voxels": int(counts[i]), "ml": round(counts[i] * voxel_ml, 3)}
        for i, name in enumerate(classes)
    ]


def _lines(content: dict[str, Any], synthetic: bool) -> list[str]:
    build, slices, times = content["build"], content["slices"], content["times_ms"]
    rows = [
        [str(c["index"]), c["name"], f"{c['voxels']:,}", f"{c['ml']:,.1f}"]
        for c in content["classes"]
    ]
    lines = [*table(["label", "class", "voxels", "ml"], rows), ""]
    lines.append(f"{build['network']} on {build['target']}: {build['arithmetic']}")
    if slices["overlap"] is not None:
        (height, width), window = slices["at_network_spacing"], slices["window"]
        lines.append(
            f"slices of {height}x{width} in {slices['windows_per_slice']} windows of "
            f"{window[0]}x{window[1]}, {100 * slices['overlap']:.0f}% overlap"
        )
    if slices.get("mirrored"):
        along = " and ".join(slices["mirrored"])
        lines.append(f"averaged over images that are mirrored along {along}")
    lines += content["notes"]
    if synthetic:
        lines.append("the network was trained on synthetic images: its labels mean nothing")
    spent = ", ".join(
        f"{name.replace('_', ' ')} {times[name] / 1e3:.2f}" for name in PHASES if times[name] >= 5
    )
    lines.append(f"{slices['count']} slices in {times['total'] / 1e3:.2f} s ({spent})")
    lines.append(f"wrote {content['output']}")
    return lines
