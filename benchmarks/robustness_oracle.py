"""The judge of a mask: where independent readers lay it, and which voxels it was computed from.

A mask that came with status 0 is right where, for every way in which readers lay the image, the
same reader lays the mask on it to :data:`NEAR_MM`, and its labels are those of the voxels that the
independent reader sees, turned to LPS by the image's own directions. What network gives which
labels is :mod:`robustness_network`'s; an image that has to be resampled first is written anew, in
the plainest form there is, and segmented by the program: preparing is then shared, reading is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import robustness_network as network
import robustness_process as process
from robustness_image import Image, NotABox, Refused
from robustness_readers import read

NEAR_MM = 0.05
FORMS_AGREE_MM = 0.1
ROUNDED_SHARE = 0.005
"""Of voxels whose label may differ where a scaling, or resampling, rounds values in float32."""
SKEW_DEGREES = 0.6
"""Directions that are further from a right angle have no mask that every format can hold."""


@dataclass(frozen=True)
class Verdict:
    """``wrong`` says what is bad; ``unverified`` why nothing can be said; both empty: right."""

    wrong: tuple[str, ...] = ()
    unverified: str = ""


def judge_mask(image_path: Path, mask_path: Path, build: Path, said: str, place: Path) -> Verdict:
    """Judge a mask that a command wrote with status 0.

    Args:
        image_path: what it is of.
        mask_path: the mask.
        build: the folder of the build of :mod:`robustness_network`.
        said: what the command printed.
        place: a folder for files of the judge.
    """
    try:
        image = read(image_path)
    except NotABox as error:
        return Verdict((f"accepted what is no box of voxels: {error}",))
    except Refused as error:
        return Verdict(unverified=f"the independent reader refuses the image: {error}")
    try:
        mask = _read_mask(mask_path, image)
    except Refused as error:
        return Verdict((f"the mask cannot be read: {error}",))
    except NotABox as error:
        return Verdict((f"the mask does not lie on the image: {error}",))
    if not np.isfinite(image.voxels).all():
        return Verdict(("accepted NaN or infinity",))
    labels = mask.voxels
    if not np.array_equal(labels, np.rint(labels)):
        return Verdict(("the mask holds fractions",))
    forms = _same_forms(image, mask)
    wrong = list(_placement(image, mask, forms, said))
    if labels.shape != image.voxels.shape:
        aligned = _aligned(mask, image, forms)
        if aligned is None:
            return Verdict((*wrong, f"the mask has {labels.shape}, the image {image.voxels.shape}"))
        labels = aligned
    elif not _identical_axes(mask, image, forms):
        aligned = _aligned(mask, image, forms)
        labels = labels if aligned is None else aligned
    if wrong:
        return Verdict(tuple(wrong))
    shares, unknown = [], ""
    for affine, turn in _candidates(image):
        expected = _expected(image, affine, turn, build, place)
        if isinstance(expected, str):
            unknown = expected
            continue
        labels_lps, exact = expected
        share = float((network.turned_back(labels_lps, turn) != labels).mean())
        if share <= (0.0 if exact and image.exact else ROUNDED_SHARE):
            return Verdict()
        shares.append(share)
    if unknown:
        return Verdict(unverified=unknown)
    return Verdict((f"computed from other voxels: {100 * min(shares):.1f}% of labels differ",))


def _read_mask(path: Path, image: Image) -> Image:
    if path.suffix != ".dcm":
        return read(path)
    from robustness_dicom_reader import read_segmentation

    return Image(read_segmentation(path, image), image.forms, True)


def _same_forms(image: Image, mask: Image) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return pairs of affines that one way of reading gives of image and mask."""
    if set(image.forms) == set(mask.forms):
        return [(name, image.forms[name], mask.forms[name]) for name in image.forms]
    # of two formats: each way of reading the one is compared with each of the other
    return [
        (f"{a}, {b}", image.forms[a], mask.forms[b])
        for a, b in itertools.product(image.forms, mask.forms)
    ]


