"""Which memories a design has, what they hold, and which kind of memory on the board holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmaunet.fpga.board.memories import KINDS, Located
from lmaunet.fpga.sizing.design import Design

PURPOSES = {
    "weights": "weights",
    "vectors": "vectors that matrix units reuse",
    "line": "line buffers of windows",
    "row": "rows to upsample",
    "rows": "rows of blocks of pixels",
    "multipliers": "requantization constants",
    "offsets": "requantization constants",
    "state": "scan state",
    "A": "scan constants",
    "D": "scan constants",
}
JOIN_FIFOS, OTHER_FIFOS = "FIFOs at joins, such as skips", "other FIFOs"
SHOWN_FIFOS = 8


def memory_rows(design: Design, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row for each memory of a design, in plain JSON.

    Args:
        design: the design.
        names: of the nodes in the hardware graph, by their first output.
    """
    at_joins = {
        tensor for node in design.nodes if node.operator.joins for tensor in node.step.inputs
    }
    return [
        {
            "node": names.get(found.node, found.node),
            "purpose": _purpose(found, at_joins),
            "stream": found.memory.stream,
            "width": found.memory.width,
            "depth": found.memory.depth,
            "bits": found.memory.bits,
            "constant": found.memory.initialised,
            "kind": found.kind,
            "taken": found.taken,
        }
        for found in design.located()
    ]


def _purpose(found: Located, at_joins: set[str]) -> str:
    if found.memory.purpose == "fifo":
        return JOIN_FIFOS if found.memory.stream in at_joins else OTHER_FIFOS
    return PURPOSES.get(found.memory.purpose, found.memory.purpose)


def memory_map(
    rows: list[dict[str, Any]], design: Design, parts: Mapping[str, str], depths: str
) -> dict[str, Any]:
    """Return the memories by purpose, and the largest FIFOs, in plain JSON.

    Args:
        rows: what :func:`memory_rows` returned.
        design: the design.
        parts: of the network, by node; see :func:`lmaunet.fpga.sizing.part_times.parts_of`.
        depths: the provenance of the FIFOs' depths, ``simulated`` or ``estimated``.
    """
    purposes: dict[str, dict[str, Any]] = {}
    for row in rows:
        kind = {"purpose": row["purpose"], "count": 0, "bits": 0} | dict.fromkeys(KINDS, 0)
        entry = purposes.setdefault(row["purpose"], kind)
        entry["count"] += 1
        entry["bits"] += row["bits"]
        entry[row["kind"]] += row["taken"]
    total = sum(row["bits"] for row in rows)
    for entry in purposes.values():
        entry["share_of_bits"] = entry["bits"] / total
    made = {t: parts[node.name] for node in design.nodes for t in node.step.outputs}
    used = {t: parts[node.name] for node in design.nodes for t in node.step.inputs}
    fifos = sorted((row for row in rows if row["stream"]), key=lambda row: -row["bits"])
    return {
        "placed_provenance": "estimated",
        "depths_provenance": depths,
        "bits": total,
        "purposes": sorted(purposes.values(), key=lambda entry: -entry["bits"]),
        "fifos": [
            {
                "stream": row["stream"],
                "from": made[row["stream"]],
                "to": used.get(row["stream"], "output"),
                "width": design.fifos[row["stream"]].bits,
                "depth": design.fifos[row["stream"]].depth,
                "bits": design.fifos[row["stream"]].bits * design.fifos[row["stream"]].depth,
                "kind": row["kind"],
                "taken": row["taken"],
            }
            for row in fifos[:SHOWN_FIFOS]
        ],
    }
