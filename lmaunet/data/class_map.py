"""From the label codes of a file to the classes of a network, always by an explicit map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.dataset_json import parse_dataset_json
from lmaunet.data.user_json import check_names, is_name, is_whole, read_user_json, shown
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# The one order of classes that this project uses for the abdomen: the alphabetical order in which
# the articles on Synapse print their tables.
SYNAPSE_CLASSES = (
    "background", "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas",
    "spleen", "stomach",
)  # fmt: skip
CARDIAC_CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
CLASS_FILE = "classes.json"
LARGEST_CODE = 2**53
LARGEST_LABEL = 65535
TOLERANCE = 1e-3
OPTIONS = ("label_source", "name", "normalization", "patients")
EXPECTED = 'expected {"classes": ["background", ...], "codes": {"1": 1, ...}}'

_CODE = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True)
class ClassMap:
    """Classes by index and the code of each in a file.

    Args:
        classes: names, the background first.
        codes: class index by code in the file; the background's own code is 0 unless it is listed.
        others: the class of codes that are not listed, or None where such a code is an error.
        options: what else the map's file says (label_source, name, normalization).
    """

    classes: tuple[str, ...]
    codes: Mapping[int, int]
    others: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, labels: np.ndarray, where: str) -> np.ndarray:
        """Return the class of each pixel, uint8, of the shape of ``labels``.

        Args:
            labels: codes; of any number type, as long as every value is a whole number.
            where: what the labels were read from, for the message.

        Raises:
            UserError: for NaN, infinity, a fraction, or a code that the map does not know.
        """
        import numpy as np

        codes = integral(labels, where)
        known = {0: 0, **self.codes}
        present, counts = np.unique(codes, return_counts=True)
        unknown = [
            (int(code), int(count))
            for code, count in zip(present, counts, strict=True)
            if int(code) not in known
        ]
        odd = [pair for pair in unknown if not 0 <= pair[0] <= LARGEST_LABEL]
        if odd and self.others is not None:
            raise UserError(
                f"{where}: {_counted(odd)}; expected labels of 0 to {LARGEST_LABEL}; check that "
                "this is a label image, or list the value in the class map"
            )
        if unknown and self.others is None:
            raise UserError(
                f"{where}: label {unknown[0][0]} is beyond the {len(self.classes)} classes "
                f"(known codes: {_some(sorted(known))}): {_counted(unknown)}; correct the labels "
                f"or give a class map ({CLASS_FILE}) that lists it"
            )
        mapped = [known.get(int(c), self.others) for c in present]
        return np.array(mapped, np.uint8)[np.searchsorted(present, codes)]


def _counted(labels: list[tuple[int, int]]) -> str:
    each = [f"{count} pixel(s) have label {code}" for code, count in labels[:5]]
    return ", ".join(each) + (f", and there are {len(labels) - 5} more" if len(labels) > 5 else "")


def _some(codes: list[int]) -> str:
    return ", ".join(map(str, codes[:20])) + (" ..." if len(codes) > 20 else "")


def integral(labels: np.ndarray, where: str, what: str = "label") -> np.ndarray:
    """Return labels as int64, those within 0.001 of a whole number rounded to it.

    Some programs write labels as floats, or with a slope that does not give whole numbers back
    exactly. ``what`` names one of them in the message.

    Raises:
        UserError: for another type, NaN, infinity, a fraction or a number out of range.
    """
    import numpy as np

    if labels.dtype.kind not in "fiub":
        raise UserError(
            f"{where}: {what}s of type {labels.dtype}; expected whole numbers; convert them"
        )
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise UserError(
                f"{where}: {what}s hold NaN or infinity; expected whole numbers; replace them"
            )
        whole = np.round(labels)
        wrong = np.abs(labels - whole) > TOLERANCE
        if wrong.any():
            raise UserError(
                f"{where}: {what} {labels[wrong].flat[0]:g} is not a whole number, nor "
                f"{np.count_nonzero(wrong)} of {labels.size} in all; expected codes such as 0, 1, "
                f"2 (to {TOLERANCE:g}); correct the file"
            )
        labels = whole
    if labels.dtype.kind in "fu" and labels.size and float(labels.max()) > LARGEST_CODE:
        raise UserError(
            f"{where}: {what} {labels.max()} is out of range; expected at most {LARGEST_CODE}; "
            "correct the file"
        )
    if labels.dtype.kind == "f" and labels.size and float(labels.min()) < -LARGEST_CODE:
        raise UserError(
            f"{where}: {what} {labels.min():g} is out of range; expected at least "
            f"{-LARGEST_CODE}; correct the file"
        )
    return labels.astype(np.int64)


def _synapse(**codes: int) -> dict[int, int]:
    return {code: SYNAPSE_CLASSES.index(name.replace("_", " ")) for name, code in codes.items()}


NAMED_MAPS: dict[str, ClassMap] = {
    "totalsegmentator": ClassMap(
        SYNAPSE_CLASSES,
        _synapse(spleen=1, right_kidney=2, left_kidney=3, gallbladder=4, liver=5, stomach=6,
                 pancreas=7, aorta=52),
        others=0,
    ),
    "synapse-13": ClassMap(
        SYNAPSE_CLASSES,
        _synapse(spleen=1, right_kidney=2, left_kidney=3, gallbladder=4, liver=6, stomach=7,
                 aorta=8, pancreas=11),
        others=0,
    ),
    "synapse-aorta-first": ClassMap(
        SYNAPSE_CLASSES,
        _synapse(aorta=1, gallbladder=2, left_kidney=3, right_kidney=4, liver=5, pancreas=6,
                 spleen=7, stomach=8),
    ),
    "synapse-spleen-first": ClassMap(
        SYNAPSE_CLASSES,
        _synapse(spleen=1, right_kidney=2, left_kidney=3, gallbladder=4, liver=5, stomach=6,
                 aorta=7, pancreas=8),
    ),
    "cardiac": ClassMap(CARDIAC_CLASSES, {1: 1, 2: 2, 3: 3}),
}  # fmt: skip


def identity_map(count: int) -> ClassMap:
    """Return the map that keeps codes ``0 .. count-1`` and names them by number."""
    names = ("background", *(f"class {i}" for i in range(1, count)))
    return ClassMap(names, {i: i for i in range(count)})


def read_class_map(given: str | Path) -> ClassMap:
    """Return a named map, or the one that a JSON file holds.

    The file holds ``{"classes": ["background", ...], "codes": {"1": 1, ...}}`` and may hold
    ``"others": 0`` (unlisted codes are background), ``"label_source"``, ``"name"``, ``"patients"``
    (see :func:`lmaunet.data.patients.given_patients`) and ``"normalization"`` (see
    :func:`lmaunet.data.normalization.check`). It may also be nnU-Net's ``dataset.json``.

    Raises:
        UserError: where there is no such map or file, or the file is not of that form.
    """
    if str(given) in NAMED_MAPS:
        return NAMED_MAPS[str(given)]
    path = Path(given)
    if not path.is_file():
        raise UserError(
            f"no class map {str(given)!r}; give a JSON file or one of: {', '.join(NAMED_MAPS)}"
        )
    content = read_user_json(path)
    if isinstance(content, dict) and "labels" in content and "classes" not in content:
        dataset = parse_dataset_json(content, path)
        options = {"normalization": dataset.normalization, "name": dataset.name}
        kept = {key: value for key, value in options.items() if value is not None}
        return ClassMap(dataset.classes, dataset.codes, options=kept)
    return _parse(content, path)


def _parse(content: Any, path: Path) -> ClassMap:
    if not isinstance(content, dict) or not content.keys() >= {"classes", "codes"}:
        raise UserError(f"{path} is not a class map: {shown(content)}; {EXPECTED}")
    options = {k: v for k, v in content.items() if k not in ("classes", "codes", "others")}
    unknown = sorted(options.keys() - set(OPTIONS))
    if unknown:
        raise UserError(
            f"{path}: unknown key {shown(unknown[0])}; expected classes, codes, others, "
            f"{', '.join(OPTIONS)}; correct or remove it"
        )
    for key in OPTIONS[:2]:
        if key in options and not is_name(options[key]):
            raise UserError(f"{path}: {key} {shown(options[key])} is no name; give a text")
    names = content["classes"]
    if not isinstance(names, list) or not all(is_name(name) for name in names):
        raise UserError(f"{path}: classes {shown(names)} is no list of names; {EXPECTED}")
    classes = tuple(" ".join(name.split()) for name in names)
    check_names(classes, str(path))
    listed, others = content["codes"], content.get("others")
    if not isinstance(listed, dict):
        raise UserError(f"{path}: codes {shown(listed)} is no object; {EXPECTED}")
    codes: dict[int, int] = {}
    for key, index in [*listed.items(), *([] if others is None else [(None, others)])]:
        if not is_whole(index) or not 0 <= index < len(classes):
            what = "others" if key is None else f"the class of code {shown(key)}"
            raise UserError(
                f"{path}: {what} is {shown(index)}; expected 0 to {len(classes) - 1}, the place "
                f"of a name in classes ({len(classes)} of them)"
            )
        if key is None:
            continue
        if not _CODE.fullmatch(key):
            raise UserError(f"{path}: code {shown(key)} is no whole number; {EXPECTED}")
        if int(key) in codes:
            raise UserError(f"{path}: code {int(key)} is given twice; correct one")
        codes[int(key)] = index
    idle = [name for i, name in enumerate(classes) if i and i not in codes.values()]
    if idle:
        raise UserError(
            f"{path}: no code leads to class {idle[0]!r}; expected one for each class but the "
            "background; add it (any unused code where these labels do not show the class)"
        )
    return ClassMap(classes, codes, others, options)
