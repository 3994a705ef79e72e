"""The engine's own layer table, read from the message that TensorRT logs when it has built one.

An engine cannot be inspected without a GPU. With detailed profiling the builder logs a message
that starts with ``Layers:`` and has a line for each layer: its type, the data type and dimensions
of each input, constant and output, and the ONNX nodes that it came from.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmaunet.errors import UserError
from lmaunet.packages import install_extra

BITS = {
    "Double": 64, "Int64": 64, "Float": 32, "Int32": 32, "Half": 16, "BFloat16": 16, "Int8": 8,
    "UInt8": 8, "Bool": 8, "FP8": 8, "Int4": 4, "FP4": 4,
}  # fmt: skip
SECTIONS = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>.*?), Inputs: \[(?P<inputs>.*?)\], "
    r"(?:Constants: \[(?P<constants>.*?)\], )?Outputs: \[(?P<outputs>.*?)\], TacticName: "
    r"(?:.*?Metadata: (?P<origin>.*))?",
    re.DOTALL,
)
TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[-\d, ]*)\].*?Datatype: (?P<datatype>\w+)"
)
ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\](?=\x1f|\x1e|\[ONNX Layer: |\s*$)")
MEMORY_LINES = {
    "Total Weights Memory": "weights_memory_bytes",
    "Total Activation Memory": "activation_memory_bytes",
}


@dataclass(frozen=True)
class EngineTensor:
    """One operand of a layer: its name in the engine, dimensions and data type (``Int8`` ...)."""

    name: str
    dims: tuple[int, ...]
    datatype: str

    @property
    def bytes(self) -> int:
        """The size of its values in bytes, rounded up."""
        return -(-math.prod(self.dims) * BITS[self.datatype] // 8)


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    ``type`` is TensorRT's: ``correlation`` is a convolution from the vendor's library, ``kgen`` a
    generated kernel. ``onnx_nodes`` are the names of the ONNX nodes that it came from.
    """

    name: str
    type: str
    onnx_nodes: tuple[str, ...]
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form in ``layers.json``, with the constants' bytes by data type."""
        content = asdict(self)
        content["constant_bytes"] = bytes_by_datatype(self.constants)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EngineLayer:
        """Return the layer that :meth:`to_json` wrote."""

        def tensors(key: str) -> tuple[EngineTensor, ...]:
            return tuple(
                EngineTensor(t["name"], tuple(t["dims"]), t["datatype"]) for t in content[key]
            )

        return cls(
            content["name"], content["type"], tuple(content["onnx_nodes"]),
            tensors("inputs"), tensors("constants"), tensors("outputs"),
        )  # fmt: skip


def bytes_by_datatype(tensors: Iterable[EngineTensor]) -> dict[str, int]:
    """Return the bytes of the tensors by data type; a tensor that occurs twice counts once."""
    totals: dict[str, int] = {}
    for tensor in {tensor.name: tensor for tensor in tensors}.values():
        totals[tensor.datatype] = totals.get(tensor.datatype, 0) + tensor.bytes
    return totals


def parse_layers(message: str) -> list[EngineLayer]:
    """Return the layers of the message that starts with ``Layers:``, in the engine's order.

    Raises:
        UserError: where a line is not of the form that this parser knows.
    """
    layers = []
    for line in message.split("\n"):
        if not line.startswith("Name: "):
            continue
        match = SECTIONS.match(line)
        if match is None:
            raise UserError(
                f"TensorRT's layer table has a line in an unknown form: {line[:200]!r}; "
                f"install the version that is declared: {install_extra('trt')}"
            )
        layers.append(
            EngineLayer(
                match["name"],
                match["type"],
                tuple(dict.fromkeys(ORIGIN.findall(match["origin"] or ""))),
                _tensors(match["inputs"], line),
                _tensors(match["constants"] or "", line),
                _tensors(match["outputs"], line),
            )
        )
    return layers


def parse_inspector(text: str) -> list[EngineLayer]:
    """Return the layers of the engine inspector's JSON, which the full TensorRT writes.

    A layer has its weights' type and count there, and no dimensions: the constant's dimensions are
    that count.

    Raises:
        UserError: where it is of another form, for example without detailed profiling.
    """
    try:
        return [_inspected(layer) for layer in json.loads(text)["Layers"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the engine inspector's table is in an unknown form ({error!r}); expected an object "
            "with a list 'Layers' of objects; use TensorRT 10"
        ) from error


def _inspected(layer: Mapping[str, Any]) -> EngineLayer:
    def tensors(key: str) -> tuple[EngineTensor, ...]:
        return tuple(
            EngineTensor(
                t["Name"],
                tuple(int(d) for d in t["Dimensions"]),
                _format_type(t["Format/Datatype"]),
            )
            for t in layer[key]
        )

    constants = tuple(
        EngineTensor(f"{layer['Name']} {key}", (int(layer[key]["Count"]),), layer[key]["Type"])
        for key in ("Weights", "Bias")
        if layer.get(key, {}).get("Count")
    )
    origin = dict.fromkeys(ORIGIN.findall(str(layer.get("Metadata", ""))))
    return EngineLayer(
        layer["Name"], layer["LayerType"], tuple(origin),
        tensors("Inputs"), constants, tensors("Outputs"),
    )  # fmt: skip


def _format_type(text: str) -> str:
    """Return the data type in a description such as ``Row major linear FP32``."""
    names = {"FP32": "Float", "FP16": "Half", "BF16": "BFloat16"}
    known = {**{name.upper(): name for name in BITS}, **names}
    for word in text.replace(".", " ").upper().split():
        if word in known:
            return known[word]
    raise KeyError(text)


def _tensors(text: str, line: str) -> tuple[EngineTensor, ...]:
    found = []
    for match in TENSOR.finditer(text):
        if match["datatype"] not in BITS:
            raise UserError(
                f"TensorRT's layer table has the unknown data type {match['datatype']} in "
                f"{line[:120]!r}; known are {', '.join(BITS)}"
            )
        dims = tuple(int(d) for d in match["dims"].split(",") if d.strip())
        found.append(EngineTensor(match["name"], dims, match["datatype"]))
    if len(found) != text.count("{ Name: "):
        raise UserError(
            f"TensorRT's layer table has a tensor in an unknown form in {line[:120]!r}; "
            f"install the version that is declared: {install_extra('trt')}"
        )
    return tuple(found)


def read_bytes_line(message: str) -> dict[str, int]:
    """Return the figure of a log line on the engine's memory, by its key in ``engine.json``."""
    name, _, rest = message.partition(":")
    key = MEMORY_LINES.get(name.strip())
    number = rest.strip().split(" ")[0]
    return {key: int(number)} if key and number.isdigit() else {}
