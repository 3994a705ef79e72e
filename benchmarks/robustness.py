"""What damaged, odd and hostile input does to the commands, 10,000 times, and 200 kills.

    python benchmarks/robustness.py --cases 10000 --kills 200 --seed 0 \\
        --write results/robustness.json

docs/robustness.md says what counts as bad. A case is known by its kind and number:
``--case nifti:17`` runs it again and keeps its files. An interrupted run of the same program and
seed resumes from its log.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import robustness_cases as cases
import robustness_dicom as dicom
import robustness_kills as kills
import robustness_network as network
import robustness_process as process
import robustness_sets as sets
import robustness_summary as summary

from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.stage import source_digest, write_json

ONE_THREAD = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA")},
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
}


def main(arguments: argparse.Namespace) -> int:
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    load_libraries()
    fixtures = make_fixtures(work, arguments)
    load_what_commands_load(fixtures, work / "warm")
    if arguments.case:
        return run_one(arguments, fixtures, work)
    started = time.monotonic()
    log = Log.open(work / f"log-{arguments.seed}.jsonl", arguments.seed)
    planned = [
        *plan(arguments.cases, arguments.kind), *plan_kills(arguments.kills, arguments.kind)
    ]  # fmt: skip
    planned = [c for c in planned if c not in log.done()]
    earlier = log.seconds()
    run_workers(arguments, planned, fixtures, work, log)
    log.add({"seconds": time.monotonic() - started})
    content = summary.summarise(arguments, log.records(), earlier + time.monotonic() - started)
    print(*summary.shown(content), sep="\n")
    if arguments.write:
        write_json(arguments.write, content)
    return 1 if content["bad"] else 0


def load_libraries() -> None:
    """Import what the commands import, so that each case starts with it."""
    import importlib
    import pkgutil

    import lmaunet.data

    ours = [m.name for m in pkgutil.walk_packages(lmaunet.data.__path__, "lmaunet.data.")]
    for name in (
        "lmaunet.deploy.cli", "lmaunet.deploy.commands", "lmaunet.deploy.inferring",
        "lmaunet.deploy.data_commands", "lmaunet.deploy.targets.ort", "lmaunet.net.checkpoint",
        "lmaunet.train.loop", "lmaunet.quant.qat", "lmaunet.export.network", "onnx", "onnxruntime",
        "torch",
        "SimpleITK", "nibabel", "pydicom", "pydicom.encaps", "highdicom", *ours,
    ):  # fmt: skip
        importlib.import_module(name)
    network.register_tiny()
    process.require_one_thread()


def load_what_commands_load(fixtures: cases.Fixtures, place: Path) -> None:
    """Import what some commands import while they run, as they are found to in forks."""
    import contextlib
    import importlib

    image = fixtures.data / "images" / "p0.nii.gz"

    def program(arguments: Sequence[str]) -> int | None:
        try:
            return process.command_line(arguments)
        finally:
            Path("modules.json").write_text(json.dumps(sorted(sys.modules)))

    (place / "work").mkdir(parents=True, exist_ok=True)
    made, _, _ = dicom.slices(cases.rng_of(0, "dicom", 0))
    for number, data in enumerate(made):
        (place / "work" / f"{number}.dcm").write_bytes(dicom.saved(data))
    for command in (
        ["spec", network.TINY], ["data", "info", "--data", str(fixtures.data)],
        ["infer", "--build", str(fixtures.levels), str(image), "-o", "mask.nii.gz", "--json"],
        ["infer", "--build", str(fixtures.levels), ".", "-o", "../mask.dcm"],
        ["report", "--run", "none", "--baseline", str(image)],
        ["qat", "--ckpt", str(fixtures.checkpoint), "--data", str(fixtures.other_data)],
    ):  # fmt: skip
        process.run(command, place, program=program)
        for name in json.loads((place / "work" / "modules.json").read_bytes()):
            # some are no modules of files, and some of the interpreter's own
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    process.require_one_thread()


def make_fixtures(work: Path, arguments: argparse.Namespace) -> cases.Fixtures:
    """Make what the cases start from, in processes of their own, where it is not there."""
    place = work / "fixtures" / digest_of_program(("network", "sets", "kills"))[:12]
    data = place / "data"
    made = cases.Fixtures(
        place / "levels" / "build" / "ort", place / "work" / "run" / "train" / "model.pt",
        data, place / "other-data", place / "steps",
    )  # fmt: skip
    if not (place / "made").exists():
        shutil.rmtree(place, ignore_errors=True)
        process.call(lambda: str(network.make_build(place / "levels")), 120)
        sets.write_set(data, network.TINY_CLASSES)
        sets.write_set(made.other_data, network.TINY_CLASSES - 1)
        outcome = process.run(network.stages(Path("run"), data)[0], place, limit_seconds=300)
        if outcome.status != 0:
            raise UserError(f"the tiny network cannot be trained: {outcome.err[-500:]}")
        (place / "made").touch()
    chosen = [arguments.case.partition(":")[0]] if arguments.case else arguments.kind
    known = {*cases.OF_A_RUN, *kills.KINDS}
    if not chosen or known & set(chosen):
        kills.undisturbed(made.steps, data)
    return made


def digest_of_program(parts: Sequence[str] = ("",)) -> str:
    """Return the digest of all sources that a case depends on: the program's, and the harness's.

    This file only plans and counts.
    """
    digest = hashlib.sha256()
    for package in ("lmaunet", "lmaunet.quant", "lmaunet.export"):
        digest.update(source_digest(package).encode())
    for part in parts:
        for path in sorted(Path(__file__).parent.glob(f"robustness_*{part}.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def plan(count: int, chosen: Sequence[str]) -> list[tuple[str, int]]:
    """Return kinds and numbers of cases, so that each kind has its share at any time."""
    known = [*cases.KINDS, *kills.KINDS]
    for kind in chosen:
        if kind not in known:
            raise UserError(f"unknown --kind {kind!r}; use one of: {', '.join(known)}")
    kinds = {k: share for k, (share, _) in cases.KINDS.items() if not chosen or k in chosen}
    if not kinds:
        return []
    total, made = sum(kinds.values()), Counter[str]()
    planned = []
    for step in range(count):
        most = max(kinds, key=lambda k: (step + 1) * kinds[k] / total - made[k])
        planned.append((most, made[most]))
        made[most] += 1
    return planned


def plan_kills(count: int, chosen: Sequence[str]) -> list[tuple[str, int]]:
    """Return the kills, and beside them pairs of processes and full disks."""
    kinds = {k: share for k, share in kills.KINDS.items() if not chosen or k in chosen}
    return [(k, i) for k, share in kinds.items() for i in range(round(count * share))]


@dataclasses.dataclass
class Log:
    """The results so far, a line of JSON each; each line is written at once."""

    path: Path

    @staticmethod
    def open(path: Path, seed: int) -> Log:
        """Return the log of this program and seed; one of another program is put aside."""
        head = {"seed": seed, "program": digest_of_program()}
        if path.exists() and next(iter(Log(path).lines()), None) != head:
            path.replace(path.with_suffix(".old.jsonl"))
        log = Log(path)
        if not path.exists():
            log.add(head)
        return log

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("ab", buffering=0) as stream:
            stream.write(json.dumps(line).encode() + b"\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """Return the lines; the last may be cut where the run was interrupted."""
        for line in self.path.read_bytes().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def records(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "kind" in line]

    def done(self) -> set[tuple[str, int]]:
        return {(r["kind"], r["number"]) for r in self.records()}

    def seconds(self) -> float:
        return sum(line.get("seconds", 0.0) for line in self.lines() if "kind" not in line)


def run_workers(
    arguments: argparse.Namespace, planned: list[tuple[str, int]], fixtures: cases.Fixtures,
    work: Path, log: Log,
) -> None:  # fmt: skip
    """Run the cases in several processes, each bound to a processor, which take turns."""
    processors = sorted(os.sched_getaffinity(0))
    children = []
    for worker in range(arguments.workers):
        sys.stdout.flush()
        child = os.fork()
        if not child:
            status = 1
            try:
                # one processor, and so one thread in each library that counts processors
                os.sched_setaffinity(0, {processors[worker % len(processors)]})
                run_share(
                    arguments, planned[worker :: arguments.workers], fixtures, work, worker, log
                )
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            os._exit(status)
        children.append(child)
    broken = [child for child in children if os.waitpid(child, 0)[1]]
    if broken:
        raise UserError("a worker ended early; give the same command again to resume")


def run_share(
    arguments: argparse.Namespace, planned: list[tuple[str, int]], fixtures: cases.Fixtures,
    work: Path, worker: int, log: Log,
) -> None:  # fmt: skip
    deadline = time.monotonic() + arguments.time_limit if arguments.time_limit else None
    said = time.monotonic()
    for index, (kind, number) in enumerate(planned):
        if deadline is not None and time.monotonic() > deadline:
            return
        place = work / f"worker{worker}"
        try:
            record = run_any(arguments.seed, kind, number, fixtures, place)
        except Exception as error:
            # of the harness, which must not pass for a case without fault
            reason = f"the harness failed: {type(error).__name__}: {error}"
            record = cases.Record(kind, number, None, (reason,), "", "", 0.0, "", False)
        log.add(dataclasses.asdict(record))
        if record.bad or record.unverified:
            keep(place, work / ("bad" if record.bad else "unverified"), kind, number)
        if worker == 0 and time.monotonic() - said > 15:
            said = time.monotonic()
            print(f"  {index / len(planned):4.0%}  {kind} {number}", file=sys.stderr, flush=True)
    shutil.rmtree(work / f"worker{worker}", ignore_errors=True)


def run_any(
    seed: int, kind: str, number: int, fixtures: cases.Fixtures, place: Path
) -> cases.Record:
    """Run a case, or disturb a stage, in a folder."""
    if kind not in kills.KINDS:
        return cases.run_case(seed, kind, number, fixtures, place)
    shutil.rmtree(place, ignore_errors=True)
    started = time.perf_counter()
    steps = kills.undisturbed(fixtures.steps, fixtures.data)
    step, note, bad, disturbed = kills.disturb(cases.rng_of(seed, kind, number), kind, steps, place)
    seconds = round(time.perf_counter() - started, 3)
    return cases.Record(
        kind, number, None, tuple(bad), "", note, seconds, step.name, disturbed
    )  # fmt: skip


def keep(place: Path, where: Path, kind: str, number: int) -> None:
    """Keep the files of a case."""
    kept = where / f"{kind}-{number}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(place, kept, symlinks=True, ignore_dangling_symlinks=True)


def run_one(arguments: argparse.Namespace, fixtures: cases.Fixtures, work: Path) -> int:
    """Run a case again, keep its files and show all that it said."""
    kind, _, number = arguments.case.partition(":")
    if kind not in (*cases.KINDS, *kills.KINDS) or not number.isdigit():
        raise UserError(f"--case {arguments.case}; give KIND:NUMBER, such as nifti:17")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    place = work / "case" / f"{kind}-{number}"
    record = run_any(arguments.seed, kind, int(number), fixtures, place)
    print(json.dumps(dataclasses.asdict(record), indent=2))
    print(
        (place / "out.txt").read_text(errors="replace"),
        (place / "err.txt").read_text(errors="replace"),
    )
    print(f"its files: {place}")
    return 1 if record.bad else 0


def parse(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=200, help="and a tenth of it each beside")
    parser.add_argument("--kind", action="append", default=[], help="these only; repeatable")
    parser.add_argument("--case", help="KIND:NUMBER, run again with its files kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--time-limit", type=float, help="seconds; what is left goes on later")
    parser.add_argument("--work", type=Path, default=Path("runs/robustness"), help="log and files")
    parser.add_argument("--write", type=Path, help="such as results/robustness.json")
    return parser.parse_args(given)


if __name__ == "__main__":
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        # libraries read it when they are loaded, and some are by now
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    sys.exit(run_command(lambda: main(parse())))
