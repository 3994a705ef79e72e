"""What a report shows, in the order in which it shows it; both of its forms are written from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lmaunet.deploy import gates as gating
from lmaunet.deploy.confidence_detail import confidence
from lmaunet.deploy.detail import detail_lines
from lmaunet.deploy.figures import (
    LABELS,
    OPTIONAL_LABELS,
    Missing,
    Shown,
    number_text,
    show,
)
from lmaunet.deploy.schema import OPTIONAL_UNITS, UNITS
from lmaunet.deploy.score_tables import organs, patients, unscored
from lmaunet.deploy.targets import Target, all_targets
from lmaunet.deploy.verdict import class_loss, unsteady

TOTALSEGMENTATOR = (
    "The labels are TotalSegmentator's output, not a radiologist's: Dice is agreement with it, "
    "not clinical accuracy."
)
MANY_FILES = 10
SYNTHETIC = (
    "SYNTHETIC DATA. A program drew these images and their labels; no figure below says anything "
    "about images of patients."
)


def view(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what both forms show, in their order, as text and :class:`Shown`."""
    missing = Missing()
    targets = [_target(name, target, missing) for name, target in report["targets"].items()]
    reference = _reference(report["reference"], missing)
    model, data = report["model"], report["data"]
    return {
        "report": report,
        "model": model,
        "data": data,
        "facts": _facts(model, data, report["reference"]),
        "caution": SYNTHETIC if data["synthetic"] else _label_caution(data["label_source"]),
        "targets": targets,
        "ship": report.get("verdict", []),
        "gates": [_gate(gate, report["targets"], missing) for gate in report["gates"]],
        "verdict": _verdict(report),
        "reference": reference,
        "organs": organs(report),
        "patients": patients(report),
        "unscored": unscored(report),
        "quantization": _quantization(model, report["reference"]),
        "agreements": [
            *(("export", agreement) for agreement in model.get("export_agreements", ())),
            *(
                (name, agreement)
                for name, target in report["targets"].items()
                for agreement in target["agreement"]
            ),
        ],
        "files": [
            (name, file, f"{file['bytes']:,}", _megabytes(file["bytes"]))
            for name, target in report["targets"].items()
            for file in _files(target["files"])
        ],
        "missing": missing.entries,
        "labels": LABELS,
    }


def _label_caution(source: str) -> str:
    if "totalsegmentator" in source.lower():
        return TOTALSEGMENTATOR
    return ""


def _facts(
    model: Mapping[str, Any], data: Mapping[str, Any], reference: Mapping[str, Any]
) -> list[tuple[str, str]]:
    size = " \u00d7 ".join(str(n) for n in model["input"][1:])
    bits = ", ".join(
        f"{int(count):,} at {width} bits" for width, count in model["weight_bits"].items() if count
    )
    slices = data["slices"]
    if isinstance(slices, Mapping):
        slices = ", ".join(f"{count} {name}" for name, count in slices.items())
    cases = data["cases"]
    if isinstance(cases, list):
        more = f" and {len(cases) - 6} more" if len(cases) > 6 else ""
        cases = ", ".join(cases[:6]) + more
    facts = [
        ("Parameters", f"{model['params']:,}"),
        ("Multiply-accumulates", _scaled(model["macs"])),
        ("Input", size),
        ("Weights", bits or "not quantized"),
        ("Cases", str(cases)),
        ("Slices", str(slices)),
    ]
    if "network" in reference:
        facts.insert(0, ("FP32 network", str(reference["network"])))
    return facts


def _scaled(count: int) -> str:
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {suffix}"
    return str(count)


