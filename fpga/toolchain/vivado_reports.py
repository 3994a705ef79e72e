"""Reads Vivado's text reports: timing summary, utilisation, state of the routing.

Each figure is looked for where the tables of ``report_timing_summary``, ``report_utilization`` and
``report_route_status`` have it, by the names of its row and column. One that is not there is an
error, never 0. Written after the layout of reports of Vivado 2020 to 2024; no report was made by
this program's own run of the tool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import Board

SLACKS = ("WNS", "WHS", "WPWS")
ROWS = {
    "lut": "CLB LUTs",
    "ff": "CLB Registers",
    "dsp": "DSPs",
    "bram36": "Block RAM Tile",
    "uram": "URAM",
}


@dataclass(frozen=True)
class Timing:
    """The worst slacks of a routed design in ns.

    ``setup`` (WNS), ``hold`` (WHS) and ``pulse`` (WPWS); a negative one is a violation.
    """

    setup: float
    hold: float
    pulse: float

    @property
    def met(self) -> bool:
        """Whether nothing is violated."""
        return min(self.setup, self.hold, self.pulse) >= 0

    def clock_mhz(self, period_ns: float) -> float:
        """Return the clock that the design keeps, at most the one that it was routed for.

        A path needs its violation more of a period. A pulse that is too short is at least a half
        period, so that it needs twice its violation.

        Args:
            period_ns: of the clock that the design was routed for.

        Raises:
            UserError: where a hold time is violated, which no slower clock repairs.
        """
        if self.hold < 0:
            raise UserError(
                f"the routed design violates a hold time by {-self.hold:g} ns, expected a slack of "
                "0 or more: it works at no clock; route it again with another Vivado or board"
            )
        return 1000 / (period_ns + max(-self.setup, -2 * self.pulse, 0.0))


@dataclass(frozen=True)
class Use:
    """What a design uses of one resource, and what the device has; in 36 kbit for block RAM."""

    used: float
    available: float


def read_timing(report: str) -> Timing:
    """Return the worst slacks of a ``report_timing_summary``.

    Raises:
        UserError: where the table is not found, or nothing was timed.
    """
    heading, _, table = report.partition("| Design Timing Summary")
    lines = table.splitlines() if heading != report else []
    at = next((i for i, line in enumerate(lines) if line.split()[:1] == ["WNS(ns)"]), None)
    if at is None or len(lines) < at + 3:
        raise _unreadable("timing summary", "a Design Timing Summary with WNS(ns)")
    # columns are two spaces or more apart; some names have single spaces
    names = [name.removesuffix("(ns)") for name in re.split(r" {2,}", lines[at].strip())]
    values = dict(zip(names, lines[at + 2].split(), strict=False))
    try:
        return Timing(*(float(values[name]) for name in SLACKS))
    except (KeyError, ValueError) as error:
        raise _unreadable(
            "timing summary", f"numbers for {', '.join(SLACKS)}, got {lines[at + 2].strip()!r}"
        ) from error


def read_utilisation(report: str, board: Board) -> dict[str, Use]:
    """Return what a ``report_utilization`` counts, by the names of :data:`ROWS`.

    Raises:
        UserError: where a row is missing (UltraRAM may be, on a device without), or where a module
            was left out as a black box, so that the counts are not those of the design.
    """
    found: dict[str, Use] = {}
    columns: list[str] = []
    for line in report.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if "Used" in cells and "Available" in cells:
            columns = cells
        key = next((k for k, row in ROWS.items() if cells and cells[0].rstrip("*") == row), None)
        if key is None or key in found or len(cells) != len(columns):
            continue
        try:
            found[key] = Use(*(float(cells[columns.index(c)]) for c in ("Used", "Available")))
        except ValueError as error:
            raise _unreadable("utilisation", f"numbers for {ROWS[key]}, got {line!r}") from error
    if not board.uram:
        found.setdefault("uram", Use(0, 0))
    missing = [row for key, row in ROWS.items() if key not in found]
    if missing:
        raise _unreadable("utilisation", f"rows for {', '.join(missing)}")
    boxes = re.search(r"^\d+\. Black Boxes\n-+\n(.*?)(?=^\d+\. |\Z)", report, re.M | re.S)
    rows = [line for line in boxes[1].splitlines() if line.startswith("|")] if boxes else []
    if len(rows) > 1:  # the first is the heading
        names = ", ".join(row.split("|")[1].strip() for row in rows[1:])
        raise UserError(f"Vivado left out {names} as a black box: its sources are not complete")
    return {key: found[key] for key in ROWS}


def read_version(report: str) -> str:
    """Return the version of Vivado in a report's head, such as ``2024.2``."""
    found = re.search(r"Tool Version\s*:\s*Vivado v\.(\S+)", report)
    if not found:
        raise _unreadable("utilisation", "a line Tool Version : Vivado v...")
    return found[1]


def require_routed(report: str) -> None:
    """Raise :class:`UserError` unless a ``report_route_status`` says that every net is routed."""
    counts = {
        name: int(value)
        for name, value in re.findall(r"^\s*# of ([a-z ]+?)\.*\s*:\s*(\d+)\s*:", report, re.M)
    }
    wanted = ("routable nets", "fully routed nets", "nets with routing errors")
    if any(name not in counts for name in wanted):
        raise _unreadable("route status", f"counts of {', '.join(wanted)}")
    nets, routed, wrong = (counts[name] for name in wanted)
    if wrong or routed != nets or not nets:
        raise UserError(
            f"Vivado routed {routed} of {nets} nets, {wrong} with errors; the design does not fit "
            "the board's wiring: use a larger board or a longer --target-ms"
        )


def to_json(uses: Mapping[str, Use]) -> dict[str, dict[str, float]]:
    """Return counts in plain JSON, whole ones as integers."""

    def number(value: float) -> float:
        return int(value) if value == int(value) else value

    return {
        key: {"used": number(use.used), "available": number(use.available)}
        for key, use in uses.items()
    }


def _unreadable(report: str, expected: str) -> UserError:
    return UserError(
        f"Vivado's {report} report is not laid out as expected: it lacks {expected}; this program "
        "knows the reports of Vivado 2020 to 2024"
    )
