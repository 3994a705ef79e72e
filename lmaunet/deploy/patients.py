"""Dice by patient, and how sure a mean drop is: the cases of one patient are not independent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lmaunet.data.patients import patient_of

LEAST_PATIENTS = 5
RESAMPLES, LEVEL = 5000, 0.95


def by_patient(
    per_case: Mapping[str, Mapping[str, float]], patient: Callable[[str], str] = patient_of
) -> dict[str, float]:
    """Return the mean Dice of each patient: over the classes of a case, then over the cases.

    ``patient`` gives the patient of a case; without it the case's name tells.
    """
    cases: dict[str, list[float]] = {}
    for case, classes in per_case.items():
        if classes:
            mean = sum(classes.values()) / len(classes)
            cases.setdefault(patient(case), []).append(mean)
    return {name: sum(means) / len(means) for name, means in cases.items()}


def drop_interval(
    reference: Mapping[str, float], own: Mapping[str, float]
) -> dict[str, Any] | None:  # fmt: skip
    """Return the 95% interval of the mean drop over patients in points; None for too few patients.

    Percentiles of the mean over patients drawn with replacement, 5,000 times, by a fixed seed
    (Efron, Bootstrap methods, 1979).

    Args:
        reference, own: the Dice of each patient, as :func:`by_patient` has it.
    """
    import numpy as np

    patients = sorted(set(reference) & set(own))
    if len(patients) < LEAST_PATIENTS:
        return None
    drops = np.array([100 * (reference[p] - own[p]) for p in patients])
    drawn = np.random.default_rng(0).integers(len(drops), size=(RESAMPLES, len(drops)))
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(drops[drawn].mean(1), [tail, 100 - tail])
    return {"low": float(low), "high": float(high), "patients": len(patients), "level": LEVEL}


def class_intervals(
    reference: Mapping[str, Mapping[str, float]],
    own: Mapping[str, Mapping[str, float]],
    patient: Callable[[str], str] = patient_of,
) -> dict[str, dict[str, Any]]:
    """Return :func:`drop_interval` of each class that enough patients have.

    Args:
        reference, own: the Dice of each class by case.
        patient: gives the patient of a case.
    """
    found = {}
    for name in dict.fromkeys(name for classes in reference.values() for name in classes):
        pair = [
            by_patient(
                {case: {name: of[name]} for case, of in scores.items() if name in of}, patient
            )
            for scores in (reference, own)
        ]
        interval = drop_interval(*pair)
        if interval is not None:
            found[name] = interval
    return found
