"""A network of slices and one of volumes beside each other, on the same patients.

    python benchmarks/three_d.py train --network 2d --data DATA/acdc_train.npz
    python benchmarks/three_d.py train --network 3d --data DATA/acdc_train.npz
    python benchmarks/three_d.py report --data DATA/acdc_train.npz -o results/three_d.json

Both have the same widths, states and size in the plane, and see the same slices with the same
augmentation; their epochs are chosen so that both train about as many seconds of one core, and what
they took is in the result. Each is quantized (W8A8), trained on so, exported and built for ONNX
Runtime. Dice is that of the held-out patients; both predict whole cases, the network of volumes by
windows. The drop is that of the quantized network in torch. A build that is refused has no score
and no time, and the result says why. Latency is that of all slices of a case, in turns.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accuracy_table import interval

from lmaunet.deploy.console import progress_bar, run_command, table
from lmaunet.deploy.timing import conditions
from lmaunet.errors import Disagreement
from lmaunet.spec import NetSpec
from lmaunet.stage import read_json, tool_versions, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from lmaunet.data.dataset import Dataset

WIDTHS, STATES = (8, 12, 16, 24, 32), 4
TURNS = 5


def spec_of(network: str, side: int, depth: int) -> NetSpec:
    """Return one of the two networks, for four classes."""
    if network == "2d":
        return NetSpec("narrow", WIDTHS, classes=4, states=STATES, kernels=(7, 7, 7, 7),
                       input_size=(side, side))  # fmt: skip
    flat = (1, 2, 2)  # slices are thick
    kernel = (3, 5, 5)
    return NetSpec("narrow3d", WIDTHS, classes=4, states=STATES, strides=(flat,) * 4,
                   kernels=(kernel,) * 4, input_size=(depth, side, side))  # fmt: skip


def train(arguments: argparse.Namespace) -> int:
    """Train, quantize and export one network into ``RUNS/NETWORK``, unless it is there."""
    import torch

    from lmaunet.data.loaders import load
    from lmaunet.deploy.export_graphs import write_graphs
    from lmaunet.net.network import LMaUNet
    from lmaunet.quant.qat import load_quantized, quantize
    from lmaunet.quant.settings import QatSettings
    from lmaunet.sources.checkpoint import save_network
    from lmaunet.train.loop import fit
    from lmaunet.train.processes import Processes
    from lmaunet.train.schedule import Schedule

    torch.set_num_threads(1)
    spec = spec_of(arguments.network, arguments.side, arguments.depth)
    folder = arguments.runs / arguments.network
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "done.json").exists():
        return 0
    data = load(arguments.data, size=spec.input_size)
    alone = Processes(0, 1, torch.device("cpu"))
    batch = (
        arguments.batch
        if arguments.network == "2d"
        else max(1, arguments.batch // spec.input_size[0])
    )
    torch.manual_seed(arguments.seed)
    model = LMaUNet(spec)
    started = time.process_time()
    with progress_bar(f"training {spec.name}") as progress:
        history = fit(
            model, data.train, Schedule(arguments.epochs, arguments.rate, batch),
            classes=spec.classes, seed=arguments.seed, folder=folder, processes=alone,
            progress=progress,
        )  # fmt: skip
    trained_s = time.process_time() - started
    save_network(folder / "float32.pt", spec, model)
    started = time.process_time()
    settings = QatSettings(Schedule(arguments.qat_epochs, arguments.qat_rate, batch))
    with progress_bar(f"quantizing {spec.name}") as progress:
        quantize(
            model, spec, data, settings, seed=arguments.seed, folder=folder, processes=alone,
            progress=progress,
        )  # fmt: skip
    quantized_s = time.process_time() - started
    write_graphs(folder, model, load_quantized(folder / "model.pt"), data.train.images[:4],
                 lambda share, line: None)  # fmt: skip
    write_json(folder / "done.json", {
        "epochs": arguments.epochs, "qat_epochs": arguments.qat_epochs, "batch": batch,
        "rate": arguments.rate, "qat_rate": arguments.qat_rate, "seed": arguments.seed,
        "train_cpu_s": trained_s, "qat_cpu_s": quantized_s, "history": history,
        "samples": len(data.train), "input_size": list(spec.input_size),
        "command": f"python benchmarks/three_d.py train {arguments.shown}",
    })  # fmt: skip
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Build both networks, score and time them on the held-out cases, and write the result."""
    from lmaunet.data.loaders import load
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.quant.network import graph_of
    from lmaunet.quant.qat import described, load_quantized
    from lmaunet.sources.checkpoint import restore
    from lmaunet.train.metrics import predict_logits, score

    rows: dict[str, Any] = {}
    works: dict[str, Callable[[], object]] = {}
    for network in ("2d", "3d"):
        folder = arguments.runs / network
        done = read_json(folder / "done.json")
        slices = load(arguments.data, size=tuple(done["input_size"][-2:]))
        loaded = load_checkpoint(folder / "float32.pt")
        model = restore(loaded, folder / "float32.pt")
        runs: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "float32": partial(predict_logits, model),
            "quantized": partial(predict_logits, load_quantized(folder / "model.pt")),
        }
        refused = None
        try:
            runs["ort"] = ort_run(folder)
        except Disagreement as error:  # a build that is not to ship has no score
            refused = str(error).replace(str(arguments.runs), "RUNS")
        scores = {}
        for name, run_of in runs.items():
            predicted = by_case(slices, loaded.spec.input_size, run_of)
            found = score(predicted, slices.val.labels, slices.val.cases, slices.classes,
                          slices.case_spacing_mm)  # fmt: skip
            scores[name] = found.to_json()
        graph, _ = graph_of(model, (1, 1, *loaded.spec.input_size))
        pairs = [(scores["float32"]["per_case"], scores["quantized"]["per_case"])]
        ends = interval(pairs)
        rows[network] = {
            "spec": loaded.spec.to_json(), **described(graph), "training": done, "scores": scores,
            "ptq": read_json(folder / "qat.json")["scores"]["ptq"]["dice"],
            "drop_points": 100 * (scores["float32"]["dice"] - scores["quantized"]["dice"]),
            "drop_interval": None if ends is None else list(ends),
            "refused": refused,
        }  # fmt: skip
        case = slices.val.cases[0]
        mine = slices.val.images[slices.val.cases == case]
        rows[network]["timed_slices"] = len(mine)
        if "ort" in runs:
            works[network] = partial(cover_case, mine, loaded.spec.input_size, runs["ort"])
    for name, times in in_turns(works).items():
        rows[name]["volume_ms"] = times
    cases = [rows[network]["scores"]["float32"]["per_case"] for network in ("2d", "3d")]
    between = interval([(cases[0], cases[1])])
    result = {
        "command": f"python benchmarks/three_d.py report {arguments.shown}",
        "date": datetime.date.today().isoformat(), "tools": tool_versions(),
        "conditions": conditions(), "rows": rows,
        "slices_minus_volumes_interval": None if between is None else list(between),
    }  # fmt: skip
    write_json(arguments.output, result)
    print("\n".join(lines(result)))
    return 0


