"""The simulated user draws where the mask errs most, and the figures are those of patients."""

from __future__ import annotations

import numpy as np
import pytest
import refine
from refine import Case, cropped, dice, draw, follow, interval, spent

from lmaunet.deploy.correction import NO_STROKE, CutOptions


def scene():
    truth = np.zeros((3, 40, 40), np.uint8)
    truth[:, 10:30, 10:30] = 1
    mask = truth.copy()
    mask[1, 10:30, 20:30] = 0  # the largest error: 200 voxels
    mask[2, 2:6, 2:6] = 1
    image = truth[None] * np.float32(100)
    shares = np.stack([0.9 - 0.8 * mask, 0.1 + 0.8 * mask]).astype(np.float32)
    return Case("patient001", image, truth, shares, mask)


def test_a_stroke_is_drawn_along_the_middle_of_the_largest_error():
    case = scene()
    strokes = np.full(case.truth.shape, NO_STROKE, np.int32)
    assert draw(case.truth, case.mask, strokes, 2)
    drawn = np.argwhere(strokes != NO_STROKE)
    assert set(drawn[:, 0]) == {1} and set(drawn[:, 2]) <= {24, 25} and len(drawn) >= 10
    assert (strokes[strokes != NO_STROKE] == 1).all()
    assert draw(case.truth, np.where(strokes == 1, 1, case.truth), strokes, 2) is False
    done = np.where(case.truth == 1, 1, case.mask)
    assert draw(case.truth, done, strokes, 2)
    assert (strokes == 0).any() and set(np.argwhere(strokes == 0)[:, 0]) == {2}


def test_rounds_come_nearer_to_the_truth_than_strokes_alone():
    case = scene()
    ways = {
        way: follow(case, (5.0, 1.5, 1.5), CutOptions(), way)
        for way in ("network", "mask", "strokes")
    }
    for found in ways.values():
        assert len(found["dice"]) == refine.ROUNDS + 1 and found["dice"][0] < 0.95
    assert ways["network"]["dice"][-1] > 0.99 and ways["mask"]["dice"][-1] > 0.99
    assert ways["strokes"]["dice"][-1] < 0.986


def test_dice_is_that_of_the_classes_that_are_there():
    truth = np.array([[[0, 1, 1, 3]]])
    assert dice(truth, np.array([[[0, 1, 2, 3]]]), 4) == pytest.approx((2 / 3 + 1) / 2)


def test_the_interval_holds_the_mean_and_narrows_with_more_patients():
    values = np.random.default_rng(0).normal(0.8, 0.1, 40)
    few, many = interval(values[:10]), interval(values)
    assert few["low"] < few["mean"] < few["high"]
    assert many["high"] - many["low"] < few["high"] - few["low"]
    assert interval(np.full(5, 0.5)) == {"mean": 0.5, "low": 0.5, "high": 0.5}


def test_cropping_changes_no_score():
    case = scene()
    part = cropped(case, 9)
    assert part.truth.shape == (3, 39, 39)
    assert dice(part.truth, part.mask, 2) == dice(case.truth, case.mask, 2)


def test_times_of_the_wall_and_of_the_process():
    found = spent([(10.0, 1.0), (30.0, 2.0), (20.0, 9.0)])
    assert found == {
        "ms_median": 20.0, "ms_largest": 30.0, "cpu_ms_median": 2.0, "cpu_ms_largest": 9.0
    }  # fmt: skip
