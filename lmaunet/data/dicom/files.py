"""Which files of a folder are the DICOM series, found from their bytes and headers."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from lmaunet.data.dicom.header import Header, damaged, read_header
from lmaunet.errors import UserError

JUNK = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
INDEX = "DICOMDIR"
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
# kinds that have pixels but are made from images: segmentations (two kinds) and doses
DERIVED = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
}
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
LOOK_BELOW = 5_000
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR "
    b"US UT UV".split()
)


def is_dicom(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do, with or without the preamble of 128 bytes."""
    with path.open("rb") as stream:
        return begins_as_dicom(stream.read(132))


def begins_as_dicom(start: bytes) -> bool:
    """Tell whether the first 132 bytes or more are those of a DICOM file."""
    return start[128:132] == b"DICM" or _begins_without_preamble(start)


def holds_dicom(folder: Path) -> bool:
    """Tell whether a folder itself holds a DICOM file, hidden files left aside."""
    with contextlib.suppress(OSError, UserError):
        return any(_is_readable_dicom(path) for path in _visible_files(folder))
    return False


def read_headers(path: Path) -> tuple[list[Header], tuple[str, ...]]:
    """Return the headers of the one image series of a folder or file, and notes.

    Files that are no images, such as RTSTRUCT, SR and SEG, are left aside with a note.

    Raises:
        UserError: where there is no series, or more than one, or a file is damaged.
    """
    if path.is_dir():
        headers = _of_folder(path)
    else:
        if not is_dicom(path):
            raise UserError(f"{path} is no DICOM file; give a DICOM file or the series' folder")
        headers = [read_header(path)]
    directories, headers = _part(headers, lambda h: h.text("SOPClassUID") == MEDIA_DIRECTORY)
    if not headers and directories:
        place = directories[0].path
        raise UserError(_only_a_directory(place, _folders_below(place.parent)))
    images, others = _part(headers, _is_image)
    if not images:
        raise UserError(
            f"{path} holds no DICOM image, but {_kinds(others)}; give the folder with the images"
        )
    images, captures = _without_captures(images)
    notes = []
    if others or captures:
        notes.append(f"left aside, because they are no slices: {_kinds([*others, *captures])}")
    if _check_one_series(images, path) == "" and len(images) > 1:
        notes.append("no file has a SeriesInstanceUID: all are taken for one series")
    _check_whole(images, path)
    return images, tuple(notes)


