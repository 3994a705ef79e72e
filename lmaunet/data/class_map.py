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


def integral(labels: np.ndarray, where: str) -> np.ndarray:
    """Return labels as int64; raises :class:`UserError` where one is not a whole number."""
    import numpy as np

    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise UserError(f"{where}: labels hold NaN or infinity; expected whole numbers")
        if (labels != np.round(labels)).any():
            bad = labels[labels != np.round(labels)].flat[0]
            raise UserError(f"{where}: label {bad:g} is not a whole number; expected class codes")
    elif labels.dtype.kind not in "iub":
        raise UserError(f"{where}: labels of type {labels.dtype}; expected whole numbers")
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
        content = read_json(path)
        classes = tuple(str(c) for c in content.pop("classes"))
        codes = {int(k): int(v) for k, v in content.pop("codes").items()}
        others = content.pop("others", None)
        others = None if others is None else int(others)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
    return ClassMap(classes, codes, others, content)
