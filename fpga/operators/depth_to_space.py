"""DepthToSpace: each pixel's channels become a block of pixels, through a memory of about a row.

Behind the 1x1 convolution that a transposed one with a kernel as large as its stride is, this puts
its outputs where they belong (Shi et al., arXiv 1609.05158). The channels come in the order row of
the block, column, channel, so that a row of the block is a stretch of the stream; a block of one
row needs no hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.common import ENABLE_BITS, REGISTER, count_bits, register, stream
from lmaunet.fpga.operators.operator import FinnAttributes, Folding, Operator, Rows
from lmaunet.fpga.operators.rtl_module import RtlModule

# Beats of a pixel's row and these are room in each region, as in depth_to_space.sv.
SPARE_BEATS = 4


class DepthToSpace(Operator):
    """``(n, H, W, fh * fw * C)`` to ``(n, H * fh, W * fw, C)``; one beat a cycle.

    ``ImgDim`` is ``(H, W)``, ``Factors`` is ``(fh, fw)``, fh 2 or more; ``NumChannels`` is C, and
    channel ``(i * fw + j) * C + c`` is row i and column j of the block in channel c. For blocks of
    two rows the memory holds three quarters of an input row: a row of the output, and the half of
    one that comes while it is put out.
    """

    finn_attributes: ClassVar[FinnAttributes] = {
        "ImgDim": ("ints", True, []),
        "Factors": ("ints", True, []),
        "NumChannels": ("i", True, 0),
        "PE": ("i", False, 1),
        "inputDataType": ("s", True, ""),
    }

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the map of the blocks."""
        x, (height, width), (tall, wide) = inputs[0], *self._sizes()
        blocks = x.reshape(len(x), height, width, tall, wide, -1)
        return blocks.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), height * tall, width * wide, -1)

    def golden(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the map of the blocks, pixel of a block by pixel."""
        x, (height, width), (tall, wide) = inputs[0], *self._sizes()
        channels = self.channels()
        y = np.zeros((len(x), height * tall, width * wide, channels), x.dtype)
        for row in range(tall):
            for column in range(wide):
                start = (row * wide + column) * channels
                y[:, row::tall, column::wide] = x[..., start : start + channels]
        return y

    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        (height, width), (tall, wide) = self.attributes["ImgDim"], self.attributes["Factors"]
        return (height, width), (tall, wide)

    def foldings(self) -> Iterator[Folding]:
        """Yield as many lanes as divide the channels, of words whose enable reaches all bits."""
        bits = type_bits(self.attributes["inputDataType"])
        for folding in super().foldings():
            if folding["PE"] * bits <= ENABLE_BITS or folding["PE"] == 1:
                yield folding

    def cycles(self) -> int:
        """Return a cycle for each beat."""
        a = self.attributes
        return math.prod((*a["ImgDim"], *a["Factors"])) * (a["NumChannels"] // a["PE"])

    def rows(self) -> Rows:
        """Return that each input row serves the rows of its blocks."""
        return Rows("repeat", self.attributes["Factors"][0])

    def shape(self, index: int, *, output: bool) -> tuple[int, ...]:
        """Return the shape of the map of the blocks, or of what it is made of."""
        (height, width), (tall, wide) = self._sizes()
        if output:
            return (1, height * tall, width * wide, self.channels())
        return (1, height, width, tall * wide * self.channels())

    def _beats(self) -> int:
        """Return the beats of one row of a pixel's block."""
        a = self.attributes
        return int(a["Factors"][1] * (a["NumChannels"] // a["PE"]))

    def depth(self) -> int:
        """Return the words of the memory: the regions of depth_to_space.sv."""
        (_, width), (tall, _) = self._sizes()
        row = width * self._beats()
        waiting = [row * (tall - 1), *(row * (tall + i - 1) for i in range(1, tall))]
        return sum(math.ceil(beats / tall) for beats in waiting) + tall * (
            self._beats() + SPARE_BEATS
        )

    def resources(self) -> Resources:
        """The memory; of each region two addresses and a count; two counters.

        *yosys*, PE 1 to 32, blocks of 2 to 4 rows: within 9 LUTs and 5 flip-flops.
        """
        (_, width), (tall, _) = self._sizes()
        bits, end = self.stream_bits(0, output=False), register(self.stream_bits(0, output=True))
        address = count_bits(self.depth())
        counters = count_bits(self._beats()) + count_bits(width * self._beats())
        memory = Memory("rows", bits, self.depth(), decided=True)
        return Resources(
            end.lut + 4 * tall * address + counters + 8, 0, (memory,),
            end.ff + 3 * tall * address + counters + 7,
        )  # fmt: skip

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL.

        Raises:
            UserError: where PE does not divide the channels or a block has one row.
        """
        a = self.attributes
        self.check()
        (height, width), (tall, wide) = self._sizes()
        if min(height, width, wide) < 1 or tall < 2:
            raise UserError(
                f"DepthToSpace: blocks of {tall} x {wide} pixels on a map of {height} x {width}, "
                "expected two rows or more, whose pixels are elsewhere than they come"
            )
        port = stream("in0_V", a["inputDataType"], a["PE"])
        return RtlModule(
            "depth_to_space",
            (REGISTER, "wrap_counter.sv", "depth_to_space.sv"),
            {
                "BITS": port.bits,
                "BEATS": self._beats(),
                "WIDTH": width,
                "FACTOR": tall,
                "SPARE": self._beats() + SPARE_BEATS,
            },
            (port,),
            (stream("out0_V", a["inputDataType"], a["PE"]),),
        )
