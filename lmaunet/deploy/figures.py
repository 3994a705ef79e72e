"""A figure as the report shows it: a number that carries its provenance.

Every form of the report gets its figures from here, so that none can show an estimate as a
measurement.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmaunet.deploy.gate_limits import FLOORS

#: The word that stands beside each figure.
WORDS = {
    "measured": "measured", "emulated": "emulated", "simulated": "simulated", "estimated": "est.",
}  # fmt: skip

LABELS = {
    "size_mb": "Size of all that ships",
    "weights_mb": "Weights in it",
    "dice": "Dice",
    "dice_drop_points": "Dice drop",
    "class_drop_points": "Largest drop of a class",
    "hd95_mm": "HD95",
    "latency_ms": "Latency",
}
OPTIONAL_LABELS = {"bitstream_mb": "Bitstream"}
DECIMALS = {"dice": 3, "dice_drop_points": 2, "class_drop_points": 2, "hd95_mm": 2}


@dataclass(frozen=True)
class Shown:
    """A figure as it is shown: either a number with its provenance, or the word unavailable.

    ``note`` numbers the entry of the list of what is unavailable that explains it; ``mark`` is a
    word of caution behind the number.
    """

    key: str
    number: str = ""
    unit: str = ""
    provenance: str = ""
    note: int = 0
    mark: str = ""

    @property
    def word(self) -> str:
        """The provenance in the word that stands beside the number."""
        return WORDS[self.provenance]

    def text(self) -> str:
        """The figure in plain text."""
        if not self.provenance:
            return f"unavailable ({self.note})"
        text = " ".join(part for part in (self.number, self.unit, self.word) if part)
        return f"{text}, {self.mark}" if self.mark else text


class Missing:
    """The list of what is unavailable: each reason once, numbered from 1, and its figures."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def add(self, key: str, reason: Mapping[str, str]) -> int:
        """Return the number of this reason, under which ``key`` is listed."""
        for number, entry in enumerate(self.entries, 1):
            if entry["reason"] == reason:
                if key not in entry["figures"]:
                    entry["figures"].append(key)
                return number
        self.entries.append({"reason": dict(reason), "figures": [key]})
        return len(self.entries)


def number_text(figure: str, value: float, limit: float | None = None) -> str:
    """Return a value with the decimals of its figure.

    Where rounding would put it on the other side of ``limit``, it gets as many as it needs.
    """
    decimals = DECIMALS.get(figure)
    if decimals is None:
        magnitude = abs(value)
        decimals = 0 if magnitude >= 1000 else 1 if magnitude >= 100 else 2
        if 0 < magnitude < 1:
            decimals = min(6, 1 - math.floor(math.log10(magnitude)))
    if limit is not None and value != limit:
        passes = operator.ge if figure in FLOORS else operator.le
        while decimals < 12 and passes(round(value, decimals), limit) != passes(value, limit):
            decimals += 1
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "\u2212") if float(text.replace(",", "")) else text.lstrip("-")


def show(
    figure: Mapping[str, Any],
    name: str,
    key: str,
    missing: Missing,
    limit: float | None = None,
    mark: str = "",
) -> Shown:
    """Return a figure of the report as it is shown.

    Args:
        figure: ``{"value", "unit", "provenance"}`` or ``{"unavailable": {...}}``.
        name: which of :data:`~lmaunet.deploy.schema.UNITS` it is.
        key: where it is, for the list of what is unavailable, such as ``fpga: Latency``.
        missing: the list that an unavailable figure is put on.
        limit: the limit that it stands beside, if any.
        mark: a word of caution, if any.
    """
    if "unavailable" in figure:
        return Shown(name, note=missing.add(key, figure["unavailable"]))
    unit = "" if figure["unit"] == "1" else figure["unit"]
    number = number_text(name, figure["value"], limit)
    return Shown(name, number, unit, figure["provenance"], mark=mark)
