"""A bitstream of a simulated network, by FINN+'s own ZynqBuild.

The network is one node (:mod:`lmaunet.fpga.toolchain.stitched_network`); FINN+ adds DMA at both
ends, packages each part as an IP, and has Vivado build its shell for the board. All scripts up to
Vivado and Vitis HLS are generated and checked by tests with stand-ins for both programs; the real
ones were never run with them. There is no driver: ``bitstream.json`` says what the DMAs move. A
network whose skips are in DRAM is refused: the shell would leave its AXI port open.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.environment import VIVADO_FIX, vivado_place
from lmaunet.fpga.operators.rtl_module import Port, RtlModule
from lmaunet.fpga.toolchain import vivado_reports as reports
from lmaunet.fpga.toolchain.registration import load_operators
from lmaunet.fpga.toolchain.vivado import FOLDER, LAST_LINES, TOP, keep_evidence, require_memories
from lmaunet.stage import write_json

# The names under which FINN+ has a shell; U250 would need its Vitis flow.
SHELLS = {"Ultra96": "Ultra96", "KV260": "KV260_SOM", "ZCU104": "ZCU104", "ZCU102": "ZCU102"}
DEPENDENCIES = ("finn-hlslib", "board_files")
DEPENDENCIES_FIX = "finn deps update"
VITIS_FIX = "install Vitis (with Vitis HLS) of the same version and source its settings64.sh"
BITSTREAM, HANDOFF, DESCRIPTION = "network.bit", "network.hwh", "bitstream.json"


def require_tools(board: Board, clock_mhz: float) -> None:
    """Raise before any work where a bitstream cannot be made here.

    Raises:
        UserError: for a board without a shell in FINN+'s ZynqBuild, or a clock below 1 MHz.
        ToolNotFound: without Vivado, Vitis HLS or what FINN+ downloads for its shell.
    """
    if board.name not in SHELLS:
        raise UserError(
            f"no bitstream for {board.name}: FINN+'s Zynq shell is for {', '.join(SHELLS)}; "
            "use one of these, or --flow timing"
        )
    if clock_mhz < 1:
        raise UserError(f"clock_mhz={clock_mhz:g}; FINN+'s shell takes whole MHz, give 1 or more")
    if not vivado_place():
        raise ToolNotFound("vivado", "to make a bitstream", VIVADO_FIX)
    load_operators()
    from finn.util.basic import get_vivado_version
    from finn.util.settings import get_settings

    # FINN+ reads the version out of the path that settings64.sh sets
    version = get_vivado_version()
    if version is None:
        raise ToolNotFound(
            "XILINX_VIVADO", "to tell FINN+ the version of Vivado", "source Vivado's settings64.sh"
        )
    tool = "vitis-run" if version > (2024, 2) else "vitis_hls"
    if not shutil.which(tool):
        raise ToolNotFound(tool, "to synthesise the DMAs of FINN+'s shell", VITIS_FIX)
    for name in DEPENDENCIES:
        if not (get_settings().finn_deps / name).is_dir():
            raise ToolNotFound(
                f"{name} ({get_settings().finn_deps})", "for FINN+'s shell", DEPENDENCIES_FIX
            )


def one_node(module: RtlModule, mapped: Any, design: Path) -> Any:
    """Return a FINN+ model with the whole network as one node.

    Args:
        module: the stitched network.
        mapped: the mapped graph, for the shapes and types of its input and output.
        design: the folder of its sources and memories.

    Raises:
        UserError: where a stream of the module does not fit its tensor's type, or the network has
            skips in DRAM or weights that are loaded.
    """
    if module.load:
        raise UserError(
            "no bitstream of a network whose weights are loaded: FINN+'s shell connects its two "
            "streams only; use --flow timing, or a --board whose block RAM holds them"
        )
    if module.wires:
        raise UserError(
            "no bitstream of a network with skips in DRAM: FINN+'s shell connects its two streams "
            "only; use --flow timing, or a --board whose memories hold them"
        )
    load_operators()
    from onnx import TensorProto, helper
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.util.basic import qonnx_make_model

    names = mapped.graph.input[0].name, mapped.graph.output[0].name
    attributes: dict[str, Any] = {"design": str(design.resolve()), "top": module.name}
    for end, name, port in zip(
        ("input", "output"), names, (*module.inputs, *module.outputs), strict=True
    ):
        dtype = mapped.get_tensor_datatype(name)
        attributes |= {
            f"{end}Shape": list(mapped.get_tensor_shape(name)),
            f"{end}DataType": dtype.name,
            f"{end}Lanes": _lanes(port, dtype),
        }
    node = helper.make_node(
        "StitchedNetwork_rtl", [names[0]], [names[1]], name="StitchedNetwork_rtl_0",
        domain="finn.custom_op.fpgadataflow.rtl", backend="fpgadataflow", **attributes,
    )  # fmt: skip
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, mapped.get_tensor_shape(name))
        for name in names
    ]
    model = ModelWrapper(qonnx_make_model(helper.make_graph([node], TOP, ends[:1], ends[1:])))
    for name in names:
        model.set_tensor_datatype(name, mapped.get_tensor_datatype(name))
    return model


def _lanes(port: Port, dtype: Any) -> int:
    lanes, rest = divmod(port.bits, dtype.bitwidth())
    if rest or not lanes:
        raise UserError(
            f"stream {port.name} has {port.bits} bits, expected a multiple of the "
            f"{dtype.bitwidth()} bits of {dtype.name}"
        )
    return lanes


def make_bitstream(
    model: Any,
    board: Board,
    clock_mhz: float,
    folder: Path,
    evidence: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Have FINN+ build its shell around the network; takes hours.

    Writes ``network.bit``, ``network.hwh`` and ``bitstream.json`` into ``folder/vivado``, unless
    the routed shell misses its clock: such a bitstream is left where FINN+ made it.

    Args:
        model: from :func:`one_node`.
        board: one of :data:`SHELLS`.
        clock_mhz: of the shell; FINN+ takes whole MHz, so that it is rounded down.
        folder: of the build.
        evidence: where logs are kept when it fails.
        progress: called with a line on what is being done.

    Returns:
        ``made``, ``why`` and ``fix`` where it is not, and the figures of the shell.

    Raises:
        UserError: where FINN+, Vitis HLS or Vivado fail.
    """
    from finn.transformation.fpgadataflow.make_zynq_proj import ZynqBuild
    from finn.util.settings import get_settings

    settings = get_settings()
    # what FINN+'s command line sets for its Tcl
    os.environ["FINN_RTLLIB"] = str(settings.finn_rtllib)
    os.environ["FINN_CUSTOM_HLS"] = str(settings.finn_custom_hls)
    whole_mhz = math.floor(clock_mhz)
    # a little less, so that FINN+'s own int(1000 / period) is this number
    period = 1000 / whole_mhz * (1 - 1e-9)
    progress(f"FINN+ builds its shell for {board.name} at {whole_mhz} MHz: bitstream, hours")
    streams = _streams(model)
    try:
        built = model.transform(ZynqBuild(SHELLS[board.name], period))
    except Exception as error:  # FINN+ raises plain exceptions
        raise UserError(f"FINN+ could not build the bitstream: {error}{_said(error)}") from error
    project = Path(built.get_metadata_prop("vivado_pynq_proj"))
    run = project / "finn_zynq_link.runs" / "impl_1"
    try:
        for log in sorted(project.rglob("*.log")):
            require_memories(log.read_text(errors="replace"))
        timing = reports.read_timing(_text(run / "top_wrapper_timing_summary_routed.rpt"))
    except UserError as error:
        raise UserError(f"{error}{keep_evidence(project, evidence)}") from error
    found: dict[str, Any] = {
        "made": timing.met,
        "shell": f"FINN+ ZynqBuild, {SHELLS[board.name]}",
        "clock_mhz": whole_mhz,
        "slack_ns": {"setup": timing.setup, "hold": timing.hold, "pulse": timing.pulse},
        **streams,
    }
    if not timing.met:
        worst = min(timing.setup, timing.hold, timing.pulse)
        found["why"] = f"the routed shell misses {whole_mhz} MHz: worst slack {worst:g} ns"
        found["fix"] = "build again with a lower --clock-mhz"
        return found
    shutil.copy(built.get_metadata_prop("bitfile"), folder / FOLDER / BITSTREAM)
    shutil.copy(built.get_metadata_prop("hw_handoff"), folder / FOLDER / HANDOFF)
    write_json(folder / FOLDER / DESCRIPTION, found)
    return found


