"""Cases of image and label files, whatever their folders look like, made into a Source."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.data import normalization as norm
from lmaunet.data.class_map import CLASS_FILE, ClassMap, identity_map, integral
from lmaunet.data.division import SPLITS_FILE, divide_as_listed, divide_cases
from lmaunet.data.images.volumes import (
    Geometry,
    check_shapes,
    read_axes,
    read_image,
    read_labels,
    stem,
)
from lmaunet.data.nnunet_training import SEEN, NnunetTraining, divide_as_trained
from lmaunet.data.patients import (
    Patients,
    alone,
    given_patients,
    patients_by_folder,
    patients_by_name,
)
from lmaunet.data.source import Source, Volume
from lmaunet.errors import UserError

CT_BELOW = -500  # no MRI has such values, and the air of every CT has
WINDOW_PERCENTILES = (0.5, 99.5)
SAMPLED_VOXELS = 10_000
NARROWEST_WINDOW = 1.0


@dataclass(frozen=True)
class Case:
    """One case: an image file for each channel, and the labels.

    ``folders`` are those that it lies in, below the data set's, the outer first.
    """

    name: str
    images: tuple[Path, ...]
    label: Path
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """What a layout says of its cases.

    Args:
        name: of the data set.
        layout: what kind of folder it is.
        channels: names, in order.
        normalization: of the channels; None to tell it from the first image, or a function of the
            training volumes.
        label_source: who drew the labels.
        notes: what a reader should know.
    """

    name: str
    layout: str
    channels: tuple[str, ...]
    normalization: Mapping[str, Any] | Callable[[Sequence[Volume]], Mapping[str, Any]] | None = None
    label_source: str = "not stated"
    notes: tuple[str, ...] = ()


def read_cases(
    folder: Path,
    cases: Sequence[Case],
    wanted: Wanted,
    class_map: ClassMap | None,
    *,
    classes: int | None,
    seed: int,
    training: NnunetTraining | None = None,
) -> Source:
    """Return the source of cases: labels read, patients told apart, cases divided by patient.

    Args:
        folder: the data set's, where ``patients.json`` and ``splits_final.json`` are looked for.
        cases: in the order of their names.
        wanted: what the layout says.
        class_map: None takes label values as class indices.
        classes: how many classes the network has, where that is known.
        seed: draws the cases that validate.
        training: of a network that nnU-Net trained; its fold then says which validate.
    """
    _check_apart(cases)
    if class_map is None:
        class_map = identity_map(classes or 1 + highest_label([case.label for case in cases]))
    options = class_map.options
    volumes = [pair_volume(case.images, case.label, class_map, case.name) for case in cases]
    names = [case.name for case in cases]
    patients = given_patients(folder, names, options.get("patients"), CLASS_FILE)
    if patients is None:
        patients = _told_apart({case.name: case.folders for case in cases})
    named = {case.name: stem(case.label) for case in cases}
    volumes, split, amiss = divide_volumes(folder, volumes, patients, seed, training, named)
    notes = [*wanted.notes, *amiss]
    given = options.get("normalization", wanted.normalization)
    if given is None:
        normalization, note = _by_values(volumes[0], cases[0], len(wanted.channels))
        notes.append(note)
    elif callable(given):
        normalization = given([v for v in volumes if v.role != "val"])
    else:
        normalization = norm.check(given, CLASS_FILE, len(wanted.channels))
    return Source(
        name=str(options.get("name", wanted.name)),
        label_source=str(options.get("label_source", wanted.label_source)),
        classes=class_map.classes,
        volumes=volumes,
        split=split,
        layout=wanted.layout,
        normalization=normalization,
        channels=wanted.channels,
        patients=patients,
        notes=tuple(notes),
    )


def divide_volumes(
    folder: Path, volumes: list[Volume], patients: Patients, seed: int,
    training: NnunetTraining | None = None, named: Mapping[str, str] | None = None,
) -> tuple[list[Volume], str, tuple[str, ...]]:  # fmt: skip
    """Return the volumes with their roles, a sentence on the split, and notes.

    A volume that is alone is divided by blocks, which says so itself. ``named`` are nnU-Net's names
    of the cases, where ``training`` tells what a network has seen.
    """
    if len(volumes) == 1:
        seen = () if training is None else (SEEN,)
        return [dataclasses.replace(volumes[0], role="blocks")], "", seen
    shows = {
        v.case: frozenset(
            (np.flatnonzero(np.bincount(v.labels.ravel(), minlength=2)[1:]) + 1).tolist()
        )
        for v in volumes
    }
    path = folder / SPLITS_FILE
    if training is not None and named is not None:
        division = divide_as_trained(training, folder, shows, named, patients, seed)
    elif path.exists():
        division = divide_as_listed(path, shows, patients)
    else:
        division = divide_cases(shows, patients, seed)
    kept = [
        dataclasses.replace(v, role="val" if v.case in division.val else "train")
        for v in volumes
        if v.case not in division.unused
    ]
    return kept, division.sentence, division.notes


def _told_apart(folders: Mapping[str, Sequence[str]]) -> Patients:
    if len(folders) < 2:
        return alone(list(folders))
    return patients_by_folder(folders) or patients_by_name(list(folders))


def _check_apart(cases: Sequence[Case]) -> None:
    """Raise UserError where a file is the image of two cases, such as by a link, or its label."""
    owner: dict[Any, str] = {}
    for case in cases:
        label = _identity(case.label)
        for image in case.images:
            own = _identity(image)
            other = owner.setdefault(own, case.name)
            if other != case.name or own == label:
                what = f"an image of case {other!r}" if other != case.name else "its label"
                raise UserError(
                    f"{image}, an image of case {case.name!r}, is the same file as {what}; "
                    "expected a file for each; remove the link"
                )
        if len({_identity(image) for image in case.images}) < len(case.images):
            raise UserError(
                f"case {case.name!r}: two channels are the same file ({case.images[0]}); expected "
                "a file for each"
            )


def _identity(path: Path) -> Any:
    """Return what is the same for all links to a file; its path where it cannot be looked at."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return path
    return status.st_dev, status.st_ino


