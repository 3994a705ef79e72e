"""What the commands show: progress on standard error, results on standard output, exit status."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from lmaunet.errors import Disagreement, UserError

INTERRUPTED = 130
BAD_USAGE = 2
LINE_SECONDS = 15.0
_interrupted = False
# what a file system may answer to a path or a disk of the user's, and never to a fault of ours
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_USE = (
    errno.EACCES, errno.EROFS, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR,
    errno.ELOOP, errno.EIO,
)  # fmt: skip


def first_process() -> bool:
    """Whether this is the process that shows and writes things."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """Show a progress bar; yields ``report(fraction, line)``.

    On a terminal it is a bar with the time left; elsewhere a line every quarter of a minute.
    """
    if not first_process():
        yield lambda fraction, line: _stop_if_interrupted()
        return
    if not sys.stderr.isatty():
        yield from _lines(title)
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(24),
        progress.TaskProgressColumn(), progress.TimeRemainingColumn(),
    )  # fmt: skip
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=1.0)

        def show_bar(fraction: float, line: str) -> None:
            _stop_if_interrupted()
            bar.update(task, completed=fraction, description=line)

        yield show_bar
        bar.update(task, completed=1.0)


def _lines(title: str) -> Iterator[Callable[[float, str], None]]:
    started = last = time.monotonic()
    print(f"{title} ...", file=sys.stderr, flush=True)

    def report(fraction: float, line: str) -> None:
        nonlocal last
        _stop_if_interrupted()
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            print(f"  {fraction:4.0%}  {line}", file=sys.stderr, flush=True)

    yield report
    print(f"{title}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def show(content: Any, lines: list[str], as_json: bool) -> None:
    """Print a result: JSON with ``--json``, else lines for a person."""
    if not first_process():
        return
    print(json.dumps(content, indent=2) if as_json else "\n".join(lines), flush=True)


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
    except (UserError, Disagreement) as error:
        print(f"lmaunet-deploy: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(
            "lmaunet-deploy: interrupted; finished stages are kept, the same command goes on",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in (*NO_SPACE, *NO_USE):
            raise
        where = f" ({error.filename})" if error.filename else ""
        move = (
            "Free some space or choose another --run folder, then give the same command again"
            if error.errno in (*NO_SPACE, errno.EACCES, errno.EROFS, errno.EPERM)
            else "Give a path that can be used so"
        )
        print(
            f"lmaunet-deploy: {error.strerror}{where}; finished stages are kept. {move}",
            file=sys.stderr,
        )
        return BAD_USAGE
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        print(
            f"lmaunet-deploy: out of memory ({str(error).splitlines()[0]}); finished stages are "
            "kept. Give a smaller --batch-size (of infer: --batch), --input-size or spec",
            file=sys.stderr,
        )
        return BAD_USAGE
