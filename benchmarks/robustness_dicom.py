"""DICOM series of one slice a file that are wrong in one way or another."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from robustness_damage import add_strays, damage
from robustness_images import Rng, abdomen, any_affine, pick, reoriented, rotation, spacing_of_case

ROOT = "1.2.826.0.1.3680043.10.999."
pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def unique(rng: Rng) -> str:
    """Return an identifier that follows from the case."""
    return ROOT + str(int(rng.integers(1, 2**60)))


def grid(rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Return HU ``(columns, rows, slices)`` and their affine to LPS mm."""
    array = abdomen(rng)
    affine = any_affine(rng, spacing_of_case(rng), array.shape, rng.random() < 0.25)
    if rng.random() < 0.3:
        array, affine = reoriented(rng, array, affine)
    return array, np.diag([-1, -1, 1, 1]) @ affine


def common(rng: Rng, kind: str, ids: tuple[str, str, str], syntax: str) -> Dataset:
    """Return what every file has."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, syntax
    meta.MediaStorageSOPInstanceUID = unique(rng)
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PatientName, data.PatientID = "CT", "Drawn", "D1"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = ids
    data.StudyDate, data.StudyTime, data.AccessionNumber, data.StudyID = "20200101", "0", "", "1"
    data.PatientBirthDate, data.PatientSex, data.ReferringPhysicianName = "", "O", ""
    data.Manufacturer, data.SeriesNumber = "none", 2
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    return data


def text(values: Any) -> list[str]:
    """Return numbers as DICOM's decimal strings, 16 characters at most."""
    return [f"{float(v):.10g}"[:16] for v in values]


def slices(rng: Rng) -> tuple[list[Dataset], np.ndarray, np.ndarray]:
    """Return a series of slices, their HU and their affine."""
    array, affine = grid(rng)
    ids = (unique(rng), unique(rng), unique(rng))
    signed, slopes = rng.random() < 0.3, rng.random() < 0.2
    syntax = pick(rng, (ExplicitVRLittleEndian,) * 3 + (ImplicitVRLittleEndian,))
    made = []
    for k in range(array.shape[2]):
        slope, offset = (pick(rng, (0.05, 0.1, 0.5, 2.0)), -1200.0) if slopes else (1.0, -1024.0)
        if signed and not slopes:
            offset = 0.0
        data = common(rng, CTImageStorage, ids, syntax)
        data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], k + 1
        place = affine @ [0, 0, k, 1]
        across, down = (affine[:3, a] / np.linalg.norm(affine[:3, a]) for a in range(2))
        data.ImagePositionPatient = text(place[:3])
        data.ImageOrientationPatient = text([*across, *down])
        data.PixelSpacing = text([np.linalg.norm(affine[:3, 1]), np.linalg.norm(affine[:3, 0])])
        data.SliceThickness = text([np.linalg.norm(affine[:3, 2])])[0]
        data.RescaleSlope, data.RescaleIntercept = text([slope])[0], text([offset])[0]
        data.PixelRepresentation = int(signed)
        set_pixels(data, np.rint((array[:, :, k].T - offset) / slope), signed)
        made.append(data)
    return made, array, affine


def set_pixels(data: Dataset, stored: np.ndarray, signed: bool) -> None:
    """Give a data set pixels ``(rows, columns)`` or ``(frames, rows, columns)``."""
    limits = (-32768, 32767) if signed else (0, 65535)
    data.Rows, data.Columns = stored.shape[-2:]
    kind = "<i2" if signed else "<u2"
    data.PixelData = np.clip(stored, *limits).astype(kind).tobytes()
    data["PixelData"].VR = "OW"


def saved(data: Dataset) -> bytes:
    """Return a data set as a file's bytes."""
    stream = io.BytesIO()
    data.preamble = b"\0" * 128
    syntax = data.file_meta.TransferSyntaxUID
    if syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.dcmwrite(
        stream,
        data,
        force_encoding=True,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
    )
    return stream.getvalue()


Change = Callable[[Rng, list[Dataset]], str]


def one(rng: Rng, made: list[Dataset]) -> Dataset:
    return pick(rng, made)


