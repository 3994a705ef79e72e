"""Put a run's results together into its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmaunet.artifacts import Build, Measurement, Unavailable
from lmaunet.deploy import gates, report, verdict
from lmaunet.deploy.controlled import limits_of, note_of
from lmaunet.deploy.gate_limits import chosen_limits, parse_gates
from lmaunet.deploy.heatmap_pictures import heat_rows
from lmaunet.deploy.measuring import (
    hd95_figure,
    load_run_data,
    measure_all,
    no_foreground,
    read_target,
)
from lmaunet.deploy.patients import by_patient, class_intervals, drop_interval
from lmaunet.deploy.pictures import overlay_rows
from lmaunet.deploy.pipeline import built_targets, load_build, matching_control
from lmaunet.deploy.report_record import record_report, recorded_report, report_key
from lmaunet.errors import UserError
from lmaunet.stage import read_json, read_manifest, record_of, sha256

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset


def make_report(
    run: Path,
    baseline: Path | None,
    strict: bool,
    say: Any,
    limits: Sequence[str] = (),
) -> tuple[dict[str, Any], list[str], int]:
    """Measure what is not measured yet, write the report, return it, its lines and the status.

    ``limits`` are the ``--gate`` options. They and the baseline are read before any work.
    """
    before = report.load(baseline) if baseline else None
    chosen_limits(limits)  # what is wrong with them is said before any work
    require_builds(run, limits)
    folders = measure_all(run, None, say)
    chosen = gates.gates_of(chosen_limits(limits, limits_of(run)))
    asked = [repr(chosen), strict, None if baseline is None else [str(baseline), sha256(baseline)]]
    key = report_key(run, folders.values(), asked)
    paths = recorded_report(run, key)
    if paths is not None:
        return _told(report.load(run / "report.json"), paths)
    spec, _, data = load_run_data(run)
    reference = folders.pop("reference")
    scores, predictions = _scores(reference)
    targets: dict[str, Any] = {}
    for name, folder in folders.items():
        targets[name] = _target(run, name, folder, scores, data)
        with record_of(folder):
            predictions[name] = np.load(folder / "predictions.npz")["classes"]
    notes = [*converted_norms(run), *note_of(run)]
    with record_of(reference):
        scored, told = _reference(scores, data), _data(data, scores, notes)
    scored["size_mb"] = _float32_size(run)
    content = report.assemble(_model(run, spec), told, scored, targets, gates=chosen, strict=strict)
    if before is not None and baseline is not None:
        content = report.with_baseline(content, before, str(baseline))
    side = data.val
    titles = [f"{case}, slice {z}" for case, z in zip(side.slice_cases, side.slice_z, strict=True)]
    pictures = overlay_rows(
        side.by_slice(side.images[:, 0]),
        side.by_slice(side.labels),
        {name: side.by_slice(classes) for name, classes in predictions.items()},
        data.classes,
        titles=titles,
    )
    with record_of(reference):
        pictures["heat"] = heat_rows(reference, side, data.classes, titles)
    paths = report.write_report(run, content, pictures)
    record_report(run, key, paths)
    return _told(content, paths)


def _told(content: dict[str, Any], paths: Sequence[Path]) -> tuple[dict[str, Any], list[str], int]:
    """Return a report, its lines for a person and the status."""
    from lmaunet.deploy.render import markdown

    lines = [markdown(content), *(f"wrote {path}" for path in paths)]
    return content, [*lines, "", *verdict.block(content)], gates.exit_status(content)


def require_builds(run: Path, limits: Sequence[str]) -> None:
    """Raise UserError where ``--gate`` is on a target that the run has no build of."""
    for target in parse_gates(limits):
        if target and target not in built_targets(run):
            raise UserError(
                f"--gate {target}...: {run} has no {target} build; make it with: lmaunet-deploy "
                f"build --target {target} --run {run}, or leave the gate out"
            )


def _scores(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the scores of the FP32 network, with which it is, and its classes."""
    words = {"float32": "as trained", "control": "control: trained on as long as the INT8 network"}
    with record_of(folder):
        content = read_json(folder / "measure.json")
        scores = {**content["scores"][content["best"]], "network": words[content["best"]]}
        return scores, {"FP32": np.load(folder / "predictions.npz")["classes"]}


