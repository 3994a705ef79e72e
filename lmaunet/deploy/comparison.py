"""One table of all figures, FP32 first, and what a target was timed beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmaunet.deploy.decision import UNKNOWN, float32_mb
from lmaunet.deploy.detail import counts
from lmaunet.deploy.figures import LABELS, Shown, number_text


def comparison(
    report: Mapping[str, Any], targets: list[dict[str, Any]], reference: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows: ``label``, ``first`` (FP32's cells), ``cells`` (a triple for each target).

    A triple is a :class:`Shown` or a text, a note, and whether the target's gate on it failed. FP32
    was timed in turns with each target, so that it has a time for each.
    """
    failed = {
        (gate["name"], gate["target"]) for gate in report["gates"] if gate["state"] == "failed"
    }
    rows = []
    for key, label in LABELS.items():
        first = {"dice": [reference["dice"]], "hd95_mm": [reference["hd95_mm"]]}.get(key, [])
        if key in ("size_mb", "latency_ms"):
            first = _of_float32(report, key)
        cells = [
            (
                target["figures"][key],
                target["worst"]["name"] if key == "class_drop_points" and target["worst"] else "",
                (key, target["name"]) in failed,
            )
            for target in targets
        ]
        rows.append({"label": label, "first": first, "cells": cells})
    for label, ratio in (("Speed-up on FP32", _speed_up), ("FP32's size over it", _compression)):
        of_targets = [ratio(report["targets"][target["name"]], report) for target in targets]
        cells = [(text, "", False) for text in of_targets]
        rows.append({"label": label, "first": ["1x"], "cells": cells})
    return rows


def _of_float32(report: Mapping[str, Any], key: str) -> list[Any]:
    """Return FP32's sizes or times, each with the target in whose form or turns it was taken."""
    own = {"size_mb": "size_mb", "latency_ms": "median_ms"}[key]
    found: list[Any] = []
    for name, target in report["targets"].items():
        beside = target["detail"].get("float32")
        if isinstance(beside, Mapping) and counts(beside.get(own)):
            unit = "MB" if key == "size_mb" else "ms"
            mark = f"as {name}"
            if key == "latency_ms" and beside.get("unsteady") is True:
                mark += ", unsteady"
            number = number_text(key, beside[own])
            found.append(Shown(key, number, unit, "measured", mark=mark))
    size = report["reference"].get("size_mb", {})
    if key == "size_mb" and "value" in size:
        number = number_text(key, size["value"])
        found.append(Shown(key, number, "MB", size["provenance"], mark="as ONNX"))
    return found or [UNKNOWN]


def _speed_up(target: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    beside = target["detail"].get("float32")
    value = beside.get("speed_up") if isinstance(beside, Mapping) else None
    return f"{value:.2f}x" if counts(value) else UNKNOWN


def _compression(target: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    whole, own = float32_mb(target, report["reference"]), target["size_mb"].get("value")
    return UNKNOWN if whole is None or own is None else f"{whole / own:.1f}x"


def conditions(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the report was made on, and how loaded it was, in words."""
    found = report["made"].get("system")
    if not isinstance(found, Mapping):
        return []
    rows = [
        ("Processor", str(found.get("cpu", UNKNOWN))),
        ("Cores", str(found.get("cores", UNKNOWN))),
    ]
    memory = found.get("memory_mb")
    rows.append(("Memory", f"{memory:,} MB" if counts(memory) else UNKNOWN))
    rows.append(("System", str(found.get("system", UNKNOWN))))
    rows.append(("Load average when the report was made", str(found.get("load_average", UNKNOWN))))
    return rows
