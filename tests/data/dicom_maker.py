"""DICOM series in a few lines, each tag open to be changed: what the tests of reading are fed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

SHAPE = (5, 6, 9)  # z, y, x: no side like another
SPACING = (2.5, 0.75, 1.25)  # z, y, x, mm
ORIGIN = np.array([-30.0, 12.5, 100.0])
# turned about two axes, so that an exchange or a sign of axes shows
_COS, _SIN = np.cos(0.3), np.sin(0.3)
ROW = np.array([_COS, _SIN, 0.0])
COLUMN = np.array([-_SIN * np.cos(0.2), _COS * np.cos(0.2), np.sin(0.2)])
NORMAL = np.cross(ROW, COLUMN)
SLOPE, INTERCEPT = 1.0, -1024.0


def volume(shape=SHAPE, seed=0) -> np.ndarray:
    """Values in HU, whole numbers, each slice with a mean of its own."""
    values = np.random.default_rng(seed).integers(-1000, 1000, shape)
    return (values + 3 * np.arange(shape[0])[:, None, None]).astype(np.int64)


def text(values) -> list[str]:
    return [f"{float(v):.10g}" for v in values]


def place(z: float, aside=(0.0, 0.0)) -> np.ndarray:
    """The position of a slice, shifted within its plane by two lengths in mm."""
    return ORIGIN + z * SPACING[0] * NORMAL + aside[0] * ROW + aside[1] * COLUMN


def header(sop_class, series, syntax=ExplicitVRLittleEndian) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientID, dataset.PatientName = "CT", "P1", "Doe^Jane"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series
    dataset.FrameOfReferenceUID = "1.2.3.4"
    dataset.SeriesNumber, dataset.SeriesDescription = 4, "thin"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    return dataset


def stored_words(values, slope=SLOPE, intercept=INTERCEPT) -> np.ndarray:
    return np.rint((values - intercept) / slope).clip(0, 65535).astype(np.uint16)


def one(z: int, values: np.ndarray, series="1.2.3.5", **tags) -> Dataset:
    """A classic slice; ``tags`` replace its tags, None removes one."""
    dataset = header(CTImageStorage, series)
    dataset.InstanceNumber = 90 - z  # against the positions
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImagePositionPatient = text(place(z))
    dataset.ImageOrientationPatient = text([*ROW, *COLUMN])
    dataset.PixelSpacing = text(SPACING[1:])
    dataset.SliceThickness = "7.0"  # not the distance of slices
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
    dataset.RescaleType = "HU"
    dataset.Rows, dataset.Columns = values.shape
    dataset.PixelData = stored_words(values).tobytes()
    for key, value in tags.items():
        if value is None:
            del dataset[key]
        else:
            setattr(dataset, key, value)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, change=lambda z: {}, values=None, skip=(), naming="") -> Path:
    """A folder of slices; ``change(z)`` gives tags of slice z that differ. Names tell no order."""
    values = volume() if values is None else values
    for z in range(len(values)):
        if z not in skip:
            save(one(z, values[z], **change(z)), folder / (naming.format(z) or name(z)))
    return folder


def name(z: int) -> str:
    return f"IM{(7 * z) % 11:04d}.dcm"


def enhanced(
    order=tuple(range(SHAPE[0])), *, values=None, sop_class=EnhancedCTImageStorage,
    transformation="shared", per_frame=lambda z: {}, **tags,
) -> Dataset:  # fmt: skip
    """A multi-frame file with frames in an order; ``per_frame(z)`` gives sequences of a frame."""
    values = volume() if values is None else values
    dataset = header(sop_class, "1.2.3.6")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames = len(order)
    dataset.Rows, dataset.Columns = values.shape[1:]
    shared = Dataset()
    shared.PixelMeasuresSequence = [sequence(PixelSpacing=text(SPACING[1:]), SliceThickness="7")]
    shared.PlaneOrientationSequence = [
        sequence(ImageOrientationPatient=text([*ROW, *COLUMN]))
    ]  # fmt: skip
    groups, planes = [], []
    for z in order:
        slope, intercept = SLOPE, INTERCEPT
        group = Dataset()
        group.PlanePositionSequence = [sequence(ImagePositionPatient=text(place(z)))]
        group.FrameContentSequence = [sequence(StackID="1", InStackPositionNumber=1)]
        if transformation == "per frame":
            slope, intercept = 0.5 if z % 2 else 0.25, -1024.0 - z
            group.PixelValueTransformationSequence = [rescaling(slope, intercept)]
        for key, items in per_frame(z).items():
            setattr(group, key, items)
        planes.append(stored_words(values[z], slope, intercept))
        groups.append(group)
    if transformation == "shared":
        shared.PixelValueTransformationSequence = [rescaling(SLOPE, INTERCEPT)]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.PixelData = np.stack(planes).tobytes()
    for key, value in tags.items():
        setattr(dataset, key, value)
    return dataset


def sequence(**tags) -> Dataset:
    item = Dataset()
    for key, value in tags.items():
        setattr(item, key, value)
    return item


def rescaling(slope: float, intercept: float) -> Dataset:
    return sequence(RescaleSlope=str(slope), RescaleIntercept=str(intercept), RescaleType="HU")


def in_syntax(dataset: Dataset, syntax, path: Path) -> Path:
    """Save a dataset in an uncompressed transfer syntax."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    pydicom.dcmwrite(
        path, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=True
    )
    return path