def _reference(scores: dict[str, Any], data: Dataset) -> dict[str, Any]:
    hd95 = hd95_figure(scores["hd95_mm"], "measured")
    mean = no_foreground("dice").to_json() if scores["dice"] is None else scores["dice"]
    return {
        "target": "torch-fp32",
        "dice": {"mean": mean, "per_class": scores["per_class"]},
        "hd95_mm": hd95.to_json() if isinstance(hd95, Unavailable) else hd95.value,
        "network": scores["network"],
        "per_case": scores["per_case"],
        "per_patient": by_patient(scores["per_case"], data.patient),
        "false_positives": scores["false_positives"],
    }


def _float32_size(run: Path) -> Measurement:
    """Return the size of FP32 as one ONNX file, what a target's size is compared with."""
    with record_of(run / "export"):
        count = (run / "export" / "network.float32.onnx").stat().st_size
    return Measurement("size_mb", count / 1e6, "MB", "measured")


def _target(
    run: Path, name: str, folder: Path, reference: dict[str, Any], data: Dataset
) -> dict[str, Any]:
    build = load_build(run, name)
    with record_of(folder):
        content = read_json(folder / "measure.json")
        figures, scores = read_target(folder, reference)
        target = {
            **figures,
            "per_class": scores["per_class"],
            "per_case": scores["per_case"],
            "false_positives": scores["false_positives"],
            "agreement": list(build.agreements),
            "files": [_file(path, build) for path in sorted(build.folder.rglob("*"))
                      if path.is_file() and path.stat().st_size],
            "arithmetic": content["arithmetic"],
            "summary": content["summary"],
            "detail": content["detail"],
        }  # fmt: skip
        if "worst_class" in scores:
            target["worst_class"] = scores["worst_class"]
        patients = [by_patient(found["per_case"], data.patient) for found in (reference, scores)]
        target["per_patient"] = patients[1]
        interval = drop_interval(*patients)
        target["class_intervals"] = class_intervals(
            reference["per_case"], scores["per_case"], data.patient
        )
        return target | ({"drop_interval": interval} if interval else {})


def _file(path: Path, build: Build) -> dict[str, Any]:
    """Return a file's entry; what ships has its digest."""
    ships = path in build.ships
    entry: dict[str, Any] = {
        "name": str(path.relative_to(build.folder)),
        "bytes": path.stat().st_size,
        "ships": ships,
    }
    return entry | ({"sha256": sha256(path)} if ships else {})


def _model(run: Path, spec: Any) -> dict[str, Any]:
    with record_of(run / "qat"):
        found = read_json(run / "qat" / "qat.json")
        dice = {name: found["scores"][name]["dice"] for name in ("ptq", "qat")}
        weight_bits = found["weight_bits"]
        network = {key: found["network"][key] for key in ("params", "macs")}
    controlled = matching_control(run)
    with record_of(controlled):
        scores = read_json(controlled / "control.json")["scores"]
        dice |= {name: scores[name]["dice"] for name in ("control", "float32")}
    with record_of(run / "export"):
        agreements = read_json(run / "export" / "export.json")["agreements"]
    return {
        "spec": spec.name,
        **network,
        "input": [1, spec.in_channels, *spec.input_size],
        "weight_bits": weight_bits,
        **{name: value for name, value in dice.items() if value is not None},
        "export_agreements": agreements,
        "seed": read_manifest(run / "qat")["seed"],
    }


def converted_norms(run: Path) -> list[str]:
    """Return a note where the quantized network has other norms than the one that came."""
    with record_of(run / "qat"):
        converted = read_json(run / "qat" / "qat.json").get("norms", {}).get("converted", {})
    kinds = [f"{count} {kind}" for kind, count in converted.items() if count]
    if not kinds:
        return []
    return [
        f"the targets' network has batch normalization in place of {' and '.join(kinds)} (qat "
        "--norm batch); FP32 is the network as it came"
    ]


def _data(data: Any, scores: dict[str, Any], notes: Sequence[str] = ()) -> dict[str, Any]:
    content: dict[str, Any] = data.to_json()
    if notes:
        content["notes"] = [*content.get("notes", []), *notes]
    content["cases"] = content["cases"]["val"]
    content["not_scored"] = {
        "classes": scores["absent_classes"], "cases": scores["empty_cases"]
    }  # fmt: skip
    return content
