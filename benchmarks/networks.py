"""Networks of nnU-Net's kind on real patients: trained, quantized, built, measured.

    python benchmarks/networks.py train --network plain --data DATA --epochs 14
    python benchmarks/networks.py quantize --network plain --data DATA --methods w8,0.5mb
    python benchmarks/networks.py measure --network plain --data DATA --methods w8,0.5mb
    python benchmarks/networks.py table -o results/networks.json

``train`` writes ``RUNS/NAME/train/model.pt``, a checkpoint with its graph, and goes on from the
last whole epoch where it was interrupted. ``quantize`` trains the FP32 control and the quantized
networks for the same extra epochs (methods as in ``benchmarks/accuracy.py``) and scores all on the
held-out patients. ``measure`` builds each for ONNX Runtime and OpenVINO, with the agreement that a
build asks for, and times them beside the FP32 control, each time that it is called; with
``taskset -c 0`` before it they get one thread. ``table`` gathers the rows. Parts that are there
are found again, as the stages of a run are.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
from pathlib import Path
from typing import Any

import network_zoo
from accuracy import PTQ, methods_of, neutral, options_of
from accuracy_table import interval, patients_of
from network_times import measure_builds

from lmaunet.deploy import pipeline
from lmaunet.deploy.console import progress_bar, run_command
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.stage import read_json, sha256, tool_versions, write_json

ACCURACY, TIMES = "accuracy.json", "times.json"
TARGETS = ("ort", "openvino")


def train(arguments: argparse.Namespace) -> int:
    """Train one network of the zoo in float; print its Dice on the held-out patients."""
    import torch

    from lmaunet.data.loaders import load
    from lmaunet.graph.capture import capture
    from lmaunet.graph.module import GraphModule
    from lmaunet.quant.qat import evaluate
    from lmaunet.sources.checkpoint import save_network, spec_of
    from lmaunet.train.loop import fit
    from lmaunet.train.processes import Processes
    from lmaunet.train.schedule import Schedule

    size = arguments.input_size
    data = load(arguments.data, size=(size, size))
    torch.manual_seed(arguments.seed)
    model = network_zoo.build(arguments.network, 1, len(data.classes))
    folder = arguments.runs / arguments.network / "train"
    folder.mkdir(parents=True, exist_ok=True)
    schedule = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    alone = Processes(0, 1, torch.device("cpu"))
    with progress_bar(f"{arguments.network}, seed {arguments.seed}") as progress:
        history = fit(
            model, data.train, schedule, classes=len(data.classes), seed=arguments.seed,
            folder=folder, processes=alone, progress=progress,
        )  # fmt: skip
    graph, weights = capture(model, (1, 1, size, size))
    network = GraphModule(graph, weights)
    scores = evaluate(network, data)
    save_network(
        folder / "model.pt", spec_of(graph, arguments.network), network, dice=scores.dice,
        classes=list(data.classes), normalization=dict(data.normalization),
    )  # fmt: skip
    write_json(
        folder / "train.json",
        {"schedule": schedule.to_json(), "history": history, "scores": scores.to_json()},
    )
    print(f"{folder / 'model.pt'}: Dice {100 * scores.dice:.2f}")
    return 0


def quantize(arguments: argparse.Namespace) -> int:
    """Train the control and each method's network; write the scores of all."""
    from lmaunet.train.schedule import Schedule

    methods_of(arguments.methods)
    run, checkpoint = _run_of(arguments)
    source = DataSource(arguments.data)
    extra = Schedule(arguments.extra_epochs, arguments.extra_rate, arguments.batch)
    with progress_bar(f"{arguments.network}, seed {arguments.seed}") as progress:
        control = pipeline.control(run, checkpoint, source, extra, arguments.seed, progress)
        floats = read_json(control.folder / "control.json")["scores"]
        networks = {name: {"scores": floats[name]} for name in ("float32", "control")}
        for method in arguments.methods.split(","):
            options = options_of(
                method, arguments.extra_epochs, arguments.extra_rate, arguments.batch,
                arguments.seed,
            )  # fmt: skip
            folder = pipeline.qat(
                run / method, checkpoint, source, options.settings(), arguments.seed, progress
            ).folder
            found = read_json(folder / "qat.json")
            for name, key in ((f"{method}{PTQ}", "ptq"), (method, "qat")):
                networks[name] = {
                    "scores": found["scores"][key], "weight_bits": found["weight_bits"],
                }  # fmt: skip
            # after each, as a machine may not last for all
            _write_accuracy(run, arguments, networks, found["network"], extra.to_json())
    print(f"wrote {run / ACCURACY}")
    return 0


