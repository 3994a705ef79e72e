"""INT8 by other tools and by ours: the same FP32 weights, slices for calibration and validation.

    python benchmarks/peers.py --ckpt RUN/train/model.pt --data DATA/acdc_train.npz \
        --modelopt-python PEERS/bin/python -o results/peers.json

NVIDIA ModelOpt asks for another onnxruntime and another setuptools than this package, so it gets an
environment of its own:

    python3.11 -m venv PEERS
    PEERS/bin/pip install 'nvidia-modelopt[onnx]==0.47.0'

Every tool calibrates on the training slices that our PTQ takes. Every file then runs in this
environment's ONNX Runtime on the CPU, fully optimized. A row that failed says why; the table is
written all the same. Columns:

- form: how the scan is written in the file that the tool got (``peer_graph.py``);
- Dice: 3-D, for each case, mean over classes, on the validation slices;
- MB: the file (1 MB = 10**6 bytes);
- int, float: convolutions and matrix products by the arithmetic that ONNX Runtime gives them, the
  scans' loops not counted;
- scan: what is left of the scans' loops, and how many of their inputs lie on an 8-bit grid;
- same class, dB: pixels of the class that FP32 gives, and FP32's logits over the difference to
  them; not for networks that were trained further;
- s: quantizing, without starting Python; for ours with the export and the checks of the file.

``state off`` is FP32 with the scans' states never read (C = 0). Where it scores as FP32 does, the
table says nothing about how well a tool treats the scan.

``--run`` adds the QAT file of a run on this checkpoint and data, and its control: FP32 trained the
same extra steps.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from peer_graph import count_kernels, make_form, scan_report, without_state
from peer_modelopt import reason
from peer_tools import (
    ToolFailed,
    has_vnni,
    quantize_with_modelopt,
    quantize_with_onnxruntime,
    quantize_with_ours,
)

from lmaunet.deploy.pipeline import load_build
from lmaunet.deploy.run_data import fingerprint
from lmaunet.deploy.runs import DataSource
from lmaunet.errors import Disagreement, UserError
from lmaunet.export.network import FLOAT32, export_float32
from lmaunet.export.reference import open_session, read_model, run_images
from lmaunet.net.checkpoint import load_checkpoint, restore
from lmaunet.quant.calibration import CALIBRATION_IMAGES, choose_slices
from lmaunet.stage import read_manifest, sha256, tool_versions, write_json
from lmaunet.train.metrics import score

CPU_FORM = "unrolled"
LOOP_FREE = "two_level"
ONNXRUNTIME = (
    (CPU_FORM, "S8S8", "MinMax"),
    (CPU_FORM, "U8S8", "MinMax"),
    (CPU_FORM, "U8S8", "Percentile"),
    ("function", "U8S8", "MinMax"),
    (LOOP_FREE, "U8S8", "MinMax"),
)
MODELOPT = (
    (CPU_FORM, "max"),
    (CPU_FORM, "entropy"),
    ("function", "max"),
    ("inlined", "max"),
    (LOOP_FREE, "max"),
)

# writes a file and returns the seconds and what else a row should say
Quantizer = Callable[[Path], tuple[float | None, dict[str, Any]]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One row to come. ``same_weights``: whether it is to be compared with FP32 pixel by pixel."""

    tool: str
    method: str
    form: str
    make: Quantizer
    same_weights: bool = True


class Bench:
    """A checkpoint and its data, and the rows that are measured on them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.folder, self.python = folder, options.modelopt_python
        loaded = load_checkpoint(options.ckpt)
        self.model = restore(loaded, options.ckpt)
        source = DataSource(options.data, options.class_map, options.seed)
        self.data = source.load(self.model.spec)
        if options.run is not None:
            require_same(options.run, options.ckpt, fingerprint(self.data))
        self.run = options.run
        chosen = choose_slices(self.data, options.calibration_images)
        self.images = self.data.train.images[chosen]
        path = folder / FLOAT32
        export_float32(self.model, torch.from_numpy(self.images[:1]), path)
        self.exported = onnx.load(path)
        self.reference: np.ndarray | None = None

    def _with_onnxruntime(self, form: str, activations: str, method: str, out: Path) -> Any:
        return quantize_with_onnxruntime(
            make_form(self.exported, form), self.images, out,
            activations=activations, calibration=method,
        )  # fmt: skip

    def _with_modelopt(self, form: str, method: str, out: Path) -> Any:
        return quantize_with_modelopt(
            make_form(self.exported, form), self.images, out, calibration=method,
            python=self.python,
        )  # fmt: skip

    def entries(self) -> list[Entry]:
        """Return the rows to come; the first is FP32, which the others are compared with."""
        rows = [
            Entry("float32", "-", CPU_FORM, lambda out: self._save(self.exported, out)),
            Entry("float32", "state off", CPU_FORM,
                  lambda out: self._save(without_state(self.exported), out)),
        ]  # fmt: skip
        for form, activations, method in ONNXRUNTIME:
            rows.append(
                Entry("onnxruntime", f"{activations} {method}", form,
                      partial(self._with_onnxruntime, form, activations, method))
            )  # fmt: skip
        for form, method in MODELOPT:
            rows.append(
                Entry("modelopt", method, form,
                      partial(self._with_modelopt, form, method))
            )  # fmt: skip
        rows.append(
            Entry("ours", "PTQ", CPU_FORM,
                  lambda out: quantize_with_ours(self.model, self.images, out))
        )  # fmt: skip
        if self.run is not None:
            qat, control = load_build(self.run, "ort").shipped, self.run / "export" / FLOAT32
            rows += [
                Entry("ours", "QAT", CPU_FORM, lambda out: self._copy(qat, out), False),
                Entry("float32", "QAT's control", CPU_FORM,
                      lambda out: self._save(read_model(control), out), False),
            ]  # fmt: skip
        return rows

    def measure(self, entry: Entry) -> Row:
        """Return an entry's row; a tool that fails gives one that says why."""
        row: Row = {"tool": entry.tool, "method": entry.method, "form": entry.form}
        out = self.folder / f"{time.monotonic_ns()}.onnx"
        try:
            seconds, notes = entry.make(out)
            return row | {"seconds": seconds, **self._look(entry, out), **notes}
        except (ToolFailed, UserError, Disagreement) as error:
            failed = str(error)
        # a tool may raise anything; its row says what, and the other rows go on
        except Exception as error:
            failed = reason(error)
        return row | {"failed": failed.replace(f"{self.folder}/", "")}

    def _look(self, entry: Entry, path: Path) -> Row:
        optimized = path.with_suffix(".optimized.onnx")
        session = open_session(path, optimize=True, save_optimized=optimized)
        logits = run_images(session, self.data.val.images)
        if not np.isfinite(logits).all():
            raise ToolFailed("the file runs and puts out values that are not finite")
        val, classes = self.data.val, logits.argmax(1)
        scores = score(classes, val.labels, val.cases, self.data.classes, self.data.case_spacing_mm)
        row: Row = {
            "dice": scores.dice,
            "per_class": scores.per_class,
            "size_mb": path.stat().st_size / 1e6,
            "kernels": count_kernels(onnx.load(optimized)),
            "scan": scan_report(onnx.load(path), self.exported, entry.form == LOOP_FREE),
        }
        if self.reference is None:
            self.reference = logits
        elif entry.same_weights:
            row["same_class"] = float((classes == self.reference.argmax(1)).mean())
            row["decibels"] = decibels(self.reference, logits)
        return row

    def _save(self, exported: onnx.ModelProto, out: Path) -> tuple[None, Row]:
        onnx.save(make_form(exported, CPU_FORM), out)
        return None, {}

    def _copy(self, shipped: Path, out: Path) -> tuple[None, Row]:
        out.write_bytes(shipped.read_bytes())
        return None, {}


