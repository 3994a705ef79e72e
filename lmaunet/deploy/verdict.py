"""Whether each target can ship, in one line: the answer, its figures, and what speaks against it.

``yes`` needs every gate passed, Dice and latency measured on the thing itself, every organ found,
images of patients, and patients enough for an interval of the drop, all of it within the limit. A
failed gate or a regression is ``no``; what is missing or only emulated or estimated leaves the
answer ``unknown``, and so does an organ that no mask overlaps: what was never found can't be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmaunet.deploy import gates as gating
from lmaunet.deploy.decision import cells
from lmaunet.deploy.figures import LABELS, WORDS, number_text
from lmaunet.deploy.patients import LEAST_PATIENTS

YES, NO, UNKNOWN = "yes", "no", "unknown"
ON_THE_DEVICE = ("dice", "latency_ms")
"""The figures without whose measurement nothing is known of the thing itself."""
MOST_LINES = 10
"""With so many lines a terminal ends: a screen, and no more than one reads."""
MOST_LETTERS = 76
"""Of a reason in a terminal."""


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
    missing += _too_little(target, own, report["data"])
    # one reason for several figures is said once
    missing = list(dict.fromkeys(missing))
    return {
        "target": name,
        "ship": NO if against else UNKNOWN if missing else YES,
        "figures": _figures(report, name),
        "reasons": against or missing,
    }


def block(report: Mapping[str, Any]) -> list[str]:
    """Return the verdicts as the lines that a terminal ends with, :data:`MOST_LINES` at most.

    A target that cannot ship has a second line with its reasons, as long as there is room for that;
    then only those that failed have one. A figure without a word was measured.
    """
    entries = report["verdict"]
    width = max(len(entry["target"]) for entry in entries)
    heads, seconds = [], []
    for entry in entries[: MOST_LINES - 1 if len(entries) > MOST_LINES else None]:
        figures = entry["figures"].replace(" measured", "")
        head = f"SHIP {entry['target']}?".ljust(width + 6)
        heads.append(f"{head} {entry['ship'].upper():7}  {figures}")
        reasons = "; ".join(_short(reason) for reason in entry["reasons"])
        seconds.append(f"{'':{width + 15}} {reasons}" if reasons else "")
    room = MOST_LINES - len(heads) - (len(heads) < len(entries))
    first = sorted(range(len(heads)), key=lambda i: (entries[i]["ship"] != NO, i))
    kept = {i for i in first if seconds[i]}
    kept = set([i for i in first if i in kept][:room])
    lines = []
    for index, head in enumerate(heads):
        lines += [head, seconds[index]] if index in kept else [head]
    if len(heads) < len(entries):
        lines.append(f"and {len(entries) - len(heads)} more in the report")
    return lines


def _short(reason: str) -> str:
    """Return a reason as short as a terminal's line can hold; the report has all of it."""
    return reason if len(reason) <= MOST_LETTERS else reason[: MOST_LETTERS - 3].rstrip() + "..."


def _too_little(
    target: Mapping[str, Any], own: list[Mapping[str, Any]], data: Mapping[str, Any]
) -> list[str]:  # fmt: skip
    """Return why scores say too little of other patients, where they do."""
    if data["synthetic"]:
        return ["a program drew the images, so that nothing is known of patients"]
    if "value" not in target["dice"] or "value" not in target["dice_drop_points"]:
        return []
    interval, count = target.get("drop_interval"), len(target.get("per_patient", ()))
    if interval is None:
        return [
            f"Dice drop has no interval: {count or 'no'} patient{'' if count == 1 else 's'} told "
            f"apart, {LEAST_PATIENTS} are needed"
        ]
    return [
        f"Dice drop may be over its limit of {gate['limit']:g}: its {100 * interval['level']:g}% "
        f"interval is {interval['low']:.1f} to {interval['high']:.1f} points"
        for gate in own
        if gate["name"] == "dice_drop_points" and interval["high"] > gate["limit"]
    ]


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


def _figures(report: Mapping[str, Any], name: str) -> str:
    """Return a target's figures in one line, each with what it is held against."""
    target, found = report["targets"][name], cells(report, name)
    parts = [f"Dice {found['dice'].text()}", f"worst organ {found['worst'].text()}"]
    if not found["dice"].known:
        parts = ["Dice not scored"]
    if _unfound(target):
        parts.append(f"no overlap at all: {', '.join(_unfound(target))}")
    parts.append(f"{'' if found['latency'].known else 'latency '}{found['latency'].text()}")
    parts.append(f"{'' if found['size'].known else 'size '}{found['size'].text()}")
    return ", ".join(parts)


def _unfound(target: Mapping[str, Any]) -> list[str]:
    """Return the classes of which a target finds nothing."""
    return [name for name, dice in target["per_class"].items() if dice == 0]


def _word(figure: Mapping[str, Any]) -> str:
    return f" {WORDS[figure['provenance']]}"
