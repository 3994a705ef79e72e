"""SelectiveScan: Mamba's recurrence as one streaming operator, the states on chip.

The arithmetic is :class:`lmaunet.scan.integer.IntegerScan`, which this node calls; the operator
adds the streams, the folding, the cycles and the resources.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
from qonnx.core.datatype import DataType

from fpga.operators.arithmetic import check_divides
from fpga.operators.resources import Resources, estimate
from fpga.operators.scan_node import integer_scan, legal_lanes, scan_cycles
from fpga.toolchain.ops.streaming import OwnRTL
from lmaunet.errors import UserError
from lmaunet.spec import ScanSpec


class SelectiveScan(HWCustomOp):
    """Streams x, dt ``(1, 1, L, D)`` and B, C ``(1, 1, L, N)`` in, y ``(1, 1, L, D)`` out, INT8.

    Constants: A ``(D, N)`` and D ``(D,)``, float64; their fixed-point forms and every cut follow
    from ``Spec`` (a ScanSpec as JSON) and ``Scales`` (x, dt, B, C, y). A channel's ``state_shift``
    is applied twice a token, to delta * x before it is rounded and to the sum over the states: two
    shifters for each of the PD channels, none for a lane.

    Folding: PD channels and PN states a cycle, so PD * PN lanes. The state returns after 6 cycles,
    so one lane needs ``(D / PD) * (N / PN) >= 6`` states to go round.
    Cycles: one image each ``L * (D / PD) * (N / PN)``. The first one's last output comes
    :func:`fpga.operators.scan_node.scan_latency` later than that.
    """

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the attributes with their types and defaults."""
        return super().get_nodeattr_types() | {
            "NumChannels": ("i", True, 0),
            "States": ("i", True, 0),
            "Length": ("i", True, 0),
            "PD": ("i", False, 1),
            "PN": ("i", False, 1),
            "inputDataType": ("s", True, "INT8"),
            "outputDataType": ("s", True, "INT8"),
            "Spec": ("s", True, ""),
            "Scales": ("floats", True, []),
            "StateBits": ("i", True, 0),
            "ABits": ("i", True, 0),
            "DeltaBits": ("i", True, 0),
            "DBits": ("i", True, 0),
            "inFIFODepths": ("ints", False, [2, 2, 2, 2]),
        }

    def verify_node(self) -> list[str]:
        """Check the folding; raises :class:`UserError` where it is not legal."""
        channels, states = self.get_nodeattr("NumChannels"), self.get_nodeattr("States")
        pd, pn = self.get_nodeattr("PD"), self.get_nodeattr("PN")
        check_divides("PD", pd, "channels", channels)
        check_divides("PN", pn, "states", states)
        if not legal_lanes(channels, states, pd, pn):
            raise UserError(
                f"PD={pd}, PN={pn}: {channels * states // (pd * pn)} states for each lane, "
                "expected 6 or more (a state returns after 6 cycles); use fewer lanes"
            )
        return [f"{self.onnx_node.name}: folding is legal"]

    def scan_spec(self) -> ScanSpec:
        """Return the number formats."""
        return ScanSpec.from_json(json.loads(self.get_nodeattr("Spec")))

    def get_input_datatype(self, ind: int = 0) -> Any:
        """Return the type of a stream."""
        return DataType[self.get_nodeattr("inputDataType")]

    def get_output_datatype(self, ind: int = 0) -> Any:
        """Return the type of the output stream."""
        return DataType[self.get_nodeattr("outputDataType")]

    def _width_of(self, ind: int) -> int:
        return self.get_nodeattr("NumChannels" if ind < 2 else "States")

    def _fold_of(self, ind: int) -> int:
        return self.get_nodeattr("PD" if ind < 2 else "PN")

    def get_normal_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, 1, L, D)`` for x and dt, ``(1, 1, L, N)`` for B and C."""
        return (1, 1, self.get_nodeattr("Length"), self._width_of(ind))

    def get_normal_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, 1, L, D)``."""
        return self.get_normal_input_shape(0)

    def get_folded_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return the shape with channels split by PD and states by PN."""
        self.verify_node()
        *rest, width = self.get_normal_input_shape(ind)
        return (*rest, width // self._fold_of(ind), self._fold_of(ind))

    def get_folded_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, 1, L, D / PD, PD)``."""
        return self.get_folded_input_shape(0)

    def get_instream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of x, dt, B or C; constants are not streamed."""
        return self.get_input_datatype().bitwidth() * self._fold_of(ind) if ind < 4 else 0

    def get_outstream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of y."""
        return self.get_output_datatype().bitwidth() * self.get_nodeattr("PD")

    def infer_node_datatype(self, model: Any) -> None:
        """Set the output tensor's type from the attribute."""
        model.set_tensor_datatype(self.onnx_node.output[0], self.get_output_datatype())

    def get_exp_cycles(self) -> int:
        """Return the cycles of one image in steady state."""
        self.verify_node()
        sizes = ("NumChannels", "States", "Length", "PD", "PN")
        return scan_cycles(*(self.get_nodeattr(name) for name in sizes))

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Run the integer golden on the streams' codes."""
        x, dt, b, c, rates, skip = (context[name] for name in self.onnx_node.input)
        scan = integer_scan(self.get_nodeattr("Spec"), self.get_nodeattr("Scales"), rates, skip)
        y = scan.run(*(v.reshape(1, *v.shape[-2:]).astype(np.int64) for v in (x, dt, b, c)))
        context[self.onnx_node.output[0]] = y.y.reshape(x.shape).astype(np.float32)

    def resources(self) -> Resources:
        """Return the estimate of :mod:`fpga.operators.resources` for this node."""
        attributes = {name: self.get_nodeattr(name) for name in self.get_nodeattr_types()}
        return estimate("SelectiveScan", attributes)

    def lut_estimation(self, fpgapart: str) -> int:
        """Return the estimated LUTs, fitted to yosys."""
        return self.resources().lut

    def dsp_estimation(self, fpgapart: str) -> int:
        """Return the DSPs: 5 a lane and 3 a channel, as yosys has them."""
        return self.resources().dsp

    def bram_estimation(self, fpgapart: str) -> int:
        """Return 18 kbit block RAMs where every memory that is no LUTRAM is one."""
        return sum(m.bram18 for m in self.resources().memories if not m.distributed)

    def get_op_and_param_counts(self) -> dict[str, int]:
        """Return the state updates of an image and the parameters by width."""
        channels, states = self.get_nodeattr("NumChannels"), self.get_nodeattr("States")
        return {
            "op_state_update": self.get_nodeattr("Length") * channels * states,
            f"param_A_{self.get_nodeattr('ABits')}b": channels * states,
            f"param_D_{self.get_nodeattr('DBits')}b": channels,
        }


class SelectiveScan_rtl(SelectiveScan, OwnRTL):  # noqa: N801
    """The mapped form of :class:`SelectiveScan`."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the operator's attributes and those of an RTL backend."""
        return OwnRTL.get_nodeattr_types(self) | SelectiveScan.get_nodeattr_types(self)

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Run the integer golden; there is no RTL to simulate."""
        SelectiveScan.execute_node(self, context, graph)