def _write_accuracy(
    run: Path, arguments: argparse.Namespace, networks: dict[str, Any], network: dict[str, Any],
    extra: dict[str, Any],
) -> None:  # fmt: skip
    written = {
        "network": arguments.network, "seed": arguments.seed, "networks": networks,
        **{key: network[key] for key in ("params", "macs")},
        "schedule": {
            "float": read_json(run / "train" / "train.json")["schedule"], "extra": extra,
        },
        "made": _made(),
    }  # fmt: skip
    write_json(run / ACCURACY, written)


def measure(arguments: argparse.Namespace) -> int:
    """Build each method's network for both runtimes and time them beside the FP32 control."""
    run, _ = _run_of(arguments)
    methods = methods_asked(arguments.methods)
    times = measure_builds(run, methods, DataSource(arguments.data), arguments.rounds)
    path = run / TIMES
    kept = read_json(path)["runs"] if path.exists() else []
    write_json(path, {"runs": [*kept, {**times, "made": _made()}]})
    for name, row in times["rows"].items():
        print(
            f"{name}: {row['median_ms']:.2f} ms, {row['ratio']:.3f}; processor "
            f"{row['processor_ms']:.2f} ms, {row['processor_ratio']:.3f}"
        )
    return 0


def methods_asked(text: str) -> list[str]:
    """Return the methods of a list; raises UserError for an unknown one."""
    methods_of(text)
    return text.split(",")


def _run_of(arguments: argparse.Namespace) -> tuple[Path, Path]:
    run = arguments.runs / arguments.network
    checkpoint = run / "train" / "model.pt"
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint} does not exist; run benchmarks/networks.py train first")
    return run, checkpoint


def _made() -> dict[str, Any]:
    return {
        "command": neutral("benchmarks/networks.py", sys.argv),
        "date": datetime.date.today().isoformat(),
        "tools": tool_versions(),
    }


