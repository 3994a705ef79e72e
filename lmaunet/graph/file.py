"""A graph and its weights on disk: ``graph.json`` and ``weights.npz`` in one folder.

``graph.json`` holds the SHA-256 of every weight and a digest, the SHA-256 of its own content as
JSON with sorted keys and no spaces. The same graph and weights give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.graph.base_operator import Operator, attributes_of
from lmaunet.graph.graph import Array, Graph, Node, Weight, Weights, check_weights
from lmaunet.graph.layouts import Layout, layout_of, text_of
from lmaunet.graph.relayouts import OPERATORS

SCHEMA = 1
GRAPH_FILE, WEIGHTS_FILE = "graph.json", "weights.npz"
LARGEST_FILE = 2**28
"""Bytes of the largest graph.json that is read; one of 1000 nodes has about a million."""
AGAIN = "capture the network again and write it anew"
NPY_HEADER = 4096
"""More bytes than an array's header in the file has."""


def to_json(graph: Graph, weights: Weights) -> dict[str, Any]:
    """Return graph.json's content, with its digest; raises UserError where weights do not fit."""
    check_weights(graph, weights)
    return _content(graph, weights)


def topology_json(graph: Graph) -> dict[str, Any]:
    """Return a graph without numbers as plain JSON: its digest is the same whatever they are."""
    return _content(graph, None)


def topology_digest(graph: Graph) -> str:
    """Return the SHA-256, in hex, that names a graph whatever its weights are."""
    return str(topology_json(graph)["digest"])


def topology_of(content: Any, where: str) -> Graph:
    """Return the graph that :func:`topology_json` wrote.

    Raises:
        UserError: for anything else; the message begins with ``where``.
    """
    try:
        return _checked(content, ("shape", "learned"))
    except (UserError, RecursionError, KeyError, TypeError) as error:
        raise UserError(f"{where}: {error}; {AGAIN}") from error


def _content(graph: Graph, weights: Weights | None) -> dict[str, Any]:
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "sizes": dict(graph.sizes),
        "inputs": [
            {"name": name, "shape": list(graph.shape(name)), "layout": text_of(layout)}
            for name, layout in graph.inputs.items()
        ],
        "nodes": [_node_json(graph, node) for node in graph.nodes],
        "outputs": list(graph.outputs),
        "weights": {
            name: {
                "shape": list(weight.shape),
                "learned": weight.learned,
                **({} if weights is None else {"sha256": _sha256(weights[name])}),
            }
            for name, weight in graph.weights.items()
        },
    }
    return {**content, "digest": _digest(content)}


def digest(graph: Graph, weights: Weights) -> str:
    """Return the SHA-256, in hex, that names a graph with these weights."""
    return str(to_json(graph, weights)["digest"])


def write(folder: Path, graph: Graph, weights: Weights) -> str:
    """Write a graph and its weights into a folder; return the digest.

    Raises:
        UserError: where the weights are not the graph's.
    """
    content = to_json(graph, weights)
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / WEIGHTS_FILE, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(graph.weights):
            buffer = io.BytesIO()
            array = np.asarray(weights[name], "<f4", order="C")
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            # a ZipInfo of its own has the date 1980-01-01: the same bytes each time
            file.writestr(zipfile.ZipInfo(_member(name)), buffer.getvalue())
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    (folder / GRAPH_FILE).write_text(text + "\n", encoding="utf-8")
    return str(content["digest"])


def read(folder: Path) -> tuple[Graph, dict[str, Array]]:
    """Read what :func:`write` wrote.

    Raises:
        UserError: where a file is not there, was altered, is of another schema, or says what no
            graph can be.
    """
    path = folder / GRAPH_FILE
    content = _load_json(path)
    try:
        graph = _checked(content, ("shape", "learned", "sha256"))
    except (UserError, RecursionError) as error:
        raise UserError(f"{path}: {error}; {AGAIN}") from error
    return graph, _load_weights(folder / WEIGHTS_FILE, graph, content["weights"])


def _checked(content: Any, keys: Sequence[str]) -> Graph:
    """Return a graph of JSON; ``keys`` are those of each weight. Raises UserError for another."""
    if not isinstance(content, dict) or "schema" not in content:
        raise UserError("it is no graph: it has no schema")
    if content["schema"] != SCHEMA:
        raise UserError(f"schema {content['schema']!r:.40}, expected {SCHEMA}")
    wanted = ("schema", "sizes", "inputs", "nodes", "outputs", "weights", "digest")
    _check_keys("graph", content, wanted)
    got, stated = _digest({k: v for k, v in content.items() if k != "digest"}), content["digest"]
    if got != stated:
        raise UserError(f"the file was altered: its digest is {got}, it says {stated!r:.80}")
    return _graph(content, keys)


def _node_json(graph: Graph, node: Node) -> dict[str, Any]:
    attributes = {
        key: text_of(value) if key == "layout" else value
        for key, value in attributes_of(node.operator).items()
    }
    return {
        "name": node.name,
        "operator": node.operator.name,
        "attributes": attributes,
        "inputs": list(node.inputs),
        "weights": dict(node.weights),
        "shape": list(graph.shape(node.name)),
        "layout": text_of(node.layout),
    }


