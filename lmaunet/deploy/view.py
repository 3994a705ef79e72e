"""What a report shows, in the order in which it shows it.

Every figure is a :class:`Shown`: a number that carries its provenance, so that no form of the
report can show an estimate as a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lmaunet.deploy import gates as gating
from lmaunet.deploy.schema import UNITS

#: The word that stands beside each figure.
WORDS = {"measured": "measured", "simulated": "simulated", "estimated": "est."}

LABELS = {
    "size_mb": "Size of the file that ships",
    "weights_mb": "Weights in it",
    "dice": "Dice",
    "dice_drop_points": "Dice drop",
    "hd95_mm": "HD95",
    "latency_ms": "Latency",
}
DECIMALS = {"dice": 3, "dice_drop_points": 2, "hd95_mm": 2}

TOTALSEGMENTATOR = (
    "The labels are TotalSegmentator's output, not a radiologist's: Dice is agreement with it, "
    "not clinical accuracy."
)
SYNTHETIC = (
    "SYNTHETIC DATA. A program drew these images and their labels; no figure below says anything "
    "about images of patients."
)


@dataclass(frozen=True)
class Shown:
    """A figure as it is shown: either a number with its provenance, or the word unavailable.

    ``note`` numbers the entry of the list of what is unavailable that explains it.
    """

    key: str
    number: str = ""
    unit: str = ""
    provenance: str = ""
    note: int = 0

    @property
    def word(self) -> str:
        """The provenance in the word that stands beside the number."""
        return WORDS[self.provenance]

    def text(self) -> str:
        """The figure in plain text."""
        if not self.provenance:
            return f"unavailable ({self.note})"
        return " ".join(part for part in (self.number, self.unit, self.word) if part)


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
        while decimals < 12 and (round(value, decimals) <= limit) != (value <= limit):
            decimals += 1
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "\u2212") if float(text.replace(",", "")) else text.lstrip("-")


def view(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what both forms show, in their order, as text and :class:`Shown`."""
    missing = Missing()
    targets = [_target(name, target, missing) for name, target in report["targets"].items()]
    model, data = report["model"], report["data"]
    return {
        "report": report,
        "model": model,
        "data": data,
        "facts": _facts(model, data),
        "caution": SYNTHETIC if data["synthetic"] else _label_caution(data["label_source"]),
        "targets": targets,
        "gates": [_gate(gate, missing) for gate in report["gates"]],
        "verdict": _verdict(report),
        "reference": _reference(report["reference"], missing),
        "organs": _organs(report),
        "quantization": _quantization(model, report["reference"]),
        "agreements": [
            (name, agreement)
            for name, target in report["targets"].items()
            for agreement in target["agreement"]
        ],
        "files": [
            (name, file, f"{file['bytes']:,}", _megabytes(file["bytes"]))
            for name, target in report["targets"].items()
            for file in target["files"]
        ],
        "missing": missing.entries,
        "labels": LABELS,
    }


def _label_caution(source: str) -> str:
    if "totalsegmentator" in source.lower():
        return TOTALSEGMENTATOR
    return ""


def _facts(model: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    size = " \u00d7 ".join(str(n) for n in model["input"][1:])
    bits = ", ".join(
        f"{int(count):,} at {width} bits" for width, count in model["weight_bits"].items() if count
    )
    slices = data["slices"]
    if isinstance(slices, Mapping):
        slices = ", ".join(f"{count} {name}" for name, count in slices.items())
    cases = data["cases"]
    if isinstance(cases, list):
        more = f" and {len(cases) - 6} more" if len(cases) > 6 else ""
        cases = ", ".join(cases[:6]) + more
    facts = [
        ("Parameters", f"{model['params']:,}"),
        ("Multiply-accumulates", _scaled(model["macs"])),
        ("Input", size),
        ("Weights", bits or "not quantized"),
        ("Cases", str(cases)),
        ("Slices", str(slices)),
    ]
    return facts


def _scaled(count: int) -> str:
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.2f} {suffix}"
    return str(count)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    states = [gate["state"] for gate in report["gates"]]
    counts = {s: states.count(s) for s in (gating.PASSED, gating.FAILED, gating.OPEN)}
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no gates"
    guessed = [g for g in report["gates"] if g.get("provenance", "measured") != "measured"]
    if guessed:
        text += f" ({len(guessed)} not on a measurement)"
    worse = [entry for entry in report["regressions"] if entry["kind"] != "note"]
    if worse:
        text += f"; {len(worse)} regression{'s' if len(worse) > 1 else ''}"
    state = gating.OPEN if counts[gating.OPEN] else gating.PASSED
    if counts[gating.FAILED] or worse:
        state = gating.FAILED
    return {"text": text, "state": state, "total": len(states)}


