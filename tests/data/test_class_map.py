"""Codes to classes: the named maps worked by hand, and what a file may hold."""

import json

import numpy as np
import pytest

from lmaunet.data.class_map import (
    NAMED_MAPS,
    SYNAPSE_CLASSES,
    ClassMap,
    identity_map,
    integral,
    read_class_map,
)
from lmaunet.data.normalization import check
from lmaunet.errors import UserError


@pytest.mark.parametrize("count", [2, 255])
def test_as_many_classes_as_a_label_can_name_are_taken(tmp_path, count):
    names = [f"c{i}" for i in range(count)]
    (tmp_path / "map.json").write_text(
        json.dumps({"classes": names, "codes": {str(i): i for i in range(1, count)}})
    )
    assert len(read_class_map(tmp_path / "map.json").classes) == count


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


GOOD = {"classes": ["background", "a", "b"], "codes": {"1": 1, "2": 2}}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"classes": ["background", "a"], "codes": {"1": 1}, "codes": {"2": 1}}', "given twice"),
        ('{"classes": ["background", "a"], "codes": {"1": 1, "1": 1}}', "key '1' is given twice"),
        ('{"classes": ["background", "a"], "codes": {"1": NaN}}', "NaN is no number of JSON"),
        ('{"classes": ["background", "a"], "codes": {"1": ' + "9" * 5000 + "}}", "as JSON"),
        ("[]", "is not a class map"),
        ("{}", "is not a class map"),
        ("null", "is not a class map"),
        ("3", "is not a class map"),
        ({"classes": "abc"}, "classes 'abc' is no list of names"),
        ({"classes": {"background": 0}}, "is no list of names"),
        ({"classes": ["background", ""]}, "is no list of names"),
        ({"classes": ["background", 1]}, "is no list of names"),
        ({"classes": []}, "0 classes; expected 2 to 255"),
        ({"classes": ["background"]}, "1 classes; expected 2 to 255"),
        ({"classes": [f"c{i}" for i in range(256)]}, "256 classes; expected 2 to 255"),
        ({"classes": ["a", "b", "background"]}, "'background' is not the first class"),
        ({"codes": [1, 2]}, "codes [1, 2] is no object"),
        ({"codes": {"x": 1, "2": 2}}, "code 'x' is no whole number"),
        ({"codes": {"1.0": 1, "2": 2}}, "code '1.0' is no whole number"),
        ({"codes": {"1_0": 1, "2": 2}}, "code '1_0' is no whole number"),
        ({"codes": {"9" * 30: 1, "2": 2}}, "is no whole number"),
        ({"codes": {"1": 1, "01": 2}}, "code 1 is given twice"),
        ({"codes": {"1": 1, "2": 3}}, "the class of code '2' is 3; expected 0 to 2"),
        ({"codes": {"1": 1, "2": -1}}, "the class of code '2' is -1"),
        ({"codes": {"1": 1, "2": 1.7}}, "the class of code '2' is 1.7"),
        ({"codes": {"1": 1, "2": "2"}}, "the class of code '2' is '2'"),
        ({"codes": {"1": 1, "2": True}}, "the class of code '2' is True"),
        ({"codes": {"1": 1, "2": 10**40}}, "the class of code '2' is 1000"),
        ({"codes": {"1": 1, "2": {"a": [1]}}}, "the class of code '2' is {'a': [1]}"),
        ({"codes": {"1": 1}}, "no code leads to class 'b'"),
        ({"others": 3}, "others is 3; expected 0 to 2"),
        ({"others": "0"}, "others is '0'"),
        ({"others": False}, "others is False"),
        ({"name": ""}, "name '' is no name"),
        ({"label_source": None}, "label_source None is no name"),
        ({"name": ["a"]}, "name ['a'] is no name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_map_that_cannot_be_is_refused_in_a_line(tmp_path, content, text):
    path = tmp_path / "classes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(GOOD | content))
    with pytest.raises(UserError) as raised:
        read_class_map(path)
    message = str(raised.value)
    assert text in message and "classes.json" in message
    assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_map_of_any_unicode_encoding_is_read(tmp_path, encoding):
    path = tmp_path / "classes.json"
    named = GOOD | {"classes": ["background", "Ösophagus", "脾"]}
    path.write_bytes(json.dumps(named, ensure_ascii=False).encode(encoding))
    assert read_class_map(path).classes == ("background", "Ösophagus", "脾")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{", b"\xef\xbb\xbf", b"\x80{}", b"{\0}", b"\xd8\x00"]
)
def test_bytes_that_are_no_text_are_refused(tmp_path, content):
    path = tmp_path / "classes.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_class_map(path)


def test_labels_near_whole_numbers_are_rounded():
    near = np.array([0.0, 0.9995, 2.0009, 2.9991], np.float32)
    assert integral(near, "x").tolist() == [0, 1, 2, 3]
    assert identity_map(3).apply(np.float32([0.99999994, 2.0000002]), "x").tolist() == [1, 2]
    far = np.array([0.0, 1.002, 0.5, 2.0])
    with pytest.raises(
        UserError, match=r"x: label 1\.002 is not a whole number, nor 2 of 4 in all; expected codes"
    ):
        integral(far, "x")


def test_labels_that_are_no_labels_are_refused_even_where_others_are_background():
    chosen = ClassMap(("background", "a"), {1: 1, 70_000: 1}, others=0)
    assert chosen.apply(np.array([0, 1, 9, 65_535, 70_000]), "x").tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(UserError, match=r"x: 2 pixel\(s\) have label -1024; .* is a label image"):
        chosen.apply(np.array([-1024, 0, -1024]), "x")
    with pytest.raises(UserError, match=r"x: 1 pixel\(s\) have label 65536"):
        chosen.apply(np.array([65_536, 0, 5]), "x")


def test_all_unknown_labels_are_counted():
    labels = np.repeat([0, 5, 7, 8, 9, 10, 11], [3, 2, 1, 1, 1, 1, 1])
    with pytest.raises(UserError) as raised:
        identity_map(3).apply(labels, "f")
    assert (
        "label 5 is beyond the 3 classes (known codes: 0, 1, 2): 2 pixel(s) have label 5, 1 "
        in (str(raised.value))
        and "and there are 1 more" in str(raised.value)
    )


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


def test_the_cardiac_codes_are_the_classes_themselves():
    assert NAMED_MAPS["cardiac"].classes == (
        "background", "right ventricle", "myocardium", "left ventricle"
    )  # fmt: skip
    assert NAMED_MAPS["cardiac"].apply(np.array([3, 0, 1, 2]), "x").tolist() == [3, 0, 1, 2]
    assert set(NAMED_MAPS) == {
        "totalsegmentator", "synapse-13", "synapse-aorta-first", "synapse-spleen-first", "cardiac"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["synapse-aorta-first", "synapse-spleen-first", "cardiac"])
def test_a_map_of_all_codes_takes_no_others(name):
    with pytest.raises(UserError, match=r"x: label 9 is beyond the \d classes"):
        NAMED_MAPS[name].apply(np.array([9]), "x")


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        (np.array([2**53, 0], np.uint64), True), (np.array([2**53 + 2, 0], np.uint64), False),
        (np.array([2.0**53, 0]), True), (np.array([2.0**53 + 2, 0]), False),
        (np.array([0, -(2.0**53)]), True), (np.array([0, -(2.0**53) - 2]), False),
        (np.array([-(2**60)]), True), (np.array([True, False]), True),
        (np.array([], np.float32), True), (np.array([], np.uint8), True),
    ],
)  # fmt: skip
def test_codes_are_held_to_what_a_float_holds_exactly(labels, good):
    if good:
        found = integral(labels, "x")
        assert found.dtype == np.int64 and np.array_equal(found, labels)
        return
    most = "at least -9007199254740992" if labels.min() < 0 else "at most 9007199254740992"
    with pytest.raises(UserError, match=f"x: voxel .* is out of range; expected {most}; correct"):
        integral(labels, "x", "voxel")


