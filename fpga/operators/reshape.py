"""Reshape: the same stream under another shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.operators.common import register
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.rtl_module import RtlModule


class Reshape(Operator):
    """The order of the stream does not change, only its tensor's shape."""

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the tensor in its new shape."""
        return inputs[0].reshape(len(inputs[0]), *self.attributes["out_shape"][1:])

    def channels(self) -> int:
        """Return the channels that are put out."""
        return int(self.attributes["out_shape"][-1])

    def cycles(self) -> int:
        """Return a cycle for each beat."""
        return math.prod(self.attributes["out_shape"]) // self.attributes["PE"]

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the type of both streams."""
        return str(self.attributes["dtype"])

    def resources(self) -> Resources:
        """A register (*rtl*)."""
        return register(self.stream_bits(0, output=True))

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL: a queue of two words."""
        return fifo.module(fifo.layout(self.stream_bits(0, output=True), fifo.SHALLOW))
