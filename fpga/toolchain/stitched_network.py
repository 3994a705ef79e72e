"""StitchedNetwork: a whole simulated network as one node of FINN+.

The mapped graph names FINN+'s HLS for several operators, but what was simulated is RTL of our own,
stitched into one module. As a single node, that module goes through FINN+'s own steps to a
bitstream, with DMA at both ends.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.operators.arithmetic import check_divides
from lmaunet.fpga.operators.rtl_module import Port, RtlModule, wrapper
from lmaunet.fpga.toolchain.finn_operator import SOURCES, OwnRTL, datatype


class StitchedNetwork(OwnRTL):
    """``(1, H, W, C)`` codes in, ``(1, H, W, classes)`` accumulators out.

    Attributes: ``design``, the folder that :func:`lmaunet.fpga.simulation.proof.write_design`
    wrote; ``top``, its module; and for the input and the output the shape, the integer type and the
    lanes of a beat.
    """

    def get_nodeattr_types(self) -> dict[str, Any]:
        """Return the attributes with their types and defaults."""
        return super().get_nodeattr_types() | {
            "design": ("s", True, ""),
            "top": ("s", True, ""),
            "inputShape": ("ints", True, []),
            "outputShape": ("ints", True, []),
            "inputDataType": ("s", True, ""),
            "outputDataType": ("s", True, ""),
            "inputLanes": ("i", True, 0),
            "outputLanes": ("i", True, 0),
        }

    def verify_node(self) -> list[str]:
        """Check the lanes; raises :class:`UserError` where they do not divide the channels."""
        for end in ("input", "output"):
            lanes, channels = self.get_nodeattr(f"{end}Lanes"), self.get_nodeattr(f"{end}Shape")[-1]
            check_divides(f"{end}Lanes", lanes, "channels", channels)
        return [f"{self.onnx_node.name}: lanes are legal"]

    def get_input_datatype(self, ind: int = 0) -> Any:
        """Return the integer type of the input codes."""
        return datatype(self.get_nodeattr("inputDataType"))

    def get_output_datatype(self, ind: int = 0) -> Any:
        """Return the integer type of the accumulators."""
        return datatype(self.get_nodeattr("outputDataType"))

    def get_normal_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, H, W, C)``."""
        return tuple(self.get_nodeattr("inputShape"))

    def get_normal_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, H, W, classes)``."""
        return tuple(self.get_nodeattr("outputShape"))

    def _folded(self, end: str) -> tuple[int, ...]:
        self.verify_node()
        *pixels, channels = self.get_nodeattr(f"{end}Shape")
        lanes = self.get_nodeattr(f"{end}Lanes")
        return (*pixels, channels // lanes, lanes)

    def get_folded_input_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, H, W, C / lanes, lanes)``."""
        return self._folded("input")

    def get_folded_output_shape(self, ind: int = 0) -> tuple[int, ...]:
        """Return ``(1, H, W, classes / lanes, lanes)``."""
        return self._folded("output")

    def get_instream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of the input stream."""
        return self.get_input_datatype().bitwidth() * self.get_nodeattr("inputLanes")

    def get_outstream_width(self, ind: int = 0) -> int:
        """Return the bits of a beat of the output stream."""
        return self.get_output_datatype().bitwidth() * self.get_nodeattr("outputLanes")

    def infer_node_datatype(self, model: Any) -> None:
        """Set the output tensor's type from the attribute."""
        model.set_tensor_datatype(self.onnx_node.output[0], self.get_output_datatype())

    def execute_node(self, context: dict[str, np.ndarray], graph: Any) -> None:
        """Raise :class:`UserError`: the mapped graph computes the integers, not this node."""
        raise UserError(
            "a stitched network is RTL only; execute the graph that it was made from "
            "(hardware.onnx) or simulate it (--simulate)"
        )

    def generate_hdl(self, model: Any, fpgapart: str, clk: float) -> None:
        """Copy the design and write a Verilog wrapper into ``code_gen_dir_ipgen``.

        The copy of the network names its memories by whole paths: FINN+ packages the sources, which
        moves them.
        """
        design = Path(self.get_nodeattr("design"))
        folder = Path(self.get_nodeattr("code_gen_dir_ipgen")).resolve()
        order = (design / SOURCES).read_text(encoding="utf-8").split()
        network = (design / order[-1]).read_text(encoding="utf-8")
        for path in sorted(design.iterdir()):
            if path.name == order[-1]:
                continue
            shutil.copy(path, folder / path.name)
            if path.name != SOURCES and path.name not in order:
                network = network.replace(f'"{path.name}"', f'"{folder / path.name}"')
        (folder / order[-1]).write_text(network, encoding="utf-8")
        top = self.get_verilog_top_module_name()
        ports = (
            (Port("in0_V", self.get_instream_width()),),
            (Port("out0_V", self.get_outstream_width()),),
        )
        core = RtlModule(self.get_nodeattr("top"), (), {}, *ports)
        # a block design takes a module of Verilog only
        (folder / f"{top}.v").write_text(wrapper(core, top), encoding="utf-8")
        self.set_nodeattr("gen_top_module", top)
        self.set_nodeattr("ipgen_path", str(folder))
        self.set_nodeattr("ip_path", str(folder))

    def get_rtl_file_list(self, abspath: bool = False) -> list[str]:
        """Return the sources in the order in which to read them, the wrapper last."""
        top = self.get_nodeattr("gen_top_module")
        if not top:
            raise UserError(f"StitchedNetwork ({self.onnx_node.name}): generate its HDL first")
        folder = Path(self.get_nodeattr("code_gen_dir_ipgen")).resolve()
        names = [*(folder / SOURCES).read_text(encoding="utf-8").split(), f"{top}.v"]
        return [str(folder / name) if abspath else name for name in names]
