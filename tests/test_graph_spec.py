"""What the program knows of a network that is none of its own specs."""

import json

import pytest

from lmaunet.errors import UserError
from lmaunet.graph_spec import GraphSpec, network_spec_of
from lmaunet.spec import SPECS

GIVEN = {"name": "nnU-Net 5", "in_channels": 2, "classes": 3, "input_size": (48, 64), "graph": "ab"}


def test_it_is_written_and_read():
    spec = GraphSpec(**GIVEN)
    assert spec.to_json() == GIVEN | {"input_size": [48, 64]}
    content = json.loads(json.dumps(spec.to_json()))
    assert network_spec_of(content) == spec == GraphSpec(**GIVEN | {"input_size": [48, 64]})
    assert isinstance(network_spec_of(content).input_size, tuple)
    assert hash(spec) == hash(network_spec_of(content))


@pytest.mark.parametrize("name", SPECS)
def test_our_own_specs_are_read_as_they_were(name):
    assert network_spec_of(SPECS[name].to_json()) == SPECS[name]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("name", ["x", "x" * 200, "ü 1"], ["", "x" * 201, "a\nb", 3, None]),
        ("graph", ["0", "f" * 64], ["", "f" * 201, "\x00", 1, None]),
        ("in_channels", [1, 2**14], [0, -1, 2**14 + 1, 1.0, True, "1", None]),
        ("classes", [2, 2**14], [1, 0, 2**14 + 1, 2.0, "2", None]),
        ("input_size", [(1, 1), (2**14, 3)],
         [(), (8,), (8, 8, 8), (0, 8), (8, -1), (8, 2**14 + 1), (8.0, 8), (True, 8), ("8", 8)]),
    ],
)  # fmt: skip
def test_each_field_is_held_to_its_range(key, good, bad):
    for value in good:
        assert getattr(GraphSpec(**GIVEN | {key: value}), key) == value
    for value in bad:
        with pytest.raises(UserError, match=r"not the description of a network: .*; expected a n"):
            GraphSpec(**GIVEN | {key: value})
        content = GIVEN | {key: list(value) if key == "input_size" else value}
        with pytest.raises(UserError, match="not the description of a network"):
            network_spec_of(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**GIVEN, "more": 1}, r"its keys are \['classes', 'graph', .*'more'.*\], expected"),
        ({key: value for key, value in GIVEN.items() if key != "name"}, "its keys are"),
        ({**GIVEN, "input_size": 8}, "its keys are"),
        ({**GIVEN, "input_size": "88"}, "its keys are"),
        ({**GIVEN, 3: 1}, "its keys are"),
        ({"graph": "ab"}, "its keys are"),
        ({key: value for key, value in GIVEN.items() if key != "graph"}, "no 'widths'"),
        ({}, "it has no 'name'"), ([], "it is a list"), (None, "it is a NoneType"), ("x", "a str"),
        (["graph"], "it is a list"),
    ],
)  # fmt: skip
def test_what_describes_no_network(content, said):
    with pytest.raises(UserError, match=said) as refused:
        network_spec_of(content)
    assert len(str(refused.value)) < 400


def test_a_graph_is_for_one_size():
    spec = GraphSpec(**GIVEN)
    spec.check_size(48, 64)
    for other in ((64, 48), (48, 63), (96, 128)):
        with pytest.raises(UserError) as refused:
            spec.check_size(*other)
        assert str(refused.value) == (
            f"network nnU-Net 5: input {other[0]}x{other[1]}; its graph is for 48x64: import it "
            "for the other size"
        )
