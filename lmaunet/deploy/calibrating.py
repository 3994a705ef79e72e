"""How far a build's confidence can be trusted, on held-out patients: what ``measure`` writes of it.

A temperature that was fitted to the patients that it is scored on would flatter itself. So each
patient is scored with one fitted to all others; the one that ships is fitted to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lmaunet.data.calibration_scores import (
    CalibrationCounts,
    best_temperature,
    of_interest,
    temperature_loss,
)
from lmaunet.data.confidence import SAMPLES, TEMPERATURES, Dropout, covered_share, draw_masks
from lmaunet.deploy import timing
from lmaunet.deploy.deployment import FILE, Interface
from lmaunet.deploy.masked_builds import DETAIL
from lmaunet.stage import read_json, record_of

if TYPE_CHECKING:
    from lmaunet.artifacts import Build
    from lmaunet.data.dataset import Dataset
    from lmaunet.deploy.targets import Target

Say = Callable[[float, str], None]
SEED = 0


def add_calibration(target: Target, build: Build, data: Dataset, say: Say) -> None:
    """Add to a build's detail how far its confidence can be trusted, where it says any."""
    if DETAIL not in build.detail or target.sampled is None:
        return
    path = build.folder / FILE
    with record_of(build.folder):
        dropout = Interface.from_json(read_json(path), str(path)).dropout
    if dropout is not None:
        found = calibrate_build(target, build, dropout, data, say)
        build.detail[DETAIL] = {**build.detail[DETAIL], "calibration": found}


def calibrate_build(
    target: Target, build: Build, dropout: Dropout, data: Dataset, say: Say
) -> dict[str, Any]:
    """Return what is known of a build's confidence on the held-out slices, as JSON.

    ``scores`` by kind (``plain``: one pass without dropout; ``sampled``: the mean over the samples;
    ``tempered``: that with the temperature, absent where there is but one patient) and region:
    ``ece`` in 15 bins, ``auroc_of_errors`` and ``risk`` by coverage of the mask's errors, by the
    entropy of that kind. ``volumes``: how often an organ's true volume lies within its interval.
    ``cost``: the time of 8 samples over that of none.

    Args:
        target, build: what is measured; it takes masks.
        dropout: what the build says.
        data: held out; slices in the network's size.
        say: told the share done and a line.
    """
    masks = draw_masks(SAMPLES, dropout.channels, dropout.rate, SEED)
    patients = [data.patient(case) for case in data.val.cases]
    losses = {patient: np.zeros(len(TEMPERATURES)) for patient in sorted(set(patients))}
    volumes = Volumes(len(data.classes))
    for index, logits, sampled in _computed(target, build, masks, data, say, 0.0, 0.45):
        label, mask = data.val.labels[index], logits.argmax(0)
        inside = of_interest(label, mask)
        losses[patients[index]] += temperature_loss(sampled[:, :, inside], label[inside])
        volumes.add(str(data.val.cases[index]), label, mask, sampled.argmax(1))
    total = sum(losses.values())
    others = {patient: best_temperature(total - loss) for patient, loss in losses.items()}
    counts = CalibrationCounts()
    for index, logits, sampled in _computed(target, build, masks, data, say, 0.45, 0.45):
        temperature = others[patients[index]]
        counts.add(logits, sampled, data.val.labels[index], temperature)
    scores = counts.to_json()
    if len(losses) == 1:
        del scores["tempered"]
    say(0.95, f"{target.name}: the time of {SAMPLES} samples")
    return {
        "samples": SAMPLES, "seed": SEED, "patients": len(losses), "slices": len(data.val),
        "temperature": dropout.temperature,
        "temperatures_of_others": others if len(losses) > 1 else {},
        "scores": scores,
        "volumes": volumes.to_json(data.classes),
        "further_sample_within": covered_share(SAMPLES),
        "cost": cost_of(target, build, masks, data.val.images[:1]),
    }  # fmt: skip


def _computed(
    target: Target, build: Build, masks: np.ndarray, data: Dataset, say: Say, start: float,
    share: float,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:  # fmt: skip
    """Yield each held-out slice's index, logits ``(classes, H, W)`` and those of the samples."""
    assert target.sampled is not None
    for index, image in enumerate(data.val.images):
        if index % 10 == 0:
            done = start + share * index / len(data.val)
            say(done, f"{target.name}: confidence, slice {index + 1}")
        logits, sampled = target.sampled(build, image[None], masks)
        yield index, logits[0], sampled[0]


def cost_of(target: Target, build: Build, masks: np.ndarray, image: np.ndarray) -> dict[str, Any]:
    """Return the times of an image without and with samples, in turns, and their ratio.

    The ratio is that of the shortest times: beside other work on the machine the medians of two
    works of several threads are not slowed alike. ``median_ratio`` is theirs.
    """
    run = target.sampled
    assert run is not None
    times = timing.time_turns(
        {"plain": lambda: target.run(build, image), "sampled": lambda: run(build, image, masks)}
    )
    plain, sampled = times["plain"], times["sampled"]
    return {
        "plain_ms": plain["min_ms"],
        "sampled_ms": sampled["min_ms"],
        "ratio": sampled["min_ms"] / plain["min_ms"],
        "median_ratio": sampled["median_ms"] / plain["median_ms"],
    }


class Volumes:
    """Voxels of each case's classes: in the label, in the mask, and in each sample."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._cases: dict[str, np.ndarray] = {}

    def add(self, case: str, label: np.ndarray, mask: np.ndarray, samples: np.ndarray) -> None:
        """Count a slice: classes ``(H, W)``, and of the samples ``(samples, H, W)``."""
        rows = np.stack(
            [np.bincount(x.ravel(), minlength=self._classes) for x in (label, mask, *samples)]
        )
        self._cases[case] = self._cases.get(case, 0) + rows

    def to_json(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return a row for each organ that a label holds.

        ``within`` counts the cases whose true volume lies between the least and the largest sample,
        ``width_percent`` is the median width of that interval, ``error_percent`` the median error
        of the mask's volume; both of the true volume.
        """
        rows = []
        for index, name in enumerate(names):
            found = [table[:, index] for table in self._cases.values() if table[0, index]]
            if not index or not found:
                continue
            true, mask = (np.array([table[k] for table in found]) for k in (0, 1))
            low = np.array([table[2:].min() for table in found])
            high = np.array([table[2:].max() for table in found])
            rows.append(
                {
                    "class": name, "cases": len(found),
                    "within": int(((low <= true) & (true <= high)).sum()),
                    "width_percent": float(np.median(100 * (high - low) / true)),
                    "error_percent": float(np.median(100 * np.abs(mask - true) / true)),
                }
            )  # fmt: skip
        return rows
