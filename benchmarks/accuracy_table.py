"""Tables of what quantization costs, from the files of ``benchmarks/accuracy.py``.

    python benchmarks/accuracy_table.py results/accuracy/*.json -o results/quantization.json

Prints Markdown and writes the JSON: ``runs``, one for each network and seed, and ``summary`` by
``spec/method``. A drop is in points of Dice against the FP32 control of the same seed; beside it
stands that against the control or the checkpoint as it came, whichever is better. The drop's
interval is a paired bootstrap over patients: each patient's drop, averaged over seeds, frames and
classes, is drawn with replacement.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.data.dataset import patient_of
from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.stage import read_json, write_json

CONTROL, FLOAT = "control", "float32"
RESAMPLES = 10_000
CONFIDENCE = 0.95


def read_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return one entry for each network and seed."""
    runs = []
    for path in paths:
        content = read_json(path)
        if "networks" not in content:
            raise UserError(f"{path} is no result of benchmarks/accuracy.py; give its files")
        control = content["networks"][CONTROL]["scores"]
        best = max(content["networks"][name]["scores"]["dice"] for name in (CONTROL, FLOAT))
        for method, network in content["networks"].items():
            scores = network["scores"]
            runs.append(
                {
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
                    "drop_by_patient": drop_by_patient(control, scores),
                    "size_bytes": network.get("size_bytes"),
                    "weight_bits": network.get("weight_bits"),
                    "from": path.name,
                }
            )
    return runs


def drop_by_patient(control: dict[str, Any], scores: dict[str, Any]) -> dict[str, float]:
    """Return each patient's drop in points, the mean over the patient's cases and classes."""
    drops: dict[str, list[float]] = {}
    for case, classes in control["per_case"].items():
        for name, value in classes.items():
            if name in scores["per_case"][case]:
                drop = 100 * (value - scores["per_case"][case][name])
                drops.setdefault(patient_of(case), []).append(drop)
    return {patient: statistics.fmean(values) for patient, values in drops.items()}


def interval(runs: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the bootstrap interval of the mean drop over patients, in points."""
    patients = sorted(set.intersection(*(set(run["drop_by_patient"]) for run in runs)))
    table = np.array([[run["drop_by_patient"][p] for p in patients] for run in runs]).mean(0)
    drawn = np.random.default_rng(0).integers(len(patients), size=(RESAMPLES, len(patients)))
    low, high = np.quantile(table[drawn].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def summarize(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each network over its seeds, by ``spec/method``."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(f"{run['spec']}/{run['method']}", []).append(run)
    summary = {}
    for name, members in groups.items():
        drops = [run["drop_points"] for run in members]
        dices = [100 * run["dice"] for run in members]
        sizes = [run["size_bytes"] for run in members if run["size_bytes"] is not None]
        hd95 = [run["hd95_mm"] or run["hd95_pixels"] for run in members]
        low, high = interval(members)
        summary[name] = {
            "seeds": sorted(run["seed"] for run in members),
            "patients": len(members[0]["drop_by_patient"]),
            "dice_mean": statistics.fmean(dices),
            "dice_spread": statistics.stdev(dices) if len(dices) > 1 else None,
            "drop_points_mean": statistics.fmean(drops),
            "drop_points_spread": statistics.stdev(drops) if len(drops) > 1 else None,
            "drop_points_worst_seed": max(drops),
            "drop_points_interval": [low, high],
            "drop_points_better_float": statistics.fmean(
                run["drop_points_better_float"] for run in members
            ),
            "per_class": _mean_by_class(members),
            "hd95": statistics.fmean(hd95) if all(hd95) else None,
            "hd95_unit": "mm" if members[0]["hd95_mm"] else "pixels",
            "size_bytes": max(sizes) if sizes else None,
        }
    return summary


def _mean_by_class(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return each class's Dice in percent, the mean over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run["per_class"])
    return {
        name: 100 * statistics.fmean(r["per_class"][name] for r in runs if name in r["per_class"])
        for name in names
    }


def table(summary: dict[str, dict[str, Any]]) -> list[str]:
    """Return the summary as lines of a Markdown table."""
    lines = [
        "| network | seeds | Dice | drop, points | worst seed | 95% interval over patients "
        "| against the better float | HD95 | by class | file |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in summary.items():
        spread = row["dice_spread"]
        low, high = row["drop_points_interval"]
        cells = [
            name,
            str(len(row["seeds"])),
            f"{row['dice_mean']:.2f}" + (f" ± {spread:.2f}" if spread is not None else ""),
            f"{row['drop_points_mean']:+.2f}",
            f"{row['drop_points_worst_seed']:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            f"{row['drop_points_better_float']:+.2f}",
            "" if row["hd95"] is None else f"{row['hd95']:.2f} {row['hd95_unit']}",
            " / ".join(f"{dice:.1f}" for dice in row["per_class"].values()),
            "" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.3f} MB",
        ]
        if name.endswith(f"/{CONTROL}"):
            cells[3:6] = ["0", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


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
            "runs": runs,
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
