"""What a hardware operator is: one class holds it whole, and everything else derives from it.

A subclass is a file of this folder, its SystemVerilog beside it. It says what its integers are,
which foldings are legal, what they cost in cycles and resources, how wide its streams are, and
which module it becomes. :mod:`lmaunet.fpga.operators.registry` finds it there.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import check_divides, legal_divisors, type_bits
from lmaunet.fpga.operators.rtl_module import RtlModule

Attributes = Mapping[str, Any]
Folding = dict[str, Any]
FinnAttributes = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Rows:
    """Which row of its input an output row needs last.

    ``border``: row ``r - first``, none for the first ``first`` rows. ``window``: row
    ``r * first + second - 1``. ``bins``: the last of its own ``first``, on which it works as they
    come; a bin is ``second`` pixels wide. ``repeat``: row ``r // first``. ``same``: row ``r``.
    """

    kind: Literal["same", "border", "window", "bins", "repeat"] = "same"
    first: int = 0
    second: int = 0


@dataclass(frozen=True)
class Constant:
    """A constant as the hardware holds it: integers of ``bits`` each."""

    name: str
    values: np.ndarray
    bits: int
    signed: bool


class Operator(abc.ABC):
    """A node's operator with its attributes; the class's name is the operator's.

    The attributes are those of the ONNX node, by FINN+'s names, with text as ``str``; a method
    needs only those that it reads. Tensors are ``(n, H, W, C)``, streamed pixel by pixel in raster
    order with the channels innermost.
    """

    folded_by: ClassVar[tuple[str, ...]] = ("PE",)
    """The attributes that a folding sets; the first is the lanes of a stream."""
    streams: ClassVar[int] = 1
    """The inputs that stream, of an operator that FINN+ does not have; constants follow them."""
    joins: ClassVar[bool] = False
    """Whether it waits for several inputs, so that one of them may have to wait in a FIFO."""
    moves_only: ClassVar[bool] = False
    """Whether it computes nothing: it may put out a border, or one of several inputs, early."""
    follows_window: ClassVar[bool] = False
    """Whether it is folded together with the window generator before it."""
    wide: ClassVar[bool] = False
    """Whether accumulators go in or come out, which only float64 holds exactly."""
    finn_attributes: ClassVar[FinnAttributes | None] = None
    """Of an operator that FINN+ does not have: its attributes, as qonnx declares them."""

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes

    @classmethod
    def name(cls) -> str:
        """Return the operator's name, without a backend's suffix."""
        return cls.__name__

    # arithmetic

    @abc.abstractmethod
    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the integers of every output.

        Args:
            inputs: streams ``(n, H, W, C)`` and then the constants, in the node's order.
        """

    def streamed(self, tensor: np.ndarray) -> np.ndarray:
        """Return an output's integers ``(n, H, W, C)`` in the order in which they are put out."""
        return tensor

    def inside(self, inputs: list[np.ndarray]) -> Mapping[str, tuple[np.ndarray, int]]:
        """Return integers that a simulation of the RTL shows beside its outputs, by what they are.

        Each ``(n, H, W, C)``, in the order and the lanes of the first output, with the bits of one.
        The RTL's instance shows them as a stream of its own; see ``fpga/simulation/streams.cpp``.
        """
        return {}

    def golden(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the integers by the plainest way there is; ``execute`` may be a faster one."""
        return self.execute(inputs)

    def stored(
        self, node: str, constants: Mapping[str, np.ndarray], types: Mapping[str, str]
    ) -> list[Constant]:
        """Return what the memories hold.

        Args:
            node: the node's name.
            constants: of the node, by name, in the order of its inputs.
            types: the integer type of each.
        """
        return [
            Constant(n, v.astype(np.int64), type_bits(types[n]), not types[n].startswith("U"))
            for n, v in constants.items()
        ]

    @classmethod
    def purpose(cls) -> str:
        """Return what its constants are, in the index of the memory image."""
        return cls.name()

    # folding

    def channels(self) -> int:
        """Return the channels that the lanes divide."""
        return int(self.attributes["NumChannels"])

    def foldings(self) -> Iterator[Folding]:
        """Yield every legal folding: as many lanes as divide the channels."""
        for lanes in legal_divisors(self.channels()):
            yield {self.folded_by[0]: lanes}

    def window_folding(self, folding: Folding) -> Folding:
        """Return the folding of the window generator before it that goes with one of its own."""
        return {"SIMD": folding[self.folded_by[0]]}

    def check(self) -> None:
        """Raise :class:`UserError` where the folding is not legal."""
        lanes = self.folded_by[0]
        check_divides(lanes, self.attributes[lanes], "channels", self.channels())

    @abc.abstractmethod
    def cycles(self) -> int:
        """Return the cycles of one image of many: the interval, as FINN+ counts it."""

    def late(self) -> int:
        """Return by how many cycles the outputs come after the interval, registers apart."""
        return 0

    def rows(self) -> Rows:
        """Return which input rows an output row needs."""
        return Rows()

    def map_size(self, shape: Sequence[int]) -> int:
        """Return the pixels of the map that it works on; ``shape``: its output, (1, H, W, C)."""
        return int(shape[1] * shape[2])

    # streams

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the integer type of an input or output stream, such as ``INT8``."""
        a = self.attributes
        return str(a["outputDataType" if output and "outputDataType" in a else "inputDataType"])

    def lanes(self, index: int, *, output: bool) -> int:
        """Return the values of a beat of an input or output stream."""
        return int(self.attributes[self.folded_by[0]])

    def stream_bits(self, index: int, *, output: bool) -> int:
        """Return the bits of a beat of an input or output stream."""
        return type_bits(self.dtype(index, output=output)) * self.lanes(index, output=output)

    def shape(self, index: int, *, output: bool) -> tuple[int, ...]:
        """Return a streamed tensor's shape for one image; asked of what FINN+ does not have."""
        return (*self.attributes["numInputVectors"], self.channels())

    # hardware

    @abc.abstractmethod
    def resources(self) -> Resources:
        """Return the estimated resources; the docstring says where each figure comes from.

        *yosys*: the form is that of the RTL, the constants fit what yosys counts for several sizes
        (``benchmarks/fpga_synthesis.py``; LUTs and flip-flops with filled DSPs). A ROM in LUTs is
        not taken from yosys, which takes one LUT a bit for 16 words but three for 64 and seventeen
        for 256, where the device needs one and four. *rtl*: read from the RTL. *architecture*: from
        the structure of the device (DSP48E2 27x18 with a 48-bit adder, six-input LUTs with F7 to F9
        multiplexers, 36 kbit block RAM, 72-bit by 4096 UltraRAM). *assumed*: to be replaced.
        FINN+'s own estimators are not used: its LUT count of an MVAU is always 0, its DSP count of
        one with 8-bit weights half of what its RTL has, and several operators inherit 0.
        """

    @abc.abstractmethod
    def module(self, constants: Sequence[np.ndarray]) -> RtlModule:
        """Return the RTL of a node with these constants.

        Raises:
            UserError: where the attributes or the constants are not legal.
        """

    def counts(self) -> dict[str, int]:
        """Return the operations of an image and the parameters, by FINN+'s kind of names."""
        return {}
