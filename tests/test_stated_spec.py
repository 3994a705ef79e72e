import json

import pytest

from lmaunet.errors import UserError
from lmaunet.spec import SPECS
from lmaunet.stated_spec import state_spec

SPEC = {"name": "mine", "widths": [4, 8, 8, 8, 8], "states": 2}


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "given.json"
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
        return str(path)

    return write


def test_names_files_and_sizes(file):
    assert state_spec("edge").for_training() == SPECS["edge"]
    sized = state_spec("edge", 4, 2, 128).for_training()
    assert (sized.classes, sized.in_channels, sized.input_size) == (4, 2, (128, 128))
    mine = state_spec(file(SPEC), classes=5).for_training()
    assert (mine.name, mine.states, mine.classes) == ("mine", 2, 5)
    assert state_spec(file({**SPEC, "name": "a"})).for_training().name == "a"
    shown = {"spec": SPECS["demo"].to_json(), "params": 3}
    assert state_spec(file(shown)).for_training() == SPECS["demo"]
    bare = {k: v for k, v in SPEC.items() if k != "name"}
    assert state_spec(file("﻿" + json.dumps(bare))).for_training().name == "given"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({**SPEC, "depth": 3}, "unknown 'depth'; its fields are name, widths, in_channels"),
        ({**SPEC, "widths": "48888"}, "widths='48888', expected a list of whole numbers"),
        ({**SPEC, "widths": [4, 8, 8]}, "give 5 positive numbers"),
        ({**SPEC, "widths": [4, 8, 8, 8, 8.5]}, "expected a list of whole numbers"),
        ({**SPEC, "widths": [True, 8, 8, 8, 8]}, "expected a list of whole numbers"),
        ({**SPEC, "widths": [4, 8, 8, 8, 10**9]}, "give at most 16,384"),
        ({**SPEC, "strides": [2, 2, 2, 0]}, "give 4 positive numbers"),
        ({**SPEC, "states": "8"}, "states='8'; give 1 or more, whole"),
        ({**SPEC, "states": 10**6}, "states=1000000; give at most 1,024"),
        ({**SPEC, "classes": 1}, "classes=1; give 2 or more"),
        ({**SPEC, "skip": ["add"]}, "skip=.* expected text"),
        ({**SPEC, "skip": "sum"}, "skip is 'add' or 'concat'"),
        ({**SPEC, "input_size": [100, 100]}, "multiples of 16"),
        ({**SPEC, "input_size": [10**6, 10**6]}, "give at most 16,384"),
        ({**SPEC, "name": "a\nb"}, "name=.* expected text"),
        ({"name": "a"}, "has no 'widths'"),
        ([1], "holds a list, expected an object"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        (" " * 1_000_001, "larger than a spec"),
    ],
)
def test_a_file_that_is_no_spec(content, text, file):
    path = file(content)
    with pytest.raises(UserError, match=text) as raised:
        state_spec(path)
    assert path in str(raised.value)


def test_a_file_in_another_encoding(file, tmp_path):
    path = tmp_path / "given.json"
    path.write_bytes(b"\xff\xfe{\x00")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        state_spec(str(path))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("huge",), "unknown spec 'huge'; use one of: base, edge, demo"),
        (("",), "unknown spec ''"),
        (("none.json",), "none.json does not exist or is no file; give one of base, edge"),
        (("edge", 1), "--classes 1; give 2 to 4,096"),
        (("edge", 9, 0), "--channels 0; give 1 to 1,024"),
        (("edge", 9, 1, 10**9), "--input-size 1000000000; give 1 to 16,384"),
        ((None, -3), "--classes -3"),
    ],
)
def test_options_that_cannot_be(given, text):
    with pytest.raises(UserError, match=text):
        state_spec(*given)


def test_options_that_contradict_each_other(file):
    path = file({**SPEC, "classes": 3, "input_size": [64, 32]})
    with pytest.raises(UserError, match=r"--classes 4, but --spec .* says 3; give one of them"):
        state_spec(path, classes=4)
    with pytest.raises(UserError, match=r"--input-size 64, but --spec .* says 64x32"):
        state_spec(path, input_size=64)
    assert state_spec(path, classes=3).for_training().classes == 3