@pytest.mark.parametrize("labels", [np.array(["1"]), np.array([1j]), np.array([None])])
def test_labels_are_numbers(labels):
    with pytest.raises(UserError, match=f"x: labels of type {labels.dtype}; expected whole numb"):
        integral(labels, "x")


def test_a_label_is_whole_to_a_thousandth():
    assert integral(np.array([1.0009765625, 0.9990234375]), "x").tolist() == [1, 1]
    for far in (1.001953125, 0.998046875):
        with pytest.raises(UserError, match="is not a whole number, nor 1 of 1 in all"):
            integral(np.array([far]), "x")


@pytest.mark.parametrize(("count", "ends"), [(20, ", 19): "), (21, ", 19 ...): ")])
def test_twenty_of_the_known_codes_are_named(count, ends):
    with pytest.raises(UserError) as raised:
        identity_map(count).apply(np.array([40]), "f")
    assert "(known codes: 0, 1, 2, " in str(raised.value) and ends in str(raised.value)
    assert identity_map(3).classes == ("background", "class 1", "class 2")


@pytest.mark.parametrize(("unknown", "more"), [(5, None), (6, "1 more"), (8, "3 more")])
def test_five_unknown_labels_are_counted_each(unknown, more):
    with pytest.raises(UserError) as raised:
        identity_map(2).apply(np.arange(2 + unknown), "f")
    text = str(raised.value)
    assert text.count("1 pixel(s) have label") == 5
    assert ("more" in text) == (more is not None) and (more or "") in text


def test_the_background_may_have_a_code_of_its_own_and_others_may_be_a_class():
    assert ClassMap(("b", "a"), {0: 1, 5: 0}).apply(np.array([0, 5]), "x").tolist() == [1, 0]
    assert ClassMap(("b", "a"), {5: 0}, others=1).apply(np.array([0, 5, 7]), "x").tolist() == [
        0,
        0,
        1,
    ]
    edge = ClassMap(("b", "a"), {5: 0}, others=1)
    assert edge.apply(np.array([0, 65_535]), "x").tolist() == [0, 1]
    with pytest.raises(UserError, match=r"label 65536; expected labels of 0 to 65535; check that"):
        edge.apply(np.array([65_536]), "x")


def test_a_map_may_say_what_else_is_known(tmp_path):
    path = tmp_path / "classes.json"
    options = {"label_source": "readers", "name": "n", "normalization": {"kind": "none"},
               "patients": {"a": "b"}}  # fmt: skip
    path.write_text(json.dumps(GOOD | options | {"classes": [" background", "a  b", "c"]}))
    chosen = read_class_map(path)
    assert chosen.options == options and chosen.others is None
    assert chosen.classes == ("background", "a b", "c") and chosen.codes == {1: 1, 2: 2}
    path.write_text(json.dumps(GOOD | {"codes": {"-3": 1, "4": 2, "5": 0}, "others": 2}))
    chosen = read_class_map(str(path))
    assert chosen.codes == {-3: 1, 4: 2, 5: 0} and chosen.others == 2


def test_a_dataset_json_gives_its_name_and_normalization(tmp_path):
    path = tmp_path / "dataset.json"
    said = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "noNorm"}, "name": " d  s "}
    path.write_text(json.dumps(said))
    assert read_class_map(path).options == {"normalization": [{"kind": "none"}], "name": "d s"}
    path.write_text(json.dumps(said | {"channel_names": {"0": "CT"}, "name": 3}))
    assert read_class_map(path).options == {}
