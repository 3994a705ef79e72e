"""Folders of images and of labels, a case matched by its name; several channels as nnU-Net's."""

from __future__ import annotations

import re
from pathlib import Path

from lmaunet.data.class_map import ClassMap
from lmaunet.data.layouts.cases import Case, Wanted, read_cases
from lmaunet.data.layouts.folders import Found, find_volumes, named, understood
from lmaunet.data.source import Source
from lmaunet.errors import UserError

PAIR_FOLDERS = (("images", "labels"), ("img", "label"), ("imagesTr", "labelsTr"))
FORMATS = "NIfTI, NRRD or DICOM image"

_PREFIX = re.compile(
    r"^(image|img|label|lbl|segmentation|seg|mask|volume)s?[-_]?(?=.)", re.IGNORECASE
)
LABEL_WORDS = re.compile(r"(?<=.)[-_](label|lbl|seg|segmentation|mask|gt)s?$", re.IGNORECASE)
_SUFFIX = re.compile(r"(?<=.)[-_](image|img|label|lbl|seg|segmentation|mask|gt)s?$", re.IGNORECASE)
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def read_pairs(
    images: Path, labels: Path, class_map: ClassMap | None, classes: int | None, seed: int
) -> Source:
    """Read two folders whose files have the same names, apart from words such as ``img``.

    ``CASE_0000``, ``CASE_0001`` are the channels of a case. In folders below, files have the
    same names in the same folders, and each folder counts as a patient.

    Args:
        images, labels: the folders.
        class_map: None takes label values as class indices.
        classes: how many classes the network has, where that is known.
        seed: draws the cases that validate.
    """
    cases, notes = match_cases(images, labels)
    wanted = Wanted(
        name=images.parent.resolve().name,
        layout=f"{images.name}/ and {labels.name}/ with NIfTI or NRRD files",
        channels=channel_names(cases),
        notes=notes,
    )
    return read_cases(images.parent, cases, wanted, class_map, classes=classes, seed=seed)


def match_cases(
    images: Path, labels: Path, channels: int | None = None, ending: str | None = None
) -> tuple[list[Case], tuple[str, ...]]:
    """Return the cases of two folders, and notes on files that are left aside.

    Args:
        images, labels: the folders.
        channels: how many images each case must have; None takes the first case's number.
        ending: take files whose names end in it only.

    Raises:
        UserError: where a file has no partner, two have one case's name, or a channel is missing.
    """
    drawn = _volumes(labels, ending)[0]
    found, notes = _volumes(images, ending)
    cases, lonely = match_found(found, drawn, images, channels)
    if lonely:
        raise UserError(
            f"{named(sorted(lonely))} in {images.parent} have no partner: {images.name}/ and "
            f"{labels.name}/ must hold files of the same names"
        )
    return cases, notes


def match_found(
    images: list[Found], labels: list[Found], where: Path, channels: int | None = None
) -> tuple[list[Case], list[Path]]:
    """Return the cases of some images and labels, and the files that have no partner."""
    label_of = _by_case(labels)
    exact = {(f.folders, f.stem.lower()): key for key, f in label_of.items()}
    of_case: dict[str, dict[int, Path]] = {}
    lonely = []
    for image in images:
        key, channel = _place(image, exact, label_of)
        if key not in label_of:
            lonely.append(image.path)
            continue
        other = of_case.setdefault(key, {}).setdefault(channel, image.path)
        if other != image.path:
            raise UserError(
                f"{image.path} and {other.name} have the same case name {key!r}; expected one file "
                "a case and channel; rename or remove one"
            )
    lonely += [label.path for key, label in label_of.items() if key not in of_case]
    _check_channels(of_case, channels, where)
    cases = [
        Case(
            key,
            tuple(path for _, path in sorted(of_case[key].items())),
            label_of[key].path,
            label_of[key].folders,
        )
        for key in sorted(of_case)
    ]
    return cases, lonely


def channel_names(cases: list[Case]) -> tuple[str, ...]:
    """Return names for the channels of cases whose files give none."""
    count = max(len(case.images) for case in cases)
    return ("image",) if count == 1 else tuple(f"channel {i}" for i in range(count))


def _volumes(folder: Path, ending: str | None) -> tuple[list[Found], tuple[str, ...]]:
    found, unread = find_volumes(folder)
    if ending is not None:
        other = [f.path for f in found if not f.path.name.endswith(ending)]
        found = [f for f in found if f.path.name.endswith(ending)]
        unread = [*unread, *other]
    if not found:
        such = f" that ends in {ending}" if ending is not None else ""
        if unread:
            raise UserError(
                f"{folder} holds no {FORMATS}{such}, but {named(unread)}; convert the files to "
                "NIfTI"
            )
        raise UserError(
            f"{folder} holds no {FORMATS}{such}; put the images there, or give a folder with "
            f"{understood()}"
        )
    if not unread:
        return found, ()
    return found, (f"{len(unread)} file(s) in {folder.name}/ are left aside: {named(unread)}",)


def _bare(stem: str) -> str:
    return _PREFIX.sub("", _SUFFIX.sub("", stem)).lower()


def _key(folders: tuple[str, ...], stem: str) -> str:
    """Return what the names of an image and of its label have in common, folders included."""
    return "/".join([*map(str.lower, folders), _bare(stem)])


def _by_case(labels: list[Found]) -> dict[str, Found]:
    by_case: dict[str, Found] = {}
    for label in labels:
        key = _key(label.folders, label.stem)
        if key in by_case:
            raise UserError(
                f"{label.path} and {by_case[key].path.name} have the same case name {key!r}; "
                "expected one file a case; rename or remove one"
            )
        by_case[key] = label
    return by_case


def _place(
    image: Found, exact: dict[tuple[tuple[str, ...], str], str], labels: dict[str, Found]
) -> tuple[str, int]:
    """Return the case and the channel of an image file."""
    own = exact.get((image.folders, image.stem.lower()))
    if own is not None:
        return own, 0
    match = CHANNEL.fullmatch(image.stem)
    if match:
        for stem in (match["case"], _SUFFIX.sub("", match["case"])):
            key = _key(image.folders, stem)
            if key in labels:
                return key, int(match["channel"])
    return _key(image.folders, image.stem), 0


def _check_channels(
    of_case: dict[str, dict[int, Path]], channels: int | None, folder: Path
) -> None:
    count = channels or max((len(found) for found in of_case.values()), default=1)
    for case, found in sorted(of_case.items()):
        lacking = sorted(set(range(count)) - found.keys())
        if lacking:
            raise UserError(
                f"case {case!r} in {folder} has no channel {lacking[0]} (a file that ends in "
                f"_{lacking[0]:04d}); expected {count} for each case; add it, or remove the case"
            )
        if len(found) > count:
            raise UserError(
                f"case {case!r} in {folder} has {len(found)} images "
                f"({named(sorted(found.values()))}); expected {count}; remove what is too much"
            )
