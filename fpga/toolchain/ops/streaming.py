"""What the operators of our own share: one input stream, one output stream, PE channels a cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
from finn.custom_op.fpgadataflow.rtlbackend import RTLBackend
from qonnx.core.datatype import DataType

from fpga.operators.arithmetic import check_divides
from fpga.operators.registry import HARDWARE
from fpga.operators.resources import Resources, estimate
from fpga.operators.rtl_module import RTL_FOLDER, RtlModule, wrapper, write_memories
from lmaunet.errors import UserError

SOURCES = "sources.txt"


class StreamingOp(HWCustomOp):
    """An operator on a stream of vectors of ``NumChannels`` values, ``PE`` of them a cycle.

    Tensors are ``(*numInputVectors, NumChannels)``. Throughput: one beat of PE values a cycle.
    """

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the attributes with their types and defaults."""
        return super().get_nodeattr_types() | {
            "NumChannels": ("i", True, 0),
            "PE": ("i", False, 1),
            "numInputVectors": ("ints", True, [1]),
            "inputDataType": ("s", True, ""),
            "outputDataType": ("s", True, ""),
        }

    def verify_node(self) -> list[str]:
        """Check the folding; raises :class:`UserError` where PE does not divide the channels."""
        check_divides("PE", self.get_nodeattr("PE"), "channels", self.get_nodeattr("NumChannels"))
        return [f"{self.onnx_node.name}: folding is legal"]

    def get_input_datatype(self, ind: int = 0) -> Any:
        """Return the integer type of the input stream."""
        return DataType[self.get_nodeattr("inputDataType")]

    def get_output_datatype(self, ind: int = 0) -> Any:
        """Return the integer type of the output stream."""
        return DataType[self.get_nodeattr("outputDataType")]

    def get_normal_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(*numInputVectors, NumChannels)``."""
        return (*self.get_nodeattr("numInputVectors"), self.get_nodeattr("NumChannels"))

    def get_normal_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return the output's shape, which is the input's."""
        return self.get_normal_input_shape()

    def get_folded_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(*numInputVectors, NumChannels / PE, PE)``."""
        self.verify_node()
        *vectors, channels = self.get_normal_input_shape()
        pe = self.get_nodeattr("PE")
        return (*vectors, channels // pe, pe)

    def get_folded_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return the output's folded shape, which is the input's."""
        return self.get_folded_input_shape()

    def get_instream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of the input stream; constants are not streamed."""
        return self.get_input_datatype().bitwidth() * self.get_nodeattr("PE") if ind == 0 else 0

    def get_outstream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of the output stream."""
        return self.get_output_datatype().bitwidth() * self.get_nodeattr("PE")

    def infer_node_datatype(self, model: Any) -> None:
        """Set the output tensor's type from the attribute."""
        model.set_tensor_datatype(self.onnx_node.output[0], self.get_output_datatype())

    def get_exp_cycles(self) -> int:
        """Return the cycles of one image: one beat a cycle."""
        return int(np.prod(self.get_folded_output_shape()[:-1]))

    def resources(self) -> Resources:
        """Return the estimate of :mod:`fpga.operators.resources` for this node."""
        attributes = {name: self.get_nodeattr(name) for name in self.get_nodeattr_types()}
        return estimate(self.onnx_node.op_type, attributes)

    def lut_estimation(self, fpgapart: str) -> int:
        """Return the estimated LUTs; see :mod:`fpga.operators.resources` for their source."""
        return self.resources().lut

    def dsp_estimation(self, fpgapart: str) -> int:
        """Return the estimated DSPs; see :mod:`fpga.operators.resources` for their source."""
        return self.resources().dsp

    def bram_estimation(self, fpgapart: str) -> int:
        """Return 18 kbit block RAMs where every memory that is no LUTRAM is one."""
        return sum(m.bram18 for m in self.resources().memories if not m.distributed)

    def uram_estimation(self, fpgapart: str) -> int:
        """Return 0: this estimate puts memories into block RAM; the placement may move them."""
        return 0


class OwnRTL(RTLBackend):
    """The RTL side of an operator of our own: files from :mod:`fpga.operators`.

    An operator that is not in :data:`fpga.operators.registry.HARDWARE` can be mapped, so that
    the graph, its cycles and its arithmetic are complete; generating its HDL raises.
    """

    def _operator(self) -> str:
        name: str = self.onnx_node.op_type.removesuffix("_rtl")
        if name not in HARDWARE:
            raise UserError(
                f"{self.onnx_node.op_type} ({self.onnx_node.name}) has no RTL in this version: the "
                "hardware graph, its integer arithmetic and its estimates are complete, a "
                "bitstream cannot be made from it yet"
            )
        return name

    def rtl_module(self, model: Any) -> RtlModule:
        """Return the module with its parameters and memories, from attributes and initializers."""
        attributes = {name: self.get_nodeattr(name) for name in self.get_nodeattr_types()}
        found = [model.get_initializer(name) for name in self.onnx_node.input]
        constants = [values for values in found if values is not None]
        return HARDWARE[self._operator()](attributes, constants)

    def generate_hdl(self, model: Any, fpgapart: str, clk: float) -> None:
        """Write the memories and a wrapper without parameters into ``code_gen_dir_ipgen``.

        Raises:
            UserError: where the operator has no RTL or its attributes are not legal.
        """
        module = self.rtl_module(model)
        folder = Path(self.get_nodeattr("code_gen_dir_ipgen")).resolve()
        top = self.get_verilog_top_module_name()
        write_memories(module, folder)
        (folder / f"{top}.v").write_text(wrapper(module, top, str(folder)), encoding="utf-8")
        (folder / SOURCES).write_text(
            "".join(f"{source}\n" for source in module.sources), encoding="utf-8"
        )
        self.set_nodeattr("gen_top_module", top)
        self.set_nodeattr("ipgen_path", str(folder))
        self.set_nodeattr("ip_path", str(folder))

    def get_rtl_file_list(self, abspath: bool = False) -> list[str]:
        """Return the sources, which all nodes share, and the wrapper; after ``generate_hdl``."""
        operator, top = self._operator(), self.get_nodeattr("gen_top_module")
        folder = Path(self.get_nodeattr("code_gen_dir_ipgen")).resolve()
        if not top:
            raise UserError(f"{operator} ({self.onnx_node.name}): generate its HDL first")
        sources = [
            RTL_FOLDER / name for name in (folder / SOURCES).read_text(encoding="utf-8").split()
        ]
        paths = [*sources, folder / f"{top}.v"]
        return [str(path) if abspath else path.name for path in paths]

    def code_generation_ipi(self) -> list[str]:
        """Return the Tcl that adds the files and instantiates the wrapper."""
        files = [f"add_files -norecurse {path}" for path in self.get_rtl_file_list(abspath=True)]
        top = self.get_nodeattr("gen_top_module")
        return [*files, f"create_bd_cell -type module -reference {top} {self.onnx_node.name}"]
