"""An operator of our own as FINN+ wants it: everything here is asked of the operator's one class.

FINN+'s base classes are put under these where :func:`finn_classes` makes an operator's class.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, RtlModule, wrapper, write_memories

if TYPE_CHECKING:
    from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
else:
    HWCustomOp = object

SOURCES = "sources.txt"


def datatype(name: str) -> Any:
    """Return qonnx's type of a name such as ``INT8``."""
    from qonnx.core.datatype import DataType

    return DataType[name]


class FinnOperator(HWCustomOp):
    """A node of the hardware graph before it is mapped; ``kind`` is its operator's class."""

    kind: ClassVar[type[Operator]]

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the attributes with their types and defaults."""
        return super().get_nodeattr_types() | dict(self.kind.finn_attributes or {})

    @property
    def operator(self) -> Operator:
        """The operator with the node's attributes."""
        return self.kind({name: self.get_nodeattr(name) for name in self.get_nodeattr_types()})

    def verify_node(self) -> list[str]:
        """Check the folding; raises :class:`UserError` where it is not legal."""
        self.operator.check()
        return [f"{self.onnx_node.name}: folding is legal"]

    def get_input_datatype(self, ind: int = 0) -> Any:
        """Return the integer type of an input stream."""
        return datatype(self.operator.dtype(ind, output=False))

    def get_output_datatype(self, ind: int = 0) -> Any:
        """Return the integer type of an output stream."""
        return datatype(self.operator.dtype(ind, output=True))

    def get_normal_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return an input stream's shape, ``(1, H, W, C)``."""
        return self.operator.shape(ind, output=False)

    def get_normal_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return an output stream's shape, ``(1, H, W, C)``."""
        return self.operator.shape(ind, output=True)

    def _folded(self, ind: int, *, output: bool) -> tuple[int, ...]:
        self.verify_node()
        *pixels, channels = self.operator.shape(ind, output=output)
        lanes = self.operator.lanes(ind, output=output)
        return (*pixels, channels // lanes, lanes)

    def get_folded_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, H, W, C / lanes, lanes)``."""
        return self._folded(ind, output=False)

    def get_folded_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, H, W, C / lanes, lanes)``."""
        return self._folded(ind, output=True)

    def get_instream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of an input stream; constants are not streamed."""
        return self.operator.stream_bits(ind, output=False) if ind < self.kind.streams else 0

    def get_outstream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of the output stream."""
        return self.operator.stream_bits(ind, output=True)

    def infer_node_datatype(self, model: Any) -> None:
        """Set the output tensor's type from the attributes."""
        model.set_tensor_datatype(self.onnx_node.output[0], self.get_output_datatype())

    def get_exp_cycles(self) -> int:
        """Return the cycles of one image of many."""
        self.verify_node()
        return self.operator.cycles()

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Compute the output's integers; an RTL is simulated outside of FINN+."""
        inputs = [np.asarray(context[name]) for name in self.onnx_node.input]
        y = self.operator.golden(inputs)
        context[self.onnx_node.output[0]] = y.astype(np.float32)

    def resources(self) -> Resources:
        """Return the operator's estimate."""
        return self.operator.resources()

    def lut_estimation(self, fpgapart: str) -> int:
        """Return the estimated LUTs."""
        return self.resources().lut

    def dsp_estimation(self, fpgapart: str) -> int:
        """Return the estimated DSPs."""
        return self.resources().dsp

    def bram_estimation(self, fpgapart: str) -> int:
        """Return 18 kbit block RAMs where every memory that is no LUTRAM is one."""
        return sum(m.bram18 for m in self.resources().memories if not m.distributed)

    def uram_estimation(self, fpgapart: str) -> int:
        """Return 0: this estimate puts memories into block RAM; the placement may move them."""
        return 0

    def get_op_and_param_counts(self) -> dict[str, int]:
        """Return the operations of an image and the parameters by width."""
        return self.operator.counts()


class OwnRTL(HWCustomOp):
    """The mapped form of a node whose RTL is ours: a module, its memories and a wrapper."""

    def rtl_module(self, model: Any) -> RtlModule:
        """Return the module with its parameters and memories, from attributes and initializers."""
        found = [model.get_initializer(name) for name in self.onnx_node.input]
        return self.operator.module([values for values in found if values is not None])

    def generate_hdl(self, model: Any, fpgapart: str, clk: float) -> None:
        """Write the memories and a wrapper without parameters into ``code_gen_dir_ipgen``.

        Raises:
            UserError: where the attributes are not legal.
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
        top = self.get_nodeattr("gen_top_module")
        folder = Path(self.get_nodeattr("code_gen_dir_ipgen")).resolve()
        if not top:
            raise UserError(
                f"{self.onnx_node.op_type} ({self.onnx_node.name}): generate its HDL first"
            )
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


def finn_classes(kind: type[Operator]) -> tuple[type[FinnOperator], type[FinnOperator]]:
    """Return FINN+'s two classes of an operator: the one before it is mapped, and its RTL form.

    FINN+ finds a class by its name, and a backend's by the suffix. What a class does not say itself
    it has from FINN+'s, the last of its bases.
    """
    from finn.custom_op.fpgadataflow.hwcustomop import HWCustomOp
    from finn.custom_op.fpgadataflow.rtlbackend import RTLBackend

    own = {"kind": kind, "__doc__": kind.__doc__, "__module__": __name__}
    plain = type(kind.name(), (FinnOperator, HWCustomOp), own)
    mapped = type(f"{kind.name()}_rtl", (FinnOperator, OwnRTL, RTLBackend), own)
    return plain, mapped
