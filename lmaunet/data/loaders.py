"""Tell a folder's layout and read it: :func:`load` makes a :class:`Dataset` of any of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from lmaunet.data import fetch
from lmaunet.data.assemble import assemble
from lmaunet.data.class_map import CLASS_FILE, ClassMap, read_class_map
from lmaunet.data.dataset import Dataset
from lmaunet.data.layouts import transunet
from lmaunet.data.layouts.arrays import read_arrays
from lmaunet.data.layouts.beside import read_beside
from lmaunet.data.layouts.brats import is_brats, read_brats
from lmaunet.data.layouts.fetched import read_fetched
from lmaunet.data.layouts.folders import hidden, is_folder, named, understood, visible
from lmaunet.data.layouts.nnunet import is_nnunet, read_nnunet
from lmaunet.data.layouts.pairs import PAIR_FOLDERS, read_pairs
from lmaunet.data.nnunet_training import SEEN, NnunetTraining
from lmaunet.data.patches import in_patches, whole_cases
from lmaunet.data.phantom import phantom_source
from lmaunet.data.source import Source
from lmaunet.errors import UserError


def load(
    source: Path,
    *,
    size: tuple[int, ...],
    classes: int | None = None,
    seed: int = 0,
    class_map: str | Path | None = None,
    spacing_mm: float | None = None,
    fit: bool | None = None,
    training: NnunetTraining | None = None,
) -> Dataset:
    """Load a folder of labelled images whatever its layout; ``Dataset.layout`` says which.

    Understood are the fetched CT, image and label folders with NIfTI or NRRD files, nnU-Net's raw
    folders, BraTS, TransUNet's Synapse folders, and ``*_train.npz`` with ``*_val.npz``.

    Args:
        source: the folder, or one of the two npz files.
        size: height and width that the network takes; slices are padded or cropped to it. With a
            depth before them samples are patches of so many slices.
        classes: how many classes the network has, with the background; None takes the data's.
        seed: draws the validation cases where several cases are not divided by the files.
        class_map: a named map or a JSON file (see :func:`lmaunet.data.class_map.read_class_map`).
        spacing_mm: in-plane spacing to resample to; None keeps that of the files.
        fit: shrink slices that are larger than ``size`` instead of cropping them; None does so
            where cropping would lose more than a tenth of the labelled pixels.
        training: of a network that nnU-Net trained: images are prepared by its recipe, and those
            cases validate that it has not seen.

    Raises:
        UserError: for an empty or unknown folder, a damaged or unfitting file, NaN, shapes that
            differ, or labels beyond the classes; the message names the file.
    """
    if spacing_mm is not None and not spacing_mm > 0:
        raise UserError(f"spacing_mm={spacing_mm}; give a positive number of millimetres")
    raw = read_source(
        Path(source), seed=seed, class_map=class_map, classes=classes, training=training
    )
    if len(size) == 3:
        raw = whole_cases(raw)
    height, width = size[-2:]
    data = assemble(
        raw, size=(height, width), classes=classes, spacing_mm=spacing_mm, fit=fit,
        recipe=None if training is None else training.recipe,
    )  # fmt: skip
    return data if len(size) == 2 else in_patches(data, size[0])


def load_phantom(
    *, size: tuple[int, ...], seed: int = 0, classes: int | None = None,
    training: NnunetTraining | None = None, spacing_mm: float | None = None,
    fit: bool | None = None,
) -> Dataset:  # fmt: skip
    """Return the synthetic abdomen drawn from ``seed``, divided like the real volume.

    Args:
        size: height and width that the network takes, or depth, height and width.
        seed: draws the anatomy and the noise.
        classes: how many classes the network has; raises UserError unless it is the phantom's.
        training: of a network that nnU-Net trained, whose recipe prepares the images.
        spacing_mm, fit: as for :func:`load`.
    """
    recipe = None if training is None else training.recipe
    height, width = size[-2:]
    data = assemble(
        phantom_source(seed), size=(height, width), classes=classes, recipe=recipe,
        spacing_mm=spacing_mm, fit=fit,
    )  # fmt: skip
    return data if len(size) == 2 else in_patches(data, size[0])


def read_source(
    path: Path,
    *,
    seed: int = 0,
    class_map: str | Path | None = None,
    classes: int | None = None,
    training: NnunetTraining | None = None,
) -> Source:
    """Detect the layout of ``path`` and read it; arguments and errors as for :func:`load`."""
    if training is not None and not is_nnunet(path):
        # names of cases are nnU-Net's in its own folders alone
        found = read_source(path, seed=seed, class_map=class_map, classes=classes)
        return dataclasses.replace(found, notes=(*found.notes, SEEN))
    if not path.exists():
        raise UserError(f"{path} does not exist; give a folder with {understood()}")
    if not path.is_dir():
        if not path.name.endswith(("_train.npz", "_val.npz")):
            raise UserError(f"{path} is a file; give a folder with {understood()}")
        return read_arrays(re.sub(r"_(train|val)\.npz$", "", str(path)), class_map)
    if (path / fetch.SOURCE_FILE).exists():
        if class_map is not None:
            raise UserError(
                f"{path} is the fetched CT, which has a class map of its own; leave out "
                f"--class-map {class_map}"
            )
        return read_fetched(path)
    if is_nnunet(path):
        return read_nnunet(path, _given_map(path, class_map), classes, seed, training)
    for images, labels in PAIR_FOLDERS:
        if (path / images).is_dir() and (path / labels).is_dir():
            given = _given_map(path, class_map)
            return read_pairs(path / images, path / labels, given, classes, seed)
    if (path / transunet.TRAIN).is_dir():
        return transunet.read_transunet(path, _given_map(path, class_map), seed)
    pairs = [p for p in visible(path) if p.name.endswith("_train.npz")]
    if len(pairs) > 1:
        raise UserError(f"{path} holds {len(pairs)} sets ({named(pairs)}); give one of the files")
    if pairs:
        return read_arrays(str(pairs[0]).removesuffix("_train.npz"), class_map)
    if is_brats(path):
        return read_brats(path, _given_map(path, class_map), classes, seed)
    beside = read_beside(path, _given_map(path, class_map), classes, seed)
    if beside is not None:
        return beside
    if all(hidden(p) or p.name.startswith("README") for p in path.iterdir()):
        raise UserError(
            f"{path} is empty; fill it (lmaunet-deploy data fetch), use --phantom, or give a "
            f"folder with {understood()}"
        )
    inside = [sub for sub in visible(path) if is_folder(sub) and _looks_known(sub)]
    hint = f"{inside[0]} has one: give that; else " if inside else ""
    raise UserError(
        f"{path} has no layout that is understood; {hint}give a folder with {understood()}"
    )


def _looks_known(folder: Path) -> bool:
    try:
        if any((folder / a).is_dir() and (folder / b).is_dir() for a, b in PAIR_FOLDERS):
            return True
        return (folder / transunet.TRAIN).is_dir() or is_brats(folder)
    except (OSError, UserError):
        return False


def _given_map(folder: Path, given: str | Path | None) -> ClassMap | None:
    if given is not None:
        return read_class_map(given)
    return read_class_map(folder / CLASS_FILE) if (folder / CLASS_FILE).exists() else None
