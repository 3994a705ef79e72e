"""Does each part of the network earn its place? Variants of a spec, trained and scored alike.

    python benchmarks/ablation.py --spec edge --data DATA/NAME_train.npz --seeds 0,1,2

Every variant trains on the same slices for the same epochs at the same rate and is scored on the
validation cases. Finished trainings are kept under ``--runs`` and found again. Writes one JSON and
prints a table: parameters, MACs, Dice by seed, and the difference from the spec as it is, with a
bootstrap interval over patients as in ``accuracy_table.py``. A variant that is the same network as
another one of the table is left out.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
from pathlib import Path
from typing import Any

from accuracy import count_classes, neutral, seeds_of
from accuracy_table import interval

from lmaunet.deploy import pipeline
from lmaunet.deploy.console import progress_bar, run_command
from lmaunet.deploy.describe import layers_of
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import read_json, tool_versions, write_json

AS_IT_IS = "as-it-is"
VARIANTS: dict[str, dict[str, Any]] = {
    AS_IT_IS: {},
    "expand-2": {"expand": 2},
    "8-states": {"states": 8},
    "16-states": {"states": 16},
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
    if arguments.states is not None:
        spec = spec.replace(states=arguments.states)
    seeds = seeds_of(arguments.seeds)
    variants, left_out = variants_of(spec, arguments.variants)
    for line in left_out:
        print(line, flush=True)
    schedule = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for name, variant in variants.items():
            run = arguments.runs / f"{spec.name}-{name}-s{seed}"
            with progress_bar(f"{name}, seed {seed}") as progress:
                folder = pipeline.train(run, variant, source, schedule, seed, progress).folder
            found.setdefault(name, []).append(scores_in(folder))
    rows = [row_of(name, variant, found) for name, variant in variants.items()]
    write_json(
        arguments.output,
        {
            "command": neutral("benchmarks/ablation.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "tools": tool_versions(),
            "schedule": schedule.to_json(),
            "states": spec.states,
            "input_size": list(spec.input_size),
            "variants": rows,
            "left_out": left_out,
        },
    )
    print("\n".join(table(rows)))
    return 0


def variants_of(spec: NetSpec, names: str | None) -> tuple[dict[str, NetSpec], list[str]]:
    """Return the variants to train by name, the spec as it is first, and lines on those left out.

    Args:
        spec: what varies.
        names: divided by commas; None for all.

    Raises:
        UserError: where a name is unknown, the spec as it is or every other variant is missing, or
            the spec has no Mamba to vary.
    """
    if spec.mamba == "none":
        raise UserError(f"--spec {spec.name} has no Mamba to vary; give base, edge or demo")
    asked = names.split(",") if names else list(VARIANTS)
    if set(asked) - set(VARIANTS) or AS_IT_IS not in asked:
        raise UserError(f"--variants {names}: give {AS_IT_IS} and any of {', '.join(VARIANTS)}")
    found: dict[str, NetSpec] = {}
    left_out = []
    for name in sorted(dict.fromkeys(asked), key=lambda name: name != AS_IT_IS):
        variant = spec.replace(**VARIANTS[name])
        same = next((other for other, known in found.items() if known == variant), None)
        if same is None:
            found[name] = variant
        else:
            left_out.append(f"left out {name}: with spec {spec.name} it is the same as {same}")
    if len(found) == 1 < len(asked):
        raise UserError(
            f"--variants {names}: {'; '.join(left_out)}; nothing is left to compare, give others"
        )
    return found, left_out


def scores_in(folder: Path) -> dict[str, Any]:
    """Return the scores of a finished training; raises UserError where they are not by case."""
    scores = read_json(folder / "train.json")["scores"]
    if "per_case" not in scores:
        raise UserError(
            f"{folder / 'train.json'} has no scores by case: an older version wrote it; "
            f"delete {folder} and give the same command again"
        )
    return scores


def row_of(name: str, spec: NetSpec, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a variant's row from the scores of each variant, seed by seed."""
    layers = layers_of(spec)
    dices = [100 * scores["dice"] for scores in found[name]]
    paired = zip(found[AS_IT_IS], found[name], strict=True)
    ends = interval([(ours["per_case"], theirs["per_case"]) for ours, theirs in paired])
    reference = statistics.fmean(100 * scores["dice"] for scores in found[AS_IT_IS])
    return {
        "variant": name,
        "parameters": sum(layer.params for layer in layers),
        "macs": sum(layer.macs for layer in layers),
        "dice": dices,
        "gain_points": statistics.fmean(dices) - reference,
        "gain_interval": None if ends is None else [-ends[1], -ends[0]],
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the rows as lines of a Markdown table."""
    lines = [
        "| variant | parameters | GMAC | Dice by seed | against the spec as it is | 95% interval |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ends = row["gain_interval"]
        shown = "" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}"
        if row["variant"] == AS_IT_IS:
            shown = ""
        lines.append(
            f"| {row['variant']} | {row['parameters']:,} | {row['macs'] / 1e9:.2f} | "
            f"{', '.join(f'{d:.2f}' for d in row['dice'])} | {row['gain_points']:+.2f} | "
            f"{shown} |"
        )
    return lines


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--spec", default="edge", help="base, edge or demo")
    add("--data", type=Path, required=True, help="NAME_train.npz beside NAME_val.npz, or a folder")
    add("--class-map", type=Path, help="JSON that maps label values to class names")
    add("--input-size", type=int, help="height and width; the spec's if not given")
    add("--states", type=int, help="of the spec as it is; the spec's own if not given")
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
