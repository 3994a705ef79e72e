"""What each frame of a DICOM series says of itself: place, size, kind and rescaling.

A classic file is one frame with its tags at the top; an Enhanced file has many, with tags of their
own in the per-frame functional groups and common ones in the shared groups. From here on they are
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmaunet.data.dicom.header import Header, damaged, printable, quiet
from lmaunet.errors import UserError

MOST_FRAMES = 100_000


@dataclass(frozen=True)
class Frame:
    """One slice.

    Args:
        source: the index of its file among the headers.
        number: its index in a multi-frame file; None for a classic one.
        name: how messages call it.
        position: of the centre of its first pixel, in mm, LPS.
        orientation: the unit vectors along a row and along a column.
        spacing_mm: between rows, and between columns.
        between_mm: SpacingBetweenSlices; None where no tag tells.
        thickness_mm: SliceThickness; None where no tag tells.
        slope, intercept: from stored values to the image's.
        traits: by name, what all slices of one volume have in common.
        hints: by name, what may tell slices at one place apart.
    """

    source: int
    number: int | None
    name: str
    position: tuple[float, float, float]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]
    between_mm: float | None
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    traits: dict[str, Any] = field(repr=False)
    hints: dict[str, Any] = field(repr=False)


def frames_of(headers: Sequence[Header]) -> list[Frame]:
    """Return the frames of files, in the order of the files and of the frames in them.

    Raises:
        UserError: where a tag that places a frame or its values is missing or no number.
    """
    frames = []
    for source, header in enumerate(headers):
        try:
            with quiet():
                frames += _frames(source, header)
        except UserError:
            raise
        except Exception as error:  # pydicom converts a value when it is asked for, and may fail
            raise UserError(damaged(header.path, error)) from error
    return frames


def _frames(source: int, header: Header) -> list[Frame]:
    dataset, name = header.dataset, header.path.name
    count = _whole_number(dataset, "NumberOfFrames", name, 1)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    if not per_frame and shared is None:
        if count > 1:
            raise UserError(
                f"{header.path} holds {count} frames without a position of each (no functional "
                "groups); expected an Enhanced image or a classic series; convert it to one"
            )
        return [_frame(source, None, str(header.path), dataset, dataset.get)]
    if len(per_frame) != count:
        raise UserError(
            f"{header.path} holds {count} frames, but describes {len(per_frame)} (per-frame "
            "functional groups); get the file again"
        )

    def lookup(groups: Any) -> Callable[..., Any]:
        def get(sequence: str, default: Any = None) -> Any:
            for group in (groups, shared):
                items = group.get(sequence) if group is not None else None
                if items:
                    return items[0]
            return default

        return get

    return [
        _frame(
            source, number, f"{header.path} frame {number + 1}", dataset, _Macros(lookup(groups))
        )
        for number, groups in enumerate(per_frame)
    ]


_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "StackID": "FrameContentSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionDateTime": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
}
_FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
    "CommonCTMRPETImageFrameTypeSequence",
)


@dataclass(frozen=True)
class _Macros:
    """The functional groups of one frame, asked by tag as the header of a classic file is."""

    group: Callable[..., Any]

    def __call__(self, keyword: str, default: Any = None) -> Any:
        if keyword == "ImageType":
            items = [item for name in _FRAME_TYPES if (item := self.group(name)) is not None]
            return items[0].get("FrameType", default) if items else default
        sequence = _MACROS.get(keyword)
        item = self.group(sequence) if sequence else None
        return default if item is None else item.get(keyword, default)


def _frame(
    source: int, number: int | None, name: str, dataset: Any, get: Callable[..., Any]
) -> Frame:
    position = _numbers(get, "ImagePositionPatient", 3, name)
    orientation = _numbers(get, "ImageOrientationPatient", 6, name)
    spacing = _numbers(get, "PixelSpacing", 2, name)
    if min(spacing) <= 0:
        raise UserError(
            f"{name}: PixelSpacing {spacing[0]:g}, {spacing[1]:g}; expected sizes above 0 mm; "
            "correct the tag"
        )
    slope, intercept = _rescaling(get, name)
    return Frame(
        source,
        number,
        name,
        (position[0], position[1], position[2]),
        _orthonormal(orientation, name),
        (spacing[0], spacing[1]),
        _length(get, "SpacingBetweenSlices"),
        _length(get, "SliceThickness"),
        slope,
        intercept,
        _traits(dataset, get, name),
        _hints(dataset, get),
    )


def _numbers(get: Callable[..., Any], keyword: str, count: int, name: str) -> list[float]:
    """Return the numbers of a tag that must be there.

    Raises:
        UserError: where it is missing or empty, has another count, or is no finite number.
    """
    try:
        value = get(keyword)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UserError(
            f"{name}: {keyword} is no number ({printable(str(error))}); expected {count} "
            "number(s); correct the tag"
        ) from error
    if value is None or value == "":
        raise UserError(
            f"{name} has no {keyword}; expected {count} number(s), without which nothing says "
            "where its pixels lie; get the file again with all tags, or save it as NIfTI with its "
            "placement"
        )
    values = [value] if isinstance(value, (int, float, str)) else list(value)
    try:
        numbers = [float(v) for v in values]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{name}: {keyword} is no number ({printable(str(error))}); expected {count} "
            "number(s); correct the tag"
        ) from error
    if len(numbers) != count or not all(math.isfinite(v) for v in numbers):
        raise UserError(
            f"{name}: {keyword} is {_text(numbers)}; expected {count} finite number(s); correct "
            "the tag"
        )
    return numbers


def _orthonormal(values: Sequence[float], name: str) -> tuple[float, ...]:
    """Return row and column made unit vectors at right angles.

    Printed numbers are a little off; more than a thousandth is another thing.
    """
    row, column = values[:3], values[3:]
    lengths = [math.sqrt(sum(v * v for v in vector)) for vector in (row, column)]
    dot = sum(a * b for a, b in zip(row, column, strict=True))
    if any(abs(length - 1) > 1e-3 for length in lengths) or abs(dot) > 1e-3:
        raise UserError(
            f"{name}: ImageOrientationPatient is {_text(values)}; expected two unit vectors at "
            "right angles; correct the tag"
        )
    return (*(v / lengths[0] for v in row), *(v / lengths[1] for v in column))


def _length(get: Callable[..., Any], keyword: str) -> float | None:
    """Return a length that counts only where positions do not tell; None where it is none."""
    try:
        value = abs(float(get(keyword)))
    except (TypeError, ValueError, ArithmeticError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _rescaling(get: Callable[..., Any], name: str) -> tuple[float | None, float | None]:
    """Return slope and intercept, or None for both where the frame has neither."""
    present = [_present(get, keyword) for keyword in ("RescaleSlope", "RescaleIntercept")]
    if not any(present):
        return None, None
    # one of them alone is as missing as a number: _numbers says which
    slope = _numbers(get, "RescaleSlope", 1, name)[0]
    intercept = _numbers(get, "RescaleIntercept", 1, name)[0]
    if slope == 0:
        raise UserError(f"{name}: RescaleSlope is 0; expected another number; correct the tag")
    return slope, intercept


def _present(get: Callable[..., Any], keyword: str) -> bool:
    try:
        value = get(keyword)
    except (ValueError, TypeError, ArithmeticError):
        return True  # there is something, though no number
    return value is not None and value != ""


def _traits(dataset: Any, get: Callable[..., Any], name: str) -> dict[str, Any]:
    """Return what slices of one volume have in common."""
    return {
        "SOPClassUID": _plain(dataset.get("SOPClassUID")),
        "PatientID": _plain(dataset.get("PatientID")),
        "StudyInstanceUID": _plain(dataset.get("StudyInstanceUID")),
        "FrameOfReferenceUID": _plain(dataset.get("FrameOfReferenceUID")),
        "Modality": _plain(dataset.get("Modality")),
        "image type": _kind(get("ImageType") or dataset.get("ImageType")),
        "Rows": _whole_number(dataset, "Rows", name),
        "Columns": _whole_number(dataset, "Columns", name),
        "SamplesPerPixel": _whole_number(dataset, "SamplesPerPixel", name, 1),
        "PhotometricInterpretation": _plain(dataset.get("PhotometricInterpretation")),
        "BitsAllocated": _whole_number(dataset, "BitsAllocated", name),
        "BitsStored": _plain(dataset.get("BitsStored")),
        "StackID": _plain(_either(get, dataset, "StackID")),
        "EchoTime": _tenths(get("EffectiveEchoTime") or dataset.get("EchoTime")),
        "DiffusionBValue": _plain(_either(get, dataset, "DiffusionBValue")),
        "TemporalPosition": _plain(
            get("TemporalPositionIndex") or dataset.get("TemporalPositionIdentifier")
        ),
        "RescaleType": _plain(_either(get, dataset, "RescaleType")),
    }


def _hints(dataset: Any, get: Callable[..., Any]) -> dict[str, Any]:
    """Return what may tell several images of one place apart."""
    keywords = (
        "ImageType", "AcquisitionNumber", "TriggerTime", "NominalCardiacTriggerDelayTime",
        "FrameAcquisitionDateTime", "AcquisitionTime", "AcquisitionDateTime", "ContentTime",
        "ConvolutionKernel",
    )  # fmt: skip
    return {keyword: _plain(_either(get, dataset, keyword)) for keyword in keywords}


def _either(get: Callable[..., Any], dataset: Any, keyword: str) -> Any:
    value = get(keyword)
    return dataset.get(keyword) if value is None else value


def _kind(image_type: Any) -> str:
    """Return the third value of an image type, such as AXIAL, LOCALIZER or VOLUME."""
    values = [image_type] if isinstance(image_type, str) else list(image_type or [])
    return printable(str(values[2])).strip() if len(values) > 2 else ""


def _plain(value: Any) -> Any:
    """Return a tag's value as numbers and text that compare."""
    if value is None or value == "":
        return None
    if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue":
        return tuple(_plain(v) for v in value)
    if isinstance(value, (int, float)):
        return round(float(value), 4)
    return printable(str(value)).strip()


def _tenths(value: Any) -> Any:
    """Return milliseconds to a tenth: scanners print one echo's time with more or less digits."""
    plain = _plain(value)
    return round(plain, 1) if isinstance(plain, float) else plain


def _whole_number(dataset: Any, keyword: str, name: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is not None:
            return default
        raise UserError(f"{name} has no {keyword}; expected a whole number; get the file again")
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name}: {keyword} is {value!r}; expected a whole number; get the file again"
        ) from error
    if not 0 < number <= MOST_FRAMES:
        raise UserError(f"{name}: {keyword} is {number}; expected 1 or more; get the file again")
    return number


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
