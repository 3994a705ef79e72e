"""Test runs in forked processes: everything foreign is imported once, the project in each anew.

``import torch`` and its like take four seconds, a test of a mutant often less than one. So one
process imports what does not belong to the project, and every run is a fork of it, in a copy of
the tree that is its own: also what the tests start as a process of its own sees the mutant.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PRELOADED = (
    "pytest", "hypothesis", "numpy", "scipy.ndimage", "torch", "torch.export", "torch.onnx",
    "numba", "onnx", "onnx_ir", "onnxruntime", "brevitas.nn", "brevitas.quant", "qonnx",
    "qonnx.core.modelwrapper", "qonnx.transformation.infer_shapes", "monai.metrics",
    "monai.losses", "monai.inferers", "SimpleITK", "h5py", "nibabel", "pydicom", "typer", "rich",
    "rich.progress", "jinja2", "highspy", "matplotlib", "coverage",
)  # fmt: skip
"""What is imported before the first fork, as far as it is installed; none of it is ours."""

HUNG = "hung"

WAITING = 20.0
"""A run may last so many times its limit of CPU seconds, because others use the cores too."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: pytest's exit status, a signal's negative number, or :data:`HUNG`."""

    status: int | str
    seconds: float
    output: str


def preload(names: tuple[str, ...] = PRELOADED) -> None:
    """Import what is installed of the packages that tests import."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def copy_tree(root: Path, place: Path) -> None:
    """Copy what git knows or does not ignore, with its times, so that caches stay valid."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        source, target = root / name, place / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != source.read_bytes():
                shutil.copy2(source, target)
    for package, folder in package_folders(place).items():
        link = place / package.replace(".", "/")
        if not link.exists():
            link.symlink_to(place / folder, target_is_directory=True)


def package_folders(root: Path) -> dict[str, str]:
    """Return the folders of packages that stand elsewhere than their names say.

    The interpreter that runs the tests finds them where the checkout is that was installed; a copy
    of the tree needs its own in the packages' places.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    return dict(project.get("tool", {}).get("setuptools", {}).get("package-dir", {}))


def end_with_this_process(number: int, frame: object) -> None:
    """Handle SIGTERM as an interrupt, so that the runs that go on are ended too."""
    raise KeyboardInterrupt


@dataclass
class Run:
    """One run that goes on: its process, which leads a group, and how long it may."""

    pid: int
    started: float
    limit_s: float
    log: Path

    def stop(self) -> None:
        """End it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self) -> Ended | None:
        """Return how it ended, and end it where it takes too long; None while it goes on."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.started
        if pid == 0 and seconds < WAITING * self.limit_s:
            return None
        self.stop()
        if pid == 0:
            os.waitpid(self.pid, 0)
        code: int | str = HUNG if pid == 0 else os.waitstatus_to_exitcode(status)
        code = HUNG if code == -signal.SIGXCPU else code
        return Ended(code, seconds, self.log.read_text("utf-8", errors="replace"))


def start(tree: Path, ours: frozenset[str], work: Callable[[], int], limit_s: float) -> Run:
    """Fork a process that calls ``work`` in a tree, with none of our packages imported yet.

    Args:
        tree: the working folder of the process, and the first place where it finds modules.
        ours: the top-level packages that are imported anew.
        work: returns the exit status.
        limit_s: CPU seconds that the process may take, and each that it starts.
    """
    log = tree.with_name(f"{tree.name}.log")
    started = time.monotonic()
    pid = os.fork()
    if pid:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        return Run(pid, started, limit_s, log)
    status = 70
    # what is there from before is nobody's garbage: pytest collects several times in each run, and
    # to look at all of it, page by page, would take longer than a short run
    gc.freeze()
    try:
        with contextlib.suppress(PermissionError):
            os.setpgid(0, 0)
        limit = int(limit_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(tree)
        for name in [n for n in sys.modules if n.partition(".")[0] in ours]:
            del sys.modules[name]
        sys.path[:] = [str(tree), *filter(_is_foreign, sys.path)]
        os.environ["PYTHONPATH"] = str(tree)
        importlib.invalidate_caches()
        status = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(status))
    raise AssertionError("never reached")


def _is_foreign(folder: str) -> bool:
    """Tell whether a folder of ``sys.path`` is the interpreter's, not a checkout's."""
    parts = Path(folder).parts
    return any(p in ("site-packages", "dist-packages") or p.startswith("python3") for p in parts)


def write_no_bytecode() -> None:
    """Keep this process and those that it starts from leaving a mutant's bytecode behind."""
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


@contextlib.contextmanager
def mutated(tree: Path, path: str, code: str) -> Iterator[None]:
    """Put another source in the place of a file, and the old one back with its times."""
    file = tree / path
    before, times = file.read_bytes(), file.stat()
    try:
        file.write_text(code, "utf-8")
        yield
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def pytest_arguments(tree: Path, tests: list[str]) -> list[str]:
    """Return how pytest is called: quietly, the same numbers each time, nothing kept."""
    return [
        "-q", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=0", "--no-header",
        f"--basetemp={tree.with_name(f'{tree.name}.tmp')}", *tests,
    ]  # fmt: skip
