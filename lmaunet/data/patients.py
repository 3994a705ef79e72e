"""Which cases are of one patient, told by folders, by names or by a file of the user's.

Two time points of one patient show the same organs. Where one trains and the other validates, the
score is that of a network that has seen the answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.data.user_json import read_user_json, shown
from lmaunet.errors import UserError

PATIENTS_FILE = "patients.json"
LARGEST_PATTERN = 200
MOST_REPEATS = 12

_BIDS = re.compile(r"(?<![a-z0-9])sub-[a-z0-9]+")
_BRATS = re.compile(r"(?P<patient>brats-[a-z0-9]+-\d{4,5})-\d{3}(?![0-9])")
_PICAI = re.compile(r"(?P<patient>\d{5})_\d{7}")
# words that a number follows, then those that name independent cases as often as repeats
_COUNTED = (
    "frame|fr|ses|session|visit|vis|timepoint|time|tp|phase|followup|fu|month|week|day|year|yr|"
    "rep|repeat|echo|stack"
)
_COUNTED_WEAKLY = "scan|run|acq|acquisition|exam|examination|series"
_ALONE = (
    "preop|postop|pre|post|baseline|bl|followup|fu|before|after|initial|final|left|right|lt|rt|"
    "ed|es|systole|diastole|systolic|diastolic|test|retest|insp|exp|inspiration|expiration|"
    "arterial|venous|portal|delayed|native|first|second|third|1st|2nd|3rd"
)
_NUMBER = r"[-_. ]?(?:\d+|[a-z](?![a-z0-9]))"
_DATE = (
    r"(?:19|20)\d\d(?P<sep>[-_.]?)(?:0[1-9]|1[0-2])(?P=sep)(?:0[1-9]|[12]\d|3[01])(?:t?\d{4,6})?"
)
_OCCASION = re.compile(
    rf"(?<![a-z])(?:{_COUNTED}|{_COUNTED_WEAKLY}){_NUMBER}(?![a-z])"
    rf"|(?<![a-z])(?:{_ALONE})(?![a-z0-9])"
    rf"|(?<=[-_. ])(?:[tvmdwy]\d{{1,4}}|mr\d|[lr])(?![a-z0-9])"
    rf"|(?<=[-_. ])\d{{1,4}}(?:h|hr|d|days?|w|wk|weeks?|mo|months?|y|yr|years?)(?![a-z0-9])"
    rf"|(?<![a-z0-9]){_DATE}(?![a-z0-9])"
)
_WEAK = re.compile(rf"(?<![a-z])(?:{_COUNTED_WEAKLY}){_NUMBER}(?![a-z])")
_JOINED = re.compile(r"(follow|time|pre|post)[-_ ](up|point|op)(?![a-z])")
_REPEAT = re.compile(r"(?P<patient>.*?(?P<number>\d+))[-_. ]s?(?P<repeat>\d{1,3})", re.IGNORECASE)
_GROUP = re.compile(
    r"(site|cent(er|re)|hospital|clinic|fold|task|dataset|group|cohort|batch)[-_. ]?\d+",
    re.IGNORECASE,
)
_SIDE = re.compile(r"(?P<patient>.*\d)[-_. ]?[lra-f]")
_YEAR = re.compile(r"(?:19|20)\d\d")
_SEPARATORS = "-_. "
_PARTS = ("train", "training", "val", "validation", "test", "testing", "all", "data", "anat")


@dataclass(frozen=True)
class Patients:
    """The patient of each case, and how that is known.

    Args:
        of: patient by case.
        how: a clause that says how patients were told apart.
    """

    of: Mapping[str, str]
    how: str

    def count(self) -> int:
        """Return how many patients there are."""
        return len(set(self.of.values()))


def patient_of(case: str) -> str:
    """Return the patient that a case's name tells; the name itself where it tells none.

    What names an occasion (a frame, session, visit, time point, date, side, phase) is left out:
    the part before it is the patient where it holds a number, else what stays without it. A name
    of nothing but occasions, such as ``scan_12``, is a patient's own.
    """
    name = _JOINED.sub(r"\1\2", case.lower())
    for pattern in (_BRATS, _PICAI):
        if match := pattern.fullmatch(name):
            return match["patient"]
    if match := _BIDS.search(name):
        return match[0]
    occasions = list(_OCCASION.finditer(name))
    if not occasions:
        return name if name != case.lower() else case
    before = name[: occasions[0].start()].strip(_SEPARATORS)
    rest = re.sub(r"([-_. ])[-_. ]+", r"\1", _OCCASION.sub("", name)).strip(_SEPARATORS)
    for candidate in (before, rest):
        if any(c.isdigit() for c in candidate):
            return candidate
    if rest:
        return rest
    return occasions[0][0] if len(occasions) > 1 else case


def patients_by_name(cases: Sequence[str]) -> Patients:
    """Return the patients of cases that nothing but their names tells apart."""
    of = {case: case for case in cases}
    for rule in (_by_occasion, _by_repeat, _by_side):
        found = rule(sorted(set(of.values())))
        if found is not None:
            of = {case: found[name] for case, name in of.items()}
    if len(set(of.values())) == len(cases):
        return alone(cases)
    return Patients(of, f"told apart by their names ({_example(of)})")


def alone(cases: Sequence[str]) -> Patients:
    """Return each case as a patient of its own."""
    how = "every case counts as a patient, as no names tell that two are of one"
    return Patients({case: case for case in cases}, how)


def patients_by_folder(folders: Mapping[str, Sequence[str]]) -> Patients | None:
    """Return the patients of cases that lie in folders of their own, or None.

    Args:
        folders: for each case the names of its folders below the data set's, the outer first.
    """
    found = {}
    for case, parts in folders.items():
        named = [p for p in parts if p.lower() not in _PARTS and not _OCCASION.fullmatch(p.lower())]
        if not named:
            return None
        found[case] = named[0]
    of = patients_by_name(sorted(set(found.values()))).of
    of = {case: of[folder] for case, folder in found.items()}
    if len(set(of.values())) < 2:
        return None
    return Patients(of, f"told apart by their folders ({_example(of)})")


def given_patients(folder: Path, cases: Sequence[str], option: Any, where: str) -> Patients | None:
    """Return the patients that the user names, or None where he names none.

    ``patients.json`` in the data set's folder holds ``{"case": "patient", ...}``. The option
    ``patients`` of a class map holds the same, or a regular expression whose first group (or whole
    match) at the start of a case's name is the patient.

    Raises:
        UserError: where it is neither, or leaves out a case.
    """
    if (folder / PATIENTS_FILE).exists():
        option, where = read_user_json(folder / PATIENTS_FILE), str(folder / PATIENTS_FILE)
    if option is None:
        return None
    if isinstance(option, str):
        return Patients(_by_pattern(option, cases, where), f"told apart by {shown(option)}")
    if not isinstance(option, Mapping) or not all(
        isinstance(patient, str) and patient.strip() for patient in option.values()
    ):
        raise UserError(
            f"{where}: patients {shown(option)}; expected the patient of each case, such as "
            '{"case1": "patient1", "case2": "patient1"}, or a regular expression'
        )
    given: dict[str, str] = {}
    for case, patient in option.items():
        if given.setdefault(case.lower(), patient) != patient:
            raise UserError(f"{where}: case {shown(case)} is given two patients; correct one")
    of = {}
    for case in cases:
        if case.lower() not in given:
            raise UserError(
                f"{where}: no patient is given for case {case!r}; list all {len(cases)} cases, or "
                "remove the list"
            )
        of[case] = given[case.lower()]
    unknown = sorted(given.keys() - {case.lower() for case in cases})
    if unknown:
        raise UserError(
            f"{where}: there is no case {shown(unknown[0])}; the cases are "
            f"{', '.join(sorted(cases)[:3])}{' ...' if len(cases) > 3 else ''}; correct the list"
        )
    return Patients(of, f"as {Path(where).name} says")


def _by_pattern(pattern: str, cases: Sequence[str], where: str) -> dict[str, str]:
    try:
        if len(pattern) > LARGEST_PATTERN:
            raise ValueError(f"longer than {LARGEST_PATTERN} characters")
        compiled = re.compile(pattern, re.IGNORECASE)
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{where}: patients {shown(pattern)} is no regular expression ({error}); expected one "
            'such as "^(P[0-9]+)"'
        ) from error
    of = {}
    for case in cases:
        match = compiled.match(case)
        patient = match and (match[1] if compiled.groups else match[0])
        if not patient:
            raise UserError(
                f"{where}: patients {shown(pattern)} finds no patient in case {case!r}; expected "
                "one in each name"
            )
        of[case] = patient
    return of


def _by_occasion(cases: Sequence[str]) -> dict[str, str] | None:
    of = {case: patient_of(case) for case in cases}
    if len(set(of.values())) > 1:
        return of
    # One name for all: of one patient where it is a number's and the occasions are clear; a word
    # such as "scan" with a number is as often a case, and "mri" is nobody's name.
    only = next(iter(of.values()))
    clear = all(_OCCASION.search(_WEAK.sub("", case.lower())) for case in cases)
    return of if any(c.isdigit() for c in only) and clear else None


def _by_repeat(cases: Sequence[str]) -> dict[str, str] | None:
    """Names that all end in two numbers, the second one a short count: patient and repeat."""
    matches = [_REPEAT.fullmatch(case) for case in cases]
    of = {}
    for case, match in zip(cases, matches, strict=True):
        if match is None or len(match["number"]) < len(match["repeat"]):
            return None
        if _YEAR.fullmatch(match["number"]) or _GROUP.fullmatch(match["patient"]):
            return None
        of[case] = match["patient"]
    most = max(Counter(of.values()).values())
    return of if len(set(of.values())) > 1 and most <= MOST_REPEATS else None


def _by_side(cases: Sequence[str]) -> dict[str, str] | None:
    """Names that end in a number and a letter (a side, a repeat), where two share the number."""
    found = {case: _SIDE.fullmatch(case.lower()) for case in cases}
    shared = Counter(match["patient"] for match in found.values() if match)
    of = {
        case: match["patient"] if match and shared[match["patient"]] > 1 else case
        for case, match in found.items()
    }
    return of if len(set(of.values())) > 1 else None


def _example(of: Mapping[str, str]) -> str:
    cases: dict[str, list[str]] = {}
    for case, patient in of.items():
        cases.setdefault(patient, []).append(case)
    patient, several = max(cases.items(), key=lambda item: len(item[1]))
    if len(several) == 1:
        return f"{several[0]} is of {patient}"
    return f"{several[0]} and {several[1]} are of {patient}"
