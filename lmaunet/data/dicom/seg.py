"""DICOM out: a segmentation as a DICOM SEG object, which refers to the slices it was made from.

highdicom builds the object. What it takes from the source is made whole first: an anonymised
header lacks tags that it needs, and slices may differ in the last digit of an orientation.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.dicom.codes import segment_code
from lmaunet.data.dicom.header import Header, needed_package, quiet
from lmaunet.data.dicom.series import DicomImage
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LONGEST_TEXT = 64  # of a DICOM LO
CONTENT_LABEL = "SEGMENTATION"
SERIES_OFFSET = 1000
UTF_8 = "ISO_IR 192"
PRODUCT = "lmaunet-deploy"
PLACE_TOLERANCE_MM = 1e-3
INSTEAD = "write .nii.gz or .nrrd instead"

_TEXTS = (
    "PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName",
    "StudyDescription", "PatientAge", "IssuerOfPatientID", "ClinicalTrialSubjectID",
    "PositionReferenceIndicator", "PatientPosition", "BodyPartExamined", "Laterality",
)  # fmt: skip


def check_segmentation_source(source: DicomImage | None, path: Path) -> tuple[str, ...]:
    """Check that a DICOM SEG can refer to an image, before anything is computed; return notes.

    Args:
        source: the image; None for one that is no DICOM.
        path: where the segmentation is to go, or the image's name.

    Raises:
        UserError: where it is no DICOM, or lacks what a SEG refers to.
        ToolNotFound: where highdicom is not installed.
    """
    if source is None:
        raise UserError(
            f"{path}: DICOM SEG refers to the slices of a DICOM series, and the image is none; "
            f"{INSTEAD}, or give the DICOM series"
        )
    _highdicom()
    uids = [header.text("SOPInstanceUID") for header in source.headers]
    if not all(uids) or len(set(uids)) < len(uids):
        raise UserError(
            f"{path}: DICOM SEG refers to slices by SOPInstanceUID, which the image's files lack "
            f"or share; {INSTEAD}"
        )
    first = source.headers[0]
    if "Image Storage" not in _class_name(first):
        raise UserError(
            f"{path}: the image's SOPClassUID {first.text('SOPClassUID')} is no class of images "
            f"that a DICOM SEG could refer to; {INSTEAD}"
        )
    if not first.text("FrameOfReferenceUID"):
        raise UserError(
            f"{path}: DICOM SEG lies in the frame of reference of its image, and the image has no "
            f"FrameOfReferenceUID; {INSTEAD}"
        )
    if len(source.headers) > 1 and any(frame.number is not None for frame in source.frames):
        raise UserError(
            f"{path}: the image is split into {len(source.headers)} multi-frame files; a DICOM SEG "
            f"refers to one; {INSTEAD}"
        )
    lost = [key for key in ("StudyInstanceUID", "SeriesInstanceUID") if not first.text(key)]
    if lost:
        return (
            f"the image has no {' and '.join(lost)} (anonymised): the SEG gets new ones, by which "
            "an archive cannot file it with the image",
        )
    return ()


def write_segmentation(
    path: Path, labels: np.ndarray, source: DicomImage, classes: Sequence[str], network: str
) -> Path:
    """Write labels as DICOM SEG: a segment for each class but the background, also without voxels.

    The file is complete or absent: it is written beside its place, read back, and renamed.

    Args:
        path: the file.
        labels: class indices ``(z, y, x)``, as ``source.array`` lies.
        source: the image.
        classes: names by index, the background first.
        network: what made the labels, for the descriptions.

    Raises:
        UserError: where shapes or classes do not fit, or the file cannot be written or read back.
    """
    import numpy as np

    check_segmentation_source(source, path)
    if tuple(labels.shape) != source.array.shape:
        raise UserError(
            f"{path}: labels of shape {tuple(labels.shape)}; expected {source.array.shape}, as the "
            "image"
        )
    largest = int(labels.max(initial=0))
    if largest >= len(classes) or len(classes) < 2 or int(labels.min(initial=0)) < 0:
        raise UserError(
            f"{path}: labels up to {largest} and {len(classes)} classes; expected labels below the "
            "number of classes, and one class beside the background"
        )
    kind = np.uint8 if len(classes) <= 256 else np.uint16
    order = _source_order(source)
    partial = path.with_name(f".partial-{os.getpid()}.dcm")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _silent():
            dataset = _segmentation(labels.astype(kind)[order], source, classes, network)
            with partial.open("wb") as stream:
                dataset.save_as(stream)
                stream.flush()
                os.fsync(stream.fileno())
            _check_written(partial, labels, source, len(classes) - 1)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:  # highdicom refuses a source by many kinds of errors
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot write {path} as DICOM SEG: {line}; {INSTEAD}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _class_name(header: Header) -> str:
    from pydicom.uid import UID

    return UID(header.text("SOPClassUID")).name


def _highdicom() -> Any:
    return needed_package("highdicom", "to write DICOM SEG")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep notices of highdicom, such as that a mask is empty, off the terminal."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(level)


def _source_order(source: DicomImage) -> list[int]:
    """Return which slice of the volume each source image or frame is, in the file's order."""
    keys = [(frame.source, frame.number or 0) for frame in source.frames]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _segmentation(
    labels: np.ndarray, source: DicomImage, classes: Sequence[str], network: str
) -> Any:
    """Return the SEG object of labels in the order of the source's files and frames."""
    hd = _highdicom()
    from highdicom.seg import Segmentation

    version = _version()
    number = source.headers[0].text("SeriesNumber")
    places = None
    if not labels.any():
        # a SEG needs a frame, and highdicom would write all of them: one is enough to say nothing
        labels = labels[:1]
        order = _source_order(source)
        places = [hd.PlanePositionSequence("PATIENT", source.frames[order[0]].position)]
    return Segmentation(
        source_images=_sources(source),
        pixel_array=labels,
        plane_positions=places,
        segmentation_type="BINARY",
        segment_descriptions=[
            _segment(index, name, network, version)
            for index, name in enumerate(classes)
            if index > 0
        ],
        series_instance_uid=hd.UID(),
        series_number=SERIES_OFFSET + (int(number) if number.isdigit() else 0),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=PRODUCT,
        manufacturer_model_name=_text(network) or PRODUCT,
        software_versions=version,
        device_serial_number="none",
        content_label=CONTENT_LABEL,
        content_description=_text(f"Segmentation by {network}"),
        series_description=_text(f"Segmentation {network}"),
        specific_character_set=UTF_8,
        omit_empty_frames=True,
    )


