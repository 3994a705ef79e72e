"""What ``qat --max-drop`` does beside quantizing: the patients it keeps, and what it says.

The search is :mod:`lmaunet.quant.accuracy_control`. What counts in the end is the drop on the
held-out patients, which had no part in it: it is computed here, once, from the scores of the
network that was chosen, against the better of the two float networks, as the report's gate is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.gate_limits import Limit, Limits
from lmaunet.deploy.patients import LEAST_PATIENTS, by_patient, drop_interval
from lmaunet.stage import read_json, read_manifest, record_of, write_json

if TYPE_CHECKING:
    from lmaunet.data.dataset import Dataset
    from lmaunet.data.kept_patients import Kept
    from lmaunet.quant.accuracy_control import Control

KEPT = "kept_patients"
"""The option of a control stage whose training had no patient that a search measures on."""
RECORD = "accuracy_control.json"
PASSED, FAILED, OPEN = "passed", "failed", "open"


def control_of(folder: Path, kept: Kept) -> Control:
    """Return what drops are measured against, from the folder of the control's stage."""
    from lmaunet.net.checkpoint import load_checkpoint
    from lmaunet.quant.accuracy_control import Control
    from lmaunet.sources.checkpoint import restore

    path = folder / "control.pt"
    return Control(restore(load_checkpoint(path), path), kept)


def trained_on(data: Dataset, options: Mapping[str, Any]) -> Dataset:
    """Return what of a data set a QAT with these options trained on and calibrated with."""
    if asked_drop(options) is None:
        return data
    from lmaunet.data.kept_patients import keep_patients

    return keep_patients(data).rest


def asked_drop(options: Mapping[str, Any]) -> float | None:
    """Return the limit that a QAT stage with these options had, in points."""
    settings = options.get("settings")
    found = settings.get("max_drop") if isinstance(settings, Mapping) else None
    return float(found) if isinstance(found, int | float) else None


def add_held_out(folder: Path, controlled: Path, data: Dataset) -> None:
    """Add the drop on the held-out patients to the record in ``folder``, and both intervals.

    Args:
        folder: the stage's, with ``qat.json``.
        controlled: that of the control, with ``control.json``.
        data: whose held-out side was scored.
    """
    content = read_json(folder / RECORD)
    chosen = content["rounds"][content["best"]]
    content["interval"] = drop_interval(
        by_patient(content["control_per_case"], data.patient),
        by_patient(chosen["per_case"], data.patient),
    )
    own = read_json(folder / "qat.json")["scores"]["qat"]
    floats = read_json(controlled / "control.json")["scores"]
    known = {name: of["dice"] for name, of in floats.items() if of["dice"] is not None}
    held: dict[str, Any] = {"patients": len(data.patients_of("val")), "state": OPEN}
    if known and own["dice"] is not None:
        name = max(known, key=lambda name: known[name])
        drop = 100 * (known[name] - own["dice"])
        held |= {
            "reference": name, "drop_points": drop,
            "state": PASSED if drop <= content["limit_points"] else FAILED,
            "interval": drop_interval(
                by_patient(floats[name]["per_case"], data.patient),
                by_patient(own["per_case"], data.patient),
            ),
        }  # fmt: skip
    del content["next"], content["next_file_bytes"]  # nothing is left to go on with
    write_json(folder / RECORD, {**content, "held_out": held})


def status_of(content: Mapping[str, Any]) -> int:
    """Return 1 where the limit is not kept, on the control patients or the held-out ones."""
    return int(FAILED in (content["state"], content["held_out"]["state"]))


