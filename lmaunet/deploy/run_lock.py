"""One command at a time works on a run: a lock of the operating system's on ``RUN/.lock``.

A command that is killed holds it no longer. Beside it ``RUN/.in-use.json`` says who holds it, for
the message to the second one.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from lmaunet.errors import UserError
from lmaunet.stage import read_json, recover_run, write_json
from lmaunet.train.processes import process_rank

LOCK, HOLDER = ".lock", ".in-use.json"
_held: set[Path] = set()
# what a file system answers that knows no locks
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def in_use(run: Path, option: str = "--run") -> Iterator[None]:
    """Keep other commands from a run while the block runs; commands within it may enter again.

    Of several processes of one ``torchrun`` the first holds the lock for all. A stage whose place
    a killed command left empty is put back first.

    Args:
        run: the run's folder, or another that a command writes into.
        option: the one that names another folder, for messages.

    Raises:
        UserError: where another command holds it, or the folder cannot be written.
    """
    place = run.absolute()
    if process_rank() != 0 or place in _held:
        yield
        return
    with contextlib.ExitStack() as stack:
        _make(run, stack)
        _lock(run, option, stack)
        _held.add(place)
        stack.callback(_held.discard, place)
        recover_run(run)
        yield


def in_use_if_there(run: Path) -> contextlib.AbstractContextManager[None]:
    """Return :func:`in_use` for a run that exists; one that does not is locked when it is made.

    What is refused before then leaves nothing behind, not in the folder of the data either.
    """
    return in_use(run) if run.is_dir() else contextlib.nullcontext()


def _make(run: Path, stack: contextlib.ExitStack) -> None:
    """Make the run's folder; one that nothing was put into is removed again."""
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)

    def remove() -> None:
        with contextlib.suppress(OSError):
            if {p.name for p in run.iterdir()} <= {LOCK}:
                (run / LOCK).unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()  # only where it is empty

    stack.callback(remove)


def _lock(run: Path, option: str, stack: contextlib.ExitStack) -> None:
    from filelock import FileLock, Timeout

    try:
        stack.enter_context(FileLock(str(run / LOCK), timeout=0))
    except Timeout as error:
        raise UserError(_holder(run, option)) from error
    except (OSError, NotImplementedError) as error:
        number = getattr(error, "errno", errno.ENOSYS)
        if number not in NO_LOCKS:
            raise UserError(
                f"{run} cannot be written ({os.strerror(number) if number else error}); give "
                f"another {option}"
            ) from error
        print(
            f"lmaunet-deploy: the file system of {run} knows no locks; start no second command on "
            "it while this one works",
            file=sys.stderr,
        )
        return
    note = {
        "process": os.getpid(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": os.uname().nodename,
    }
    # on a full disk the lock holds without it
    with contextlib.suppress(OSError):
        write_json(run / HOLDER, note)
    stack.callback((run / HOLDER).unlink, missing_ok=True)


def _holder(run: Path, option: str) -> str:
    """Return the message on a run that another command works on."""
    who = "another command"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = read_json(run / HOLDER)
        where = "" if note["machine"] == os.uname().nodename else f" on {note['machine']}"
        who = f"process {note['process']}{where} ({note['command']}) since {note['since']}"
    return f"{run} is in use by {who}; wait until it has ended, or name another {option}"
