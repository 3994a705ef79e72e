"""Put a finished folder in the place of an old one, so that a kill at any time loses neither.

Its files are on the disk before it is renamed, so that a power loss does not lose them either.

Linux exchanges two folders in one step (``renameat2``). Where the system or its file system cannot,
the old folder is set aside first; between the two renames nothing stands in the place, and
:func:`recover` puts it right at the next start.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2
# EPERM: a container's filter of system calls may know no better answer to a new one
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def swap(new: Path, place: Path) -> None:
    """Move a folder into a place and remove the folder that was there.

    Args:
        new: the finished folder; beside ``place``.
        place: where it belongs.
    """
    old = _aside(place)
    if old.exists():
        shutil.rmtree(old)
    settle(new)
    if not place.exists():
        new.rename(place)
        return
    if exchange(new, place):
        shutil.rmtree(new, ignore_errors=True)
        return
    place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def settle(folder: Path) -> None:
    """Wait until all of a folder is on its disk.

    Raises:
        OSError: where it cannot be written there, such as on a disk of the network that is full.
    """
    for path in [*folder.rglob("*"), folder]:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in UNSUPPORTED:  # some file systems know no such wait for a folder
                raise
        finally:
            os.close(handle)


def recover(place: Path, new: Path | None) -> None:
    """Finish a :func:`swap` that was killed between its two renames; else do nothing.

    Args:
        place: where a folder belongs.
        new: the finished folder; None where there is none, and the old one goes back.
    """
    old = _aside(place)
    if old.exists() and not place.exists():
        (new or old).rename(place)


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; returns False where the system cannot, and does nothing.

    Raises:
        OSError: where it can but must not, such as in a folder that is read-only.
    """
    call = _renameat2()
    if call is None:
        return False
    sys.audit("os.rename", os.fspath(one), os.fspath(other), -1, -1)
    if not call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """Return the C library's ``renameat2``; None where there is none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return call
