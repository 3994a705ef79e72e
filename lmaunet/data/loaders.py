"""The layouts that are understood, each read into a :class:`~lmaunet.data.assemble.Source`."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import numpy as np

from lmaunet.data import fetch, transunet
from lmaunet.data import normalization as norm
from lmaunet.data.assemble import Source, Volume
from lmaunet.data.class_map import (
    CLASS_FILE,
    NAMED_MAPS,
    ClassMap,
    identity_map,
    integral,
    read_class_map,
)
from lmaunet.data.split import split_subjects
from lmaunet.data.volumes import (
    Geometry,
    check_pixels,
    check_shapes,
    is_volume,
    read_image,
    read_labels,
    stem,
)
from lmaunet.errors import UserError

LAYOUTS = (
    f"the fetched CT ({fetch.SOURCE_FILE}, from: lmaunet-deploy data fetch)",
    "images/ and labels/ (or img/ and label/, imagesTr/ and labelsTr/) with NIfTI or NRRD files",
    "TransUNet's Synapse (train_npz/*.npz and test_vol_h5/*.npy.h5)",
    "NAME_train.npz and NAME_val.npz with arrays image, label, patient, frame, slice",
)
PAIR_FOLDERS = (("images", "labels"), ("img", "label"), ("imagesTr", "labelsTr"))
CARDIAC_SET = "acdc"  # the set whose files are known to carry the cardiac codes
CT_BELOW = -500  # no MRI has such values, and the air of every CT has

_PREFIX = re.compile(r"^(image|img|label|lbl|seg|mask)s?[-_]?(?=.)", re.IGNORECASE)
_SUFFIX = re.compile(r"(?<=.)[-_](0000|image|img|label|lbl|seg|mask|gt)s?$", re.IGNORECASE)


def read_source(
    path: Path,
    *,
    seed: int = 0,
    class_map: str | Path | None = None,
    classes: int | None = None,
) -> Source:
    """Detect the layout of ``path`` and read it; arguments and errors as for ``dataset.load``."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder with {_layouts()}")
    if not path.is_dir():
        if not path.name.endswith(("_train.npz", "_val.npz")):
            raise UserError(f"{path} is a file; give a folder with {_layouts()}")
        return _read_patients(re.sub(r"_(train|val)\.npz$", "", str(path)), class_map)
    if (path / fetch.SOURCE_FILE).exists():
        if class_map is not None:
            raise UserError(
                f"{path} is the fetched CT, which has a class map of its own; leave out "
                f"--class-map {class_map}"
            )
        return _read_fetched(path)
    for images, labels in PAIR_FOLDERS:
        if (path / images).is_dir() and (path / labels).is_dir():
            given = _given_map(path, class_map)
            return _read_pairs(path / images, path / labels, given, classes, seed)
    if (path / transunet.TRAIN).is_dir():
        return transunet.read_transunet(path, _given_map(path, class_map), seed)
    pairs = sorted(path.glob("*_train.npz"))
    if len(pairs) > 1:
        raise UserError(f"{path} holds {len(pairs)} sets ({_names(pairs)}); give one of the files")
    if pairs:
        return _read_patients(str(pairs[0]).removesuffix("_train.npz"), class_map)
    if all(p.name.startswith((".", "README")) for p in path.iterdir()):
        raise UserError(
            f"{path} is empty; fill it (lmaunet-deploy data fetch), use --phantom, or give a "
            f"folder with {_layouts()}"
        )
    raise UserError(f"{path} has no layout that is understood; give a folder with {_layouts()}")


def _layouts() -> str:
    return "one of: " + "; ".join(LAYOUTS)


def _names(paths: list[Path]) -> str:
    return ", ".join(p.name for p in paths[:3]) + (" ..." if len(paths) > 3 else "")


def _given_map(folder: Path, given: str | Path | None) -> ClassMap | None:
    if given is not None:
        return read_class_map(given)
    return read_class_map(folder / CLASS_FILE) if (folder / CLASS_FILE).exists() else None


def _read_fetched(folder: Path) -> Source:
    state = fetch.info(folder)
    if not state["complete"]:
        raise UserError(f"{folder}: {state['problem']}")
    # The cut-out example_ct_sm is left aside: it shows the same slices as the whole CT.
    whole = _pair_volume(
        folder / "example_ct.nii.gz",
        folder / "example_seg_fast_force_split.nii.gz",
        NAMED_MAPS["totalsegmentator"],
        "ct",
    )
    other = _pair_volume(
        folder / fetch.DICOM_FOLDER,
        folder / "example_seg_dicom.nii.gz",
        NAMED_MAPS["totalsegmentator"],
        "ct_dicom",
    )
    return Source(
        name=f"CT of {fetch.PACKAGE} {fetch.VERSION}",
        label_source=fetch.LABEL_SOURCE,
        classes=NAMED_MAPS["totalsegmentator"].classes,
        volumes=[
            Volume(whole.case, "blocks", whole.labels, whole.image, whole.spacing_mm),
            Volume(other.case, "train", other.labels, other.image, other.spacing_mm),
        ],
        split="ct_dicom, a second patient, trains.",
        layout="the fetched CT",
        normalization=norm.window(*norm.ABDOMEN_WINDOW_HU),
        notes=(
            "a score is agreement with TotalSegmentator, not clinical accuracy",
            "the slices that validate are of the same patient as most that train",
        ),
    )


def _pair_volume(
    image_path: Path, label_path: Path, class_map: ClassMap, case: str, role: str = "train"
) -> Volume:
    """Return one image with its labels; the image is read when it is needed."""
    codes, geometry = read_labels(label_path)
    labels = class_map.apply(codes, str(label_path))
    image = functools.partial(_read_paired, image_path, label_path, geometry)
    return Volume(case, role, labels, image, geometry.spacing_mm)  # type: ignore[arg-type]