def ort_run(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return what runs a network's build for ONNX Runtime, which is made where it is not there."""
    import numpy as np

    from lmaunet.deploy.deployment import BUILD_FILE, read_build
    from lmaunet.deploy.targets import BuildRequest, ort

    made = folder / "ort"
    if not (made / BUILD_FILE).exists():
        made.mkdir(exist_ok=True)
        samples = np.load(folder / "samples.npz")["images"]
        request = BuildRequest(
            made, folder / "network.qcdq.onnx", folder / "network.qonnx.onnx", samples,
            ort.build_options(), lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        built = ort.build(request)
        write_json(made / BUILD_FILE, {
            "target": "ort", "shipped": built.shipped.name,
            "beside": [path.name for path in built.beside],
            "agreements": [a.to_json() for a in built.agreements], "detail": built.detail,
        })  # fmt: skip
    build = read_build(made)
    return lambda images: ort.run(build, images)


def cover_case(
    images: np.ndarray, size: tuple[int, ...], run: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the logits ``(n, classes, H, W)`` of a case's slices, as ``infer`` computes them."""
    from lmaunet.data.windows import cover_volume

    return run(images) if len(size) == 2 else cover_volume(images, size, run)


def by_case(
    data: Dataset, size: tuple[int, ...], run: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the classes ``(n, H, W)`` of all slices that validate, case by case."""
    import numpy as np

    classes = np.zeros(data.val.labels.shape, np.uint8)
    for case in dict.fromkeys(data.val.cases.tolist()):
        mine = data.val.cases == case
        classes[mine] = cover_case(data.val.images[mine], size, run).argmax(1)
    return classes


def in_turns(works: dict[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    """Return the least and the median time in ms of each work, done in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(TURNS + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if turn:  # the first loads the file
                times[name].append(1e3 * (time.perf_counter() - started))
    return {k: {"min": min(v), "median": statistics.median(v)} for k, v in times.items()}


def lines(result: dict[str, Any]) -> list[str]:
    """Return the table that the documentation shows."""
    header = ["network", "params", "FP32 Dice", "by class", "W8A8 Dice", "drop, points", "in ort",
              "ms a volume, least", "s of a core, training"]  # fmt: skip
    rows = []
    for name, row in result["rows"].items():
        scores = row["scores"]
        by_class = " / ".join(f"{100 * v:.1f}" for v in scores["float32"]["per_class"].values())
        ort = ["refused", ""]
        if row["refused"] is None:
            ort = [f"{100 * scores['ort']['dice']:.2f}", f"{row['volume_ms']['min']:.0f}"]
        rows.append([
            name, f"{row['params']:,}", f"{100 * scores['float32']['dice']:.2f}", by_class,
            f"{100 * scores['quantized']['dice']:.2f}", f"{row['drop_points']:+.2f}", *ort,
            f"{row['training']['train_cpu_s']:.0f}",
        ])  # fmt: skip
    return table(header, rows)


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=("train", "report"))
    add = parser.add_argument
    add("--network", choices=("2d", "3d"), default="2d")
    add("--data", type=Path, required=True, help="NAME_train.npz beside NAME_val.npz")
    add("--side", type=int, default=80, help="pixels in the plane")
    add("--depth", type=int, default=8, help="slices of a patch")
    add("--epochs", type=int, default=14)
    add("--rate", type=float, default=3e-3)
    add("--qat-epochs", type=int, default=2)
    add("--qat-rate", type=float, default=3e-4)
    add("--batch", type=int, default=16, help="slices of a step, in patches or alone")
    add("--seed", type=int, default=0)
    add("--runs", type=Path, default=Path("runs/three_d"))
    add("-o", "--output", type=Path, default=Path("results/three_d.json"))
    arguments = parser.parse_args(words)
    of_training = (
        f" --network {arguments.network} --epochs {arguments.epochs} --rate {arguments.rate:g} "
        f"--qat-epochs {arguments.qat_epochs} --qat-rate {arguments.qat_rate:g} "
        f"--batch {arguments.batch} --seed {arguments.seed}"
    )
    arguments.shown = f"--data DATA --side {arguments.side} --depth {arguments.depth}" + (
        of_training if arguments.command == "train" else ""
    )
    return arguments


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: (train if given.command == "train" else report)(given)))
