"""Patients of the training side that are kept from it, so that a choice can be measured on them.

Whatever is chosen by a score must not be reported on the same patients: the best of several trials
is flattered by chance. A search therefore measures on these, and the patients that validate are
scored once, when all is chosen.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from lmaunet.data.dataset import Dataset
from lmaunet.data.division import divide_cases
from lmaunet.data.patients import Patients
from lmaunet.errors import UserError

SEED = 0
"""Draws which; not the training's seed, so that several trainings are measured on the same."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A data set whose training side is divided once more.

    Args:
        rest: trains on the other patients; validates as before.
        control: trains as ``rest`` does; validates on the patients that were kept.
        patients: their names, in order.
        others: how many patients train.
    """

    rest: Dataset
    control: Dataset
    patients: tuple[str, ...]
    others: int


def keep_patients(data: Dataset) -> Kept:
    """Keep a fifth of the training patients, at least one, from the training.

    They are drawn as those that validate are: where a class is in none of those drawn, another
    patient that shows it is kept too.

    Raises:
        UserError: where fewer than two patients with labels train.
    """
    side = data.train
    of = {str(case): data.patient(str(case)) for case in side.cases}
    shows = {case: _shown(side.labels[side.cases == case]) for case in of}
    labelled = {of[case] for case, classes in shows.items() if classes}
    if len(labelled) < 2:
        raise UserError(
            f"--max-drop measures on training patients that it keeps from the training, and "
            f"{len(labelled)} patient(s) with labels train in {data.name}; give data of several "
            "patients, or leave it out and choose with --bits or --budget-mb"
        )
    division = divide_cases(shows, Patients(of, data.told_apart), SEED)
    kept = np.isin(side.cases.astype(str), sorted(division.val))
    train = side.take(np.flatnonzero(~kept))
    rest = dataclasses.replace(data, train=train)
    # the spacing of training cases is not known one by one; Dice needs none
    control = dataclasses.replace(
        data, train=train, val=side.take(np.flatnonzero(kept)), case_spacing_mm={}
    )
    patients = tuple(sorted({of[case] for case in division.val}))
    return Kept(rest, control, patients, len(set(of.values())) - len(patients))


def _shown(labels: np.ndarray) -> frozenset[int]:
    """Return the classes that labels show, the background aside."""
    return frozenset(int(value) for value in np.unique(labels) if value)
