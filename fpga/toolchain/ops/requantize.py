"""Requantize: accumulators to 8-bit codes by an integer multiplication, an addition and a shift.

FINN+ has thresholds (255 comparisons per channel and value at 8 bits) and ``Requant``, whose
``execute_node`` is in floating point and rounds otherwise than its own fixed-point datapath.
This one is an integer formula, :func:`fpga.operators.arithmetic.requantize`, and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fpga.operators.arithmetic import Rescaling, requantize
from fpga.toolchain.ops.streaming import OwnRTL, StreamingOp


class Requantize(StreamingOp):
    """``y = clip((x * multiplier + offset) >> shift, Low, High)``, rounding half up.

    Inputs: the stream ``(*numInputVectors, NumChannels)``; int64 constants multiplier, offset and
    shift, each ``(NumChannels,)``. The bias and a ReLU of the layer before are in ``offset`` and
    ``Low``. Against exact real rescaling a code differs by at most 1, and only where the real
    value is within :func:`fpga.operators.arithmetic.rescaling_error` of a half.
    """

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the attributes: Low and High clip; IsShift says that no multiplier is needed."""
        return super().get_nodeattr_types() | {
            "Low": ("i", True, 0),
            "High": ("i", True, 0),
            "IsShift": ("i", False, 0, {0, 1}),
        }

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Compute the output's integers."""
        x, multiplier, offset, shift = (context[name] for name in self.onnx_node.input)
        y = requantize(
            x,
            Rescaling(multiplier.astype(np.int64), offset.astype(np.int64), shift.astype(np.int64)),
            self.get_nodeattr("Low"),
            self.get_nodeattr("High"),
        )
        context[self.onnx_node.output[0]] = y.astype(np.float32)

    def get_op_and_param_counts(self) -> dict[str, int]:
        """Return the multiplications of an image and the parameters by width."""
        values = int(np.prod(self.get_normal_output_shape()))
        channels = self.get_nodeattr("NumChannels")
        return {
            "op_mul_27bx18b": values,
            "param_multiplier_17b": channels,
            "param_offset_48b": channels,
            "param_shift_6b": channels,
        }


class Requantize_rtl(Requantize, OwnRTL):  # noqa: N801 (FINN+ finds the backend by the suffix)
    """The mapped form of :class:`Requantize`."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the operator's attributes and those of an RTL backend."""
        return Requantize.get_nodeattr_types(self) | OwnRTL.get_nodeattr_types(self)

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Compute the output's integers; its RTL is simulated outside of FINN+."""
        Requantize.execute_node(self, context, graph)
