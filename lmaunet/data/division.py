"""Which cases train and which validate: by patient, drawn by a seed or as a file lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.data.patients import Patients
from lmaunet.data.split import drawn, split_subjects
from lmaunet.data.user_json import read_user_json, shown
from lmaunet.errors import UserError

SPLITS_FILE = "splits_final.json"
NAMED_CASES = 8


@dataclass(frozen=True)
class Division:
    """Which cases validate; ``sentence`` says how they were chosen, ``notes`` what is amiss."""

    val: frozenset[str]
    sentence: str
    notes: tuple[str, ...] = ()
    unused: frozenset[str] = frozenset()


def divide_cases(shows: Mapping[str, frozenset[int]], patients: Patients, seed: int) -> Division:
    """Divide cases by patient: a fifth of the patients, drawn by ``seed``, validates.

    Patients without a label are passed over. Where a class that two patients or more show is in
    none of those drawn, the next in order that shows it validates too, while at most half do and
    training keeps another that shows it.

    Args:
        shows: for each case the classes, background aside, that its labels show.
        patients: the patient of each case.
        seed: draws the order.

    Raises:
        UserError: where all cases are of one patient, or fewer than two patients have labels.
    """
    by_patient: dict[str, set[int]] = {}
    for case, found in shows.items():
        by_patient.setdefault(patients.of[case], set()).update(found)
    if len(by_patient) < 2:
        raise UserError(
            f"all {len(shows)} cases are of one patient ({next(iter(by_patient))}, {patients.how}),"
            " so none could validate that another does not give away; add another patient's, leave "
            "one case alone (it is split by blocks of slices), or, if they are of several patients,"
            " say so in patients.json: "
            '{"CASE": "PATIENT", ...}'
        )
    labelled = [name for name in drawn(list(by_patient), seed) if by_patient[name]]
    if len(labelled) < 2:
        raise UserError(
            f"labels that show a class are of {len(labelled)} of {len(by_patient)} patients; "
            "expected two or more, one to train and one to validate; label more cases, or leave "
            "one labelled case alone (it is split by blocks of slices)"
        )
    count = len(split_subjects(list(by_patient), seed))
    val = labelled[: min(count, len(labelled) - 1)]
    showing = Counter(found for name in labelled for found in by_patient[name])
    for index in sorted(found for found, patients_with in showing.items() if patients_with > 1):
        if any(index in by_patient[name] for name in val) or len(val) + 1 > len(by_patient) / 2:
            continue
        for name in labelled:
            train = [other for other in labelled if other not in val and other != name]
            kept = set().union(*(by_patient[other] for other in train))
            if name not in val and index in by_patient[name] and by_patient[name] <= kept:
                val.append(name)
                break
    chosen = frozenset(case for case in shows if patients.of[case] in val)
    return Division(
        chosen,
        f"{tally(shows, chosen, patients)}, drawn by seed {seed}; no patient is on both sides: "
        f"{patients.how}.",
        without_labels(shows),
    )


def divide_as_listed(
    path: Path, shows: Mapping[str, frozenset[int]], patients: Patients
) -> Division:
    """Divide cases as fold 0 of nnU-Net's ``splits_final.json`` does.

    Cases that the fold does not list are left aside.

    Raises:
        UserError: where the file is of another form, lists a case that is not there, or puts a
            patient on both sides.
    """
    content = read_user_json(path)
    known = {case.lower(): case for case in shows}
    sides: dict[str, list[str]] = {}
    for side in ("train", "val"):
        fold = content[0] if isinstance(content, list) and content else None
        listed = fold.get(side) if isinstance(fold, dict) else None
        if not isinstance(listed, list) or not listed:
            raise UserError(
                f"{path}: no list of cases to {side} in fold 0; expected "
                '[{"train": ["case1", ...], "val": ["case2", ...]}, ...]; correct or remove it'
            )
        for case in listed:
            if not isinstance(case, str) or case.lower() not in known:
                raise UserError(
                    f"{path}: fold 0 lists {shown(case)}, which is no case here (there are "
                    f"{_named(sorted(shows))}); correct or remove the file"
                )
        sides[side] = [known[case.lower()] for case in listed]
    owner = {patients.of[case]: case for case in sides["train"]}
    for case in sides["val"]:
        if patients.of[case] in owner:
            raise UserError(
                f"{path}: fold 0 trains on {owner[patients.of[case]]} and validates on {case}, "
                f"which are of one patient ({patients.how}); correct the fold, remove the file, or,"
                ' if they are of two, say so in patients.json: {"CASE": "PATIENT", ...}'
            )
    chosen = frozenset(sides["val"])
    used = {case: shows[case] for case in (*sides["train"], *sides["val"])}
    for side, cases in sides.items():
        if not any(shows[case] for case in cases):
            raise UserError(
                f"{path}: no case of fold 0 to {side} has a label; expected labels on both sides; "
                "correct or remove the file"
            )
    unused = frozenset(shows) - used.keys()
    notes = without_labels(used)
    if unused:
        notes += (f"fold 0 of {path.name} leaves {len(unused)} case(s) out: {_named(unused)}",)
    return Division(
        chosen,
        f"{tally(used, chosen, patients)}, as fold 0 of {path.name} says; no patient is on both "
        f"sides: {patients.how}.",
        notes,
        unused,
    )


def tally(shows: Mapping[str, Any], val: frozenset[str], patients: Patients) -> str:
    """Return how many cases train and validate, and of how many patients, in words."""
    train = [case for case in shows if case not in val]
    trained = "1 case trains" if len(train) == 1 else f"{len(train)} cases train"
    held = "1 validates" if len(val) == 1 else f"{len(val)} validate"
    text = f"{trained}, {held} ({_named(val)})"
    counts = [len({patients.of[case] for case in side}) for side in (train, val)]
    if counts != [len(train), len(val)]:
        text += f", of {counts[0]} and {counts[1]} patients"
    return text


def _named(cases: Collection[str]) -> str:
    names = sorted(cases)
    return ", ".join(names[:NAMED_CASES]) + (" ..." if len(names) > NAMED_CASES else "")


def without_labels(shows: Mapping[str, frozenset[int]]) -> tuple[str, ...]:
    """Return a note on the cases whose labels show no class, where there are any."""
    empty = sorted(case for case in shows if not shows[case])
    return (f"{len(empty)} case(s) have no label of a class: {_named(empty)}",) if empty else ()
