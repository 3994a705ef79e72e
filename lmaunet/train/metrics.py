"""Segmentation scores: 3-D Dice per case and HD95, by MONAI; the divergence of two networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmaunet.data.dataset import Dataset
from lmaunet.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of one network on one set of slices.

    Dice is in 0..1: the slices of a case form a volume, each class is scored on it, and the mean
    is over the cases where the class occurs in label or prediction. ``dice`` is the mean over the
    classes, NaN where nothing could be scored. ``hd95_mm`` is the 95th percentile Hausdorff
    distance within a slice, in mm, averaged over the slices and classes present in both; NaN where
    there is none or the spacing is unknown. Where it is unknown, ``hd95_pixels`` is the same in
    pixels. ``per_case`` is the Dice of each class in each case; a class that a case has in neither
    label nor prediction is left out, and one that is predicted but not in the label counts with 0.

    Two kinds say nothing on overlap and are not scored: a class that no label holds
    (``absent_classes``), and a case whose labels hold no foreground (``empty_cases``).
    ``false_positives`` has what was predicted of them all the same, in voxels by case and class.
    """

    dice: float
    per_class: dict[str, float]
    hd95_mm: float
    hd95_pixels: float = math.nan
    per_case: dict[str, dict[str, float]] = field(default_factory=dict)
    absent_classes: tuple[str, ...] = ()
    empty_cases: tuple[str, ...] = ()
    false_positives: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; null where a score is not defined."""
        return {
            "dice": _defined(self.dice),
            "per_class": self.per_class,
            "hd95_mm": _defined(self.hd95_mm),
            "hd95_pixels": _defined(self.hd95_pixels),
            "per_case": self.per_case,
            "absent_classes": list(self.absent_classes),
            "empty_cases": list(self.empty_cases),
            "false_positives": self.false_positives,
        }


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def score(
    prediction: np.ndarray,
    label: np.ndarray,
    cases: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    spacing_mm: Sequence[float] | Mapping[str, Sequence[float]],
) -> Scores:
    """Score predicted classes against labels.

    Args:
        prediction, label: class indices ``(n, H, W)``.
        cases: the case that each slice belongs to, ``(n,)``.
        classes: names, background first.
        spacing_mm: of each case by its name, or of all; the last two numbers give a pixel's
            height and width. Where a case is absent or NaN, all distances are in pixels.

    Raises:
        UserError: shapes differ, or there is no slice.
    """
    from monai.metrics import compute_dice

    if prediction.shape != label.shape or len(label) == 0:
        raise UserError(f"predictions {prediction.shape} and labels {label.shape} do not match")
    count, names = len(classes), np.asarray(cases)
    organs = list(classes[1:])
    ordered = sorted(set(names.tolist()))
    rows, voxels = [], []
    for case in ordered:
        mine = names == case
        pair = [one_hot(x[mine], count).transpose(0, 1)[None] for x in (prediction, label)]
        rows.append(compute_dice(*pair, include_background=False, ignore_empty=False)[0])
        voxels.append([x.sum((0, 2, 3, 4))[1:] for x in pair])
    table = torch.stack(rows).numpy().astype(np.float64)
    predicted, labelled = (
        np.stack([pair[side].numpy() for pair in voxels]).astype(np.int64) for side in (0, 1)
    )
    # overlap with nothing is no score: of a case without foreground, and of a class without labels
    empty_cases, absent_classes = ~(labelled > 0).any(axis=1), ~(labelled > 0).any(axis=0)
    unscored = np.logical_or.outer(empty_cases, absent_classes)
    table[unscored | (predicted + labelled == 0)] = math.nan
    seen = ~np.isnan(table)
    per_class = {
        name: float(table[seen[:, i], i].mean())
        for i, name in enumerate(organs)
        if seen[:, i].any()
    }
    distance, known = _hd95(prediction, label, count, names, spacing_mm)
    return Scores(
        float(np.mean(list(per_class.values()))) if per_class else math.nan,
        per_class,
        hd95_mm=distance if known else math.nan,
        hd95_pixels=math.nan if known else distance,
        per_case={
            str(case): {organs[i]: float(row[i]) for i in np.flatnonzero(~np.isnan(row))}
            for case, row in zip(ordered, table, strict=True)
            if not np.isnan(row).all()
        },
        absent_classes=tuple(organs[i] for i in np.flatnonzero(absent_classes)),
        empty_cases=tuple(str(ordered[i]) for i in np.flatnonzero(empty_cases)),
        false_positives={
            str(case): {organs[i]: int(row[i]) for i in np.flatnonzero(row)}
            for case, row in zip(ordered, np.where(unscored, predicted, 0), strict=True)
            if row.any()
        },
    )


def score_slices(prediction: np.ndarray, data: Dataset) -> Scores:
    """Score classes ``(n, H, W)``, of patches ``(n, D, H, W)``, of the slices that validate.

    Each slice counts once, in the patch where it comes first.
    """
    side = data.val
    return score(side.by_slice(prediction), side.by_slice(side.labels), side.slice_cases,
                 data.classes, data.case_spacing_mm)  # fmt: skip


def _hd95(
    prediction: np.ndarray,
    label: np.ndarray,
    count: int,
    names: np.ndarray,
    spacing_mm: Sequence[float] | Mapping[str, Sequence[float]],
) -> tuple[float, bool]:
    """Return the mean HD95 of slices and classes in both, and whether it is in mm or in pixels."""
    from monai.metrics import compute_hausdorff_distance

    both = [one_hot(x, count) for x in (prediction, label)]
    present = (both[0].sum((2, 3)) > 0) & (both[1].sum((2, 3)) > 0)
    pixels_mm = [_pixel_mm(spacing_mm, str(case)) for case in names]
    known = bool(np.isfinite(pixels_mm).all())
    with warnings.catch_warnings():
        # MONAI warns of each slice without a class; those are left out below
        warnings.simplefilter("ignore")
        distances = compute_hausdorff_distance(
            *both, include_background=False, percentile=95,
            spacing=pixels_mm if known else None,
        )  # fmt: skip
    distances = distances[present[:, 1:] & torch.isfinite(distances)]
    return float(distances.mean()) if len(distances) else math.nan, known


def _pixel_mm(
    spacing_mm: Sequence[float] | Mapping[str, Sequence[float]], case: str
) -> list[float]:
    """Return the height and width of a case's pixels; NaN where unknown."""
    if isinstance(spacing_mm, Mapping):
        spacing_mm = spacing_mm.get(case, (math.nan, math.nan))
    return [float(s) for s in spacing_mm[-2:]]


def divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Return KL(reference || logits) in nats, the mean over pixels, of logits ``(B, C, H, W)``.

    Gradients reach both arguments; detach the reference where it is not to be trained.
    """
    other, own = F.log_softmax(logits, 1), F.log_softmax(reference, 1)
    return (own.exp() * (own - other)).sum(1).mean()


PREDICTED = {1: 8, 2: 8, 3: 1}
"""Images that go through a network at a time, by their spatial axes."""


def one_hot(labels: np.ndarray, classes: int) -> Tensor:
    """Class indices ``(n, H, W)`` to float ``(n, classes, H, W)``."""
    index = torch.as_tensor(np.ascontiguousarray(labels), dtype=torch.int64)
    return nn.functional.one_hot(index, classes).permute(0, 3, 1, 2).float()


@torch.no_grad()
def predict_logits(model: nn.Module, images: np.ndarray, batch: int | None = None) -> np.ndarray:
    """Return the logits ``(n, classes, *spatial)`` of images ``(n, channels, *spatial)``.

    ``batch`` is :data:`PREDICTED` where it is None.
    """
    model.eval()
    batch = PREDICTED[images.ndim - 2] if batch is None else batch
    device = next(model.parameters()).device
    parts = [
        model(torch.from_numpy(images[i : i + batch]).to(device)).cpu()
        for i in range(0, len(images), batch)
    ]
    return torch.cat(parts).numpy()
