"""`qat --max-drop` on real patients: what each search tried, and what it came to.

    python benchmarks/accuracy_control.py halve DATA/acdc_train.npz HALF
    lmaunet-deploy train --spec SPEC.json --data HALF/half_train.npz --run runs/half --epochs 12
    lmaunet-deploy qat --ckpt runs/half/train/model.pt --data HALF/half_train.npz --run runs/a \
        --bits 3 --max-drop 0.5 --epochs 1
    python benchmarks/accuracy_control.py table runs/a ... -o results/accuracy_control.json

``halve`` writes both halves of a data set of arrays at half the resolution, so that two cores do a
search in minutes: images by the mean of 2x2 pixels, labels by every second pixel. ``table`` reads
the records of finished runs; it measures nothing.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lmaunet.deploy.console import run_command, table
from lmaunet.stage import read_json, read_stage, tool_versions, write_json

RECORD = "accuracy_control.json"
ROUND = ("weight_bytes", "file_bytes", "drop_points", "state", "measured_without_training")
FIRST_RANKED = 8


def halve(data: Path, folder: Path) -> int:
    """Write ``half_train.npz`` and ``half_val.npz`` of ``NAME_train.npz`` and its other half."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = data.name.removesuffix("_train.npz")
    for side in ("train", "val"):
        with np.load(data.with_name(f"{stem}_{side}.npz")) as found:
            arrays = dict(found)
        image = arrays["image"].astype(np.float32)
        n, height, width = image.shape
        blocks = image.reshape(n, height // 2, 2, width // 2, 2)
        arrays["image"] = blocks.mean((2, 4)).round().astype(np.uint8)
        arrays["label"] = np.ascontiguousarray(arrays["label"][:, ::2, ::2])
        np.savez_compressed(folder / f"half_{side}.npz", **arrays)
    return 0


def case_of(run: Path) -> dict[str, Any]:
    """Return what a finished search did, with the bits as counts of layers."""
    manifest, content = read_stage(run / "qat"), read_json(run / "qat" / RECORD)
    scores = read_json(run / "qat" / "qat.json")["scores"]
    floats = read_json(run / "control" / "control.json")["scores"]
    rounds = []
    for entry in content["rounds"]:
        widths = list(entry["bits"].values())
        row = {key: entry[key] for key in ROUND if key in entry}
        row["layers_by_bits"] = {str(b): widths.count(b) for b in sorted(set(widths))}
        row["ranked_first"] = entry.get("ranking", [])[:FIRST_RANKED]
        rounds.append(row)
    first, last = (content["rounds"][n]["bits"] for n in (0, content["best"]))
    dices = {name: of["dice"] for name, of in {**floats, **scores}.items()}
    program, _, options = manifest["command"].partition(" ")
    return {
        "command": f"{Path(program).name} {options}", "seed": manifest["seed"],
        "made": manifest["created"],
        "limit_points": content["limit_points"], "state": content["state"],
        "why": content.get("why", ""), "left": content.get("left"),
        "control_patients": content["patients"], "control_slices": content["slices"],
        "interval": content["interval"], "best_round": content["best"] + 1, "rounds": rounds,
        "changed": {name: [first[name], last[name]] for name in first if first[name] != last[name]},
        "held_out": content["held_out"], "held_out_dice": dices,
    }  # fmt: skip


def lines(cases: dict[str, Any]) -> list[str]:
    """Return the table that the documentation shows: a row for each round."""
    rows = []
    for name, case in cases.items():
        for number, entry in enumerate(case["rounds"], 1):
            counts = ", ".join(f"{n} of {b}" for b, n in entry["layers_by_bits"].items())
            best = number == case["best_round"]
            held = case["held_out"].get("drop_points")
            shown = "" if held is None or not best else f"{held:+.2f}"
            size = entry.get("file_bytes", entry["weight_bytes"])
            rows.append([
                name, f"{case['limit_points']:g}", str(number), counts, f"{size:,}",
                f"{entry['drop_points']:+.2f}", entry["state"], shown,
            ])  # fmt: skip
    header = ["case", "limit", "round", "layers by bits", "bytes", "drop", "state", "held out"]
    return table(header, rows)


def main(words: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    half = verbs.add_parser("halve")
    half.add_argument("data", type=Path)
    half.add_argument("folder", type=Path)
    tables = verbs.add_parser("table")
    tables.add_argument("runs", type=Path, nargs="+")
    tables.add_argument("-o", "--output", type=Path, default=Path("results/accuracy_control.json"))
    arguments = parser.parse_args(words)
    if arguments.verb == "halve":
        return halve(arguments.data, arguments.folder)
    cases = {run.name: case_of(run) for run in arguments.runs}
    result = {
        "command": "python benchmarks/accuracy_control.py table "
        + " ".join(f"runs/{name}" for name in cases),
        "date": datetime.date.today().isoformat(), "tools": tool_versions(), "cases": cases,
    }  # fmt: skip
    write_json(arguments.output, result)
    print("\n".join(lines(cases)))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
