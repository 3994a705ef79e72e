"""What strokes are worth, and a CRF without them: a simulated user on patients of a data set.

    python benchmarks/refine.py --build DIR --data acdc_train.npz --tune -o results/refine_tune.json
    python benchmarks/refine.py --build DIR --data acdc_train.npz -o results/refine.json

The user draws one stroke a round, along the medial axis of the largest connected error in any one
slice, of its true class; all strokes so far correct the mask that the build made. ``--tune`` looks
at training patients alone, one parameter after the other; without it the held-out ones are scored
with what :mod:`lmaunet.deploy.correction` and :mod:`lmaunet.deploy.crf` have. The set has no
spacing: it is taken to be that of ``--spacing``.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import neutral
from scipy import ndimage

import lmaunet
from lmaunet.data import normalization as norm
from lmaunet.data.images.held import images_of_array
from lmaunet.data.inference import Preparation
from lmaunet.deploy import crf
from lmaunet.deploy.console import run_command
from lmaunet.deploy.correction import NO_STROKE, CutOptions, correct
from lmaunet.deploy.network_calls import Network, segment
from lmaunet.deploy.phase_times import Timer
from lmaunet.deploy.timing import cpu_model
from lmaunet.errors import UserError
from lmaunet.stage import tool_versions, write_json

ROUNDS = 5
RESAMPLES = 5000
TUNED = {
    "reach_mm": (0.0, 4.0, 8.0, 12.0), "strength_mm": (0.5, 1.0, 2.0, 4.0),
    "sigma": (0.5, 1.0, 2.0), "trust": (0.25, 0.5, 0.75, 1.0), "margin_mm": (10.0, 15.0, 25.0),
}  # fmt: skip
CRF_STRENGTHS, CRF_SIGMAS = (0.25, 1.0, 4.0, 8.0, 16.0), (0.5, 1.0, 2.0)


@dataclass(frozen=True, eq=False)
class Case:
    """A volume: image and truth ``(z, y, x)``, the network's probabilities and mask."""

    patient: str
    image: np.ndarray
    truth: np.ndarray
    shares: np.ndarray
    mask: np.ndarray


class _Run(Network):
    """What segments by a function."""

    def __init__(self, run: Any, classes: int) -> None:
        self.function, self.classes, self.timer = run, classes, Timer()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        found: np.ndarray = self.function(images)
        return found


class FloatNetwork:
    """A checkpoint's network in torch, before it is quantized, called as a build is."""

    target, arithmetic = "torch", "FP32 in torch, no build"

    def __init__(self, checkpoint: Path) -> None:
        from lmaunet.net.checkpoint import load_checkpoint
        from lmaunet.sources.checkpoint import restore

        loaded = load_checkpoint(checkpoint)
        self.module = restore(loaded, checkpoint).eval()
        spec = loaded.spec
        self.network, self.classes = spec.name, range(spec.classes)
        # as the set's slices are made for training: shrunk to fit, each a z-score
        self.preparation = Preparation(
            (spec.input_size[0], spec.input_size[1]), norm.zscore(), None, True
        )

    def __call__(self, image: np.ndarray, spacing: Sequence[float], probabilities: bool) -> Any:
        volume = self.preparation.ready(images_of_array(image, spacing, 1), ["the image"])
        shares = np.empty((len(self.classes), *volume.geometry.shape), np.float32)
        run: Any = self.run
        mask = segment(
            volume, _Run(run, len(self.classes)), overlap=0.5, batch=4,
            say=lambda share, line: None, shares=shares,
        )  # fmt: skip
        return mask, shares

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the logits of images."""
        import torch

        with torch.no_grad():
            found: np.ndarray = self.module(torch.from_numpy(images)).numpy()
        return found


def cases(path: Path, seg: Any, spacing: Sequence[float], patients: int) -> list[Case]:
    """Return the volumes of a set's first patients, all of them where 0, cut to their organs."""
    with np.load(path) as content:
        images, labels = content["image"], content["label"]
        patient, frame = content["patient"], content["frame"]
    chosen = np.unique(patient)[: patients or None]
    found = []
    for who, when in sorted({(int(p), int(f)) for p, f in zip(patient, frame, strict=True)}):
        if who not in chosen:
            continue
        here = (patient == who) & (frame == when)
        image = images[here].astype(np.float32)
        mask, shares = seg(image, spacing=spacing, probabilities=True)
        truth = labels[here].astype(np.uint8)
        found.append(cropped(Case(f"patient{who:03d}", image[None], truth, shares, mask)))
    return found


