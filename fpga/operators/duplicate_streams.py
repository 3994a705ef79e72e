"""DuplicateStreams: one stream to several consumers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.common import REGISTER, register, require_positive, stream
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.rtl_module import RtlModule


class DuplicateStreams(Operator):
    """Every output is the input; one beat of PE channels a cycle."""

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the input, for each output."""
        return inputs[0]

    def cycles(self) -> int:
        """Return a cycle for each beat."""
        a = self.attributes
        return math.prod(a["numInputVectors"]) * (a["NumChannels"] // a["PE"])

    def resources(self) -> Resources:
        """A register, and which outputs have their word (*yosys*, 8 to 64 bits to two: exact)."""
        end, outputs = (
            register(self.stream_bits(0, output=False)),
            self.attributes["NumOutputStreams"],
        )
        return Resources(end.lut + 2 * outputs, 0, (), end.ff + outputs)

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the type of all streams."""
        return str(self.attributes["inputDataType"])

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL; raises :class:`UserError` for a bad PE or no output."""
        outputs = self.attributes["NumOutputStreams"]
        self.check()
        require_positive("DuplicateStreams", NumOutputStreams=outputs)
        dtype, pe = self.attributes["inputDataType"], self.attributes["PE"]
        port = stream("in0_V", dtype, pe)
        return RtlModule(
            "duplicate_streams",
            (REGISTER, "duplicate_streams.sv"),
            {"OUTPUTS": outputs, "BITS": port.bits},
            (port,),
            tuple(stream(f"out{i}_V", dtype, pe) for i in range(outputs)),
            bundled="out",
        )
