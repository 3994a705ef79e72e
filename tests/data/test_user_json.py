"""JSON that users write: nothing ambiguous is taken, and messages stay one short line."""

import pytest

from lmaunet.data import user_json
from lmaunet.data.user_json import check_names, is_name, is_whole, read_user_json, shown
from lmaunet.errors import UserError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a" * 58, "'" + "a" * 58 + "'"),
        ("a" * 59, "'" + "a" * 27 + "..." + "a" * 28 + "'"),
        (7 * 10**22, "70000000000000000000000"),
        (10**24, "1000000000" + "..." + "00000000000"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_a_value_is_shown_whole_where_it_is_short(value, text):
    assert shown(value) == text
    assert len(text) <= 60


def test_a_reason_is_one_line_of_200_characters_at_most(tmp_path):
    path = tmp_path / ("n" * 240)
    with pytest.raises(UserError) as raised:
        read_user_json(path)
    text = str(raised.value).removeprefix(f"{path} cannot be read as JSON (")
    assert len(text.removesuffix("); correct the file")) == 200
    path.write_text("[" + "\n " * 400 + '"x]')
    with pytest.raises(UserError, match="cannot be read as JSON") as raised:
        read_user_json(path)
    assert "\n" not in str(raised.value)


def test_classes_are_named_once():
    check_names(("background", "a"), "here")
    with pytest.raises(UserError, match="here: class 'a' is listed 2 times; expected a name once"):
        check_names(("background", "a", "a"), "here")


@pytest.mark.parametrize("error", [OSError, ValueError, RecursionError])
def test_whatever_reading_fails_with_is_the_files_fault(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error("of the reader")

    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr("json.loads", fail)
    with pytest.raises(
        UserError, match=r"a\.json cannot be read as JSON \(of the reader\); correc"
    ):
        read_user_json(tmp_path / "a.json")


def test_a_file_is_read_up_to_its_largest_size(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    monkeypatch.setattr(user_json, "LARGEST_FILE", 8)
    assert read_user_json(path) == {"a": 1}
    path.write_text('{"a": 12}')
    with pytest.raises(UserError, match=r"\(larger than 0 MiB\)"):
        read_user_json(path)
    monkeypatch.undo()
    with path.open("r+b") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(UserError, match=r"\(larger than 64 MiB\)"):
        read_user_json(path)


@pytest.mark.parametrize(
    ("value", "name", "whole"),
    [("a", True, False), (" a ", True, False), ("", False, False), (" \n", False, False),
     (3, False, True), (0, False, True), (True, False, False), (3.0, False, False),
     (None, False, False), (["a"], False, False)],
)  # fmt: skip
def test_what_a_name_is_and_a_whole_number(value, name, whole):
    assert is_name(value) is name and is_whole(value) is whole


@pytest.mark.parametrize(("count", "good"), [(1, False), (2, True), (255, True), (256, False)])
def test_classes_are_2_to_255(count, good):
    names = tuple(f"c{i}" for i in range(count))
    if good:
        return check_names(names, "here")
    with pytest.raises(UserError, match=f"here: {count} classes; expected 2 to 255 with the backg"):
        check_names(names, "here")


@pytest.mark.parametrize("names", [("a", "b", "Background"), ("a", "background", "b")])
def test_the_background_is_first_however_it_is_written(names):
    with pytest.raises(UserError, match="is not the first class; put the background first"):
        check_names(names, "here")
    check_names(("BACKGROUND", "a"), "here")
