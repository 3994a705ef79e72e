"""A graph on disk: the same bytes each time, and one clear error for anything else."""

import json
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from lmaunet.errors import UserError
from lmaunet.graph import file
from lmaunet.graph.file import (
    digest,
    read,
    to_json,
    topology_digest,
    topology_json,
    topology_of,
    write,
)
from lmaunet.graph.graph import Weight
from lmaunet.graph.module import GraphModule
from lmaunet.graph.relayouts import Flip


def bytes_of(folder):
    return [(folder / name).read_bytes() for name in (file.GRAPH_FILE, file.WEIGHTS_FILE)]


def altered(folder, change, *, sign):
    """Change graph.json; where ``sign``, with a digest that is right for the new content."""
    path = folder / file.GRAPH_FILE
    content = json.loads(path.read_text())
    change(content)
    if sign:
        content.pop("digest", None)
        content["digest"] = file._digest(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path, graph, weights):
    write(tmp_path, graph, weights)
    return tmp_path


def test_a_graph_comes_back_and_is_written_as_the_same_bytes(folder, graph, weights, tmp_path):
    again, arrays = read(folder)
    assert again == graph
    assert all(np.array_equal(arrays[name], weights[name]) for name in weights)
    second = write(tmp_path / "second", again, dict(reversed(arrays.items())))
    assert bytes_of(tmp_path / "second") == bytes_of(folder)
    assert second == digest(graph, weights) == json.loads(bytes_of(folder)[0])["digest"]


def test_the_digest_sees_every_weight(graph, weights):
    other = {**weights, "scan.D": np.nextafter(weights["scan.D"], np.float32(2))}
    assert digest(graph, other) != digest(graph, weights)


def node(content, name):
    return next(entry for entry in content["nodes"] if entry["name"] == name)


def set_attribute(content, name, key, value):
    node(content, name)["attributes"][key] = value


def test_an_altered_attribute_is_refused(folder):
    """The mutant: the flip's axis is another one, and the graph is as valid as before."""
    altered(folder, lambda c: set_attribute(c, "flip", "axes", [1]), sign=False)
    with pytest.raises(UserError, match="the file was altered"):
        read(folder)
    altered(folder, lambda c: None, sign=True)
    read(folder)


CASES = {
    "schema": (lambda c: c.update(schema=2), "schema 2, expected 1"),
    "no schema": (lambda c: c.pop("schema"), "it has no schema"),
    "key": (lambda c: c.update(more=1), r"does not know \['more'\]"),
    "operator": (lambda c: node(c, "flip").update(operator="roll"), "unknown operator 'roll'"),
    "attribute": (lambda c: set_attribute(c, "flip", "more", 1), r"does not know \['more'\]"),
    "missing attribute": (lambda c: node(c, "flip")["attributes"].clear(), r"lacks \['axes'\]"),
    "attribute's type": (lambda c: set_attribute(c, "flip", "axes", "2"), "axes='2'"),
    "shape": (lambda c: node(c, "pool").update(shape=[1, 2, 2, 2]), r"expected \(1, 2, 2, 3\)"),
    "layout": (lambda c: node(c, "pool").update(layout=["N", "C1", "H", "W"]), "its layout"),
    "layout's type": (lambda c: node(c, "pool").update(layout=[1]), "expected a text"),
    "weight's shape": (
        lambda c: c["weights"]["proj.weight"].update(shape=[8, 3, 1]), "input channels",
    ),
    "weight's learned": (lambda c: c["weights"]["proj.weight"].update(learned=1), "learned=1"),
    "size": (lambda c: c["sizes"].update(H="4"), "symbol 'H'"),
    "nodes": (lambda c: c.update(nodes={}), "expected a list"),
    "node": (lambda c: c.update(nodes=[1]), "expected an object"),
    "name": (lambda c: node(c, "pool").update(name=["x"]), "expected a text"),
    "output": (lambda c: c.update(outputs=["none"]), "'none' is no value"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_no_graph_can_be_is_refused_though_its_digest_is_right(folder, case):
    change, message = CASES[case]
    altered(folder, change, sign=True)
    with pytest.raises(UserError, match=message) as error:
        read(folder)
    assert "capture the network again" in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"), ("[1]", "no schema"), ("[" * 100_000, "no JSON"), ("\xff\xfe", "no JSON"),
        ('{"schema": 1, "schema": 1}', "a key stands twice"), ('{"schema": NaN}', "NaN"),
        ('{"schema": 1}', "lacks"),
    ],
)  # fmt: skip
def test_what_is_no_json_of_a_graph(folder, text, message):
    (folder / file.GRAPH_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=message):
        read(folder)


def test_a_folder_without_files(tmp_path, folder):
    with pytest.raises(UserError, match=r"graph\.json: No such file"):
        read(tmp_path / "none")
    (folder / file.WEIGHTS_FILE).unlink()
    with pytest.raises(UserError, match=r"weights\.npz: No such file"):
        read(folder)


def weights_file(folder, arrays):
    np.savez(folder / file.WEIGHTS_FILE, **arrays)


def test_other_weights_are_refused(folder, weights):
    def refused(message, **changes):
        weights_file(folder, {k: v for k, v in {**weights, **changes}.items() if v is not None})
        with pytest.raises(UserError, match=message) as error:
            read(folder)
        assert "capture the network again" in str(error.value)

    refused(r"missing \['proj.weight.npy'\]", **{"proj.weight": None})
    refused(r"not in the graph \['more.npy'\]", more=np.zeros(1, np.float32))
    refused(r"expected float32 \(2,\)", **{"scan.D": np.zeros(2)})
    refused(r"expected float32 \(2,\)", **{"scan.D": np.zeros((2, 1), np.float32)})
    refused("holds no weights", **{"scan.D": np.array([None, 1])})
    refused("not finite", **{"scan.D": np.full(2, np.inf, np.float32)})
    refused("was altered", **{"scan.D": -weights["scan.D"]})
    refused("bytes for", **{"scan.D": np.zeros(5000, np.float32)})


def test_a_damaged_weights_file(folder):
    path = folder / file.WEIGHTS_FILE
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole.replace(b"\x93NUMPY", b"\x93NUMPX")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"weights\.npz"):
            read(folder)
    with zipfile.ZipFile(path, "w") as empty:
        empty.comment = b"nothing"
    with pytest.raises(UserError, match="missing"):
        read(folder)


