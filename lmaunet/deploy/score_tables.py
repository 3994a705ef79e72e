"""The tables of scores in a report: by class, by patient, and what could not be scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmaunet.deploy.figures import WORDS, Shown, number_text
from lmaunet.deploy.verdict import class_loss

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


def _columns(report: Mapping[str, Any], key: str) -> Iterator[Any]:
    reference = report["reference"]
    own = reference["dice"] if key == "per_class" else reference
    yield "FP32", own.get(key, {}), "measured", None
    for name, target in report["targets"].items():
        if target.get(key) and "provenance" in target["dice"]:
            yield name, target[key], target["dice"]["provenance"], target.get("worst_class")


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
