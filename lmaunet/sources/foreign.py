"""A network that somebody else's code builds: it runs once, in a process of its own.

The process imports the code, lets it build the network, loads the weights, captures the graph and
holds the graph to the network. What comes back is data: the graph, its weights and how both
agreed. Code that prints, changes folders, variables or modules, hangs, or ends its process thus
does nothing to the command; it runs with the user's rights all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import lmaunet
from lmaunet.artifacts import Agreement
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.graph import file as graph_file
from lmaunet.graph.graph import Graph, Weights

ROOT = str(Path(str(lmaunet.__file__)).parents[1])
WORKER = "lmaunet.sources.foreign_worker"
BUILD_LIMIT_S = 600.0
"""How long code may take to be imported and to build its network."""
LIMIT_S = 7200.0
"""How long all of it may take; the capture of 81 M parameters at 256x256 took 14 s."""
TICK_S = 0.2
STACK = "stack.txt"
AGAIN = "run it by itself where the network was trained, correct it, and import again"


@dataclass(frozen=True)
class Request:
    """What the process is asked for.

    Args:
        kind: of the source; ``lmaunet.sources.foreign_worker`` has them.
        code: the folder whose code runs; files of it are named in messages.
        checkpoint: the file with the weights.
        shape: ``(1, channels, H, W)`` of the images.
        arguments: what the kind needs beside that, plain JSON.
    """

    kind: str
    code: Path
    checkpoint: Path
    shape: tuple[int, ...]
    arguments: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON, with absolute paths: code may change the folder it runs in."""
        return {
            **asdict(self),
            "arguments": dict(self.arguments),
            "code": str(self.code.absolute()),
            "checkpoint": str(self.checkpoint.absolute()),
        }


@dataclass(frozen=True)
class Captured:
    """A network as data.

    Args:
        graph, weights: what it computes.
        agreement: the graph's output beside that of the network, on random images.
        network: the name of its class.
        notices: what a user should know of how it was loaded.
    """

    graph: Graph
    weights: Weights
    agreement: Agreement
    network: str
    notices: tuple[str, ...] = ()


def run_foreign(
    request: Request, evidence: Path, progress: Callable[[str], None] = lambda text: None
) -> Captured:
    """Let code build a network, and return it as data.

    Args:
        request: what to build.
        evidence: the folder in which both outputs are saved when they disagree.
        progress: called again and again with what is being done.

    Raises:
        UserError: where the code raises, hangs or ends its process, the weights are of another
            network, or the network can't be captured; each with the line of the code that is known.
        ToolNotFound: where the network itself needs a package that is not here.
        Disagreement: where the graph computes something else than the network.
    """
    with tempfile.TemporaryDirectory(prefix="lmaunet-import-") as place:
        folder = Path(place)
        answer = _run(request, folder, progress)
        if "error" in answer:
            raise _error_of(answer, folder, evidence)
        graph, weights = graph_file.read(folder)
        return Captured(
            graph,
            weights,
            Agreement(**answer["agreement"]),
            str(answer["network"]),
            tuple(answer["notices"]),
        )


def _error_of(answer: Mapping[str, Any], folder: Path, evidence: Path) -> Exception:
    """Return the error that the process met."""
    message = str(answer["error"])
    if answer.get("kind") == "ToolNotFound":
        return ToolNotFound(answer["tool"], answer["why"], answer["fix"])
    if answer.get("kind") != "Disagreement":
        return UserError(message)
    evidence.mkdir(parents=True, exist_ok=True)
    for saved in folder.glob("*.npz"):
        shutil.copy(saved, evidence / saved.name)
    return Disagreement(message.replace(str(folder), str(evidence)))


def _run(request: Request, folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    """Return the last answer of the process; raises UserError where there is none."""
    asked, log = folder / "request.json", folder / "log.txt"
    asked.write_text(json.dumps(request.to_json()), encoding="utf-8")
    paths = [ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
    }
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, encoding="utf-8", errors="replace") as answers,
        log.open("wb") as output,
    ):
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER, str(asked), str(writing)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            pass_fds=(writing,), start_new_session=True,
        )  # fmt: skip
        os.close(writing)
        try:
            answer, phase, late = _follow(process, answers, folder, progress)
        finally:
            # what the code started goes with it
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if answer:
        return answer
    said = _last_line(log)
    if late:
        raise UserError(
            f"the code of {request.code} was stopped after {late:g} s while {phase}"
            f"{_stopped_at(folder / STACK, request.code)}{said}; {AGAIN}"
        )
    raise UserError(
        f"the code of {request.code} ended its process {_status(process.returncode)} while {phase}"
        f"{said}; {AGAIN}"
    )


def _follow(
    process: subprocess.Popen[bytes],
    stream: IO[str],
    folder: Path,
    progress: Callable[[str], None],
) -> tuple[dict[str, Any], str, float]:
    """Return the last answer, what was being done last, and the limit where it was passed."""
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    started = time.monotonic()
    phase, limit = "starting", BUILD_LIMIT_S
    ended = False
    while True:
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=TICK_S)
            for message in _messages(line):
                if "phase" not in message:
                    return message, phase, 0.0
                phase = message["phase"]
                limit = LIMIT_S if message.get("built") else BUILD_LIMIT_S
                progress(phase)
            if line is None:
                # a process that the code started may hold the pipe open, so this is not waited for
                return {}, phase, 0.0
            continue
        if ended:
            return {}, phase, 0.0
        ended = process.poll() is not None
        progress(phase)
        if time.monotonic() - started > limit:
            _ask_where(process, folder / STACK)
            return {}, phase, limit


def _messages(line: str | None) -> Iterator[dict[str, Any]]:
    """Return the message of a line; half a line is left by a process that was killed."""
    with contextlib.suppress(json.JSONDecodeError):
        found = json.loads(line or "null")
        if isinstance(found, dict):
            yield found


def _ask_where(process: subprocess.Popen[bytes], stack: Path) -> None:
    """Let a process that hangs write its stack."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGUSR1)
        for _ in range(20):
            if stack.is_file() and stack.stat().st_size:
                break
            time.sleep(0.05)


def _stopped_at(stack: Path, code: Path) -> str:
    """Return the line of the code that a stack of faulthandler's shows, the innermost first."""
    text = stack.read_text(errors="replace") if stack.is_file() else ""
    current = text.partition("Current thread")[2] or text
    for line in current.splitlines():
        file, mark, rest = line.strip().removeprefix('File "').partition('", line ')
        if mark and file.startswith(str(code.absolute())):
            return f" at {file}:{rest.partition(' ')[0]}"
    return ""


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    shown = "".join(c for c in lines[-1] if c.isprintable())[:120] if lines else ""
    return f" (its last line: {shown})" if shown else ""


def _status(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    return f"by {signal.Signals(-status).name}"
