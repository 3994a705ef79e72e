"""A report with typed fields: :func:`read_report` for programs that read a ``report.json``.

docs/report.md describes each field. The file is checked first by :mod:`lmaunet.deploy.schema`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmaunet.artifacts import Agreement, Figure, Measurement, Unavailable
from lmaunet.deploy import report as report_file
from lmaunet.deploy.schema import OPTIONAL_UNITS, UNITS

SHIP_YES = "yes"


@dataclass(frozen=True)
class ModelRow:
    """The network: its ``spec``, ``params``, ``macs`` of one image, ``input`` ``(1, C, H, W)``.

    ``weight_bits`` counts weights by their bits; ``dice`` has the means after each stage that the
    report has: ``ptq``, ``qat``, ``control``, ``float32``.
    """

    spec: str
    params: int
    macs: int
    input: tuple[int, ...]
    weight_bits: Mapping[str, int]
    dice: Mapping[str, float]
    export_agreements: tuple[Agreement, ...]


@dataclass(frozen=True)
class DataRow:
    """The data that were scored: ``split`` in a sentence, ``cases`` by name or how many.

    ``slices`` is a number, or a number for each part; ``notes`` are what a reader should know.
    """

    name: str
    split: str
    cases: tuple[str, ...] | int
    slices: Mapping[str, int] | int
    label_source: str
    synthetic: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ReferenceRow:
    """The FP32 network that targets are compared with; ``per_class`` is Dice, 0 to 1."""

    target: str
    network: str
    dice: Figure
    per_class: Mapping[str, float]
    hd95_mm: Figure


@dataclass(frozen=True)
class WorstClass:
    """The class that lost most Dice; ``relative_loss`` is a share, None where FP32 has 0."""

    name: str
    reference: float
    dice: float
    relative_loss: float | None


@dataclass(frozen=True)
class Interval:
    """The bootstrap interval of the mean drop over patients, in points; ``level`` 0 to 1."""

    low: float
    high: float
    patients: int
    level: float


@dataclass(frozen=True)
class FileRow:
    """A file of a build; ``sha256`` of what ships."""

    name: str
    bytes: int
    ships: bool
    sha256: str | None


@dataclass(frozen=True)
class TargetRow:
    """What was found of one target.

    Each figure is a Measurement, with how it was obtained, or Unavailable, with the reason.
    ``bitstream_mb`` is None where the target has none. ``per_class`` and ``per_case`` are Dice, 0
    to 1; ``detail`` is what else the target tells, as in the file.
    """

    name: str
    size_mb: Figure
    weights_mb: Figure
    dice: Figure
    dice_drop_points: Figure
    class_drop_points: Figure
    hd95_mm: Figure
    latency_ms: Figure
    bitstream_mb: Figure | None
    per_class: Mapping[str, float]
    per_case: Mapping[str, Mapping[str, float]]
    per_patient: Mapping[str, float]
    worst_class: WorstClass | None
    drop_interval: Interval | None
    agreement: tuple[Agreement, ...]
    files: tuple[FileRow, ...]
    arithmetic: str
    summary: str
    detail: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class GateRow:
    """A limit on a figure of a target: ``state`` is ``passed``, ``failed`` or ``open``.

    ``direction`` is ``at most`` or ``at least``; ``why`` is the reason of the limit, if one was
    given.
    """

    name: str
    target: str
    limit: float
    direction: str
    state: str
    figure: Figure
    why: str


@dataclass(frozen=True)
class RegressionRow:
    """What got worse than in the baseline; ``target`` and ``figure`` are empty for the whole."""

    kind: str
    target: str
    figure: str
    message: str
    before: Figure | None
    now: Figure | None


@dataclass(frozen=True)
class VerdictRow:
    """Whether a target ships: ``ship`` is ``yes``, ``no`` or ``unknown``, with the ``reasons``."""

    target: str
    ship: str
    figures: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A report; :func:`lmaunet.read_report` returns one.

    ``targets`` and ``verdict`` are by the target's name; ``verdict`` is empty in a report of an
    earlier version. ``baseline`` is the name of the report that it was compared with, or None.
    """

    path: Path
    created: str
    command: str
    tools: Mapping[str, str]
    model: ModelRow
    data: DataRow
    reference: ReferenceRow
    targets: Mapping[str, TargetRow]
    gates: tuple[GateRow, ...]
    regressions: tuple[RegressionRow, ...]
    verdict: Mapping[str, VerdictRow]
    baseline: str | None

    def ships(self, target: str) -> bool:
        """Tell whether a target ships: every gate passed, and measured on the device."""
        return target in self.verdict and self.verdict[target].ship == SHIP_YES