def rows_of(accuracy: dict[str, Any], times: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a network's rows: each method, calibrated and trained, on each target.

    A latency ratio is that of the last run with one thread, in processor time: on a busy machine
    the clock's also tells what others did meanwhile. ``latency_ratios`` has those of all runs.
    """
    networks = accuracy["networks"]
    control = networks["control"]["scores"]
    rows = []
    for method, network in networks.items():
        if method in ("float32", "control"):
            continue
        trained = method.removesuffix(PTQ)
        for target in TARGETS if method == trained else ("torch",):
            built = _built(times, trained, target)
            # of the shipped file where there is one, of the network in torch elsewhere
            scores = built.pop("scores", network["scores"])
            pair = control["per_case"], scores["per_case"]
            row = {
                "network": accuracy["network"],
                "params": accuracy["params"],
                "gmac": accuracy["macs"] / 1e9,
                "target": target,
                "precision": trained + (" calibrated" if method != trained else " trained"),
                "seed": accuracy["seed"],
                "patients": len(patients_of(pair[0])),
                "dice_fp32": 100 * control["dice"],
                "dice_fp32_as_trained": 100 * networks["float32"]["scores"]["dice"],
                "dice": 100 * scores["dice"],
                "dice_in_torch": 100 * network["scores"]["dice"],
                "drop_points": 100 * (control["dice"] - scores["dice"]),
                "interval": interval([pair]),
                "drop_by_class": {
                    name: 100 * (value - scores["per_class"].get(name, 0.0))
                    for name, value in control["per_class"].items()
                },
                "weight_bits": network["weight_bits"],
            }
            rows.append(row | built)
    return rows


def _built(times: dict[str, Any], method: str, target: str) -> dict[str, Any]:
    """Return what was measured of a build, None where it was not."""
    runs = [run for run in times["runs"] if f"{target} {method}" in run["rows"]]
    if not runs:
        return {"size_mb": None, "model_mb": None, "latency_ratio": None, "agreement": None}
    name, last = f"{target} {method}", runs[-1]["rows"][f"{target} {method}"]
    ratios = [
        {
            "threads": run["conditions"]["threads"], "load": run["conditions"]["load_average"],
            "clock": run["rows"][name]["ratio"],
            "processor": run["rows"][name].get("processor_ratio"),
        }
        for run in runs
    ]  # fmt: skip
    alone = [r["processor"] for r in ratios if r["threads"] == 1 and r["processor"] is not None]
    return {
        "size_mb": last["size_mb"],
        "model_mb": last["model_mb"],
        "latency_ratio": alone[-1] if alone else None,
        "latency_ratios": ratios,
        "agreement": last["agreement"],
        "scores": last["scores"],
    }


def table(arguments: argparse.Namespace) -> int:
    """Gather the rows of all networks that were quantized."""
    rows, networks = [], {}
    for path in sorted(arguments.runs.glob(f"*/{ACCURACY}")):
        accuracy = read_json(path)
        stored = path.parent / TIMES
        times = read_json(stored) if stored.exists() else {"runs": []}
        rows += rows_of(accuracy, times)
        networks[accuracy["network"]] = {
            "accuracy": accuracy["made"],
            "schedule": accuracy["schedule"],
            "checkpoint": sha256(path.parent / "train" / "model.pt"),
            "times": times["runs"],
        }
    if not rows:
        raise UserError(f"{arguments.runs} has no NAME/{ACCURACY}; quantize a network first")
    write_json(arguments.output, {"rows": rows, "networks": networks})
    print("\n".join(markdown(rows)))
    return 0


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table that docs/networks.md shows."""
    lines = [
        "| network | weights | target | Dice, FP32 control | Dice | drop, points | 95% interval "
        "over patients | MB | time to FP32 | equal codes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row["interval"] or (math.nan, math.nan)  # of one patient there is none
        agreement = row["agreement"]
        lines.append(
            f"| {row['network']} | {row['precision']} | {row['target']} | {row['dice_fp32']:.2f} "
            f"| {row['dice']:.2f} | {row['drop_points']:+.2f} | {low:+.2f} to {high:+.2f} "
            f"| {_shown(row['model_mb'], '.3f')} | {_shown(row['latency_ratio'], '.2f')} "
            f"| {_shown(agreement and 100 * agreement['equal_codes'], '.4f', '%')} |"
        )
    return lines


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: Any, words: str) -> Any:
        made = commands.add_parser(name, help=words)
        made.set_defaults(run=run)
        made.add_argument("--runs", type=Path, default=Path("runs/networks"))
        if name != "table":
            made.add_argument("--network", choices=sorted(network_zoo.NETWORKS), required=True)
            made.add_argument(
                "--data", type=Path, required=True,
                help="NAME_train.npz beside NAME_val.npz, or a folder",
            )  # fmt: skip
            made.add_argument("--batch", type=int, default=8)
            made.add_argument("--seed", type=int, default=0)
        return made.add_argument

    add = command("train", train, "train one network in float")
    add("--input-size", type=int, default=128, help="height and width of the centre crop")
    add("--epochs", type=int, default=14)
    add("--rate", type=float, default=3e-3, help="peak learning rate")
    add = command("quantize", quantize, "quantize it, beside a control")
    add("--methods", default="w8", help="comma-separated, as in benchmarks/accuracy.py")
    add("--extra-epochs", type=int, default=2, help="of control and QAT")
    add("--extra-rate", type=float, default=1e-4, help="peak learning rate of control and QAT")
    add = command("measure", measure, "build it and time it")
    add("--methods", default="w8", help="comma-separated, of those that were quantized")
    add("--rounds", type=int, default=60, help="each runs every file once, one after the other")
    add = command("table", table, "gather the rows")
    add("-o", "--output", type=Path, default=Path("results/networks.json"))
    return parser.parse_args(words)


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: given.run(given)))
