"""A data set's slices and how they were made, whichever way that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmaunet.data.dataset import SliceSet
from lmaunet.data.framing import SPACING_TOLERANCE

Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Sliced:
    """The slices of a source; fields are those of :class:`lmaunet.data.dataset.Dataset`.

    ``spacings`` are of the cases that validate; ``sentences`` say of each volume how its slices
    were chosen, empty where that is plain.
    """

    train: SliceSet
    val: SliceSet
    spacings: Mapping[str, Spacing]
    sentences: tuple[str, ...]
    normalization: Mapping[str, Any]
    resampled_mm: tuple[float, float] | None
    fit: bool
    intensity: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()


def common_spacing(spacings: Sequence[Spacing]) -> Spacing:
    """Return the spacing that all have, NaN along an axis where they differ or one is unknown."""
    table = np.array(spacings)
    same = (np.abs(table / table[0] - 1) <= SPACING_TOLERANCE).all(0)
    z, y, x = np.where(same, table[0], np.nan).tolist()
    return z, y, x
