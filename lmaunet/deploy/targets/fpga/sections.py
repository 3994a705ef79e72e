"""What the report shows of the hardware inside a target: from its ``detail``, where it has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.deploy.detail import counts, provenance_of
from lmaunet.deploy.figures import WORDS, Shown, number_text
from lmaunet.deploy.targets.fpga.pipeline_picture import layout

RESOURCES = {
    "lut": "LUT", "ff": "FF", "dsp": "DSP", "bram36": "BRAM36", "uram": "UltraRAM",
    "lutram": "LUT", "dram": "MB/s of DRAM", "dram_mb_s": "DRAM, MB/s",
}  # fmt: skip
KINDS = {"lutram": "LUT RAM", "bram36": "block RAM", "uram": "UltraRAM"}


def inside(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return every section that the detail has something for; empty where it has none."""
    sections = {
        "pipeline": layout(detail["pipeline"]) if "pipeline" in detail else None,
        "slowest": slowest_layers(detail),
        "largest": largest_layers(detail),
        "deepest": deepest_modules(detail),
        "resources": resources(detail),
        "memories": memories(detail),
        "integers": list(integers(detail)),
    }
    return sections if any(sections.values()) else {}


def _rows(detail: Any, key: str, *numbers: str) -> list[Mapping[str, Any]]:
    """Return the objects of a list in which these are numbers above 0; others are skipped."""
    rows = detail.get(key) if isinstance(detail, Mapping) else None
    return [
        row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, Mapping) and counts(*(row.get(number) for number in numbers))
    ]


def _amount(value: float) -> str:
    """Return a count; block RAMs come in halves."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def resources(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the design uses of the board: name, used, available, usable, share."""
    uses = detail.get("resources")
    if not isinstance(uses, Mapping):
        return []
    provenance = provenance_of(detail, "resources")
    usable = detail.get("usable")
    limits = usable if isinstance(usable, Mapping) else {}
    return [
        {
            "name": RESOURCES.get(name, str(name).upper()),
            "shown": Shown("resource", _amount(use["used"]), "", provenance),
            "available": _amount(use["available"]),
            "usable": _amount(int(limits[name])) if counts(limits.get(name)) else "",
            "share": use["used"] / use["available"],
            "over": use["used"] > (limits[name] if counts(limits.get(name)) else use["available"]),
        }
        for name, use in uses.items()
        if isinstance(use, Mapping)
        and counts(use.get("available"))
        and (use.get("used") == 0 or counts(use.get("used")))
    ]


def _called(layer: Mapping[str, Any]) -> tuple[str, str]:
    """Return the part of the network that a layer is of, where it is known, and what it is."""
    name, origin = str(layer["name"]), layer.get("origin")
    if not isinstance(origin, str) or not origin:
        return name, str(layer.get("op", ""))
    place = re.sub(r"/(conv/Conv|act_quant/export_handler\w*/Quant)$", "", origin)
    return place.strip("/").replace("/", "."), name


