"""How deep the logic of each distinct module of a design is, and its largest enable: by yosys.

Each is synthesised once (7 series where it has DSPs, because yosys fills the DSPs of that one, else
UltraScale+) and held to the limits of a clock, :class:`fpga.toolchain.netlist_levels.Limits`. That
is no timing: nothing is placed. What was found is kept in a folder, so that a run that was
interrupted goes on where it was, and a design like the last one takes seconds.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fpga.operators.rtl_module import RtlModule
from fpga.toolchain.design_parts import Part, digest
from fpga.toolchain.netlist_levels import Limits, Measured, measure, read_netlist
from fpga.toolchain.yosys import TooSlow, for_dsp48e1, synthesize_netlist
from lmaunet.stage import read_json, write_json

SHOWN = 5
TIMEOUT_S = 900.0
PROVENANCE = "synthesised by yosys; nothing is placed or timed"


def family_of(part: Part) -> str:
    """Return the family to synthesise a part for."""
    return "xc7" if part.placed.dsp else "xcup"


def distinct(parts: Sequence[Part]) -> dict[str, list[Part]]:
    """Return the parts by their modules' digests, the cheapest module first."""
    found: dict[str, list[Part]] = {}
    for part in sorted(parts, key=lambda part: part.placed.lut + part.placed.ff):
        found.setdefault(digest(part.module, family_of(part)), []).append(part)
    return found


def levels_of(
    module: RtlModule, family: str, cache: Path, timeout_s: float | None = TIMEOUT_S
) -> Measured | None:
    """Return what of a module bounds its clock; None where yosys is too slow.

    Args:
        module: the module.
        family: to synthesise it for.
        cache: the folder of what was found before.
        timeout_s: after how long yosys is stopped.

    Raises:
        ToolNotFound: without yosys.
        UserError: where yosys refuses the module.
    """
    place = cache / f"{digest(module, family)}.json"
    known = _read(place)
    if known:
        return known
    with tempfile.TemporaryDirectory() as name:
        given = for_dsp48e1(module) if family == "xc7" else module
        try:
            path = synthesize_netlist(given, Path(name), family, timeout_s)
        except TooSlow:
            return None
        found = measure(read_netlist(path))
    cache.mkdir(parents=True, exist_ok=True)
    write_json(place, dataclasses.asdict(found))
    return found


def _read(place: Path) -> Measured | None:
    """Return what a file of the cache says; None where there is none, or none that can be read."""
    try:
        return Measured(**read_json(place))
    except (OSError, ValueError, TypeError):
        return None


def count_levels(
    parts: Sequence[Part],
    limits: Limits,
    cache: Path,
    progress: Callable[[str], None],
    timeout_s: float | None = TIMEOUT_S,
) -> list[dict[str, Any]]:
    """Return a row for each distinct module of a design, the cheapest first.

    ``name`` is that of one of the parts, ``count`` how many there are; then what
    :class:`Measured` holds and ``exceeded``, a line for each limit. ``levels`` is None where yosys
    took longer than ``timeout_s``. As many modules as there are cores are synthesised at a time.

    Raises:
        ToolNotFound, UserError: see :func:`levels_of`.
    """
    groups = list(distinct(parts).values())

    def one(number: int) -> Measured | None:
        part = groups[number][0]
        progress(f"levels of {part.operator}, module {number + 1} of {len(groups)}: {part.name}")
        return levels_of(part.module, family_of(part), cache, timeout_s)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(one, range(len(groups))))
    return [_row(group, of, limits) for group, of in zip(groups, found, strict=True)]


def _row(group: Sequence[Part], found: Measured | None, limits: Limits) -> dict[str, Any]:
    row = {"name": group[0].name, "operator": group[0].operator, "count": len(group)}
    if found is None:
        return row | {"levels": None, "exceeded": []}
    return row | dataclasses.asdict(found) | {"exceeded": found.exceeded(limits)}


def summarize(rows: Sequence[Mapping[str, Any]], limits: Limits) -> dict[str, Any]:
    """Return the limits, how many modules were held to them, and the five deepest.

    ``clock_suggested_mhz``: what the deepest of all suggests, None where none was counted.
    """
    known = [row for row in rows if row["levels"] is not None]
    deepest = sorted(known, key=lambda row: (-row["levels"], -row["luts"], row["name"]))
    return {
        "limits": dataclasses.asdict(limits) | {"levels": limits.levels},
        "modules": len(rows),
        "not_synthesised": [row["name"] for row in rows if row["levels"] is None],
        "exceeding": sum(bool(row["exceeded"]) for row in known),
        "most_enable_loads": max((row["enable_loads"] for row in known), default=0),
        "clock_suggested_mhz": limits.clock_mhz(deepest[0]["levels"]) if deepest else None,
        "deepest": deepest[:SHOWN],
        "provenance": PROVENANCE,
    }