def _read_paired(image_path: Path, label_path: Path, labels: Geometry) -> np.ndarray:
    image, geometry = read_image(image_path)
    check_shapes(geometry.shape, labels.shape, f"{image_path} and {label_path}")
    if not geometry.same_grid(labels):
        raise UserError(
            f"{image_path} and {label_path} lie in different places (origin "
            f"{_mm(geometry.origin)} and {_mm(labels.origin)} mm, spacing "
            f"{_mm(geometry.spacing_mm)} and {_mm(labels.spacing_mm)} mm); resample the labels "
            "onto the image"
        )
    return image


def _mm(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in values) + ")"


def _key(path: Path) -> str:
    """Return what an image's name and its label's name have in common."""
    return _PREFIX.sub("", _SUFFIX.sub("", stem(path))).lower()


def _match(images: Path, labels: Path) -> list[tuple[str, Path, Path]]:
    found: list[dict[str, Path]] = []
    for folder in (images, labels):
        by_key: dict[str, Path] = {}
        for path in sorted(p for p in folder.iterdir() if is_volume(p)):
            if _key(path) in by_key:
                raise UserError(
                    f"{path} and {by_key[_key(path)].name} have the same case name "
                    f"{_key(path)!r}; expected one file a case; rename one"
                )
            by_key[_key(path)] = path
        if not by_key:
            raise UserError(f"{folder} holds no NIfTI, NRRD or DICOM image; give {_layouts()}")
        found.append(by_key)
    lonely = [found[0][k] for k in found[0].keys() - found[1].keys()]
    lonely += [found[1][k] for k in found[1].keys() - found[0].keys()]
    if lonely:
        raise UserError(
            f"{_names(sorted(lonely))} in {images.parent} have no partner: {images.name}/ and "
            f"{labels.name}/ must hold files of the same names"
        )
    return [(key, found[0][key], found[1][key]) for key in sorted(found[0])]


def _read_pairs(
    images: Path, labels: Path, class_map: ClassMap | None, classes: int | None, seed: int
) -> Source:
    matched = _match(images, labels)
    if class_map is None:
        class_map = identity_map(classes or _highest([m[2] for m in matched]) + 1)
    val = split_subjects([key for key, _, _ in matched], seed) if len(matched) > 1 else set()
    volumes = [
        _pair_volume(
            image, label, class_map, key,
            "blocks" if len(matched) == 1 else "val" if key in val else "train",
        )
        for key, image, label in matched
    ]  # fmt: skip
    options, notes = class_map.options, []
    if "normalization" in options:
        normalization = norm.check(options["normalization"], CLASS_FILE)
    else:
        is_ct = float(volumes[0].image().min()) < CT_BELOW
        normalization = norm.window(*norm.ABDOMEN_WINDOW_HU) if is_ct else norm.zscore()
        notes.append(
            f"{CLASS_FILE} gives no normalization; taken from the values of {matched[0][1].name}: "
            + ("CT, abdomen window" if is_ct else "not CT, z-score of each slice")
        )
    split = (
        f"{len(matched) - len(val)} cases train, {len(val)} validate ({', '.join(sorted(val))}), "
        f"drawn by seed {seed}; no case is on both sides."
    )
    return Source(
        name=str(options.get("name", images.parent.resolve().name)),
        label_source=str(options.get("label_source", "not stated")),
        classes=class_map.classes,
        volumes=volumes,
        split=split if val else "",
        layout=f"{images.name}/ and {labels.name}/ with NIfTI or NRRD files",
        normalization=normalization,
        notes=tuple(notes),
    )


def _highest(paths: list[Path]) -> int:
    highest = max(int(integral(read_labels(path)[0], str(path)).max()) for path in paths)
    if not 1 <= highest <= 254:
        raise UserError(
            f"{paths[0].parent}: the highest label is {highest}; expected 1 to 254, or a class map "
            f"({CLASS_FILE} beside the folders)"
        )
    return highest


def _read_patients(stem_path: str, class_map: str | Path | None) -> Source:
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
    return Source(
        name=Path(stem_path).name,
        label_source="as in the files",
        classes=chosen.classes,
        volumes=volumes,
        split=f"by patient: {len(patients['train'])} train, {len(patients['val'])} validate, none "
        "in both.",
        layout="NAME_train.npz and NAME_val.npz",
        normalization=norm.zscore(),
    )


def _highest_code(codes: np.ndarray, path: Path) -> int:
    highest = int(integral(codes, str(path)).max())
    if not 1 <= highest <= 254:
        raise UserError(
            f"{path}: the highest label is {highest}; expected 1 to 254, or a class map "
            "(--class-map FILE)"
        )
    return highest


def _read_half(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of one of the two files, of shapes and types that go together."""
    arrays = transunet.read_npz(path, ("image", "label", "patient", "frame", "slice"))
    image = arrays["image"]
    if image.ndim != 3:
        raise UserError(f"{path}: image of shape {image.shape}; expected (slices, H, W)")
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
    volumes = []
    groups = np.stack([numbers["patient"], numbers["frame"]], 1)
    for patient, frame in np.unique(groups, axis=0):
        rows = np.flatnonzero((groups == (patient, frame)).all(1))
        rows = rows[np.argsort(numbers["slice"][rows], kind="stable")]
        volumes.append(
            Volume(
                f"patient{patient:03d}_frame{frame:02d}",
                role,  # type: ignore[arg-type]
                labels[rows],
                functools.partial(image.__getitem__, rows),
                z=numbers["slice"][rows],
                keep_all=True,
            )
        )
    return volumes, {int(p) for p in numbers["patient"]}