def slowest_layers(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the slowest layers, slowest first: name, op, cycles, share of the slowest's."""
    layers = [layer for layer in _rows(detail, "slowest", "cycles") if "name" in layer]
    layers.sort(key=lambda layer: -layer["cycles"])
    provenance = provenance_of(detail, "slowest")
    return [
        {
            **dict(zip(("name", "op"), _called(layer), strict=True)),
            "shown": Shown("cycles", f"{layer['cycles']:,}", "cycles", provenance),
            "share": layer["cycles"] / layers[0]["cycles"],
        }
        for layer in layers
    ]


def largest_layers(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the layers that take most of the board, as the detail orders them."""
    provenance = provenance_of(detail, "largest")
    return [
        {
            **dict(zip(("name", "op"), _called(layer), strict=True)),
            "shown": Shown(
                "largest",
                _amount(layer["used"]),
                f"{RESOURCES.get(layer['resource'], layer['resource'])}, "
                f"{number_text('share', 100 * layer['share'])}%",
                provenance,
            ),
            "share": layer["share"],
        }
        for layer in _rows(detail, "largest", "used", "share")
        if "name" in layer and isinstance(layer.get("resource"), str)
    ]


def deepest_modules(detail: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the modules with the most levels of logic beside what a clock allows, or None.

    ``limit``, ``loads``: the most levels, and loads of an enable; ``modules``: how many are
    distinct, ``counted`` of them, ``exceeding`` a limit. A row's share is of the limit.
    """
    levels = detail.get("levels")
    limits = levels.get("limits") if isinstance(levels, Mapping) else None
    rows = _rows(levels, "deepest", "levels")
    if not isinstance(levels, Mapping) or not isinstance(limits, Mapping) or not rows:
        return None
    limit, loads, modules = limits.get("levels"), limits.get("enable_loads"), levels.get("modules")
    if not isinstance(modules, int) or not counts(limit, loads, modules):
        return None
    left_out = levels.get("not_synthesised")
    exceeding = levels.get("exceeding")
    return {
        "limit": limit,
        "loads": loads,
        "modules": modules,
        "counted": modules - (len(left_out) if isinstance(left_out, list) else 0),
        "exceeding": exceeding if isinstance(exceeding, int) else 0,
        "rows": [
            {
                **dict(zip(("name", "op"), _called({**row, "op": row["operator"]}), strict=True)),
                "shown": Shown(
                    "levels", _amount(row["levels"]),
                    f"levels, enable of {_amount(row.get('enable_loads') or 0)}", "estimated",
                ),
                "share": row["levels"] / limit,
            }
            for row in rows
            if isinstance(row.get("name"), str) and isinstance(row.get("operator"), str)
        ],
    }  # fmt: skip


def memories(detail: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the memories by what they hold and the largest FIFOs, or None."""
    found = detail.get("memories")
    rows = _rows(found, "purposes", "bits", "share_of_bits")
    if not isinstance(found, Mapping) or not rows:
        return None
    placed, depths = provenance_of(found, "placed"), provenance_of(found, "depths")
    return {
        "word": WORDS[placed],
        "provenance": placed,
        "depths_word": WORDS[depths],
        "depths_provenance": depths,
        "total": bits_text(found["bits"]) if counts(found.get("bits")) else "",
        "rows": [
            {
                "purpose": str(row.get("purpose", "")),
                "count": _amount(row["count"]) if counts(row.get("count")) else "",
                "bits": bits_text(row["bits"]),
                "share": row["share_of_bits"],
                "kinds": [_amount(row[k]) if counts(row.get(k)) else "" for k in KINDS],
            }
            for row in rows
        ],
        "fifos": [
            {
                "path": f"{row.get('from', '')} \u2192 {row.get('to', '')}",
                "depth": _amount(row["depth"]),
                "width": _amount(row["width"]),
                "bits": bits_text(row["bits"]),
                "place": f"{_amount(row['taken'])} {RESOURCES.get(str(row.get('kind')), '')}",
            }
            for row in _rows(found, "fifos", "depth", "width", "bits", "taken")
        ],
    }


def bits_text(bits: float) -> str:
    """Return a number of bits in Mbit or kbit of 10^6 and 10^3 bits."""
    return f"{bits / 1e6:,.2f} Mbit" if bits >= 1e5 else f"{bits / 1e3:,.1f} kbit"


def integers(detail: Mapping[str, Any]) -> Iterable[tuple[str, Shown, str]]:
    """Yield how near the integers are to the network that they stand for: label, figure, note."""
    network = detail.get("network")
    network = network if isinstance(network, Mapping) else {}
    if counts(network.get("logits_sqnr_db")):
        yield (
            "Logits",
            _decibels(network["logits_sqnr_db"]),
            "signal to noise against the quantized network that was exported",
        )
    if counts(network.get("classes_equal")):
        shown = Shown("classes", _percent(network["classes_equal"]), "", "measured")
        yield "Pixels with the same class", shown, "as the quantized network gives them"
    for scan in _rows(detail, "scans", "sqnr_db", "ideal_sqnr_db"):
        name = re.sub(r"(/scan)?/act_quant/.*", "", str(scan.get("origin", "")))
        name = name.strip("/").replace("/", ".")
        note = f"{scan['ideal_sqnr_db']:.1f} dB measured if only its output were rounded"
        if counts(scan.get("n_total")) and isinstance(scan.get("n_differ"), int):
            note += f"; {scan['n_differ']:,} of {scan['n_total']:,} codes differ"
        yield f"Scan of {name}", _decibels(scan["sqnr_db"]), note
    simulation = detail.get("simulation")
    if isinstance(simulation, Mapping) and simulation.get("bit_exact") is True:
        shown = Shown("rtl", "100%", "of the values", "simulated")
        proof = simulation.get("proof")
        compared = f"{simulation['images']} images; " if counts(simulation.get("images")) else ""
        if isinstance(proof, Mapping):
            compared = (
                f"all {proof['streams_compared']:,} streams of {proof['images']} images, "
                f"{proof['images_with_stalls']} more with stalls, compared with "
                f"{proof['compared_with']}; "
            )
        note = f"{compared}they are the integers that the accuracy was measured with"
        yield "RTL of the whole design", shown, note


def _decibels(value: float) -> Shown:
    return Shown("sqnr_db", f"{value:.1f}", "dB", "measured")


def _percent(share: float) -> str:
    """Return a share in percent, which is 100% only where it is exactly that."""
    decimals = 2
    while share < 1 and decimals < 12 and round(100 * share, decimals) == 100:
        decimals += 1
    return "100%" if share == 1 else f"{100 * share:.{decimals}f}%"
