"""What the scan's core takes on UltraScale+ by yosys, with the default widths, by its lanes.

    python benchmarks/scan_synthesis.py --channels 64 --states 16 --length 4096 --foldings 1x4,1x16

A folding is PD x PN. Prints a line for each, with the estimate of :mod:`fpga.resources` beside it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from fpga.hardware_ops.selective_scan import core
from fpga.resources import estimate
from fpga.synthesis import synthesize
from lmaunet.scan.vectors import synthetic


def main(arguments: argparse.Namespace) -> int:
    scan = synthetic(arguments.channels, arguments.states, 256).scan
    formats = scan.spec.formats
    for folding in arguments.foldings.split(","):
        pd, pn = (int(v) for v in folding.split("x"))
        module = core(scan, arguments.length, pd, pn)
        start = time.monotonic()
        found = synthesize(module, arguments.family, wasm_cache=arguments.wasm_cache)
        estimated = estimate(
            "SelectiveScan",
            {
                "NumChannels": arguments.channels, "States": arguments.states, "PD": pd, "PN": pn,
                "StateBits": formats["state"].bits, "ABits": formats["rate"].bits,
                "DeltaBits": formats["delta"].bits, "DBits": formats["skip"].bits,
            },
        )  # fmt: skip
        distributed = sum(m.lutram for m in estimated.memories if m.distributed)
        blocks = sum(m.bram18 for m in estimated.memories if not m.distributed)
        print(
            f"PD {pd} PN {pn}: LUT {found.lut} ({found.lut_memory} as memory), FF {found.ff}, "
            f"DSP {found.dsp}, BRAM18 {found.bram18}; estimated LUT {estimated.lut + distributed}, "
            f"DSP {estimated.dsp}, BRAM18 {blocks} ({time.monotonic() - start:.0f} s)",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--states", type=int, default=16)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--foldings", default="1x4,1x16")
    parser.add_argument("--family", default="xcup")
    parser.add_argument("--wasm-cache", type=Path, default=None)
    raise SystemExit(main(parser.parse_args()))
