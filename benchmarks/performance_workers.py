"""Time several files in turns, each in a process of its own, so that noise hits all alike."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("performance_worker.py")
START_SECONDS = 900
REPETITION_SECONDS = 0.3
MOST_REPETITIONS = 10
MOST_ROUNDS, FEWEST_ROUNDS = 15, 3
LOADS = 3
LONG_LOAD_MS = 20e3


class Failed(Exception):
    """A worker ended, or said why it cannot go on; the message is one line."""


@dataclass
class Job:
    """One file to measure.

    ``opener`` is a key of ``performance_worker.OPENERS``. ``failed`` says why there are no figures.
    """

    opener: str
    path: Path
    inputs: Path
    load_ms: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    rounds_ms: list[list[float]] = field(default_factory=list)
    first_ms: float = 0.0
    failed: str = ""


@dataclass(frozen=True)
class Effort:
    """How long to measure: ``budget_s`` for the rounds of all jobs, and how many loads of each."""

    threads: int
    budget_s: float
    loads: int = LOADS
    rounds: int = MOST_ROUNDS
    memory_mb: float = 10_000


class Worker:
    """A process of ``performance_worker.py``."""

    def __init__(self, job: Job, threads: int) -> None:
        root = str(Path(__file__).parents[1])
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
            # a cache of compiled code would make loading look fast
            "TORCHINDUCTOR_CACHE_DIR": str(job.path.parent / f"inductor_{time.monotonic_ns()}"),
        }
        command = [sys.executable, SCRIPT, job.opener, job.path, job.inputs, threads]
        self.log = (job.path.parent / f"{job.path.name}.log").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.log, text=True, env=environment,
        )  # fmt: skip
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            why = "; out of memory?" if status == -9 else ""
            raise Failed(f"the process ended with status {status}{why}")
        content = json.loads(line)
        if "failed" in content:
            raise Failed(content["failed"])
        return content

    def run(self, repetitions: int) -> list[float]:
        """Return the times of so many runs in milliseconds."""
        assert self.process.stdin is not None
        # of a process that is dead, the answer tells
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{repetitions}\n")
            self.process.stdin.flush()
        return self._answer()["times_ms"]

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        # closing flushes, and where the process is dead there is nobody to flush to
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


def measure(jobs: Sequence[Job], effort: Effort, say: Callable[[str], None]) -> None:
    """Fill in the figures of each job.

    Each file is loaded ``effort.loads`` times, each time by a new process, and what compiles for
    longer than 20 seconds once. Then all of them run in turns. Those whose memory together exceeds
    ``effort.memory_mb`` do not stay loaded between their turns.
    """
    workers: dict[int, Worker] = {}
    try:
        for job in jobs:
            say(f"loading {job.path.name} ({job.opener})")
            _load(job, effort)
        alive = [index for index, job in enumerate(jobs) if not job.failed]
        kept = _kept(jobs, alive, effort.memory_mb)
        seconds = sum(_repetitions(jobs[i]) * jobs[i].first_ms / 1e3 for i in alive)
        seconds += sum(jobs[i].load_ms[-1] / 1e3 for i in alive if i not in kept)
        rounds = max(FEWEST_ROUNDS, min(effort.rounds, int(effort.budget_s / max(seconds, 1e-3))))
        say(f"{rounds} rounds, about {rounds * seconds:.0f} s")
        for _ in range(rounds):
            for index in alive:
                job = jobs[index]
                if not job.failed:
                    _turn(job, index, workers, keep=index in kept, threads=effort.threads)
    finally:
        for worker in workers.values():
            worker.close()


def _load(job: Job, effort: Effort) -> None:
    for _ in range(effort.loads):
        try:
            worker = Worker(job, effort.threads)
        except Failed as error:
            job.failed = str(error)
            return
        job.load_ms.append(worker.ready["load_ms"])
        job.peak_mb.append(worker.ready["peak_mb"])
        job.first_ms = worker.ready["first_ms"]
        worker.close()
        if job.load_ms[-1] > LONG_LOAD_MS:
            return


def _turn(job: Job, index: int, workers: dict[int, Worker], *, keep: bool, threads: int) -> None:
    try:
        worker = workers.get(index) or Worker(job, threads)
        workers[index] = worker
        job.rounds_ms.append(worker.run(_repetitions(job)))
    except Failed as error:
        job.failed = str(error)
    if (not keep or job.failed) and index in workers:
        workers.pop(index).close()


def _kept(jobs: Sequence[Job], alive: Sequence[int], memory_mb: float) -> set[int]:
    """Return which jobs stay loaded: the smallest, as far as the memory goes."""
    kept, total = set(), 0.0
    for index in sorted(alive, key=lambda i: max(jobs[i].peak_mb)):
        total += max(jobs[index].peak_mb)
        if total <= memory_mb:
            kept.add(index)
    return kept


def _repetitions(job: Job) -> int:
    return max(1, min(MOST_REPETITIONS, int(REPETITION_SECONDS * 1e3 / max(job.first_ms, 1e-3))))


def figures(job: Job, reference: Job | None) -> dict[str, Any]:
    """Return a job's figures; ``ratio`` is to the reference, the median of each round's.

    The times' quartiles are over all runs.
    """
    times = [value for values in job.rounds_ms for value in values]
    q1, median, q3 = statistics.quantiles(times, n=4, method="inclusive")
    found = {
        "median_ms": median, "q1_ms": q1, "q3_ms": q3, "runs": len(times),
        "load_ms": statistics.median(job.load_ms), "loads": len(job.load_ms),
        "peak_mb": statistics.median(job.peak_mb), "file_bytes": job.path.stat().st_size,
    }  # fmt: skip
    if reference is not None and not reference.failed:
        pairs = zip(job.rounds_ms, reference.rounds_ms, strict=True)
        found["ratio"] = statistics.median(
            statistics.median(own) / statistics.median(theirs) for own, theirs in pairs
        )
    return found
