"""Tables of what quantization costs, from the files of ``benchmarks/accuracy.py``.

    python benchmarks/accuracy_table.py results/accuracy/*.json -o results/quantization.json

Prints Markdown and writes the JSON: ``runs``, one for each network and seed, and ``summary`` by
``spec/method``. A drop is in points of Dice against the FP32 control of the same seed; beside it
stands that against the control or the checkpoint as it came, whichever is better. The drop's
interval is a paired bootstrap over patients: patients are drawn with replacement, each with all of
its cases, and both networks are scored anew on those drawn, as they were on all. One patient alone
gives no interval.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.data.patients import patient_of
from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.stage import read_json, write_json

CONTROL, FLOAT = "control", "float32"
RESAMPLES = 10_000
CONFIDENCE = 0.95

PerCase = Mapping[str, Mapping[str, float]]
"""Dice by case and class, as :class:`lmaunet.train.metrics.Scores` has it."""


@dataclass(frozen=True)
class Run:
    """One network of one seed: its row, and the Dice by case of the control and of itself."""

    row: dict[str, Any]
    pair: tuple[PerCase, PerCase]


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Return one entry for each network and seed.

    Raises:
        UserError: a file cannot be read or is of another form, or two hold the same seed.
    """
    runs: list[Run] = []
    seen: dict[tuple[str, str, int], Path] = {}
    for path in paths:
        for run in _read(path):
            key = (run.row["spec"], run.row["method"], run.row["seed"])
            if key in seen:
                raise UserError(
                    f"{seen[key]} and {path} both hold {key[0]}/{key[1]} of seed {key[2]}; "
                    "give one of them"
                )
            seen[key] = path
            runs.append(run)
    return runs


def _read(path: Path) -> list[Run]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); make it again with benchmarks/accuracy.py"
        ) from error
    try:
        return _runs_of(content, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is no result of benchmarks/accuracy.py as it is now ({error!r}); give its "
            "files, or make it again"
        ) from error


def _runs_of(content: Any, path: Path) -> list[Run]:
    control = content["networks"][CONTROL]["scores"]
    best = max(content["networks"][name]["scores"]["dice"] for name in (CONTROL, FLOAT))
    runs = []
    for method, network in content["networks"].items():
        scores = network["scores"]
        pair = control["per_case"], scores["per_case"]
        if set(pair[0]) != set(pair[1]):
            raise UserError(
                f"{path}: {method} was scored on other cases than {CONTROL}; make it again"
            )
        row = {
            "spec": content["spec"]["name"],
            "method": method,
            "seed": content["seed"],
            "dice_fp32_control": control["dice"],
            "dice": scores["dice"],
            "drop_points": 100 * (control["dice"] - scores["dice"]),
            "drop_points_better_float": 100 * (best - scores["dice"]),
            "hd95_mm": scores["hd95_mm"],
            "hd95_pixels": scores["hd95_pixels"],
            "per_class": scores["per_class"],
            "drop_by_patient": drop_by_patient(*pair),
            "size_bytes": network.get("size_bytes"),
            "weight_bits": network.get("weight_bits"),
            "from": path.name,
        }
        runs.append(Run(row, pair))
    return runs


def patients_of(per_case: PerCase) -> list[str]:
    """Return the patients of the cases, in order of name."""
    return sorted({patient_of(case) for case in per_case})


def drop(control: PerCase, own: PerCase, draws: np.ndarray) -> np.ndarray:
    """Return the drop in points on each of several sets of patients.

    It is the difference of the two networks' Dice as :func:`lmaunet.train.metrics.score` defines
    it: the mean over classes of the mean over the cases that have the class in the label or in the
    prediction. So a class that one network alone predicts in a case counts there, with 0, in that
    network's mean only.

    Args:
        control, own: Dice by case and class, of the same cases.
        draws: ``(sets, patients)``, how often a set holds each of :func:`patients_of`.

    Returns:
        ``(sets,)``; NaN for a set without any class.
    """
    before, after = (_dice(per_case, draws) for per_case in (control, own))
    return 100 * (before - after)


def _dice(per_case: PerCase, draws: np.ndarray) -> np.ndarray:
    """Return the Dice on each set of patients, in 0..1."""
    rows = {patient: i for i, patient in enumerate(patients_of(per_case))}
    columns: dict[str, int] = {}
    for classes in per_case.values():
        for name in classes:
            columns.setdefault(name, len(columns))
    sums, counts = np.zeros((2, len(rows), len(columns)))
    for case, classes in per_case.items():
        for name, value in classes.items():
            sums[rows[patient_of(case)], columns[name]] += value
            counts[rows[patient_of(case)], columns[name]] += 1
    total, count = draws @ sums, draws @ counts
    by_class = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    with np.errstate(invalid="ignore"):
        return by_class.sum(1) / (count > 0).sum(1)


