"""The messages of an ONNX file as far as loading a build needs them, read without ``onnx``.

A file of protobuf keeps the fields that a reader does not know. So a small schema is enough to look
at a model's nodes and to change its constants: all else is written as it was read. Numbers and
names of the fields are those of ``onnx.proto3``; ONNX Runtime brings ``protobuf`` along.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lmaunet.errors import UserError

PACKAGE = "ai.lmaunet.onnx"
UINT8, INT8 = 2, 3
"""``TensorProto.DataType``."""
EXTERNAL = 1
"""``TensorProto.DataLocation``: the tensor's bytes are in another file."""
SCHEMA = {
    "Model": "ir_version:1:int64 graph:7:Graph opset_import:8:*OperatorSet functions:25:*Function",
    "Graph": "node:1:*Node name:2:string initializer:5:*Tensor input:11:*Value output:12:*Value "
    "sparse_initializer:15:*Sparse",
    "Node": "input:1:*string output:2:*string name:3:string op_type:4:string "
    "attribute:5:*Attribute domain:7:string",
    "Attribute": "name:1:string t:5:Tensor g:6:Graph ints:8:*int64 tensors:10:*Tensor "
    "graphs:11:*Graph sparse_tensor:22:Sparse sparse_tensors:23:*Sparse",
    "Tensor": "dims:1:*int64 data_type:2:int32 int32_data:5:*int32 name:8:string raw_data:9:bytes "
    "external_data:13:*Entry data_location:14:int32",
    "Entry": "key:1:string value:2:string",
    "Sparse": "values:1:Tensor indices:2:Tensor",
    "Function": "name:1:string node:7:*Node domain:10:string",
    "Value": "name:1:string type:2:Type",
    "Type": "tensor_type:1:TensorType",
    "TensorType": "elem_type:1:int32 shape:2:Shape",
    "Shape": "dim:1:*Dimension",
    "Dimension": "dim_value:1:int64",
    "OperatorSet": "domain:1:string version:2:int64",
}
"""The fields of each message, ``name:number:type``; ``*`` before the type is a list."""


@functools.cache
def message(name: str) -> Any:
    """Return the class of one message of :data:`SCHEMA`, such as ``Model``."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@functools.cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    # proto2 tells a field that is absent from an empty one
    file = descriptor_pb2.FileDescriptorProto(
        name="ai_lmaunet_onnx.proto", package=PACKAGE, syntax="proto2"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in SCHEMA.items():
        described = file.message_type.add(name=name)
        for text in fields.split():
            field, number, kind = text.split(":")
            label = kinds.LABEL_REPEATED if kind.startswith("*") else kinds.LABEL_OPTIONAL
            entry = described.field.add(name=field, number=int(number), label=label)
            kind = kind.removeprefix("*")
            if kind in SCHEMA:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                entry.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def read_messages(path: Path) -> Any:
    """Return the ``Model`` of an ONNX file, with what its initializers have in files beside it.

    Raises:
        UserError: where the file holds none, or a tensor refers to what is not there.
    """
    from google.protobuf.message import DecodeError

    try:
        model = message("Model").FromString(path.read_bytes())
        fill_external(model, path)
        far = next((t.name for t in _tensors(model) if t.data_location == EXTERNAL), None)
    except (DecodeError, ValueError, OSError) as error:
        raise UserError(f"{path} is no ONNX model ({error}); build it again") from error
    if far is not None:
        raise UserError(
            f"{path} is no ONNX model of ours (tensor {far!r} lies in another file); build it again"
        )
    return model


def fill_external(model: Any, path: Path) -> None:
    """Bring the bytes of a model's initializers into it that lie in files beside ``path``.

    A model is an ``onnx.ModelProto`` or one of :func:`read_messages`. ValueError or OSError is
    raised where a tensor does not say where its bytes lie, or they are not there.
    """
    files: dict[str, bytes] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != EXTERNAL:
            continue
        place = {entry.key: entry.value for entry in tensor.external_data}
        name = place.get("location", "")
        offset, length = int(place.get("offset", "-1")), int(place.get("length", "-1"))
        if not name or Path(name).name != name:
            raise ValueError(f"tensor {tensor.name!r} lies in another file")
        if name not in files:
            files[name] = path.with_name(name).read_bytes()
        if not 0 <= offset <= offset + length <= len(files[name]):
            raise ValueError(f"tensor {tensor.name!r} lies beyond the end of {name}")
        tensor.raw_data = files[name][offset : offset + length]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def _tensors(model: Any) -> Iterator[Any]:
    """Yield every tensor of a model: constants of graphs and bodies, and attributes of nodes."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            # a field that is not set reads as an empty message, without end
            inside = [attribute.g] if attribute.HasField("g") else []
            for body in (*inside, *attribute.graphs):
                yield from _of_graph(body)


def all_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """Yield the nodes, messages of this schema or of ``onnx``, and those of every body in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            inside = [attribute.g] if attribute.HasField("g") else []
            for graph in (*inside, *attribute.graphs):
                yield from all_nodes(graph.node)