def show(
    figure: Mapping[str, Any], name: str, key: str, missing: Missing, limit: float | None = None
) -> Shown:
    """Return a figure of the report as it is shown.

    Args:
        figure: ``{"value", "unit", "provenance"}`` or ``{"unavailable": {...}}``.
        name: which of :data:`~lmaunet.deploy.schema.UNITS` it is.
        key: where it is, for the list of what is unavailable, such as ``fpga: Latency``.
        missing: the list that an unavailable figure is put on.
        limit: the limit that it stands beside, if any.
    """
    if "unavailable" in figure:
        return Shown(name, note=missing.add(key, figure["unavailable"]))
    unit = "" if figure["unit"] == "1" else figure["unit"]
    return Shown(name, number_text(name, figure["value"], limit), unit, figure["provenance"])


def _target(name: str, target: Mapping[str, Any], missing: Missing) -> dict[str, Any]:
    figures = {key: show(target[key], key, f"{name}: {LABELS[key]}", missing) for key in UNITS}
    return {
        "name": name,
        "summary": target.get("summary", ""),
        "arithmetic": target["arithmetic"],
        "figures": figures,
        "detail": list(_detail(target)),
        "resources": _resources(target["detail"]),
        "slowest": _slowest(target["detail"]),
    }


def _gate(gate: Mapping[str, Any], missing: Missing) -> dict[str, Any]:
    name, key = gate["name"], f"{gate['target']}: {LABELS[gate['name']]}"
    unit = {"1": "", "points": "point" if gate["limit"] == 1 else "points"}.get(
        UNITS[name], UNITS[name]
    )
    beside = [
        (other, show(figure, other, f"{gate['target']}: {LABELS[other]}", missing))
        for other, figure in gate.get("beside", {}).items()
    ]
    return {
        "target": gate["target"],
        "label": LABELS[name],
        "shown": show(gate, name, key, missing, gate["limit"]),
        "limit": f"{gate['limit']:g} {unit}".rstrip(),
        "state": gate["state"],
        "beside": beside,
        "share": min(max(gate["value"] / gate["limit"], 0.0), 1.0)
        if "value" in gate and gate["limit"] > 0
        else None,
    }


def _reference(reference: Mapping[str, Any], missing: Missing) -> dict[str, Any]:
    hd95 = reference["hd95_mm"]
    if not isinstance(hd95, Mapping):
        hd95 = {"value": hd95, "unit": "mm", "provenance": "measured"}
    return {
        "target": reference["target"],
        "dice": _measured_dice(reference["dice"]["mean"]),
        "hd95_mm": show(hd95, "hd95_mm", f"FP32: {LABELS['hd95_mm']}", missing),
    }


def _measured_dice(value: float) -> Shown:
    return Shown("dice", number_text("dice", value), "", "measured")


