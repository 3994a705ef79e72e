"""One runtime with one file, in a process of its own: ``performance_workers.py`` starts it.

    python benchmarks/performance_worker.py OPENER FILE INPUTS.npz THREADS

It loads the file, runs it twice, prints a line of JSON with ``load_ms``, ``first_ms`` and
``peak_mb`` (or ``failed``), and then for each number on standard input runs so many times and
prints the times in milliseconds. It ends with its input.

``peak_mb`` is by how much the largest resident set, over loading and two runs, exceeds that of the
process with the libraries imported, in MB (10**6 bytes).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

Feeds = dict[str, np.ndarray]
Runner = Callable[[], object]
Loader = Callable[[Path, Feeds, int], Runner]


def import_onnxruntime(operators: bool) -> Loader:
    from lmaunet.cpu.operators import cached_library
    from lmaunet.export.reference import open_session

    library = cached_library() if operators else None

    def load(path: Path, feeds: Feeds, threads: int) -> Runner:
        session = open_session(path, optimize=True, operators=library)
        return lambda: session.run(None, feeds)

    return load


def import_openvino(precision: str) -> Loader:
    from lmaunet.cpu.openvino_runtime import compile_model, require

    require()

    def load(path: Path, feeds: Feeds, threads: int) -> Runner:
        compiled = compile_model(path, precision=precision, threads=threads)
        return lambda: compiled(feeds)

    return load


def import_torch(compiled: bool) -> Loader:
    import torch

    from lmaunet.net import mamba
    from lmaunet.net.checkpoint import load_checkpoint, restore

    if compiled:
        # torch.compile cannot trace numba's code: it takes what is between the scans
        mamba.selective_scan = torch.compiler.disable(mamba.selective_scan)

    def load(path: Path, feeds: Feeds, threads: int) -> Runner:
        torch.set_num_threads(threads)
        model = restore(load_checkpoint(path), path).eval()
        run = torch.compile(model) if compiled else model
        (image,) = (torch.from_numpy(array) for array in feeds.values())

        def once() -> object:
            with torch.no_grad():
                return run(image)

        if compiled:
            # compiling happens in the first run, and is what loading is to the others
            once()
        return once

    return load


OPENERS: dict[str, Callable[[], Loader]] = {
    "onnxruntime": lambda: import_onnxruntime(operators=False),
    "onnxruntime operators": lambda: import_onnxruntime(operators=True),
    "openvino f32": lambda: import_openvino("f32"),
    "openvino bf16": lambda: import_openvino("bf16"),
    "torch": lambda: import_torch(compiled=False),
    "torch.compile": lambda: import_torch(compiled=True),
}


def resident_mb() -> float:
    """Return this process's resident set in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def reset_peak() -> None:
    """Make the largest resident set so far that of now, where Linux lets us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Return the largest resident set since :func:`reset_peak` in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def timed(run: Runner) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def serve(opener: str, path: Path, inputs: Path, threads: int, answer: Callable[..., None]) -> None:
    with np.load(inputs) as archive:
        feeds = {name: archive[name] for name in archive.files}
    load = OPENERS[opener]()
    reset_peak()
    before = resident_mb()
    start = time.perf_counter()
    run = load(path, feeds, threads)
    load_ms = 1e3 * (time.perf_counter() - start)
    first_ms = timed(run)
    run()
    answer(load_ms=load_ms, first_ms=first_ms, peak_mb=peak_mb() - before)
    for line in sys.stdin:
        answer(times_ms=[timed(run) for _ in range(int(line))])


def main() -> None:
    # what libraries print must not mix with the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # where memory runs out, it is this process that the kernel ends
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")

    def answer(**content: object) -> None:
        print(json.dumps(content), file=answers, flush=True)

    opener, path, inputs, threads = sys.argv[1:]
    try:
        serve(opener, Path(path), Path(inputs), int(threads), answer)
    except Exception as error:
        traceback.print_exc()
        message = (str(error).strip().splitlines() or [""])[0]
        answer(failed=f"{type(error).__name__}: {message}")


if __name__ == "__main__":
    main()