def _files(files: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the files, and a folder of many as one."""
    folders: dict[str, list[Mapping[str, Any]]] = {}
    for file in files:
        folder = file["name"].rpartition("/")[0]
        folders.setdefault(folder, []).append(file)
    shown: list[Mapping[str, Any]] = []
    for folder, inside in folders.items():
        if folder and len(inside) > MANY_FILES and not any(f.get("ships") for f in inside):
            size = sum(file["bytes"] for file in inside)
            inside = [{"name": f"{folder}/: {len(inside)} files", "bytes": size}]
        shown += inside
    return shown


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    states = [gate["state"] for gate in report["gates"]]
    counts = {s: states.count(s) for s in (gating.PASSED, gating.FAILED, gating.OPEN)}
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no gates"
    guessed = [g for g in report["gates"] if g.get("provenance", "measured") != "measured"]
    if guessed:
        text += f" ({len(guessed)} not on a measurement)"
    worse = [entry for entry in report["regressions"] if entry["kind"] != "note"]
    if worse:
        text += f"; {len(worse)} regression{'s' if len(worse) > 1 else ''}"
    state = gating.OPEN if counts[gating.OPEN] else gating.PASSED
    if counts[gating.FAILED] or worse:
        state = gating.FAILED
    return {"text": text, "state": state, "total": len(states)}


def _target(name: str, target: Mapping[str, Any], missing: Missing) -> dict[str, Any]:
    figures = {
        key: show(target[key], key, f"{name}: {LABELS[key]}", missing, mark=_mark(key, target))
        for key in UNITS
    }
    for key in OPTIONAL_UNITS:
        if key in target:
            show(target[key], key, f"{name}: {OPTIONAL_LABELS[key]}", missing)
    entry = all_targets().get(name)
    own = entry if isinstance(entry, Target) else None
    return {
        "name": name,
        "summary": target.get("summary", ""),
        "arithmetic": target["arithmetic"],
        "figures": figures,
        "worst": _worst(target),
        "interval": _interval(target),
        "detail": [*detail_lines(target), *(own.detail_lines(target["detail"]) if own else ())],
        "confidence": confidence(target),
        "inside": own.inside(target["detail"]) if own else {},
    }


def _mark(figure: str, target: Mapping[str, Any]) -> str:
    return "unsteady" if figure == "latency_ms" and unsteady(target["detail"]) else ""


def _worst(target: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the class that lost most: its name, its Dice in FP32 and now, and its loss."""
    worst = target.get("worst_class")
    if worst is None:
        return None
    return {
        "name": worst["class"],
        "before": _measured_dice(worst["reference"]),
        "now": Shown("dice", number_text("dice", worst["dice"]), "", target["dice"]["provenance"]),
        "loss": class_loss(worst),
    }


def _interval(target: Mapping[str, Any]) -> str:
    """Return how sure the mean drop is, where there are patients enough."""
    if "drop_interval" not in target:
        return ""
    low, high = (
        number_text("dice_drop_points", target["drop_interval"][k]) for k in ("low", "high")
    )
    level, count = target["drop_interval"]["level"], target["drop_interval"]["patients"]
    return f"{100 * level:g}% of {low} to {high} points over {count} patients"


def _gate(
    gate: Mapping[str, Any], targets: Mapping[str, Any], missing: Missing
) -> dict[str, Any]:  # fmt: skip
    name, key = gate["name"], f"{gate['target']}: {LABELS[gate['name']]}"
    unit = {"1": "", "points": "point" if gate["limit"] == 1 else "points"}.get(
        UNITS[name], UNITS[name]
    )
    beside = [
        (other, show(figure, other, f"{gate['target']}: {LABELS[other]}", missing))
        for other, figure in gate.get("beside", {}).items()
    ]
    target = targets[gate["target"]]
    return {
        "target": gate["target"],
        "label": LABELS[name],
        "shown": show(gate, name, key, missing, gate["limit"], _mark(name, target)),
        "limit": f"{gate.get('direction', gating.AT_MOST)} {gate['limit']:g} {unit}".rstrip(),
        "state": gate["state"],
        "why": gate.get("why", ""),
        "worst": _worst(target) if "class" in gate else None,
        "beside": beside,
        "share": min(max(gate["value"] / gate["limit"], 0.0), 1.0)
        if "value" in gate and gate["limit"] > 0
        else None,
    }


def _reference(reference: Mapping[str, Any], missing: Missing) -> dict[str, Any]:
    hd95, dice = reference["hd95_mm"], reference["dice"]["mean"]
    if not isinstance(hd95, Mapping):
        hd95 = {"value": hd95, "unit": "mm", "provenance": "measured"}
    if not isinstance(dice, Mapping):
        dice = {"value": dice, "unit": "1", "provenance": "measured"}
    return {
        "target": reference["target"],
        "dice": show(dice, "dice", f"FP32: {LABELS['dice']}", missing),
        "hd95_mm": show(hd95, "hd95_mm", f"FP32: {LABELS['hd95_mm']}", missing),
    }


def _measured_dice(value: float) -> Shown:
    return Shown("dice", number_text("dice", value), "", "measured")


def _known(reference: Mapping[str, Any]) -> float | None:
    dice = reference["dice"]["mean"]
    return None if isinstance(dice, Mapping) else dice


def _quantization(model: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the Dice of each step from FP32 to the quantized network on one zoomed axis."""
    steps = [
        ("FP32", "the trained network", model.get("float32", _known(reference)), "float"),
        ("FP32 control", "FP32, trained the same extra steps", model.get("control"), "float"),
        ("PTQ", "INT8 after calibration only", model.get("ptq"), "int"),
        ("QAT", "INT8 after quantization-aware training", model.get("qat"), "int"),
    ]
    known = [step for step in steps if step[2] is not None]
    if len(known) < 2:
        return None
    values = [value for _, _, value, _ in known]
    low = max(0.0, math.floor(min(values) * 50 - 0.5) / 50)
    high = min(1.0, math.ceil(max(values) * 50 + 0.5) / 50)
    return {
        "low": f"{low:.2f}",
        "high": f"{high:.2f}",
        "steps": [
            (name, what, _measured_dice(value), (value - low) / (high - low), kind)
            for name, what, value, kind in known
        ],
    }
