"""Put a run's results together into its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.artifacts import Unavailable
from lmaunet.deploy import gates, report
from lmaunet.deploy.describe import count_macs
from lmaunet.deploy.measuring import hd95_figure, load_run_data, measure_all, read_target
from lmaunet.deploy.pictures import overlay_rows
from lmaunet.deploy.pipeline import load_build, matching_control
from lmaunet.stage import read_json, read_manifest


def make_report(
    run: Path, baseline: Path | None, strict: bool, say: Any
) -> tuple[dict[str, Any], list[str], int]:
    """Measure what is not measured yet, write the report, return it, its lines and the status."""
    before = report.load(baseline) if baseline else None
    folders = measure_all(run, None, say)
    spec, _, data = load_run_data(run)
    reference, predictions = _reference(folders.pop("reference"))
    targets: dict[str, Any] = {}
    for name, folder in folders.items():
        targets[name] = _target(run, name, folder, reference["dice"]["mean"])
        predictions[name] = np.load(folder / "predictions.npz")["classes"]
    content = report.assemble(_model(run, spec), _data(data), reference, targets, strict=strict)
    if before is not None and baseline is not None:
        content = report.with_baseline(content, before, str(baseline))
    titles = [f"{case}, slice {z}" for case, z in zip(data.val.cases, data.val.z, strict=True)]
    pictures = overlay_rows(
        data.val.images[:, 0], data.val.labels, predictions, data.classes, titles=titles
    )
    paths = report.write_report(run, content, pictures)
    from lmaunet.deploy.render import markdown

    lines = [markdown(content), *(f"wrote {path}" for path in paths)]
    return content, lines, gates.exit_status(content)


def _reference(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    content = read_json(folder / "measure.json")
    best = content["scores"][content["best"]]
    hd95 = hd95_figure(best["hd95_mm"])
    words = {"float32": "as trained", "control": "control: trained on as long as the INT8 network"}
    reference = {
        "target": "torch-fp32",
        "dice": {"mean": best["dice"], "per_class": best["per_class"]},
        "hd95_mm": hd95.to_json() if isinstance(hd95, Unavailable) else hd95.value,
        "network": words[content["best"]],
    }
    return reference, {"FP32": np.load(folder / "predictions.npz")["classes"]}


def _target(run: Path, name: str, folder: Path, reference_dice: float) -> dict[str, Any]:
    build = load_build(run, name)
    content = read_json(folder / "measure.json")
    figures, per_class = read_target(folder, reference_dice)
    files = [
        {
            "name": str(path.relative_to(build.folder)),
            "bytes": path.stat().st_size,
            "ships": path == build.shipped,
        }
        for path in sorted(build.folder.rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    return {
        **figures,
        "per_class": per_class,
        "agreement": list(build.agreements),
        "files": files,
        "arithmetic": content["arithmetic"],
        "summary": content["summary"],
        "detail": content["detail"],
    }


def _model(run: Path, spec: Any) -> dict[str, Any]:
    height, width = spec.input_size
    found = read_json(run / "qat" / "qat.json")
    floats = read_json(matching_control(run) / "control.json")["scores"]
    agreements = read_json(run / "export" / "export.json")["agreements"]
    return {
        "spec": spec.name,
        "params": sum(layer.params for layer in spec.layers()),
        "macs": count_macs(spec, height, width),
        "input": [1, spec.in_channels, height, width],
        "weight_bits": found["weight_bits"],
        "ptq": found["scores"]["ptq"]["dice"],
        "qat": found["scores"]["qat"]["dice"],
        "control": floats["control"]["dice"],
        "float32": floats["float32"]["dice"],
        "export_agreements": agreements,
        "seed": read_manifest(run / "qat")["seed"],
    }


def _data(data: Any) -> dict[str, Any]:
    content = data.to_json()
    content["cases"] = content["cases"]["val"]
    return content
