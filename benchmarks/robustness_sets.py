"""Small labelled sets, class maps and JSON files that are wrong in one way or another."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

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
