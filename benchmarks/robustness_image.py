"""What an independent reader gives of an image, and how it says that it gives none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Refused(Exception):
    """An independent reader does not read this."""


class NotABox(Exception):
    """An independent reader reads it, and it is no box of voxels, so that no mask can be right."""


@dataclass(frozen=True)
class Image:
    """Voxels ``(i, j, k)`` and where they lie.

    ``forms`` has an affine to RAS mm for each way in which readers lay the image; one name for one
    way of reading, so that image and mask are compared way by way. ``exact`` says that the values
    are whole numbers that no scaling has rounded. ``stored`` says which forms the file itself has.
    """

    voxels: np.ndarray
    forms: Mapping[str, np.ndarray]
    exact: bool
    stored: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
