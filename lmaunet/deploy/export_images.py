"""The training images that go along with an export, for the builds that are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    foreground = (data.train.labels > 0).reshape(len(data.train), -1).sum(1)
    return data.train.images[np.sort(np.argsort(-foreground, kind="stable")[:SAMPLES])]


def write_calibration(out: Path, data: Dataset) -> None:
    """Write the images that QAT calibrated with into an export's folder."""
    from lmaunet.quant.qat import calibration_images

    np.savez_compressed(out / CALIBRATION, images=calibration_images(data))


def calibration_of(folder: Path, options: Mapping[str, Any]) -> dict[str, Path]:
    """Return the file of :func:`write_calibration` in an export's folder, for what reads it.

    Empty for another build, and where the export was made without one.
    """
    path = folder / CALIBRATION
    return {"calibration": path} if options.get("precision") == "fp16" and path.exists() else {}


def images_of(inputs: Mapping[str, Path]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the samples ``(n, channels, H, W)`` of an export, and what calibrated, if asked for.

    Raises:
        UserError: where a file is missing or damaged.
    """
    read = [_read(inputs[name]) if name in inputs else None for name in ("samples", "calibration")]
    assert read[0] is not None
    return read[0], read[1]


def _read(path: Path) -> np.ndarray:
    with record_of(path.parent), np.load(path) as content:
        images: np.ndarray = content["images"]
    return images
