"""Time, memory, load time and size of a network in each runtime, side by side, on this CPU.

    python benchmarks/performance.py --modelopt-python PEERS/bin/python
    python benchmarks/performance.py --quick

Each row runs in a process of its own (``performance_worker.py``), and those of one network in
turns, so that other work on the machine slows all alike. ``ratio`` is to the best FP32 file in ONNX
Runtime that needs no operators of ours, the median over the turns. A second table has the scan
alone, by the number of tokens; the status is 1 where a form's nodes grow with it more than they may
(``scan_in_onnx.py``).

Networks are untrained and calibrated on a synthetic abdomen, because the time of a run does not
depend on weights; ``--ckpt`` takes a checkpoint instead. ModelOpt needs an environment of its own
(see ``peers.py``).
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# GNU OpenMP spins while it waits, which costs most where others need the cores too
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import onnx
import scan_in_onnx
from peers import neutral
from performance_rows import OPERATORS, Missing, Networks, make_networks, rows
from performance_workers import Effort, Job, figures, measure

from lmaunet.cpu.openvino_runtime import version
from lmaunet.deploy.timing import cpu_model
from lmaunet.errors import UserError
from lmaunet.export.lower import count_nodes
from lmaunet.export.reference import thread_count
from lmaunet.net.checkpoint import load_checkpoint
from lmaunet.spec import NetSpec, named_spec
from lmaunet.stage import sha256, tool_versions, write_json

SPECS, SIZES = ("edge", "base"), (256, 512)
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")
QUICK_SPEC = NetSpec("quick", (4, 8, 8, 8, 8), states=2, kernels=(3, 3, 3, 3), input_size=(32, 32))
QUICK_LENGTHS = (512, 2048)

Row = dict[str, Any]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def compare(networks: Networks, effort: Effort) -> list[Row]:
    """Return the rows of one network at one size."""
    size = "x".join(map(str, networks.spec.input_size))
    found: list[Row] = []
    jobs: dict[int, Job] = {}
    for index, entry in enumerate(rows()):
        row: Row = {
            "name": entry.name, "spec": networks.spec.name, "input": size,
            "backend": entry.backend, "precision": entry.precision, "lowering": entry.lowering,
        }  # fmt: skip
        found.append(row)
        path = networks.folder / f"{index}.file"
        try:
            entry.make(networks, path)
        except Missing as missing:
            row["unavailable"] = {"tool": missing.tool, "why": missing.why, "fix": missing.fix}
            continue
        except UserError as error:
            row["unavailable"] = {"tool": entry.backend, "why": str(error), "fix": ""}
            continue
        row["nodes"] = None if entry.backend == "torch" else count_nodes(onnx.load(path))
        jobs[index] = Job(entry.opener, path, networks.inputs)
    measure(list(jobs.values()), effort, say)
    best = reference_of([(found[index], job) for index, job in jobs.items()])
    for index, job in jobs.items():
        if job.failed:
            failure = {"tool": found[index]["name"], "why": job.failed, "fix": ""}
            found[index]["unavailable"] = failure
            continue
        result = figures(job, best)
        found[index] |= {"ratio_to_ort_fp32": result.pop("ratio", None), **result}
    return found


def reference_of(pairs: Sequence[tuple[Row, Job]]) -> Job | None:
    """Return the fastest FP32 file in ONNX Runtime without operators; None where none ran."""
    candidates = [
        job
        for row, job in pairs
        if (row["backend"], row["precision"]) == ("onnxruntime", "fp32")
        and row["lowering"] != OPERATORS
        and not job.failed
    ]
    return min(candidates, key=lambda job: figures(job, None)["median_ms"], default=None)


def table(found: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| network | runtime | form | median ms (quartiles) | to ort fp32 | peak MB | load ms "
        "| file MB | nodes |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        cells = [f"{row['spec']} {row['input']}", row["name"], row["lowering"]]
        if "unavailable" in row:
            lack = row["unavailable"]
            text = f"unavailable: {lack['why']}" + (f"; {lack['fix']}" if lack["fix"] else "")
            cells += [text.replace("|", "\\|"), "", "", "", "", ""]
        else:
            ratio = row["ratio_to_ort_fp32"]
            cells += [
                f"{row['median_ms']:.1f} ({row['q1_ms']:.1f}-{row['q3_ms']:.1f})",
                "" if ratio is None else f"{ratio:.2f}", f"{row['peak_mb']:.0f}",
                f"{row['load_ms']:.0f}", f"{row['file_bytes'] / 1e6:.2f}",
                "" if row["nodes"] is None else str(row["nodes"]),
            ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine(threads: int) -> Row:
    """Return what the times depend on: the CPU, its relevant features, cores and threads."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.is_file() else ""
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), ())
    return {
        "cpu": cpu_model(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": thread_count(),
        "threads": threads,
    }


def networks_wanted(options: argparse.Namespace) -> list[NetSpec]:
    """Return the specifications to measure, each with its size."""
    if options.ckpt is not None:
        spec = load_checkpoint(options.ckpt).spec
        if not isinstance(spec, NetSpec):
            raise UserError(f"{options.ckpt} is of an imported graph; give a network of a spec")
        base = [spec]
    elif options.quick:
        return [QUICK_SPEC]
    else:
        base = [named_spec(name) for name in options.specs]
    return [spec.replace(input_size=(s, s)) for s in options.sizes for spec in base]


def run(options: argparse.Namespace) -> Row:
    """Measure everything and return the content of the JSON file."""
    quick = options.quick
    loads = 1 if quick else 3
    effort = Effort(options.threads, options.budget_s, loads, memory_mb=1e3 * options.memory_gb)
    found: list[Row] = []
    for spec in networks_wanted(options):
        say(f"{spec.name} at {spec.input_size[0]}x{spec.input_size[1]}: exporting")
        with tempfile.TemporaryDirectory() as folder:
            networks = make_networks(
                spec, Path(folder), seed=options.seed, checkpoint=options.ckpt,
                modelopt=options.modelopt_python,
            )  # fmt: skip
            found += compare(networks, effort)
    scan_effort = Effort(options.threads, options.budget_s / 5, loads, memory_mb=effort.memory_mb)
    lengths = QUICK_LENGTHS if quick else options.lengths
    sizes = ((4, 2),) if quick else scan_in_onnx.CHANNELS_STATES
    scans = scan_in_onnx.compare(lengths, sizes, scan_effort, say)
    return {
        "command": " ".join(["python benchmarks/performance.py", *map(neutral, sys.argv[1:])]),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": options.seed,
        "weights": "untrained" if options.ckpt is None else sha256(options.ckpt),
        "machine": machine(options.threads),
        "versions": tool_versions() | ({"openvino": version()} if version() else {}),
        "rows": found,
        "scans": scans,
    }


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--specs", nargs="+", default=SPECS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--lengths", nargs="+", type=int, default=scan_in_onnx.LENGTHS)
    parser.add_argument("--ckpt", type=Path, help="a checkpoint in place of the untrained specs")
    parser.add_argument("--modelopt-python", type=Path, help="the interpreter that has ModelOpt")
    parser.add_argument("--threads", type=int, default=thread_count())
    parser.add_argument("--budget-s", type=float, default=70, help="for the turns of one network")
    parser.add_argument("--memory-gb", type=float, default=8, help="kept loaded between turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tiny network and scan: a trial")
    parser.add_argument("-o", "--out", type=Path, help="results/performance.json; none if --quick")
    return parser


def check(options: argparse.Namespace) -> None:
    """Raise :class:`UserError` for options that make no sense."""
    if options.threads < 1 or options.budget_s <= 0 or options.memory_gb <= 0:
        raise UserError(
            f"--threads {options.threads}, --budget-s {options.budget_s:g}, --memory-gb "
            f"{options.memory_gb:g}; expected more than 0; give numbers above 0"
        )
    if min(options.lengths) < 1:
        raise UserError(f"--lengths {options.lengths}; expected 1 or more; give numbers above 0")
    python = options.modelopt_python
    if python is not None and not python.is_file():
        raise UserError(f"--modelopt-python {python} does not exist; give an interpreter's path")


def main() -> int:
    options = arguments().parse_args()
    try:
        check(options)
        content = run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    out = options.out or (None if options.quick else Path("results/performance.json"))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, content)
    print(table(content["rows"]), scan_in_onnx.table(content["scans"]), sep="\n\n")
    growing = scan_in_onnx.growing_nodes(content["scans"])
    for line in growing:
        print(f"error: {line}", file=sys.stderr)
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
