import numpy as np
import pytest

from lmaunet.errors import UserError
from lmaunet.train.metrics import score

CLASSES = ("background", "liver", "spleen", "aorta")


def squares():
    label = np.zeros((4, 16, 16), np.uint8)
    label[:2, 2:6, 2:6] = 1
    label[2:, 8:12, 8:12] = 2
    return label


def test_dice_by_hand():
    label = squares()
    predicted = label.copy()
    predicted[:2, 2:6, 2:4] = 0  # half of the liver is missed: 2 * 16 / (16 + 32)
    found = score(predicted, label, ["a"] * 4, CLASSES, (3, 1, 1))
    assert found.per_class == pytest.approx({"liver": 2 / 3, "spleen": 1.0})
    assert found.dice == pytest.approx((2 / 3 + 1) / 2)


def test_dice_is_of_the_volume_and_averaged_over_cases():
    label = np.zeros((4, 8, 8), np.uint8)
    label[:, :4, :4] = 1
    predicted = label.copy()
    predicted[0] = 0  # case a: 2 * 16 / (16 + 32); case b: 1
    found = score(predicted, label, ["a", "a", "b", "b"], CLASSES, (1, 1, 1))
    assert found.per_class["liver"] == pytest.approx((2 / 3 + 1) / 2)
    assert found.per_case["a"] == pytest.approx({"liver": 2 / 3})
    assert found.per_case["b"] == pytest.approx({"liver": 1.0})


def test_a_class_only_predicted_counts_as_zero():
    label, predicted = squares(), squares()
    predicted[3, 0, 0] = 3
    assert score(predicted, label, ["a"] * 4, CLASSES, (1, 1, 1)).per_class["aorta"] == 0


def test_hd95_is_in_mm():
    label = squares()
    predicted = np.roll(label, 2, axis=2)
    coarse = score(predicted, label, ["a"] * 4, CLASSES, (3, 1.0, 1.5))
    assert coarse.hd95_mm == pytest.approx(3.0)
    unknown = score(predicted, label, ["a"] * 4, CLASSES, (float("nan"),) * 3)
    assert np.isnan(unknown.hd95_mm) and unknown.to_json()["hd95_mm"] is None
    assert unknown.hd95_pixels == pytest.approx(2.0) and np.isnan(coarse.hd95_pixels)


def test_hd95_is_by_each_cases_own_spacing():
    label = squares()
    predicted = np.roll(label, 2, axis=2)
    cases = ["a", "a", "b", "b"]
    own = {"a": (3, 1.0, 1.5), "b": (3, 1.0, 4.0)}
    assert score(predicted, label, cases, CLASSES, own).hd95_mm == pytest.approx((3 + 8) / 2)
    for one in own.values():
        same = dict.fromkeys(own, one)
        by_case = score(predicted, label, cases, CLASSES, same).hd95_mm
        assert by_case == score(predicted, label, cases, CLASSES, one).hd95_mm
    for unknown in ({"a": own["a"]}, own | {"b": (float("nan"),) * 3}):
        found = score(predicted, label, cases, CLASSES, unknown)
        assert np.isnan(found.hd95_mm) and found.hd95_pixels == pytest.approx(2.0)


def test_what_cannot_be_scored():
    with pytest.raises(UserError, match="do not match"):
        score(np.zeros((1, 4, 4)), np.zeros((2, 4, 4)), ["a"], CLASSES, (1, 1, 1))
    with pytest.raises(UserError, match="no class occurs"):
        empty = np.zeros((1, 4, 4), np.uint8)
        score(empty, empty, ["a"], CLASSES, (1, 1, 1))
