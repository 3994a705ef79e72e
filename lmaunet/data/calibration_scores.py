"""How far a network's confidence can be trusted: calibration error, temperature, ranking of errors.

Voxels come a slice at a time and are counted in bins, so that memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmaunet.data.confidence import TEMPERATURES, predictive_entropy, softmax

BINS = 15
RANKS = 4096
"""Bins of the entropy, from 0 to its largest; two voxels in one are a tie."""
COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)


def temperature_loss(sampled: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood, in nats, at each of :data:`TEMPERATURES`.

    It is that of the mean over the samples of ``softmax(logits / temperature)`` (after Guo et al.,
    arXiv 1706.04599, for one sample), summed over the voxels.

    Args:
        sampled: logits ``(samples, classes, voxels)``.
        label: class indices ``(voxels,)``.
    """
    found = np.zeros(len(TEMPERATURES))
    if not label.size:
        return found
    # as softmax does, with what is the same for all temperatures done once
    below = sampled - sampled.max(1, keepdims=True)
    index = np.broadcast_to(label[None, None].astype(np.int64), (len(sampled), 1, label.size))
    for i, temperature in enumerate(TEMPERATURES):
        shares = np.exp(below * below.dtype.type(1 / temperature))
        true = (np.take_along_axis(shares, index, 1)[:, 0] / shares.sum(1)).mean(0)
        found[i] = -np.log(np.maximum(true, np.finfo(true.dtype).tiny)).sum(dtype=np.float64)
    return found


def best_temperature(loss: np.ndarray) -> float:
    """Return the temperature of the least loss, 1 where there is none."""
    return TEMPERATURES[int(loss.argmin())] if loss.any() else 1.0


def of_interest(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return where label or prediction is foreground; all else is easy, and most of an image."""
    return (label > 0) | (predicted > 0)


@dataclass
class Reliability:
    """Counts of voxels by confidence, the probability of the likeliest class, in equal bins."""

    count: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    correct: np.ndarray = field(default_factory=lambda: np.zeros(BINS))

    def add(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Count voxels: their confidence in 0..1, and whether that class is the label's."""
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        self.count += np.bincount(bins, minlength=BINS)
        self.confidence += np.bincount(bins, confidence, minlength=BINS)
        self.correct += np.bincount(bins, correct, minlength=BINS)

    def error(self) -> float | None:
        """Return the expected calibration error: mean |confidence - accuracy| of bins, by voxels.

        None where nothing was counted.
        """
        total = self.count.sum()
        return float(np.abs(self.confidence - self.correct).sum() / total) if total else None

    def to_json(self) -> dict[str, Any]:
        """Return the error and the bins that hold voxels."""
        held = self.count > 0
        count = self.count[held]
        return {
            "ece": self.error(),
            "confidence": (self.confidence[held] / count).tolist(),
            "accuracy": (self.correct[held] / count).tolist(),
            "voxels": count.astype(int).tolist(),
        }


@dataclass
class ErrorRanking:
    """Counts of right and wrong voxels by a score in 0..1, the larger the less certain."""

    total: np.ndarray = field(default_factory=lambda: np.zeros(RANKS))
    wrong: np.ndarray = field(default_factory=lambda: np.zeros(RANKS))

    def add(self, score: np.ndarray, wrong: np.ndarray) -> None:
        """Count voxels: their score, and whether the mask's class is not the label's."""
        bins = np.minimum((score * RANKS).astype(int), RANKS - 1)
        self.total += np.bincount(bins, minlength=RANKS)
        self.wrong += np.bincount(bins, wrong, minlength=RANKS)

    def auroc(self) -> float | None:
        """Return the probability that a wrong voxel scores above a right one; ties count half.

        None where all are right or all wrong.
        """
        right = self.total - self.wrong
        pairs = right.sum() * self.wrong.sum()
        if not pairs:
            return None
        below = np.cumsum(right) - right
        return float((self.wrong * (below + right / 2)).sum() / pairs)

    def risks(self) -> dict[str, Any]:
        """Return the error rate of the most certain share of the voxels, for each coverage.

        ``aurc`` is its mean over all coverages. Of voxels of one bin any may come first.
        """
        count, errors = np.cumsum(self.total), np.cumsum(self.wrong)
        if not len(count) or not count[-1]:
            return {"coverage": [], "risk": [], "aurc": None}
        grid = np.linspace(0.01, 1, 100)

        def at(coverage: np.ndarray) -> np.ndarray:
            voxels = coverage * count[-1]
            points = np.concatenate([[0.0], count]), np.concatenate([[0.0], errors])
            return np.interp(voxels, *points) / voxels

        return {
            "coverage": list(COVERAGES),
            "risk": at(np.array(COVERAGES)).tolist(),
            "curve": at(grid).tolist(),
            "aurc": float(at(grid).mean()),
        }


KINDS = ("plain", "sampled", "tempered")
"""One pass without dropout; the mean over the samples; and that with the temperature."""
REGIONS = ("foreground", "all")
"""Where label or mask is foreground; every voxel of the network's slices."""


@dataclass(frozen=True)
class CalibrationCounts:
    """All that is counted of held-out slices, for each kind of prediction and region."""

    reliability: Mapping[tuple[str, str], Reliability] = field(
        default_factory=lambda: {(k, r): Reliability() for k in KINDS for r in REGIONS}
    )
    ranking: Mapping[tuple[str, str], ErrorRanking] = field(
        default_factory=lambda: {(k, r): ErrorRanking() for k in KINDS for r in REGIONS}
    )

    def add(
        self, logits: np.ndarray, sampled: np.ndarray, label: np.ndarray, temperature: float
    ) -> None:
        """Count a slice.

        Args:
            logits: without dropout, ``(classes, H, W)``.
            sampled: ``(samples, classes, H, W)``.
            label: class indices ``(H, W)``.
            temperature: of the last kind.
        """
        mask = logits.argmax(0)
        wrong, inside = mask != label, of_interest(label, mask)
        shares = {
            "plain": softmax(logits[None], 1.0)[0],
            "sampled": softmax(sampled, 1.0).mean(0),
            "tempered": softmax(sampled, temperature).mean(0),
        }
        for kind, share in shares.items():
            confidence, correct = share.max(0), share.argmax(0) == label
            score = predictive_entropy(share, 0) / np.log(len(share))
            for region, where in (("foreground", inside), ("all", ...)):
                self.reliability[kind, region].add(
                    confidence[where].ravel(), correct[where].ravel()
                )
                self.ranking[kind, region].add(score[where].ravel(), wrong[where].ravel())

    def to_json(self) -> dict[str, Any]:
        """Return the scores by kind and region."""
        return {
            kind: {
                region: {
                    **self.reliability[kind, region].to_json(),
                    "auroc_of_errors": self.ranking[kind, region].auroc(),
                    "risk": self.ranking[kind, region].risks(),
                }
                for region in REGIONS
            }
            for kind in KINDS
        }
