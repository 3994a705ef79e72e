"""Builds the hardware graph node by node and remembers where each tensor came from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.environment import DOMAIN
from lmaunet.fpga.graph.values import Codes, Value, map_layout
from lmaunet.fpga.operators.arithmetic import Rescaling

V = TypeVar("V", bound=Value)
Stream = tuple[int, int, int, int]


@dataclass(frozen=True)
class Rounding:
    """How a tensor of codes was rounded, exactly: what an agreement needs to derive its tolerance.

    The real value of element ``x`` is ``x * ratio[c] + bias[c]`` in units of a code;
    ``reference_error`` bounds, per channel, what float32 does to it in the QONNX model. Of a
    LeakyReLU a negative one is multiplied by ``slope``, and rounded by ``below``.
    """

    source: str
    ratio: np.ndarray
    bias: np.ndarray
    low: int
    high: int
    rescaling: Rescaling
    reference_error: np.ndarray
    slope: float = 1.0
    below: Rescaling | None = None


@dataclass(frozen=True)
class Mapping:
    """A hardware tensor of codes and the QONNX tensor that holds the same codes times ``scale``.

    ``kind`` says how they are compared: ``rounded`` (see :class:`Rounding`), ``table`` (the real
    values of its entries are in ``table_values``, in units of a code), ``exact`` or ``scan``.
    """

    tensor: str
    origin: str
    scale: float
    layout: np.ndarray
    kind: str
    rounding: Rounding | None = None
    table_values: np.ndarray | None = None


@dataclass
class HardwareGraph:
    """The graph while it is built.

    ``shapes`` and ``dtypes`` are of the streamed tensors, ``constants`` the initializers,
    ``origins`` the QONNX node of each hardware node, by the node's first output.
    """

    nodes: list[Any] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    constant_types: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    mappings: list[Mapping] = field(default_factory=list)
    _names: Counter[str] = field(default_factory=Counter)
    _reshaped: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    current: str = ""

    def name(self, hint: str) -> str:
        """Return a new tensor name that starts with ``hint``."""
        self._names[hint] += 1
        count = self._names[hint]
        return hint if count == 1 else f"{hint}_{count}"

    def constant(self, hint: str, values: np.ndarray, dtype: str) -> str:
        """Add an initializer of integer type ``dtype`` and return its name."""
        name = self.name(hint)
        self.constants[name] = values
        self.constant_types[name] = dtype
        return name

    def emit(
        self,
        op_type: str,
        inputs: list[str],
        shape: tuple[int, ...],
        dtype: str,
        hint: str,
        /,
        **attributes: Any,
    ) -> str:
        """Add a hardware node with one output and return the output tensor's name."""
        from onnx import helper

        output = self.name(hint)
        node = helper.make_node(
            op_type, inputs, [output], domain=DOMAIN, backend="fpgadataflow", **attributes
        )
        self.nodes.append(node)
        self.shapes[output], self.dtypes[output] = tuple(shape), dtype
        self.origins[output] = self.current
        return output

    def streamed_as(self, value: Value, stream: tuple[int, int, int, int]) -> str:
        """Return the value's tensor in another shape, through a Reshape where it differs."""
        if value.stream == stream:
            return value.tensor
        key = (value.tensor, stream)
        if key not in self._reshaped:
            dtype = self.dtypes[value.tensor]
            self._reshaped[key] = self.emit(
                "Reshape", [value.tensor], stream, dtype, f"{value.tensor}_reshaped",
                inp_shape=list(value.stream), out_shape=list(stream), dtype=dtype, PE=1,
            )  # fmt: skip
        return self._reshaped[key]

    def as_map(self, value: V, user: str) -> V:
        """Return the value as a map ``(1, C, H, W)`` whose stream is ``(1, H, W, C)``.

        Raises:
            UserError: where the stream is not in that order.
        """
        if len(value.shape) == 4 and value.shape[0] == 1:
            _, channels, height, width = value.shape
            stream = (1, height, width, channels)
            # accumulators have constants of the channels that they were made with
            whole = isinstance(value, Codes) or value.stream[3] == channels
            if whole and np.array_equal(value.layout, map_layout(stream)):
                tensor = self.streamed_as(value, stream)
                return dataclasses.replace(value, tensor=tensor, stream=stream)
            if whole and _are_blocks(value, stream):
                tensor = self._as_blocks(value, stream)
                layout = map_layout(stream)
                return dataclasses.replace(value, tensor=tensor, stream=stream, layout=layout)
        raise UserError(
            f"{user}: its input {value.origin} of shape {value.shape} is not streamed pixel by "
            "pixel with the channels innermost; a hardware node would have to reorder it"
        )

    def _as_blocks(self, value: Value, stream: Stream) -> str:
        """Return the tensor of a map whose blocks of pixels are the channels of the stream."""
        key = (value.tensor, stream)
        if key not in self._reshaped:
            dtype = self.dtypes[value.tensor]
            (_, height, width, _), (_, tall, wide, channels) = value.stream, stream
            tensor = self._reshaped[key] = self.emit(
                "DepthToSpace", [value.tensor], stream, dtype, f"{value.tensor}_blocks",
                ImgDim=[height, width], Factors=[tall // height, wide // width],
                NumChannels=channels, PE=1, inputDataType=dtype,
            )  # fmt: skip
            # the same codes of the QONNX model, elsewhere in the stream
            moved = np.empty(value.layout.size, np.int64)
            moved[value.layout.ravel()] = map_layout(stream).ravel()
            self.mappings += [
                Mapping(tensor, m.origin, m.scale, moved[m.layout], "exact")
                for m in self.mappings
                if m.tensor == value.tensor
            ]
        return self._reshaped[key]

    def as_tokens(self, value: V, user: str) -> V:
        """Return the value ``(1, L, C)`` with stream ``(1, 1, L, C)``; raises where it is not."""
        if len(value.shape) == 3 and value.shape[0] == 1:
            _, length, channels = value.shape
            if np.array_equal(value.layout.ravel(), np.arange(value.layout.size)):
                stream = (1, 1, length, channels)
                tensor = self.streamed_as(value, stream)
                return dataclasses.replace(value, tensor=tensor, stream=stream)
        raise UserError(
            f"{user}: its input {value.origin} of shape {value.shape} is not streamed token by "
            "token with the channels innermost; a hardware node would have to reorder it"
        )

    def record(self, value: Codes, kind: str, **details: Any) -> Codes:
        """Remember which QONNX tensor the codes stand for, for the agreement."""
        self.mappings.append(
            Mapping(value.tensor, value.origin, value.scale, value.layout, kind, **details)
        )
        return value


def _are_blocks(value: Value, stream: Stream) -> bool:
    """Return whether each pixel's channels are a block of the map, rows before columns.

    A block of one row is in the map's order as it is.
    """
    (_, height, width, _), (_, tall, wide, channels) = value.stream, stream
    if tall <= height or tall % height or wide % width:
        return False
    shape = (height, width, tall // height, wide // width, channels)
    blocks = np.arange(value.layout.size).reshape(shape).transpose(4, 0, 2, 1, 3)
    return np.array_equal(value.layout, blocks.reshape(1, channels, tall, wide))
