"""JSON that users write: nothing ambiguous is taken, and messages stay one short line."""

import pytest

from lmaunet.data.user_json import check_names, read_user_json, shown
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
