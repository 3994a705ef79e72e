"""ConvolutionInputGenerator: FINN+'s RTL, which it generates for each set of attributes.

FINN+'s files are read from where it is installed; this project has no copy of them. Under stalls
the generator keeps its rules (``tests/fpga/operators/test_sliding_window.py``), but in its parallel
form tready depends on its consumer's in the same cycle, so that a register follows it. Its interval
is a little shorter than the cycle count says, which counts as FINN+ does.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpga.board.memories import Memory
from fpga.board.placement import Resources
from fpga.environment import DOMAIN, finn_place, load_finn
from fpga.operators.arithmetic import legal_divisors, type_bits
from fpga.operators.common import REGISTER, register
from fpga.operators.operator import Folding, Operator, Rows
from fpga.operators.rtl_module import Port, RtlModule
from lmaunet.errors import UserError

# what a node has for FINN+'s own flow only
BOOKKEEPING = (
    "backend", "cycles_estimate", "cycles_rtlsim", "slr", "code_gen_dir_ipgen", "rtlsim_trace",
    "preferred_impl_style", "res_estimate", "res_synth",
)  # fmt: skip
LIBRARY = ("swg_pkg.sv", "swg_common.sv")
# Verilator 5.48 stops with an internal error at a long one of these; a loop shifts the same.
SHIFT = "if (DEPTH > 1) Data[DEPTH-1:1] <= Data[DEPTH-2:0];"
LOOP = "for (int i = 1; i < DEPTH; i++) Data[i] <= Data[i-1];"


class ConvolutionInputGenerator(Operator):
    """``(n, H, W, C)`` to windows ``(n, H', W', kh * kw * C)``, taps outermost.

    SIMD channels of a tap a cycle, or in the parallel form all taps of SIMD channels.
    """

    folded_by = ("SIMD", "parallel_window")
    moves_only = True
    rtl_of_finn = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the windows."""
        kernel, strides = self.attributes["ConvKernelDim"], self.attributes["Stride"]
        views = np.lib.stride_tricks.sliding_window_view(inputs[0], tuple(kernel), axis=(1, 2))
        views = views[:, :: strides[0], :: strides[1]]  # (n, OH, OW, C, kh, kw)
        n, height, width = views.shape[:3]
        return views.transpose(0, 1, 2, 4, 5, 3).reshape(n, height, width, -1)

    def streamed(self, tensor: np.ndarray) -> np.ndarray:
        """Return the windows as they come: for a depthwise unit SIMD channels of all taps first."""
        a = self.attributes
        if not a["depthwise"]:
            return tensor
        taps = math.prod(a["ConvKernelDim"])
        split = tensor.reshape(*tensor.shape[:-1], taps, -1, a["SIMD"])
        return np.swapaxes(split, -3, -2).reshape(tensor.shape)

    def channels(self) -> int:
        """Return the channels."""
        return int(self.attributes["IFMChannels"])

    def foldings(self) -> Iterator[Folding]:
        """Yield some channels a cycle, or the parallel form with all of them."""
        for simd in legal_divisors(self.channels()):
            yield {"SIMD": simd, "parallel_window": 0}
        if math.prod(self.attributes["ConvKernelDim"]) > 1:
            yield {"SIMD": self.channels(), "parallel_window": 1}

    def cycles(self) -> int:
        """Return the cycles as FINN+'s ``ConvolutionInputGenerator_rtl`` counts them."""
        a = self.attributes
        (kernel_h, kernel_w), (height, width) = a["ConvKernelDim"], a["IFMDim"]
        (out_h, out_w), (stride_h, stride_w) = a["OFMDim"], a["Stride"]
        folds = a["IFMChannels"] // a["SIMD"]
        if (a["parallel_window"] and kernel_h * kernel_w > 1) or kernel_h * kernel_w == 1:
            return height * width * folds + 2
        if height == 1 or width == 1:
            along_width = (width, out_w, kernel_w, stride_w)
            along_height = (height, out_h, kernel_h, stride_h)
            length, out, kernel, stride = along_width if height == 1 else along_height
            if not a["depthwise"]:
                return out * kernel * folds + 2
            produced = out * kernel * folds + (folds - 1) * kernel
            consumed = length * folds + folds * (kernel - 1) * (stride - 1)
            return max(produced, consumed) + 2
        fill = ((kernel_h - 1) * width + kernel_w) * folds
        row = max(out_w * kernel_w * kernel_h * folds, stride_w * width * folds)
        if a["depthwise"]:
            row += out_w * (stride_w - 1) * (folds - 1)
            fill += (stride_h - 1) * width * folds
        return fill + out_h * row

    def rows(self) -> Rows:
        """Return that a window waits for its last row; the rows of a line are one."""
        a = self.attributes
        if a["IFMDim"][0] == 1:
            return Rows()
        return Rows("window", a["Stride"][0], a["ConvKernelDim"][0])

    def dtype(self, index: int, *, output: bool) -> str:
        """Return the type of both streams."""
        return str(self.attributes["inputDataType"])

    def lanes(self, index: int, *, output: bool) -> int:
        """Return SIMD channels, of all taps where the output is parallel."""
        a = self.attributes
        return a["SIMD"] * (math.prod(a["ConvKernelDim"]) if output and a["parallel_window"] else 1)

    def resources(self) -> Resources:
        """200 LUTs and 100 flip-flops of control, our register behind it (*yosys*).

        The sizes of the buffers are those of FINN+'s generator (*rtl*). In the parallel form the
        window is in registers and the lines above it in memories.
        """
        a = self.attributes
        simd, (kernel_h, kernel_w), (_, width) = a["SIMD"], a["ConvKernelDim"], a["IFMDim"]
        bits, folds = type_bits(a["inputDataType"]), a["IFMChannels"] // a["SIMD"]
        if a["parallel_window"] and kernel_h * kernel_w > 1:
            lines = tuple(
                Memory("line", simd * bits, max(1, (width - kernel_w) * folds + 1))
                for _ in range(kernel_h - 1)
            )
            window = kernel_h * kernel_w * simd * bits
            end = register(window)
            return Resources(200 + end.lut, 0, lines, 100 + window + end.ff)
        stride_h = a["Stride"][0]
        depth = ((kernel_h - 1) * width + kernel_w) * folds
        depth += max(0, (stride_h - 1) * width - kernel_h * kernel_w) * folds
        end = register(simd * bits)
        return Resources(200 + end.lut, 0, (Memory("line", simd * bits, depth),), 100 + end.ff)

    def module(self, constants: Sequence[np.ndarray] = ()) -> RtlModule:
        """Return the RTL: FINN+'s, and a register behind it.

        Raises:
            UserError: where SIMD does not divide the channels, or FINN+'s library is another one.
            ToolNotFound: without FINN+.
        """
        load_finn()
        from onnx import helper
        from qonnx.custom_op.registry import getCustomOp

        a: dict[str, Any] = {
            k: list(v) if isinstance(v, tuple) else v for k, v in self.attributes.items()
        }
        a = {k: v for k, v in a.items() if k not in BOOKKEEPING}
        self.check()
        # equal attributes give equal modules, so that a design holds each once
        name = f"window_{hashlib.sha256(json.dumps(a, sort_keys=True).encode()).hexdigest()[:12]}"
        with tempfile.TemporaryDirectory() as folder:
            node = helper.make_node(
                "ConvolutionInputGenerator_rtl", ["in"], ["out"], name=f"{name}_core",
                domain=f"{DOMAIN}.rtl", backend="fpgadataflow", code_gen_dir_ipgen=folder, **a,
            )  # fmt: skip
            getCustomOp(node).generate_hdl(None, "", 0.0)
            made = {
                f"{name}_core{end}": Path(folder, f"{name}_core{end}").read_text(encoding="utf-8")
                for end in ("_impl.sv", "_wrapper.v")
            }
        shared = Path(finn_place(), "finn-rtllib", "swg")
        source = Port("in0_V", self.stream_bits(0, output=False))
        sink = Port("out0_V", self.stream_bits(0, output=True))
        return RtlModule(
            name,
            (REGISTER,),
            {},
            (source,),
            (sink,),
            generated={
                **{file: _readable(shared / file) for file in LIBRARY},
                **made,
                f"{name}.sv": _with_register(name, source, sink),
            },
        )


