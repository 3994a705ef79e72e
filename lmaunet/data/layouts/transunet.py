"""Synapse as TransUNet prepares it: slices in npz that train, volumes in HDF5 that validate."""

from __future__ import annotations

import functools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from lmaunet.data import normalization as norm
from lmaunet.data.class_map import CLASS_FILE, ClassMap
from lmaunet.data.images.volumes import check_pixels, check_shapes
from lmaunet.data.layouts.cases import divide_volumes
from lmaunet.data.layouts.folders import hidden
from lmaunet.data.patients import Patients, given_patients, patients_by_name
from lmaunet.data.source import Source, Volume
from lmaunet.errors import UserError

TRAIN, TEST = "train_npz", "test_vol_h5"
LIST_FOLDERS = ("lists_Synapse", "lists/lists_Synapse", "../lists/lists_Synapse")

_NPZ_ERRORS = (
    OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error,
    # a header that asks for more than there is, an encrypted archive, an unknown compression
    MemoryError, RuntimeError, NotImplementedError,
)  # fmt: skip
_SLICE_NAME = re.compile(r"(?P<case>.+)_slice(?P<z>\d+)")


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return arrays of an npz file; raises UserError where it is not one or lacks one of them."""
    if not path.exists():
        raise UserError(f"{path} does not exist; both halves of the set are needed")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} cannot be read as npz (it is no zip archive, or is cut short); get the file "
            "again, or write it with numpy.savez"
        )
    try:
        with np.load(path, allow_pickle=False) as content:
            lacking = [key for key in keys if key not in content.files]
            if not lacking:
                return {key: np.asarray(content[key]) for key in keys}
    except _NPZ_ERRORS as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds arrays of Python objects, which are not loaded because they may be "
                "code; expected numbers; convert them with astype and save the file again"
            ) from error
        raise UserError(f"{path} cannot be read as npz ({error}); get the file again") from error
    raise UserError(f"{path} has no array {lacking[0]!r}; expected: {', '.join(keys)}")


def read_transunet(folder: Path, class_map: ClassMap | None, seed: int) -> Source:
    """Read the layout ``train_npz/CASE_sliceNNN.npz`` and ``test_vol_h5/CASE.npy.h5``.

    Lists (``lists_Synapse/train.txt``, ``test_vol.txt``) choose among the files where they are
    present. Without ``test_vol_h5`` a fifth of the training cases validates. Images are in [0, 1],
    the window of -125 to 275 HU already applied; rows and columns stay as they are in the files.

    Raises:
        UserError: without a class map, because repositories differ in the order of the labels.
    """
    if class_map is None:
        raise UserError(
            f"{folder}: copies of this set differ in the order of their labels; give a class map: "
            f"synapse-aorta-first, synapse-spleen-first, or a {CLASS_FILE} in the folder"
        )
    cases = _train_cases(folder)
    tests = _shown((folder / TEST).glob("*.h5"))
    listed = _listed(folder, "test_vol.txt")
    if listed is not None:
        tests = _pick(tests, listed, lambda p: p.name.removesuffix(".npy.h5"), folder / TEST)
    if not tests and len(cases) < 2:
        raise UserError(f"{folder / TEST} holds no .npy.h5 and {TRAIN} one case; give another case")
    volumes = [_slices_volume(case, files, class_map) for case, files in cases.items()]
    shapes = {volume.labels.shape[1:] for volume in volumes}
    volumes += [_h5_volume(path, class_map, shapes) for path in tests]
    names = [v.case for v in volumes]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"{folder}: case {twice[0]} is in {TRAIN} and in {TEST}; expected it in one of them"
        )
    patients = given_patients(folder, names, class_map.options.get("patients"), CLASS_FILE)
    patients = patients or patients_by_name(names)
    notes: tuple[str, ...] = ()
    if tests:
        split = _as_stored(volumes, patients, folder)
    else:
        volumes, split, notes = divide_volumes(folder, volumes, patients, seed)
    return Source(
        name=str(class_map.options.get("name", "Synapse (TransUNet's preparation)")),
        label_source=str(class_map.options.get("label_source", "as in the files")),
        classes=class_map.classes,
        volumes=volumes,
        split=split,
        layout="TransUNet's Synapse",
        normalization=norm.window(0.0, 1.0),
        # These slices are 512x512 with no spacing; TransUNet itself zooms them to its input.
        fit=True,
        patients=patients,
        notes=("the files hold no spacing, so distances are in pixels", *notes),
    )


def _as_stored(volumes: Sequence[Volume], patients: Patients, folder: Path) -> str:
    """Return a sentence on the split of the folders; raises UserError unless it is by patient."""
    sides = {
        role: {patients.of[v.case]: v.case for v in volumes if v.role == role}
        for role in ("train", "val")
    }
    both = sorted(sides["train"].keys() & sides["val"].keys())
    if both:
        raise UserError(
            f"{folder}: {sides['train'][both[0]]} in {TRAIN} and {sides['val'][both[0]]} in {TEST} "
            f"are of one patient ({patients.how}); move one, or, if they are of two, say so in "
            'patients.json: {"CASE": "PATIENT", ...}'
        )
    n_val = sum(v.role == "val" for v in volumes)
    return (
        f"by case: {len(volumes) - n_val} train, {n_val} validate, as divided by {TRAIN} and "
        f"{TEST}; none in both: {patients.how}."
    )


def training_images(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Return what reads the images ``(n, H, W)`` of each case that trains, without its labels."""
    found: dict[str, Callable[[], np.ndarray]] = {}
    for case, files in _train_cases(folder).items():
        ordered = sorted(files, key=_slice_number)
        shape = _plane(read_npz(ordered[0], ("image",))["image"], ordered[0]).shape
        found[case] = functools.partial(_read_slices, ordered, shape)
    return found


