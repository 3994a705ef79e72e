"""ConvolutionInputGenerator's RTL: FINN+'s, which it generates for each set of attributes.

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpga.environment import DOMAIN, finn_place, load_finn
from fpga.operators.arithmetic import check_divides, type_bits
from fpga.operators.common import REGISTER
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


def window_bits(a: Mapping[str, Any], *, output: bool) -> int:
    """Return the bits of a beat of the input or the output; ``a``: the node's attributes."""
    taps = math.prod(a["ConvKernelDim"]) if output and a["parallel_window"] else 1
    return type_bits(a["inputDataType"]) * a["SIMD"] * taps


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray] = ()) -> RtlModule:
    """Return the RTL of a node.

    Args:
        attributes: of the operator ``ConvolutionInputGenerator``.
        constants: none.

    Raises:
        UserError: where SIMD does not divide the channels, or FINN+'s library is another one.
        ToolNotFound: without FINN+.
    """
    load_finn()
    from onnx import helper
    from qonnx.custom_op.registry import getCustomOp

    a: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in attributes.items()}
    a = {k: v.decode() if isinstance(v, bytes) else v for k, v in a.items() if k not in BOOKKEEPING}
    check_divides("SIMD", a["SIMD"], "channels", a["IFMChannels"])
    # equal attributes give equal modules, so that a design holds each once
    name = f"window_{hashlib.sha256(json.dumps(a, sort_keys=True).encode()).hexdigest()[:12]}"
    with tempfile.TemporaryDirectory() as folder:
        node = helper.make_node(
            "ConvolutionInputGenerator_rtl", ["in"], ["out"], name=f"{name}_core",
            domain=f"{DOMAIN}.rtl", backend="fpgadataflow", code_gen_dir_ipgen=folder, **a,
        )  # fmt: skip
        getCustomOp(node).generate_hdl(None, "", 0.0)
        made = {
            f"{name}_core{end}": Path(folder, f"{name}_core{end}").read_text()
            for end in ("_impl.sv", "_wrapper.v")
        }
    shared = Path(finn_place(), "finn-rtllib", "swg")
    source = Port("in0_V", window_bits(a, output=False))
    sink = Port("out0_V", window_bits(a, output=True))
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
    text = path.read_text()
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
