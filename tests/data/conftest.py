"""Tiny volumes in every format that the loaders read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


class Maker:
    """Writes small labelled volumes; image values encode the labels so that pairing shows."""

    classes = 3

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(0)

    def labels(self, shape=(24, 12, 14)) -> np.ndarray:
        labels = np.zeros(shape, np.uint8)
        labels[2:-2, 3:6, 4:9] = 1
        labels[6:-6, 7:10, 2:6] = 2
        return labels

    def image(self, labels: np.ndarray) -> np.ndarray:
        values = np.array([-900.0, 40.0, 160.0], np.float32)
        return values[np.minimum(labels, 2)] + self.rng.normal(0, 3, labels.shape).astype(
            np.float32
        )

    @staticmethod
    def aligned(side) -> bool:
        """Whether the labelled pixels of slices are where the image is bright, as it is drawn."""
        bright = side.images[:, 0] > side.images[:, 0].min() + 1.0
        return np.array_equal(bright, side.labels > 0)

    def write(self, path: Path, array: np.ndarray, spacing=(3.0, 3.0, 3.0), orientation="LPS"):
        """Write an array given in LPS ``(z, y, x)``; the file has the orientation asked for."""
        import SimpleITK

        path.parent.mkdir(parents=True, exist_ok=True)
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(spacing[::-1])
        image.SetOrigin((-20.0, 7.0, 100.0))
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, orientation), str(path))
        return path

    def pair(self, name: str, suffix=".nii.gz", labels=None, image=None, **options):
        labels = self.labels() if labels is None else labels
        image = self.image(labels) if image is None else image
        self.write(self.folder / "images" / f"{name}{suffix}", image, **options)
        self.write(self.folder / "labels" / f"{name}{suffix}", labels, **options)


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path)