def change_position(rng: Rng, made: list[Dataset]) -> str:
    """Move slices, all or one, by little or much."""
    first, last = (
        np.array([float(v) for v in d.ImagePositionPatient]) for d in (made[0], made[-1])
    )
    step = (last - first) / max(1, len(made) - 1)
    how = pick(rng, ("jitter", "jitter", "one off", "one beside", "tilt", "same place", "tail"))
    share = float(pick(rng, (0.001, 0.004, 0.02, 0.05, 0.3)))
    chosen = int(rng.integers(len(made)))
    for index, data in enumerate(made):
        place = np.array([float(v) for v in data.ImagePositionPatient])
        if how == "jitter":
            place = place + step * share * rng.uniform(-1, 1)
        elif how == "one off" and index == chosen:
            place = place + step * pick(rng, (share, 0.5, 1.0, -1.0, 3.0, 1000.0))
        elif how == "one beside" and index == chosen:
            place = place + rng.uniform(-3, 3, 3)
        elif how == "tilt":
            place = place + index * share * 5 * np.array([0, 1.0, 0])
        elif how == "same place":
            place = first
        elif how == "tail" and index == len(made) - 1:
            place = place + step
        data.ImagePositionPatient = text(place)
    return f"positions: {how} {share:g}"


BAD_TEXT = (
    "",
    "nan",
    "inf",
    "x",
    "1",
    "1\\2",
    "1\\2\\3\\4",
    "0\\0\\0",
    "-1\\-1",
    "0\\0",
    "1e400",
    "1,5\\1,5",
    " 1 \\ 1 ",
    "\xff",
    "0.0001\\0.0001",
    "999999\\999999",
    "-0",
    "0",
    "2",
    "1.5",
    "1\\0\\0\\0\\1\\0",
    "1\\0\\0\\1\\0\\0",
    "0\\1\\0\\1\\0\\0",
    "-1\\0\\0\\0\\1\\0",
)
TAGS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "RescaleSlope",
    "RescaleIntercept",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "InstanceNumber",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SOPClassUID",
    "Modality",
    "StudyInstanceUID",
    "PixelData",
    "ImageType",
    "FrameOfReferenceUID",
    "SpacingBetweenSlices",
    "SliceLocation",
    "PixelPaddingValue",
    "SpecificCharacterSet",
    "NumberOfFrames",
    "PatientName",
)
WHOLE = (0, 1, 2, 3, 8, 12, 15, 16, 17, 20, 32, 64, 255, 65535)


def change_tag(rng: Rng, made: list[Dataset]) -> str:
    """Take a tag away, or give it another value, of one slice or all."""
    name = pick(rng, TAGS)
    chosen = made if rng.random() < 0.4 else [one(rng, made)]
    gone = rng.random() < 0.3
    whole = name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
                     "PixelRepresentation", "SamplesPerPixel")  # fmt: skip
    value = int(pick(rng, WHOLE)) if whole else pick(rng, BAD_TEXT)
    if name == "PhotometricInterpretation":
        value = pick(rng, ("MONOCHROME1", "RGB", "PALETTE COLOR", "", "YBR_FULL"))
    for data in chosen:
        if name == "PixelData":
            data.PixelData = data.PixelData[: int(rng.integers(0, len(data.PixelData)))]
        elif gone:
            if name in data:
                del data[name]
        else:
            put(data, name, value)
    return f"{name} {'gone' if gone else repr(value)} of {len(chosen)} of {len(made)}"


