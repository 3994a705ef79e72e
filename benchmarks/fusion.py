"""Several modalities on drawn patients: what a registration is off by, what a missing one costs.

    python benchmarks/fusion.py --output results/fusion.json        some minutes on one thread

Everything is drawn (:mod:`lmaunet.data.phantom_modalities`): it shows that the path is sound and
what training with dropped modalities changes, not what real images give.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from lmaunet.data import phantom_modalities as phantom
from lmaunet.data.images.geometry import corners
from lmaunet.data.images.registration import register
from lmaunet.errors import UserError

HEAD_GRIDS = (phantom.Grid((48, 80, 66), (3.2, 2.4, 2.4)),
              phantom.Grid((30, 64, 56), (5.0, 3.0, 3.0), (6, 4, -5)))  # fmt: skip
BODY_GRIDS = (phantom.Grid((56, 84, 100), (6.0, 3.6, 3.6)),
              phantom.Grid((60, 100, 110), (5.0, 3.2, 3.2), (10, -5, 8)))  # fmt: skip
MOST_DEG, MOST_MM = 8.0, 15.0
SLICES = phantom.Grid((36, 64, 52), (4.4, 3.0, 3.0))
SIZE = (64, 64)
TRAIN_RATE, BATCH, DROP = 4e-3, 8, 0.25


def motion_of(seed: int) -> phantom.Motion:
    rng = np.random.default_rng([seed, 31])
    turn, shift = rng.uniform(-MOST_DEG, MOST_DEG, 3), rng.uniform(-MOST_MM, MOST_MM, 3)
    return phantom.Motion(tuple(turn.tolist()), tuple(shift.tolist()))


def head(seed: int, contrast: str, grid: phantom.Grid, motion: Any = None) -> Any:
    values = phantom.HEAD[contrast]
    drawn = phantom.draw(phantom.head(seed), values, grid, seed=seed + 7, motion=motion)
    return grid.image(drawn[0])


def body(seed: int, contrast: str, grid: phantom.Grid, motion: Any = None) -> Any:
    drawn = phantom.draw(
        phantom.abdomen(seed), phantom.ABDOMEN[contrast], grid, seed=seed + 7, motion=motion,
        background=phantom.AIR[contrast], noise=phantom.NOISE[contrast],
    )  # fmt: skip
    return grid.image(drawn[0])


def corner_error_mm(image: Any, found: Any, wanted: Any) -> float:
    points = [
        image.TransformIndexToPhysicalPoint([int(v) for v in index])
        for index in corners(image.GetSize())
    ]
    return max(math.dist(found.TransformPoint(p), wanted.TransformPoint(p)) for p in points)


def attempt(fixed: Any, moving: Any, wanted: Any = None) -> dict[str, Any]:
    """Return a registration's figures, its error where it is known, or why it was refused."""
    began = time.process_time()
    try:
        done = register(fixed, moving, "moving", "fixed", lambda line: None)
    except UserError as error:
        return {"refused": str(error), "cpu_s": round(time.process_time() - began, 1)}
    row: dict[str, Any] = {**done.to_json(), "cpu_s": round(time.process_time() - began, 1)}
    if wanted is not None:
        row["error_mm"] = round(corner_error_mm(fixed, done.transform, wanted), 2)
        row["misplaced_mm"] = round(corner_error_mm(fixed, SimpleITK.Euler3DTransform(), wanted), 1)
    return row


def registrations(seeds: int) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for name, make, first, second, (one, other) in (
        ("head, T1 and FLAIR", head, "t1", "flair", HEAD_GRIDS),
        ("abdomen, CT and MR", body, "CT", "MR", BODY_GRIDS),
    ):
        for seed in range(seeds):
            motion = motion_of(seed)
            row = attempt(
                make(seed, first, one), make(seed, second, other, motion), motion.transform()
            )
            found.setdefault(name, []).append({"seed": seed, **row})
            print(name, seed, row, flush=True)
    return found


def failures(seeds: int) -> list[dict[str, Any]]:
    """Return what becomes of images that cannot be registered."""
    rows = []
    for seed in range(seeds):
        motion = motion_of(seed)
        for name, fixed, moving in _hopeless(seed, motion):
            row = {"what": name, "seed": seed, **attempt(fixed, moving)}
            rows.append(row)
            print(row, flush=True)
    return rows


