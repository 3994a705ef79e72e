"""One elastic network beside three of fixed kernels: Dice by kernel and resolution, bytes, time.

    python benchmarks/elastic_kernels.py train --data DATA/acdc_train.npz --only elastic
    python benchmarks/elastic_kernels.py train --data DATA/acdc_train.npz --only fixed-5,fixed-7
    python benchmarks/elastic_kernels.py score --data DATA/acdc_train.npz
    python benchmarks/elastic_kernels.py builds --data DATA/acdc_train.npz

``train`` trains each network on the same slices, each kernel in its own size, and goes on where it
was interrupted. A fixed network trains for ``--epochs``; the elastic one for three times as many,
a third of them at each kernel: as many steps at a kernel, and as many in all as the three fixed
ones together. ``score`` runs every network that is trained at every kernel
on the held-out slices in every size; logits are enlarged to the largest size and compared with the
labels there. ``builds`` quantizes the elastic network without further training, builds it for ONNX
Runtime, and scores and times each kernel's file. Each adds its part to ``--output``.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import count_classes, neutral

from lmaunet.data.dataset import Dataset
from lmaunet.deploy import pipeline
from lmaunet.deploy.console import progress_bar, run_command
from lmaunet.deploy.elastic_data import profile_data
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.kernel_profiles import KERNELS, elastic_spec, profile_spec, reference_kernel
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import read_json, tool_versions, write_json

ELASTIC = "elastic"
TIMED_RUNS = 30


def networks(arguments: argparse.Namespace) -> tuple[NetSpec, dict[str, NetSpec], DataSource]:
    """Return the elastic spec, the fixed ones by name, and the data's source."""
    source = DataSource(arguments.data)
    base = named_spec(arguments.spec)
    base = base.replace(classes=count_classes(source, base), input_size=(arguments.input_size,) * 2)
    spec = elastic_spec(base, KERNELS)
    return spec, {f"fixed-{k}": profile_spec(spec, k) for k in KERNELS}, source


def train(arguments: argparse.Namespace) -> None:
    """Train the networks that ``--only`` names, the elastic one by the command's own stage."""
    import torch

    from lmaunet.net.checkpoint import save_checkpoint
    from lmaunet.net.network import LMaUNet
    from lmaunet.train.loop import fit
    from lmaunet.train.processes import join_processes
    from lmaunet.train.schedule import Schedule

    spec, fixed, source = networks(arguments)
    schedule = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    of_elastic = Schedule(len(KERNELS) * arguments.epochs, arguments.rate, arguments.batch)
    for name in arguments.only.split(",") if arguments.only else [ELASTIC, *fixed]:
        run = arguments.runs / name
        with progress_bar(name) as progress:
            if name == ELASTIC:
                pipeline.train(run, spec, source, of_elastic, arguments.seed, progress)
                continue
            folder = run / "train"
            if (folder / "model.pt").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            kernel = int(name.removeprefix("fixed-"))
            data = profile_data(source, spec, source.load(spec))[kernel]
            torch.manual_seed(arguments.seed)
            model = LMaUNet(fixed[name])
            history = fit(
                model, data.train, schedule, classes=spec.classes, seed=arguments.seed,
                folder=folder, processes=join_processes(), progress=progress,
            )  # fmt: skip
            write_json(folder / "train.json", {"history": history, "schedule": schedule.to_json()})
            save_checkpoint(
                folder / "model.pt", fixed[name], model, classes=list(data.classes),
                normalization=dict(data.normalization),
            )  # fmt: skip


def dices(predicted: np.ndarray, data: Dataset) -> dict[str, float]:
    """Return Dice of each class and their mean over volumes, as the report scores it.

    The slices of a case are one volume; a class counts where it is in label or prediction.
    """
    found: dict[str, float] = {}
    for index, name in enumerate(data.classes):
        if index == 0:
            continue
        values = []
        for case in np.unique(data.val.cases):
            picked = data.val.cases == case
            one, other = predicted[picked] == index, data.val.labels[picked] == index
            total = int(one.sum()) + int(other.sum())
            if total:
                values.append(2 * int((one & other).sum()) / total)
        found[name] = statistics.fmean(values)
    return {"mean": statistics.fmean(found.values()), **found}


