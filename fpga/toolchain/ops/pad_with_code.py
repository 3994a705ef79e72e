"""PadWithCode: a border of one given code around a map.

FINN+'s FMPadding pads with zero. A max pooling of signed codes needs the smallest code instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from finn.custom_op.fpgadataflow.fmpadding import FMPadding

from fpga.operators.arithmetic import check_divides
from fpga.operators.resources import estimate
from fpga.toolchain.ops.streaming import OwnRTL


class PadWithCode(FMPadding):
    """``(1, H, W, C)`` to ``(1, H + top + bottom, W + left + right, C)``, filled with ``Code``.

    Attributes are FMPadding's (ImgDim, Padding as top, left, bottom, right, NumChannels, SIMD)
    and ``Code``. One beat of SIMD channels a cycle.
    """

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return FMPadding's attributes and Code."""
        return super().get_nodeattr_types() | {"Code": ("i", True, 0)}

    def verify_node(self) -> list[str]:
        """Check the folding; raises :class:`UserError` where SIMD does not divide the channels."""
        channels = self.get_nodeattr("NumChannels")
        check_divides("SIMD", self.get_nodeattr("SIMD"), "channels", channels)
        return [f"{self.onnx_node.name}: folding is legal"]

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Pad the map."""
        top, left, bottom, right = self.get_nodeattr("Padding")
        border = ((0, 0), (top, bottom), (left, right), (0, 0))
        code = self.get_nodeattr("Code")
        y = np.pad(context[self.onnx_node.input[0]], border, constant_values=code)
        context[self.onnx_node.output[0]] = y.astype(np.float32)

    def lut_estimation(self, fpgapart: str) -> int:
        """Return the estimated LUTs; see :mod:`fpga.operators.resources`."""
        attributes = {name: self.get_nodeattr(name) for name in self.get_nodeattr_types()}
        return estimate("PadWithCode", attributes).lut


class PadWithCode_rtl(PadWithCode, OwnRTL):  # noqa: N801
    """The mapped form of :class:`PadWithCode`."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the operator's attributes and those of an RTL backend."""
        return PadWithCode.get_nodeattr_types(self) | OwnRTL.get_nodeattr_types(self)

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Pad the map; its RTL is simulated outside of FINN+."""
        PadWithCode.execute_node(self, context, graph)