def _hopeless(seed: int, motion: phantom.Motion) -> list[tuple[str, Any, Any]]:
    (h1, h2), (b1, b2) = HEAD_GRIDS, BODY_GRIDS
    brain, trunk = head(seed, "t1", h1), body(seed, "CT", b1)
    rng = np.random.default_rng([seed, 33])
    grey = h2.image(rng.normal(300, 90, h2.shape).astype(np.float32))
    cloud = SimpleITK.SmoothingRecursiveGaussian(grey, 12.0)

    def flipped(image: Any) -> Any:
        made = SimpleITK.Flip(image, [True, False, False])
        made.CopyInformation(image)
        return made

    return [
        ("noise", brain, grey),
        ("smooth noise", brain, cloud),
        ("mirrored head", brain, flipped(head(seed, "flair", h2, motion))),
        ("mirrored abdomen", trunk, flipped(body(seed, "MR", b2, motion))),
        ("abdomen for a head", brain, body(seed, "MR", b2)),
        ("head for an abdomen", trunk, head(seed, "t2", h2)),
        ("another patient's head", brain, head(seed + 50, "flair", h2, motion)),
        ("another patient's abdomen", trunk, body(seed + 50, "MR", b2, motion)),
    ]


def write_brats(folder: Path, patients: int) -> None:
    """Write drawn patients as BraTS has them, to 2021."""
    for number in range(patients):
        name = f"BraTS20_Training_{number + 1:03d}"
        place = folder / name
        place.mkdir(parents=True)
        parts = phantom.head(number + 300)
        for at, contrast in enumerate(phantom.HEAD):
            image, labels = phantom.draw(
                parts, phantom.HEAD[contrast], SLICES, seed=1000 * at + number,
                codes=phantom.TUMOUR_CODES,
            )  # fmt: skip
            SimpleITK.WriteImage(SLICES.image(image), str(place / f"{name}_{contrast}.nii.gz"))
        SimpleITK.WriteImage(SLICES.image(labels), str(place / f"{name}_seg.nii.gz"))


def missing(patients: int, epochs: int, seeds: int) -> dict[str, Any]:
    """Return Dice with all modalities and without each, of networks trained with and without."""
    import torch

    from lmaunet.data.loaders import load
    from lmaunet.net.network import LMaUNet
    from lmaunet.quant.qat import evaluate, scores_without_each
    from lmaunet.spec import NetSpec
    from lmaunet.train.loop import fit
    from lmaunet.train.processes import join_processes
    from lmaunet.train.schedule import Schedule

    spec = NetSpec(
        "drawn", (8, 16, 16, 24, 32), in_channels=4, classes=4, states=4, kernels=(5, 5, 5, 3),
        input_size=SIZE,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        write_brats(Path(place) / "brats", patients)
        data = load(Path(place) / "brats", size=SIZE)
    rows = []
    for seed in range(seeds):
        for drop in (0.0, DROP):
            torch.manual_seed(seed)
            model = LMaUNet(spec)
            fit(
                model, data.train, Schedule(epochs, TRAIN_RATE, BATCH, drop_modality=drop),
                classes=4, seed=seed, folder=None, processes=join_processes(),
                progress=lambda fraction, line: None,
            )  # fmt: skip
            model.eval()
            scores = [evaluate(model, data), *scores_without_each(model, data)]
            row: dict[str, Any] = {"seed": seed, "drop": drop}
            for name, score in zip(("all", *phantom.HEAD), scores, strict=True):
                row[name] = {"dice": round(score.dice, 4), "per_class": {
                    key: round(value, 4) for key, value in score.per_class.items()}}  # fmt: skip
            rows.append(row)
            print(row, flush=True)
    return {
        "patients": {"train": len(data.patients_of("train")), "val": len(data.patients_of("val"))},
        "slices": {"train": len(data.train), "val": len(data.val)},
        "epochs": epochs, "spec": spec.to_json(), "rows": rows,
    }  # fmt: skip


def main(given: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", choices=("registration", "failures", "missing"))
    parser.add_argument("--registrations", type=int, default=8, help="seeds of each body")
    parser.add_argument("--failures", type=int, default=2, help="seeds")
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args(given)
    parts = {
        "registration": lambda: registrations(options.registrations),
        "failures": lambda: failures(options.failures),
        "missing": lambda: missing(options.patients, options.epochs, options.seeds),
    }
    content: dict[str, Any] = {
        "command": "python benchmarks/fusion.py " + " ".join(given or sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "machine": {"python": platform.python_version(), "processor": platform.machine()},
        "versions": {
            name: importlib.metadata.version(name) for name in ("SimpleITK", "torch", "numpy")
        },
        "images": "drawn, no patient's",
    }
    if options.output and options.output.exists():
        kept = json.loads(options.output.read_text(encoding="utf-8"))
        content = {**{key: kept[key] for key in parts if key in kept}, **content}
    for name, work in parts.items():
        if options.only in (None, name):
            content[name] = work()
            if options.output:
                text = json.dumps(content, indent=1) + "\n"
                options.output.write_text(text, encoding="utf-8")
    return content


if __name__ == "__main__":
    main()