def _graph(content: Mapping[str, Any], keys: Sequence[str]) -> Graph:
    """Return the graph of a file whose digest is right; raises UserError for anything else."""
    sizes = _mapping("sizes", content["sizes"])
    inputs, shapes = {}, {}
    for entry in _list("inputs", content["inputs"]):
        _check_keys("an input", entry, ("name", "shape", "layout"))
        name = _text("an input's name", entry["name"])
        if name in inputs:
            raise UserError(f"two inputs have the name {name!r}")
        inputs[name], shapes[name] = _layout(entry["layout"]), entry["shape"]
    nodes = []
    for entry in _list("nodes", content["nodes"]):
        nodes.append(_node(entry))
        shapes[nodes[-1].name] = entry["shape"]
    weights = {}
    for name, entry in _mapping("weights", content["weights"]).items():
        _check_keys(f"weight {name!r:.80}", entry, keys)
        if type(entry["learned"]) is not bool:
            raise UserError(f"weight {name!r:.80}: learned={entry['learned']!r:.40}")
        weights[name] = Weight(_tuples(entry["shape"]), entry["learned"])
    outputs = tuple(_text("an output", value) for value in _list("outputs", content["outputs"]))
    graph = Graph(sizes, inputs, tuple(nodes), outputs, weights)
    for name, shape in shapes.items():
        if _tuples(shape) != graph.shape(name):
            raise UserError(f"value {name!r}: shape {shape!r:.60}, expected {graph.shape(name)}")
    return graph


def _node(entry: Any) -> Node:
    keys = ("name", "operator", "attributes", "inputs", "weights", "shape", "layout")
    _check_keys("a node", entry, keys)
    name = _text("a node's name", entry["name"])
    try:
        roles = _mapping("weights", entry["weights"])
        return Node(
            name,
            _operator(entry["operator"], entry["attributes"]),
            tuple(_text("an input", value) for value in _list("inputs", entry["inputs"])),
            {role: _text("a weight", value) for role, value in roles.items()},
            _layout(entry["layout"]),
        )
    except UserError as error:
        raise UserError(f"node {name!r}: {error}") from error


def _operator(name: Any, attributes: Any) -> Operator:
    if not isinstance(name, str) or name not in OPERATORS:
        raise UserError(f"unknown operator {name!r:.40}; expected one of {', '.join(OPERATORS)}")
    kind = OPERATORS[name]
    _check_keys(f"operator {name}", attributes, [f.name for f in fields(kind)])
    values = {
        key: _layout(value) if key == "layout" else _tuples(value)
        for key, value in attributes.items()
    }
    return kind(**values)


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ValueError(f"more than {LARGEST_FILE:,} bytes")
        return json.loads(data, object_pairs_hook=_once, parse_constant=_no_constant)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: it is no JSON of a graph: {error}; {AGAIN}") from error


def _load_weights(path: Path, graph: Graph, stated: Mapping[str, Any]) -> dict[str, Array]:
    weights: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as file:
            members = [info.filename for info in file.infolist()]
            wanted = sorted(_member(name) for name in graph.weights)
            if sorted(members) != wanted:
                missing = sorted(set(wanted) - set(members))[:3]
                extra = sorted(set(members) - set(wanted))[:3]
                raise UserError(f"weights missing {missing}, not in the graph {extra}")
            for name, weight in graph.weights.items():
                info = file.getinfo(_member(name))
                if info.file_size > 4 * int(np.prod(weight.shape, dtype=object)) + NPY_HEADER:
                    raise UserError(f"weight {name!r}: {info.file_size} bytes for {weight.shape}")
                data = io.BytesIO(file.read(info))
                weights[name] = np.lib.format.read_array(data, allow_pickle=False)
        check_weights(graph, weights)
        for name in graph.weights:
            if _sha256(weights[name]) != stated[name]["sha256"]:
                raise UserError(f"weight {name!r} was altered: its SHA-256 is another")
    except UserError as error:
        raise UserError(f"{path}: {error}; {AGAIN}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {AGAIN}") from error
    except (ValueError, LookupError, NotImplementedError, EOFError, MemoryError,
            RuntimeError, zipfile.BadZipFile) as error:  # fmt: skip
        raise UserError(f"{path}: it holds no weights of a graph: {error}; {AGAIN}") from error
    return weights


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(array: Array) -> str:
    return hashlib.sha256(np.asarray(array, "<f4").tobytes()).hexdigest()


def _member(name: str) -> str:
    return f"{name}.npy"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _check_keys(what: str, entry: Any, keys: Any) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{what} is {entry!r:.40}, expected an object")
    missing, extra = [k for k in keys if k not in entry], [k for k in entry if k not in keys]
    if missing or extra:
        raise UserError(f"{what} lacks {missing}, does not know {extra}; expected {list(keys)}")


def _mapping(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{what} is {value!r:.40}, expected an object")
    return value


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{what} is {value!r:.40}, expected a list")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{what} is {value!r:.40}, expected a text")
    return value


def _layout(value: Any) -> Layout:
    return layout_of([_text("an axis of a layout", axis) for axis in _list("layout", value)])


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
