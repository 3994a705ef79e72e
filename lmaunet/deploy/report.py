"""The report: one dictionary that holds what was found about one network and its deployments.

``report.json`` has ``schema``, ``made``, ``model``, ``data``, ``reference``, ``targets``,
``gates`` and ``regressions``; docs/report.md describes each. The report formats and does not
compute: its figures come as :class:`~lmaunet.artifacts.Measurement` or
:class:`~lmaunet.artifacts.Unavailable`, and the only arithmetic is in
:mod:`lmaunet.deploy.gates`.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmaunet.deploy import gates as gating
from lmaunet.deploy.machine import system
from lmaunet.deploy.schema import SCHEMA, UNITS, require_worst, validate
from lmaunet.deploy.verdict import verdicts
from lmaunet.errors import UserError
from lmaunet.stage import read_json, tool_versions, write_texts

__all__ = ["SCHEMA", "UNITS", "assemble", "load", "validate", "with_baseline", "write_report"]


def assemble(
    model: Mapping[str, Any],
    data: Mapping[str, Any],
    reference: Mapping[str, Any],
    targets: Mapping[str, Mapping[str, Any]],
    regressions: Sequence[Mapping[str, Any]] | None = None,
    *,
    gates: Iterable[gating.Gate] | None = None,
    strict: bool = False,
    made: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of one network as plain, checked JSON.

    Args:
        model: ``spec``, ``params``, ``macs``, ``input``, ``weight_bits`` (bits to number of
            weights); optionally the Dice means ``ptq``, ``qat`` and ``control``.
        data: ``name``, ``split`` (a sentence), ``cases``, ``slices``, ``label_source``,
            ``synthetic``.
        reference: ``target``, ``dice`` (``mean`` and ``per_class``) and ``hd95_mm`` of FP32.
        targets: for each, the figures of :data:`UNITS` as Measurement or Unavailable,
            ``per_class`` Dice, ``worst_class`` where there is a Dice, ``agreement`` (a list of
            Agreement), ``files`` (``name``, ``bytes``, ``ships``), ``arithmetic`` and ``detail``.
        regressions: what :func:`lmaunet.deploy.gates.regressions` returned, if anything.
        gates: other gates than the default ones.
        strict: an unavailable figure fails its gate.
        made: ``command``, ``created`` and ``tools``; those of this process where None.

    Raises:
        UserError: naming the key that is missing or wrong.
    """
    report = {
        "schema": SCHEMA,
        "made": _plain(_made_now() if made is None else made, "made"),
        "model": _plain(model, "model"),
        "data": _plain(data, "data"),
        "reference": _plain(reference, "reference"),
        "targets": _plain(targets, "targets"),
        "gates": [],
        "regressions": _plain(list(regressions or ()), "regressions"),
    }
    validate(report)
    for name, target in report["targets"].items():
        require_worst(target, report["reference"]["dice"]["per_class"], f"targets.{name}")
    report["gates"] = gating.evaluate(report["targets"], gates, strict=strict)
    report["verdict"] = verdicts(report)
    validate(report)
    return report


def with_baseline(
    report: Mapping[str, Any], baseline: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return the report with its regressions against ``baseline``, the report called ``name``."""
    compared = dict(report)
    compared["baseline"] = {"name": name, "created": baseline["made"].get("created", "")}
    compared["regressions"] = gating.regressions(report, baseline)
    compared["verdict"] = verdicts(compared)
    validate(compared)
    return compared


def _made_now() -> dict[str, Any]:
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "tools": tool_versions(),
        "system": system(),
    }


def _plain(value: Any, where: str) -> Any:
    """Turn the artifacts' types and numpy scalars into plain JSON; keys become strings."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "to_json"):
        return _plain(value.to_json(), where)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return _plain(value.item(), where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value), where)
    raise UserError(f"{where} is of type {type(value).__name__}; the report holds plain JSON only")


def load(path: Path) -> dict[str, Any]:
    """Return the report in ``path``; raises UserError where it is none or of another schema."""
    try:
        content = read_json(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give a report.json") from error
    except ValueError as error:  # no text, no JSON, too deep, a number of thousands of digits
        raise UserError(f"{path} is not JSON ({error}); give a report.json") from error
    try:
        content = upgrade(content)
        validate(content)
    except UserError as error:
        raise UserError(f"{path} is not a usable report: {error}") from error
    return content


#: What an earlier version's report does not count to what ships, and its words for accuracy that
#: was not computed by the thing itself but that it calls measured.
SHIPS_TOO = ("lmaunet_operators.so", "host.json", "weights.json")
EMULATED = ("not the engine", "the integers of the FPGA")


def upgrade(content: Any) -> Any:
    """Return a report of an earlier version as this one would have written it.

    It lacks the worst class, counts one file of those that ship, and calls an emulation measured.
    Its gates, which were on other figures, are left out. What is no report is returned as it is.
    """
    try:
        targets = content["targets"]
        if all("class_drop_points" in target for target in targets.values()):
            return content
        reference = content["reference"]["dice"]["per_class"]
        new = {name: _upgrade_target(target, reference) for name, target in targets.items()}
    except (KeyError, TypeError, AttributeError):
        return content
    return {**content, "targets": new, "gates": [], "regressions": []}


def _upgrade_target(target: dict[str, Any], reference: Mapping[str, float]) -> dict[str, Any]:
    new = dict(target)
    if target["arithmetic"].startswith(EMULATED):
        for key in ("dice", "dice_drop_points", "hd95_mm"):
            if "provenance" in target[key]:
                new[key] = {**target[key], "provenance": "emulated"}
    worst = gating.worst_class(reference, target["per_class"])
    if worst is None or "unavailable" in new["dice"]:
        new["class_drop_points"] = new["dice_drop_points"]
    else:
        new["worst_class"] = worst
        drop = 100 * (worst["reference"] - worst["dice"])
        new["class_drop_points"] = {**new["dice_drop_points"], "value": drop}
    files = [
        {**file, "ships": bool(file.get("ships")) or file["name"] in SHIPS_TOO}
        for file in target["files"]
    ]
    beside = sum(f["bytes"] for f in files if f["ships"] and f["name"] in SHIPS_TOO)
    new["files"] = files
    new["size_mb"] = {**target["size_mb"], "value": target["size_mb"]["value"] + beside / 1e6}
    return new


def write_report(
    folder: Path, report: Mapping[str, Any], pictures: Mapping[str, Any] | None = None
) -> tuple[Path, Path, Path]:
    """Write report.json, report.md and report.html, all of them or none.

    Args:
        folder: where they go; made if it is not there.
        report: what :func:`assemble` or :func:`with_baseline` returned.
        pictures: what :func:`lmaunet.deploy.pictures.overlay_rows` returned.

    Returns:
        The three paths, in that order.
    """
    from lmaunet.deploy import render

    validate(report)
    texts = {
        "report.json": json.dumps(report, indent=2) + "\n",
        "report.md": render.markdown(report),
        "report.html": render.html(report, pictures),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_texts({folder / name: text for name, text in texts.items()})
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {folder}: {error.strerror}; free space there, or "
            "use another --run folder"
        ) from error
    return folder / "report.json", folder / "report.md", folder / "report.html"
