"""The training images that go along with an export, for the builds that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmaunet.stage import record_of

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset

SAMPLES = 4
"""Training images that go along with an export, to compare its forms and calibrate targets."""
CALIBRATION = "calibration.npz"
"""Those that QAT calibrated with, on which a target looks at the range of values."""


def samples_of(data: Dataset) -> np.ndarray:
    """Return the training images with the most foreground; held-out images stay held out."""
    foreground = (data.train.labels > 0).sum((1, 2))
    return data.train.images[np.sort(np.argsort(-foreground, kind="stable")[:SAMPLES])]


def write_calibration(out: Path, data: Dataset) -> None:
    """Write the images that QAT calibrated with into an export's folder."""
    from lmaunet.quant.qat import calibration_images

    np.savez_compressed(out / CALIBRATION, images=calibration_images(data))


def read_images(path: Path) -> np.ndarray:
    """Return the images ``(n, channels, H, W)`` in a file of an export's folder.

    Raises:
        UserError: where the file is missing or damaged.
    """
    with record_of(path.parent), np.load(path) as content:
        images: np.ndarray = content["images"]
    return images
