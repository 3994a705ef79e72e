"""BraTS: a folder for each case with four modalities and the segmentation of the tumour."""

from __future__ import annotations

import re
from pathlib import Path

from lmaunet.data import normalization as norm
from lmaunet.data.class_map import ClassMap
from lmaunet.data.images.volumes import stem
from lmaunet.data.layouts.cases import Case, Wanted, read_cases
from lmaunet.data.layouts.folders import is_folder, named, readable_volume, visible
from lmaunet.data.source import Source
from lmaunet.errors import UserError

CHANNELS = ("T1", "T1 with contrast", "T2", "FLAIR")
CLASSES = ("background", "necrotic tumour core", "oedema", "enhancing tumour")
# the years' names of the four, in the order of CHANNELS, and their codes
STYLES = {
    "2020": (("t1", "t1ce", "t2", "flair"), {1: 1, 2: 2, 4: 3}),
    "2023": (("t1n", "t1c", "t2w", "t2f"), {1: 1, 2: 2, 3: 3}),
}
SEGMENTATION = "seg"

_MODALITY = re.compile(r".+[-_](?P<modality>t1|t1ce|t2|flair|t1n|t1c|t2w|t2f|seg)", re.IGNORECASE)


def is_brats(folder: Path) -> bool:
    """Tell whether a folder holds folders of cases with two modalities or more each."""
    return any(len(_files(case)) >= 2 for case in _case_folders(folder))


def read_brats(folder: Path, class_map: ClassMap | None, classes: int | None, seed: int) -> Source:
    """Read ``CASE/CASE_{t1,t1ce,t2,flair,seg}.nii.gz`` or ``CASE/CASE-{t1n,t1c,t2w,t2f,seg}``.

    Labels 1, 2, 4 of the years to 2021 become classes 1, 2, 3, as 1, 2, 3 of 2023 do. Each
    modality is normalised by its non-zero voxels.

    Raises:
        UserError: where a modality or the segmentation of a case is missing, or the names are of
            both kinds.
    """
    cases, year = brats_cases(folder)
    kept = "" if year == "2023" else ", label 4 read as class 3"
    wanted_of = Wanted(
        name=folder.resolve().name,
        layout=f"BraTS, files named as in {year}{kept}",
        channels=CHANNELS,
        normalization=norm.zscore("nonzero"),
    )
    if class_map is None:
        class_map = ClassMap(CLASSES, STYLES[year][1])
    return read_cases(folder, cases, wanted_of, class_map, classes=classes, seed=seed)


def brats_cases(folder: Path) -> tuple[list[Case], str]:
    """Return the cases of a folder by their names, and the year whose names they have.

    Raises:
        UserError: as for :func:`read_brats`.
    """
    cases: list[Case] = []
    years: dict[str, Path] = {}
    for place in _case_folders(folder):
        files = _files(place)
        if not files:
            raise UserError(
                f"{place} holds no BraTS modality; expected {place.name}_t1 and so on; remove the "
                "folder or rename the files"
            )
        year = _year(files, place)
        years.setdefault(year, place)
        wanted = (*STYLES[year][0], SEGMENTATION)
        lacking = [name for name in wanted if name not in files]
        if lacking:
            others = [p for p in visible(place) if p not in files.values()]
            raise UserError(
                f"{place} has no {lacking[0]} ({place.name}{_separator(files)}{lacking[0]}.nii.gz)"
                f"{'; it also holds ' + named(others) if others else ''}; add or rename it"
                f"{', or remove the case' if lacking[0] == SEGMENTATION else ''}"
            )
        images = tuple(files[name] for name in STYLES[year][0])
        cases.append(Case(place.name.lower(), images, files[SEGMENTATION]))
    if len(years) > 1:
        raise UserError(
            f"{folder} mixes two kinds of BraTS, whose labels differ: {years['2020'].name} has "
            f"{', '.join(STYLES['2020'][0])} and {years['2023'].name} has "
            f"{', '.join(STYLES['2023'][0])}; keep them in folders of their own"
        )
    return sorted(cases, key=lambda c: c.name), next(iter(years))


def find_cases(folder: Path) -> list[tuple[str, tuple[Path, ...], Path | None]]:
    """Return each case's name, its four images and its segmentation, which may be missing.

    Raises:
        UserError: where a modality of a case is missing.
    """
    found = []
    for place in _case_folders(folder):
        files = _files(place)
        if not files:
            raise UserError(f"{place} holds no BraTS modality; remove the folder")
        wanted = STYLES[_year(files, place)][0]
        lacking = [name for name in wanted if name not in files]
        if lacking:
            raise UserError(f"{place} has no {lacking[0]}; add it, or remove the case")
        images = tuple(files[name] for name in wanted)
        found.append((place.name.lower(), images, files.get(SEGMENTATION)))
    return sorted(found, key=lambda case: case[0])


def _case_folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if is_folder(path)]


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a case by modality."""
    files: dict[str, Path] = {}
    for path in visible(folder):
        match = _MODALITY.fullmatch(stem(path))
        if match is None or not readable_volume(path):
            continue
        other = files.setdefault(match["modality"].lower(), path)
        if other != path:
            raise UserError(
                f"{path} and {other.name} are the same modality of one case; expected one file; "
                "remove one"
            )
    return files


def _separator(files: dict[str, Path]) -> str:
    modality, path = next(iter(files.items()))
    return stem(path)[-len(modality) - 1]


def _year(files: dict[str, Path], place: Path) -> str:
    counts = {year: len(files.keys() & set(names)) for year, (names, _) in STYLES.items()}
    if all(counts.values()):
        raise UserError(
            f"{place} has names of two kinds of BraTS ({', '.join(sorted(files))}); keep one"
        )
    return max(counts, key=lambda year: counts[year])
