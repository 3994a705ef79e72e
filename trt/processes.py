"""Runs what calls the vendor's library in a process of its own.

A crash in there then costs an error message, and what the library keeps for a whole process, its
logger for one, starts anew each time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

import lmaunet
from lmaunet.errors import UserError

ROOT = str(Path(str(lmaunet.__file__)).parents[1])


def run_worker(
    command: Sequence[str],
    *,
    name: str,
    logs: Sequence[Path],
    advice: str,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a worker to its end and return its last answer; kill it where this process is stopped.

    Args:
        command: the command line. The worker's standard output has one JSON object a line:
            ``{"progress": text}``, then ``{"done": true, ...}`` or ``{"error": text}``.
        name: what it is, for the message of a crash.
        logs: the files whose last lines go into that message; the last of them receives the
            worker's standard error.
        advice: what to do after a crash.
        progress: called with each text of progress.

    Raises:
        UserError: where the worker answers with an error, crashes, or ends without an answer.
    """
    paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with logs[-1].open("wb") as stderr:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            encoding="utf-8",
            errors="replace",
        )
        try:
            assert process.stdout is not None
            answer, last = _follow(process.stdout, progress)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
    if "error" in answer:
        raise UserError(str(answer["error"]))
    if status or not answer.get("done"):
        raise UserError(
            f"the TensorRT {name} {_describe(status)} after {last!r}; its last lines:\n"
            f"{_last_lines(logs)}\n{advice}"
        )
    return answer


def _follow(stream: IO[str], progress: Callable[[str], None]) -> tuple[dict[str, Any], str]:
    """Return the worker's last answer and the last thing it was doing."""
    answer: dict[str, Any] = {}
    last = "start"
    for line in stream:
        try:
            message = json.loads(line)
        except json.JSONDecodeError:
            # a worker that is killed in the middle of a line leaves half of one
            continue
        if "progress" in message:
            last = message["progress"]
            progress(last)
        elif "error" not in answer:
            answer = message
    return answer, last


def _describe(status: int) -> str:
    if status < 0:
        return f"crashed with {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _last_lines(logs: Sequence[Path], count: int = 5) -> str:
    """Return the ends of the library's log and of the worker's standard error."""
    lines: list[str] = []
    for path in logs:
        if path.is_file():
            lines += path.read_text(errors="replace").splitlines()[-count:]
    return "\n".join(f"  {line[:300]}" for line in lines) or "  (none)"


def worker_command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a worker."""
    return [sys.executable, "-P", "-m", module, *arguments]


def open_answers() -> Callable[..., None]:
    """Return, in a worker, the function that writes an answer; call it first.

    Whatever the vendor's library prints goes to standard error from then on. Ctrl-C is left to the
    parent, which kills the worker: a KeyboardInterrupt inside a callback of the vendor's library
    would end in a crash instead.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    return answer
