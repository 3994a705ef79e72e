"""What ``--flow`` adds to a simulated build.

``levels``: how deep the logic of its modules is, by yosys. ``timing``: Vivado's timing and
utilisation. ``vivado``: a bitstream too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.environment import VIVADO_FIX, vivado_place
from lmaunet.fpga.operators.fifo import Layout
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.proof import RTL
from lmaunet.fpga.toolchain import bitstream, vivado
from lmaunet.fpga.toolchain.design_levels import count_levels, summarize
from lmaunet.fpga.toolchain.design_parts import parts_of
from lmaunet.fpga.toolchain.netlist_levels import Limits
from lmaunet.fpga.toolchain.yosys import yosys_version
from lmaunet.stage import write_json

NO_FLOW, LEVELS, TIMING, VIVADO = FLOWS = "none", "levels", "timing", "vivado"
FIGURES, LEVELS_FILE = "vivado.json", "levels.json"


def check_flow(options: Mapping[str, Any], board: Board, clock_mhz: float) -> str:
    """Return the flow that a build's options ask for; nothing else is done without its tools.

    Raises:
        UserError: for an unknown flow, or one that is not for the board or the clock.
        ToolNotFound: where a tool of it is missing.
    """
    flow = NO_FLOW if options.get("flow") is None else str(options["flow"])
    if flow not in FLOWS:
        raise UserError(f"unknown flow {flow!r}; use one of: {', '.join(FLOWS)}")
    if flow == LEVELS:
        yosys_version()
    if flow == TIMING and not vivado_place():
        raise ToolNotFound("vivado", "to synthesise, place and route the network", VIVADO_FIX)
    if flow == VIVADO:
        bitstream.require_tools(board, clock_mhz)
    return flow


def sized_for(flow: str, board: Board) -> Board:
    """Return the board as a flow can use it.

    A bitstream's shell has no port for skips in DRAM, and none for weights that are loaded.
    """
    return replace(board, dram_mb_s=None, loads=False) if flow == VIVADO else board


def run_levels(
    network: Network,
    fifos: Mapping[str, Layout],
    origins: Mapping[str, str],
    clock_mhz: float,
    folder: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Count the levels of logic of a build's modules and return what the detail gets of them.

    Writes ``folder/levels.json``, a row for each distinct module.

    Args:
        network: the network as it is built.
        fifos: how its FIFOs are, by tensor.
        origins: where the tensors come from, by their names in the exported network.
        clock_mhz: that is assumed.
        folder: of the build.
        progress: called with a line for each module.

    Raises:
        ToolNotFound: without yosys.
        UserError: where it refuses a module.
    """
    limits = replace(Limits(), clock_ns=1000 / clock_mhz)
    rows = count_levels(parts_of(network, fifos), limits, levels_cache(), progress)
    rows = [row | {"origin": origins.get(row["name"], "")} for row in rows]
    summary = summarize(rows, limits)
    write_json(folder / LEVELS_FILE, {"summary": summary, "modules": rows})
    return {"levels": summary, "clock_status": levels_status(summary)}


def levels_status(summary: Mapping[str, Any]) -> str:
    """Return what levels say of a clock that is assumed, in words for the report."""
    counted = summary["modules"] - len(summary["not_synthesised"])
    if not summary["deepest"]:
        return "assumed; nothing was placed or timed, and no module's levels could be counted"
    return (
        f"assumed; nothing was placed or timed. At most {summary['deepest'][0]['levels']} levels "
        f"of logic in {counted} of {summary['modules']} modules (yosys) suggest "
        f"{summary['clock_suggested_mhz']:.0f} MHz"
    )


def levels_cache() -> Path:
    """Return the user's folder for what was found of modules before."""
    from platformdirs import user_cache_path  # which yosys itself needs

    return Path(user_cache_path("lmaunet-deploy")) / "levels"


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