def _segment(number: int, name: str, network: str, version: str) -> Any:
    import highdicom as hd
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    code = segment_code(name)
    segment = SegmentDescription(
        segment_number=number,
        segment_label=_text(name) or f"class {number}",
        segmented_property_category=code.category,
        segmented_property_type=code.type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=_text(network) or PRODUCT,
            family=codes.cid7162.ArtificialIntelligence,
            version=version,
            source=PRODUCT,
        ),
    )
    if code.side is not None:
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            hd.sr.CodedConcept.from_code(code.side)
        ]
    return segment


def _sources(source: DicomImage) -> list[Any]:
    """Return the source images as far as a SEG refers to them, with the geometry of the volume.

    They are made anew: a header that was read may hold values that cannot be written.
    """
    from pydicom.uid import generate_uid

    new = {key: generate_uid() for key in ("StudyInstanceUID", "SeriesInstanceUID")}
    rows, columns = source.array.shape[1:]
    images = []
    by_source: dict[int, list[int]] = {}
    for z, frame in enumerate(source.frames):
        by_source.setdefault(frame.source, []).append(z)
    for index in sorted(by_source):
        header = source.headers[index]
        image = _described(header)
        for key in ("SOPClassUID", "SOPInstanceUID", "FrameOfReferenceUID", *new):
            setattr(image, key, header.text(key) or new.get(key))
        image.Modality = source.modality
        image.Rows, image.Columns = rows, columns
        _place(image, source, by_source[index])
        images.append(image)
    return images


