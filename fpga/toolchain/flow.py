"""What ``--flow`` adds to a simulated build: Vivado's timing and utilisation, and a bitstream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fpga.board.boards import Board
from fpga.environment import VIVADO_FIX, vivado_place
from fpga.operators.rtl_module import RtlModule
from fpga.simulation.proof import RTL
from fpga.toolchain import bitstream, vivado
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.stage import write_json

NO_FLOW, TIMING, VIVADO = FLOWS = "none", "timing", "vivado"
FIGURES = "vivado.json"


def check_flow(options: Mapping[str, Any], board: Board, clock_mhz: float) -> str:
    """Return the flow that a build's options ask for; nothing else is done without its tools.

    Raises:
        UserError: for an unknown flow, or one that is not for the board or the clock.
        ToolNotFound: where a tool of it is missing.
    """
    flow = NO_FLOW if options.get("flow") is None else str(options["flow"])
    if flow not in FLOWS:
        raise UserError(f"unknown flow {flow!r}; use one of: {', '.join(FLOWS)}")
    if flow == TIMING and not vivado_place():
        raise ToolNotFound("vivado", "to synthesise, place and route the network", VIVADO_FIX)
    if flow == VIVADO:
        bitstream.require_tools(board, clock_mhz)
    return flow


def sized_for(flow: str, board: Board) -> Board:
    """Return the board as a flow can use it: a bitstream's shell has no port for skips in DRAM."""
    return replace(board, dram_mb_s=None) if flow == VIVADO else board


def run_flow(
    flow: str,
    module: RtlModule,
    mapped: Any,
    board: Board,
    folder: Path,
    evidence: Path,
    detail: Mapping[str, Any],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run a flow on a simulated build and return what it puts in the place of the estimates.

    Where the network misses its clock, no bitstream is made. Writes ``folder/vivado.json``.

    Args:
        flow: :data:`TIMING` or :data:`VIVADO`.
        module: the network that was simulated and written into ``folder/rtl``.
        mapped: the mapped graph.
        board: to build for.
        folder: of the build.
        evidence: where logs are kept when it fails.
        detail: of the build, with simulated cycles, and the clock to route for.
        progress: called with a line on what is being done.

    Raises:
        UserError: where a tool fails or its reports cannot be read.
    """
    clock_mhz = detail["clock_mhz"]
    progress(f"Vivado synthesises, places and routes at {clock_mhz:g} MHz: minutes to hours")
    found = vivado.implement(folder, board, clock_mhz, evidence)
    added = found.figures(detail)
    content = found.to_json()
    if flow == VIVADO:
        if found.timing.met:
            model = bitstream.one_node(module, mapped, folder / RTL)
            made = bitstream.make_bitstream(model, board, clock_mhz, folder, evidence, progress)
        else:
            made = {
                "made": False,
                "why": f"the routed network misses {clock_mhz:g} MHz and keeps "
                f"{found.clock_mhz:.1f}",
                "fix": "build again with a lower --clock-mhz",
            }
        added["bitstream"] = content["bitstream"] = made
    write_json(folder / FIGURES, content)
    return added
