"""Codes to classes: the named maps worked by hand, and what a file may hold."""

import json

import numpy as np
import pytest

from lmaunet.data.class_map import NAMED_MAPS, SYNAPSE_CLASSES, identity_map, read_class_map
from lmaunet.data.normalization import check
from lmaunet.errors import UserError


def test_the_order_of_the_synapse_classes():
    assert SYNAPSE_CLASSES == (
        "background", "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas",
        "spleen", "stomach",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "codes", "classes"),
    [
        ("totalsegmentator", [0, 1, 2, 3, 4, 5, 6, 7, 52, 117], [0, 7, 4, 3, 2, 5, 8, 6, 1, 0]),
        ("synapse-13", [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 13], [0, 7, 4, 3, 2, 0, 5, 8, 1, 6, 0]),
        ("synapse-aorta-first", [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("synapse-spleen-first", [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 7, 4, 3, 2, 5, 8, 1, 6]),
    ],
)  # fmt: skip
def test_named_maps_against_values_written_by_hand(name, codes, classes):
    mapped = NAMED_MAPS[name].apply(np.array([codes]), "x")
    assert mapped.tolist() == [classes] and mapped.dtype == np.uint8


def test_the_two_orders_of_transunet_copies_are_not_the_same():
    # Mixing them up is the mutant that this table exists for: six of eight organs change places.
    codes = np.arange(9)
    aorta, spleen = (
        NAMED_MAPS[f"synapse-{n}-first"].apply(codes, "x") for n in ("aorta", "spleen")
    )
    assert (aorta != spleen).sum() == 6


def test_a_code_beyond_the_classes_is_refused():
    with pytest.raises(UserError, match=r"f\.nii: label 4 is beyond the 4 classes \(known codes: "):
        identity_map(4).apply(np.array([0, 3, 4]), "f.nii")


def test_float_labels_are_taken_where_they_are_whole():
    assert identity_map(3).apply(np.array([0.0, 2.0]), "x").tolist() == [0, 2]
    with pytest.raises(UserError, match=r"label 1\.5 is not a whole number"):
        identity_map(3).apply(np.array([0.0, 1.5]), "x")
    with pytest.raises(UserError, match="labels hold NaN or infinity"):
        identity_map(3).apply(np.array([0.0, np.nan]), "x")


def test_a_map_from_a_file(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(
        {"classes": ["background", "a"], "codes": {"7": 1}, "others": 0, "name": "mine"}
    ))  # fmt: skip
    chosen = read_class_map(path)
    assert chosen.apply(np.array([7, 3, 0]), "x").tolist() == [1, 0, 0]
    assert chosen.options == {"name": "mine"}


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"classes": ["a"], "codes": {}}',
                '{"classes": ["a", "b"], "codes": {"1": 2}}',
                '{"classes": ["a", "b"], "codes": {"x": 1}}',
                '{"classes": "ab", "codes": {"1": 1}}',
                '{"classes": ["a", ""], "codes": {"1": 1}}',
                '{"classes": ["a", "b"], "codes": {"1": 1.7}}',
                '{"classes": ["a", "b"], "codes": {"1": 1}, "others": 1e400}',
                '{"classes": ["a", "b"], "codes": {"1": 1}, "name": ""}',
                '{"classes": ["a", "b"], "codes": {"1": 1}, "label_source": null}',
                "[" * 100_000]
)  # fmt: skip
def test_a_damaged_map_is_refused(tmp_path, content):
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"classes\.json"):
        read_class_map(path)


def test_names_that_occur_twice_and_unknown_keys_are_refused(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('{"classes": ["a", "b", "b"], "codes": {"1": 1, "2": 2}}')
    with pytest.raises(UserError, match=r"classes\.json: class 'b' is listed 2 times"):
        read_class_map(path)
    path.write_text('{"classes": ["a", "b"], "codes": {"1": 1}, "othrs": 0}')
    with pytest.raises(UserError, match=r"unknown key 'othrs'; expected classes, codes, others"):
        read_class_map(path)


@pytest.mark.parametrize("ends", [(0, "inf"), (0, "nan"), (-1e300, 1e308), (0, 1e-45), (1, 0)])
def test_a_window_that_float32_cannot_divide_by_is_refused(ends):
    low, high = ends
    with pytest.raises(UserError, match="normalization"):
        check({"kind": "window", "low": low, "high": high}, "classes.json")
    assert check({"kind": "window", "low": -125, "high": 275}, "x")["high"] == 275.0


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UserError, match="no class map 'nope'; give a JSON file or one of: totalseg"
    ):
        read_class_map("nope")