def pair_volume(
    images: Sequence[Path], label: Path, class_map: ClassMap, case: str, role: str = "train"
) -> Volume:
    """Return a case with its labels; its images are read when they are needed."""
    codes, geometry = read_labels(label)
    labels = class_map.apply(codes, str(label))
    several = len(images) > 1
    readers = tuple(
        functools.partial(_read_paired, image, label, geometry, several) for image in images
    )
    axes = functools.partial(read_axes, images[0])
    return Volume(
        case, role, labels, readers, geometry.spacing_mm, axes=axes,  # type: ignore[arg-type]
    )  # fmt: skip


def _read_paired(
    image_path: Path, label_path: Path, labels: Geometry, several: bool = False
) -> np.ndarray:
    image, geometry = read_image(image_path)
    if several and not geometry.same_grid(labels):
        raise UserError(
            f"{image_path} lies on another grid than {label_path} (shape {geometry.shape}, "
            f"expected {labels.shape}, or another place); bring the images of each case onto the "
            "grid of its labels with: lmaunet-deploy data fuse DIR -o NEW, where --register also "
            "moves them onto each other"
        )
    check_shapes(geometry.shape, labels.shape, f"{image_path} and {label_path}")
    if not geometry.same_grid(labels):
        raise UserError(
            f"{image_path} and {label_path} lie in different places (origin "
            f"{_mm(geometry.origin)} and {_mm(labels.origin)} mm, spacing "
            f"{_mm(geometry.spacing_mm)} and {_mm(labels.spacing_mm)} mm); resample the labels "
            "onto the image"
        )
    return image


def _mm(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in values) + ")"


def highest_label(paths: Sequence[Path]) -> int:
    """Return the highest label of some files; raises UserError unless it is 1 to 254."""
    highest = max(int(integral(read_labels(path)[0], str(path)).max()) for path in paths)
    if not 1 <= highest <= 254:
        raise UserError(
            f"{paths[0].parent}: the highest label is {highest}; expected 1 to 254, or a class map "
            f"({CLASS_FILE} beside the folders)"
        )
    return highest


def _by_values(volume: Volume, case: Case, channels: int) -> tuple[Mapping[str, Any], str]:
    """Return a normalization told from one case's values, and a note that says so."""
    found, told = [], []
    for read in volume.channels:
        is_ct = float(read().min()) < CT_BELOW
        found.append(norm.window(*norm.ABDOMEN_WINDOW_HU) if is_ct else norm.zscore())
        told.append("CT, abdomen window" if is_ct else "not CT, z-score of each slice")
    if len(set(told)) > 1:
        told = [f"channel {i} {text}" for i, text in enumerate(told)]
    else:
        told = told[:1]
    return norm.of_channels(found), (
        f"{CLASS_FILE} gives no normalization; taken from the values of {case.images[0].name}: "
        + "; ".join(told)
    )


def labelled_window(volumes: Sequence[Volume], channel: int) -> dict[str, Any]:
    """Return nnU-Net's window for CT: percentiles 0.5 and 99.5 of the labelled voxels.

    They are taken from training volumes, at most 10,000 voxels of each, evenly spread. Where
    labelled voxels all have one value, the window of the abdomen is taken.
    """
    sampled = []
    for volume in volumes:
        values = volume.channels[channel]()[volume.labels > 0]
        sampled.append(values[:: max(1, len(values) // SAMPLED_VOXELS)])
    values = np.concatenate(sampled)
    if len(values):
        low, high = (float(v) for v in np.percentile(values, WINDOW_PERCENTILES))
        if high - low >= NARROWEST_WINDOW:
            return norm.window(low, high)
    return norm.window(*norm.ABDOMEN_WINDOW_HU)
