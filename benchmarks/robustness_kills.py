"""Stages that are killed, run twice at once, or run out of disk: the same command must finish them.

Every stage starts from the bytes that an undisturbed run left before it, is disturbed, and is then
run again to its end. What lies in the run after that must be what the undisturbed run left, byte
for byte, but for what :data:`VOLATILE` names. A stage reads nothing but what stages before it
wrote, so that stage by stage is as good as all at once, and takes a fraction of the time.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import robustness_network as network
import robustness_process as process
from robustness_images import Rng, pick

TIMES = tuple(
    f"detail.{part}"
    for part in ("latency", "load", *(f"float32.{n}" for n in (
        "speed_up", "median_ms", "min_ms", "p90_ms", "spread", "unsteady", "load_average",
        "threads",
    )))
)  # fmt: skip
VOLATILE: dict[str, tuple[str, ...]] = {
    "manifest.json": ("created",),
    "measure/*/manifest.json": ("key", "inputs.build.sha256", "outputs.measure.json"),
    "measure.json": ("figures.latency_ms", *TIMES),
    "report.json": (
        "made.created", "targets.*.latency_ms", "targets.*.files",
        *(f"targets.*.{name}" for name in TIMES),
    ),
    ".report.json": ("outputs",),
}  # fmt: skip
"""What may differ between two undisturbed runs, by the end of a file's name: dates; times of this
machine, and digests of files that hold a date or a time; the sizes of such files."""
RENDERED = ("report.md", "report.html")
"""Made from report.json alone, and so compared in being whole only."""
WRITES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.symlink"}
KINDS = {"kill": 1.0, "two": 0.1, "disk": 0.1}
"""What is done, and how often beside kills."""


@dataclass(frozen=True)
class Step:
    """A stage: its command line, how long it takes and how many files it touches undisturbed.

    ``before`` and ``after`` are the folders of the run as it was then.
    """

    name: str
    arguments: tuple[str, ...]
    seconds: float
    operations: int
    before: Path
    after: Path


def commands(data: Path) -> list[list[str]]:
    """Return the stages' command lines, with ``infer`` last; all paths but the data's relative."""
    lines = network.stages(Path("run"), data)
    image = str(data / "images" / "p0.nii.gz")
    return [*lines, ["infer", "--build", "run/build/ort", image, "-o", "run/mask.nii.gz"]]


def undisturbed(place: Path, data: Path) -> list[Step]:
    """Run all stages undisturbed, keep what each left, and return them."""
    kept = place / "steps.json"
    if not kept.exists():
        shutil.rmtree(place, ignore_errors=True)
        (place / "work" / "run").mkdir(parents=True)
        made = []
        for number, arguments in enumerate(commands(data)):
            before, after = place / f"state{number}", place / f"state{number + 1}"
            if not number:
                shutil.copytree(place / "work" / "run", before)
            outcome = process.run(arguments, place, program=counting(0), limit_seconds=600)
            if outcome.status not in (0, 1):
                raise RuntimeError(f"{' '.join(arguments)}: {outcome.err[-500:]}")
            operations = int((place / "operations").read_text())
            shutil.copytree(place / "work" / "run", after, symlinks=True)
            places = (str(before), str(after))
            made.append((arguments[0], arguments, outcome.seconds, operations, *places))
        kept.write_text(json.dumps(made))
    return [
        Step(name, tuple(arguments), seconds, operations, Path(before), Path(after))
        for name, arguments, seconds, operations, before, after in json.loads(kept.read_text())
    ]


def counting(last: int, program: process.Program = process.command_line) -> process.Program:
    """Return a program that does the same and is killed before it touches its ``last``-th file.

    With 0 it never is. What counts is opening to write, renaming, removing and making, below its
    working folder. The number is written into ``operations`` beside that folder where it ends by
    itself.
    """

    def counted(arguments: Sequence[str]) -> int | None:
        root = str(Path.cwd())
        count = 0

        def hook(event: str, details: tuple[Any, ...]) -> None:
            nonlocal count
            if event == "open":
                mode, flags = details[1] or "", details[2] or 0
                if not (set(str(mode)) & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR)):
                    return
            elif event not in WRITES:
                return
            name = details[0]
            if not isinstance(name, str | bytes | os.PathLike):
                return
            path = os.path.join(root, os.fsdecode(name))  # noqa: PTH118
            if not path.startswith(root):
                return
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            return program(arguments)
        finally:
            (Path(root).parent / "operations").write_text(str(count))

    return counted


def disturb(
    rng: Rng, kind: str, steps: Sequence[Step], place: Path, *,
    program: process.Program = process.command_line, after: process.Program = process.command_line,
) -> tuple[Step, str, list[str], bool]:  # fmt: skip
    """Disturb a stage, run it again, and compare.

    Args:
        rng: of the case.
        kind: one of :data:`KINDS`.
        steps: of :func:`undisturbed`.
        place: an empty folder.
        program: what runs the command that is disturbed.
        after: what runs the command again.

    Returns:
        The stage, what was done, what is bad, and whether the process was disturbed at all.
    """
    # a stage that touches many files has many places to be killed at; one that takes long takes
    # the time of several others
    weights = np.array([s.operations**0.5 / max(2.0, s.seconds) for s in steps])
    step = steps[int(rng.choice(len(steps), p=weights / weights.sum()))]
    run = place / "work" / "run"
    (place / "work").mkdir(parents=True)
    mounted = kind == "disk" and mount(run, room(rng, step))
    try:
        shutil.copytree(step.before, run, symlinks=True, dirs_exist_ok=True)
        if step.name == "infer" and rng.random() < 0.5:
            (run / "mask.nii.gz").write_bytes(b"an older mask")
        old = process.snapshot(run)
        note, bad, done = DISTURBANCES[kind](rng, step, place, program, mounted)
        if kind == "disk":
            bad += [f"destroyed: {n}" for n, d in old.items() if process.snapshot(run).get(n) != d
                    and not done and not n.endswith("/")]  # fmt: skip
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=256m", str(run)], check=True)
        # a killed process can not clear away its temporary files
        shutil.rmtree(place / "tmp", ignore_errors=True)
        last = process.run(step.arguments, place, program=after, limit_seconds=300)
        if last.status not in (0, 1) or "Traceback" in last.said:
            bad.append(f"run again: status {last.status}, {last.err.strip()[-300:]}")
        else:
            bad += different(step.after, run)
            if last.strays:
                bad.append(f"left in the temporary folder: {last.strays[:3]}")
        return step, f"{step.name}: {note}", bad, not done
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(run)], check=False)


def _kill(
    rng: Rng, step: Step, place: Path, program: process.Program, mounted: bool
) -> tuple[str, list[str], bool]:
    """Kill the command at a random time, or before it touches a random file."""
    if rng.random() < 0.5:
        last = int(rng.integers(1, step.operations + 1))
        outcome = process.run(
            step.arguments, place, program=counting(last, program), limit_seconds=300
        )
        return f"killed before file {last} of {step.operations}", [], outcome.signal is None
    seconds = float(rng.uniform(0.02, 0.98)) * step.seconds
    child = process.fork(step.arguments, place, program=program)
    time.sleep(seconds)
    with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)
    status, _, _ = process.wait(child, 10)
    return f"killed after {seconds:.2f} s of {step.seconds:.2f}", [], status is not None


def _two(
    rng: Rng, step: Step, place: Path, program: process.Program, mounted: bool
) -> tuple[str, list[str], bool]:
    """Run the command twice at once; kill one of them in a third of the cases."""
    gap = float(rng.choice([0, 0, rng.uniform(0, step.seconds)]))
    places = [place, place / "second"]
    places[1].mkdir()
    (places[1] / "work").symlink_to(place / "work")
    children = [process.fork(step.arguments, places[0], program=program)]
    time.sleep(gap)
    children.append(process.fork(step.arguments, places[1], program=program))
    killed = int(pick(rng, (0, 1, -1, -1)))
    if killed >= 0:
        time.sleep(float(rng.uniform(0, step.seconds)))
        with contextlib.suppress(OSError):
            os.kill(children[killed], signal.SIGKILL)
    bad = []
    ends = [process.wait(child, 300) for child in children]
    for number, (each, (status, ended_by, timed_out)) in enumerate(zip(places, ends, strict=True)):
        said = (each / "out.txt").read_text(errors="replace") + (each / "err.txt").read_text(
            errors="replace"
        )
        if timed_out:
            bad.append(f"the {number + 1}. of two waits for ever")
        elif "Traceback" in said or (ended_by is not None and number != killed):
            bad.append(f"the {number + 1}. of two: {process.last_line(said)}")
        elif status not in (0, 1, 2, None):
            bad.append(f"the {number + 1}. of two: status {status}")
    if killed < 0 and all(status not in (0, 1) for status, _, _ in ends):
        bad.append("neither of two finished")
    return f"two at once, {gap:.2f} s apart, killed {killed}", bad, False


def room(rng: Rng, step: Step) -> int:
    """Return the bytes of a disk that holds what was there before, and too little of what comes."""
    page = 4096
    old, new = (
        sum(-(-p.stat().st_size // page) * page + page for p in folder.rglob("*"))
        for folder in (step.before, step.after)
    )
    share = float(rng.uniform(0.02, 0.9))
    return int((old + share * max(new - old, 4 * page)) // page + 2) * page


def mount(folder: Path, size: int) -> bool:
    """Mount a small file system on a folder; False where this user may not."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


