"""``NAME_train.npz`` and ``NAME_val.npz``: slices with the patient of each, already divided."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from lmaunet.data import normalization as norm
from lmaunet.data.class_map import (
    CLASS_FILE,
    NAMED_MAPS,
    ClassMap,
    identity_map,
    integral,
    read_class_map,
)
from lmaunet.data.images.volumes import check_pixels, check_shapes
from lmaunet.data.layouts.transunet import read_npz
from lmaunet.data.patients import Patients, patient_of
from lmaunet.data.source import Source, Volume
from lmaunet.errors import UserError

CARDIAC_SET = "acdc"  # the set whose files are known to carry the cardiac codes


def read_arrays(stem_path: str, class_map: str | Path | None) -> Source:
    """Read ``STEM_train.npz`` and ``STEM_val.npz``, divided by patient."""
    halves = {}
    for role in ("train", "val"):
        path = Path(f"{stem_path}_{role}.npz")
        halves[role] = (path, _read_half(path))
    if class_map is not None:
        chosen = read_class_map(class_map)
    elif CARDIAC_SET in Path(stem_path).name.lower():
        chosen = NAMED_MAPS["cardiac"]
    else:
        highest = {path: _highest_code(half["label"], path) for path, half in halves.values()}
        chosen = identity_map(1 + max(highest.values()))
    volumes: list[Volume] = []
    patients: dict[str, set[int]] = {}
    for role, (path, half) in halves.items():
        found, patients[role] = _patient_volumes(half, path, role, chosen)
        volumes.extend(found)
    both = patients["train"] & patients["val"]
    if both:
        raise UserError(
            f"patient {min(both)} is in {stem_path}_train.npz and in {stem_path}_val.npz; expected "
            "no patient in both; divide the files by patient"
        )
    owners = {volume.case: patient_of(volume.case) for volume in volumes}
    return Source(
        name=str(chosen.options.get("name", Path(stem_path).name)),
        label_source=str(chosen.options.get("label_source", "as in the files")),
        classes=chosen.classes,
        volumes=volumes,
        split=f"by patient: {len(patients['train'])} train, {len(patients['val'])} validate, none "
        "in both.",
        layout="NAME_train.npz and NAME_val.npz",
        normalization=norm.check(chosen.options.get("normalization", norm.zscore()), CLASS_FILE, 1),
        patients=Patients(owners, "told apart by the numbers in the files"),
    )


def _highest_code(codes: np.ndarray, path: Path) -> int:
    highest = int(integral(codes, str(path)).max())
    if not 1 <= highest <= 254:
        raise UserError(
            f"{path}: the highest label is {highest}; expected 1 to 254, or a class map "
            "(--class-map FILE)"
        )
    return highest


def read_images(path: Path) -> dict[str, np.ndarray]:
    """Return the images ``(n, H, W)`` of one of the two files by case, without its labels."""
    numbers = _read_half(path, labelled=False)
    return {case: numbers["image"][rows] for case, rows in _rows_of(numbers).items()}


def _read_half(path: Path, *, labelled: bool = True) -> dict[str, np.ndarray]:
    """Return the arrays of one of the two files, of shapes and types that go together."""
    keys = ("image", "label", "patient", "frame", "slice")
    arrays = read_npz(path, [key for key in keys if labelled or key != "label"])
    image = arrays["image"]
    if image.ndim != 3:
        raise UserError(f"{path}: image of shape {image.shape}; expected (slices, H, W)")
    if labelled:
        check_shapes(image.shape, arrays["label"].shape, str(path))
    for key in ("patient", "frame", "slice"):
        if arrays[key].shape != (len(image),):
            raise UserError(f"{path}: {key} of shape {arrays[key].shape}; expected ({len(image)},)")
        arrays[key] = integral(arrays[key], f"{path} ({key})", "number")
    check_pixels(image, str(path))
    return arrays


def _patient_volumes(
    numbers: dict[str, np.ndarray], path: Path, role: str, class_map: ClassMap
) -> tuple[list[Volume], set[int]]:
    image, labels = numbers["image"], class_map.apply(numbers["label"], str(path))
    volumes = [
        Volume(
            case,
            role,  # type: ignore[arg-type]
            labels[rows],
            (functools.partial(image.__getitem__, rows),),
            z=numbers["slice"][rows],
            keep_all=True,
        )
        for case, rows in _rows_of(numbers).items()
    ]
    return volumes, {int(p) for p in numbers["patient"]}


def _rows_of(numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the rows of each case, a frame of a patient, in the order of its slices."""
    found = {}
    groups = np.stack([numbers["patient"], numbers["frame"]], 1)
    for patient, frame in np.unique(groups, axis=0):
        rows = np.flatnonzero((groups == (patient, frame)).all(1))
        rows = rows[np.argsort(numbers["slice"][rows], kind="stable")]
        found[f"patient{patient:03d}_frame{frame:02d}"] = rows
    return found
