"""The schema of report.json: which keys it has, and what each may hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lmaunet.artifacts import PROVENANCES
from lmaunet.deploy import gates as gating
from lmaunet.errors import UserError

SCHEMA = 1

#: The figures of a target and the unit of each. 1 MB is 10^6 bytes; a point is 0.01 of Dice.
UNITS = {
    "size_mb": "MB",
    "weights_mb": "MB",
    "dice": "1",
    "dice_drop_points": "points",
    "class_drop_points": "points",
    "hd95_mm": "mm",
    "latency_ms": "ms",
}
#: Figures that only some targets have.
OPTIONAL_UNITS = {"bitstream_mb": "MB"}
TARGET_KEYS = (*UNITS, "per_class", "agreement", "files", "arithmetic", "detail")
OPTIONAL_TARGET_KEYS = (
    "summary", "worst_class", "per_case", "per_patient", "drop_interval", "false_positives",
    "class_intervals",
    *OPTIONAL_UNITS,
)  # fmt: skip
KEYS = ("schema", "made", "model", "data", "reference", "targets", "gates", "regressions")
OPTIONAL_KEYS = ("baseline", "verdict")
AGREEMENT_KEYS = {
    "name": str, "max_abs": float, "n_differ": int, "n_total": int, "tolerance": float,
    "passed": bool, "allowed": int,
}  # fmt: skip


def validate(report: Any) -> None:
    """Check that a dictionary is a report of this schema.

    Raises:
        UserError: naming the first key that is missing, unknown or wrong.
    """
    _mapping(report, "report")
    if report.get("schema") is True or report.get("schema") != SCHEMA:
        raise UserError(
            f"report.schema is {report.get('schema')!r}, expected {SCHEMA}: another version of "
            "lmaunet-deploy wrote it; make the report again with this one"
        )
    _keys(report, "report", KEYS, OPTIONAL_KEYS)
    _finite(report, "report")
    _made(report["made"])
    _model(report["model"])
    _data(report["data"])
    _reference(report["reference"])
    if not _mapping(report["targets"], "targets"):
        raise UserError("targets is empty; a report has at least one target")
    for name, target in report["targets"].items():
        _target(target, f"targets.{name}")
    for index, gate in enumerate(_list(report["gates"], "gates")):
        _gate(gate, f"gates[{index}]", report["targets"])
    for index, entry in enumerate(_list(report["regressions"], "regressions")):
        where = f"regressions[{index}]"
        _keys(entry, where, ("kind", "target", "figure", "message"), ("before", "now"))
        _one_of(entry["kind"], f"{where}.kind", gating.KINDS)
        _text(entry["message"], f"{where}.message")
        for key in ("target", "figure"):  # empty where it is of the whole report
            if not isinstance(entry[key], str):
                raise UserError(f"{where}.{key} is {_shown(entry[key])}; expected a name")
        for key in ("before", "now"):
            if key in entry:
                _figure(entry[key], f"{where}.{key}")
    for index, entry in enumerate(_list(report.get("verdict", []), "verdict")):
        where = f"verdict[{index}]"
        _keys(entry, where, ("target", "ship", "figures", "reasons"))
        _one_of(entry["target"], f"{where}.target", report["targets"])
        _one_of(entry["ship"], f"{where}.ship", ("yes", "no", "unknown", "open"))
        _text(entry["figures"], f"{where}.figures")
        for place, reason in enumerate(_list(entry["reasons"], f"{where}.reasons")):
            _text(reason, f"{where}.reasons[{place}]")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} is {_shown(value)}; expected an object")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where} is {_shown(value)}; expected a list")
    return value


def _keys(
    value: Any, where: str, required: Iterable[str], optional: Iterable[str] | None = ()
) -> None:
    """Check the keys of an object; ``optional=None`` allows any other key."""
    for key in required:
        if key not in _mapping(value, where):
            raise UserError(f"{where}.{key} is missing")
    if optional is None:
        return
    known = (*required, *optional)
    for key in value:
        if key not in known:
            raise UserError(f"{where}.{key} is unknown; expected one of: {', '.join(known)}")


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {_shown(value)}; expected text")


def _number(
    value: Any, where: str, low: float = -math.inf, high: float = math.inf, *, whole: bool = False
) -> None:
    kinds = (int,) if whole else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        bounds = f" from {low:g}" if low > -math.inf else ""
        bounds += f" to {high:g}" if high < math.inf else ""
        raise UserError(
            f"{where} is {_shown(value)}; expected a {'whole ' if whole else ''}number{bounds}"
        )


def _one_of(value: Any, where: str, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise UserError(f"{where} is {_shown(value)}; expected one of: {', '.join(allowed)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _finite(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _finite(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _finite(inner, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} is {value}; a figure that is not known is Unavailable")


def _made(made: Any) -> None:
    _keys(made, "made", ("command", "created", "tools"), None)
    _mapping(made["tools"], "made.tools")


def _model(model: Any) -> None:
    _keys(model, "model", ("spec", "params", "macs", "input", "weight_bits"), None)
    _text(model["spec"], "model.spec")
    for key in ("params", "macs"):
        _number(model[key], f"model.{key}", 1, whole=True)
    for index, size in enumerate(_list(model["input"], "model.input")):
        _number(size, f"model.input[{index}]", 1, whole=True)
    for bits, count in _mapping(model["weight_bits"], "model.weight_bits").items():
        _number(count, f"model.weight_bits.{bits}", 0, whole=True)
    for key in ("ptq", "qat", "control", "float32"):
        if key in model:
            _number(model[key], f"model.{key}", 0, 1)
    if "export_agreements" in model:
        _agreements(model["export_agreements"], "model.export_agreements")


def _data(data: Any) -> None:
    required = ("name", "split", "cases", "slices", "label_source", "synthetic")
    _keys(data, "data", required, None)
    for key in ("name", "split", "label_source"):
        _text(data[key], f"data.{key}")
    if not isinstance(data["synthetic"], bool):
        raise UserError(f"data.synthetic is {_shown(data['synthetic'])}; expected true or false")
    if isinstance(data["cases"], list):
        for index, case in enumerate(data["cases"]):
            _text(case, f"data.cases[{index}]")
    else:
        _number(data["cases"], "data.cases", 1, whole=True)
    slices = data["slices"]
    for key, count in slices.items() if isinstance(slices, Mapping) else [("", slices)]:
        _number(count, f"data.slices.{key}".rstrip("."), 0, whole=True)


def _reference(reference: Any) -> None:
    _keys(reference, "reference", ("target", "dice", "hd95_mm"), None)
    for key in ("target", "network"):
        if key in reference:
            _text(reference[key], f"reference.{key}")
    _keys(reference["dice"], "reference.dice", ("mean", "per_class"))
    if isinstance(reference["dice"]["mean"], Mapping):
        _unavailable(reference["dice"]["mean"], "reference.dice.mean")
    else:
        _number(reference["dice"]["mean"], "reference.dice.mean", 0, 1)
    _per_class(reference["dice"]["per_class"], "reference.dice.per_class")
    _per_case(reference.get("per_case", {}), "reference.per_case")
    _per_class(reference.get("per_patient", {}), "reference.per_patient")
    _false_positives(reference.get("false_positives", {}), "reference.false_positives")
    if "size_mb" in reference:
        _figure(reference["size_mb"], "reference.size_mb", "MB")
    hd95 = reference["hd95_mm"]
    if isinstance(hd95, Mapping):
        _unavailable(hd95, "reference.hd95_mm")
    else:
        _number(hd95, "reference.hd95_mm", 0)


def _per_class(value: Any, where: str) -> None:
    for name, dice in _mapping(value, where).items():
        _number(dice, f"{where}.{name}", 0, 1)


def _per_case(value: Any, where: str) -> None:
    for case, scores in _mapping(value, where).items():
        _per_class(scores, f"{where}.{case}")


def _target(target: Any, where: str) -> None:
    _keys(target, where, TARGET_KEYS, OPTIONAL_TARGET_KEYS)
    for key, unit in UNITS.items():
        _figure(target[key], f"{where}.{key}", unit)
    for key, unit in OPTIONAL_UNITS.items():
        if key in target:
            _figure(target[key], f"{where}.{key}", unit)
    for key in ("size_mb", "weights_mb", "latency_ms"):
        if target[key].get("value", 1) <= 0:
            raise UserError(f"{where}.{key}.value is 0 or less; what is not known is Unavailable")
    if "value" in target["dice"]:
        _number(target["dice"]["value"], f"{where}.dice.value", 0, 1)
    else:
        for key in ("dice_drop_points", "class_drop_points"):
            if "value" in target[key]:
                raise UserError(f"{where}.{key} has a value though {where}.dice has none")
    if "value" in target["class_drop_points"]:
        _worst_class(target, where)
    _per_case(target.get("per_case", {}), f"{where}.per_case")
    _per_class(target.get("per_patient", {}), f"{where}.per_patient")
    if "drop_interval" in target:
        _interval(target["drop_interval"], f"{where}.drop_interval")
    for name, interval in _mapping(
        target.get("class_intervals", {}), f"{where}.class_intervals"
    ).items():
        _interval(interval, f"{where}.class_intervals.{name}")
    _false_positives(target.get("false_positives", {}), f"{where}.false_positives")
    if "value" in target["hd95_mm"]:
        _number(target["hd95_mm"]["value"], f"{where}.hd95_mm.value", 0)
    _per_class(target["per_class"], f"{where}.per_class")
    _agreements(target["agreement"], f"{where}.agreement")
    for index, file in enumerate(_list(target["files"], f"{where}.files")):
        place = f"{where}.files[{index}]"
        _keys(file, place, ("name", "bytes"), None)
        _text(file["name"], f"{place}.name")
        if not isinstance(file.get("ships", False), bool):
            raise UserError(f"{place}.ships is {_shown(file['ships'])}; expected true or false")
        _number(file["bytes"], f"{place}.bytes", 0, whole=True)
    _text(target["arithmetic"], f"{where}.arithmetic")
    detail = _mapping(target["detail"], f"{where}.detail")
    if "pipeline" in detail:
        _pipeline(detail["pipeline"], f"{where}.detail.pipeline")
    simulation = detail.get("simulation")
    if isinstance(simulation, Mapping) and "proof" in simulation:
        _proof(simulation["proof"], f"{where}.detail.simulation.proof")


def _interval(interval: Any, where: str) -> None:
    _keys(interval, where, ("low", "high", "patients", "level"))
    _number(interval["low"], f"{where}.low")
    _number(interval["high"], f"{where}.high", interval["low"])
    _number(interval["patients"], f"{where}.patients", 1, whole=True)
    _number(interval["level"], f"{where}.level", 0, 1)


def _false_positives(found: Any, where: str) -> None:
    for case, classes in _mapping(found, where).items():
        for name, voxels in _mapping(classes, f"{where}.{case}").items():
            _number(voxels, f"{where}.{case}.{name}", 1, whole=True)


def _worst_class(target: Mapping[str, Any], where: str) -> None:
    """Check which class lost most: that its Dice is the target's, and the drop the figure's."""
    if "worst_class" not in target:
        raise UserError(f"{where}.worst_class is missing")
    worst, where = target["worst_class"], f"{where}.worst_class"
    _keys(worst, where, gating.CLASS_KEYS)
    _text(worst["class"], f"{where}.class")
    for key in ("reference", "dice"):
        _number(worst[key], f"{where}.{key}", 0, 1)
    if worst["relative_loss"] is not None:
        _number(worst["relative_loss"], f"{where}.relative_loss", high=1)
    own, drop = target["per_class"].get(worst["class"]), target["class_drop_points"]["value"]
    if own != worst["dice"] or abs(100 * (worst["reference"] - own) - drop) > 1e-6:
        raise UserError(
            f"{where} is {_shown(worst)}, but class_drop_points is {drop} and per_class has {own}"
        )


def require_worst(target: Mapping[str, Any], reference: Mapping[str, float], where: str) -> None:
    """Raise UserError where another class lost more than the one that is said to have lost most."""
    worst = gating.worst_class(reference, target["per_class"])
    if worst is None or "worst_class" not in target:
        return
    said = target["worst_class"]
    if worst["reference"] - worst["dice"] > said["reference"] - said["dice"] + 1e-9:
        raise UserError(
            f"{where}.worst_class is {said['class']}, but {worst['class']} lost more: "
            f"{worst['reference']:g} to {worst['dice']:g}"
        )


def _pipeline(pipeline: Any, where: str) -> None:
    """Check what each part of a design does over an image."""
    _keys(pipeline, where, ("provenance", "cycles", "ms", "parts"))
    _one_of(pipeline["provenance"], f"{where}.provenance", PROVENANCES)
    _number(pipeline["cycles"], f"{where}.cycles", 1, whole=True)
    _number(pipeline["ms"], f"{where}.ms", 0)
    for index, part in enumerate(_list(pipeline["parts"], f"{where}.parts")):
        place = f"{where}.parts[{index}]"
        _keys(part, place, ("name", "module", "nodes", "begin", "end", "begin_ms", "end_ms"))
        for key in ("name", "module"):
            _text(part[key], f"{place}.{key}")
        _number(part["nodes"], f"{place}.nodes", 0, whole=True)
        for begin, end in (("begin", "end"), ("begin_ms", "end_ms")):
            _number(part[begin], f"{place}.{begin}", 0)
            _number(part[end], f"{place}.{end}", part[begin])


def _proof(proof: Any, where: str) -> None:
    """Check how much of a design a simulation of it compared."""
    numbers = ("streams_compared", "images", "images_with_stalls")
    _keys(proof, where, (*numbers, "compared_with"))
    for key in numbers:
        _number(proof[key], f"{where}.{key}", 1, whole=True)
    _text(proof["compared_with"], f"{where}.compared_with")


def _agreements(agreements: Any, where: str) -> None:
    for index, agreement in enumerate(_list(agreements, where)):
        place = f"{where}[{index}]"
        _keys(agreement, place, AGREEMENT_KEYS)
        for key, kind in AGREEMENT_KEYS.items():
            if kind in (int, float):
                _number(agreement[key], f"{place}.{key}", 0, whole=kind is int)
            elif kind is str:
                _text(agreement[key], f"{place}.{key}")
            elif not isinstance(agreement[key], kind):
                raise UserError(
                    f"{place}.{key} is {_shown(agreement[key])}; expected true or false"
                )


def _figure(figure: Any, where: str, unit: str | None = None) -> None:
    """Check one figure: a value with unit and provenance, or the reason why there is none."""
    if "unavailable" in _mapping(figure, where):
        _unavailable(figure, where)
        return
    _keys(figure, where, ("value", "unit", "provenance"))
    _number(figure["value"], f"{where}.value")
    _one_of(figure["unit"], f"{where}.unit", [unit] if unit else set(UNITS.values()))
    _one_of(figure["provenance"], f"{where}.provenance", PROVENANCES)


def _unavailable(figure: Any, where: str) -> None:
    _keys(figure, where, ("unavailable",))
    _keys(figure["unavailable"], f"{where}.unavailable", ("tool", "why", "fix"))
    for key in ("tool", "why", "fix"):
        _text(figure["unavailable"][key], f"{where}.unavailable.{key}")


def _gate(gate: Any, where: str, targets: Mapping[str, Any]) -> None:
    """Check a gate's entry, and that it says the same as the figure that it is on."""
    kept = ("direction", "value", "unit", "provenance", "unavailable", "state", *gating.CLASS_KEYS)
    optional = ("beside", "why", *kept)
    _keys(gate, where, ("name", "target", "limit", "state"), optional)
    _one_of(gate["target"], f"{where}.target", targets)
    _one_of(gate["name"], f"{where}.name", UNITS)
    _number(gate["limit"], f"{where}.limit")
    _text(gate.get("why", "none"), f"{where}.why")
    gate = {"direction": gating.AT_MOST, **gate}
    figure = targets[gate["target"]][gate["name"]]
    again = gating.evaluate(
        {gate["target"]: targets[gate["target"]]},
        [gating.Gate(gate["name"], gate["limit"])],
        strict=gate["state"] == gating.FAILED,
    )[0]
    for key in kept:
        if gate.get(key) != again.get(key):
            raise UserError(
                f"{where}.{key} is {_shown(gate.get(key))}, but "
                f"targets.{gate['target']}.{gate['name']} is {_shown(figure)}"
            )