def _disk(
    rng: Rng, step: Step, place: Path, program: process.Program, mounted: bool
) -> tuple[str, list[str], bool]:
    """Run the command where the disk fills, or, without the right to mount, files may not grow."""
    limit = process.FILE_BYTES if mounted else int(rng.integers(1, 40)) * 1024
    outcome = process.run(
        step.arguments, place, program=program, file_bytes=limit, limit_seconds=300
    )
    said, bad = outcome.said, []
    if outcome.signal is not None or outcome.timed_out or outcome.status not in (0, 1, 2):
        bad.append(f"full disk: status {outcome.status}, signal {outcome.signal}")
    if any(words in said for words in process.TRACES):
        bad.append(f"full disk: {process.last_line(said)}")
    where = "a disk that fills" if mounted else f"files of {limit} bytes at most"
    return f"{where}: status {outcome.status}", bad, outcome.status in (0, 1)


DISTURBANCES: dict[str, Callable[..., tuple[str, list[str], bool]]] = {
    "kill": _kill, "two": _two, "disk": _disk,
}  # fmt: skip


def different(expected: Path, got: Path) -> list[str]:
    """Return in what two runs differ beyond :data:`VOLATILE`; empty for nothing."""
    names = [
        {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() or p.is_symlink()}
        for root in (expected, got)
    ]
    bad = []
    if names[0] - names[1]:
        bad.append(f"missing: {', '.join(sorted(names[0] - names[1])[:4])}")
    if names[1] - names[0]:
        bad.append(f"left over: {', '.join(sorted(names[1] - names[0])[:4])}")
    for name in sorted(names[0] & names[1]):
        if content_digest(expected, name) != content_digest(got, name):
            bad.append(f"differs: {name}")
    return bad[:8]


def content_digest(root: Path, name: str) -> str:
    """Return the digest of a file's content without what may differ."""
    data = (root / name).read_bytes()
    if Path(name).name in RENDERED:
        whole = data.rstrip().endswith(b"</html>") if name.endswith(".html") else len(data) > 100
        return "whole" if whole else "cut"
    if name.endswith(".json"):
        content = json.loads(data)
        for pattern, paths in VOLATILE.items():
            if Path(name).match(pattern):
                for path in paths:
                    content = without(content, path)
        data = json.dumps(content).encode()
    return hashlib.sha256(data).hexdigest()


def without(content: Any, path: str) -> Any:
    """Return a document without the value at a path such as ``a.*.b``; ``*`` is any key.

    The last part may hold a dot itself, as the names of files do.
    """
    content = copy.deepcopy(content)
    _remove(content, path)
    return content


def _remove(place: Any, path: str) -> None:
    if not isinstance(place, dict):
        return
    if path in place:
        del place[path]
        return
    name, dot, rest = path.partition(".")
    if dot:
        for key in [*place] if name == "*" else [name]:
            _remove(place.get(key), rest)
