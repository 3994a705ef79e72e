"""A data set of several modalities on unlike grids, written anew on one grid for each case.

The grid is that of the labels, which are copied as they are: labels are never resampled. Images
that lie on it are copied too.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lmaunet.data.dataset_json import DATASET_FILE, read_dataset_json
from lmaunet.data.fusion import Fusion, fuse
from lmaunet.data.images.geometry import Geometry
from lmaunet.data.images.held import to_sitk
from lmaunet.data.images.volumes import Image, read_image, read_pixels, read_volume
from lmaunet.data.layouts.brats import brats_cases, is_brats
from lmaunet.data.layouts.cases import Case
from lmaunet.data.layouts.nnunet import is_nnunet, nnunet_cases
from lmaunet.data.layouts.pairs import PAIR_FOLDERS, match_cases
from lmaunet.errors import UserError
from lmaunet.stage import write_json

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
RECORD = "fusion.json"
LAYOUTS = "nnU-Net's raw folder, BraTS, or images/ and labels/ with CASE_0000, CASE_0001"

Say = Callable[[float, str], None]


def fuse_set(folder: Path, output: Path, *, register: bool, say: Say) -> dict[str, Any]:
    """Write a data set whose images of a case all lie on the grid of its labels.

    Files keep their names and folders; ``fusion.json`` beside them says what was done to each
    image. Nothing is written unless all of it is.

    Args:
        folder: nnU-Net's raw folder, BraTS, or folders of images and of labels.
        output: a folder that does not exist.
        register: move an image that lies on another grid onto the first that lies on the labels'.
        say: called with the share that is done and a line.

    Returns:
        What ``fusion.json`` holds.

    Raises:
        UserError: for another layout, cases of one image, an image that cannot be brought onto the
            grid (its case is named), or an output that is there.
    """
    if os.path.lexists(output):
        raise UserError(f"{output} exists; name a folder that does not")
    inside = output.resolve()
    if inside == folder.resolve() or folder.resolve() in inside.parents:
        raise UserError(f"{output} lies in {folder}, which would be read as data; name another")
    cases = cases_of(folder)
    if max(len(case.images) for case in cases) < 2:
        raise UserError(f"{folder} has one image for each case; there is nothing to fuse")
    _check_files(folder, cases)
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    rows = []
    try:
        for index, case in enumerate(cases):
            told = functools.partial(say, index / len(cases))
            told(f"case {case.name} ({index + 1} of {len(cases)})")
            rows.append(_fuse_case(case, folder, partial, register, told))
        for file in sorted(folder.glob("*.json")):
            _copy(file, folder, partial)
        content = {"from": str(folder), "registered": register, "cases": rows}
        write_json(partial / RECORD, content)
        partial.rename(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return content


def cases_of(folder: Path) -> list[Case]:
    """Return the cases of a folder, images in the order of the channels; raises UserError."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one with {LAYOUTS}")
    if is_nnunet(folder):
        return nnunet_cases(folder, read_dataset_json(folder / DATASET_FILE))[0]
    for images, labels in PAIR_FOLDERS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return match_cases(folder / images, folder / labels)[0]
    if is_brats(folder):
        return brats_cases(folder)[0]
    raise UserError(f"{folder} has no layout whose images can be fused; give {LAYOUTS}")


def _check_files(folder: Path, cases: Sequence[Case]) -> None:
    for case in cases:
        for path in (*case.images, case.label):
            if not path.is_file() or not path.name.lower().endswith(SUFFIXES):
                raise UserError(
                    f"{path}: images are written as they were read, and this is none of "
                    f"{', '.join(SUFFIXES)}; convert it"
                )
            if folder not in path.parents:
                raise UserError(f"{path} lies outside of {folder}; move it there")


def _fuse_case(
    case: Case, folder: Path, output: Path, register: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    wanted = read_volume(case.label).geometry
    images = [read_pixels(path) for path in case.images]
    own = [image.geometry.same_grid(wanted) for image in images]
    names = [str(path) for path in case.images]
    rows: list[dict[str, Any]] = []
    if register and not any(own):
        raise UserError(
            f"case {case.name!r}: no image lies on the grid of {case.label}, so that nothing says "
            "where the others belong; resample them without --register, or draw labels on one"
        )
    onto = own.index(True) if any(own) else 0
    for index, (image, path) in enumerate(zip(images, case.images, strict=True)):
        if own[index]:
            _copy(path, folder, output)
            rows.append({"image": str(path.relative_to(folder)), "how": "as it is"})
            continue
        # without an image there, the labels' grid is that of an image that says nothing
        first = images[onto] if own[onto] else _of_labels(wanted, images[0])
        way = Fusion("register" if register else "resample", say=say)
        onto_name = names[onto] if own[onto] else str(case.label)
        fused, records = fuse([first, image], [onto_name, names[index]], way)
        _write(fused[1], wanted, output / path.relative_to(folder))
        rows.append({**records[1], "image": str(path.relative_to(folder))})
    _copy(case.label, folder, output)
    return {"case": case.name, "images": rows}


def _of_labels(geometry: Geometry, like: Image) -> Image:
    import numpy as np

    return Image(np.zeros(geometry.shape, np.float32), geometry, like.kind)


def _write(image: Image, wanted: Geometry, path: Path) -> None:
    """Write an image that lies on the labels' grid, and read it back."""
    import numpy as np
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        SimpleITK.WriteImage(to_sitk(image.array, wanted), str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error
    array, geometry = read_image(path)
    if not geometry.same_grid(wanted) or not np.array_equal(array, image.array):
        raise UserError(
            f"{path.name}: what was written does not read back as it was; convert the labels to "
            ".nrrd or .mha"
        )


def _copy(path: Path, folder: Path, output: Path) -> None:
    place = output / path.relative_to(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place)
