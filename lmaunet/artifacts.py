"""The types that results are made of. What a stage hands on is a folder with a manifest
(:mod:`lmaunet.stage`); these are what is in it.

All are frozen. A figure is a :class:`Measurement` with its provenance, or :class:`Unavailable`
with the reason; it is never 0 or None for "unknown". An :class:`Agreement` rides on every edge of
the pipeline and a failed one stops it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lmaunet.errors import Disagreement

if TYPE_CHECKING:
    import numpy as np

Provenance = Literal["measured", "emulated", "simulated", "estimated"]
PROVENANCES: tuple[Provenance, ...] = ("measured", "emulated", "simulated", "estimated")
"""From the strongest to the weakest."""


@dataclass(frozen=True)
class Measurement:
    """One figure: ``value`` in ``unit``, and how it was obtained.

    ``measured``: on the thing itself. ``emulated``: its graph or its integers, computed elsewhere.
    ``simulated``: by simulating the hardware cycle by cycle. ``estimated``: computed from a model
    of it.
    """

    quantity: str
    value: float
    unit: str
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.provenance not in PROVENANCES:
            raise ValueError(f"provenance {self.provenance!r}: expected one of {PROVENANCES}")

    def to_json(self) -> dict[str, Any]:
        """Return the report's form, ``{"value", "unit", "provenance"}``."""
        return {"value": self.value, "unit": self.unit, "provenance": self.provenance}


@dataclass(frozen=True)
class Unavailable:
    """A figure that could not be obtained here: the tool that lacks, why, and how to get it."""

    quantity: str
    tool: str
    why: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """Return the report's form, ``{"unavailable": {"tool", "why", "fix"}}``."""
        return {"unavailable": {"tool": self.tool, "why": self.why, "fix": self.fix}}


Figure = Measurement | Unavailable


@dataclass(frozen=True)
class Agreement:
    """How two tensors that should be equal compare.

    ``n_differ`` of ``n_total`` elements differ by more than ``tolerance``; ``allowed`` of them may.
    """

    name: str
    max_abs: float
    n_differ: int
    n_total: int
    tolerance: float
    passed: bool
    allowed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a plain dictionary of the fields."""
        return asdict(self)


def compare(
    name: str, got: np.ndarray, expected: np.ndarray, tolerance: float, allowed: int = 0
) -> Agreement:
    """Compare two arrays of equal shape, element by element.

    A NaN or an infinity in either counts as a difference. An empty array never agrees.
    """
    import numpy as np

    got64, want64 = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got64.shape != want64.shape:
        raise Disagreement(f"{name}: shape {got64.shape}, expected {want64.shape}")
    with np.errstate(invalid="ignore"):
        difference = np.abs(got64 - want64)
    difference = np.where(np.isfinite(difference), difference, np.inf)
    n_differ = int((difference > tolerance).sum())
    max_abs = float(difference.max()) if difference.size else float("inf")
    passed = difference.size > 0 and n_differ <= allowed
    return Agreement(name, max_abs, n_differ, difference.size, tolerance, passed, allowed)


def require_agreement(
    name: str,
    got: np.ndarray,
    expected: np.ndarray,
    tolerance: float,
    *,
    evidence: Path,
    allowed: int = 0,
) -> Agreement:
    """Return the :class:`Agreement` of two arrays, or raise when it fails.

    Args:
        name: what is compared with what.
        got, expected: arrays of one shape.
        tolerance: the largest absolute difference of an element that counts as equal.
        evidence: the folder in which both tensors are saved when they disagree.
        allowed: how many elements may differ by more.

    Raises:
        Disagreement: with the first differing index and the place of the saved tensors.
    """
    import numpy as np

    agreement = compare(name, got, expected, tolerance, allowed)
    if agreement.passed:
        return agreement
    difference = np.abs(np.asarray(got, np.float64) - np.asarray(expected, np.float64))
    bad = np.argwhere(~(difference <= tolerance))
    first = tuple(int(i) for i in bad[0]) if len(bad) else ()
    evidence.mkdir(parents=True, exist_ok=True)
    saved = evidence / (re.sub(r"[^A-Za-z0-9.]+", "_", name) + ".npz")
    np.savez_compressed(saved, got=got, expected=expected)
    detail = (
        f"first at index {first}: got {got[first]}, expected {expected[first]}" if first else ""
    )
    raise Disagreement(
        f"{name}: {agreement.n_differ} of {agreement.n_total} elements differ by more than "
        f"{tolerance:g} (at most {allowed} may; largest difference {agreement.max_abs:g}); "
        f"{detail}; both tensors are in {saved}"
    )


@dataclass(frozen=True)
class Build:
    """What a target built.

    ``shipped`` is the file that goes to the device, ``beside`` what it needs there to run as
    measured, such as a library of operators. ``profiles`` are the builds of an elastic network's
    other kernels, by kernel; what they ship is ``beside`` too.
    """

    target: str
    folder: Path
    shipped: Path
    agreements: tuple[Agreement, ...]
    detail: dict[str, Any] = field(default_factory=dict)
    beside: tuple[Path, ...] = ()
    profiles: Mapping[int, Build] = field(default_factory=dict)

    @property
    def ships(self) -> tuple[Path, ...]:
        """All files that go to the device."""
        return (self.shipped, *self.beside)

    def ships_mb(self) -> float:
        """Return the size of all that goes to the device, in MB of 10^6 bytes."""
        return sum(path.stat().st_size for path in self.ships) / 1e6


@dataclass(frozen=True)
class Refusal:
    """What of a network a target does not take.

    Args:
        operator: its name in a graph, with its kind where that matters, such as ``norm (layer)``;
            or what else it is.
        count: how many there are.
        why: what is missing, or what it would take.
        remedy: what a user can do.
    """

    operator: str
    count: int
    why: str
    remedy: str