def drop_by_patient(control: PerCase, own: PerCase) -> dict[str, float]:
    """Return the drop in points on each patient alone; patients without any class are left out."""
    patients = patients_of(control)
    values = drop(control, own, np.eye(len(patients)))
    return {p: float(v) for p, v in zip(patients, values, strict=True) if np.isfinite(v)}


def interval(pairs: Sequence[tuple[PerCase, PerCase]]) -> tuple[float, float] | None:
    """Return the bootstrap interval of the mean drop over seeds, in points.

    Args:
        pairs: for each seed the Dice by case of the control and of the network, of the same cases.

    Returns:
        both ends; None where there is one patient, which says nothing of others.
    """
    count = len(patients_of(pairs[0][0]))
    if count < 2:
        return None
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    draws = np.zeros(drawn.shape)
    np.add.at(draws, (np.arange(RESAMPLES)[:, None], drawn), 1)
    drops = np.mean([drop(*pair, draws) for pair in pairs], 0)
    low, high = np.nanquantile(drops, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def summarize(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return the figures of each network over its seeds, by ``spec/method``."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(f"{run.row['spec']}/{run.row['method']}", []).append(run)
    summary = {}
    for name, group in groups.items():
        for other in group[1:]:
            if set(other.pair[0]) != set(group[0].pair[0]):
                raise UserError(
                    f"{group[0].row['from']} and {other.row['from']} scored {name} on different "
                    "cases; give files of the same data"
                )
        members = [run.row for run in group]
        drops = [run["drop_points"] for run in members]
        dices = [100 * run["dice"] for run in members]
        sizes = [run["size_bytes"] for run in members if run["size_bytes"] is not None]
        hd95, unit = _hd95(members)
        ends = interval([run.pair for run in group])
        summary[name] = {
            "seeds": sorted(run["seed"] for run in members),
            "patients": len(patients_of(group[0].pair[0])),
            "dice_mean": statistics.fmean(dices),
            "dice_spread": statistics.stdev(dices) if len(dices) > 1 else None,
            "drop_points_mean": statistics.fmean(drops),
            "drop_points_spread": statistics.stdev(drops) if len(drops) > 1 else None,
            "drop_points_worst_seed": max(drops),
            "drop_points_interval": None if ends is None else list(ends),
            "drop_points_better_float": statistics.fmean(
                run["drop_points_better_float"] for run in members
            ),
            "per_class": _mean_by_class(members),
            "hd95": hd95,
            "hd95_unit": unit,
            "size_bytes": max(sizes) if sizes else None,
        }
    return summary


def _hd95(runs: Sequence[dict[str, Any]]) -> tuple[float | None, str | None]:
    """Return the mean distance and its unit; None where a run has none or another unit."""
    for unit in ("mm", "pixels"):
        values = [run[f"hd95_{unit}"] for run in runs]
        if all(value is not None for value in values):
            return statistics.fmean(values), unit
    return None, None


def _mean_by_class(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return each class's Dice in percent, the mean over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run["per_class"])
    return {
        name: 100 * statistics.fmean(r["per_class"][name] for r in runs if name in r["per_class"])
        for name in names
    }


def table(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Return the summary as lines of Markdown: a table for each list of classes."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, row in summary.items():
        groups.setdefault(tuple(row["per_class"]), []).append(_line(name, row))
    lines: list[str] = []
    for classes, rows in groups.items():
        if lines:
            lines.append("")
        lines += [
            "| network | seeds | Dice | drop, points | worst seed | 95% interval over patients "
            f"| against the better float | HD95 | by class ({' / '.join(classes)}) | file |",
            "|---|---|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    return lines


def _line(name: str, row: dict[str, Any]) -> str:
    spread, ends = row["dice_spread"], row["drop_points_interval"]
    cells = [
        name,
        str(len(row["seeds"])),
        f"{row['dice_mean']:.2f}" + (f" ± {spread:.2f}" if spread is not None else ""),
        f"{row['drop_points_mean']:+.2f}",
        f"{row['drop_points_worst_seed']:+.2f}",
        "" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}",
        f"{row['drop_points_better_float']:+.2f}",
        "" if row["hd95"] is None else f"{row['hd95']:.2f} {row['hd95_unit']}",
        " / ".join(f"{dice:.1f}" for dice in row["per_class"].values()),
        "" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.3f} MB",
    ]
    if name.endswith(f"/{CONTROL}"):
        cells[3:6] = ["0", "", ""]
    return "| " + " | ".join(cells) + " |"


def main(arguments: argparse.Namespace) -> int:
    missing = [path for path in arguments.files if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]} does not exist; make it with benchmarks/accuracy.py")
    runs = read_runs(arguments.files)
    summary = summarize(runs)
    write_json(
        arguments.output,
        {
            "command": "python benchmarks/accuracy_table.py "
            + " ".join(f"results/accuracy/{path.name}" for path in arguments.files),
            "summary": summary,
            "runs": [run.row for run in runs],
        },
    )
    print("\n".join(table(summary)))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="of benchmarks/accuracy.py")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/quantization.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