def kept(path: Path | None, make: Callable[[], list[Case]]) -> list[Case]:
    """Return volumes from a file, or make them and write it."""
    if path is None:
        return make()
    names = [f.name for f in fields(Case)]
    if path.exists():
        with np.load(path) as content:
            return [
                Case(str(content[f"{i}_patient"]), *(content[f"{i}_{name}"] for name in names[1:]))
                for i in range(int(content["count"]))
            ]
    found = make()
    content = {f"{i}_{name}": getattr(c, name) for i, c in enumerate(found) for name in names}
    np.savez_compressed(path, count=len(found), **content)
    return found


def cropped(case: Case, pixels: int = 24) -> Case:
    """Return a volume without what lies further from organs than any margin: the same, quicker."""
    _, y, x = np.nonzero((case.truth > 0) | (case.mask > 0))
    rows, columns = (slice(max(0, a.min() - pixels), a.max() + pixels + 1) for a in (y, x))
    here = (..., rows, columns)
    return Case(case.patient, *(a[here] for a in (case.image, case.truth, case.shares, case.mask)))


def dice(truth: np.ndarray, mask: np.ndarray, classes: int) -> float:
    """Return the mean Dice over the classes that the truth has."""
    scores = []
    for label in range(1, classes):
        a, b = truth == label, mask == label
        if a.any():
            scores.append(2 * np.count_nonzero(a & b) / (a.sum() + b.sum()))
    return float(np.mean(scores))


class Clock:
    """Milliseconds since it was made: of the clock on the wall, and of this process alone."""

    def __init__(self) -> None:
        self.wall, self.process = time.perf_counter(), time.process_time()

    def ms(self) -> tuple[float, float]:
        """Return both."""
        return 1e3 * (time.perf_counter() - self.wall), 1e3 * (time.process_time() - self.process)


