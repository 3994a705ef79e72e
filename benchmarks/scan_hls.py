"""The scans of an FPGA build as C++ kernels for Vitis HLS, each in a folder of its own.

    python benchmarks/scan_hls.py BUILD -o KERNELS --simulate

BUILD is the folder of ``build --target fpga``. A kernel's folder holds its sources, two frames of
vectors with what the integer scan makes of them, and ``run_hls.tcl``, which simulates, synthesises
and exports it in Vitis. ``--simulate`` runs the C simulation here, without Vitis.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from hls_scan import (
    SCRIPT,
    check_vectors,
    compile_kernel,
    headers_place,
    kernels_of_build,
    simulate_kernel,
    write_kernel,
)

from lmaunet.artifacts import require_agreement
from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.fpga.build import check_options
from lmaunet.fpga.simulation.compilation import compiler_place


def main(arguments: argparse.Namespace) -> int:
    _, clock_mhz, _ = check_options({"clock_mhz": arguments.clock_mhz})
    if arguments.output.exists():
        raise UserError(f"--output {arguments.output} exists; give a folder that does not")
    if arguments.simulate:
        headers_place()
        compiler_place()
    kernels, board = kernels_of_build(arguments.build)
    for name, kernel in kernels.items():
        vectors = check_vectors(kernel)
        folder = arguments.output / name
        folder.mkdir(parents=True)
        write_kernel(kernel, vectors, folder, board, clock_mhz)
        numbers = ("CHANNELS", "STATES", "LENGTH", "PD", "PN")
        line = f"{folder}: " + ", ".join(f"{n} {kernel.numbers[n]}" for n in numbers)
        if arguments.simulate:
            with tempfile.TemporaryDirectory() as work:
                got = simulate_kernel(compile_kernel(kernel, Path(work)), *vectors.stimuli)
            for what in ("y", "accumulators"):
                require_agreement(
                    f"{what} of {name}'s HLS kernel", getattr(got, what), getattr(vectors, what),
                    0, evidence=folder,
                )  # fmt: skip
            line += f"; simulated: {got.y.size} y and accumulators as the integer scan's"
        print(line, flush=True)
    print(f"in each folder: vitis-run --mode hls --tcl {SCRIPT}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("build", type=Path, metavar="BUILD", help="the folder of a build for the FPGA")
    add("-o", "--output", type=Path, required=True, help="a folder that does not exist yet")
    add("--clock-mhz", type=float, default=250.0, help="what Vitis schedules for; an assumption")
    add("--simulate", action="store_true", help="run the C simulation; needs hls4ml's headers")
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