def lines_of(content: Mapping[str, Any]) -> list[str]:
    """Return what a search came to, in two lines, or three where the limit is not kept."""
    limit, rounds = content["limit_points"], content["rounds"]
    chosen, patients = rounds[content["best"]], content["patients"]
    steps = " -> ".join(f"{entry['drop_points']:+.2f}" for entry in rounds)
    key = "file_bytes" if "file_bytes" in chosen else "weight_bytes"
    size = f"{key.split('_')[0]} {rounds[0][key]:,} -> {chosen[key]:,} bytes"
    kept = content["state"] == PASSED
    rough = ", few enough to make it rough" if len(patients) < LEAST_PATIENTS else ""
    lines = [
        f"accuracy control: drop of at most {limit:g} points "
        f"{'KEPT' if kept else 'NOT KEPT'} on {len(patients)} training patients kept for it"
        f"{rough}: {steps} in {len(rounds)} training(s)"
        + ("" if kept else f", the best is {chosen['drop_points']:+.2f}")
        + f"; {size}{_changed(rounds[0]['bits'], chosen['bits'])}"
    ]
    held = content["held_out"]
    if held["state"] == OPEN:
        lines.append("held-out patients: not scored, so that nothing is known of the limit there")
    else:
        against = {"control": "the FP32 control", "float32": "FP32 as it came"}[held["reference"]]
        lines.append(
            f"{held['patients']} held-out patients, which had no part in it: "
            f"{held['drop_points']:+.2f} points against {against}{_interval(held['interval'])}, "
            + ("within the limit" if held["state"] == PASSED else f"NOT within {limit:g}")
        )
    if not kept:
        lines.append(f"why not: {_why(content)}")
    elif held["state"] == FAILED:
        lines.append(
            "why not: bits were not chosen on held-out patients, or the figure would mean nothing; "
            "give a smaller --max-drop, more epochs or more training patients"
        )
    return lines


def _changed(first: Mapping[str, int], last: Mapping[str, int]) -> str:
    """Return how many layers have other bits than at first."""
    more = sum(last[name] > first[name] for name in first)
    fewer = sum(last[name] < first[name] for name in first)
    parts = [f"{more} layer(s) more bits"] * bool(more) + [f"{fewer} fewer"] * bool(fewer)
    return f", {', '.join(parts)}" if parts else ""


def _interval(ends: Mapping[str, float] | None) -> str:
    return "" if ends is None else f" (95% {ends['low']:+.2f} to {ends['high']:+.2f})"


def _why(content: Mapping[str, Any]) -> str:
    """Return which layers can't help, and what is left."""
    left = content["left"]
    bits = content["rounds"][left["round"] - 1]["bits"]
    narrow = sorted(name for name, width in bits.items() if width < 8)
    text = content["why"]
    if narrow:
        shown = ", ".join(narrow[:3]) + (f" and {len(narrow) - 3} more" if narrow[3:] else "")
        text += f" ({shown} have fewer than 8)"
    costly = ", ".join(row["activation"] for row in left["activations"][:3] if row["gain"] > 0)
    text += (
        f"; with all weights in float {left['float_weights_points']:+.2f} points are lost, with "
        f"all activations in float {left['float_activations_points']:+.2f}. Activations take no "
        "more than 8 bits on any target" + (f"; those of {costly} cost most" if costly else "")
    )
    return text + (
        ". Give more --epochs, "
        + ("a larger --budget-mb" if narrow else "--joins auto or --distill 1")
        + ", or a larger --max-drop"
    )


def note_of(run: Path) -> list[str]:
    """Return a note for the report of a run whose bits were chosen by a limit; else nothing."""
    folder = run / "qat"
    if asked_drop(read_manifest(folder)["options"]) is None:
        return []
    with record_of(folder):
        content = read_json(folder / RECORD)
        drop = content["rounds"][content["best"]]["drop_points"]
        word = "kept" if content["state"] == PASSED else "NOT kept"
        return [
            f"bits were chosen by qat --max-drop {content['limit_points']:g}, {word} "
            f"({drop:+.2f} points) on {len(content['patients'])} patients that neither calibration "
            "nor QAT saw; the scores here are of other patients, who had no part in the choice"
        ]


def limits_of(run: Path) -> Limits:
    """Return the limit that ``qat --max-drop`` had as a gate of the report; else nothing."""
    drop = asked_drop(read_manifest(run / "qat")["options"])
    return {} if drop is None else {"": {"dice_drop_points": Limit(drop, "qat --max-drop")}}
