"""Labelled volumes as a layout's reader found them, before slices are chosen from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lmaunet.data.images.geometry import ORIENTATION
from lmaunet.data.patients import Patients

Role = Literal["train", "val", "blocks"]


def _no_file() -> tuple[str, int]:
    return ORIENTATION, 3


@dataclass(frozen=True, eq=False)
class Volume:
    """One volume, or a stack of slices, with its labels already mapped to classes.

    Args:
        case: its name, for cases and messages.
        role: ``train`` or ``val``, or ``blocks`` to divide it by blocks of z.
        labels: uint8 ``(n, H, W)``.
        channels: each returns a channel's image ``(n, H, W)``, so that large sets are read one
            volume at a time.
        spacing_mm: z, y, x; NaN where unknown.
        z: ``(n,)`` slice numbers where they are not 0 .. n-1.
        keep_all: whether slices without a label all stay, instead of every eighth.
        axes: returns those of the image's file, such as ``RAS``, and its dimensions.
    """

    case: str
    role: Role
    labels: np.ndarray
    channels: Sequence[Callable[[], np.ndarray]]
    spacing_mm: tuple[float, float, float] = (float("nan"),) * 3
    z: np.ndarray | None = None
    keep_all: bool = False
    axes: Callable[[], tuple[str, int]] = _no_file


@dataclass(frozen=True, eq=False)
class Source:
    """Volumes as a loader found them, and what is known of them.

    ``channels`` are names, in order; without ``patients`` each case is of a patient of its own.
    """

    name: str
    label_source: str
    classes: tuple[str, ...]
    volumes: Sequence[Volume]
    split: str
    layout: str
    normalization: Mapping[str, Any]
    channels: tuple[str, ...] = ("image",)
    patients: Patients | None = None
    synthetic: bool = False
    fit: bool | None = None
    notes: tuple[str, ...] = field(default=())