def at_largest(logits: np.ndarray, side: int) -> np.ndarray:
    """Return the classes ``(n, side, side)`` of logits ``(n, classes, H, W)``, enlarged."""
    import torch
    import torch.nn.functional as F

    tensor = torch.from_numpy(logits)
    if tensor.shape[2] != side:
        tensor = F.interpolate(tensor, size=(side, side), mode="bilinear", align_corners=False)
    return tensor.argmax(1).numpy()


def score(arguments: argparse.Namespace) -> None:
    """Score every trained network at every kernel in every size."""
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.quant.elastic import extract
    from lmaunet.sources.checkpoint import restore
    from lmaunet.train.metrics import predict_logits

    spec, fixed, source = networks(arguments)
    data = profile_data(source, spec, source.load(spec))
    largest = data[max(data)]
    side = largest.val.images.shape[2]
    rows = _known(arguments.output)
    for name in arguments.only.split(",") if arguments.only else [ELASTIC, *fixed]:
        rows = [row for row in rows if row["network"] != name]
        path = arguments.runs / name / "train" / "model.pt"
        if not path.exists():
            print(f"{name} is not trained: left out", flush=True)
            continue
        model = restore(load_checkpoint(path), path)
        versions = {k: extract(model, spec, k) for k in KERNELS} if name == ELASTIC else {
            fixed[name].kernels[0]: model
        }  # fmt: skip
        for kernel, network in versions.items():
            for of_kernel in data.values():
                size = of_kernel.val.images.shape[2]
                logits = predict_logits(network, of_kernel.val.images)
                found = dices(at_largest(logits, side), largest)
                rows.append({"network": name, "kernel": kernel, "pixels": size, "dice": found})
                print(name, kernel, size, f"{100 * found['mean']:.1f}", flush=True)
    _add(arguments, "scores", {
        "labels_at": side, "schedules": schedules(arguments.runs),
        "patients": len(largest.patients_of("val")), "slices": len(largest.val), "rows": rows,
    })  # fmt: skip


def _known(output: Path) -> list[dict[str, Any]]:
    """Return the scores that are there already."""
    known = read_json(output) if output.exists() else {}
    return list(known.get("scores", {}).get("rows", []))


def schedules(runs: Path) -> dict[str, dict[str, Any]]:
    """Return how each network was trained, by its name."""
    found = {}
    for path in sorted(runs.glob("*/train/train.json")):
        manifest = path.with_name("manifest.json")
        of = read_json(manifest)["options"] if manifest.exists() else read_json(path)
        found[path.parent.parent.name] = of["schedule"]
    return found


def builds(arguments: argparse.Namespace) -> None:
    """Quantize the elastic network as it is, build it, and score and time each kernel's file."""
    import shutil

    from lmaunet.deploy import timing
    from lmaunet.deploy.targets import get_target

    spec, _, source = networks(arguments)
    data = profile_data(source, spec, source.load(spec))
    place = arguments.runs / "build"
    shutil.rmtree(place, ignore_errors=True)
    built = _build(arguments, spec, data, place)
    target, rows = get_target("ort"), {}
    library = [path.stat().st_size for path in built.ships if path.suffix == ".so"]
    of = {reference_kernel(KERNELS): built, **built.profiles}
    for kernel, build in sorted(of.items()):
        images = data[kernel].val.images
        logits = target.run(build, images)
        times = processor_ms(partial(target.run, build, images[:1]))
        detail = built.detail["profiles"].get(str(kernel), {})
        rows[str(kernel)] = {
            "pixels": images.shape[2],
            "dice_int8": dices(logits.argmax(1), data[kernel]),
            "shipped_bytes": build.shipped.stat().st_size,
            "alone_bytes": detail.get("alone_bytes", build.shipped.stat().st_size),
            "processor_ms": times,
        }
        print(kernel, rows[str(kernel)]["shipped_bytes"], times, flush=True)
    _add(arguments, "builds", {
        "target": "ort", "library_bytes": sum(library), "schedules": schedules(arguments.runs),
        "shipped_bytes": sum(path.stat().st_size for path in built.ships),
        "three_fixed_bytes": sum(row["alone_bytes"] for row in rows.values()),
        "kernels": rows, **timing.conditions(),
    })  # fmt: skip


