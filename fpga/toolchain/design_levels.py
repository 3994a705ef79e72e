"""How deep the logic of each distinct module of a design is, and its largest enable: by yosys.

Each is synthesised once (7 series where it has DSPs, because yosys fills the DSPs of that one, else
UltraScale+) and held to the limits of a clock,
:class:`lmaunet.fpga.toolchain.netlist_levels.Limits`. That is no timing: nothing is placed. What
was found is kept in a folder, so that a run that was interrupted goes on where it was, and a design
like the last one takes seconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.fpga.operators.rtl_module import RtlModule
from lmaunet.fpga.toolchain import netlist_levels, yosys
from lmaunet.fpga.toolchain.design_parts import Part, digest
from lmaunet.fpga.toolchain.netlist_levels import Limits, Measured, measure, read_netlist
from lmaunet.fpga.toolchain.yosys import TooSlow, for_dsp48e1, netlist_name, synthesize_netlists
from lmaunet.stage import read_json, write_json

SHOWN = 5
TIMEOUT_S = 900.0
BATCH, BATCH_LUT = 16, 4000
"""Modules, and estimated LUTs, of a run of yosys at most: it reads its library once for all."""
HOW = hashlib.sha256(
    b"".join(Path(str(module.__file__)).read_bytes() for module in (yosys, netlist_levels))
).hexdigest()
"""Of what synthesises and counts: what was found in another way is not taken for the same."""
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


@dataclass(frozen=True)
class Kept:
    """A folder of what was found of modules before, by their digests and by :data:`HOW`."""

    folder: Path

    def find(self, module: RtlModule, family: str) -> Measured | None:
        """Return what is known of a module; None where nothing is, or nothing can be read."""
        try:
            return Measured(**read_json(self._place(module, family)))
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, module: RtlModule, family: str, found: Measured) -> None:
        """Keep what was found of a module."""
        place = self._place(module, family)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, dataclasses.asdict(found))

    def _place(self, module: RtlModule, family: str) -> Path:
        return self.folder / HOW[:16] / f"{digest(module, family)}.json"


def synthesize_levels(
    modules: Sequence[RtlModule], family: str, kept: Kept, timeout_s: float | None = TIMEOUT_S
) -> None:
    """Find what bounds the clock of modules in one run of yosys, and keep it.

    Where that takes too long, each is tried alone; one that takes longer still is left out.

    Args:
        modules: the modules.
        family: to synthesise them for.
        kept: where it is kept.
        timeout_s: after how long a run is stopped.

    Raises:
        ToolNotFound: without yosys.
        UserError: where yosys refuses a module.
    """
    with tempfile.TemporaryDirectory() as name:
        given = [for_dsp48e1(module) if family == "xc7" else module for module in modules]
        try:
            path = synthesize_netlists(given, Path(name), family, timeout_s)
        except TooSlow:
            for module in modules if len(modules) > 1 else ():
                synthesize_levels([module], family, kept, timeout_s)
            return
        for number, module in enumerate(modules):
            kept.keep(module, family, measure(read_netlist(path, netlist_name(number))))


def count_levels(
    parts: Sequence[Part],
    limits: Limits,
    cache: Path,
    progress: Callable[[str], None],
    timeout_s: float | None = TIMEOUT_S,
    only_known: bool = False,
) -> list[dict[str, Any]]:
    """Return a row for each distinct module of a design, the cheapest first.

    ``name`` is that of one of the parts, ``count`` how many there are; then what
    :class:`Measured` holds and ``exceeded``, a line for each limit. ``levels`` is None where yosys
    took longer than ``timeout_s`` or, with ``only_known``, where nothing is in ``cache``. As many
    runs of yosys as there are cores are made at a time.

    Raises:
        ToolNotFound, UserError: see :func:`synthesize_levels`.
    """
    groups = list(distinct(parts).values())
    kept = Kept(cache)
    firsts = [group[0] for group in groups]
    known = [kept.find(part.module, family_of(part)) for part in firsts]
    unknown = [part for part, found in zip(firsts, known, strict=True) if not found]
    batches = [] if only_known else divide(unknown)
    done = itertools.count(1)

    def run(batch: list[Part]) -> None:
        names = ", ".join(dict.fromkeys(part.operator for part in batch))
        progress(f"levels of {len(batch)} modules, batch {next(done)} of {len(batches)}: {names}")
        modules = [part.module for part in batch]
        synthesize_levels(modules, family_of(batch[0]), kept, timeout_s)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, batches))
    found = [kept.find(part.module, family_of(part)) for part in firsts]
    return [_row(group, of, limits) for group, of in zip(groups, found, strict=True)]


def divide(parts: Sequence[Part]) -> list[list[Part]]:
    """Return parts in batches of one family, a run of yosys each, in the order in which they came.

    A batch has at most :data:`BATCH` modules of at most :data:`BATCH_LUT` estimated LUTs in all, or
    is one module.
    """
    batches: list[list[Part]] = []
    open_batches: dict[str, tuple[list[Part], int]] = {}
    for part in parts:
        family, lut = family_of(part), part.placed.lut
        batch, luts = open_batches.get(family, ([], 0))
        if not batch or len(batch) == BATCH or luts + lut > BATCH_LUT:
            batch, luts = [], 0
            batches.append(batch)
        batch.append(part)
        open_batches[family] = batch, luts + lut
    return batches


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