def spent(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return medians and largest; other programs on the machine do not slow the process's."""
    wall, process = np.array(times).T
    return {
        "ms_median": round(float(np.median(wall)), 1), "ms_largest": round(float(max(wall)), 1),
        "cpu_ms_median": round(float(np.median(process)), 1),
        "cpu_ms_largest": round(float(max(process)), 1),
    }  # fmt: skip


def draw(truth: np.ndarray, mask: np.ndarray, strokes: np.ndarray, classes: int) -> bool:
    """Add a stroke where the mask errs most; return whether there was an error left to draw in."""
    best, size = None, 0
    for label in range(classes):
        wrong = (truth == label) & (mask != label) & (strokes == NO_STROKE)
        for z in np.flatnonzero(wrong.any((1, 2))):
            parts, count = ndimage.label(wrong[z])
            sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
            if sizes.max() > size:
                best, size = (label, z, parts == sizes.argmax() + 1), int(sizes.max())
    if best is None:
        return False
    label, z, part = best
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    axis = part & (depth == ndimage.maximum_filter(depth, 3)) & (depth >= depth.max() / 2)
    strokes[z][axis] = label
    return True


def follow(
    case: Case, spacing: Sequence[float], options: CutOptions, way: str = "network"
) -> dict[str, list[Any]]:
    """Return the Dice after each round, the time of its cuts and the voxels drawn in all.

    ``way`` is what corrects: ``network``, ``mask`` (without it), or ``strokes`` alone.
    """
    classes = len(case.shares)
    strokes = np.full(case.truth.shape, NO_STROKE, np.int32)
    mask = case.mask
    found: dict[str, list[Any]] = {
        "dice": [dice(case.truth, mask, classes)],
        "ms": [],
        "drawn": [],
    }
    for _ in range(ROUNDS):
        if draw(case.truth, mask, strokes, classes):
            clock = Clock()
            if way == "strokes":
                mask = np.where(strokes == NO_STROKE, case.mask, strokes)
            else:
                shares = case.shares if way == "network" else None
                mask = correct(case.image, case.mask, strokes, spacing, shares, options).mask
            found["ms"].append(clock.ms())
        found["dice"].append(dice(case.truth, mask, classes))
        found["drawn"].append(int(np.count_nonzero(strokes != NO_STROKE)))
    return found


def by_patient(values: Mapping[str, Sequence[Any]]) -> np.ndarray:
    return np.array([np.mean(values[name], 0) for name in sorted(values)])


def interval(values: np.ndarray) -> dict[str, float]:
    """Return the mean over patients and its 95% interval: patients drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return {"mean": round(float(values.mean()), 5), "low": round(float(low), 5),
            "high": round(float(high), 5)}  # fmt: skip


def user(given: Sequence[Case], spacing: Sequence[float], options: CutOptions, way: str) -> Any:
    scores: dict[str, list[Any]] = {}
    times, drawn = [], []
    for case in given:
        found = follow(case, spacing, options, way)
        scores.setdefault(case.patient, []).append(found["dice"])
        times.append(found["ms"])
        drawn.append(found["drawn"])
    return by_patient(scores), times, drawn


def smoothed(given: Sequence[Case], spacing: Sequence[float], strength: float, sigma: float) -> Any:
    scores: dict[str, list[Any]] = {}
    for case in given:
        labels = crf.smooth(case.shares, case.image, spacing[1:], strength, sigma)
        scores.setdefault(case.patient, []).append(dice(case.truth, labels, len(case.shares)))
    return by_patient(scores)


def tune(given: Sequence[Case], spacing: Sequence[float]) -> dict[str, Any]:
    """Return what each value of each parameter gave, one after the other, and the best."""
    options, tried = CutOptions(), []
    for name, values in TUNED.items():
        scores = {}
        for value in values:
            now = replace(options, **{name: value})
            scores[value] = float(user(given, spacing, now, "network")[0][:, 1:].mean())
        best = max(scores, key=lambda value: scores[value])
        options = replace(options, **{name: best})
        tried.append({"parameter": name, "dice": {str(v): round(s, 5) for v, s in scores.items()}})
        print(name, tried[-1]["dice"], "->", best, flush=True)
    grid = {}
    for strength in CRF_STRENGTHS:
        for sigma in CRF_SIGMAS:
            grid[f"{strength:g}, {sigma:g}"] = round(
                float(smoothed(given, spacing, strength, sigma).mean()), 5
            )
    none = round(float(by_patient_of(given).mean()), 5)
    print("crf, without", none, grid, flush=True)
    chosen = {name: getattr(options, name) for name in TUNED}
    return {"tried": tried, "chosen": chosen, "crf": {"without": none, "strength_mm, sigma": grid}}


def by_patient_of(given: Sequence[Case]) -> np.ndarray:
    scores: dict[str, list[Any]] = {}
    for case in given:
        scores.setdefault(case.patient, []).append(dice(case.truth, case.mask, len(case.shares)))
    return by_patient(scores)


def score(given: Sequence[Case], spacing: Sequence[float]) -> dict[str, Any]:
    """Return Dice by round for each way, the times, and what a CRF alone does."""
    ways: dict[str, Any] = {}
    for way in ("network", "mask", "strokes"):
        scores, times, drawn = user(given, spacing, CutOptions(), way)
        ways[way] = {
            "dice": [interval(scores[:, i]) for i in range(ROUNDS + 1)],
            "gain_points": [
                interval(100 * (scores[:, i] - scores[:, 0])) for i in range(1, ROUNDS + 1)
            ],
            "times": [spent([row[i] for row in times if len(row) > i]) for i in range(ROUNDS)],
            "voxels_drawn": [round(float(v), 1) for v in np.mean(drawn, 0)],
        }  # fmt: skip
        print(
            way,
            [f"{d['mean']:.4f}" for d in ways[way]["dice"]],
            [t["cpu_ms_largest"] for t in ways[way]["times"]],
            flush=True,
        )
    before, after = by_patient_of(given), smoothed(given, spacing, crf.STRENGTH_MM, crf.SIGMA)
    alone = {"before": interval(before), "after": interval(after),
             "gain_points": interval(100 * (after - before)),
             "patients_better": int((after > before).sum())}  # fmt: skip
    print("crf", alone, flush=True)
    return {"patients": len(before), "volumes": len(given), "user": ways, "crf": alone}


def speed() -> list[dict[str, Any]]:
    """Time a cut around a stroke of 40 mm in a noisy slice of 512x512, and in a volume."""
    rng, rows = np.random.default_rng(0), []
    for shape, spacing in (((1, 512, 512), (5.0, 0.8, 0.8)), ((64, 512, 512), (2.5, 0.8, 0.8))):
        z, y, x = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape)
        inside = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < 0.25
        image = (100 * inside + rng.normal(0, 20, shape)).astype(np.float32)
        share = np.clip(0.3 + 0.3 * inside + rng.normal(0, 0.1, shape), 0.02, 0.98).astype(
            np.float32
        )
        strokes = np.full(shape, NO_STROKE, np.int32)
        strokes[shape[0] // 2, 256, 340:390] = 1
        shares = np.stack([1 - share, share])
        mask = (share > 0.5).astype(np.uint8)
        times = []
        for _ in range(5):
            clock = Clock()
            done = correct(image[None], mask, strokes, spacing, shares)
            times.append(clock.ms())
        rows.append(
            {
                "shape": list(shape), "spacing_mm": list(spacing),
                "voxels": done.regions[0].voxels, **spent(times),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main(arguments: argparse.Namespace) -> int:
    if (arguments.build is None) == (arguments.ckpt is None):
        raise UserError("give --build DIR or --ckpt FILE, one of them")
    seg: Any = FloatNetwork(arguments.ckpt) if arguments.ckpt else lmaunet.load(arguments.build)
    held_out = arguments.data.with_name(arguments.data.name.replace("_train", "_val"))
    spacing = tuple(arguments.spacing)
    common = {
        "date": datetime.date.today().isoformat(), "cpu": cpu_model(),
        "command": neutral("benchmarks/refine.py", sys.argv), "seed": 0,
        "load_average": round(os.getloadavg()[0], 1), "tools": tool_versions(),
        "build": {"target": seg.target, "network": seg.network, "arithmetic": seg.arithmetic},
        "spacing_mm_assumed": spacing,
    }  # fmt: skip
    if arguments.tune:
        given = kept(
            arguments.keep, lambda: cases(arguments.data, seg, spacing, arguments.patients)
        )
        content = {**common, "patients": arguments.patients, **tune(given, spacing)}
    else:
        given = kept(arguments.keep, lambda: cases(held_out, seg, spacing, 0))
        options = CutOptions()
        content = {
            **common, "options": {name: getattr(options, name) for name in TUNED},
            "crf_options": {"strength_mm": crf.STRENGTH_MM, "sigma": crf.SIGMA},
            **score(given, spacing), "speed": speed(),
        }  # fmt: skip
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, content)
    print(f"written: {arguments.output}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=Path, help="whose network is asked")
    parser.add_argument("--ckpt", type=Path, help="in its place: the network in FP32")
    parser.add_argument(
        "--data", type=Path, required=True, help="NAME_train.npz, NAME_val.npz beside it"
    )
    parser.add_argument("--tune", action="store_true", help="on training patients")
    parser.add_argument("--patients", type=int, default=10, help="how many, for --tune")
    parser.add_argument(
        "--spacing", type=float, nargs=3, default=(10.0, 1.5, 1.5), help="mm of z, y, x"
    )
    parser.add_argument("--keep", type=Path, help="an .npz: what the network gave, found again")
    parser.add_argument("-o", "--output", type=Path, required=True)
    sys.exit(run_command(lambda: main(parser.parse_args())))
