"""One command line in a process of its own, forked after the imports, and what it left behind.

The parent has imported what the commands import and has started no thread; a child is a copy of it
that runs ``lmaunet-deploy`` as a user does. It has limits, a working folder, a temporary folder and
two files for what it prints. Linux only: the parent waits on a descriptor of the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT_SECONDS = 60.0
MEMORY_BYTES = 12 << 30
"""Of addresses: torch's libraries alone take 3.5 GB of them."""
FILE_BYTES = 1 << 30
STATUSES = (0, 1, 2, 3)
"""What docs promise: good, a gate or an agreement failed, bad usage or input, a tool is missing."""
TRACES = (
    "Traceback (most recent call last)", "terminate called", "Exception ignored in",
    "a fault in lmaunet-deploy itself", "Segmentation fault", "double free", "corrupted size",
    "AddressSanitizer",
)  # fmt: skip
TAIL = 20_000

Program = Callable[[Sequence[str]], int | None]


def command_line(arguments: Sequence[str]) -> int | None:
    """Run ``lmaunet-deploy`` with these arguments in this process."""
    from lmaunet.deploy import cli

    sys.argv = ["lmaunet-deploy", *arguments]
    cli.main()
    return 0


@dataclass(frozen=True)
class Outcome:
    """How a process ended and what changed in its folder.

    ``status`` is None where a signal ended it; ``before`` and ``after`` are the digests of the
    folder's files by name; ``strays`` are the files left in the temporary folder.
    """

    status: int | None
    signal: int | None
    seconds: float
    timed_out: bool
    out: str
    err: str
    before: Mapping[str, str] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    strays: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        """All that the process printed."""
        return self.out + "\n" + self.err

    def new(self) -> list[str]:
        """Return the names of the files that were not there before."""
        return sorted(self.after.keys() - self.before.keys())

    def changed(self) -> list[str]:
        """Return the names of the files that are gone or have another content."""
        return sorted(n for n, digest in self.before.items() if self.after.get(n) != digest)


