"""A folder of DICOM files as pydicom reads it: each frame placed by its own tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from robustness_image import TO_RAS, Image, NotABox, Refused

NEAR_MM, JITTER = 0.05, 0.01
DEFAULTS = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "PixelRepresentation": 0}  # fmt: skip
"""What an image of one grey value a pixel has, where its file does not say so."""
UNSURE = 0.15
"""Around a tolerance, as a share of it, where a reader may say either."""


@dataclass(frozen=True)
class Frame:
    """One slice: values ``(rows, columns)`` after rescaling, and its corners in LPS mm."""

    values: np.ndarray
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    exact: bool

    @property
    def corners(self) -> np.ndarray:
        """The centres of the voxels at the corners."""
        rows, columns = self.values.shape
        across, down = self.along_row * (columns - 1), self.along_column * (rows - 1)
        return self.position + np.array([across * 0, across, down, across + down])


def read_series(folder: Path) -> Image:
    """Return the one series of a folder.

    Raises:
        NotABox: where its frames are no box of voxels, or some of it is missing.
        Refused: where pydicom cannot read it.
    """
    frames: list[Frame] = []
    series: set[str] = set()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.name == "DICOMDIR":
            continue
        content = path.read_bytes()
        if content[128:132] != b"DICM" and not _may_be_dicom(content):
            continue
        try:
            data = pydicom.dcmread(path, force=True)
            for name, value in DEFAULTS.items():
                if "PixelData" in data and name not in data:
                    setattr(data, name, value)
            kind = str(data.get("SOPClassUID", ""))
            image = "PixelData" in data or kind.startswith("1.2.840.10008.5.1.4.1.1.2")
        except Exception as error:
            raise Refused(f"pydicom: {path.name}: {type(error).__name__}: {error}") from error
        if not image:
            if "Rows" in data or not kind:
                raise Refused(f"{path.name} has no pixels")
            continue
        series.add(str(data.get("SeriesInstanceUID", "")))
        frames += _frames(path, data)
    if len(series) > 1:
        raise NotABox(f"{len(series)} series")
    if not frames:
        raise Refused("no frames")
    return _stacked(frames)


def _may_be_dicom(content: bytes) -> bool:
    return content[:2] in (b"\x02\0", b"\x08\0") and len(content) > 200


def _frames(path: Path, data: Any) -> list[Frame]:
    if "PixelData" not in data:
        raise NotABox(f"{path.name} is an image without pixels")
    try:
        pixels = _used_bits(data, data.pixel_array)
    except Exception as error:
        if "less than" in str(error) or "too short" in str(error).lower():
            raise NotABox(f"{path.name}: pixels are missing") from error
        raise Refused(f"pydicom: {path.name}: {type(error).__name__}: {error}") from error
    try:
        if int(data.get("SamplesPerPixel", 1)) != 1:
            raise NotABox("several values per pixel")
        if "PerFrameFunctionalGroupsSequence" in data:
            return _enhanced(data, pixels)
        if pixels.ndim != 2:
            raise Refused("several frames without functional groups")
        scale = [data.get(n) for n in ("RescaleSlope", "RescaleIntercept")]
        return [
            _frame(
                pixels,
                data.get("ImagePositionPatient"),
                data.get("ImageOrientationPatient"),
                data.get("PixelSpacing"),
                scale,
            )
        ]
    except (NotABox, Refused):
        raise
    except Exception as error:
        raise Refused(f"pydicom: {path.name}: {type(error).__name__}: {error}") from error


def _used_bits(data: Any, pixels: np.ndarray) -> np.ndarray:
    """Return the numbers in the bits that the tags name, which pydicom leaves as they are."""
    allocated, stored = int(data.BitsAllocated), int(data.get("BitsStored", data.BitsAllocated))
    high = int(data.get("HighBit", stored - 1))
    if allocated == stored or allocated not in (8, 16):
        return pixels
    if not 0 < stored <= high + 1 <= allocated:
        raise NotABox(f"{stored} bits up to bit {high} of {allocated}")
    numbers = pixels.astype(np.int64) >> (high + 1 - stored) & ((1 << stored) - 1)
    if int(data.get("PixelRepresentation", 0)):
        numbers = np.where(numbers >> (stored - 1), numbers - (1 << stored), numbers)
    return numbers


def _enhanced(data: Any, pixels: np.ndarray) -> list[Frame]:
    groups = data.PerFrameFunctionalGroupsSequence
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if len(groups) != len(pixels):
        raise NotABox(f"{len(pixels)} frames, {len(groups)} groups")
    shared = data.get("SharedFunctionalGroupsSequence") or [{}]

    def item(group: Any, sequence: str, name: str) -> Any:
        for place in (group, shared[0]):
            found = place.get(sequence)
            if found is not None and len(found) and found[0].get(name) is not None:
                return found[0].get(name)
        return None

    made = []
    for group, values in zip(groups, pixels, strict=True):
        scale = [
            item(group, "PixelValueTransformationSequence", n)
            for n in ("RescaleSlope", "RescaleIntercept")
        ]
        made.append(_frame(
            values, item(group, "PlanePositionSequence", "ImagePositionPatient"),
            item(group, "PlaneOrientationSequence", "ImageOrientationPatient"),
            item(group, "PixelMeasuresSequence", "PixelSpacing"), scale,
        ))  # fmt: skip
    return made


def _frame(pixels: np.ndarray, position: Any, orientation: Any, spacing: Any, scale: Any) -> Frame:
    if position is None or orientation is None or spacing is None:
        raise NotABox("a frame without position, orientation or spacing")
    slope = 1.0 if scale[0] is None else float(scale[0])
    offset = 0.0 if scale[1] is None else float(scale[1])
    place, cosines = (np.array([float(v) for v in values]) for values in (position, orientation))
    between_rows, between_columns = (float(v) for v in spacing)
    if place.shape != (3,) or cosines.shape != (6,) or not np.isfinite([*place, *cosines]).all():
        raise NotABox("a position or orientation that is none")
    if not (np.isfinite([between_rows, between_columns, slope, offset]).all()) or slope == 0:
        raise NotABox("a spacing or slope that is none")
    if min(between_rows, between_columns) <= 0:
        raise NotABox("a spacing that is none")
    row, column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > 1e-2:
        raise NotABox("directions that are none")
    exact = slope == 1 and offset == int(offset)
    return Frame(
        pixels.astype(np.float64) * slope + offset, place, row / lengths[0] * between_columns,
        column / lengths[1] * between_rows, exact,
    )  # fmt: skip


def _stacked(frames: list[Frame]) -> Image:
    sizes = {frame.values.shape for frame in frames}
    if len(sizes) > 1:
        raise NotABox(f"frames of {len(sizes)} sizes")
    first = frames[0]
    normal = np.cross(first.along_row, first.along_column)
    normal /= np.linalg.norm(normal)
    frames = sorted(frames, key=lambda frame: float(frame.position @ normal))
    first, last = frames[0], frames[-1]
    if len(frames) == 1:
        step = normal
        raise Refused("one slice, whose thickness is nowhere sure")
    step = (last.position - first.position) / (len(frames) - 1)
    length = float(np.linalg.norm(step))
    if length < 1e-4:
        raise NotABox("all frames at one place")
    most, least = max(NEAR_MM, JITTER * length), min(NEAR_MM, JITTER * length)
    start = first.position
    off = _off(frames, start, step)
    if off > (1 - UNSURE) * least:
        start, near = _nearest(frames, step)
        nearest = _off(frames, start, near)
        if nearest > (1 + UNSURE) * most:
            raise NotABox(
                f"a frame is {nearest:.3g} mm away from where even steps of {length:.3g} put it"
            )
        if off <= (1 + UNSURE) * most or nearest > (1 - UNSURE) * least:
            raise Refused(f"frames are {off:.3g} mm off, between two tolerances")
        step = near
    affine = np.eye(4)
    affine[:3, :3] = np.transpose([first.along_row, first.along_column, step])
    affine[:3, 3] = start
    voxels = np.stack([frame.values.T for frame in frames], -1)
    exact = all(frame.exact for frame in frames)
    return Image(voxels, {"the frames' tags": TO_RAS @ affine}, exact)


def _off(frames: list[Frame], start: np.ndarray, step: np.ndarray) -> float:
    """Return how far a frame's corner is from where even steps put it at most."""
    first = frames[0]
    return max(
        float(np.abs(frame.corners - first.corners + first.position - start - index * step).max())
        for index, frame in enumerate(frames)
    )