def put(data: Dataset, name: str, value: Any) -> None:
    """Give a tag a value, right or wrong, as the bytes of a file may have it."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.dataelem import RawDataElement

    tag = pydicom.tag.Tag(tag_for_keyword(name))
    kind = dictionary_VR(tag).split(" ")[0]
    if isinstance(value, int):
        raw = value.to_bytes(2, "little")
    else:
        raw = value.encode("latin-1")
        raw += b" " * (len(raw) % 2)
    implicit = data.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    data._dict[tag] = RawDataElement(tag, kind, len(raw), raw, 0, implicit, True)


def change_spacing(rng: Rng, made: list[Dataset]) -> str:
    data = one(rng, made)
    factor = float(pick(rng, (1.0001, 1.005, 1.2, 0.5, 10.0)))
    data.PixelSpacing = text([float(v) * factor for v in data.PixelSpacing])
    return f"PixelSpacing of a slice times {factor:g}"


def change_slope(rng: Rng, made: list[Dataset]) -> str:
    for data in made if rng.random() < 0.5 else [one(rng, made)]:
        data.RescaleSlope = text([pick(rng, (0.05, 0.3333, 1.0, 1.5, 2.0))])[0]
        data.RescaleIntercept = text([pick(rng, (-1024.0, -1000.5, 0.0))])[0]
    return "other slopes and intercepts"


def change_orientation(rng: Rng, made: list[Dataset]) -> str:
    degrees = float(pick(rng, (0.01, 0.2, 5.0, 60.0)))
    turn = rotation(rng, degrees)
    chosen = [one(rng, made)] if rng.random() < 0.7 else made
    for data in chosen:
        given = [float(v) for v in data.ImageOrientationPatient]
        data.ImageOrientationPatient = text([*(turn @ given[:3]), *(turn @ given[3:])])
    return f"ImageOrientationPatient turned {degrees:g} degrees of {len(chosen)} of {len(made)}"


def leave_out(rng: Rng, made: list[Dataset]) -> str:
    count = min(len(made) - 1, int(pick(rng, (1, 1, 2))))
    for _ in range(count):
        made.pop(int(rng.integers(len(made))))
    return f"{count} slices left out"


def repeat(rng: Rng, made: list[Dataset]) -> str:
    again = copy.deepcopy(one(rng, made))
    if rng.random() < 0.5:
        again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = unique(rng)
        again.InstanceNumber = len(made) + 1
    made.append(again)
    return "a slice twice"


def add_other(rng: Rng, made: list[Dataset]) -> str:
    """Add an image that does not belong to the stack."""
    other = copy.deepcopy(one(rng, made))
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = unique(rng)
    how = pick(rng, ("localizer", "another series", "another size", "a report"))
    if how == "localizer":
        other.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        other.ImageOrientationPatient = ["1", "0", "0", "0", "0", "-1"]
    elif how == "another series":
        other.SeriesInstanceUID = unique(rng)
    elif how == "another size":
        set_pixels(other, np.zeros((9, 11)), False)
    else:
        other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = (
            "1.2.840.10008.5.1.4.1.1.88.11"
        )
        other.Modality, other.SeriesInstanceUID = "SR", unique(rng)
        del other.PixelData, other.Rows, other.Columns
    made.append(other)
    return f"also {how}"


def recode(rng: Rng, made: list[Dataset]) -> str:
    """Save in another transfer syntax."""
    syntax = pick(rng, (RLELossless, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian,
                        ImplicitVRLittleEndian))  # fmt: skip
    for data in made:
        if data.get("SOPClassUID", "") == CTImageStorage and "PixelData" in data:
            if syntax == RLELossless:
                data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                data.compress(RLELossless, generate_instance_uid=False)
            else:
                data.file_meta.TransferSyntaxUID = syntax
    return syntax.name


def twelve_bits(rng: Rng, made: list[Dataset]) -> str:
    for data in made:
        data.BitsStored, data.HighBit = 12, 11
    return "12 bits stored"


CHANGES: tuple[Change, ...] = (
    change_position, change_position, change_tag, change_tag, change_tag, change_tag,
    change_spacing, change_slope, change_orientation, leave_out, repeat, add_other, recode,
    twelve_bits,
)  # fmt: skip


def dicom_case(rng: Rng, folder: Path) -> tuple[Path, str, bool]:
    """Write a folder with a series; return it, what is odd about it and whether it is sound."""
    clean, said = rng.random() < 0.12, []
    made, _, _ = slices(rng)
    if not clean:
        for _ in range(int(rng.integers(1, 3))):
            said.append(tried(pick(rng, CHANGES), rng, made))
    place = folder / "series"
    place.mkdir()
    files = [saved_or_not(data, said) for data in made]
    names = [f"IM{i:04d}.dcm" for i in range(len(files))]
    if rng.random() < 0.3:
        rng.shuffle(names)
    if not clean and rng.random() < 0.3:
        said.append(damage(rng, files))
    for name, content in zip(names, files, strict=True):
        (place / name).write_bytes(content)
    if not clean and rng.random() < 0.25:
        said.append(add_strays(rng, place))
    return place, "; ".join(said), clean


def tried(change: Callable[..., str], rng: Rng, made: Any) -> str:
    """Make a change; one that does not fit what an earlier change left is not made."""
    try:
        return change(rng, made)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError,
            NotImplementedError) as error:  # fmt: skip
        return f"{change.__name__} does not fit: {type(error).__name__}"


def saved_or_not(data: Dataset, said: list[str]) -> bytes:
    try:
        return saved(data)
    except Exception as error:
        said.append(f"not saved: {type(error).__name__}")
        return b""