def _organs(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the Dice of each class by column; a target's numbers have its Dice's provenance."""
    columns = [("FP32", report["reference"]["dice"]["per_class"], "measured")]
    columns += [
        (name, target["per_class"], target["dice"]["provenance"])
        for name, target in report["targets"].items()
        if target["per_class"] and "provenance" in target["dice"]
    ]
    names = list(dict.fromkeys(organ for _, values, _ in columns for organ in values))
    rows = []
    for organ in names:
        cells = [
            (Shown("dice", number_text("dice", values[organ]), "", provenance), values[organ])
            if organ in values
            else None
            for _, values, provenance in columns
        ]
        rows.append((organ, cells))
    return {"columns": [(name, WORDS[p], p) for name, _, p in columns], "rows": rows}


def _quantization(model: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the Dice of each step from FP32 to the quantized network on one zoomed axis."""
    steps = [
        ("FP32", "the trained network", reference["dice"]["mean"], "float"),
        ("FP32 control", "FP32, trained the same extra steps", model.get("control"), "float"),
        ("PTQ", "INT8 after calibration only", model.get("ptq"), "int"),
        ("QAT", "INT8 after quantization-aware training", model.get("qat"), "int"),
    ]
    known = [step for step in steps if step[2] is not None]
    if len(known) < 2:
        return None
    values = [value for _, _, value, _ in known]
    low = max(0.0, math.floor(min(values) * 50 - 0.5) / 50)
    high = min(1.0, math.ceil(max(values) * 50 + 0.5) / 50)
    return {
        "low": f"{low:.2f}",
        "high": f"{high:.2f}",
        "steps": [
            (name, what, _measured_dice(value), (value - low) / (high - low), kind)
            for name, what, value, kind in known
        ],
    }


def _detail(target: Mapping[str, Any]) -> Iterable[tuple[str, str | Shown]]:
    """Yield a line for each entry of a target's detail that this module knows."""
    detail = target["detail"]
    timing = gating.latency_conditions(detail)
    for key, label in (("cpu", "CPU"), ("gpu", "GPU"), ("threads", "Threads"), ("board", "Board")):
        if isinstance(timing.get(key), str | int):
            yield label, str(timing[key])
    if "provenance" in target["latency_ms"]:
        for key, label in (("p90_ms", "Latency, 90th percentile"), ("p99_ms", "99th percentile")):
            if _counts(timing.get(key)):
                number = number_text("latency_ms", timing[key])
                yield label, Shown("latency_ms", number, "ms", target["latency_ms"]["provenance"])
    if _counts(detail.get("clock_mhz")):
        status = detail.get("clock_status")
        yield "Clock", f"{detail['clock_mhz']:g} MHz" + (f", {status}" if status else "")
    if _counts(detail.get("interval_ms")):
        number = number_text("latency_ms", detail["interval_ms"])
        provenance = _provenance(detail, "interval_ms")
        yield "Between two images", Shown("latency_ms", number, "ms", provenance)
    for key, label in (("library", "Library"), ("lowering", "Scan lowering")):
        if isinstance(detail.get(key), str):
            yield label, detail[key]
    if isinstance(detail.get("sms"), list) and detail["sms"]:
        yield "Built for", ", ".join(f"SM{sm}".replace("SMSM", "SM") for sm in detail["sms"])
    yield from _convolutions(detail)
    precisions = detail.get("precisions")
    if isinstance(precisions, Mapping) and precisions:
        yield "Layers by precision", ", ".join(f"{n} {name}" for name, n in precisions.items())


def _convolutions(detail: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield how many of the quantized convolutions run on integers."""
    engine = detail.get("int8_convolutions")
    if isinstance(engine, Mapping):
        kinds = {"": engine} if "int8" in engine else engine
        for kind, count in kinds.items():
            if isinstance(count, Mapping) and {"int8", "quantized"} <= set(count):
                yield (
                    f"INT8 convolutions{f', {kind}' if kind else ''}",
                    f"{count['int8']} of {count['quantized']}",
                )
    kernels = detail.get("convolutions")
    if isinstance(kernels, Mapping) and {"integer_kernels", "float_kernels"} <= set(kernels):
        yield (
            "Convolutions",
            f"{kernels['integer_kernels']} in integer kernels, {kernels['float_kernels']} in float",
        )
    count = detail.get("integer_convolutions")
    if isinstance(count, int):
        yield "Integer convolutions", str(count)


def _provenance(detail: Mapping[str, Any], key: str) -> str:
    """Return how a number of the detail was obtained: what is not said counts as estimated."""
    stated = detail.get(f"{key}_provenance")
    return stated if stated in WORDS else "estimated"


def _counts(*values: Any) -> bool:
    """Whether all are numbers above 0; detail is not checked by the schema."""
    return all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values)


def _resources(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    resources = detail.get("resources")
    if not isinstance(resources, Mapping):
        return []
    provenance = _provenance(detail, "resources")
    return [
        {
            "name": str(name).upper(),
            "shown": Shown("resource", f"{use['used']:,}", "", provenance),
            "available": f"{use['available']:,}",
            "share": use["used"] / use["available"],
        }
        for name, use in resources.items()
        if isinstance(use, Mapping) and _counts(use.get("used"), use.get("available"))
    ]


def _slowest(detail: Mapping[str, Any]) -> list[dict[str, Any]]:
    layers = detail.get("slowest")
    layers = [
        layer
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, Mapping) and "name" in layer and _counts(layer.get("cycles"))
    ]
    layers = sorted(layers, key=lambda layer: -layer["cycles"])
    provenance = _provenance(detail, "slowest")
    return [
        {
            "name": layer["name"],
            "op": layer.get("op", ""),
            "shown": Shown("cycles", f"{layer['cycles']:,}", "cycles", provenance),
            "share": layer["cycles"] / layers[0]["cycles"],
        }
        for layer in layers
    ]
