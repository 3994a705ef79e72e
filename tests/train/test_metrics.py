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


def test_a_class_that_a_case_lacks_counts_as_zero_where_it_is_predicted():
    label, predicted = squares(), squares()
    predicted[3, 0, 0] = 1  # case b has no liver
    found = score(predicted, label, ["a", "a", "b", "b"], CLASSES, (1, 1, 1))
    assert found.per_case == {"a": {"liver": 1.0}, "b": {"liver": 0.0, "spleen": 1.0}}
    assert found.per_class == {"liver": 0.5, "spleen": 1.0}
    assert found.false_positives == {} and found.empty_cases == ()


def test_a_class_that_no_label_holds_is_named_and_not_scored():
    label, predicted = squares(), squares()
    predicted[3, 0, :5] = 3
    found = score(predicted, label, ["a"] * 4, CLASSES, (1, 1, 1))
    assert found.per_class == {"liver": 1.0, "spleen": 1.0} and found.dice == 1.0
    assert found.absent_classes == ("aorta",)
    assert found.false_positives == {"a": {"aorta": 5}}
    assert score(label, label, ["a"] * 4, CLASSES, (1, 1, 1)).absent_classes == ("aorta",)


@pytest.mark.parametrize("noise", [0, 7])
def test_a_case_without_foreground_is_not_scored(noise):
    """Neither as 1 where nothing is predicted, nor as 0 where something is."""
    label = squares()
    label[2:] = 0
    predicted = label.copy()
    predicted[0, 2:6, 2:6] = 0  # case a: half of the liver is missed
    predicted[2, 0, :noise] = 1
    found = score(predicted, label, ["a", "a", "b", "b"], CLASSES, (1, 1, 1))
    assert found.per_class == pytest.approx({"liver": 2 / 3})
    assert found.dice == pytest.approx(2 / 3)
    assert set(found.per_case) == {"a"} and found.empty_cases == ("b",)
    assert found.false_positives == ({"b": {"liver": 7}} if noise else {})


@pytest.mark.parametrize("noise", [0, 7])
def test_labels_without_any_foreground_give_no_dice(noise):
    label = np.zeros((2, 8, 8), np.uint8)
    predicted = label.copy()
    predicted[0, 0, :noise] = 2
    found = score(predicted, label, ["a", "b"], CLASSES, (1, 1, 1))
    assert np.isnan(found.dice) and found.to_json()["dice"] is None
    assert found.per_class == {} and found.per_case == {}
    assert found.empty_cases == ("a", "b") and found.absent_classes == CLASSES[1:]
    assert sum(n for case in found.false_positives.values() for n in case.values()) == noise


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
    with pytest.raises(UserError, match="do not match"):
        score(np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), [], CLASSES, (1, 1, 1))
