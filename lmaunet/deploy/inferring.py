"""The command ``infer``: an image in, its segmentation on the image's own grid out.

The volume is read whole; everything else is done for a few slices at a time, so that memory does
not grow with the number of slices by more than the image and its labels.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.artifacts import Build
from lmaunet.data.images.masks import (
    LABEL_SUFFIXES,
    SEGMENTATION_SUFFIX,
    check_output,
    suffix_of,
)
from lmaunet.data.images.volumes import kind_of
from lmaunet.data.inference import PreparedVolume, prepare_volume
from lmaunet.data.windows import check_overlap, cover
from lmaunet.deploy.console import table
from lmaunet.deploy.defaults import INFER_BATCH
from lmaunet.deploy.deployment import Deployment, open_build
from lmaunet.deploy.targets import Target, get_target
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Say = Callable[[float, str], None]

PHASES = ("open", "read", "prepare", "first_call", "infer", "blend", "restore", "write")
"""What is timed: opening the build; reading the image; normalising and resampling slices; the
first call of the target, which loads its file; its other calls; cutting and blending windows;
classes on the image's grid; writing."""


@dataclass
class Timer:
    """Milliseconds of each phase; a phase within a phase counts for the inner one."""

    times_ms: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    _open: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block, less that of blocks inside it, to a phase."""
        started = time.perf_counter()
        self._open.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            self.times_ms[name] += 1e3 * (elapsed - self._open.pop())
            if self._open:
                self._open[-1] += elapsed


@dataclass
class Network:
    """A build's network, called in batches; counts and times its calls.

    ``images`` have gone through it in all, ``first_images`` of them in the first call, which is
    timed apart because it loads the file.
    """

    target: Target
    build: Build
    classes: int
    timer: Timer
    images: int = 0
    first_images: int = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the logits ``(n, classes, H, W)`` of images; raises UserError for NaN in them."""
        import numpy as np

        with self.timer.phase("infer" if self.images else "first_call"):
            logits = self.target.run(self.build, images)
        if logits.shape != (len(images), self.classes, *images.shape[2:]):
            raise UserError(
                f"{self.build.shipped} gives logits of shape {logits.shape}; expected "
                f"{(len(images), self.classes, *images.shape[2:])}; build it again"
            )
        if not np.isfinite(logits).all():
            raise UserError(
                f"{self.build.shipped} computes NaN or infinity for this image; build it again, "
                "and see the agreements that the build prints"
            )
        self.first_images = self.first_images or len(images)
        self.images += len(images)
        return logits


def segment(
    volume: PreparedVolume, network: Network, *, overlap: float, batch: int, say: Say
) -> np.ndarray:
    """Return the classes of a volume's voxels, ``(z, y, x)`` in LPS.

    Args:
        volume: the image.
        network: what computes logits.
        overlap: the share of a window's side that its neighbour covers too.
        batch: slices, and windows of them, at a time.
        say: called with the share that is done and a line.
    """
    import numpy as np

    timer, size = network.timer, volume.preparation.size
    labels = np.empty(volume.geometry.shape, np.uint8 if network.classes <= 256 else np.uint16)
    # the first slice goes alone: what the first call costs beside the network is seen best so
    starts = [0, *range(1, len(volume), batch)]
    for start, stop in zip(starts, [*starts[1:], len(volume)], strict=True):
        say(start / len(volume), f"slice {start + 1} of {len(volume)}")
        with timer.phase("prepare"):
            images = volume.images(start, stop)
        with timer.phase("blend"):
            logits = cover(images, size, network, overlap=overlap, batch=batch)
        with timer.phase("restore"):
            labels[start:stop] = volume.labels(logits)
    return labels


def infer(
    folder: Path, images: Sequence[Path], output: Path, *, overlap: float, batch: int, say: Say
) -> tuple[dict[str, Any], list[str]]:
    """Segment an image with a build, from the build's folder alone.

    Args:
        folder: the build's; it may have been copied from its run to anywhere.
        images: a file or a DICOM folder for each channel of the network.
        output: the segmentation: class indices on the image's own grid; the suffix chooses the
            format.
        overlap: the share of a window's side that its neighbour covers too, where slices are
            larger than the network's input.
        batch: slices, and windows of them, at a time.
        say: called with the share that is done and a line.

    Returns:
        The result as JSON, and as lines for a person.

    Raises:
        UserError: where the build or an image cannot be used, or the output cannot be written;
            nothing is written then.
    """
    began = time.perf_counter()
    check_overlap(overlap)
    if batch < 1:
        raise UserError(f"batch {batch}; expected 1 slice or more; {INFER_BATCH} is usual")
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
        build, deployment = open_build(folder)
        target = get_target(build.target)
        arithmetic = target.arithmetic(build)
    say(0.0, f"reading {images[0].name}")
    with timer.phase("read"):
        interface = deployment.interface
        volume = prepare_volume(images, interface.preparation, interface.network.in_channels)
        of_output = volume.check_output(output)
    network = Network(target, build, len(interface.classes), timer)
    labels = segment(
        volume, network, overlap=overlap, batch=batch,
        say=lambda share, line: say(0.05 + 0.9 * share, line),
    )  # fmt: skip
    say(0.95, f"writing {output.name}")
    with timer.phase("write"):
        volume.write(output, labels, interface.classes, interface.network.name)
    total_ms = 1e3 * (time.perf_counter() - began)
    content = {
        "output": str(output),
        "images": [str(path) for path in images],
        "build": _build_json(build, deployment, arithmetic),
        "geometry": _geometry_json(volume),
        "intensity": list(volume.intensity),
        "slices": _slices_json(volume, network, overlap),
        "classes": _count(labels, interface.classes, volume.geometry.voxel_ml),
        "times_ms": {name: round(ms, 3) for name, ms in timer.times_ms.items()}
        | {"total": round(total_ms, 3)},
        "first_call_images": network.first_images,
        "notes": [*volume.notes, *of_output, *filter(None, [target.run_note])],
    }
    return content, _lines(content, interface.data["synthetic"])


def _build_json(build: Build, deployment: Deployment, arithmetic: str) -> dict[str, Any]:
    return {
        "folder": str(build.folder),
        "target": build.target,
        "network": deployment.interface.network.name,
        "shipped": deployment.shipped,
        "sha256": deployment.digests["shipped"],
        "arithmetic": arithmetic,
    }


def _geometry_json(volume: PreparedVolume) -> dict[str, Any]:
    grid = volume.geometry.grid
    return {
        "format": volume.kind,
        "size": list(grid.size),
        "spacing_mm": list(grid.spacing_mm),
        "origin": list(grid.origin),
        "direction": list(grid.direction),
        "orientation": volume.geometry.orientation,
    }


def _slices_json(volume: PreparedVolume, network: Network, overlap: float) -> dict[str, Any]:
    windowed = volume.framing.size != volume.preparation.size
    return {
        "count": len(volume),
        "at_network_spacing": list(volume.framing.scaled),
        "window": list(volume.preparation.size),
        "windows_per_slice": network.images // len(volume),
        "overlap": overlap if windowed else None,
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
    lines += content["notes"]
    if synthetic:
        lines.append("the network was trained on synthetic images: its labels mean nothing")
    spent = ", ".join(
        f"{name.replace('_', ' ')} {times[name] / 1e3:.2f}" for name in PHASES if times[name] >= 5
    )
    lines.append(f"{slices['count']} slices in {times['total'] / 1e3:.2f} s ({spent})")
    lines.append(f"wrote {content['output']}")
    return lines
