"""Images of any layout, labelled or not, without reading a label: names alone say what has one."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.data import fetch
from lmaunet.data import normalization as norm
from lmaunet.data.class_map import CLASS_FILE, read_class_map
from lmaunet.data.dataset_json import CT, DATASET_FILE, normalization_of, read_dataset_json
from lmaunet.data.division import SPLITS_FILE, divide_as_listed, divide_cases
from lmaunet.data.images.volumes import is_volume, read_image, stem
from lmaunet.data.layouts import brats, transunet
from lmaunet.data.layouts import folders as tree
from lmaunet.data.layouts.arrays import read_images
from lmaunet.data.layouts.nnunet import IMAGES, LABELS, is_nnunet
from lmaunet.data.layouts.pairs import LABEL_WORDS, PAIR_FOLDERS, match_found
from lmaunet.data.patients import Patients, given_patients, patients_by_folder, patients_by_name
from lmaunet.errors import UserError

Read = Callable[[], tuple[list[np.ndarray], tuple[float, float]]]
NO_SPACING = (float("nan"), float("nan"))
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>00[0-6]\d)")


@dataclass(frozen=True)
class Case:
    """A case whose ``read`` returns float32 ``(n, H, W)`` for each channel, and y, x in mm."""

    name: str
    read: Read


@dataclass(frozen=True)
class Found:
    """The cases to pretrain on, in order; ``kept_out`` are those that validate where labelled.

    ``normalization`` is None where nothing but the values tells it.
    """

    name: str
    cases: Sequence[Case]
    normalization: Mapping[str, Any] | None = None
    kept_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Files:
    """A case's images; ``labelled`` says whether a label's file stands beside them."""

    name: str
    images: tuple[Path, ...]
    labelled: bool
    folders: tuple[str, ...] = ()


def find_images(path: Path, channels: int) -> Found:
    """Return what there is to pretrain on; arguments and errors as for ``load_unlabelled``."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder of images, or a labelled set")
    if not path.is_dir():
        if path.name.endswith(("_train.npz", "_val.npz")):
            return _arrays(re.sub(r"_(train|val)\.npz$", "", str(path)), channels)
        if not is_volume(path):
            raise UserError(f"{path} is no image that is read; give a folder of images")
        return _of_files(path.parent, [_Files(stem(path), (path,), False)], channels)
    if (path / fetch.SOURCE_FILE).exists():
        file = path / fetch.DICOM_FOLDER
        return dataclasses.replace(
            _of_files(path, [_Files("ct_dicom", (file,), False)], channels),
            normalization=norm.window(*norm.ABDOMEN_WINDOW_HU), kept_out=("ct",),
            notes=("of the fetched CT the second patient alone: slices of the first validate",),
        )  # fmt: skip
    packed = [p for p in tree.visible(path) if p.name.endswith("_train.npz")]
    if len(packed) > 1:
        raise UserError(
            f"{path} holds {len(packed)} sets ({tree.named(packed)}); give one of the files"
        )
    if packed:
        return _arrays(str(packed[0]).removesuffix("_train.npz"), channels)
    if (path / transunet.TRAIN).is_dir():
        return _transunet(path, channels)
    if (path / IMAGES).is_dir() and (path / DATASET_FILE).is_file():
        return _nnunet(path, channels)
    if brats.is_brats(path):
        return _brats(path, channels)
    for beside, labels in PAIR_FOLDERS:
        if (path / beside).is_dir():
            found = tree.find_volumes(path / beside)[0]
            drawn = tree.find_volumes(path / labels)[0] if (path / labels).is_dir() else []
            return _of_files(path, _match(found, drawn, path, channels), channels)
    found, unread = tree.find_volumes(path)
    drawn = [f for f in found if LABEL_WORDS.search(f.stem)]
    images = [f for f in found if not LABEL_WORDS.search(f.stem)]
    if not images:
        what = f", but {tree.named(unread)}; convert the files to NIfTI" if unread else ""
        raise UserError(
            f"{path} holds no NIfTI, NRRD, MetaImage or DICOM image{what or '; put images there'}"
        )
    notes = (f"{len(unread)} file(s) are left aside: {tree.named(unread)}",) if unread else ()
    made = _of_files(path, _match(images, drawn, path, channels), channels)
    return dataclasses.replace(made, notes=(*made.notes, *notes))