def _shown(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if not hidden(file))


def _train_cases(folder: Path) -> dict[str, list[Path]]:
    files = _shown((folder / TRAIN).glob("*.npz"))
    listed = _listed(folder, "train.txt")
    if listed is not None:
        files = _pick(files, listed, lambda p: p.stem, folder / TRAIN)
    if not files:
        raise UserError(f"{folder / TRAIN} holds no .npz; expected CASE_sliceNNN.npz files")
    cases: dict[str, list[Path]] = {}
    for file in files:
        match = _SLICE_NAME.fullmatch(file.stem)
        if match is None:
            raise UserError(f"{file}: unexpected name; expected CASE_sliceNNN.npz")
        cases.setdefault(match["case"], []).append(file)
    return cases


def _listed(folder: Path, name: str) -> list[str] | None:
    for place in LIST_FOLDERS:
        if (folder / place / name).is_file():
            return (folder / place / name).read_text(encoding="utf-8-sig").split()
    return None


def _pick(files: list[Path], listed: list[str], key, folder: Path) -> list[Path]:
    by_name = {key(file): file for file in files}
    lacking = [name for name in listed if name not in by_name]
    if lacking:
        raise UserError(
            f"{folder} lacks {len(lacking)} of the {len(listed)} listed files, first {lacking[0]}; "
            "complete the folder or remove the list"
        )
    return [by_name[name] for name in sorted(listed)]


def _slices_volume(case: str, files: list[Path], class_map: ClassMap) -> Volume:
    files = sorted(files, key=_slice_number)
    labels = [_plane(read_npz(file, ("label",))["label"], file) for file in files]
    for file, plane in zip(files, labels, strict=True):
        check_shapes(labels[0].shape, plane.shape, f"{file} against {files[0].name}")
    mapped = class_map.apply(np.stack(labels), str(files[0].parent / case))
    z = np.array([_slice_number(file) for file in files], np.int64)
    image = functools.partial(_read_slices, files, mapped.shape[1:])
    return Volume(case, "train", mapped, (image,), z=z, keep_all=True)


def _slice_number(path: Path) -> int:
    match = _SLICE_NAME.fullmatch(path.stem)
    assert match is not None
    return int(match["z"])


def _read_slices(files: list[Path], shape: tuple[int, ...]) -> np.ndarray:
    planes = []
    for file in files:
        plane = _plane(read_npz(file, ("image",))["image"], file)
        check_shapes(plane.shape, shape, str(file))
        check_pixels(plane, str(file))
        planes.append(_check_unit(plane.astype(np.float32), file))
    return np.stack(planes)


def _plane(array: np.ndarray, path: Path) -> np.ndarray:
    if array.ndim != 2:
        raise UserError(f"{path}: array of shape {array.shape}; expected one slice (H, W)")
    return array


def _h5_volume(path: Path, class_map: ClassMap, shapes: set[tuple[int, ...]]) -> Volume:
    codes = _read_h5(path, "label")
    axis = _slice_axis(codes.shape, shapes, path)
    labels = class_map.apply(np.moveaxis(codes, axis, 0), str(path))
    image = functools.partial(_read_h5_image, path, axis, codes.shape)
    return Volume(path.name.removesuffix(".npy.h5"), "val", labels, (image,), keep_all=True)


def _slice_axis(shape: tuple[int, ...], shapes: set[tuple[int, ...]], path: Path) -> int:
    """Return the axis along which slices lie: the one that leaves a training slice's shape.

    Copies of the set store ``(slice, H, W)`` or ``(H, W, slice)``. Where both would do, the first
    axis is taken, as in TransUNet's own files.
    """
    if len(shape) != 3 or 0 in shape:
        raise UserError(f"{path}: label of shape {shape}; expected a volume of 3 dimensions")
    for axis in (0, 2, 1):
        if shape[:axis] + shape[axis + 1 :] in shapes:
            return axis
    raise UserError(
        f"{path}: label of shape {shape} has no axis that leaves slices of "
        f"{' or '.join('x'.join(map(str, s)) for s in sorted(shapes))} as in {TRAIN}; use files of "
        "one preparation"
    )


def _read_h5_image(path: Path, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    image = _read_h5(path, "image")
    check_shapes(image.shape, shape, str(path))
    check_pixels(image, str(path))
    return _check_unit(np.moveaxis(image.astype(np.float32), axis, 0), path)


def _read_h5(path: Path, key: str) -> np.ndarray:
    import h5py

    try:
        with h5py.File(path, "r") as content:
            if key not in content:
                raise UserError(f"{path} has no array {key!r}; expected: image, label")
            return np.asarray(content[key])
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise UserError(f"{path} cannot be read as HDF5 ({error}); get the file again") from error


def _check_unit(image: np.ndarray, path: Path) -> np.ndarray:
    low, high = float(image.min()), float(image.max())
    if low < -0.01 or high > 1.01:
        raise UserError(
            f"{path}: image values from {low:g} to {high:g}; expected [0, 1], the window of -125 "
            "to 275 HU already applied; prepare the files that way"
        )
    return image