def snapshot(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder by its name there; of a link its target."""
    found = {}
    for place, folders, names in os.walk(folder):
        for name in [*names, *(n for n in folders if Path(place, n).is_symlink())]:
            path = Path(place, name)
            key = os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace")
            if path.is_symlink():
                found[key] = f"link to {path.readlink()!r}"
            elif path.is_file():
                found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[key] = "special"
        if not names and not folders and Path(place) != folder:
            key = os.fsencode(Path(place).relative_to(folder)).decode("utf-8", "backslashreplace")
            found[key + "/"] = "empty folder"
    return found


def fork(
    arguments: Sequence[str], place: Path, *, program: Program = command_line,
    environment: Mapping[str, str] | None = None, file_bytes: int = FILE_BYTES,
) -> int:  # fmt: skip
    """Start a program in a fork of this process and return its process id.

    Args:
        arguments: the command line.
        place: has ``work``, in which it runs, and gets ``tmp``, ``out.txt`` and ``err.txt``.
        program: what runs.
        environment: variables to set beside those of this process.
        file_bytes: the largest file that it may write.
    """
    for name in ("work", "tmp"):
        (place / name).mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):
            os.setpgid(child, child)
        return child
    status = 1
    try:
        _become(place, environment or {}, file_bytes)
        status = _run(program, arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _become(place: Path, environment: Mapping[str, str], file_bytes: int) -> None:
    import faulthandler
    import tempfile

    faulthandler.disable()  # a test runner's, which would write into its own output
    os.setpgid(0, 0)
    for stream, name in ((1, "out.txt"), (2, "err.txt")):
        file = os.open(place / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(file, stream)
        os.close(file)
    # of this process's own: what a test runner has put in their place shall hear nothing
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.environ.update({"TMPDIR": str(place / "tmp"), "COLUMNS": "100", **environment})
    tempfile.tempdir = None
    os.chdir(place / "work")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


def _run(program: Program, arguments: Sequence[str]) -> int:
    """Return the status with which the interpreter would end."""
    try:
        return int(program(arguments) or 0)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return int(stop.code or 0)
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


def wait(child: int, limit_seconds: float) -> tuple[int | None, int | None, bool]:
    """Return status, signal and whether time was up; the whole group of the process is ended.

    The time in which the process was ready and other work had the processor does not count.
    """
    descriptor, started = os.pidfd_open(child), time.monotonic()
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        left, timed_out = limit_seconds, False
        while not timed_out and not poll.poll(max(0.0, 1e3 * left)):
            left = limit_seconds + _kept_waiting(child) - (time.monotonic() - started)
            timed_out = left <= 0.01
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    _, code = os.waitpid(child, 0)
    if os.WIFSIGNALED(code):
        return None, os.WTERMSIG(code), timed_out
    return os.WEXITSTATUS(code), None, timed_out


def _kept_waiting(child: int) -> float:
    """Return the seconds in which a process was ready to run and did not."""
    try:
        return int(Path(f"/proc/{child}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def run(
    arguments: Sequence[str], place: Path, *, program: Program = command_line,
    limit_seconds: float = LIMIT_SECONDS, environment: Mapping[str, str] | None = None,
    file_bytes: int = FILE_BYTES,
) -> Outcome:  # fmt: skip
    """Run a program to its end, or to the end of its time; arguments as for :func:`fork`."""
    (place / "work").mkdir(parents=True, exist_ok=True)
    before = snapshot(place / "work")
    started = time.perf_counter()
    child = fork(arguments, place, program=program, environment=environment, file_bytes=file_bytes)
    status, ended_by, timed_out = wait(child, limit_seconds)
    seconds = time.perf_counter() - started
    return Outcome(
        status, ended_by, seconds, timed_out, _text(place / "out.txt"), _text(place / "err.txt"),
        before, snapshot(place / "work"), tuple(snapshot(place / "tmp")),
    )  # fmt: skip


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    return path.read_bytes()[-TAIL:].decode("utf-8", "replace")


def call(function: Callable[[], Any], limit_seconds: float = LIMIT_SECONDS) -> Any:
    """Return what a function returns in a fork of this process, which so starts no thread itself.

    The value is plain JSON.

    Raises:
        RuntimeError: with the traceback, where the function raised or its process did not end well.
    """
    import json

    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os.close(reader)
        with os.fdopen(writer, "w", encoding="utf-8") as stream:
            try:
                json.dump({"value": function()}, stream)
            except BaseException:
                json.dump({"error": traceback.format_exc()}, stream)
        os._exit(0)
    os.close(writer)
    deadline, parts = time.monotonic() + limit_seconds, []
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = stream.read(1 << 16)
            if not part:
                break
            parts.append(part)
        else:
            os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        answer = json.loads(b"".join(parts))
    except ValueError:
        raise RuntimeError("the process of the judge ended early, or took too long") from None
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["value"]


def faults(
    outcome: Outcome, outputs: Sequence[str], *, failed: Sequence[int] = (1, 2, 3)
) -> list[str]:
    """Return what is bad about how a process ended, whatever it computed; empty for nothing.

    Args:
        outcome: of the process.
        outputs: names, or their beginnings where they end in ``/``, of what a success may write.
        failed: the statuses after which nothing may have changed.
    """
    bad = []
    if outcome.timed_out:
        return [f"hangs: not done after {outcome.seconds:.0f} s"]
    if outcome.signal is not None:
        return [f"killed by {signal.Signals(outcome.signal).name}"]
    trace = next((words for words in TRACES if words in outcome.said), None)
    if trace is not None:
        bad.append(f"traceback: {last_line(outcome.said)}")
    if outcome.status not in STATUSES:
        bad.append(f"status {outcome.status}")
    if outcome.strays:
        bad.append(f"left in the temporary folder: {', '.join(outcome.strays[:3])}")
    new, changed = outcome.new(), outcome.changed()
    if outcome.status in failed or outcome.status not in STATUSES:
        if new:
            bad.append(f"left after a failure: {', '.join(new[:4])}")
        if changed:
            bad.append(f"destroyed or changed by a failure: {', '.join(changed[:4])}")
        if outcome.status in failed and not outcome.err.strip():
            bad.append("a failure without a word")
    else:
        for names, word in ((new, "left beside the result"), (changed, "changed an input")):
            other = [n for n in names if not _among(n, outputs)]
            if other:
                bad.append(f"{word}: {', '.join(other[:4])}")
        missing = [n for n in outputs if not n.endswith("/") and n not in outcome.after]
        if missing:
            bad.append(f"status {outcome.status} without {', '.join(missing)}")
    return bad


def _among(name: str, outputs: Sequence[str]) -> bool:
    return any(name == o or (o.endswith("/") and name.startswith(o)) for o in outputs)


def last_line(text: str) -> str:
    """Return the line that names the error: with the words of a trace, or the one below it."""
    lines = [line for line in text.splitlines() if line.strip()]
    traced = [i for i, line in enumerate(lines) if any(words in line for words in TRACES)]
    at = traced[-1] if traced else -1
    if not lines:
        return "nothing was said"
    if not lines[at].startswith("Traceback"):
        return lines[at][:300]
    later = [line for line in lines[at + 1 :] if not line.startswith(" ")]
    return (later or lines[-1:])[0][:300]


def require_one_thread() -> None:
    """Raise :class:`RuntimeError` where this process runs threads, of which a fork has no copy."""
    threads = len([*Path("/proc/self/task").iterdir()])
    if threads != 1:
        raise RuntimeError(f"{threads} threads run; a fork would copy their locks without them")