def _said(error: BaseException | None) -> str:
    """Return the last lines of the program whose failure an exception is about."""
    while error is not None and not isinstance(error, subprocess.CalledProcessError):
        error = error.__cause__
    lines = str(error.output or "").splitlines() if error else []
    return "".join(f"\n{line}" for line in lines[-LAST_LINES:])


def _streams(model: Any) -> dict[str, Any]:
    """Return what the DMAs move for an image: bytes of a beat, beats, lanes, lane 0 lowest."""
    from qonnx.custom_op.registry import getCustomOp

    node = getCustomOp(model.graph.node[0])
    ends = {
        "input": (node.get_folded_input_shape(), node.get_instream_width_padded()),
        "output": (node.get_folded_output_shape(), node.get_outstream_width_padded()),
    }
    return {
        end: {
            "shape": list(node.get_nodeattr(f"{end}Shape")),
            "type": node.get_nodeattr(f"{end}DataType"),
            "lanes_a_beat": shape[-1],
            "bytes_a_beat": width // 8,
            "beats_an_image": math.prod(shape[:-1]),
        }
        for end, (shape, width) in ends.items()
    }


def _text(path: Path) -> str:
    if not path.exists():
        raise UserError(f"Vivado wrote no {path.name}: the bitstream's timing is not known")
    return path.read_text(errors="replace")
