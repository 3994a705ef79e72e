"""ONNX files that share what they have in common: one is whole, the others refer to bytes in it.

ONNX lets an initializer's bytes lie in another file, at an offset
(``TensorProto.external_data``). The whole file serves as that file: it stays what it was and opens
alone, and each other file holds its own structure and only those bytes that the whole one lacks.
ONNX Runtime and OpenVINO read such files by themselves as long as the two lie in one folder.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from lmaunet.errors import UserError

FEWEST_BYTES = 256
"""Smaller initializers stay: naming a place takes about 60 bytes, and runtimes look at small ones
(shapes, axes) before they read other files."""


def share_weights(whole: Path, other: onnx.ModelProto, path: Path) -> int:
    """Write a model whose initializers refer to equal bytes in a whole model's file, where any are.

    Args:
        whole: the file of the whole model, beside ``path``.
        other: the model to write.
        path: where to.

    Returns:
        The bytes that lie in the whole file now.

    Raises:
        UserError: where the two would not lie in one folder.
    """
    if whole.parent != path.parent:
        raise UserError(f"{path} must lie beside {whole}, whose bytes it refers to")
    content = whole.read_bytes()
    places: dict[bytes, int] = {}
    for tensor in onnx.load_from_string(content).graph.initializer:
        if len(tensor.raw_data) >= FEWEST_BYTES and _key(tensor) not in places:
            places[_key(tensor)] = content.index(tensor.raw_data)
    shared = onnx.ModelProto()
    shared.CopyFrom(other)
    moved = 0
    for tensor in shared.graph.initializer:
        offset = places.get(_key(tensor)) if len(tensor.raw_data) >= FEWEST_BYTES else None
        if offset is None:
            continue
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", whole.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        moved += length
    path.write_bytes(shared.SerializeToString())
    return moved


def _key(tensor: onnx.TensorProto) -> bytes:
    """Return what is equal in tensors that may share their bytes: names say nothing."""
    return tensor.raw_data
