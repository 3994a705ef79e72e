"""The command ``refine`` and :func:`refine`: a mask, corrected where a user drew on it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.held import image_of_sitk, images_of_array
from lmaunet.data.images.masks import (
    LABEL_SUFFIXES,
    SEGMENTATION_SUFFIX,
    check_format,
    check_output,
    suffix_of,
    write_labels,
)
from lmaunet.data.images.volumes import Image, check_pixels, read_volume
from lmaunet.data.inference import notes_of
from lmaunet.deploy.console import table
from lmaunet.deploy.correction import Corrected, CutOptions, boxes_around, correct
from lmaunet.deploy.defaults import INFER_BATCH, OVERLAP
from lmaunet.deploy.given import mask_like
from lmaunet.deploy.kernel_choice import Chooser
from lmaunet.deploy.network_calls import Network, Say
from lmaunet.deploy.phase_times import Timer
from lmaunet.deploy.scribbles import (
    BACKGROUND_STROKE,
    check_grid,
    check_mask,
    known_labels,
    labels_of,
    strokes_of,
)
from lmaunet.deploy.segmenter import Segmenter, load
from lmaunet.errors import UserError
from lmaunet.packages import missing_packages_named

if TYPE_CHECKING:
    import numpy as np

ALONE = (
    "no build was given: the image's contrast and the mask alone decide; --build adds what the "
    "network thinks"
)


@dataclass(frozen=True)
class _Case:
    """What was given, read and checked: channels, mask, strokes on one grid."""

    images: tuple[Image, ...]
    names: tuple[str, ...]
    mask: np.ndarray
    strokes: np.ndarray
    known: dict[int, str]

    def correct(self, shares: np.ndarray | None, options: CutOptions) -> Corrected:
        import numpy as np

        first = self.images[0].geometry
        channels = np.stack([image.array for image in self.images])
        return correct(channels, self.mask, self.strokes, first.spacing_mm, shares, options)


def _case(
    images: Sequence[Image], mask: Image, scribbles: Image, names: Sequence[str],
    opened: Segmenter | None, background: int,
) -> _Case:  # fmt: skip
    """Check images, mask and strokes, whose names end with those of the latter two."""
    import dataclasses

    import numpy as np

    *of_images, of_mask, of_scribbles = names
    for image, name in zip(images, of_images, strict=True):
        check_pixels(image.array, name)
        check_grid(image.geometry, name, images[0].geometry, of_images[0])
    check_grid(mask.geometry, of_mask, images[0].geometry, of_images[0])
    check_grid(scribbles.geometry, of_scribbles, images[0].geometry, of_images[0])
    classes = None if opened is None else opened.classes
    labels = labels_of(mask, of_mask)
    check_mask(labels, of_mask, classes)
    known = known_labels(labels, classes)
    drawn = labels_of(scribbles, of_scribbles)
    strokes = strokes_of(drawn, of_scribbles, known, background, opened is not None)
    pixels = tuple(
        dataclasses.replace(image, array=image.array.astype(np.float32, copy=False))
        for image in images
    )
    return _Case(pixels, tuple(of_images), labels, strokes, known)


def probabilities_near(
    opened: Segmenter, case: _Case, margin_mm: float, timer: Timer, say: Say
) -> tuple[np.ndarray, Network, tuple[str, ...]]:
    """Return the network's probabilities ``(classes, z, y, x)``, of the strokes' slices alone."""
    import numpy as np

    chooser = Chooser.of(opened, None)
    volume = chooser.interface.preparation.ready(case.images, case.names)
    opened = chooser.segmenter()
    shape, spacing = volume.geometry.shape, volume.geometry.spacing_mm
    near = np.zeros(shape, bool)
    for box in boxes_around(case.strokes >= 0, spacing, margin_mm):
        near[box] = True
    needed = np.flatnonzero(volume.within(near).any((1, 2)))
    # memory that is never written to is never had
    shares = np.zeros((len(opened.classes), *shape), np.float32)
    shares[0][near] = 1  # what no slice of the network's covers is background
    inside = volume.within(shares)
    network = Network(opened.backend, opened.build, len(opened.classes), timer)
    groups = _runs(needed, INFER_BATCH)
    if volume.depth is not None:  # a network of volumes takes all slices at once
        groups = [list(range(len(volume)))]
    for done, group in enumerate(groups):
        say(done / len(groups), f"slice {group[0] + 1}")
        start, stop = group[0], group[-1] + 1
        logits = volume.cover(
            volume.images(start, stop), network, overlap=OVERLAP, batch=INFER_BATCH
        )
        inside[:, start:stop] = volume.probabilities(logits).swapaxes(0, 1)
    return shares, network, volume.notes


def _runs(numbers: np.ndarray, most: int) -> list[list[int]]:
    """Return numbers in groups without a gap, of a length at most."""
    groups: list[list[int]] = []
    for number in numbers.tolist():
        if groups and len(groups[-1]) < most and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def refine_files(
    images: Sequence[Path],
    mask: Path,
    scribbles: Path,
    output: Path,
    *,
    build: Path | None,
    background: int,
    options: CutOptions,
    say: Say,
) -> tuple[dict[str, Any], list[str]]:
    """Correct the mask of a file by strokes of another, and write it on the mask's grid.

    Args:
        images: a file or a DICOM folder for each channel.
        mask: the labels, such as ``infer`` wrote them.
        scribbles: strokes on the image's grid: labels, 0 where nothing is drawn.
        output: the corrected mask; neither of the others.
        build: the folder of the build whose network has its say; None without.
        background: the value of strokes of background.
        options: of the cuts.
        say: called with the share that is done and a line.

    Returns:
        The result as JSON, and as lines for a person.

    Raises:
        UserError: where something given cannot be used; nothing is written then.
    """
    import numpy as np

    began = time.perf_counter()
    if suffix_of(output) == SEGMENTATION_SUFFIX:
        raise UserError(
            f"{output}: refine writes labels, and a DICOM SEG of no series; use "
            f"{', '.join(LABEL_SUFFIXES)}"
        )
    check_output(output, [*images, mask, scribbles])
    say(0.0, "reading")
    opened = None if build is None else load(build)
    _check_channels(images, opened)
    paths = [*images, mask, scribbles]
    read = [read_volume(path) for path in paths]
    case = _case(read[:-2], read[-2], read[-1], [str(p) for p in paths], opened, background)
    of_output = check_format(output, read[-2].geometry, None)
    timer, shares, network, notes = Timer(), None, None, [ALONE]
    if opened is not None:
        shares, network, of_network = probabilities_near(
            opened, case, options.margin_mm, timer, lambda share, line: say(0.1 + 0.7 * share, line)
        )
        notes = [*of_network, *filter(None, [opened.backend.run_note])]
    else:
        notes += notes_of([str(p) for p in images], read[:-2])
    say(0.85, "cutting")
    started = time.perf_counter()
    done = case.correct(shares, options)
    cut_ms = 1e3 * (time.perf_counter() - started)
    say(0.95, f"writing {output.name}")
    write_labels(output, done.mask.astype(_kind(done.mask)), read[-2].geometry)
    changed = done.mask != case.mask
    content = {
        "output": str(output),
        "images": [str(path) for path in images],
        "mask": str(mask),
        "scribbles": str(scribbles),
        "build": None if opened is None else _build_json(opened),
        "options": {name: getattr(options, name) for name in options.__dataclass_fields__},
        "background": background,
        "regions": [
            {
                "label": r.label, "voxels": r.voxels, "margin_mm": r.margin_mm,
                "box": [[s.start, s.stop] for s in r.box], "gained": r.gained, "lost": r.lost,
            }
            for r in done.regions
        ],
        "classes": _counts(case, done, read[-2].geometry.voxel_ml),
        "changed_voxels": int(np.count_nonzero(changed)),
        "slices_of_the_network": 0 if network is None else network.images,
        "times_ms": {
            "network": round(timer.times_ms["infer"] + timer.times_ms["first_call"], 3),
            "cut": round(cut_ms, 3),
            "total": round(1e3 * (time.perf_counter() - began), 3),
        },
        "notes": [*notes, *done.notes, *of_output],
    }  # fmt: skip
    return content, _lines(content)


def _kind(mask: np.ndarray) -> str:
    return "u1" if mask.max() <= 255 else "u2"


def _check_channels(images: Sequence[Any], opened: Segmenter | None) -> None:
    if opened is not None and len(images) != opened.channels:
        raise UserError(
            f"{len(images)} image(s); the network takes {opened.channels} channel(s): give the "
            "first as IMAGE and the others with --channel, in its order"
        )


def _build_json(opened: Segmenter) -> dict[str, Any]:
    return {
        "folder": str(opened.folder), "target": opened.target, "network": opened.network,
        "sha256": opened.digests["shipped"], "arithmetic": opened.arithmetic,
    }  # fmt: skip


def _counts(case: _Case, done: Corrected, voxel_ml: float) -> list[dict[str, Any]]:
    import numpy as np

    found = []
    for label, name in case.known.items():
        before, after = case.mask == label, done.mask == label
        counts = [np.count_nonzero(part) for part in (after, after & ~before, before & ~after)]
        if any(counts):
            total, gained, lost = map(int, counts)
            found.append(
                {"index": label, "name": name, "voxels": total, "gained": gained, "lost": lost,
                 "ml": round(total * voxel_ml, 3)}
            )  # fmt: skip
    return found


def _lines(content: dict[str, Any]) -> list[str]:
    rows = [
        [str(c["index"]), c["name"], f"{c['voxels']:,}", f"+{c['gained']:,}", f"-{c['lost']:,}"]
        for c in content["classes"]
    ]
    lines = [*table(["label", "class", "voxels", "gained", "lost"], rows), ""]
    if content["build"]:
        build = content["build"]
        lines.append(f"{build['network']} on {build['target']}: {build['arithmetic']}")
    lines += content["notes"]
    times = content["times_ms"]
    lines.append(
        f"{content['changed_voxels']:,} voxels changed within "
        f"{content['options']['margin_mm']:g} mm of the strokes; cut in {times['cut'] / 1e3:.2f} s "
        f"({times['network'] / 1e3:.2f} s for {content['slices_of_the_network']} slices of the "
        f"network before, {times['total'] / 1e3:.2f} s in all)"
    )
    return [*lines, f"wrote {content['output']}"]


@missing_packages_named()
def refine(
    image: Any,
    mask: Any,
    scribbles: Any,
    *,
    build: Segmenter | str | os.PathLike[str] | None = None,
    spacing: Sequence[float] | None = None,
    background: int = BACKGROUND_STROKE,
    **options: float,
) -> Any:
    """Correct a mask where strokes were drawn; what is further from them than a margin stays.

    It is what ``lmaunet-deploy refine`` does (docs/correction.md).

    Args:
        image: an array ``(D, H, W)`` or ``(C, D, H, W)``, whose axes are those of
            :class:`lmaunet.Segmenter`'s; a SimpleITK image; a path; or a list of images or of
            paths, one for each channel.
        mask: its labels, on its grid; an array, a SimpleITK image or a path.
        scribbles: the strokes, likewise: labels, ``background``, and 0 where nothing is drawn.
        build: what :func:`lmaunet.load` returned, or the folder of a build; without it the image's
            contrast and the mask alone decide.
        spacing: of D, H and W in mm, for an array and only then; 1 mm if not given.
        background: the value of strokes of background.
        options: fields of ``lmaunet.deploy.correction.CutOptions``, such as ``margin_mm``.

    Returns:
        The corrected mask in the kind of ``mask``: an array of its type, or a SimpleITK image.

    Raises:
        UserError: where something given cannot be used.
        ToolNotFound: where scipy is missing.

    >>> import numpy as np
    >>> image = np.zeros((1, 20, 20)); image[0, 5:15, 5:15] = 100
    >>> mask = np.zeros((1, 20, 20), np.uint8); mask[0, 5:15, 5:9] = 1
    >>> strokes = np.zeros((1, 20, 20), np.uint8); strokes[0, 10, 8:14] = 1
    >>> done = lmaunet.refine(image, mask, strokes)
    >>> bool(np.array_equal(done == 1, image > 50))
    True
    """
    import numpy as np

    if unknown := set(options) - set(CutOptions.__dataclass_fields__):
        raise UserError(
            f"refine takes no {sorted(unknown)[0]}; expected "
            f"{', '.join(CutOptions.__dataclass_fields__)}"
        )
    opened = build if build is None or isinstance(build, Segmenter) else load(build)
    several = list(image) if isinstance(image, list | tuple) else [image]
    if isinstance(image, np.ndarray) and image.ndim == 4:
        several = list(image)
    _check_channels(several, opened)
    arrays = [isinstance(one, np.ndarray) for one in (*several, mask, scribbles)]
    if spacing is not None and not all(arrays):
        raise UserError("spacing is for arrays; images and paths have their own; leave it out")
    names = [f"image {i}" if len(several) > 1 else "the image" for i in range(len(several))]
    names += ["the mask", "the scribbles"]
    read = [
        _read(one, name, spacing)
        for one, name in zip((*several, mask, scribbles), names, strict=True)
    ]
    case = _case(read[:-2], read[-2], read[-1], names, opened, background)
    chosen = CutOptions(**options)
    shares = None
    if opened is not None:
        shares, _, _ = probabilities_near(
            opened, case, chosen.margin_mm, Timer(), lambda share, line: None
        )
    found = case.correct(shares, chosen).mask
    if isinstance(mask, np.ndarray):
        return found.astype(mask.dtype)
    from types import SimpleNamespace

    ready: Any = SimpleNamespace(geometry=read[-2].geometry)
    return mask_like(found.astype(_kind(found)), ready, mask)


def _read(given: Any, name: str, spacing: Sequence[float] | None) -> Image:
    import numpy as np
    import SimpleITK

    if isinstance(given, np.ndarray):
        return images_of_array(given, spacing or (1.0, 1.0, 1.0), 1)[0]
    if isinstance(given, str | os.PathLike):
        return read_volume(Path(given))
    if isinstance(given, SimpleITK.Image):
        return image_of_sitk(given, name)
    raise UserError(
        f"{name} is a {type(given).__name__}; expected a numpy array, a SimpleITK image or a path"
    )
