"""The tables of scores in a report: by class, by patient, and what could not be scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmaunet.deploy.decision import UNKNOWN, class_loss, points, signed
from lmaunet.deploy.figures import WORDS, Shown, number_text

Columns = Sequence[tuple[str, Mapping[str, float], str, Mapping[str, Any] | None]]


def organs(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Dice of each class by column; a target's numbers have its Dice's provenance.

    A cell is its figure, its length as a bar and, for the class that lost most, its loss.
    """
    return _table(list(_columns(report, "per_class")))


def patients(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean Dice of each patient by column, as :func:`organs` does for classes."""
    columns = [
        (name, values, how, None) for name, values, how, _ in _columns(report, "per_patient")
    ]
    return _table(columns)


def differences(report: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the change of Dice against FP32 by row and target, the row that lost most first.

    Args:
        report: the report.
        key: ``per_class``, ``per_patient`` or ``per_case``, of which the rows are.

    Returns:
        ``{"columns": [(name, word, provenance)], "rows": [(row, FP32, its value, cells)],
        "intervals": whether any row has one}``: a cell is None where the row was not scored, else
        has ``change`` in words, ``points``, ``shown``, the Dice now, ``interval``, ``note``, and of
        a case its ``worst`` class.
    """
    columns = list(_columns(report, key))
    first = columns[0][1]
    targets = report["targets"].values()
    intervals = key == "per_class" and any(t.get("class_intervals") for t in targets)
    rows = []
    for row in dict.fromkeys(row for _, values, _, _ in columns for row in values):
        before = first.get(row)
        of_case = key == "per_case" and before is not None
        cells: list[dict[str, Any] | None] = []
        for name, values, provenance, worst in columns[1:]:
            if row not in values:
                cells.append(None)
                continue
            # of what a target alone was scored on there is no difference to take
            change = None if before is None else 100 * (values[row] - before)
            shown = Shown("dice", number_text("dice", values[row]), "", provenance)
            target = report["targets"][name]
            lost = key == "per_class" and worst and worst["class"] == row
            cells.append({
                "change": UNKNOWN if change is None else points(change),
                "points": change, "shown": shown,
                "interval": _interval(target, row) if intervals else "",
                "note": f"lost most: {class_loss(worst)}" if lost else "",
                "worst": _worst_of_case(report, name, row) if of_case else "",
            })  # fmt: skip
        fp32 = before is not None and Shown("dice", number_text("dice", before), "", "measured")
        rows.append((row, fp32, before, cells))
    rows.sort(key=_least)
    names = [(name, WORDS[how], how) for name, _, how, _ in columns[1:]]
    return {"columns": names, "rows": rows, "intervals": intervals}


def _least(row: tuple[Any, ...]) -> float:
    """Return the change of a row where it is worst; what FP32 does not have comes before all."""
    changes = [cell["points"] for cell in row[3] if cell]
    return min((-math.inf if change is None else change for change in changes), default=0.0)


def _interval(target: Mapping[str, Any], row: str) -> str:
    interval = target.get("class_intervals", {}).get(row)
    if interval is None:
        return f"interval {UNKNOWN}"
    low, high = signed(-interval["high"]), signed(-interval["low"])
    return f"{100 * interval['level']:g}% {low} to {high}, {interval['patients']} patients"


def _worst_of_case(report: Mapping[str, Any], name: str, case: str) -> str:
    """Return the class of a case that lost most, and how much."""
    before = report["reference"]["per_case"][case]
    now = report["targets"][name]["per_case"][case]
    both = [organ for organ in before if organ in now]
    if not both:
        return ""
    organ = min(both, key=lambda organ: now[organ] - before[organ])
    return f"{organ} {points(100 * (now[organ] - before[organ]))}"


def _columns(report: Mapping[str, Any], key: str) -> Iterator[Any]:
    reference = report["reference"]
    own = reference["dice"] if key == "per_class" else reference
    yield "FP32", _means(own.get(key, {})), "measured", None
    for name, target in report["targets"].items():
        if target.get(key) and "provenance" in target["dice"]:
            how = target["dice"]["provenance"]
            yield name, _means(target[key]), how, target.get("worst_class")


def _means(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the Dice of each row; that of a case is the mean over its classes."""
    means = {}
    for row, value in scores.items():
        if not isinstance(value, Mapping):
            means[row] = value
        elif value:
            means[row] = sum(value.values()) / len(value)
    return means


def _table(columns: Columns) -> dict[str, Any]:
    names = list(dict.fromkeys(row for _, values, _, _ in columns for row in values))
    rows = []
    for row in names:
        cells: list[tuple[Shown, float, str] | None] = []
        for _, values, provenance, worst in columns:
            if row not in values:
                cells.append(None)
                continue
            lost = class_loss(worst) if worst and worst["class"] == row else ""
            shown = Shown("dice", number_text("dice", values[row]), "", provenance)
            cells.append((shown, values[row], lost))
        rows.append((row, cells))
    return {"columns": [(name, WORDS[how], how) for name, _, how, _ in columns], "rows": rows}


def unscored(report: Mapping[str, Any]) -> list[str]:
    """Return sentences on the classes and cases that say nothing on overlap, and what was found."""
    lacking = report["data"].get("not_scored", {})
    lines = []
    if lacking.get("classes"):
        lines.append(f"Not scored, for no held-out label holds them: {_list(lacking['classes'])}.")
    if lacking.get("cases"):
        lines.append(f"Not scored, for their labels hold no organ: {_list(lacking['cases'])}.")
    for name, source in (("FP32", report["reference"]), *report["targets"].items()):
        found = [
            f"{voxels:,} of {organ} in {case}"
            for case, classes in source.get("false_positives", {}).items()
            for organ, voxels in classes.items()
        ]
        if found:
            lines.append(f"{name} predicts there, in voxels: {_list(found)}.")
    return lines


def _list(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
