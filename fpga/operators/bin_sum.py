"""BinSum: the sums of the codes of bins that divide a map, in the order in which they are complete.

An average over bins is these sums with a scale that is smaller by the bin's pixels; so nothing is
rounded here, and the quantizer behind rounds as it does behind a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import integer_bits, type_bits, type_range
from lmaunet.fpga.operators.common import count_bits, is_signed, stream
from lmaunet.fpga.operators.operator import FinnAttributes, Operator, Rows
from lmaunet.fpga.operators.rtl_module import RtlModule

SOURCES = ("wrap_counter.sv", "window_queue.sv", "window_taps.sv", "bin_sum.sv")
# Bits of sums that are chosen, written and put out together, as in bin_sum.sv.
GROUP_LOADS = 200


def sum_type(dtype: str, pixels: int) -> str:
    """Return the integer type that holds the sum of so many codes of a type, such as ``INT10``."""
    low, high = type_range(dtype)
    return f"INT{integer_bits(pixels * low, pixels * high)}"


class BinSum(Operator):
    """``(n, H, W, C)`` to ``(n, H / bin_h, W / bin_w, C)``: sums, int64; one input beat a cycle.

    ``ImgDim`` is ``(H, W)``, ``Bin`` is ``(bin_h, bin_w)``. A row of bins comes out with the last
    row of its pixels, each bin with its last pixel. FINN+ sums windows, so that all rows of a bin
    would be stored, or the whole map (GlobalAccPool).
    """

    finn_attributes: ClassVar[FinnAttributes] = {
        "ImgDim": ("ints", True, []),
        "Bin": ("ints", True, []),
        "NumChannels": ("i", True, 0),
        "PE": ("i", False, 1),
        "inputDataType": ("s", True, ""),
        "outputDataType": ("s", True, ""),
    }

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the sums."""
        x, (height, width) = inputs[0].astype(np.int64), self.attributes["Bin"]
        rows, columns = self._bins()
        return x.reshape(len(x), rows, height, columns, width, -1).sum((2, 4))

    def golden(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the sums, pixel of a bin by pixel."""
        x, (height, width) = inputs[0].astype(np.int64), self.attributes["Bin"]
        total = np.zeros((len(x), *self._bins(), x.shape[-1]), np.int64)
        for row in range(height):
            for column in range(width):
                total += x[:, row::height, column::width]
        return total

    def _bins(self) -> tuple[int, int]:
        (height, width), (bin_h, bin_w) = self.attributes["ImgDim"], self.attributes["Bin"]
        return height // bin_h, width // bin_w

    def cycles(self) -> int:
        """Return a cycle for each beat that comes in."""
        a = self.attributes
        return math.prod(a["ImgDim"]) * (a["NumChannels"] // a["PE"])

    def rows(self) -> Rows:
        """Return that a row of bins needs its own rows and works while they come."""
        return Rows("bins", *self.attributes["Bin"])

    def map_size(self, shape: Sequence[int]) -> int:
        """Return the pixels that are summed."""
        return math.prod(self.attributes["ImgDim"])

    def shape(self, index: int, *, output: bool) -> tuple[int, ...]:
        """Return the map's shape, or that of its bins."""
        size = self._bins() if output else tuple(self.attributes["ImgDim"])
        return (1, *size, self.channels())

    def resources(self) -> Resources:
        """A memory for each group of lanes, or registers for a word; the queue (*rtl*); the rest.

        *yosys*, PE 1 to 48, sums of 10 to 16 bits: 2 LUTs and 3 flip-flops a bit of sums, and what
        the addresses and counters take; within 8 LUTs and 6 flip-flops.
        """
        a, bits, lane = self.attributes, *self._sum_bits()
        folds, columns = a["NumChannels"] // a["PE"], self._bins()[1]
        lanes, words = max(1, GROUP_LOADS // lane), columns * folds
        groups = [min(lanes, a["PE"] - start) * lane for start in range(0, a["PE"], lanes)]
        memories = tuple(Memory("sums", group, words, decided=True) for group in groups)
        counters = sum(map(count_bits, (folds, a["Bin"][1], columns, a["Bin"][0])))
        address = max(1, count_bits(words))
        held = 2 * bits if words == 1 else 0
        return Resources(
            8 * math.ceil(bits / 14) + 2 * bits + 32 + 6 * address, 0,
            memories if words > 1 else (),
            3 * bits + held + 2 * self.stream_bits(0, output=False) + 40
            + (4 + len(groups)) * address + counters,
        )  # fmt: skip

    def _sum_bits(self) -> tuple[int, int]:
        """Return the bits of the sums of a beat, and of one."""
        return self.stream_bits(0, output=True), type_bits(self.attributes["outputDataType"])

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL.

        Raises:
            UserError: where PE does not divide the channels, the bins do not divide the map, or the
                output's type does not hold every sum.
        """
        a = self.attributes
        self.check()
        (height, width), (bin_h, bin_w) = a["ImgDim"], a["Bin"]
        if min(bin_h, bin_w) < 1 or height % bin_h or width % bin_w:
            raise UserError(
                f"BinSum: bins of {bin_h} x {bin_w} pixels on a map of {height} x {width}, "
                "expected bins that divide it"
            )
        needed, dtype = sum_type(a["inputDataType"], bin_h * bin_w), a["outputDataType"]
        if not is_signed(dtype) or type_bits(dtype) < type_bits(needed):
            raise UserError(
                f"BinSum: sums of {bin_h * bin_w} codes of {a['inputDataType']} as {dtype}, "
                f"expected {needed} or more bits"
            )
        return RtlModule(
            "bin_sum",
            SOURCES,
            {
                "PE": a["PE"],
                "BITS": type_bits(a["inputDataType"]),
                "SIGNED": is_signed(a["inputDataType"]),
                "SUM_BITS": type_bits(dtype),
                "BEATS": a["NumChannels"] // a["PE"],
                "BIN_H": bin_h,
                "BIN_W": bin_w,
                "BINS": width // bin_w,
            },
            (stream("in0_V", a["inputDataType"], a["PE"]),),
            (stream("out0_V", dtype, a["PE"]),),
        )
