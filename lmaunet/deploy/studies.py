"""The studies of an archive: which files are one study, where its mask goes, what is known of it.

A study is one image, or for a network of several channels the files ``NAME_0000``, ``NAME_0001``
and so on of a folder, as nnU-Net names them. Its mask lies under the same folders and name. Beside
the mask stands ``NAME.json``, the record: what became of the study, for which files, build and
options. The worker that writes the mask writes the record behind it, so that whatever stops, the
records tell what is left to do.

Nothing here grows with the archive: studies come from the folders one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.data.images.volumes import stem
from lmaunet.data.layouts.folders import NAMED, UNREAD, is_folder, readable_volume, visible
from lmaunet.data.layouts.pairs import CHANNEL, LABEL_WORDS
from lmaunet.errors import UserError
from lmaunet.stage import read_json, write_json

SCHEMA = 1
DEEPEST = 32
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class Study:
    """A study: its name below the archive, its images, and why it can't be segmented, if so."""

    name: str
    images: tuple[Path, ...]
    fault: str = ""

    def mask(self, masks: Path, suffix: str) -> Path:
        """Return the path of its mask in the folder of all masks."""
        return masks / f"{self.name}{suffix}"

    def record(self, masks: Path) -> Path:
        """Return the path of its record in the folder of all masks."""
        return masks / f"{self.name}.json"

    def state(self) -> list[dict[str, Any]]:
        """Return what tells its files from changed ones: names, sizes in bytes, times of change.

        Raises:
            OSError: where a file is gone.
        """
        files = [file for image in self.images for file in _files(image)]
        of = [(file, file.stat()) for file in files]
        return [
            {"name": file.name, "bytes": status.st_size, "changed_ns": status.st_mtime_ns}
            for file, status in of
        ]


def _files(image: Path) -> list[Path]:
    return [path for path in visible(image) if path.is_file()] if image.is_dir() else [image]


class Aside:
    """Counts the files that are passed over and keeps the names of the first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: tuple[str, ...] = ()

    def add(self, path: Path) -> None:
        """Note a file."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first = (*self.first, path.name)

    def note(self) -> list[str]:
        """Return a line on them; none where there are none."""
        if not self.count:
            return []
        names = ", ".join(self.first) + (", ..." if self.count > len(self.first) else "")
        return [f"{self.count} file(s) passed over, labels and other formats: {names}"]


def find_studies(
    archive: Path, channels: int, missing: Sequence[int] = (), aside: Aside | None = None
) -> Iterator[Study]:
    """Return the studies of a folder and of the folders in it, by name.

    A folder of DICOM files is an image. Labels beside images (``ct_seg.nii.gz``) and images of
    formats that are not read are passed over and noted; files that would have the same mask, and a
    folder that cannot be read, are a study with a fault.

    Args:
        archive: the folder.
        channels: images that the network takes.
        missing: the numbers of those that no study has, from 1.
        aside: takes note of what is passed over.

    Raises:
        UserError: where the archive cannot be read, or a folder lies more than 32 deep.
    """
    numbers = tuple(i for i in range(channels) if i + 1 not in missing)
    visible(archive)
    yield from _below(archive, archive, channels > 1, numbers, aside or Aside(), 0)


def _below(
    archive: Path, folder: Path, numbered: bool, numbers: Sequence[int], aside: Aside, depth: int
) -> Iterator[Study]:
    if depth > DEEPEST:
        raise UserError(f"{folder} lies more than {DEEPEST} folders deep; is there a link upwards?")
    cases: dict[str, dict[int, list[Path]]] = {}
    folders = []
    try:
        held = visible(folder)
    except UserError as error:
        yield Study(folder.relative_to(archive).as_posix(), (), str(error))
        return
    for path in held:
        if is_folder(path) and not readable_volume(path):
            folders.append(path)
            continue
        case, index = _case_of(path, numbered)
        if readable_volume(path) and not LABEL_WORDS.search(case):
            cases.setdefault(case, {}).setdefault(index, []).append(path)
        elif readable_volume(path) or path.name.lower().endswith(UNREAD):
            aside.add(path)
    for case in sorted(cases):
        name = (folder / case).relative_to(archive).as_posix()
        files = cases[case]
        ordered = tuple(path for index in sorted(files) for path in files[index])
        yield Study(name, ordered, _fault(files, numbers))
    for path in folders:
        yield from _below(archive, path, numbered, numbers, aside, depth + 1)


def _case_of(path: Path, numbered: bool) -> tuple[str, int]:
    name = path.name if path.is_dir() else stem(path)
    match = CHANNEL.fullmatch(name)
    if match is not None and (numbered or match["channel"] == "0000"):
        return match["case"], int(match["channel"])
    return name, 0


def _fault(files: Mapping[int, list[Path]], numbers: Sequence[int]) -> str:
    for same in files.values():
        if len(same) > 1:
            names = ", ".join(path.name for path in same)
            return f"{names} would have one mask; rename all but one"
    if sorted(files) != list(numbers):
        names = ", ".join(path.name for same in files.values() for path in same)
        return f"{names}: expected {len(numbers)} image(s), " + ", ".join(
            f"NAME_{index:04}" for index in numbers
        )
    return ""


def read_record(study: Study, masks: Path) -> dict[str, Any] | None:
    """Return what is known of a study; None where nothing is, or no record of ours lies there."""
    try:
        found = read_json(study.record(masks))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return None
    return found


def is_done(study: Study, masks: Path, suffix: str, key: str) -> bool:
    """Tell whether a study's mask is there already, for the same files, build and options."""
    found = read_record(study, masks)
    if found is None or found.get("status") != DONE or found.get("key") != key:
        return False
    try:
        size = study.mask(masks, suffix).stat().st_size
        return bool(found.get("files") == study.state() and found.get("mask_bytes") == size)
    except (OSError, UserError):
        return False


def write_failure(
    study: Study, masks: Path, suffix: str, key: str, why: str, seconds: float | None = None
) -> dict[str, Any]:
    """Write and return the record of a study that failed; a mask of its earlier files goes."""
    mask = study.mask(masks, suffix)
    if not mask.is_dir():
        mask.unlink(missing_ok=True)
    record = {"key": key, "status": FAILED, "error": why, "seconds": seconds}
    write_record(study, masks, record)
    return record


def write_record(study: Study, masks: Path, content: Mapping[str, Any]) -> None:
    """Write a study's record, whole or not at all."""
    path = study.record(masks)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": SCHEMA, "study": study.name, **content})
