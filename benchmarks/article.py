"""The article's ablation and its study of few patients, trained and scored alike on real patients.

    python benchmarks/article.py --data DATA/NAME_train.npz --width 0.25 --input-size 128 \
        --epochs 6 --batch 4 --runs runs/article -o results/article.json
    python benchmarks/article.py --study 20 ... -o results/article_study.json

Four networks, which differ in their encoder's blocks and in widths: ``unet``,
``unet-large-kernel``, ``unet-mamba`` and ``base``. Each trains on the same slices for the same
epochs at the same rate and is scored on the validation cases. At ``--width`` 1 they have the
article's parameters and operations; two cores train a quarter of the widths in hours. The results
say both. HD95 is in pixels of the prepared slices where the data have no spacing: the mean over a
patient's slices and classes that label and prediction both have, then over patients.

``--study 20`` trains ``base`` and ``unet`` on all patients, which the ablation has done, and on 20%
of them for as many steps. Each draw takes other patients. ``--init base=FILE --init unet=FILE``
start both from a checkpoint and stand beside those that start at random.

Trainings are kept under ``--runs`` and found again; ``--finished`` trains nothing and makes the
tables of what is there, naming what is not.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import count_classes, neutral, seeds_of
from article_rows import NETWORKS, ablation_rows, ablation_table, study_rows, study_table

from lmaunet.deploy import pipeline
from lmaunet.deploy.console import progress_bar, run_command
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import read_json, sha256, tool_versions, write_json
from lmaunet.train.schedule import Schedule

STUDIED = ("base", "unet")
STEP = 2
"""What a scaled width is a multiple of."""


def scaled(spec: NetSpec, factor: float) -> NetSpec:
    """Return a spec with all of its widths times a factor, rounded to a multiple of two.

    Raises:
        UserError: for a factor that is not in (0, 1], or leaves a stage no channels.
    """
    if not 0 < factor <= 1:
        raise UserError(f"--width {factor:g}; give more than 0 and at most 1")
    assert spec.decoder_widths is not None and spec.pyramid_width is not None

    def scale(width: int) -> int:
        return STEP * round(width * factor / STEP)

    if scale(min(spec.widths)) < 4:
        raise UserError(f"--width {factor:g} leaves {spec.name} less than 4 channels; give more")
    widths = [scale(w) for w in spec.widths]
    return spec.replace(
        widths=tuple(widths), decoder_widths=tuple(scale(w) for w in spec.decoder_widths),
        pyramid_width=scale(spec.pyramid_width),
    )  # fmt: skip


def networks_of(names: str, factor: float, size: int | None) -> dict[str, NetSpec]:
    """Return the networks to train by name; raises UserError for an unknown or a missing name."""
    wanted = names.split(",")
    if set(wanted) - set(NETWORKS) or len(set(wanted)) < len(wanted) or "unet" not in wanted:
        raise UserError(
            f"--networks {names}: give unet and any of {', '.join(NETWORKS)}, once each"
        )
    square = (size, size) if size else None
    return {
        name: scaled(named_spec(name), factor).replace(input_size=square)
        for name in NETWORKS
        if name in wanted
    }


def drawn_patients(patients: np.ndarray, percent: float, draw: int) -> np.ndarray:
    """Return the sorted patients of a draw: ``percent`` of those in ``patients``, one at least.

    Raises:
        UserError: where that is not fewer than there are.
    """
    everyone = np.unique(patients)
    count = max(1, round(len(everyone) * percent / 100))
    if not 0 < percent < 100 or count >= len(everyone):
        raise UserError(
            f"--study {percent:g} of {len(everyone)} patients; give more than 0 and less than 100, "
            "which leaves some out"
        )
    rng = np.random.default_rng([round(1000 * percent), draw])
    return np.sort(rng.permutation(everyone)[:count])


def write_draw(
    data: Path, percent: float, draw: int, folder: Path
) -> tuple[Path, list[int], int, int]:
    """Write the slices of a draw beside all validation slices, as a data set of its own.

    Returns:
        the training file, its patients, and the number of slices of all and of these.

    Raises:
        UserError: where the data are not ``NAME_train.npz`` with patients beside ``NAME_val.npz``.
    """
    others = data.with_name(data.name.replace("_train.npz", "_val.npz"))
    if not data.name.endswith("_train.npz") or not data.is_file() or not others.is_file():
        raise UserError(f"--study draws patients of NAME_train.npz beside NAME_val.npz, not {data}")
    with np.load(data, allow_pickle=False) as file:
        arrays = dict(file)
    if "patient" not in arrays:
        raise UserError(
            f"{data} has no array 'patient'; --study draws patients, give their numbers"
        )
    chosen = drawn_patients(arrays["patient"], percent, draw)
    keep = np.isin(arrays["patient"], chosen)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"draw{draw}-{percent:g}_train.npz"
    if not path.exists():
        shutil.copyfile(others, folder / f"draw{draw}-{percent:g}_val.npz")
        partial = path.with_name("partial.npz")
        count = len(arrays["patient"])
        np.savez(
            partial, **{k: v[keep] if v.shape[:1] == (count,) else v for k, v in arrays.items()}
        )
        partial.rename(path)
    return path, [int(p) for p in chosen], len(keep), int(keep.sum())


def same_steps(epochs: int, slices: int, fewer: int, batch: int) -> int:
    """Return for how many epochs ``fewer`` slices give the steps of ``slices`` in ``epochs``."""
    return max(1, round(epochs * -(-slices // batch) / -(-fewer // batch)))


class Trainings:
    """Trains networks in folders of their own, or looks for what was trained.

    Args:
        runs: the folder of all.
        only_finished: train nothing.
    """

    def __init__(self, runs: Path, only_finished: bool) -> None:
        self.runs, self.only_finished = runs, only_finished
        self.missing: list[str] = []

    def scores(
        self, name: str, spec: NetSpec, source: DataSource, schedule: Schedule, seed: int,
        init: Path | None = None,
    ) -> dict[str, Any] | None:  # fmt: skip
        """Return a training's scores and its last loss; None where it is only looked for.

        Raises:
            UserError: where what was found is of another spec or schedule.
        """
        run = self.runs / name
        if self.only_finished:
            if not (run / "train" / "train.json").exists():
                self.missing.append(name)
                return None
            folder = run / "train"
            options = read_json(folder / "manifest.json")["options"]
            for key, wanted in (("spec", spec.to_json()), ("schedule", schedule.to_json())):
                if options[key] != wanted:
                    raise UserError(
                        f"{folder} was trained with {key} {options[key]}, expected {wanted}; "
                        "give the options that it was trained with, or another --runs"
                    )
        else:
            given = {} if init is None else {"init": init}
            with progress_bar(name) as progress:
                outcome = pipeline.train(run, spec, source, schedule, seed, progress, **given)
            folder = outcome.folder
        content = read_json(folder / "train.json")
        distances = patient_distances(folder, spec, source)
        return {**content["scores"], "last": content["history"][-1], **distances}


def patient_distances(folder: Path, spec: NetSpec, source: DataSource) -> dict[str, Any]:
    """Return the HD95 of each validation patient, by a training's folder; worked out once.

    A patient in none of whose slices label and prediction share a class is left out.
    """
    noted, digest = folder.parent / "hd95.json", sha256(folder / "model.pt")
    if noted.exists() and (known := read_json(noted)).get("sha256") == digest:
        return {key: known[key] for key in ("hd95_by_patient", "hd95_unit")}
    from lmaunet.net.checkpoint import load_checkpoint, restore
    from lmaunet.train.metrics import predict_logits, score

    data = source.load(spec)
    path = folder / "model.pt"
    predicted = predict_logits(restore(load_checkpoint(path), path), data.val.images).argmax(1)
    patients = np.array([data.patient(case) for case in data.val.cases])
    found, unit = {}, "mm"
    for patient in sorted(set(patients.tolist())):
        mine = patients == patient
        scores = score(
            predicted[mine], data.val.labels[mine], data.val.cases[mine], data.classes,
            data.case_spacing_mm,
        )  # fmt: skip
        distance = scores.hd95_mm
        if np.isnan(distance):
            distance, unit = scores.hd95_pixels, "pixels"
        if np.isfinite(distance):
            found[patient] = distance
    content = {"hd95_by_patient": found, "hd95_unit": unit}
    write_json(noted, {"sha256": digest, **content})
    return content


def ablation(arguments: argparse.Namespace, trainings: Trainings) -> dict[str, Any]:
    """Train the networks seed by seed; return the article's table with theirs beside it."""
    source = DataSource(arguments.data, arguments.class_map)
    specs = with_classes(networks_of(arguments.networks, arguments.width, arguments.input_size),
                         source)  # fmt: skip
    schedule = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in specs}
    for seed in seeds_of(arguments.seeds):
        for name, spec in specs.items():
            scores = trainings.scores(f"{name}-s{seed}", spec, source, schedule, seed)
            if scores is not None:
                found[name][seed] = scores
    return {"schedule": schedule.to_json(), **ablation_rows(specs, found)}