def _described(header: Header) -> Any:
    """Return a dataset with patient and study of a header; what is no legal value is left empty."""
    from pydicom import Dataset
    from pydicom.valuerep import DA, TM

    image = Dataset()
    for key in _TEXTS:
        value = _value(header, key)
        if value or key in ("PatientID", "PatientName", "AccessionNumber", "StudyID"):
            # a name has three parts of 64 characters, the rest is a text of 64
            setattr(image, key, value if key == "PatientName" else value[:LONGEST_TEXT])
    for keys, kind in ((("PatientBirthDate", "StudyDate"), DA), (("StudyTime",), TM)):
        for key in keys:
            try:
                value = kind(_value(header, key)) or ""
            except (ValueError, TypeError):
                value = ""
            setattr(image, key, value)
    sex = _value(header, "PatientSex")
    image.PatientSex = sex if sex in ("M", "F", "O") else ""
    return image


def _value(header: Header, key: str) -> str:
    """Return a tag as text without control characters; empty where it is missing or damaged."""
    with contextlib.suppress(UserError):
        return re.sub(r"[\x00-\x1f\x7f\\]", "", header.text(key)).strip()
    return ""


def _place(image: Any, source: DicomImage, slices: Sequence[int]) -> None:
    """Give a source image the place of its slices, as the volume has them."""
    from pydicom import Dataset
    from pydicom.valuerep import format_number_as_ds

    def numbers(values: Sequence[float]) -> list[str]:
        return [format_number_as_ds(float(value)) for value in values]

    x, y, step = source.spacing_mm
    # columns of the matrix are the directions along a row, along a column, and the normal
    orientation = numbers([*source.direction[0::3], *source.direction[1::3]])
    thickness = numbers([step])[0]
    if source.frames[slices[0]].number is None:
        image.ImagePositionPatient = numbers(source.frames[slices[0]].position)
        image.ImageOrientationPatient = orientation
        image.PixelSpacing = numbers([y, x])
        image.SliceThickness = image.SpacingBetweenSlices = thickness
        return
    shared, measures, plane = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = numbers([y, x])
    measures.SliceThickness = measures.SpacingBetweenSlices = thickness
    plane.ImageOrientationPatient = orientation
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    groups = []
    for z in sorted(slices, key=lambda z: source.frames[z].number or 0):
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = numbers(source.frames[z].position)
        group.PlanePositionSequence = [position]
        groups.append(group)
    image.NumberOfFrames = len(slices)
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = groups


def _check_written(path: Path, labels: np.ndarray, source: DicomImage, segments: int) -> None:
    """Raise UserError where a written SEG is not the labels, read by its own tags.

    Its bits are unpacked here, not by the library that packed them.
    """
    import numpy as np
    import pydicom

    dataset = pydicom.dcmread(path)
    numbers = [int(item.SegmentNumber) for item in dataset.SegmentSequence]
    if numbers != list(range(1, segments + 1)):
        raise _another(path, f"segments {numbers}")
    places = np.array([frame.position for frame in source.frames])
    bits = np.frombuffer(dataset.PixelData, np.uint8)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    seen = set()
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        identity = (group if "SegmentIdentificationSequence" in group else shared)[
            "SegmentIdentificationSequence"
        ][0]
        number = int(identity.ReferencedSegmentNumber)
        position = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
        distances = np.linalg.norm(places - position, axis=1)
        z = int(distances.argmin())
        first = index * rows * columns
        start, stop = first // 8, -(-(first + rows * columns) // 8)
        plane = np.unpackbits(bits[start:stop], bitorder="little")[first % 8 :][: rows * columns]
        wanted = labels[z] == number
        if distances[z] > PLACE_TOLERANCE_MM or not np.array_equal(plane, wanted.ravel()):
            raise _another(path, f"frame {index + 1} of segment {number}")
        seen.add((number, z))
    expected = {
        (int(number), z) for z, plane in enumerate(labels) for number in np.unique(plane) if number
    }
    if not expected <= seen or len(seen) != int(dataset.NumberOfFrames):
        raise _another(path, f"{len(seen)} frames, expected {len(expected)}")


def _another(path: Path, what: str) -> UserError:
    return UserError(f"{path} does not read back as it was written ({what}); {INSTEAD}")


def _text(value: str) -> str:
    """Return a text as DICOM's LO takes it: one line of 64 characters, no backslash."""
    return re.sub(r"[\x00-\x1f\x7f\\]+", " ", value).strip()[:LONGEST_TEXT].strip()


def _version() -> str:
    try:
        return importlib.metadata.version(PRODUCT)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