def read_report(path: str | os.PathLike[str]) -> Report:
    """Return a ``report.json``, checked, with typed fields.

    Args:
        path: the file, or the folder of a run that has one.

    Raises:
        UserError: where there is none, or it is damaged, edited against itself, or of another
            schema; the message names the key.

    >>> report = lmaunet.read_report("report.json")
    >>> list(report.targets), report.model.spec
    (['ort', 'trt', 'fpga'], 'edge')
    >>> report.targets["ort"].latency_ms
    Measurement(quantity='latency_ms', value=61.3, unit='ms', provenance='measured')
    >>> report.targets["trt"].latency_ms.why
    'this machine has none'
    >>> {gate.name: gate.state for gate in report.gates if gate.target == "ort"}["size_mb"]
    'passed'
    """
    file = Path(path)
    if file.is_dir():
        file = file / "report.json"
    return _report(report_file.load(file), file)


def _report(content: Mapping[str, Any], path: Path) -> Report:
    made = content["made"]
    return Report(
        path, str(made["created"]), str(made["command"]),
        {name: str(version) for name, version in made["tools"].items()},
        _model(content["model"]), _data(content["data"]), _reference(content["reference"]),
        {name: _target(name, target) for name, target in content["targets"].items()},
        tuple(map(_gate, content["gates"])), tuple(map(_regression, content["regressions"])),
        {
            row["target"]: VerdictRow(
                row["target"], row["ship"], row["figures"], tuple(row["reasons"])
            )
            for row in content.get("verdict", ())
        },
        str(content["baseline"]["name"]) if "baseline" in content else None,
    )  # fmt: skip


def _figure(quantity: str, content: Mapping[str, Any]) -> Figure:
    if "unavailable" in content:
        return Unavailable(quantity, **content["unavailable"])
    return Measurement(quantity, content["value"], content["unit"], content["provenance"])


def _agreements(content: Any) -> tuple[Agreement, ...]:
    return tuple(Agreement(**one) for one in content)


def _model(content: Mapping[str, Any]) -> ModelRow:
    return ModelRow(
        content["spec"], content["params"], content["macs"], tuple(content["input"]),
        dict(content["weight_bits"]),
        {key: content[key] for key in ("float32", "control", "ptq", "qat") if key in content},
        _agreements(content.get("export_agreements", ())),
    )  # fmt: skip


def _data(content: Mapping[str, Any]) -> DataRow:
    cases, slices = content["cases"], content["slices"]
    return DataRow(
        content["name"], content["split"],
        tuple(cases) if isinstance(cases, list) else cases,
        dict(slices) if isinstance(slices, Mapping) else slices,
        content["label_source"], content["synthetic"], tuple(map(str, content.get("notes", ()))),
    )  # fmt: skip


def _reference(content: Mapping[str, Any]) -> ReferenceRow:
    """Return the reference; a bare number there was measured."""

    def figure(quantity: str, value: Any, unit: str) -> Figure:
        if isinstance(value, Mapping):
            return _figure(quantity, value)
        return Measurement(quantity, value, unit, "measured")

    return ReferenceRow(
        content["target"], content.get("network", ""),
        figure("dice", content["dice"]["mean"], UNITS["dice"]),
        dict(content["dice"]["per_class"]),
        figure("hd95_mm", content["hd95_mm"], UNITS["hd95_mm"]),
    )  # fmt: skip


def _target(name: str, content: Mapping[str, Any]) -> TargetRow:
    figures = {key: _figure(key, content[key]) for key in UNITS}
    optional = {
        key: _figure(key, content[key]) if key in content else None for key in OPTIONAL_UNITS
    }
    worst, interval = content.get("worst_class"), content.get("drop_interval")
    return TargetRow(
        name=name,
        **figures,
        **optional,  # type: ignore[arg-type]
        per_class=dict(content["per_class"]),
        per_case=dict(content.get("per_case", {})),
        per_patient=dict(content.get("per_patient", {})),
        worst_class=None
        if worst is None
        else WorstClass(worst["class"], worst["reference"], worst["dice"], worst["relative_loss"]),
        drop_interval=None if interval is None else Interval(**interval),
        agreement=_agreements(content["agreement"]),
        files=tuple(
            FileRow(f["name"], f["bytes"], f.get("ships", False), f.get("sha256"))
            for f in content["files"]
        ),
        arithmetic=content["arithmetic"],
        summary=content.get("summary", ""),
        detail=content["detail"],
    )


def _gate(content: Mapping[str, Any]) -> GateRow:
    return GateRow(
        content["name"], content["target"], content["limit"],
        content.get("direction", "at most"), content["state"],
        _figure(content["name"], content), content.get("why", ""),
    )  # fmt: skip


def _regression(content: Mapping[str, Any]) -> RegressionRow:
    before, now = (
        _figure(content["figure"], content[key]) if key in content else None
        for key in ("before", "now")
    )
    return RegressionRow(
        content["kind"], content["target"], content["figure"], content["message"], before, now
    )
