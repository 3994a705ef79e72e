"""One module of each kind of an FPGA build, placed and routed on an open device.

    python benchmarks/fpga_place.py BUILD --cache CACHE -o results/fpga_ecp5.json

The build is one of ``build --target fpga --simulate``, or what ``benchmarks/fpga_design.py`` leaves
in its ``--folder``. Of each kind (matrix unit with DSPs, with LUTs, depthwise unit, window, FIFO,
scan, ...) the largest is taken that ``--most-lut`` allows, since the tools run as WebAssembly. No
open tool places AMD's devices; a Lattice ECP5 is older and slower, and its multipliers have no
registers here (:mod:`place_and_route`), so that its clock is no prediction of theirs: what can be
seen is whether a kind has paths that are far longer than those of the others. What was routed is
kept in ``--cache``.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accuracy import neutral
from fpga_synthesis import built_fifos
from network_synthesis import load_network
from place_and_route import DEVICES, Routed, place_and_route
from scan_synthesis import NOTE, TOOLS, versions

from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.simulation.proof import SIMULATION
from lmaunet.fpga.toolchain.design_parts import Part, digest, parts_of
from lmaunet.stage import read_json, write_json

ULTRA = ("STYLE", "RAM_STYLE")


def kind_of(part: Part) -> str:
    """Return the kind of a part: its module, and for a matrix unit what multiplies."""
    if part.module.name.startswith("matrix_vector"):
        return f"{part.module.name}, {'DSP' if part.placed.dsp else 'LUT'}"
    return part.module.name


def largest(parts: Sequence[Part], most_lut: int) -> dict[str, Part]:
    """Return of each kind the part with most LUTs that are not too many; the cheapest kind first.

    Of a kind whose parts all take more it is the smallest.
    """
    found: dict[str, Part] = {}
    for part in sorted(parts, key=lambda part: part.placed.lut):
        if part.placed.lut <= most_lut or kind_of(part) not in found:
            found[kind_of(part)] = part
    return dict(sorted(found.items(), key=lambda item: item[1].placed.lut))


def for_ecp5(module: RtlModule) -> RtlModule:
    """Return a module with its UltraRAM, which the device does not have, in block RAM."""
    styles = {p: "block" for p in ULTRA if module.parameters.get(p) == "ultra"}
    return replace(module, parameters=dict(module.parameters) | styles)


def routed(module: RtlModule, device: str, seed: int, cache: Path, timeout_s: float) -> Routed:
    """Return what a module takes on the device, from the cache where it is there."""
    place = cache / f"{device}-{seed}-{digest(module, 'ecp5')}.json"
    if not place.exists():
        found = place_and_route(module, device, seed=seed, timeout_s=timeout_s)
        cache.mkdir(parents=True, exist_ok=True)
        write_json(place, found.to_json())
    return Routed(**read_json(place))


def row_of(kind: str, part: Part, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a part takes; ``clock_mhz`` is None, with ``why``, where it is not routed."""
    row = {"kind": kind, "name": part.name, "operator": part.operator, "lut": part.placed.lut}
    try:
        found = routed(
            for_ecp5(part.module), arguments.device, arguments.seed, arguments.cache,
            arguments.timeout_s,
        )  # fmt: skip
    except UserError as error:
        return row | {"clock_mhz": None, "why": str(error).splitlines()[0]}
    return row | found.to_json()


def main(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    _, network = load_network(arguments.build)
    simulation = arguments.build / SIMULATION
    fifos = built_fifos(simulation) if simulation.exists() else None
    rows = []
    print("| kind | LUT4 | FF | multipliers | block RAM | clock, MHz |\n|" + " --- |" * 6)
    for kind, part in largest(parts_of(network, fifos), arguments.most_lut).items():
        row = row_of(kind, part, arguments)
        rows.append(row)
        shown = [row.get(k, "") for k in ("lut4", "ff", "multipliers", "ram")]
        cells = [kind, *shown, row["clock_mhz"] or f"not routed: {row['why']}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        print(f"{time.monotonic() - started:6.0f} s  {kind}", file=sys.stderr, flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.output,
        {
            "command": neutral("benchmarks/fpga_place.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "tools": versions(TOOLS),
            "seed": arguments.seed,
            "provenance": "placed and routed",
            "note": NOTE,
            "modules": rows,
        },
    )
    print(f"written: {arguments.output}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("build", type=Path, help="a folder of `build --target fpga`")
    add("--device", choices=DEVICES, default="85k")
    add("--most-lut", type=int, default=2500, help="estimated, of a module")
    add("--seed", type=int, default=1, help="of the placement")
    add("--timeout-s", type=float, default=900.0, help="for each of the tools, for each module")
    add("--cache", type=Path, default=Path("routed_cache"), help="what was routed, by module")
    add("-o", "--output", type=Path, default=Path("results/fpga_ecp5.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
