"""What each part of a network does over one image: when its first value and its last come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmaunet.fpga.operators.selective_scan import SelectiveScan
from lmaunet.fpga.sizing.folding import FoldedNode


def parts_of(nodes: Sequence[FoldedNode], origins: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the network that each node belongs to.

    A part is what the network's own module is called, such as ``decoder.0``; an operator between
    two modules, such as a pooling, belongs to the one behind it. A module with a scan is divided
    into what is before Mamba (``large kernel``), Mamba up to its scan, the scan, and the rest.

    Args:
        nodes: in topological order.
        origins: of each node, by its first output, the QONNX node that it comes from.
    """
    modules: dict[str, str] = {}
    behind = "output"
    for node in reversed(nodes):
        places = origins[node.name].strip("/").split("/")
        if len(places) > 1:  # the path of a module, /shallow/0/..., and of no module /Mul_1
            behind = ".".join(places[:2] if places[1].isdecimal() else places[:1])
        modules[node.name] = behind
    with_scan = {modules[node.name] for node in nodes if isinstance(node.operator, SelectiveScan)}
    found: dict[str, str] = {}
    scanned: dict[str, str] = {}  # the module of what comes from its scan, by tensor
    for node in nodes:
        module = modules[node.name]
        if module not in with_scan:
            found[node.name] = module
            continue
        after = any(scanned.get(tensor) == module for tensor in node.step.inputs)
        is_scan = isinstance(node.operator, SelectiveScan)
        if is_scan or after:
            scanned |= dict.fromkeys(node.step.outputs, module)
        if is_scan:
            found[node.name] = f"{module} scan"
        elif after:
            found[node.name] = f"{module} gate and sum"
        else:
            mamba = "mamba" in origins[node.name].split("/")
            found[node.name] = f"{module} {'Mamba' if mamba else 'large kernel'}"
    return found


def pipeline(
    nodes: Sequence[FoldedNode],
    parts: Mapping[str, str],
    source: str,
    begins: Mapping[str, float],
    ends: Mapping[str, float],
    *,
    latency: float,
    clock_mhz: float,
    provenance: str,
) -> dict[str, Any]:
    """Return the parts in the order of the data, each with its first and last cycle, as JSON.

    Args:
        nodes: in topological order.
        parts: what :func:`parts_of` returned.
        source: the network's input tensor; the image is the first part.
        begins, ends: cycle of the first and the last word of each tensor.
        latency: cycles of the image.
        clock_mhz: turns cycles into ms.
        provenance: ``simulated`` or ``estimated``.
    """
    rows: dict[str, list[FoldedNode]] = {}
    for node in nodes:
        rows.setdefault(parts[node.name], []).append(node)

    def row(name: str, count: int, begin: float, end: float) -> dict[str, Any]:
        return {
            "name": name,
            "module": name.split(" ")[0],
            "nodes": count,
            "begin": round(begin),
            "end": round(end),
            "begin_ms": begin / clock_mhz / 1000,
            "end_ms": end / clock_mhz / 1000,
        }

    found = [row("image", 0, begins[source], ends[source])]
    for name, own in rows.items():
        # what only moves values may put out a border, or one input of several, before its part has
        # begun, and the border of an image that would follow after it has ended
        working = [node for node in own if not node.operator.moves_only] or own
        begin = min(begins[tensor] for node in working for tensor in node.step.outputs)
        end = max(ends[tensor] for node in working for tensor in node.step.outputs)
        found.append(row(name, len(own), begin, end))
    return {
        "provenance": provenance,
        "cycles": round(latency),
        "ms": latency / clock_mhz / 1000,
        "parts": found,
    }
