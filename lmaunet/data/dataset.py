"""Labelled slices in the common form that training, calibration and scores take."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmaunet.data.nnunet_recipe import NnunetRecipe
from lmaunet.data.patients import patient_of
from lmaunet.data.split import check_gap

REPEATED = -1
"""The index of a slice that fills up a patch, and is another one's copy."""


@dataclass(frozen=True, eq=False)
class SliceSet:
    """Slices with labels, or patches of several slices (:mod:`lmaunet.data.patches`).

    Args:
        images: float32 ``(n, channels, H, W)``, normalised; of patches ``(n, channels, D, H, W)``.
        labels: uint8 ``(n, H, W)`` or ``(n, D, H, W)``, class indices.
        cases: ``(n,)`` strings, the volume that a slice comes from.
        z: int ``(n,)`` or ``(n, D)``, a slice's index in its volume, counted towards the head;
            :data:`REPEATED` of a copy.
    """

    images: np.ndarray
    labels: np.ndarray
    cases: np.ndarray
    z: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim not in (4, 5) or self.images.dtype != np.float32:
            raise ValueError(
                f"images {self.images.shape} {self.images.dtype}; expected float32 4-D or 5-D"
            )
        shape = (n, *self.images.shape[2:])
        if self.labels.shape != shape or self.labels.dtype != np.uint8:
            raise ValueError(
                f"labels {self.labels.shape} {self.labels.dtype}; expected {shape} uint8"
            )
        of_z = (n, *self.images.shape[2:-2])
        if self.cases.shape != (n,) or self.z.shape != of_z:
            raise ValueError(
                f"cases {self.cases.shape}, z {self.z.shape}; expected ({n},) and {of_z}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> SliceSet:
        """Return the slices at ``indices``."""
        return SliceSet(
            self.images[indices], self.labels[indices], self.cases[indices], self.z[indices]
        )

    def by_slice(self, values: np.ndarray) -> np.ndarray:
        """Return what belongs to each slice, every slice of a case once: ``(m, ...)``.

        Args:
            values: ``(n, ...)`` of slices, which are returned as they are; ``(n, D, ...)`` of
                patches.
        """
        if self.z.ndim == 1:
            return values
        return values.reshape(-1, *values.shape[2:])[self._once]

    @functools.cached_property
    def _once(self) -> np.ndarray:
        """The positions of slices in ``(n * D,)`` that are no copies, each where it comes first."""
        cases, z = np.repeat(self.cases, self.z.shape[1]), self.z.ravel()
        seen: dict[tuple[str, int], int] = {}
        for position in np.flatnonzero(z != REPEATED).tolist():
            seen.setdefault((str(cases[position]), int(z[position])), position)
        return np.array(sorted(seen.values()), np.int64)

    @property
    def slice_cases(self) -> np.ndarray:
        """The case of each slice that :meth:`by_slice` returns, ``(m,)``."""
        return self.by_slice(np.broadcast_to(self.cases[(..., *[None] * (self.z.ndim - 1))],
                                             self.z.shape))  # fmt: skip

    @property
    def slice_z(self) -> np.ndarray:
        """The index of each slice that :meth:`by_slice` returns in its case, ``(m,)``."""
        return self.by_slice(self.z)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Slices that train and slices that validate, which no training, calibration or QAT sees.

    Args:
        name: what it is; a synthetic one says so in its name.
        label_source: who or what drew the labels.
        classes: class names by index, the background first.
        spacing_mm: z, y, x spacing of the slices as given to the network; NaN where it is unknown
            or the cases that validate differ: each is shrunk by itself where slices are made to
            fit.
        train, val: the slices; no slice is in both.
        split: one sentence on how they were divided.
        synthetic: whether the images are drawn, not taken.
        normalization: how intensities were mapped, enough to map another image the same way.
        layout: which layout the files had.
        gap: slices between a train and a val slice of one case, at least; checked.
        notes: what a reader of a score should know, such as pixels lost by cropping.
        case_spacing_mm: the same as ``spacing_mm`` for each case that validates, by its name.
        resampled_mm: y, x spacing that slices were resampled to; None where the files have none.
        fit: whether slices that were then larger than the network's input were shrunk to it.
        intensity: what values the training images had before normalization, for each channel (see
            :mod:`lmaunet.data.images.intensity`); empty where it is not known.
        channels: names, in the order in which images hold them.
        patients: the patient of each case; none trains and validates, but for a volume that is
            divided by blocks.
        told_apart: a clause on how patients were told apart.
        recipe: how nnU-Net prepares images, where these were prepared so; ``normalization`` then
            names it.
        axes: those in which nnU-Net reads the training images' files.
    """

    name: str
    label_source: str
    classes: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    train: SliceSet
    val: SliceSet
    split: str
    synthetic: bool
    normalization: Mapping[str, Any]
    layout: str = ""
    gap: int = 0
    notes: tuple[str, ...] = field(default=())
    case_spacing_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    resampled_mm: tuple[float, float] | None = None
    fit: bool = False
    intensity: tuple[Mapping[str, Any], ...] = ()
    channels: tuple[str, ...] = ("image",)
    patients: Mapping[str, str] = field(default_factory=dict)
    told_apart: str = ""
    recipe: NnunetRecipe | None = None
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for case in np.intersect1d(self.train.cases, self.val.cases):
            train, val = (s.slice_z[s.slice_cases == case] for s in (self.train, self.val))
            check_gap(train, val, self.gap)
        shared = set(self.train.cases) & set(self.val.cases)
        sides = [
            {self.patient(case) for case in set(side.cases) - shared}
            for side in (self.train, self.val)
        ]
        if sides[0] & sides[1]:
            raise ValueError(f"patient {min(sides[0] & sides[1])} trains and validates")
        for side in (self.train, self.val):
            if side.images.shape[1] != len(self.channels):
                raise ValueError(f"images {side.images.shape} of channels {self.channels}")
            if len(side) and int(side.labels.max()) >= len(self.classes):
                raise ValueError(f"label {side.labels.max()} of {len(self.classes)} classes")
        if self.synthetic and not ("synthetic" in self.name and "synthetic" in self.label_source):
            raise ValueError(f"{self.name!r} is synthetic; its name and label source must say so")

    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """Return ``{"train" | "val": {class: {"pixels", "slices"}}}``."""
        return {
            name: {
                label: {
                    "pixels": int((labels == index).sum()),
                    "slices": int((labels == index).any((1, 2)).sum()),
                }
                for index, label in enumerate(self.classes)
            }
            for name, labels in (
                (name, getattr(self, name).by_slice(getattr(self, name).labels))
                for name in ("train", "val")
            )
        }

    def patient(self, case: str) -> str:
        """Return the patient of a case: the one that is known, else the one its name tells."""
        return self.patients.get(str(case)) or patient_of(str(case))

    def patients_of(self, side: str) -> list[str]:
        """Return the patients of a side, ``train`` or ``val``."""
        return sorted({self.patient(case) for case in getattr(self, side).cases})

    def to_json(self) -> dict[str, Any]:
        """Return what a report says on the data, without the pixels."""
        return {
            "name": self.name,
            "label_source": self.label_source,
            "synthetic": self.synthetic,
            "classes": list(self.classes),
            "split": self.split,
            "layout": self.layout,
            "spacing_mm": [None if np.isnan(s) else s for s in self.spacing_mm],
            "normalization": dict(self.normalization),
            "channels": list(self.channels),
            "patients": {
                **{side: len(self.patients_of(side)) for side in ("train", "val")},
                "told_apart": self.told_apart,
            },
            "cases": {
                "train": sorted({str(c) for c in self.train.cases}),
                "val": sorted({str(c) for c in self.val.cases}),
            },
            "slices": {"train": len(self.train.slice_z), "val": len(self.val.slice_z)},
            "notes": list(self.notes),
        }
