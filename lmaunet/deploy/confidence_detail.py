"""What the report shows of a target's confidence: its table, its plots, the organs' volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmaunet.deploy.figures import Shown
from lmaunet.deploy.masked_builds import DETAIL

KINDS = {
    "plain": "one pass, no dropout", "sampled": "mean of the samples",
    "tempered": "the same, with a temperature",
}  # fmt: skip
REGIONS = {"foreground": "label or mask is foreground", "all": "all voxels"}
LEFT, TOP, SIDE = 44, 12, 220
"""Of a plot's square, in the SVG's own units."""
COVERAGE = 0.9


def confidence(target: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what to show of a target of the report; None where it says no confidence.

    A detail that is not as this version writes it is skipped, as all of a detail is.
    """
    found = target["detail"].get(DETAIL)
    try:
        return _shown(found["calibration"], target["dice"].get("provenance", "measured"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        return None


def _shown(found: Mapping[str, Any], provenance: str) -> dict[str, Any]:
    scores = found["scores"]
    rows = [
        [REGIONS[region], KINDS[kind], *_cells(scores[kind][region], provenance)]
        for region in REGIONS
        for kind in KINDS
        if kind in scores
    ]
    cost, inside = found["cost"], float(found["further_sample_within"])
    temperatures = [float(t) for t in found["temperatures_of_others"].values()]
    fitted = (
        f"Each of the {found['patients']} patients is scored with a temperature fitted to the "
        f"others ({min(temperatures):.3g} to {max(temperatures):.3g}); the one that ships, "
        f"{found['temperature']:.3g}, is fitted to all"
        if temperatures
        else "There is one patient, so that no temperature of others can be scored"
    )
    return {
        "rows": rows,
        "plots": [_reliability(scores), _risk(scores)],
        "fitted": fitted,
        "cost": Shown("cost", f"{float(cost['ratio']):.2f}", "", provenance),
        "samples": int(found["samples"]),
        "volumes": [_volume(row, provenance) for row in found["volumes"]],
        "within": f"{inside:.2f}",
    }


def _cells(score: Mapping[str, Any], provenance: str) -> list[Shown | str]:
    risk = score["risk"]
    at = risk["risk"][risk["coverage"].index(COVERAGE)]
    values = (score["ece"], score["auroc_of_errors"], at, risk["risk"][-1])
    formats = ("{:.4f}", "{:.3f}", "{:.2%}", "{:.2%}")
    return [
        "no errors"
        if value is None
        else Shown("score", form.format(_finite(value)), "", provenance)
        for value, form in zip(values, formats, strict=True)
    ]


def _volume(row: Mapping[str, Any], provenance: str) -> list[Any]:
    return [
        str(row["class"]),
        Shown("volume", f"{int(row['within'])} of {int(row['cases'])}", "cases", provenance),
        Shown("volume", f"{_finite(row['width_percent']):.1f}", "%", provenance),
        Shown("volume", f"{_finite(row['error_percent']):.1f}", "%", provenance),
    ]


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _line(kind: str, xs: Sequence[Any], ys: Sequence[Any], top: float) -> dict[str, Any]:
    """Return a line through points of 0..1 by 0..top, in the plot's units."""
    points = [
        f"{LEFT + SIDE * _finite(x):.1f},{TOP + SIDE * (1 - min(_finite(y) / top, 1)):.1f}"
        for x, y in zip(xs, ys, strict=True)
    ]
    return {"kind": kind, "name": KINDS[kind], "points": " ".join(points)}


def _reliability(scores: Mapping[str, Any]) -> dict[str, Any]:
    lines = [
        _line(kind, scores[kind]["foreground"]["confidence"],
              scores[kind]["foreground"]["accuracy"], 1.0)
        for kind in KINDS if kind in scores
    ]  # fmt: skip
    return {
        "title": "Accuracy by confidence", "x": "probability of the likeliest class",
        "y": "share that is right", "ticks": ["0", "0.5", "1"], "high": ["0", "0.5", "1"],
        "diagonal": True, "lines": lines,
    }  # fmt: skip


def _risk(scores: Mapping[str, Any]) -> dict[str, Any]:
    curves = {k: scores[k]["foreground"]["risk"]["curve"] for k in KINDS if k in scores}
    largest = max((_finite(y) for curve in curves.values() for y in curve), default=0.0)
    top = max(largest, 1e-6)
    lines = [
        _line(kind, [(i + 1) / len(curve) for i in range(len(curve))], curve, top)
        for kind, curve in curves.items()
    ]
    return {
        "title": "Risk by coverage", "x": "share of voxels kept, the surest first",
        "y": "share of these that is wrong", "ticks": ["0", "0.5", "1"],
        "high": ["0", f"{100 * top / 2:.3g}%", f"{100 * top:.3g}%"], "diagonal": False,
        "lines": lines,
    }  # fmt: skip
