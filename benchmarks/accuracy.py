"""What quantization costs in accuracy: float control and quantized networks, over seeds.

For each seed: train the float network (or take ``--ckpt``), train an FP32 control for some extra
epochs, and quantize with each method for the same extra epochs. Everything is scored on the
validation cases, which no training, calibration or bit selection sees. A method is a name:

    w8        all weights 8 bits          3x3w4   dense 3x3 convolutions 4 bits, the rest 8
    w4, w3    4 or 3 bits but in the first layer and the head
    4.2mb     bits chosen so that the shipped file takes at most 4.2 MB

with any of the suffixes ``-pow2`` (power-of-two scales), ``-folded`` (normalizations folded before
the training instead of after it) and ``-distill`` (the float network's classes join the loss).
Each method also gives a row ``METHOD-ptq``: the same network calibrated only. A method that is
named so gives that row alone, without any training.

    python benchmarks/accuracy.py --spec edge --data DATA/NAME_train.npz --seeds 0,1,2 \
        --methods w8,3x3w4 --runs runs/accuracy -o results/accuracy

Finished parts are kept under ``--runs`` and found again. One file a seed goes into ``-o``;
``benchmarks/accuracy_table.py`` makes the tables from them.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path
from typing import Any

from lmaunet.deploy import pipeline
from lmaunet.deploy.console import progress_bar, run_command
from lmaunet.deploy.quantizing import QatOptions
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import read_json, sha256, tool_versions, write_json
from lmaunet.stated_spec import StatedSpec

DISTILLATION = 1.0
PTQ = "-ptq"
METHOD = re.compile(
    r"(w8|w4|w3|w2|3x3w4|3x3w3|(?P<mb>[0-9]+(\.[0-9]+)?)mb)(?P<suffixes>(-[a-z0-9]+)*)"
)


def options_of(method: str, epochs: int, rate: float, batch: int, seed: int) -> QatOptions:
    """Return what a method's name stands for, with or without :data:`PTQ` at its end.

    Raises:
        UserError: for a name that is no method, or calibration alone under a budget.
    """
    match = METHOD.fullmatch(method.removesuffix(PTQ))
    suffixes = match["suffixes"].split("-")[1:] if match else []
    allowed = {"pow2", "folded", "distill"}
    if match is None or set(suffixes) - allowed or len(set(suffixes)) < len(suffixes):
        raise UserError(
            f"unknown method {method!r}; give w8, w4, w3, w2, 3x3w4, 3x3w3 or such as 4.2mb, with "
            f"-pow2, -folded or -distill behind it, and {PTQ} last for calibration alone"
        )
    if match["mb"] and method.endswith(PTQ):
        raise UserError(f"{method}: a budget chooses bits for QAT; leave out {PTQ}")
    bits = None
    if not match["mb"]:
        dense, _, width = match[1].rpartition("w")
        bits = f"3x3={width}" if dense else width
    return QatOptions(
        epochs, rate, batch, seed, bits, float(match["mb"]) if match["mb"] else None,
        scales="pow2" if "pow2" in suffixes else "free",
        distillation=DISTILLATION if "distill" in suffixes else 0.0,
        keep_norms="folded" not in suffixes,
    )  # fmt: skip


def seeds_of(text: str) -> list[int]:
    """Return the seeds of a comma-separated list; raises UserError for anything else."""
    words = text.split(",")
    if not all(re.fullmatch("[0-9]+", word) for word in words):
        raise UserError(f"--seeds {text!r}; give numbers divided by commas, such as 0,1,2")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text!r} names a seed twice; give each once")
    return seeds


def methods_of(text: str) -> list[str]:
    """Return the methods of a comma-separated list.

    Raises:
        UserError: for one that is unknown, or gives a row that another one gives too.
    """
    methods, rows = text.split(","), dict[tuple[QatOptions, bool], str]()
    for method in methods:
        options = options_of(method, 1, 1e-4, 8, 0)
        options.settings()
        # each method gives a row of its calibration, and but for those a row of its training
        for trained in (False,) if method.endswith(PTQ) else (False, True):
            if (options, trained) in rows:
                raise UserError(
                    f"--methods {text!r}: {rows[options, trained]} and {method} give the same row "
                    f"(every method gives METHOD{PTQ} as well); leave one out"
                )
            rows[options, trained] = method
    return methods


def main(arguments: argparse.Namespace) -> int:
    from lmaunet.net.checkpoint import load_checkpoint, restore

    source = DataSource(arguments.data, arguments.class_map)
    size = (arguments.input_size,) * 2 if arguments.input_size else None
    spec = named_spec(arguments.spec).replace(input_size=size)
    # all that can be refused is refused before anything trains
    seeds = seeds_of(arguments.seeds)
    methods_of(arguments.methods)
    spec = spec.replace(classes=count_classes(source, spec))
    if arguments.ckpt is not None:
        restore(load_checkpoint(arguments.ckpt, StatedSpec.of(spec)), arguments.ckpt)
    for seed in seeds:
        run = arguments.runs / f"{spec.name}-s{seed}"
        with progress_bar(f"{spec.name}, seed {seed}") as progress:
            result = measure_seed(run, spec, source, seed, arguments, progress)
        arguments.output.mkdir(parents=True, exist_ok=True)
        path = arguments.output / f"{arguments.name or spec.name}-s{seed}.json"
        write_json(path, result)
        print(f"wrote {path}")
    return 0


def count_classes(source: DataSource, spec: NetSpec) -> int:
    """Return how many classes the data have, with the background."""
    from lmaunet.data.loaders import load

    assert source.path is not None
    data = load(source.path, size=spec.input_size, class_map=source.class_map)
    return len(data.classes)


def measure_seed(
    run: Path, spec: NetSpec, source: DataSource, seed: int, arguments: Any, progress: Any
) -> dict[str, Any]:
    """Train, control and quantize one seed; return the scores of all."""
    from lmaunet.train.loop import Schedule

    schedule = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    extra = Schedule(arguments.extra_epochs, arguments.extra_rate, arguments.batch)
    checkpoint = arguments.ckpt
    if checkpoint is None:
        outcome = pipeline.train(run, spec, source, schedule, seed, progress)
        checkpoint = outcome.folder / "model.pt"
    stated = StatedSpec.of(spec)
    control = pipeline.control(run, checkpoint, source, extra, seed, progress, stated)
    floats = read_json(control.folder / "control.json")["scores"]
    networks = {"float32": {"scores": floats["float32"]}, "control": {"scores": floats["control"]}}
    for method in arguments.methods.split(","):
        if method.endswith(PTQ):
            networks[method] = _calibrated(method, checkpoint, source, spec, progress)
            continue
        options = options_of(
            method, arguments.extra_epochs, arguments.extra_rate, arguments.batch, seed
        )
        folder = pipeline.qat(
            run / method, checkpoint, source, options.settings(), seed, progress, stated
        ).folder
        found = read_json(folder / "qat.json")
        shipped = _file_bytes(folder, spec)
        for name, key in ((f"{method}{PTQ}", "ptq"), (method, "qat")):
            networks[name] = {
                "scores": found["scores"][key],
                "weight_bits": found["weight_bits"],
                "size_bytes": shipped,
            }
    return {
        "spec": spec.to_json(),
        "seed": seed,
        "float_seed": seed if arguments.ckpt is None else "given",
        "schedule": {
            "float": None if arguments.ckpt else f"{arguments.epochs} epochs, {arguments.rate:g}",
            "extra": extra.to_json(),
        },
        "networks": networks,
        "made": {
            "command": neutral("benchmarks/accuracy.py", sys.argv),
            "date": datetime.date.today().isoformat(),
            "tools": tool_versions(),
        },
    }


def _calibrated(
    method: str, checkpoint: Path, source: DataSource, spec: NetSpec, progress: Any
) -> dict[str, Any]:
    """Return the scores of a network that is quantized by calibration only, as QAT starts."""
    from lmaunet.cpu.cpu_file import file_bytes
    from lmaunet.net.checkpoint import load_checkpoint, restore
    from lmaunet.quant.bits import resolve_bits
    from lmaunet.quant.calibration import calibrate
    from lmaunet.quant.network import QuantNetwork, count_weight_bits, graph_of
    from lmaunet.quant.qat import calibration_images, evaluate

    settings = options_of(method, 1, 1e-4, 8, 0).settings()
    data = source.load(spec)
    model = restore(load_checkpoint(checkpoint, StatedSpec.of(spec)), checkpoint)
    images = calibration_images(data)
    graph, weights = graph_of(model, images.shape)
    network = QuantNetwork(
        graph, weights, resolve_bits(graph, settings.bits), scales=settings.scales,
        keep_norms=settings.keep_norms,
    )  # fmt: skip
    calibrate(network, images)
    progress(0.5, f"{method} on held-out slices")
    scores = evaluate(network, data)
    network.fold_norms()
    counts = count_weight_bits(graph, network.bits)
    return {
        "scores": scores.to_json(),
        "weight_bits": {str(bits): count for bits, count in sorted(counts.items())},
        "size_bytes": file_bytes(network, images),
    }


def _file_bytes(folder: Path, spec: NetSpec) -> int:
    """Return the bytes of the file that a quantized network ships as; made once a network."""
    import numpy as np

    from lmaunet.cpu.cpu_file import file_bytes
    from lmaunet.quant.qat import load_quantized

    noted, digest = folder.parent / "file_bytes.json", sha256(folder / "model.pt")
    known = read_json(noted) if noted.exists() else {}
    if known.get("sha256") != digest:
        image = np.zeros((1, spec.in_channels, *spec.input_size), np.float32)
        size = file_bytes(load_quantized(folder / "model.pt"), image)
        known = {"sha256": digest, "bytes": size}
        write_json(noted, known)
    return known["bytes"]


def neutral(script: str, words: list[str]) -> str:
    """Return a command without the folders of this machine."""
    shown = []
    for word in words[1:]:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        value = re.sub(r"^.*/(?=[^/]+_(train|val)\.npz$)", "DATA/", value)
        value = re.sub(r"^/.*/(?=(runs|results)(/|$))", "", value)
        shown.append(option + equals + re.sub(r"^/(.*/)?", "", value))
    return " ".join(["python", script, *shown])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--spec", default="edge", help="base, edge or demo")
    add("--data", type=Path, required=True, help="NAME_train.npz beside NAME_val.npz, or a folder")
    add("--class-map", type=Path, help="JSON that maps label values to class names")
    add("--input-size", type=int, help="height and width; the spec's if not given")
    add("--seeds", default="0,1,2", help="comma-separated")
    add("--methods", default="w8,3x3w4", help="comma-separated, see above")
    add("--ckpt", type=Path, help="quantize this float checkpoint instead of training one a seed")
    add("--epochs", type=int, default=14, help="of the float training")
    add("--rate", type=float, default=3e-3, help="peak learning rate of the float training")
    add("--extra-epochs", type=int, default=2, help="of control and QAT")
    add("--extra-rate", type=float, default=1e-4, help="peak learning rate of control and QAT")
    add("--batch", type=int, default=8)
    add("--runs", type=Path, default=Path("runs/accuracy"), help="where checkpoints are kept")
    add("--name", help="of the result files; the spec's if not given")
    add("-o", "--output", type=Path, default=Path("results/accuracy"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
