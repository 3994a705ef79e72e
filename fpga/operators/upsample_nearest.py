"""UpsampleNearestNeighbour: repeats pixels and rows out of a ring of about a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.common import REGISTER, count_bits, register, stream
from lmaunet.fpga.operators.operator import Operator, Rows
from lmaunet.fpga.operators.rtl_module import RtlModule

# Words above a row, so that reading, freeing and filling again do not wait for each other.
SPARE_WORDS = 4


class UpsampleNearestNeighbour(Operator):
    """``(n, HI, WI, C)`` to ``(n, HO, WO, C)`` by whole factors; one output beat a cycle."""

    folded_by = ("SIMD",)

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return each pixel as often as the factors say."""
        a = self.attributes
        return inputs[0].repeat(a["HO"] // a["HI"], 1).repeat(a["WO"] // a["WI"], 2)

    def cycles(self) -> int:
        """Return a cycle for each beat that is put out."""
        a = self.attributes
        return a["HO"] * a["WO"] * (a["NumChannels"] // a["SIMD"])

    def rows(self) -> Rows:
        """Return that each input row serves a factor of output rows."""
        return Rows("repeat", self.attributes["HO"] // self.attributes["HI"])

    def resources(self) -> Resources:
        """A row of the input, its six addresses and counts, four more counters (*yosys*, 16-32)."""
        a, bits = self.attributes, self.stream_bits(0, output=False)
        depth = a["WI"] * a["NumChannels"] // a["SIMD"]
        end, address = register(bits), count_bits(depth + 4)
        row = Memory("row", bits, depth, decided=True)
        return Resources(end.lut + 8 * address, 0, (row,), end.ff + 6 * address + 15)

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL.

        Raises:
            UserError: where SIMD does not divide the channels or a factor is not whole.
        """
        a = self.attributes
        self.check()
        height, width, out_height, out_width = (a[name] for name in ("HI", "WI", "HO", "WO"))
        if out_height < height or out_width < width or out_height % height or out_width % width:
            raise UserError(
                f"UpsampleNearestNeighbour: {height} x {width} to {out_height} x {out_width}, "
                "expected whole factors"
            )
        beats = a["NumChannels"] // a["SIMD"]
        port = stream("in0_V", a["inputDataType"], a["SIMD"])
        return RtlModule(
            "upsample_nearest",
            (REGISTER, "upsample_nearest.sv"),
            {
                "BITS": port.bits,
                "BEATS": beats,
                "WIDTH": width,
                "FACTOR_H": out_height // height,
                "FACTOR_W": out_width // width,
                "DEPTH": width * beats + SPARE_WORDS,
            },
            (port,),
            (stream("out0_V", a["inputDataType"], a["SIMD"]),),
        )
