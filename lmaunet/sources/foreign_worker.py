"""The process in which somebody else's code builds a network; see :mod:`lmaunet.sources.foreign`.

    python -P -m lmaunet.sources.foreign_worker REQUEST.json DESCRIPTOR

Answers go to the file descriptor, one JSON object a line: ``{"phase": text}`` for what is being
done, then ``{"error": text, "kind": class}`` or what was captured, whose graph and weights lie
beside the request.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # with the next, what capture loads: its bytecode is kept, theirs is not
import torch.export._trace
from torch import nn

import lmaunet
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.graph import file as graph_file
from lmaunet.graph.agreement import check_capture
from lmaunet.graph.capture import TORCH, capture
from lmaunet.graph.stand_ins import stand_ins
from lmaunet.net.checkpoint import check_state
from lmaunet.net.checkpoint_file import read_file
from lmaunet.sources import monai_bundle, nnunet_code, torch_module
from lmaunet.sources.absent import without_absent
from lmaunet.sources.foreign import AGAIN, STACK
from lmaunet.sources.loading import load_strictly

KINDS = {"nnunet": nnunet_code, "module": torch_module, "bundle": monai_bundle}
"""Each has ``make(arguments)`` for the network, ``state(content, names, path)`` for its weights
and what was said of them, and WHOSE and REMEDY for what does not fit."""
OWN = str(Path(str(lmaunet.__file__)).parent)
Answer = Callable[..., None]


def main(arguments: list[str]) -> None:
    """Answer one request, and end the process whatever the code left running."""
    place = Path(arguments[0])
    # their folder stays as it is, also where they start a process
    sys.dont_write_bytecode, os.environ["PYTHONDONTWRITEBYTECODE"] = True, "1"
    # the code may close what it did not open, or print to it
    stream = os.fdopen(os.dup(int(arguments[1])), "w", encoding="utf-8")
    os.close(int(arguments[1]))

    def answer(**content: Any) -> None:
        stream.write(json.dumps(content) + "\n")
        stream.flush()

    with (place.parent / STACK).open("w") as stack:
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=True)
        _end_with_parent()
        request = json.loads(place.read_text("utf-8"))
        try:
            answer(**_captured(request, place.parent, answer))
        except BaseException as error:  # SystemExit too: the code may call sys.exit
            answer(**_error(error, Path(request["code"])))
        os._exit(0)


def _end_with_parent() -> None:
    """End this process, and what it started, where the command that asked for it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _captured(request: Mapping[str, Any], folder: Path, answer: Answer) -> dict[str, Any]:
    """Build, load, capture and compare; return the answer."""
    kind, path = KINDS[request["kind"]], Path(request["checkpoint"])
    code = request["code"]
    answer(phase="building its network")
    sys.path.insert(0, code)
    torch.manual_seed(0)
    with stand_ins():
        module = without_absent(lambda: kind.make(request["arguments"]), _owned_by(code))
        if not isinstance(module, nn.Module):
            raise UserError(
                f"{kind.WHOSE} gives a {type(module).__name__}, not a torch.nn.Module; "
                f"{kind.REMEDY}"
            )
        answer(phase="loading its weights", built=True)
        module = module.cpu().float().eval()
        state, notices = kind.state(read_file(path), module.state_dict(), path)
        check_state(path, state)
        load_strictly(module, state, path, maker=kind.WHOSE, remedy=kind.REMEDY)
        answer(phase="capturing the network", built=True)
        graph, weights = capture(module, request["shape"])
        answer(phase="comparing the graph with the network", built=True)
        agreement = check_capture(module, graph, weights, evidence=folder)
    graph_file.write(folder, graph, weights)
    return {
        "agreement": agreement.to_json(), "network": type(module).__name__, "notices": notices,
    }  # fmt: skip


def _owned_by(code: str) -> Callable[[str], bool]:
    """Return what tells whether a module is one of the code's folder."""

    def owned(name: str) -> bool:
        top = Path(code) / name.partition(".")[0]
        return top.is_dir() or top.with_suffix(".py").is_file()

    return owned


def _error(error: BaseException, code: Path) -> dict[str, Any]:
    """Return the answer of an error: ours as it is, the code's with its line."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    for known in chain:
        if isinstance(known, ToolNotFound):
            said = {"tool": known.tool, "why": known.why, "fix": known.fix}
            return {"error": str(known), "kind": "ToolNotFound", **said}
    if isinstance(error, Disagreement):
        return {"error": str(error), "kind": "Disagreement"}
    own = next((known for known in chain if isinstance(known, UserError)), None)
    if own is not None:
        return {"error": f"{own}", "kind": "UserError"}
    first = chain[-1] if error.__cause__ is not None else error
    what = _said(error) + ("" if first is error else f" (from {_said(first)})")
    return {"error": f"the code of {code} raised {what}{_place(error, code)}; {AGAIN}",
            "kind": "UserError"}  # fmt: skip


def _said(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    reason = next(iter(str(error).strip().splitlines()), "")[:200]
    return f"{type(error).__name__}{': ' if reason else ''}{reason}"


def _place(error: BaseException, code: Path) -> str:
    """Return the line at which code raised: its own last one, else that of what it called."""
    frames = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 1))
    theirs = [frame for frame in frames if frame[0].startswith(f"{code}{os.sep}")]
    others = [
        frame for frame in frames
        if not frame[0].startswith((OWN, TORCH, "<")) and Path(frame[0]).is_file()
    ]  # fmt: skip
    for file, line in [*others[-1:], *theirs[-1:]][-1:]:
        text = ""
        with contextlib.suppress(OSError, IndexError):
            text = Path(file).read_text("utf-8", "replace").splitlines()[line - 1].strip()[:80]
        return f" at {file}:{line}" + (f" ({text})" if text else "")
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
