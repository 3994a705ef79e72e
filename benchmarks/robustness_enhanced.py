"""Enhanced multi-frame DICOM images that are wrong in one way or another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian
from robustness_damage import add_strays, damage
from robustness_dicom import (
    change_orientation,
    change_position,
    change_spacing,
    change_tag,
    common,
    grid,
    put,
    saved_or_not,
    set_pixels,
    text,
    tried,
    unique,
)
from robustness_images import Rng, pick


def enhanced_case(rng: Rng, folder: Path) -> tuple[Path, str, bool]:
    """Write a multi-frame file; return as :func:`dicom_case` does."""
    clean, said = rng.random() < 0.12, []
    array, affine = grid(rng)
    data = enhanced(rng, array, affine)
    if not clean:
        for _ in range(int(rng.integers(1, 3))):
            said.append(tried(pick(rng, FRAME_CHANGES), rng, data))
    files = [saved_or_not(data, said)]
    if not clean and rng.random() < 0.15:
        said.append(damage(rng, files))
    place = folder / "series"
    place.mkdir()
    (place / "all.dcm").write_bytes(files[0])
    if not clean and rng.random() < 0.1:
        said.append(add_strays(rng, place))
    return place, "; ".join(said), clean


def enhanced(rng: Rng, array: np.ndarray, affine: np.ndarray) -> Dataset:
    """Return an Enhanced CT image, its frames in order."""
    ids = (unique(rng), unique(rng), unique(rng))
    data = common(rng, EnhancedCTImageStorage, ids, ExplicitVRLittleEndian)
    data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1
    data.NumberOfFrames = array.shape[2]
    across, down = (affine[:3, a] / np.linalg.norm(affine[:3, a]) for a in range(2))
    shared, measures, plane, values = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = text([np.linalg.norm(affine[:3, 1]), np.linalg.norm(affine[:3, 0])])
    measures.SliceThickness = text([np.linalg.norm(affine[:3, 2])])[0]
    plane.ImageOrientationPatient = text([*across, *down])
    values.RescaleIntercept, values.RescaleSlope, values.RescaleType = "-1024", "1", "HU"
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelValueTransformationSequence = Sequence([values])
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for k in range(array.shape[2]):
        group, position, content = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = text((affine @ [0, 0, k, 1])[:3])
        content.StackID, content.InStackPositionNumber = "1", k + 1
        content.DimensionIndexValues = [1, k + 1]
        group.PlanePositionSequence = Sequence([position])
        group.FrameContentSequence = Sequence([content])
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    set_pixels(data, array.transpose(2, 1, 0) + 1024, False)
    return data


def frame_order(rng: Rng, data: Dataset) -> str:
    """Put the frames in another order, their groups with them."""
    groups = data.PerFrameFunctionalGroupsSequence
    order = rng.permutation(len(groups)) if rng.random() < 0.5 else np.arange(len(groups))[::-1]
    _keep_frames(data, [int(i) for i in order])
    return f"frames in the order {list(map(int, order))}"


def _keep_frames(data: Dataset, order: list[int]) -> None:
    groups = list(data.PerFrameFunctionalGroupsSequence)
    pixels = np.frombuffer(data.PixelData, "<u2").reshape(len(groups), data.Rows, data.Columns)
    data.PixelData = pixels[order].tobytes()
    data.NumberOfFrames = len(order)
    data.PerFrameFunctionalGroupsSequence = Sequence([groups[i] for i in order])


def frames_missing(rng: Rng, data: Dataset) -> str:
    keep = list(range(len(data.PerFrameFunctionalGroupsSequence)))
    gone = [keep.pop(int(rng.integers(len(keep)))) for _ in range(int(pick(rng, (1, 1, 2))))]
    _keep_frames(data, keep)
    return f"without frames {gone}"


def frames_twice(rng: Rng, data: Dataset) -> str:
    count = len(data.PerFrameFunctionalGroupsSequence)
    again = int(rng.integers(count))
    _keep_frames(data, [*range(count), again])
    return f"frame {again} twice"


def frame_position(rng: Rng, data: Dataset) -> str:
    items = [g.PlanePositionSequence[0] for g in data.PerFrameFunctionalGroupsSequence]
    if rng.random() < 0.3:
        group = pick(rng, list(data.PerFrameFunctionalGroupsSequence))
        if rng.random() < 0.5:
            del group.PlanePositionSequence
        else:
            del group.PlanePositionSequence[0].ImagePositionPatient
        return "a frame without position"
    return change_position(rng, items)


def frame_values(rng: Rng, data: Dataset) -> str:
    """Give frames slopes and intercepts of their own."""
    shared = data.SharedFunctionalGroupsSequence[0]
    some = rng.random() < 0.3
    for index, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        values = Dataset()
        values.RescaleSlope = text([pick(rng, (0.5, 1.0, 2.0))])[0]
        values.RescaleIntercept = text([pick(rng, (-1024.0, -500.0))])[0]
        values.RescaleType = "HU"
        if not some or index % 2:
            group.PixelValueTransformationSequence = Sequence([values])
    if not some or rng.random() < 0.5:
        del shared.PixelValueTransformationSequence
    return "slopes of the frames' own"


def frame_geometry(rng: Rng, data: Dataset) -> str:
    """Take spacing or orientation away, or give them to the frames, one of them another."""
    shared = data.SharedFunctionalGroupsSequence[0]
    name = pick(rng, ("PixelMeasuresSequence", "PlaneOrientationSequence"))
    how = pick(rng, ("gone", "of each frame", "one other"))
    item = shared[name][0]
    del shared[name]
    if how == "gone":
        return f"{name} gone"
    groups = list(data.PerFrameFunctionalGroupsSequence)
    for group in groups:
        setattr(group, name, Sequence([copy.deepcopy(item)]))
    if how == "one other":
        chosen = [g[name][0] for g in [pick(rng, groups)]]
        change = change_spacing if name.startswith("Pixel") else change_orientation
        change(rng, chosen)
    return f"{name} {how}"


def frame_tags(rng: Rng, data: Dataset) -> str:
    """Change a tag of the file, or how many frames it says it has."""
    if rng.random() < 0.3:
        put(data, "NumberOfFrames", pick(rng, ("0", "1", "2", "99", "-1", "x", "")))
        return "NumberOfFrames"
    if rng.random() < 0.2:
        name = pick(rng, ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"))
        del data[name]
        return f"{name} gone"
    if rng.random() < 0.2:
        groups = list(data.PerFrameFunctionalGroupsSequence)
        data.PerFrameFunctionalGroupsSequence = Sequence(groups[:-1])
        return "a group too few"
    return change_tag(rng, [data])


FRAME_CHANGES: tuple[Callable[[Rng, Dataset], str], ...] = (
    frame_order, frame_order, frames_missing, frames_twice, frame_position, frame_position,
    frame_values, frame_geometry, frame_tags, frame_tags,
)  # fmt: skip