def listing(names: Sequence[str], most: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _begins_without_preamble(start: bytes) -> bool:
    """Tell whether bytes are a first DICOM element, of the group of the file or of the image."""
    for order in ("little", "big"):
        group = int.from_bytes(start[:2], order)  # type: ignore[arg-type]
        element = int.from_bytes(start[2:4], order)  # type: ignore[arg-type]
        if group not in (2, 8) or element > 0x0020 or len(start) < 132:
            continue
        length = int.from_bytes(start[4:8], order)  # type: ignore[arg-type]
        if start[4:6] in _VRS or (length % 2 == 0 and length <= 256):
            return True
    return False


def _is_readable_dicom(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return is_dicom(path)
    return False


def _visible_files(folder: Path) -> list[Path]:
    """Return a folder's files, sorted, without hidden ones and what file managers leave.

    Raises:
        UserError: for a link that leads nowhere, because what it stood for would be missing.
    """
    files = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in JUNK:
            continue
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a link to nothing; get the file that it stands for")
        if path.is_file():
            files.append(path)
    return files


def _of_folder(folder: Path) -> list[Header]:
    """Return the headers of a folder's DICOM files, its DICOMDIR left aside.

    Raises:
        UserError: where there is none, or a file is named as they are but is none: a slice that is
            damaged from its first byte must not be missing in silence.
    """
    try:
        files = _visible_files(folder)
        found = [path for path in files if path.name.upper() != INDEX and is_dicom(path)]
        suffixes = {_suffix(path) for path in found} | SUFFIXES
        lost = [
            path
            for path in files
            if path not in found
            and path.name.upper() != INDEX
            and (_suffix(path) in suffixes)
            and not (_suffix(path) == "" and _is_text(path))
        ]
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be read: {error.strerror}; check its rights"
        ) from error
    if not found:
        raise UserError(_no_series(folder, files))
    if lost:
        raise UserError(damaged(lost[0], "named as DICOM files are, but does not begin as they do"))
    return [read_header(path) for path in found]


def _is_text(path: Path) -> bool:
    """Tell whether a file has content without zero bytes, as a README has and no image."""
    with path.open("rb") as stream:
        start = stream.read(512)
    return bool(start) and b"\0" not in start


def _suffix(path: Path) -> str:
    """Return a name's suffix in lower case; none where it is a number, as in a UID."""
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _no_series(folder: Path, files: Sequence[Path]) -> str:
    below = _folders_below(folder)
    if any(path.name.upper() == INDEX for path in files):
        return _only_a_directory(folder / INDEX, below)
    if len(below) == 1:
        return f"{folder} holds no DICOM series itself; the series is in {below[0]}: give that"
    if below:
        return (
            f"{folder} holds no DICOM series itself, but {len(below)} folders below do: "
            f"{listing([str(p) for p in below])}; give one of them"
        )
    named = [p.name for p in files if _suffix(p) in SUFFIXES]
    if named:
        return (
            f"{folder} holds no DICOM series: {listing(named)}, by its name one, does not begin "
            "as DICOM files do; get the files again"
        )
    return f"{folder} holds no DICOM series; give a folder with one series"


def _folders_below(folder: Path) -> list[Path]:
    """Return the folders below that hold DICOM files, hidden ones left aside."""
    found = []
    for looked, (place, folders, _) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(place) != folder and holds_dicom(Path(place)):
            found.append(Path(place))
        if looked >= LOOK_BELOW:
            break
    return found


def _only_a_directory(path: Path, below: Sequence[Path]) -> str:
    places = listing([str(p) for p in below]) if below else "the folder of a series"
    return f"{path} is only the index of a medium; give one series: {places}"


def _part(
    headers: Sequence[Header], which: Callable[[Header], bool]
) -> tuple[list[Header], list[Header]]:
    """Return the headers that are of a kind, and the others, both in order."""
    parts: tuple[list[Header], list[Header]] = [], []
    for header in headers:
        parts[0 if which(header) else 1].append(header)
    return parts


def _is_image(header: Header) -> bool:
    """Tell whether a file is an image; raise UserError for an image without pixels."""
    from pydicom.uid import UID

    sop_class = header.text("SOPClassUID")
    if sop_class in DERIVED:
        return False
    if any(keyword in header.dataset for keyword in PIXELS):
        return True
    if "Image Storage" in UID(sop_class).name:
        raise UserError(damaged(header.path, "an image without pixels"))
    return False


def _kinds(headers: Sequence[Header]) -> str:
    """Return how many files of which kind there are, each kind with the name of a file."""
    kinds: dict[str, list[str]] = {}
    for header in headers:
        kind = DERIVED.get(header.text("SOPClassUID")) or header.text("Modality") or "other"
        kinds.setdefault(kind, []).append(header.path.name)
    return ", ".join(f"{len(names)} {kind} ({listing(names, 1)})" for kind, names in kinds.items())


def _without_captures(images: list[Header]) -> tuple[list[Header], list[Header]]:
    """Part screenshots, which have no place in the patient, from images of another kind."""

    def is_capture(header: Header) -> bool:
        tags = header.dataset
        placed = "ImagePositionPatient" in tags or "PerFrameFunctionalGroupsSequence" in tags
        return header.text("SOPClassUID").startswith(SECONDARY_CAPTURE) and not placed

    captures, slices = _part(images, is_capture)
    return (slices, captures) if slices else (images, [])


def _check_one_series(images: Sequence[Header], path: Path) -> str:
    """Return the series' UID, empty where an anonymiser took it; raise UserError for several."""
    series: dict[str, list[Header]] = {}
    for header in images:
        uid = header.text("SeriesInstanceUID")
        series.setdefault(uid, []).append(header)
    if len(series) > 1:
        known = "; ".join(_describe(headers) for headers in series.values())
        raise UserError(
            f"{path} holds {len(series)} DICOM series: {known}. Expected one; move each into a "
            "folder of its own and give that"
        )
    return next(iter(series))


def _describe(headers: Sequence[Header]) -> str:
    """Return a series in words: kind, number, description, size, and where it begins."""
    first = headers[0]
    text = f"{first.text('Modality') or 'series'} {first.text('SeriesNumber')}".strip()
    if first.text("SeriesDescription"):
        text += f" '{first.text('SeriesDescription')}'"
    slices = 0
    for header in headers:
        slices += _count(header.text("NumberOfFrames")) or 1
    return f"{text}, {slices} slice(s), {listing([h.path.name for h in headers], 1)}"


def _check_whole(images: Sequence[Header], path: Path) -> None:
    """Raise UserError where files of one image that was split (a concatenation) are missing."""
    parts = [h for h in images if h.text("ConcatenationUID")]
    if not parts:
        return
    uids = Counter(h.text("ConcatenationUID") for h in parts)
    if len(uids) > 1 or len(parts) < len(images):
        raise UserError(
            f"{path} holds {len(uids)} split image(s) and {len(images) - len(parts)} other(s) in "
            "one series; expected one image; move each into a folder of its own"
        )
    numbers = sorted(_count(h.text("InConcatenationNumber")) for h in parts)
    total = _count(parts[0].text("InConcatenationTotalNumber")) or numbers[-1]
    if numbers != list(range(1, total + 1)):
        raise UserError(
            f"{path} holds part(s) {', '.join(map(str, numbers))} of an image that was split into "
            f"{total} files; expected all of them, each once; give the folder with all parts"
        )


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0