def test_writing_refuses_other_weights(tmp_path, graph, weights):
    with pytest.raises(UserError, match="missing"):
        write(tmp_path, graph, {})
    with pytest.raises(UserError, match=r"expected float32 \(2,\)"):
        write(tmp_path, graph, {**weights, "scan.D": np.zeros(2)})


ODD = (
    None,
    True,
    -1,
    0,
    2**31,
    10**400,
    1.5,
    "",
    "N",
    "image",
    "x" * 1000,
    [],
    [[[[1]]]],
    ["N"],
    {},
)


def places(value, path=()):
    """Return the path of every entry of a file's content."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        yield (*path, key)
        if isinstance(entry, (dict, list)):
            yield from places(entry, (*path, key))


def test_odd_entries_anywhere_raise_one_clear_error_or_make_a_graph(folder):
    """Each entry of the file is left out, or is something odd, under a digest that is right."""
    whole = (folder / file.GRAPH_FILE).read_text()
    rng = random.Random(3)
    chosen = rng.sample(list(places(json.loads(whole))), 300)
    refused = 0
    for path in chosen:
        (folder / file.GRAPH_FILE).write_text(whole)

        def change(content, path=path):
            for key in path[:-1]:
                content = content[key]
            if rng.random() < 0.2:
                del content[path[-1]]
            else:
                content[path[-1]] = rng.choice(ODD)

        altered(folder, change, sign=True)
        try:
            read(folder)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 250


def test_a_graph_without_numbers_comes_back(graph, folder):
    content = json.loads(json.dumps(topology_json(graph)))
    assert topology_of(content, "here") == graph
    assert json.loads(json.dumps(topology_json(topology_of(content, "here")))) == content
    assert content["digest"] == topology_digest(graph) != json.loads(bytes_of(folder)[0])["digest"]
    assert all(set(weight) == {"shape", "learned"} for weight in content["weights"].values())


def test_the_digest_without_numbers_sees_the_graph_and_no_weight(graph, weights):
    """Of two networks with other weights it is the same, and of two with other graphs it is not."""
    before = topology_digest(graph)
    for values in (weights, {name: array + 1 for name, array in weights.items()}):
        assert topology_digest(GraphModule(graph, values).graph) == before
    flipped = [
        replace(node, operator=Flip((1,))) if node.name == "flip" else node for node in graph.nodes
    ]
    learned = {**graph.weights, "scan.D": Weight((2,), False)}
    for other in (replace(graph, nodes=tuple(flipped)), replace(graph, weights=learned),
                  replace(graph, outputs=("sum",))):  # fmt: skip
        assert topology_digest(other) != before


@pytest.mark.parametrize("case", [name for name in CASES if "weight" not in name])
def test_what_no_graph_can_be_is_refused_without_numbers_too(graph, case):
    change, message = CASES[case]
    content = json.loads(json.dumps(topology_json(graph)))
    change(content)
    with pytest.raises(UserError) as refused:
        topology_of(content, "model.pt: its graph")
    assert str(refused.value).startswith("model.pt: its graph: ")
    if case not in ("schema", "no schema", "key"):
        assert "the file was altered" in str(refused.value)
    content.pop("digest", None)
    content["digest"] = file._digest(content)
    with pytest.raises(UserError, match=message) as refused:
        topology_of(content, "model.pt: its graph")
    assert "capture the network again" in str(refused.value)


@pytest.mark.parametrize("content", [None, [], {}, "x", 3, {"schema": 1}, {"schema": []}])
def test_what_holds_no_graph_is_refused(content):
    with pytest.raises(UserError, match=r"^here: .*capture the network again"):
        topology_of(content, "here")


def test_a_graph_with_the_digests_of_weights_is_another_kind_of_file(graph, weights):
    with pytest.raises(UserError, match=r"does not know .*sha256"):
        topology_of(to_json(graph, weights), "here")


def test_odd_entries_of_a_graph_without_numbers_raise_one_clear_error_or_make_a_graph(graph):
    whole = json.dumps(topology_json(graph))
    rng = random.Random(4)
    for path in rng.sample(list(places(json.loads(whole))), 200):
        content = json.loads(whole)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = rng.choice(ODD)
        content.pop("digest", None)
        content["digest"] = file._digest(content)
        try:
            topology_of(content, "here")
        except UserError as error:
            assert "\n" not in str(error)
