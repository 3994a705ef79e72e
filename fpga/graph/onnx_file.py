"""An ONNX file and its nodes' attributes, read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmaunet.errors import UserError

SCAN_DOMAIN, SCAN_OP = "ai.lmaunet", "SelectiveScan"


def load(path: Path) -> Any:
    """Return the ONNX model of a file; raises :class:`UserError` where it is not one."""
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise UserError(f"{path} does not exist; export the network first")
    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise UserError(f"{path} is not an ONNX file: {error}") from error
    if not model.graph.node:
        raise UserError(f"{path} holds no nodes; expected a QONNX network")
    return model


def attributes_of(node: Any) -> dict[str, Any]:
    """Return an ONNX node's attributes as Python values."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def plain_attributes(node: Any) -> dict[str, Any]:
    """Return an ONNX node's attributes with text as ``str``, which ONNX keeps as bytes."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(v) for v in value]
        return value.decode() if isinstance(value, bytes) else value

    return {name: plain(value) for name, value in attributes_of(node).items()}