def with_classes(specs: Mapping[str, NetSpec], source: DataSource) -> dict[str, NetSpec]:
    """Return the specs for the classes that the data have."""
    classes = count_classes(source, next(iter(specs.values())))
    return {name: spec.replace(classes=classes) for name, spec in specs.items()}


def study(arguments: argparse.Namespace, trainings: Trainings) -> dict[str, Any]:
    """Train on all patients and on a part of them; return what the part loses."""
    source = DataSource(arguments.data, arguments.class_map)
    specs = networks_of(",".join(STUDIED), arguments.width, arguments.input_size)
    specs = with_classes(specs, source)
    starts: dict[str, Mapping[str, Path]] = {"random": {}}
    if arguments.init:
        starts["pretrained"] = inits_of(arguments.init)
    whole = Schedule(arguments.epochs, arguments.rate, arguments.batch)
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    draws = []
    for start, inits in starts.items():
        for seed in seeds_of(arguments.seeds):
            path, patients, slices, fewer = write_draw(
                arguments.data, arguments.study, seed, arguments.runs / "draws"
            )
            epochs = same_steps(arguments.epochs, slices, fewer, arguments.batch)
            part = Schedule(epochs, arguments.rate, arguments.batch)
            if start == "random":
                draws.append({"draw": seed, "patients": patients, "slices": fewer,
                              "epochs": epochs})  # fmt: skip
            for name, spec in specs.items():
                pair = {}
                for key, of, schedule in (
                    ("all", source, whole),
                    ("part", DataSource(path, arguments.class_map), part),
                ):
                    suffix = "" if start == "random" else "-init"
                    if key == "part":
                        suffix = f"-part{arguments.study:g}{suffix}"
                    pair[key] = trainings.scores(
                        f"{name}-s{seed}{suffix}", spec, of, schedule, seed, inits.get(name)
                    )
                if all(scores is not None for scores in pair.values()):
                    found.setdefault((name, start), {})[seed] = pair
    return {"percent": arguments.study, "schedule": whole.to_json(), "draws": draws,
            **study_rows(specs, found)}  # fmt: skip


