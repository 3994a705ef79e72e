"""TableActivation: any function of one 8-bit code, as a table of 256 codes for all channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpga.operators.arithmetic import look_up
from fpga.toolchain.ops.streaming import OwnRTL, StreamingOp


class TableActivation(StreamingOp):
    """``y = table[x - Low]``: SiLU and every change of scale between two quantized tensors.

    Inputs: the stream ``(*numInputVectors, NumChannels)``; the table, int64 ``(entries,)`` from
    the smallest code ``Low`` upwards. There is one copy of the table per PE.
    """

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the attributes: Low is the code of the table's first entry."""
        return super().get_nodeattr_types() | {
            "Low": ("i", True, 0),
            "Entries": ("i", True, 256),
        }

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Look every value up."""
        x, table = (context[name] for name in self.onnx_node.input)
        y = look_up(x, table, self.get_nodeattr("Low"))
        context[self.onnx_node.output[0]] = y.astype(np.float32)

    def get_op_and_param_counts(self) -> dict[str, int]:
        """Return the look-ups of an image and the table's entries."""
        bits = self.get_output_datatype().bitwidth()
        return {
            "op_lookup": int(np.prod(self.get_normal_output_shape())),
            f"param_table_{bits}b": self.get_nodeattr("Entries"),
        }


class TableActivation_rtl(TableActivation, OwnRTL):  # noqa: N801
    """The mapped form of :class:`TableActivation`."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the operator's attributes and those of an RTL backend."""
        return TableActivation.get_nodeattr_types(self) | OwnRTL.get_nodeattr_types(self)

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Look every value up; its RTL is simulated outside of FINN+."""
        TableActivation.execute_node(self, context, graph)
