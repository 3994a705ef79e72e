"""Whether each target can ship, in one line: the answer, its figures, and what speaks against it.

``yes`` needs every gate passed, Dice and latency measured on the thing itself, and every organ
found. A failed gate or a regression is ``no``; what is missing or only emulated or estimated leaves
the answer ``open``, and so does an organ that no mask overlaps: what was never found can't be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmaunet.deploy import gates as gating
from lmaunet.deploy.figures import LABELS, WORDS, number_text

YES, NO, OPEN = "yes", "no", "open"
ON_THE_DEVICE = ("dice", "latency_ms")
"""The figures without whose measurement nothing is known of the thing itself."""


def verdicts(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``target``, ``ship``, ``figures`` (a line) and ``reasons`` of each target."""
    return [_verdict(name, target, report) for name, target in report["targets"].items()]


def _verdict(name: str, target: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    own = [gate for gate in report["gates"] if gate["target"] == name]
    against = [_failed(gate) for gate in own if gate["state"] == gating.FAILED]
    against += [
        f"regression: {entry['message']}"
        for entry in report["regressions"]
        if entry["kind"] != "note" and entry["target"] in (name, "")
    ]
    missing = [_lacks(gate["name"], gate) for gate in own if gate["state"] == gating.OPEN]
    missing += [
        _lacks(key, target[key])
        for key in ON_THE_DEVICE
        if target[key].get("provenance") != "measured"
    ]
    unfound = _unfound(target)
    if unfound:
        missing.append(f"no overlap at all, so that no gate can tell: {', '.join(unfound)}")
    if not own:
        missing.append("no gate was checked")
    # one reason for several figures is said once
    missing = list(dict.fromkeys(missing))
    return {
        "target": name,
        "ship": NO if against else OPEN if missing else YES,
        "figures": _figures(target),
        "reasons": against or missing,
    }


def block(report: Mapping[str, Any]) -> list[str]:
    """Return the verdicts as lines for a terminal: two for each target that cannot ship.

    A figure without a word was measured.
    """
    width = max(len(entry["target"]) for entry in report["verdict"])
    lines = []
    for entry in report["verdict"]:
        figures = entry["figures"].replace(" measured", "")
        head = f"SHIP {entry['target']}?".ljust(width + 6)
        lines.append(f"{head} {entry['ship'].upper():4}  {figures}")
        if entry["reasons"]:
            lines.append(f"{'':{width + 12}} {'; '.join(entry['reasons'])}")
    return lines


def _failed(gate: Mapping[str, Any]) -> str:
    limit = f"{gate['direction']} {gate['limit']:g}"
    if "unavailable" in gate:
        return f"{gate['name']}: {gate['unavailable']['why']} (strict)"
    unit = "" if gate["unit"] == "1" else f" {gate['unit']}"
    value = number_text(gate["name"], gate["value"], gate["limit"]) + unit + _word(gate)
    of = f" of {gate['class']}" if "class" in gate else ""
    return f"{gate['name']}{of} is {value}, {limit} passes"


def _lacks(name: str, figure: Mapping[str, Any]) -> str:
    if "unavailable" in figure:
        if name in ("dice", "dice_drop_points", "class_drop_points"):
            return f"Dice is not scored: {figure['unavailable']['why']}"
        return f"{LABELS[name].lower()} is unavailable: {figure['unavailable']['why']}"
    label = "Dice" if name == "dice" else LABELS[name].lower()
    return f"{label} is {figure['provenance']}, not measured on the device"


def _figures(target: Mapping[str, Any]) -> str:
    parts = ["Dice not scored"]
    if "value" in target["dice"]:
        parts = [f"Dice {100 * target['dice']['value']:.1f}{_word(target['dice'])}"]
        if "value" in target["dice_drop_points"]:
            count = len(target.get("per_patient", ()))
            on = f" on {count} patient{'s' if count > 1 else ''}" if count else ""
            parts[0] += f" ({_points(-target['dice_drop_points']['value'])}{on})"
        worst = target.get("worst_class")
        if worst:
            parts.append(f"worst organ {worst['class']} {class_loss(worst)}")
        if _unfound(target):
            parts.append(f"no overlap at all: {', '.join(_unfound(target))}")
    for key in ("latency_ms", "size_mb"):
        figure = target[key]
        if "value" in figure:
            noisy = key == "latency_ms" and unsteady(target["detail"])
            parts.append(
                f"{number_text(key, figure['value'])} {figure['unit']}{_word(figure)}"
                + (" (unsteady)" if noisy else "")
            )
        else:
            parts.append(f"{LABELS[key].lower()} unavailable")
    return ", ".join(parts)


def _unfound(target: Mapping[str, Any]) -> list[str]:
    """Return the classes of which a target finds nothing."""
    return [name for name, dice in target["per_class"].items() if dice == 0]


def class_loss(worst: Mapping[str, Any]) -> str:
    """Return what a class lost in points and as a share, such as ``-4.5 points (-27%)``."""
    text = _points(100 * (worst["dice"] - worst["reference"]))
    loss = worst["relative_loss"]
    return text if loss is None else f"{text} ({-100 * loss:+.0f}%)"


def unsteady(detail: Mapping[str, Any]) -> bool:
    """Whether the times that a latency was taken from are too far apart."""
    return gating.latency_conditions(detail).get("unsteady") is True


def _points(change: float) -> str:
    return f"{change:+.1f} points".replace("+0.0", "0.0").replace("-0.0 ", "0.0 ")


def _word(figure: Mapping[str, Any]) -> str:
    return f" {WORDS[figure['provenance']]}"
