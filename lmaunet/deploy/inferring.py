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
from lmaunet.data.inference import prepare_volume
from lmaunet.data.preparation import ReadyVolume
from lmaunet.deploy.confidence_map import MapOptions, add_confidence
from lmaunet.deploy.console import table
from lmaunet.deploy.crf import crf_note, smooth_volume
from lmaunet.deploy.given import fusion_of
from lmaunet.deploy.kernel_choice import Chooser
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
    confidence: MapOptions | None = None,
    kernel: int | None = None,
    crf: bool = False,
    fuse: str = "",
    missing: Sequence[int] = (),
    opened: Segmenter | None = None,
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
        confidence: the map of how sure the network is, where one is wanted.
        kernel: which of an elastic network's computes; by the image's resolution where None.
        crf: take the labels of least energy in each slice for the most probable ones.
        fuse: ``resample`` or ``register`` images that lie on another grid than the first; empty
            refuses them.
        missing: the numbers of images that are missing, from 1; the rest is given in order.
        opened: the build, where it is open already.

    Returns:
        The result as JSON, and as lines for a person.

    Raises:
        UserError: where the build or an image cannot be used, or the output cannot be written;
            nothing is written then.
    """
    began = time.perf_counter()
    check_options(overlap, batch)
    images, missing = _there(images, missing)
    check_together(crf, fuse, missing)
    check_output(output, images)
    if confidence is not None:
        confidence.check(output, images)
    kinds = [kind_of(path) for path in images]
    if suffix_of(output) == SEGMENTATION_SUFFIX and kinds[0] != "DICOM":
        raise UserError(
            f"{output}: DICOM SEG refers to the slices of a DICOM series, and {images[0]} is "
            f"{kinds[0]}; use {', '.join(LABEL_SUFFIXES)}"
        )
    timer = Timer()
    say(0.0, "opening the build")
    with timer.phase("open"):
        opened = opened or load(folder)
    axes = opened.mirrored_along(tta)
    if confidence is not None:
        confidence.check_build(opened)
    chooser = Chooser.of(opened, kernel)
    fusion = fusion_of(chooser.interface, fuse, missing, lambda line: say(0.02, line))
    say(0.0, f"reading {images[0].name}")
    with timer.phase("read"):
        volume = prepare_volume(images, chooser.interface.preparation, opened.channels, fusion)
        opened, choice = chooser.segmenter(), chooser.choice
        of_output = volume.check_output(output)
        drawn = None if confidence is None else confidence.begin(opened, volume)
    labels, shares, network = opened.compute(
        volume, overlap=overlap, batch=batch, timer=timer, mirror_axes=axes, probabilities=crf,
        samples=drawn,
        say=lambda share, line: say(0.05 + 0.9 * share, line),
    )  # fmt: skip
    of_crf: list[str] = []
    if shares is not None:
        say(0.94, "cutting")
        with timer.phase("restore"):
            of_crf = [crf_note(smooth_volume(volume, images, labels, shares))]
    say(0.95, f"writing {output.name}")
    with timer.phase("write"):
        sure = None if confidence is None else confidence.write(drawn, volume)
        volume.write(output, labels, opened.classes, opened.network)
    total_ms = 1e3 * (time.perf_counter() - began)
    content = {
        "output": str(output),
        "images": [str(path) for path in images],
        "build": _build_json(opened),
        "kernel": None if choice is None else {"kernel": choice.kernel, "why": choice.why},
        "geometry": _geometry_json(volume),
        "modalities": list(volume.modalities),
        "intensity": list(volume.intensity),
        "slices": _slices_json(volume, network, opened, overlap, axes),
        "classes": _count(labels, opened.classes, volume.geometry.voxel_ml),
        "times_ms": {name: round(ms, 3) for name, ms in timer.times_ms.items()}
        | {"total": round(total_ms, 3)},
        "first_call_images": network.first_images,
        "notes": [*volume.notes, *of_crf, *of_output, *filter(None, [opened.backend.run_note])],
    }
    lines = _lines(content, opened.synthetic)
    return content, lines if sure is None else [*add_confidence(content, sure), *lines]


def check_together(crf: bool, fuse: str, missing: Sequence[int]) -> None:
    """Raise UserError for an unknown way to fuse, and for options that do not go together."""
    check_way(fuse)
    if crf and fuse:
        raise UserError(
            f"--crf with --fuse {fuse}: it takes the contrast of images that lie on one grid; "
            "leave one of the two out"
        )
    if crf and missing:
        raise UserError("--crf with a missing image: its strengths were not tried so; leave it out")


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
    volume: ReadyVolume, network: Network, opened: Segmenter, overlap: float, axes: Sequence[int]
) -> dict[str, Any]:
    # mirroring along each axis or not
    windows = {"windows_per_slice": network.images // (len(volume) << len(axes))}
    if opened.depth is not None:
        windows = {"windows": network.images}
    return {
        "count": len(volume),
        "at_network_spacing": list(volume.scaled),
        "window": [*([] if opened.depth is None else [opened.depth]), *opened.input_size],
        **windows,
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
    if content["kernel"] is not None:
        lines.append(f"kernel {content['kernel']['kernel']}: {content['kernel']['why']}")
    if slices["overlap"] is not None:
        (height, width), window = slices["at_network_spacing"], slices["window"]
        what, count = f"slices of {height}x{width}", slices.get("windows_per_slice")
        if count is None:
            what, count = f"{slices['count']} slices of {height}x{width}", slices["windows"]
        lines.append(
            f"{what} in {count} windows of {'x'.join(map(str, window))}, "
            f"{100 * slices['overlap']:.0f}% overlap"
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
