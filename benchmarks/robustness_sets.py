"""Small labelled sets, class maps and JSON files that are wrong in one way or another."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
from robustness_builds import change_json, json_bytes
from robustness_images import Rng, pick

CASES = 4


def case(number: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its labels, int16 and uint8, ``(28, 24, 6)``."""
    rng = np.random.default_rng([3, number])
    labels = np.zeros((28, 24, 6), np.uint8)
    image = rng.normal(0, 20, labels.shape)
    for j in range(1, classes):
        x, y = 3 + 6 * j + number % 2, 4 + 4 * j
        labels[x : x + 5, y : y + 6, 1:5] = j
        image[labels == j] += 60 * j
    image[:3] = -1000
    return np.rint(image).astype(np.int16), labels


def write_set(place: Path, classes: int) -> Path:
    """Write a set of a few cases with images/ and labels/."""
    affine = np.diag([-2.0, -2.5, 4.0, 1.0])
    for number in range(CASES):
        for folder, array in zip(("images", "labels"), case(number, classes), strict=True):
            (place / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), place / folder / f"p{number}.nii.gz")
    return place


def nifti(array: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    """Return an array as the bytes of a compressed NIfTI file."""
    grid = np.diag([-2.0, -2.5, 4.0, 1.0]) if affine is None else affine
    return gzip.compress(nibabel.Nifti1Image(array, grid).to_bytes(), 4, mtime=0)


def layout(rng: Rng, place: Path) -> tuple[str, list[str], str, str]:
    """Write a sound set; return its layout, its cases, its folders of images and of labels."""
    name = pick(rng, ("pairs", "pairs", "nnunet", "nnunet", "patients"))
    images, labels = {"nnunet": ("imagesTr", "labelsTr")}.get(name, ("images", "labels"))
    cases = [f"case{i}" for i in range(CASES)]
    if name == "patients":
        cases = [f"patient{i // 2:03d}_frame{1 + 11 * (i % 2):02d}" for i in range(6)]
    ending = "_0000" if name == "nnunet" else ""
    for folder in (images, labels):
        (place / folder).mkdir(parents=True)
    for number, key in enumerate(cases):
        image, label = case(number, 4)
        (place / images / f"{key}{ending}.nii.gz").write_bytes(nifti(image))
        (place / labels / f"{key}.nii.gz").write_bytes(nifti(label))
    if name == "nnunet":
        (place / "dataset.json").write_text(json.dumps({
            "channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 2, "c": 3},
            "numTraining": CASES, "file_ending": ".nii.gz",
        }))  # fmt: skip
    elif rng.random() < 0.5:
        (place / "classes.json").write_text(json.dumps({
            "classes": ["background", "a", "b", "c"], "codes": {"1": 1, "2": 2, "3": 3},
            "label_source": "drawn", "name": "set",
        }))  # fmt: skip
    return name, cases, images, labels


def change_set(
    rng: Rng, place: Path, made: tuple[str, list[str], str, str], said: list[str]
) -> None:
    """Change a set: its files, their pairing, the labels, the map of classes."""
    _, cases, images, labels = made
    files = sorted(p for p in place.rglob("*") if p.is_file())
    how = pick(rng, ("json", "json", "json", "labels", "labels", "image", "gone", "stray", "named",
                     "grid", "bytes", "one channel more"))  # fmt: skip
    said.append(how)
    maps = [p for p in files if p.suffix == ".json"]
    path = pick(rng, [p for p in files if p.suffix == ".gz"])
    label = place / labels / f"{pick(rng, cases)}.nii.gz"
    number = int(rng.integers(99))
    if how == "json":
        if not maps:
            maps = [place / "classes.json"]
            maps[0].write_text(json.dumps({"classes": ["background", "a", "b", "c"],
                                           "codes": {"1": 1, "2": 2, "3": 3}}))  # fmt: skip
        content = change_json(rng, json.loads(maps[0].read_bytes()), said, int(rng.integers(1, 3)))
        maps[0].write_bytes(json_bytes(rng, content, said))
    elif how == "labels":
        _, array = case(number, 4)
        change, kind = pick(
            rng,
            (
                ("near", "f4"),
                ("half", "f4"),
                ("nan", "f4"),
                ("negative", "i2"),
                ("many", "i2"),
                ("none", "u1"),
                ("huge", "i4"),
                ("other", "u1"),
            ),
        )
        array = array.astype(kind)
        if change in ("near", "half"):
            array += np.float32(0.0004 if change == "near" else 0.5)
        elif change == "none":
            array[:] = 0
        else:
            values = {"nan": np.nan, "negative": -1, "many": 300, "huge": 2**30, "other": 9}
            array[5, 5, 2] = values[change]
        label.write_bytes(nifti(array))
        said.append(change)
    elif how == "image":
        image, _ = case(number, 4)
        array = image.astype(np.float32)
        change = pick(rng, ("nan", "flat", "huge", "slices", "small", "four", "empty"))
        if change in ("nan", "huge"):
            array[3, 3, 3] = np.nan if change == "nan" else 1e30
        array = {
            "flat": array * 0,
            "slices": array[:, :, :5],
            "small": array[:3, :3],
            "four": np.stack([array, array], -1),
            "empty": array[:0],
        }.get(change, array)
        path.write_bytes(nifti(array))
        said.append(change)
    elif how == "gone":
        path.unlink()
        said.append(path.name)
    elif how == "stray":
        name = pick(
            rng,
            (
                "._case0.nii.gz",
                ".DS_Store",
                "notes.txt",
                "Thumbs.db",
                "case9.nii.gz",
                "sub/a.nii.gz",
                "case0.nii",
                "desktop.ini",
                "case0 (1).nii.gz",
            ),
        )
        target = place / pick(rng, (images, labels)) / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(nifti(case(9, 4)[0]) if rng.random() < 0.4 else rng.bytes(60))
        said.append(name)
    elif how == "named":
        target = path.with_name(
            pick(
                rng,
                (
                    path.name.upper(),
                    "x" + path.name,
                    path.name.replace(".nii.gz", ".nii"),
                    "\udcff.nii.gz",
                    "a b.nii.gz",
                    path.name[:-7] + "_0001.nii.gz",
                ),
            )
        )
        path.rename(target)
        said.append(f"{path.name} to {target.name!r}")
    elif how == "grid":
        image, _ = case(number, 4)
        affine = np.diag([-2.0, -2.5, 4.0, 1.0])
        affine[pick(rng, (0, 1, 2)), pick(rng, (0, 1, 2, 3))] += pick(rng, (0.01, 0.3, 5.0))
        path.write_bytes(nifti(image if path.parent.name == images else case(number, 4)[1], affine))
        said.append(path.name)
    elif how == "bytes":
        data = bytearray(path.read_bytes())
        if rng.random() < 0.5:
            del data[int(rng.integers(0, len(data))) :]
        else:
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
        said.append(path.name)
    else:
        for key in cases[: None if rng.random() < 0.6 else 2]:
            (place / images / f"{key}_0001.nii.gz").write_bytes(nifti(case(3, 4)[0]))
