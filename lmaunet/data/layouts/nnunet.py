"""nnU-Net's raw folder: imagesTr, labelsTr and the dataset.json that names classes and channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmaunet.data import normalization as norm
from lmaunet.data.class_map import ClassMap
from lmaunet.data.dataset_json import (
    CT,
    DATASET_FILE,
    DatasetJson,
    normalization_of,
    read_dataset_json,
)
from lmaunet.data.images.volumes import SUFFIXES
from lmaunet.data.layouts.cases import (
    WINDOW_PERCENTILES,
    Case,
    Wanted,
    labelled_window,
    read_cases,
)
from lmaunet.data.layouts.pairs import match_cases
from lmaunet.data.nnunet_training import NnunetTraining
from lmaunet.data.source import Source, Volume
from lmaunet.errors import UserError

IMAGES, LABELS = "imagesTr", "labelsTr"


def is_nnunet(folder: Path) -> bool:
    """Tell whether a folder is one of nnU-Net's with a dataset.json."""
    return (folder / IMAGES).is_dir() and (folder / DATASET_FILE).is_file()


def read_nnunet(
    folder: Path, class_map: ClassMap | None, classes: int | None, seed: int,
    training: NnunetTraining | None = None,
) -> Source:  # fmt: skip
    """Read ``imagesTr/CASE_0000.nii.gz`` ... and ``labelsTr/CASE.nii.gz`` as dataset.json says.

    Class names, channels and what is done to their intensities are dataset.json's; a class map
    overrules the classes. ``imagesTs`` is not read. For a network that nnU-Net trained, its recipe
    says what is done to intensities, and its fold which cases validate.

    Raises:
        UserError: where dataset.json is of another form, or the folders hold other files than it
            says.
    """
    path = folder / DATASET_FILE
    dataset = read_dataset_json(path)
    notes: tuple[str, ...] = ()
    if class_map is None:
        class_map = ClassMap(dataset.classes, dataset.codes)
    elif class_map.classes != dataset.classes:
        notes = (f"class names are those of the class map, not of {DATASET_FILE}",)
    cases, found = nnunet_cases(folder, dataset)
    notes += found
    if dataset.count not in (None, len(cases)):
        notes += (f"{DATASET_FILE} says {dataset.count} training cases; there are {len(cases)}",)

    if training is not None:
        training.check_channels(dataset.channels)
    for index, name in enumerate(dataset.channels if training is None else ()):
        if name.casefold() == CT and "normalization" not in class_map.options:
            notes += (
                f"channel {index} ({name}) is clipped to the percentiles "
                f"{WINDOW_PERCENTILES[0]:g} and {WINDOW_PERCENTILES[1]:g} of the labelled voxels "
                "that train",
            )

    def from_training(volumes: Sequence[Volume]) -> Mapping[str, Any]:
        return norm.of_channels(
            [
                labelled_window(volumes, index) if name.casefold() == CT else _checked(name, path)
                for index, name in enumerate(dataset.channels)
            ]
        )

    wanted = Wanted(
        name=dataset.name or folder.resolve().name,
        layout=f"nnU-Net's raw folder ({IMAGES}/, {LABELS}/ and {DATASET_FILE})",
        channels=dataset.channels,
        normalization=from_training if training is None else {"kind": "none"},
        notes=notes,
    )
    return read_cases(
        folder, cases, wanted, class_map, classes=classes, seed=seed, training=training
    )


def nnunet_cases(folder: Path, dataset: DatasetJson) -> tuple[list[Case], tuple[str, ...]]:
    """Return the cases of a folder whose dataset.json was read, and notes; raises UserError."""
    path = folder / DATASET_FILE
    if dataset.listed is None:
        return _in_folders(folder, dataset, path)
    cases = [Case(case.name, case.images, case.label) for case in dataset.listed]
    for file in (file for case in cases for file in (*case.images, case.label)):
        if not file.exists():
            raise UserError(f"{path} lists {file}, which does not exist; correct its dataset")
    return cases, (f"cases are the {len(cases)} that {DATASET_FILE} lists",)


def _checked(name: str, path: Path) -> dict[str, Any]:
    return norm.check(normalization_of(name), str(path))


def _in_folders(
    folder: Path, dataset: DatasetJson, path: Path
) -> tuple[list[Case], tuple[str, ...]]:
    ending = dataset.file_ending
    if ending is not None and ending.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: file_ending {ending!r} is not read; expected one of {', '.join(SUFFIXES)}; "
            "convert the files"
        )
    if not (folder / LABELS).is_dir():
        raise UserError(f"{folder} has {IMAGES}/ but no {LABELS}/; training needs labels")
    return match_cases(folder / IMAGES, folder / LABELS, len(dataset.channels), ending)