def _readable(path: Path) -> str:
    """Return a file of FINN+'s library as Verilator can read it."""
    text = path.read_text(encoding="utf-8")
    if path.name == "swg_common.sv" and text.count(SHIFT) != 1:
        raise UserError(f"{path} has not the shift register that FINN+ 1.6.1 has; install that")
    return text.replace(SHIFT, LOOP)


def _with_register(name: str, source: Port, sink: Port) -> str:
    """Return the module around FINN+'s: the port names of all others, and a register behind it."""
    width_in, width_out = 8 * source.bytes, 8 * sink.bytes
    return f"""module {name} (
    input  wire ap_clk,
    input  wire ap_rst_n,
    input  wire [{width_in - 1}:0] in0_V_tdata,
    input  wire in0_V_tvalid,
    output wire in0_V_tready,
    output wire [{width_out - 1}:0] out0_V_tdata,
    output wire out0_V_tvalid,
    input  wire out0_V_tready
);
    wire [{width_out - 1}:0] tdata;
    wire tvalid, tready;
    {name}_core core (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .in0_V_TDATA(in0_V_tdata), .in0_V_TVALID(in0_V_tvalid), .in0_V_TREADY(in0_V_tready),
        .out0_V_TDATA(tdata), .out0_V_TVALID(tvalid), .out0_V_TREADY(tready)
    );
    stream_register #(.BITS({width_out})) register (
        .ap_clk(ap_clk), .ap_rst_n(ap_rst_n),
        .in0_V_tdata(tdata), .in0_V_tvalid(tvalid), .in0_V_tready(tready),
        .out0_V_tdata(out0_V_tdata), .out0_V_tvalid(out0_V_tvalid), .out0_V_tready(out0_V_tready)
    );
endmodule
"""