def inits_of(words: list[str]) -> dict[str, Path]:
    """Return the checkpoints to start from, by network; raises UserError unless all are there."""
    found = {}
    for word in words:
        name, equals, file = word.partition("=")
        if name not in STUDIED or not equals or not Path(file).is_file():
            raise UserError(f"--init {word}; give base=FILE and unet=FILE, of files that exist")
        found[name] = Path(file)
    if set(found) != set(STUDIED):
        raise UserError(f"--init for {', '.join(found)}; give base=FILE and unet=FILE, both")
    return found


def shown_init(word: str) -> str:
    """Return a word of a command; of ``NETWORK=FILE`` without the folders of this machine."""
    return re.sub(r"^(\w+=)/(?:.*/(?=runs/)|.*/)", r"\1", word)


def main(arguments: argparse.Namespace) -> int:
    if arguments.specs is not None:
        specs = networks_of(arguments.networks, arguments.width, arguments.input_size)
        source = DataSource(arguments.data, arguments.class_map)
        for name, spec in with_classes(specs, source).items():
            path = arguments.specs / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, spec.to_json())
            print(path)
        return 0
    trainings = Trainings(arguments.runs, arguments.finished)
    work = ablation if arguments.study is None else study
    content = work(arguments, trainings)
    write_json(
        arguments.output,
        {
            "command": neutral("benchmarks/article.py", [shown_init(w) for w in sys.argv]),
            "date": datetime.date.today().isoformat(),
            "tools": tool_versions(),
            "width": arguments.width,
            "seeds": seeds_of(arguments.seeds),
            "not_trained": trainings.missing,
            **content,
        },
    )
    print("\n".join((ablation_table if arguments.study is None else study_table)(content)))
    for name in trainings.missing:
        print(f"not trained: {name}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="NAME_train.npz beside NAME_val.npz")
    add("--class-map", type=Path, help="JSON that maps label values to class names")
    add("--networks", default=",".join(NETWORKS), help="comma-separated, unet among them")
    add("--width", type=float, default=0.25, help="factor of all widths; 1 is the article's size")
    add("--specs", type=Path, help="only write the networks' specs into this folder")
    add("--input-size", type=int, default=128, help="height and width, a multiple of 128")
    add("--seeds", default="0,1,2", help="comma-separated; of a study also its draws")
    add("--study", type=float, metavar="PERCENT", help="of the patients to train with, beside all")
    add("--init", action="append", metavar="NETWORK=FILE", help="of a study: also start from these")
    add("--epochs", type=int, default=6, help="over all patients")
    add("--rate", type=float, default=3e-3, help="peak learning rate")
    add("--batch", type=int, default=4)
    add("--finished", action="store_true", help="train nothing, make the tables of what is there")
    add("--runs", type=Path, default=Path("runs/article"), help="where checkpoints are kept")
    add("-o", "--output", type=Path, default=Path("results/article.json"))
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