def _match(
    images: list[tree.Found], labels: list[tree.Found], where: Path, channels: int
) -> list[_Files]:
    """Return the cases of some image files; names tell which have a label among ``labels``."""
    matched, lonely = match_found(images, labels, where)
    found = [_Files(case.name, case.images, True, case.folders) for case in matched]
    left = set(lonely)
    alone: dict[str, dict[int, tree.Found]] = {}
    for image in images:
        if image.path in left:
            case, index = image.stem, 0
            match = _CHANNEL.fullmatch(image.stem)
            if match is not None and (channels > 1 or match["channel"] == "0000"):
                case, index = match["case"], int(match["channel"])
            alone.setdefault("/".join((*image.folders, case)).lower(), {})[index] = image
    for name, files in alone.items():
        ordered = [files[index] for index in sorted(files)]
        found.append(_Files(name, tuple(f.path for f in ordered), False, ordered[0].folders))
    return sorted(found, key=lambda case: case.name)


def _of_files(
    folder: Path,
    cases: Sequence[_Files],
    channels: int,
    normalization: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Found:
    """Return those of some cases that train, read as volumes."""
    options: Mapping[str, Any] = {}
    if (folder / CLASS_FILE).is_file():
        options = read_class_map(folder / CLASS_FILE).options
    if options.get("normalization") is not None:
        normalization = norm.check(options["normalization"], CLASS_FILE, channels)
    for case in cases:
        if len(case.images) != channels:
            raise UserError(
                f"case {case.name!r} in {folder} has {len(case.images)} image(s) "
                f"({tree.named(list(case.images))}); the network takes {channels} channel(s): give "
                f"--channels {len(case.images)}, or images of {channels}"
            )
    kept_out, said = _held_out(folder, cases, options.get("patients"))
    taken = [case for case in cases if case.name not in kept_out]
    if not taken:
        raise UserError(
            f"{folder} has no image that its own split does not hold out; give images of other "
            "patients"
        )
    return Found(
        folder.resolve().name,
        [Case(case.name, functools.partial(_read, case.images)) for case in taken],
        normalization,
        tuple(sorted(kept_out)),
        (*notes, *said),
    )


def _held_out(
    folder: Path, cases: Sequence[_Files], given: Any
) -> tuple[set[str], tuple[str, ...]]:
    """Return the cases of patients that validate in the labelled part of a set, and notes.

    The split of training depends on labels where a patient's are empty or a class is rare. Such a
    difference is found when the network is trained: ``train --init`` compares the images.
    """
    labelled = [case for case in cases if case.labelled]
    if not labelled:
        return set(), ()
    names = [case.name for case in labelled]
    patients = given_patients(folder, names, given, CLASS_FILE)
    patients = patients or _told_apart(labelled)
    shows = {name: frozenset({1}) for name in names}
    path, unused = folder / SPLITS_FILE, frozenset[str]()
    if path.exists():
        division = divide_as_listed(path, shows, patients)
        unused = division.unused
    elif len(labelled) == 1:
        # alone it is divided by blocks of slices, which its labels choose
        return {names[0]}, (f"{names[0]} is left out: slices of it validate",)
    else:
        division = divide_cases(shows, patients, seed=0)
    # one without a label is of a patient that validates where their names or folders say so
    alike = _told_apart(cases).of
    validating = {alike[name] for name in division.val}
    others = {c.name for c in cases if not c.labelled and alike[c.name] in validating}
    kept_out = {*division.val, *others, *unused}
    return kept_out, (f"the labelled cases' split: {division.sentence}",)


def _told_apart(cases: Sequence[_Files]) -> Patients:
    folders = {case.name: case.folders for case in cases}
    return patients_by_folder(folders) or patients_by_name(list(folders))


def _read(paths: Sequence[Path]) -> tuple[list[np.ndarray], tuple[float, float]]:
    arrays, first = [], None
    for path in paths:
        array, geometry = read_image(path)
        if first is not None and not geometry.same_grid(first):
            raise UserError(
                f"{path} lies on another grid than {paths[0]}; resample it onto {paths[0].name}"
            )
        first = first or geometry
        arrays.append(array)
    assert first is not None
    return arrays, (first.spacing_mm[1], first.spacing_mm[2])


def _nnunet(folder: Path, channels: int) -> Found:
    dataset = read_dataset_json(folder / DATASET_FILE)
    if len(dataset.channels) != channels:
        raise UserError(
            f"{folder} has {len(dataset.channels)} channel(s) ({', '.join(dataset.channels)}), the "
            f"network takes {channels}: give --channels {len(dataset.channels)}"
        )
    assert is_nnunet(folder)
    if dataset.listed is not None:
        cases = [_Files(c.name, c.images, c.label.exists()) for c in dataset.listed]
    else:
        images = tree.find_volumes(folder / IMAGES)[0]
        labels = folder / LABELS
        drawn = tree.find_volumes(labels)[0] if labels.is_dir() else []
        cases = _match(images, drawn, folder, len(dataset.channels))
    kinds, notes = [], []
    for name in dataset.channels:
        if name.casefold() == CT:
            kinds.append(norm.window(*norm.ABDOMEN_WINDOW_HU))
            notes.append(
                "CT is clipped to the abdomen's window: the percentiles that nnU-Net takes are of "
                "labelled voxels"
            )
        else:
            kinds.append(norm.check(normalization_of(name), DATASET_FILE))
    return _of_files(folder, cases, channels, norm.of_channels(kinds), tuple(notes[:1]))


def _brats(folder: Path, channels: int) -> Found:
    cases = [
        _Files(name, images, label is not None) for name, images, label in brats.find_cases(folder)
    ]
    return _of_files(folder, cases, channels, norm.zscore("nonzero"))


def _one_channel(channels: int, where: str) -> None:
    if channels != 1:
        raise UserError(f"{where} has 1 channel, the network takes {channels}: give --channels 1")


def _arrays(stem_path: str, channels: int) -> Found:
    """Return the half of ``STEM_train.npz``; no other half is needed, and no label."""
    path = Path(f"{stem_path}_train.npz")
    _one_channel(channels, str(path))
    volumes = read_images(path)
    cases = [
        Case(name, functools.partial(_stored, image)) for name, image in sorted(volumes.items())
    ]
    val = Path(f"{stem_path}_val.npz")
    notes = (f"{val.name} is held out and not read",) if val.exists() else ()
    return Found(Path(stem_path).name, cases, norm.zscore(), (), notes)


def _stored(image: np.ndarray) -> tuple[list[np.ndarray], tuple[float, float]]:
    return [image.astype(np.float32, copy=False)], NO_SPACING


def _transunet(folder: Path, channels: int) -> Found:
    _one_channel(channels, str(folder))
    readers = transunet.training_images(folder)
    tests = (folder / transunet.TEST).is_dir() and any((folder / transunet.TEST).glob("*.h5"))
    kept_out: set[str] = set()
    if not tests:
        if len(readers) < 2:
            raise UserError(f"{folder / transunet.TRAIN} holds one case; give another case")
        patients = patients_by_name(sorted(readers))
        shows = {name: frozenset({1}) for name in readers}
        kept_out = set(divide_cases(shows, patients, seed=0).val)
    cases = [
        Case(name, lambda read=read: ([read()], NO_SPACING))  # type: ignore[misc]
        for name, read in sorted(readers.items())
        if name not in kept_out
    ]
    return Found(
        folder.resolve().name, cases, norm.window(0.0, 1.0), tuple(sorted(kept_out)),
        (f"{transunet.TEST} is held out and not read",) if tests else (),
    )  # fmt: skip