def processor_ms(work: Callable[[], object]) -> dict[str, float]:
    """Return the processor time of one image in ms, all threads together.

    Other work on the machine hardly changes it, as it does the time on the clock.
    """
    work()
    found = []
    for _ in range(TIMED_RUNS):
        started = time.process_time()
        work()
        found.append(1e3 * (time.process_time() - started))
    return {"median": statistics.median(found), "min": min(found), "runs": TIMED_RUNS}


def _build(
    arguments: argparse.Namespace, spec: NetSpec, data: Mapping[int, Dataset], place: Path
) -> Any:
    """Return the ort build of the trained elastic network, calibrated and not trained further."""
    import torch

    from lmaunet.deploy.deployment import Interface
    from lmaunet.deploy.export_images import samples_of
    from lmaunet.deploy.profile_builds import build_profiles
    from lmaunet.deploy.targets import BuildRequest, get_target
    from lmaunet.export import network as onnx_files
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.quant.calibration import calibrate, choose_slices
    from lmaunet.quant.elastic import ElasticQuant, extract
    from lmaunet.quant.network import QuantNetwork, graph_of
    from lmaunet.sources.checkpoint import restore

    path = arguments.runs / ELASTIC / "train" / "model.pt"
    if not path.exists():
        raise UserError(f"{path} does not exist; train the elastic network first")
    model, middle = restore(load_checkpoint(path), path), reference_kernel(KERNELS)
    shapes = {k: (1, spec.in_channels, *profile_spec(spec, k).input_size) for k in KERNELS}
    graphs = {k: graph_of(extract(model, spec, k), shapes[k]) for k in KERNELS}
    quantized = ElasticQuant({k: QuantNetwork(*graph) for k, graph in graphs.items()}, middle)
    for kernel, of_kernel in data.items():
        network = quantized.network(kernel)
        calibrate(network, of_kernel.train.images[choose_slices(of_kernel, 16)])
        folder = place / "export" / ("" if kernel == middle else f"profiles/{kernel}")
        folder.mkdir(parents=True, exist_ok=True)
        samples = samples_of(of_kernel)
        onnx_files.export_qcdq(
            network.eval(), torch.from_numpy(samples[:1]), folder / onnx_files.QCDQ
        )
        np.savez(folder / "samples.npz", images=samples)
        interface = Interface.of(profile_spec(spec, kernel), "", of_kernel, {})
        write_json(folder / "interface.json", interface.to_json())
        print(f"exported kernel {kernel}", flush=True)
    folder = place / "build" / "ort"
    folder.mkdir(parents=True)
    export, target = place / "export", get_target("ort")
    request = BuildRequest(
        folder, export / onnx_files.QCDQ, Path("unused"), samples_of(data[middle]), {},
        lambda line: print(line, flush=True),
    )  # fmt: skip
    return build_profiles(target, target.build(request), request, export)[0]


def _add(arguments: argparse.Namespace, part: str, content: Mapping[str, Any]) -> None:
    """Add a part to the output, beside the parts that are there."""
    path = arguments.output
    known = read_json(path) if path.exists() else {}
    known[part] = {
        "command": neutral("benchmarks/elastic_kernels.py", sys.argv),
        "date": datetime.date.today().isoformat(), "seed": arguments.seed,
        "tools": tool_versions(), **content,
    }  # fmt: skip
    write_json(path, known)


def main(arguments: argparse.Namespace) -> int:
    """Do one part."""
    {"train": train, "score": score, "builds": builds}[arguments.what](arguments)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "score", "builds"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--spec", default="edge")
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5, help="of a fixed network")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", type=Path, default=Path("runs/kernels"))
    parser.add_argument("--output", type=Path, default=Path("results/kernels.json"))
    parsed = parser.parse_args()
    sys.exit(run_command(lambda: main(parsed)))
