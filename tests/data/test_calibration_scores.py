"""Scores of confidence, against plain sums over every voxel."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lmaunet.data import calibration_scores as scores
from lmaunet.data.confidence import (
    TEMPERATURES,
    check_draw,
    draw_masks,
    interval,
    predictive_entropy,
    softmax,
)
from lmaunet.errors import UserError


def made(seed=0, samples=3, classes=3, size=(40, 50), sharpness=1.0):
    """Logits of samples, and labels drawn from the probabilities that ``sharpness`` 1 has."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1.5, (classes, *size))
    sampled = (base + rng.normal(0, 0.5, (samples, classes, *size))).astype(np.float32)
    mean = softmax(sampled, 1.0).mean(0)
    label = (rng.random(size) > mean.cumsum(0)[:-1, ...]).sum(0)
    return (sharpness * base).astype(np.float32), sharpness * sampled, label


def test_masks_have_their_rate_and_mean():
    masks = draw_masks(64, 5000, 0.2, 3)
    assert masks.dtype == np.float32 and set(np.unique(masks)) == {0, np.float32(1.25)}
    assert masks.mean() == pytest.approx(1, abs=0.005)
    assert (masks == 0).mean() == pytest.approx(0.2, abs=0.005)
    np.testing.assert_array_equal(masks[:8], draw_masks(8, 5000, 0.2, 3))
    # NumPy's stream for this seed: a later version that draws others would be noticed
    drawn = draw_masks(2, 8, 0.5, 0) > 0
    np.testing.assert_array_equal(
        drawn, np.array([[1, 1, 1, 1, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1, 0, 0]], bool)
    )


@pytest.mark.parametrize(("samples", "seed"), [(1, 0), (65, 0), (2.0, 0), (True, 0), (8, -1),
                                               (8, 2**32), (8, "1"), (8, None)])  # fmt: skip
def test_a_draw_that_cannot_be_is_refused(samples, seed):
    with pytest.raises(UserError, match="expected"):
        check_draw(samples, seed)


def test_entropy_is_that_of_its_definition():
    shares = np.array([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]], np.float32).T
    found = predictive_entropy(shares, 0)
    np.testing.assert_allclose(found, [0, math.log(3), math.log(2)], atol=1e-6)
    assert interval(np.array([3.0, 1, 2])) == (1, 3)


def test_the_calibration_error_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    confidence = rng.random(5000) ** 0.3
    correct = rng.random(5000) < confidence**2
    found = scores.Reliability()
    for part in range(0, 5000, 999):
        found.add(confidence[part : part + 999], correct[part : part + 999])
    want = 0.0
    for low in range(15):
        inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
        if inside.any():
            want += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert found.error() == pytest.approx(want) and want > 0.05
    assert sum(found.to_json()["voxels"]) == 5000
    assert scores.Reliability().error() is None


def test_the_ranking_is_that_of_all_pairs():
    rng = np.random.default_rng(1)
    score = np.round(rng.random(400), 2)
    wrong = rng.random(400) < score**2
    found = scores.ErrorRanking()
    found.add(score[:100], wrong[:100])
    found.add(score[100:], wrong[100:])
    pairs = score[wrong][:, None] - score[~wrong]
    assert found.auroc() == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert 0.6 < found.auroc() < 0.95
    risks = found.risks()
    assert risks["risk"][-1] == pytest.approx(wrong.mean())
    ordered = wrong[np.argsort(score, kind="stable")]
    assert risks["risk"][0] == pytest.approx(ordered[:200].mean(), abs=0.02)
    assert risks["aurc"] < wrong.mean() and len(risks["curve"]) == 100
    assert scores.ErrorRanking().auroc() is None and scores.ErrorRanking().risks()["aurc"] is None


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_the_temperature_undoes_what_sharpened_the_logits(sharpness):
    _, sampled, label = made(sharpness=sharpness)
    loss = scores.temperature_loss(sampled.reshape(3, 3, -1), label.ravel())
    assert scores.best_temperature(loss) == pytest.approx(sharpness, rel=0.1)
    true = softmax(sampled / 2, 1.0).mean(0)
    want = -np.log(np.take_along_axis(true, label[None], 0)).sum()
    assert loss[TEMPERATURES.index(2.0)] == pytest.approx(want, rel=1e-5)
    nothing = scores.temperature_loss(sampled.reshape(3, 3, -1)[:, :, :0], label.ravel()[:0])
    assert scores.best_temperature(nothing) == 1


def test_counts_are_of_the_right_kind_and_region():
    logits, sampled, label = made(sharpness=2.0)
    counts = scores.CalibrationCounts()
    counts.add(logits, sampled, label, 2.0)
    found = counts.to_json()
    mask = logits.argmax(0)
    foreground = (label > 0) | (mask > 0)
    for kind in scores.KINDS:
        assert sum(found[kind]["all"]["voxels"]) == label.size
        assert sum(found[kind]["foreground"]["voxels"]) == foreground.sum()
        assert found[kind]["all"]["risk"]["risk"][-1] == pytest.approx((mask != label).mean())
        inside = found[kind]["foreground"]["risk"]["risk"][-1]
        assert inside == pytest.approx((mask != label)[foreground].mean())
    # logits that were doubled are too sure, and the temperature knows it
    assert found["tempered"]["all"]["ece"] < 0.03 < found["sampled"]["all"]["ece"]
    assert found["plain"]["all"]["ece"] > found["sampled"]["all"]["ece"]
    assert 0.6 < found["tempered"]["all"]["auroc_of_errors"] < 1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("np.abs(self.confidence - self.correct)", "np.abs(self.count - self.correct)"),
        ("(below + right / 2)", "(below + right)"),
        ("np.cumsum(right) - right", "np.cumsum(self.total) - self.total"),
        ("below.dtype.type(1 / temperature)", "below.dtype.type(temperature)"),
        ("(label > 0) | (predicted > 0)", "(label > 0) & (predicted > 0)"),
        ("(voxels, *points) / voxels", "(voxels, *points) / count[-1]"),
        ('"sampled": softmax(sampled, 1.0)', '"sampled": softmax(sampled, temperature)'),
    ],
)
def test_a_wrong_score_is_noticed(mutant_of, monkeypatch, right, wrong):
    mutant = mutant_of(scores, right, wrong)
    for name in ("Reliability", "ErrorRanking", "CalibrationCounts", "temperature_loss"):
        monkeypatch.setattr(scores, name, getattr(mutant, name))
    with pytest.raises(AssertionError):
        test_the_calibration_error_is_that_of_its_definition()
        test_the_ranking_is_that_of_all_pairs()
        test_the_temperature_undoes_what_sharpened_the_logits(2.0)
        test_counts_are_of_the_right_kind_and_region()
