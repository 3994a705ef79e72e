"""What `qat --norm batch` costs on real patients: a network with InstanceNorm, step by step.

    python benchmarks/norm_batch.py --ckpt MODEL.pt --data DATA -o results/norm_batch.json

For each seed the network is converted, distilled and quantized, each step scored on the held-out
patients. Beside it a control: the network as it came, with its InstanceNorm, is trained the same
passes as the distillation, on the same batches and with the same loss, so that the extra training
is not counted as a merit of the conversion. The checkpoint is the same for all: a seed draws the
order of the slices and their augmentation. The interval of a drop is a paired bootstrap over the
patients (`benchmarks/accuracy_table.py`). What is finished stays under ``--runs``, to be found
again.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import statistics
import sys
from pathlib import Path
from typing import Any

from accuracy import seeds_of
from accuracy_table import interval, patients_of

from lmaunet.deploy.console import progress_bar, run_command, table
from lmaunet.stage import read_json, sha256, tool_versions, write_json

STEPS = {
    "float32": "InstanceNorm, FP32", "control": "the same, trained as long as the distillation",
    "converted": "converted, FP32", "distilled": "distilled, FP32",
    "ptq": "INT8, calibrated only", "qat": "INT8, after QAT",
}  # fmt: skip


def measure(arguments: argparse.Namespace) -> int:
    """Convert, distil and quantize once a seed; write the result."""
    import torch

    from lmaunet.data.loaders import load
    from lmaunet.graph.layers import layers
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.quant.network import graph_of
    from lmaunet.quant.norm_conversion import CONVERTED, NORM_RATE
    from lmaunet.quant.qat import evaluate, quantize
    from lmaunet.quant.settings import QatSettings
    from lmaunet.sources.checkpoint import restore
    from lmaunet.train.loop import Teacher, fit
    from lmaunet.train.processes import Processes
    from lmaunet.train.schedule import Schedule

    seeds = seeds_of(arguments.seeds)
    settings = QatSettings(
        Schedule(arguments.epochs, arguments.rate, arguments.batch), norm="batch",
        norm_epochs=arguments.norm_epochs,
    )  # fmt: skip
    loaded = load_checkpoint(arguments.ckpt)
    model = restore(loaded, arguments.ckpt)
    data = load(arguments.data, size=loaded.spec.input_size)
    graph, _ = graph_of(model, data.train.images.shape)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    before = arguments.runs / "float32.json"
    if not before.exists():
        write_json(before, evaluate(model, data).to_json())
    rows = []
    for seed in seeds:
        folder = arguments.runs / f"s{seed}"
        folder.mkdir(exist_ok=True)
        if not (folder / "qat.json").exists():
            with progress_bar(f"seed {seed}") as progress:
                quantize(
                    model, loaded.spec, data, settings, seed=seed, folder=folder,
                    processes=Processes(0, 1, torch.device("cpu")), progress=progress,
                )  # fmt: skip
        if arguments.control and not (folder / "control.json").exists():
            with progress_bar(f"control, seed {seed}") as progress:
                control = copy.deepcopy(model)
                fit(
                    control, data.train,
                    Schedule(arguments.norm_epochs, NORM_RATE, arguments.batch),
                    classes=len(data.classes), seed=seed, folder=folder, name="control",
                    processes=Processes(0, 1, torch.device("cpu")), progress=progress,
                    teacher=Teacher(copy.deepcopy(model), 1.0),
                )  # fmt: skip
            write_json(folder / "control.json", evaluate(control, data).to_json())
        content = read_json(folder / "qat.json")
        control_of = {"control": read_json(folder / "control.json")} if arguments.control else {}
        scores = {"float32": read_json(before), **control_of, **content["scores"]}
        rows.append({"seed": seed, "scores": scores, "norms": content["norms"]["converted"]})
        assert (folder / CONVERTED).exists()
    result = {
        "command": "python benchmarks/norm_batch.py " + arguments.shown,
        "date": datetime.date.today().isoformat(),
        "machine": arguments.machine,
        "tools": tool_versions(),
        "network": {
            "name": loaded.spec.name, "graph": getattr(loaded.spec, "graph", ""),
            "checkpoint_sha256": sha256(arguments.ckpt),
            "params": sum(layer.params for layer in layers(graph)),
            "gmac": sum(layer.macs for layer in layers(graph)) / 1e9,
            "input_size": list(loaded.spec.input_size), "norms": rows[0]["norms"],
        },
        "data": {
            "name": data.name, "train_slices": len(data.train), "val_slices": len(data.val),
            "val_patients": len(patients_of(rows[0]["scores"]["float32"]["per_case"])),
        },
        "distillation": {"epochs": arguments.norm_epochs, "learning_rate": NORM_RATE},
        "qat": settings.schedule.to_json(),
        "steps": summary(rows),
        "rows": rows,
    }  # fmt: skip
    write_json(arguments.output, result)
    print("\n".join(lines(result)))
    return 0


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return Dice in percent of each step, and its drop against the network as it came and control.

    A drop is in points, the mean over the seeds, with the worst seed and an interval over patients.
    """
    found = {}
    for step in STEPS:
        if any(step not in row["scores"] for row in rows):
            continue
        own = [row["scores"][step] for row in rows]
        dices = [100 * scores["dice"] for scores in own]
        found[step] = {
            "dice": statistics.fmean(dices),
            "spread": statistics.stdev(dices) if len(dices) > 1 else None,
            "per_class": {
                name: 100 * statistics.fmean(scores["per_class"][name] for scores in own)
                for name in own[0]["per_class"]
            },
        }
        for reference in ("float32", "control"):
            if reference == step or any(reference not in row["scores"] for row in rows):
                continue
            before = [row["scores"][reference] for row in rows]
            drops = [
                100 * old["dice"] - new for old, new in zip(before, dices, strict=True)
            ]  # fmt: skip
            ends = interval(
                [(old["per_case"], new["per_case"]) for old, new in zip(before, own, strict=True)]
            )
            found[step][f"against_{reference}"] = {
                "drop_points": statistics.fmean(drops),
                "worst_seed": max(drops),
                "interval": None if ends is None else list(ends),
            }
    return found


