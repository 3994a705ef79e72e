"""What networks from elsewhere came to: rows of results/other_networks.json from their runs.

    lmaunet-deploy import SOURCE ... -o RUN --json > RUN/import.json
    lmaunet-deploy qat --ckpt RUN/import/model.pt --data DATA_train.npz --epochs 1 ...
    lmaunet-deploy build --target ort --run RUN        # openvino, trt
    python benchmarks/other_networks.py RUN... --source "U-Mamba 28459e3" -o results/FILE.json

A row has the network's size, how its graph agreed with it, which targets take it, and of each
build the codes that differ from the exported graph's and the classes that differ end to end. Rows
of other networks in the result stay.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.stage import read_json, tool_versions, write_json

CLASSES = ", classes"


def build_row(build: dict[str, Any]) -> dict[str, Any]:
    """Return what a build's agreements say."""
    found = build["agreements"]
    codes = [entry for entry in found if entry["name"].endswith(", codes")]
    classes = next(entry for entry in found if CLASSES in entry["name"])
    return {
        "passed": all(entry["passed"] for entry in found),
        "codes_differ": max(entry["n_differ"] for entry in codes),
        "codes": max(entry["n_total"] for entry in codes),
        "classes_differ": classes["n_differ"],
        "pixels": classes["n_total"],
        "classes_allowed": classes["allowed"],
        "compared": classes["name"],
    }


def row_of(run: Path) -> dict[str, Any]:
    """Return a run's row; raises UserError where its import was not kept."""
    kept = run / "import.json"
    if not kept.is_file():
        raise UserError(f"{kept} is not there; keep what lmaunet-deploy import --json prints in it")
    content = read_json(kept)
    builds = {
        place.parent.name: build_row(read_json(place))
        for place in sorted(run.glob("build/*/build.json"))
    }
    if not builds:
        raise UserError(f"{run} has no build; lmaunet-deploy build --target ort --run {run}")
    return {
        "architecture": content["architecture"],
        "input_size": content["network"]["input_size"],
        "params": content["params"],
        "macs": content["macs"],
        "logits_differ": content["agreement"]["max_abs"],
        "targets": {name: entry["takes"] for name, entry in content["targets"].items()},
        "refused": {
            name: [[reason["operator"], reason["count"]] for reason in entry["reasons"]]
            for name, entry in content["targets"].items()
            if entry["reasons"]
        },
        "builds": builds,
    }


def main(arguments: argparse.Namespace) -> int:
    output = arguments.output
    before = read_json(output) if output.exists() else {"networks": {}}
    rows = {
        run.name: {**row_of(run), "source": arguments.source,
                   "date": datetime.date.today().isoformat()}
        for run in arguments.runs
    }  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, {"tools": tool_versions(), "networks": before["networks"] | rows})
    for name, row in rows.items():
        said = ", ".join(
            f"{target} {'passed' if entry['passed'] else 'FAILED'}"
            for target, entry in row["builds"].items()
        )
        print(f"{name}: {row['params']:,} parameters; {said}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", type=Path, nargs="+", metavar="RUN", help="folders of runs with builds")
    add("--source", required=True, help="where the code is from, and what its weights are")
    add("-o", "--output", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
