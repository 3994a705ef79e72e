"""Does each part of the network earn its place? Variants of a spec, trained and scored alike.

    python benchmarks/ablation.py --spec edge --data DATA/NAME_train.npz --seeds 0,1,2

Every variant trains on the same slices for the same epochs at the same rate and is scored on the
validation cases. Finished trainings are kept under ``--runs`` and found again. Writes one JSON and
prints a table: parameters, MACs, Dice by seed, and the difference from the spec as it is, with a
bootstrap interval over patients as in ``accuracy_table.py``.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
from pathlib import Path
from typing import Any

from accuracy import count_classes, neutral
from accuracy_table import drop_by_patient, interval

from lmaunet.deploy import pipeline
from lmaunet.deploy.console import progress_bar, run_command
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.spec import named_spec
from lmaunet.stage import read_json, tool_versions, write_json

AS_IT_IS = "as-it-is"
VARIANTS: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "expand-2": {"expand": 2},
    "8-states": {"states": 8},
    "both-ways": {"mamba": "both"},
    "no-mamba": {"mamba": "none"},
    "kernel-5": {"kernels": (5, 5, 5, 5)},
    "kernel-9": {"kernels": (9, 9, 9, 9)},
    "expand-2-8-states": {"expand": 2, "states": 8},
}


def main(arguments: argparse.Namespace) -> int:
    from lmaunet.train.loop import Schedule

    source = DataSource(arguments.data, arguments.class_map)
    size = (arguments.input_size,) * 2 if arguments.input_size else None
    spec = named_spec(arguments.spec).replace(input_size=size)
    spec = spec.replace(classes=count_classes(source, spec))
    names = arguments.variants.split(",") if arguments.variants else list(VARIANTS)
    unknown = sorted(set(names) - set(VARIANTS))
    if unknown or AS_IT_IS not in names:
        raise UserError(
            f"--variants {arguments.variants}: give {AS_IT_IS} and any of {', '.join(VARIANTS)}"
        )
    schedule = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in (int(s) for s in arguments.seeds.split(",")):
        for name in names:
            variant = spec.replace(**VARIANTS[name])
            run = arguments.runs / f"{spec.name}-{name}-s{seed}"
            with progress_bar(f"{name}, seed {seed}") as progress:
                folder = pipeline.train(run, variant, source, schedule, seed, progress).folder
            found.setdefault(name, []).append(read_json(folder / "train.json")["scores"])
    rows = [_row(name, spec.replace(**VARIANTS[name]), found) for name in names]
    write_json(
        arguments.output,
        {
            "command": neutral("benchmarks/ablation.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "tools": tool_versions(),
            "schedule": schedule.to_json(),
            "input_size": list(spec.input_size),
            "variants": rows,
        },
    )
    print("\n".join(table(rows)))
    return 0


def _row(name: str, spec: Any, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    dices = [100 * scores["dice"] for scores in found[name]]
    paired = zip(found[AS_IT_IS], found[name], strict=True)
    runs = [{"drop_by_patient": drop_by_patient(ours, theirs)} for ours, theirs in paired]
    low, high = interval(runs)
    reference = statistics.fmean(100 * scores["dice"] for scores in found[AS_IT_IS])
    return {
        "variant": name,
        "parameters": sum(layer.params for layer in spec.layers()),
        "macs": sum(layer.macs for layer in spec.layers()),
        "dice": dices,
        "gain_points": statistics.fmean(dices) - reference,
        "gain_interval": [-high, -low],
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as lines of a Markdown table."""
    lines = [
        "| variant | parameters | GMAC | Dice by seed | against the spec as it is | 95% interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["gain_interval"]
        lines.append(
            f"| {row['variant']} | {row['parameters']:,} | {row['macs'] / 1e9:.2f} | "
            f"{', '.join(f'{d:.2f}' for d in row['dice'])} | {row['gain_points']:+.2f} | "
            f"{low:+.2f} to {high:+.2f} |"
        )
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--spec", default="edge", help="base, edge or demo")
    add("--data", type=Path, required=True, help="NAME_train.npz beside NAME_val.npz, or a folder")
    add("--class-map", type=Path, help="JSON that maps label values to class names")
    add("--input-size", type=int, help="height and width; the spec's if not given")
    add("--seeds", default="0,1,2", help="comma-separated")
    add("--variants", help=f"comma-separated, {AS_IT_IS} among them; all if not given")
    add("--epochs", type=int, default=14)
    add("--rate", type=float, default=3e-3, help="peak learning rate")
    add("--batch", type=int, default=8)
    add("--runs", type=Path, default=Path("runs/ablation"), help="where checkpoints are kept")
    add("-o", "--output", type=Path, default=Path("results/ablation.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
