"""From the label codes of a file to the classes of a network, always by an explicit map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.errors import UserError
from lmaunet.stage import read_json

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
OPTIONS = ("label_source", "name", "normalization")


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
        present = np.unique(codes)
        unknown = [int(c) for c in present if int(c) not in known]
        if unknown and self.others is None:
            raise UserError(
                f"{where}: label {unknown[0]} is beyond the {len(self.classes)} classes "
                f"(known codes: {', '.join(map(str, sorted(known)))}); correct the labels or give "
                f"a class map ({CLASS_FILE}) that lists it"
            )
        mapped = [known.get(int(c), self.others) for c in present]
        return np.array(mapped, np.uint8)[np.searchsorted(present, codes)]


def integral(labels: np.ndarray, where: str, what: str = "label") -> np.ndarray:
    """Return labels as int64; raises :class:`UserError` where one is not a whole number.

    ``what`` names one of them in the message.
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
        if (labels != np.round(labels)).any():
            bad = labels[labels != np.round(labels)].flat[0]
            raise UserError(
                f"{where}: {what} {bad:g} is not a whole number; expected codes such as 0, 1, 2; "
                "correct the file"
            )
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
    ``"others": 0`` (unlisted codes are background), ``"label_source"``, ``"name"`` and
    ``"normalization"`` (``{"kind": "window", "low": -125, "high": 275}`` or
    ``{"kind": "zscore"}``).

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
    try:
        content = dict(read_json(path))
        classes = tuple(_text(c) for c in _list(content.pop("classes")))
        codes = {int(k): _whole(v) for k, v in content.pop("codes").items()}
        others = content.pop("others", None)
        others = None if others is None else _whole(others)
        for key in OPTIONS[:2]:
            if key in content:
                _text(content[key])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a class map ({type(error).__name__}: {error}); expected "
            '{"classes": ["background", ...], "codes": {"1": 1, ...}}'
        ) from error
    targets = [*codes.values(), *([] if others is None else [others])]
    if len(classes) < 2 or len(classes) > 255 or any(not 0 <= t < len(classes) for t in targets):
        raise UserError(
            f"{path}: {len(classes)} classes and a code for class {max(targets, default=0)}; every "
            "code must point to one of 2 to 255 classes"
        )
    twice = sorted({c for c in classes if classes.count(c) > 1})
    if twice:
        raise UserError(
            f"{path}: class {twice[0]!r} is listed {classes.count(twice[0])} times; expected a "
            "name once, because scores are told by name; give several codes one class"
        )
    unknown = sorted(content.keys() - set(OPTIONS))
    if unknown:
        raise UserError(
            f"{path}: unknown key {unknown[0]!r}; expected classes, codes, others, "
            f"{', '.join(OPTIONS)}; correct or remove it"
        )
    return ClassMap(classes, codes, others, content)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{value!r} is no name")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value