def _nearest(frames: list[Frame], step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the start and the even steps whose largest distance from the frames is least.

    One of the two bounds of the band that holds them runs through two frames: all pairs are tried.
    """
    normal = step / np.linalg.norm(step)
    places = np.array([frame.position @ normal for frame in frames])
    index = np.arange(len(places))
    slopes = [
        (places[j] - places[i]) / (j - i)
        for i in range(len(places))
        for j in range(i + 1, len(places))
    ]
    rests = [places - places[0] - slope * index for slope in slopes]
    best = int(np.argmin([np.ptp(rest) for rest in rests]))
    start = (rests[best].max() + rests[best].min()) / 2
    return frames[0].position + start * normal, slopes[best] * normal


def read_segmentation(path: Path, image: Image) -> np.ndarray:
    """Return the labels of a DICOM SEG in the index order of the image that it is of.

    A frame belongs to the slice that its own tags lay it on.

    Raises:
        Refused: where pydicom cannot read it.
        NotABox: where a frame lies on no slice of the image, or segments overlap.
    """
    try:
        data = pydicom.dcmread(path)
        pixels = data.pixel_array.reshape(-1, int(data.Rows), int(data.Columns))
        frames = _enhanced(data, pixels)
        segments = [
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            for group in data.PerFrameFunctionalGroupsSequence
        ]
    except NotABox:
        raise
    except Exception as error:
        raise Refused(f"pydicom: {type(error).__name__}: {error}") from error
    (affine,) = image.forms.values()
    lps = TO_RAS @ affine
    labels = np.zeros(image.voxels.shape, np.int64)
    columns, rows, slices = image.voxels.shape
    for frame, segment in zip(frames, segments, strict=True):
        if frame.values.shape != (rows, columns):
            raise NotABox(f"a frame of {frame.values.shape}, slices of {(rows, columns)}")
        place = np.linalg.solve(lps, [*frame.position, 1])
        k = int(np.clip(np.rint(place[2]), 0, slices - 1))
        ends = np.array([[0, 0, k, 1], [columns - 1, 0, k, 1], [0, rows - 1, k, 1],
                         [columns - 1, rows - 1, k, 1]])  # fmt: skip
        off = float(np.abs(frame.corners - (ends @ lps.T)[:, :3]).max())
        # the slices themselves may be off an even step by this much
        if off > (1 + UNSURE) * max(NEAR_MM, JITTER * float(np.linalg.norm(lps[:3, 2]))):
            raise NotABox(f"a frame lies {off:.3g} mm off the slice that it is of")
        inside = frame.values.T > 0
        if (labels[:, :, k][inside] != 0).any():
            raise NotABox("segments overlap")
        labels[:, :, k][inside] = segment
    return labels
