"""StreamingConcat: the channels of several streams one after the other, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import check_divides, legal_divisors
from lmaunet.fpga.operators.common import REGISTER, count_bits, register, stream
from lmaunet.fpga.operators.operator import Folding, Operator
from lmaunet.fpga.operators.rtl_module import RtlModule

BEATS_BITS = 16


class StreamingConcat(Operator):
    """``(n, H, W, C_0)``, ``(n, H, W, C_1)`` ... to ``(n, H, W, C_0 + C_1 + ...)``."""

    folded_by = ("SIMD",)
    joins = True
    moves_only = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the inputs' channels in their order."""
        return np.concatenate(inputs, -1)

    def foldings(self) -> Iterator[Folding]:
        """Yield as many lanes as divide the channels of every input."""
        for simd in legal_divisors(math.gcd(*self.attributes["ChannelsPerStream"])):
            yield {"SIMD": simd}

    def check(self) -> None:
        """Raise :class:`UserError` where SIMD does not divide an input's channels."""
        for i, count in enumerate(self.attributes["ChannelsPerStream"]):
            check_divides("SIMD", self.attributes["SIMD"], f"channels of input {i}", count)

    def cycles(self) -> int:
        """Return a cycle for each beat that is put out."""
        a = self.attributes
        return math.prod(a["numInputVectors"]) * (sum(a["ChannelsPerStream"]) // a["SIMD"])

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the type of all streams."""
        return str(self.attributes["inputDataTypes"][0])

    def resources(self) -> Resources:
        """The selection: a LUT for two bits of an input beyond the second (*yosys*, 2 and 4)."""
        inputs, bits = len(self.attributes["ChannelsPerStream"]), self.stream_bits(0, output=True)
        end = register(bits)
        chosen = 6 * inputs + bits * (inputs - 2) // 2
        return Resources(end.lut + chosen, 0, (), end.ff + 16 + count_bits(inputs))

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL.

        Raises:
            UserError: where SIMD does not divide an input's channels or the inputs' types differ.
        """
        simd, channels = self.attributes["SIMD"], list(self.attributes["ChannelsPerStream"])
        types = list(self.attributes["inputDataTypes"])
        self.check()
        if len(channels) < 2 or len(set(types)) > 1:
            raise UserError(f"StreamingConcat: inputs {types}, expected two or more of one type")
        beats = [count // simd for count in channels]
        if max(beats) >= 1 << BEATS_BITS:
            raise UserError(f"StreamingConcat: {max(beats)} beats a pixel, expected below 65536")
        port = stream("out0_V", types[0], simd)
        return RtlModule(
            "streaming_concat",
            (REGISTER, "streaming_concat.sv"),
            {
                "INPUTS": len(channels),
                "BITS": port.bits,
                "BEATS": sum(b << (BEATS_BITS * i) for i, b in enumerate(beats)),
            },
            tuple(stream(f"in{i}_V", types[0], simd) for i in range(len(channels))),
            (port,),
            bundled="in",
        )
