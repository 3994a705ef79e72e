"""Pool: the maximum of the taps that a depthwise window generator puts out.

That generator's order is (pixel, group of SIMD channels, row of the window, column, SIMD), and the
window's parallelism is the pool's PE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.common import REGISTER, is_signed, register, stream
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.rtl_module import RtlModule


class Pool(Operator):
    """Windows ``(n, H, W, taps * C)`` to ``(n, H, W, C)``; one beat of a window a cycle."""

    follows_window = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the largest of each channel's taps."""
        x = inputs[0]
        return x.reshape(*x.shape[:3], -1, self.attributes["Channels"]).max(3)

    def channels(self) -> int:
        """Return the channels."""
        return int(self.attributes["Channels"])

    def cycles(self) -> int:
        """Return a cycle for each beat of each window."""
        a = self.attributes
        taps = math.prod(a["KernelSize"])
        return math.prod(a["OutImgDims"]) * taps * (a["Channels"] // a["PE"])

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the type of both streams."""
        return str(self.attributes["InputDataType"])

    def resources(self) -> Resources:
        """A comparison, a selection and the best so far, 8 bits each (*yosys*, PE 1, 2 and 4)."""
        bits = self.stream_bits(0, output=False)
        end = register(bits)
        return Resources(end.lut + 8 + 17 * bits // 10, 0, (), end.ff + bits + 4)

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL; raises :class:`UserError` where it is no maximum."""
        a = self.attributes
        self.check()
        kinds = [a[name] for name in ("InputDataType", "OutputDataType")]
        if a["Function"] != "MaxPool" or kinds[0] != kinds[1]:
            raise UserError(
                f"Pool: {a['Function']} of {kinds[0]} to {kinds[1]}, expected MaxPool between "
                "equal types"
            )
        return RtlModule(
            "max_pool",
            (REGISTER, "max_pool.sv"),
            {
                "PE": a["PE"],
                "BITS": type_bits(kinds[0]),
                "SIGNED": is_signed(kinds[0]),
                "TAPS": math.prod(a["KernelSize"]),
            },
            (stream("in0_V", kinds[0], a["PE"]),),
            (stream("out0_V", kinds[0], a["PE"]),),
        )