def decibels(reference: np.ndarray, other: np.ndarray) -> float | None:
    """Return ten times the decadic logarithm of signal over error power; None where no error."""
    reference = reference.astype(np.float64)
    error = np.square(other - reference).sum()
    return None if error == 0 else float(10 * np.log10(np.square(reference).sum() / error))


def require_same(run: Path, checkpoint: Path, data: str) -> None:
    """Raise :class:`UserError` unless a run's QAT came from this checkpoint and these images."""
    manifest = read_manifest(run / "qat")
    if manifest["inputs"]["checkpoint"]["sha256"] != sha256(checkpoint):
        raise UserError(f"{run} is a run on another checkpoint than {checkpoint}; give its own")
    if manifest["options"]["data_sha256"] != data:
        raise UserError(f"{run} is a run on other data; give the --data that it was made with")
    load_build(run, "ort")


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| tool | method | form | Dice | MB | int | float | scan | same class | dB | s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [row["tool"], row["method"], row["form"]]
        if "failed" in row:
            cells += ["failed", "", "", "", row["failed"].replace("|", "\\|"), "", "", ""]
        else:
            cells += [
                f"{row['dice']:.4f}", f"{row['size_mb']:.2f}", str(row["kernels"]["integer"]),
                str(row["kernels"]["float"]), row["scan"]["verdict"],
                _number(row.get("same_class"), ".4f"), _number(row.get("decibels"), ".1f"),
                _number(row["seconds"], ".0f"),
            ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def neutral(argument: str) -> str:
    """Return an argument of the command without folders of this machine."""
    path = Path(argument)
    if not (path.is_absolute() or ".." in path.parts):
        return argument
    if path.parent.name == "bin":
        return f"PEERS/bin/{path.name}"
    return f"DATA/{path.name}" if path.suffix else f"RUNS/{path.name}"


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="FP32 checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="as lmaunet-deploy's --data")
    parser.add_argument("--class-map", type=Path)
    parser.add_argument("--run", type=Path, help="a run with QAT and an ort build")
    parser.add_argument("--calibration-images", type=int, default=CALIBRATION_IMAGES)
    parser.add_argument("--modelopt-python", type=Path, help="the interpreter that has ModelOpt")
    parser.add_argument("--seed", type=int, default=0, help="draws validation cases, if need be")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    return parser


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rows, show each as it comes, and return the JSON file's content."""
    if options.calibration_images < 1:
        raise UserError(f"--calibration-images {options.calibration_images}; give 1 or more")
    if options.modelopt_python is not None and not options.modelopt_python.is_file():
        raise UserError(f"--modelopt-python {options.modelopt_python} does not exist")
    torch.manual_seed(options.seed)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for entry in bench.entries():
            rows.append(bench.measure(entry))
            result = rows[-1].get("failed") or f"Dice {rows[-1]['dice']:.4f}"
            print(f"{entry.tool} {entry.method} ({entry.form}): {result}", file=sys.stderr)
        val = bench.data.val
        return {
            "command": " ".join(["python benchmarks/peers.py", *map(neutral, sys.argv[1:])]),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": options.seed,
            "spec": bench.model.spec.name,
            "checkpoint_sha256": sha256(options.ckpt),
            "data": bench.data.name,
            "data_sha256": fingerprint(bench.data),
            "calibration_slices": len(bench.images),
            "validation": {"slices": len(val), "cases": len(set(val.cases.tolist()))},
            "cpu": {"architecture": platform.machine(), "vnni": has_vnni()},
            "versions": tool_versions(),
            "rows": rows,
        }


def main() -> int:
    options = arguments().parse_args()
    try:
        content = compare(options)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, content)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(table(content["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
