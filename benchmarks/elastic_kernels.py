"""One elastic network beside three of fixed kernels: Dice by kernel and resolution, bytes, time.

    python benchmarks/elastic_kernels.py train --data DATA/acdc_train.npz --only elastic
    python benchmarks/elastic_kernels.py train --data DATA/acdc_train.npz --only fixed-5,fixed-7
    python benchmarks/elastic_kernels.py score --data DATA/acdc_train.npz
    python benchmarks/elastic_kernels.py builds --data DATA/acdc_train.npz

``train`` trains each network on the same slices for the same epochs, each kernel in its own size,
and goes on where it was interrupted. ``score`` runs every network at every kernel on the held-out
slices in every size, and compares with the labels in the largest one, to which logits are
enlarged. ``builds`` quantizes, builds for ONNX Runtime and times. Each adds its part to
``--output``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from accuracy import count_classes

from lmaunet.deploy import pipeline
from lmaunet.deploy.console import progress_bar, run_command
from lmaunet.deploy.elastic_data import profile_data
from lmaunet.deploy.runs import DataSource
from lmaunet.kernel_profiles import profile_spec
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import write_json

KERNELS = (5, 7, 9)
ELASTIC = "elastic"


def networks(arguments: argparse.Namespace) -> tuple[NetSpec, dict[str, NetSpec], DataSource]:
    """Return the elastic spec, the fixed ones by name, and the data's source."""
    source = DataSource(arguments.data)
    base = named_spec(arguments.spec)
    base = base.replace(
        classes=count_classes(source, base), input_size=(arguments.input_size,) * 2,
        kernels=(KERNELS[-1],) * 4, elastic=KERNELS,
    )  # fmt: skip
    fixed = {f"fixed-{k}": profile_spec(base, k) for k in KERNELS}
    return base, fixed, source


def train(arguments: argparse.Namespace) -> int:
    """Train the networks that ``--only`` names, the elastic one with the command's own stage."""
    import torch

    from lmaunet.net.checkpoint import save_checkpoint
    from lmaunet.net.network import LMaUNet
    from lmaunet.train.loop import fit
    from lmaunet.train.processes import join_processes
    from lmaunet.train.schedule import Schedule

    spec, fixed, source = networks(arguments)
    schedule = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    wanted = arguments.only.split(",") if arguments.only else [ELASTIC, *fixed]
    for name in wanted:
        run = arguments.runs / name
        with progress_bar(name) as progress:
            if name == ELASTIC:
                pipeline.train(run, spec, source, schedule, arguments.seed, progress)
                continue
            folder = run / "train"
            if (folder / "model.pt").exists():
                continue
            folder.mkdir(parents=True, exist_ok=True)
            kernel = fixed[name].kernels[0]
            data = profile_data(source, spec, source.load(spec))[kernel]
            torch.manual_seed(arguments.seed)
            model = LMaUNet(fixed[name])
            history = fit(
                model, data.train, schedule, classes=spec.classes, seed=arguments.seed,
                folder=folder, processes=join_processes(), progress=progress,
            )  # fmt: skip
            write_json(folder / "train.json", {"history": history})
            save_checkpoint(
                folder / "model.pt", fixed[name], model, classes=list(data.classes),
                normalization=dict(data.normalization),
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["train", "score", "builds"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--spec", default="edge")
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", type=Path, default=Path("runs/kernels"))
    parser.add_argument("--output", type=Path, default=Path("results/kernels.json"))
    parsed = parser.parse_args()
    sys.exit(run_command(lambda: {"train": train}[parsed.what](parsed)))
