"""Synthesises, places and routes a simulated network with Vivado, and reads back what it reports.

What goes in is exactly the RTL that was simulated (``rtl/`` of a build), by ``implement.tcl``. Out
of context: the network alone, with a clock on its registers and without what surrounds it on a
board. The Tcl and the reading of the reports are tested with a stand-in for the program only; the
real tool was never run with them.
"""

from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.environment import VIVADO_FIX, vivado_place
from lmaunet.fpga.toolchain import vivado_reports as reports

SCRIPT = Path(__file__).with_name("implement.tcl")
FOLDER, TOP = "vivado", "network"
LAST_LINES = 15


@dataclass(frozen=True)
class Implemented:
    """What Vivado reports of a routed network; ``asked_mhz`` is the clock it was routed for."""

    version: str
    part: str
    asked_mhz: float
    timing: reports.Timing
    uses: Mapping[str, reports.Use]

    @property
    def clock_mhz(self) -> float:
        """The clock that it keeps: the one asked for, or a slower one where that is missed."""
        if self.timing.met:
            return self.asked_mhz
        return min(self.asked_mhz, self.timing.clock_mhz(period_ns(self.asked_mhz)))

    @property
    def clock_status(self) -> str:
        """Whether the clock is met, in words for the report."""
        how = f"in the static timing of Vivado {self.version}, network alone, routed"
        if self.timing.met:
            return f"met {how}: worst slack {min(self.timing.setup, self.timing.pulse):g} ns"
        return (
            f"the most that is kept {how}; {self.asked_mhz:g} MHz is missed: worst slack "
            f"{min(self.timing.setup, self.timing.pulse):g} ns"
        )

    def figures(self, detail: Mapping[str, Any]) -> dict[str, Any]:
        """Return what takes the place of a simulated build's estimates and assumed clock."""
        clock = self.clock_mhz
        return {
            "clock_mhz": clock,
            "clock_asked_mhz": self.asked_mhz,
            "clock_met": self.timing.met,
            "clock_status": self.clock_status,
            "latency_ms": detail["latency_cycles"] / clock / 1000,
            "interval_ms": detail["interval_cycles"] / clock / 1000,
            "resources": reports.to_json(self.uses),
            "resources_provenance": "measured",
            "resources_source": (
                f"Vivado {self.version}, report_utilization of the routed network, out of context: "
                "without DMA and interconnect"
            ),
            "estimated_resources": detail["resources"],
            "fits": all(use.used <= use.available for use in self.uses.values()),
        }

    def to_json(self) -> dict[str, Any]:
        """Return the figures in plain JSON."""
        slacks = {"setup": self.timing.setup, "hold": self.timing.hold, "pulse": self.timing.pulse}
        return {
            "tool": f"Vivado {self.version}",
            "part": self.part,
            "clock_asked_mhz": self.asked_mhz,
            "clock_mhz": self.clock_mhz,
            "clock_status": self.clock_status,
            "slack_ns": slacks,
            "resources": reports.to_json(self.uses),
        }


def period_ns(clock_mhz: float) -> float:
    """Return a clock's period in whole picoseconds, which Vivado counts in, rounded down."""
    return math.floor(1e6 / clock_mhz + 1e-6) / 1000


def write_scripts(folder: Path, part: str, clock_mhz: float) -> Path:
    """Write ``implement.tcl`` and what it reads into a folder beside ``rtl``; return its path."""
    folder.mkdir()
    (folder / "design.tcl").write_text(f"set part {part}\nset top {TOP}\n", encoding="utf-8")
    (folder / "clock.xdc").write_text(
        f"create_clock -name ap_clk -period {period_ns(clock_mhz):.3f} [get_ports ap_clk]\n"
    )
    return Path(shutil.copy(SCRIPT, folder / SCRIPT.name))


def implement(folder: Path, board: Board, clock_mhz: float, evidence: Path) -> Implemented:
    """Implement the network of ``folder/rtl`` in ``folder/vivado``; takes minutes to hours.

    Args:
        folder: of a build, with ``rtl`` as :func:`lmaunet.fpga.simulation.proof.write_design` wrote
        it.
        board: whose part to use.
        clock_mhz: to route for.
        evidence: where the log is kept when it fails.

    Raises:
        ToolNotFound: without Vivado.
        UserError: where Vivado fails or is killed, a memory's file was not read, a net is not
            routed, a hold time is violated, or a report cannot be read.
    """
    script = write_scripts(folder / FOLDER, board.part, clock_mhz)
    log = script.with_name("vivado.log")
    try:
        run(script, log)
        require_memories(log.read_text(errors="replace"))
        routed, timing, used = (
            _report(script.with_name(f"{name}.rpt")) for name in ("route", "timing", "utilization")
        )
        reports.require_routed(routed)
        found = Implemented(
            reports.read_version(used), board.part, clock_mhz,
            reports.read_timing(timing), reports.read_utilisation(used, board),
        )  # fmt: skip
        _ = found.clock_mhz  # there is none where a hold time is violated
    except ToolNotFound:
        raise
    except UserError as error:
        raise UserError(f"{error}{keep_evidence(script.parent, evidence)}") from error
    return found


def run(script: Path, log: Path) -> None:
    """Run a Tcl script with Vivado in the script's folder, all that it says into a log.

    Raises:
        ToolNotFound: without Vivado.
        UserError: where it fails or is killed, with the last lines of the log.
    """
    program = vivado_place()
    if not program:
        raise ToolNotFound("vivado", "to synthesise, place and route the network", VIVADO_FIX)
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(
            [program, "-mode", "batch", "-nolog", "-nojournal", "-source", script.name],
            cwd=script.parent, stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, check=False,
        ).returncode  # fmt: skip
    if status:
        lines = log.read_text(errors="replace").splitlines()
        how = f"ended with status {status}"
        if status < 0 or status > 128:
            number = -status if status < 0 else status - 128
            name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
            how = f"was killed by {name} (often for want of memory)"
        last = "\n".join(lines[-LAST_LINES:]) or "(it said nothing)"
        raise UserError(f"Vivado {how}; it said last:\n{last}")


def require_memories(log: str) -> None:
    """Raise :class:`UserError` where a log says that a memory's file was not read.

    Vivado goes on with an empty memory: all figures would be those of another, smaller design.
    """
    wrong = re.search(r"^(?:CRITICAL WARNING|WARNING|ERROR):.*\$readmem.*$", log, re.M)
    if wrong:
        raise UserError(f"Vivado did not read the file of a memory: {wrong[0]}")


def keep_evidence(folder: Path, evidence: Path) -> str:
    """Copy logs and reports to where they survive the build's folder; return a note on it."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".log", ".rpt")]
    place = evidence / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    for path in kept:
        copy = place / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return f"\nits log and reports are in {place}" if kept else ""


def _report(path: Path) -> str:
    if not path.exists():
        raise UserError(f"Vivado ended without an error but wrote no {path.name}")
    return path.read_text(errors="replace")