def corners(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return the corners of a box of voxels, ``(8, 3)`` in mm."""
    ends = np.array(list(itertools.product(*[(0, n - 1) for n in shape])))
    return ends @ affine[:3, :3].T + affine[:3, 3]


def apart_mm(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> float:
    """Return how far two affines lay a voxel of a box apart at most."""
    return float(np.abs(corners(a, shape) - corners(b, shape)).max())


def _near(affine: np.ndarray, shape: Sequence[int]) -> float:
    # float32 holds a place to 6e-8 of its size
    return NEAR_MM + 1e-6 * float(np.abs(corners(affine, shape)).max())


def _disagree(image: Image) -> bool:
    shape = image.voxels.shape
    return any(
        apart_mm(a, b, shape) > FORMS_AGREE_MM
        for a, b in itertools.combinations(image.forms.values(), 2)
    )


def _placement(
    image: Image, mask: Image, forms: list[tuple[str, np.ndarray, np.ndarray]], said: str
) -> list[str]:
    shape = image.voxels.shape
    same_kind = set(image.forms) == set(mask.forms)
    places = []
    for name, ours, theirs in forms:
        if mask.voxels.shape == shape and apart_mm(ours, theirs, shape) <= _near(ours, shape):
            places.append((name, 0.0))
        elif _relation(theirs, ours) is not None and mask.voxels.size == image.voxels.size:
            places.append((name, _apart_as_sets(ours, shape, theirs, mask.voxels.shape)))
        elif mask.voxels.shape == shape:
            places.append((name, apart_mm(ours, theirs, shape)))
        else:
            places.append((name, float("inf")))
    off = [(n, mm) for n, mm in places if mm > _near(forms[0][1], shape)]
    bad = []
    if (same_kind and off) or len(off) == len(places):
        name, mm = max(off, key=lambda pair: pair[1])
        bad.append(f"the mask lies {mm:.3g} mm off for a reader of: {name}")
    real = [a for n, a in image.forms.items() if not n.startswith("no form")]
    if not real and "form" not in said and any(n.startswith("no form") for n in image.forms):
        bad.append("the image has neither sform nor qform, and nothing is said")
    if len(real) > 1 and _disagree(image) and not any(w in said for w in ("qform", "sform")):
        bad.append("sform and qform disagree, and nothing is said")
    return bad


def _apart_as_sets(
    a: np.ndarray, a_shape: Sequence[int], b: np.ndarray, b_shape: Sequence[int]
) -> float:
    one, other = corners(a, a_shape), corners(b, b_shape)
    gaps = np.abs(one[:, None] - other[None]).max(-1)
    return float(max(gaps.min(0).max(), gaps.min(1).max()))


def _relation(mask: np.ndarray, image: np.ndarray) -> np.ndarray | None:
    """Return the signed permutation from axes of the mask to those of the image, or None."""
    step = np.linalg.inv(image[:3, :3]) @ mask[:3, :3]
    turn = np.rint(step)
    if np.abs(step - turn).max() > 0.01 or not (np.abs(turn).sum(0) == 1).all():
        return None
    return turn if (np.abs(turn).sum(1) == 1).all() else None


def _identical_axes(mask: Image, image: Image, forms: list[Any]) -> bool:
    shape = image.voxels.shape
    return any(apart_mm(a, b, shape) <= _near(a, shape) for _, a, b in forms)


def _aligned(mask: Image, image: Image, forms: list[Any]) -> np.ndarray | None:
    """Return the mask's labels in the index order of the image; None where it is another box."""
    for _, ours, theirs in forms:
        turn = _relation(theirs, ours)
        if turn is None:
            continue
        order = [int(np.abs(turn[axis]).argmax()) for axis in range(3)]
        moved = mask.voxels.transpose(order)
        moved = np.flip(moved, tuple(axis for axis in range(3) if turn[axis].sum() < 0))
        if moved.shape == image.voxels.shape:
            return moved
    return None


def _candidates(image: Image) -> list[tuple[np.ndarray, np.ndarray]]:
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for affine in image.forms.values():
        for turn in network.orientations(affine):
            spacing = network.spacing_of(affine, turn)
            if not any(
                np.array_equal(t, turn)
                and np.allclose(network.spacing_of(a, t), spacing, rtol=1e-4)
                for a, t in found
            ):
                found.append((affine, turn))
    return found


def _expected(
    image: Image, affine: np.ndarray, turn: np.ndarray, build: Path, place: Path
) -> tuple[np.ndarray, bool] | str:
    """Return the labels in LPS and whether they are exact, or why there are none."""
    voxels = network.turned(image.voxels, turn)
    spacing = network.spacing_of(affine, turn)
    if network.is_plain(voxels.shape, spacing):
        return network.expected_labels(voxels), True
    place.mkdir(parents=True, exist_ok=True)
    plain, out = place / "work" / "plain.nii", place / "work" / "plain-mask.nii"
    plain.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    # (x, y, z) of LPS; the affine says so
    nibabel.save(
        nibabel.Nifti1Image(
            voxels.astype(np.float32), np.diag([-1, -1, 1, 1]) @ np.diag([*spacing, 1])
        ),
        plain,
    )
    arguments = ["infer", "--build", str(build), str(plain), "-o", str(out)]
    outcome = process.run(arguments, place)
    if outcome.status != 0:
        return f"the same voxels written anew are refused: {outcome.err.strip()[-200:]}"
    return np.asanyarray(nibabel.load(out).dataobj).reshape(voxels.shape), False


Judge = Callable[[process.Outcome], Verdict]