def lines(result: dict[str, Any]) -> list[str]:
    """Return the table that the documentation shows."""
    header = ["network", "Dice", "drop against as it came", "drop against the control",
              "by class"]  # fmt: skip
    rows = []
    for step, row in result["steps"].items():
        spread = "" if row["spread"] is None or step == "float32" else f" ± {row['spread']:.2f}"
        rows.append([
            STEPS[step], f"{row['dice']:.2f}{spread}",
            *(_drop(row.get(f"against_{reference}")) for reference in ("float32", "control")),
            " / ".join(f"{value:.1f}" for value in row["per_class"].values()),
        ])  # fmt: skip
    return table(header, rows)


def _drop(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    ends = row["interval"]
    over = "" if ends is None else f" ({ends[0]:+.2f} to {ends[1]:+.2f})"
    return f"{row['drop_points']:+.2f}, worst seed {row['worst_seed']:+.2f}{over}"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add(
        "--ckpt", type=Path, required=True, help="a float checkpoint with InstanceNorm or GroupNorm"
    )
    add("--data", type=Path, required=True, help="NAME_train.npz beside NAME_val.npz, or a folder")
    add("--seeds", default="0,1,2")
    add("--norm-epochs", type=int, default=8, help="passes of the distillation")
    add("--epochs", type=int, default=8, help="passes of QAT")
    add("--rate", type=float, default=1e-4, help="peak learning rate of QAT")
    add("--batch", type=int, default=8)
    add("--control", action=argparse.BooleanOptionalAction, default=True,
        help="train the network as it came as long as the distillation")  # fmt: skip
    add("--runs", type=Path, default=Path("runs/norm_batch"))
    add("--machine", default="")
    add("-o", "--output", type=Path, default=Path("results/norm_batch.json"))
    arguments = parser.parse_args(words)
    arguments.shown = (
        f"--ckpt MODEL.pt --data DATA --seeds {arguments.seeds} --norm-epochs "
        f"{arguments.norm_epochs} --epochs {arguments.epochs} --rate {arguments.rate:g} "
        f"--batch {arguments.batch}" + ("" if arguments.control else " --no-control")
    )
    return arguments


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: measure(given)))
