"""Writing a map of numbers, such as an entropy, onto its image, with the care of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.data.images.masks import (
    LABEL_SUFFIXES,
    SEGMENTATION_SUFFIX,
    check_output,
    suffix_of,
    write_values,
)
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.data.images.geometry import Geometry


def write_map(path: Path, values: np.ndarray, geometry: Geometry) -> Path:
    """Write a map of float32 values ``(z, y, x)`` in LPS to a file, as :func:`write_labels` does.

    Raises:
        UserError: for another shape, values that are not finite, ``.dcm`` or an unknown suffix, or
            where the file cannot be written.
    """
    import numpy as np

    if tuple(values.shape) != geometry.shape:
        raise UserError(f"values of shape {tuple(values.shape)}; expected {geometry.shape}")
    if not np.isfinite(values).all():
        raise UserError("the map holds NaN or infinity; build the target again")
    check_map(path)
    return write_values(path, values.astype(np.float32), geometry)


def check_map(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise UserError where a map cannot be written to a path, before it is made."""
    check_output(path, inputs)
    if suffix_of(path) == SEGMENTATION_SUFFIX:
        raise UserError(
            f"{path}: a map of numbers makes no DICOM segmentation; use {', '.join(LABEL_SUFFIXES)}"
        )
