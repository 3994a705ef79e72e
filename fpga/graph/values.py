"""What a QONNX tensor is while it is lowered: integer codes, accumulators, or a pending function.

Every value carries ``layout``, an integer array of the ONNX tensor's shape that holds, for each
element, its place in the hardware stream. A Reshape or Transpose acts on ``layout`` alone, and an
operator proves that the order it needs is the stream's order. That is how the transposes between
``(1, C, H, W)``, ``(1, C, 1, L)`` and ``(1, L, C)`` are dropped without a guess.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from lmaunet.spec import ScanSpec


@dataclass(frozen=True)
class Value:
    """A tensor of the hardware graph, seen through the ONNX tensor it stands for.

    Args:
        tensor: the hardware tensor's name, of shape ``stream``.
        stream: ``(1, H, W, C)``, streamed pixel by pixel in raster order, channels innermost.
        layout: the ONNX tensor's elements as places in the stream.
        origin: the QONNX tensor that it stands for.
    """

    tensor: str
    stream: tuple[int, int, int, int]
    layout: np.ndarray
    origin: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The ONNX tensor's shape."""
        return tuple(self.layout.shape)

    def renamed(self, origin: str) -> Value:
        """Return the same tensor under another QONNX name."""
        return dataclasses.replace(self, origin=origin)


@dataclass(frozen=True)
class Codes(Value):
    """Integer codes of type ``dtype`` within ``low..high``; the real value is code * ``scale``."""

    dtype: str
    low: int
    high: int
    scale: float


@dataclass(frozen=True)
class Function(Value):
    """A pointwise function of codes that the next quantization turns into a table.

    ``values`` holds the real result for each code of ``codes`` from its lowest, float64.
    """

    codes: Codes
    values: np.ndarray


@dataclass(frozen=True)
class Accumulators(Value):
    """Integers of type ``dtype``; the real value is ``x * scale[c] + bias[c]``, then ReLU or not.

    A negative one is multiplied by ``slope``, which a LeakyReLU makes something else than 1.
    ``terms`` is how many products or codes were summed and ``magnitude`` bounds, per channel, the
    sum of their magnitudes; both are for the error of the floating-point reference. ``error``
    bounds by how much an integer differs from the exact sum, in its own unit.
    """

    dtype: str
    low: int
    high: int
    scale: np.ndarray
    bias: np.ndarray
    terms: int
    magnitude: np.ndarray
    relu: bool = False
    error: float = 0.0
    slope: float = 1.0


@dataclass(frozen=True)
class Joined(Value):
    """Functions of codes of several streams, one after the other along the channels.

    What the next quantizer makes tables of, one for each stream, before they are joined. ``tensor``
    is empty: there is none yet.
    """

    parts: tuple[Function, ...]


@dataclass(frozen=True)
class Padded(Value):
    """Codes with a border of zeros that a convolution must take: top, left, bottom, right."""

    codes: Codes
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class PendingScan(Value):
    """A selective scan whose output format comes with the quantization that follows.

    ``formats`` are the number formats that the file carries. Where it carries none, ``calibration``
    holds x, dt and B as seen on sample images, real, ``(n, L, channels)``.
    """

    x: Codes
    dt: Codes
    B: Codes
    C: Codes
    A: np.ndarray
    D: np.ndarray
    calibration: tuple[np.ndarray, ...]
    formats: ScanSpec | None = None


@dataclass(frozen=True)
class Weights:
    """A quantized constant: integer ``codes`` and ``scale`` that broadcasts over them."""

    codes: np.ndarray
    scale: np.ndarray
    bits: int


def map_layout(stream: tuple[int, int, int, int]) -> np.ndarray:
    """Return the layout of ``(1, C, H, W)`` for a stream ``(1, H, W, C)``."""
    return np.arange(np.prod(stream)).reshape(stream).transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class Quantizer:
    """A QONNX Quant node with zero point 0: codes ``low..high`` of one ``scale``."""

    scale: float
    dtype: str
    low: int
    high: int
