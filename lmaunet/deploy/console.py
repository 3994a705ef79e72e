"""What the commands show: progress on standard error, results on standard output, exit status."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmaunet.errors import Disagreement, UserError
from lmaunet.packages import missing_package

INTERRUPTED = 130
BAD_USAGE = 2
FAULT = 1
LINE_SECONDS = 15.0
_interrupted = _quiet = _verbose = False
# what a file system may answer to a path or a disk of the user's, and never to a fault of ours
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_USE = (
    errno.EACCES, errno.EROFS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR,
    errno.ELOOP, errno.EIO,
)  # fmt: skip


def first_process() -> bool:
    """Whether this is the process that shows and writes things."""
    return os.environ.get("RANK", "0") == "0"


def choose_output(*, quiet: bool | None = None, verbose: bool | None = None) -> None:
    """Say how much the commands show beside their results; None leaves it as it is."""
    global _quiet, _verbose
    _quiet = _quiet if quiet is None else quiet
    _verbose = _verbose if verbose is None else verbose


def note(text: str) -> None:
    """Print what only ``--verbose`` shows, on standard error."""
    if _verbose and first_process():
        _tell(text)


def tell(text: str) -> None:
    """Print what ``--quiet`` leaves out, on standard error."""
    if not _quiet:
        _tell(text)


def warn(text: str) -> None:
    """Print what even ``--quiet`` shows, on standard error."""
    _tell(text)


def _tell(text: str) -> None:
    """Print a line on standard error; where nobody reads it any more, work goes on."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """Show a progress bar; yields ``report(fraction, line)``.

    On a terminal it is a bar with the time that has passed and is left, which moves by itself;
    elsewhere a line at once and every quarter of a minute. With ``--quiet`` there is none.
    """
    if _quiet or not first_process():
        yield lambda fraction, line: _stop_if_interrupted()
        return
    if not sys.stderr.isatty():
        yield from _lines(title)
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(), progress.TextColumn("{task.description}"),
        progress.BarColumn(24), progress.TaskProgressColumn(), progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=1.0)

        def show_bar(fraction: float, line: str) -> None:
            _stop_if_interrupted()
            bar.update(task, completed=fraction, description=line)

        yield show_bar
        bar.update(task, completed=1.0)


def _lines(title: str) -> Iterator[Callable[[float, str], None]]:
    started, ended = time.monotonic(), threading.Event()
    now = (0.0, title)
    _tell(f"{title} ...")

    def report(fraction: float, line: str) -> None:
        nonlocal now
        _stop_if_interrupted()
        now = (fraction, line)

    def beat() -> None:
        # also while the work says nothing, such as in a compiler or while data are read
        while not ended.wait(LINE_SECONDS):
            fraction, line = now
            _tell(f"  {fraction:4.0%}  {line}  ({time.monotonic() - started:.0f} s)")

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield report
    finally:
        ended.set()
    _tell(f"{title}: {time.monotonic() - started:.1f} s")


def show(content: Any, lines: list[str], as_json: bool) -> None:
    """Print a result: JSON with ``--json``, else lines for a person.

    A reader that has seen enough (``| head``) changes nothing of the command's status.
    """
    if not first_process():
        return
    text = json.dumps(_finite(content), indent=2) if as_json else "\n".join(lines)
    try:
        print(text, flush=True)
    except OSError as error:
        _drop_output()
        if not isinstance(error, BrokenPipeError):
            raise UserError(
                f"the result cannot be printed ({error.strerror}); send standard output elsewhere"
            ) from error


def _finite(content: Any) -> Any:
    """Return content with null for NaN and infinities, which JSON does not have."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _drop_output() -> None:
    """Send what is still to be printed nowhere, so that Python's last flush does not fail too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())


def percent(share: float | None, decimals: int = 1) -> str:
    """Return a Dice as a percentage, or that there is none."""
    return "not scored" if share is None else f"{100 * share:.{decimals}f}"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return rows as aligned lines; columns that look like numbers are set right."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    right = [
        bool(rows) and all(r[i].replace(".", "").replace(",", "").isdigit() for r in rows)
        for i in range(len(header))
    ]

    def line(row: list[str]) -> str:
        cells = [
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return [line(header), "  ".join("-" * w for w in widths), *map(line, rows)]


def _note_interrupt(number: int, frame: Any) -> None:
    """Raise KeyboardInterrupt, and remember it.

    Python drops an exception that is raised in a destructor or in a library's callback: the next
    report of progress raises it again, so that no Ctrl-C is lost.
    """
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def _stop_if_interrupted() -> None:
    if _interrupted:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _noting_interrupts() -> Iterator[None]:
    global _interrupted
    _interrupted = False
    before = signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()
    if not main or before is not signal.default_int_handler:
        # where a shell ignores Ctrl-C for a background job, it stays so
        yield
        return
    signal.signal(signal.SIGINT, _note_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _interrupted = False


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit status; a user's error becomes one line, no traceback."""
    try:
        with _noting_interrupts():
            return command() or 0
    except KeyboardInterrupt:
        _complain("interrupted; finished stages are kept, the same command goes on")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return 0
    except Exception as error:
        found = explain(error)
        if found is None:
            found = _fault(error)
        message, status = found
        if _verbose:
            _tell(traceback.format_exc().rstrip())
        _complain(message)
        return status


def _complain(message: str) -> None:
    _tell(f"lmaunet-deploy: {message}")


def explain(error: Exception) -> tuple[str, int] | None:
    """Return the message and the status for what a user can mend; None for anything else."""
    if isinstance(error, UserError | Disagreement):
        return str(error), error.exit_status
    lacks = missing_package(error)
    if lacks is not None:
        return str(lacks), lacks.exit_status
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return (
            f"the path {error.object!r} holds bytes that are no UTF-8; rename it, or the folder "
            "that it is in",
            BAD_USAGE,
        )
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return f"{error.strerror}; set TMPDIR to a folder that can be written", BAD_USAGE
    if isinstance(error, OSError):
        return _explain_files(error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return (
            f"out of memory ({(str(error).splitlines() or [''])[0]}); finished stages are kept. "
            "Give a smaller --batch-size (of infer: --batch), --input-size or spec",
            BAD_USAGE,
        )
    return None


def _explain_files(error: OSError) -> tuple[str, int] | None:
    if error.errno not in (*NO_SPACE, *NO_USE):
        return None
    where = f" ({error.filename})" if error.filename else ""
    move = (
        "Free some space or choose another --run folder, then give the same command again"
        if error.errno in (*NO_SPACE, errno.EACCES, errno.EROFS, errno.EPERM)
        else "Give a path that can be used so"
    )
    return f"{error.strerror}{where}; finished stages are kept. {move}", BAD_USAGE


def _fault(error: Exception) -> tuple[str, int]:
    """Return the message on a fault of ours, with the place in our own code that it came through.

    It is never passed off as the user's.
    """
    places = [
        f"{Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
    ]
    text = (str(error).splitlines() or [""])[0]
    named = f"{type(error).__name__}{': ' if text else ''}{text}"
    return (
        f"a fault in lmaunet-deploy itself: {named} (at {places[-1] if places else 'unknown'}); "
        "finished stages are kept. Give the command again with -v for the whole traceback, and "
        "report it",
        FAULT,
    )
