"""Processes that segment studies: of this machine, or of a Dask cluster.

Both are executors of :mod:`concurrent.futures`. A process that dies takes no study with it: on this
machine those that were under way are done again one at a time, and one that ends its process when
it is alone is given up; a Dask scheduler gives them to other workers, and gives one up that has
ended several.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.machine import available_bytes
from lmaunet.deploy.studies import DONE, FAILED, Study, write_failure, write_record
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.packages import missing_packages_named

if TYPE_CHECKING:
    from lmaunet.deploy.infer_command import InferOptions

WAITING = 2
"""Studies that wait for each worker: none idles, and few are held."""
CONNECT_S = 15
BEAT_S = 1.0
BYTES_EACH = 2 * 10**9
_one_at_a_time = threading.Lock()
"""A Dask worker may have several threads; a build is not held to computing in two at once."""


@dataclass(frozen=True)
class Task:
    """What a worker is given beside the study: the build, where masks go, and how."""

    build: Path
    sha256: str
    masks: Path
    suffix: str
    options: InferOptions
    key: str


def segment_study(study: Study, task: Task) -> dict[str, Any]:
    """Segment a study in this process and write its record; return the record.

    What is wrong with the study, or a fault of this program's that it meets, is in the record.
    """
    began = time.perf_counter()
    try:
        with _one_at_a_time:
            found = _segmented(study, task)
    except (UserError, ToolNotFound) as error:
        why = str(error)
    except Exception as error:  # one study must not stop thousands
        why = f"unexpected {type(error).__name__}: {error}"
    else:
        record = {"key": task.key, **found, "seconds": round(time.perf_counter() - began, 3)}
        write_record(study, task.masks, record)
        return record
    seconds = round(time.perf_counter() - began, 3)
    return write_failure(study, task.masks, task.suffix, task.key, why, seconds)


def _segmented(study: Study, task: Task) -> dict[str, Any]:
    from lmaunet.deploy.inferring import infer

    if study.fault:
        raise UserError(study.fault)
    before = study.state()
    opened = _opened(task.build, task.sha256)
    mask = study.mask(task.masks, task.suffix)
    mask.parent.mkdir(parents=True, exist_ok=True)
    found, _ = infer(
        task.build, study.images, mask, say=lambda share, line: None, opened=opened,
        **vars(task.options),
    )  # fmt: skip
    if study.state() != before:
        raise UserError("its files changed while it was segmented; run it again")
    kept = ("kernel", "geometry", "intensity", "slices", "classes", "times_ms", "notes")
    return {
        "status": DONE, "files": before, "mask": mask.name, "mask_bytes": mask.stat().st_size,
        **{name: found[name] for name in kept},
    }  # fmt: skip


@functools.lru_cache(maxsize=1)
def _opened(build: Path, sha256: str) -> Any:
    """Return a build, opened once in each process; raises UserError where it is another one."""
    from lmaunet.deploy.segmenter import load

    opened = load(build)
    if opened.digests["shipped"] != sha256:
        raise UserError(
            f"{build} has another build here than where the work was given out; let all machines "
            "see the same folder"
        )
    return opened


def default_workers() -> int:
    """Return how many processes fit this machine: one for each core and 2 GB of free memory."""
    cores, free = len(os.sched_getaffinity(0)), available_bytes()
    return 1 if free is None else max(1, min(cores, free // BYTES_EACH))


def _pin(started: Any, workers: int) -> None:
    """Keep a process to its share of the cores, so that the libraries start no more threads."""
    with started.get_lock():
        index = started.value
        started.value += 1
    cores = sorted(os.sched_getaffinity(0))
    mine = cores[index % workers :: workers] or cores[index % len(cores) :][:1]
    os.sched_setaffinity(0, mine)


class LocalWorkers:
    """Processes of this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, study: Study, task: Task) -> Future[dict[str, Any]]:
        """Give a study to a process."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.workers, context, _pin, (context.Value("i", 0), self.workers)
            )
        return self._pool.submit(segment_study, study, task)

    def lost(self, error: BaseException) -> bool:
        """Tell whether a study failed because a process died; there is a new one then."""
        if not isinstance(error, BrokenProcessPool):
            return False
        self.close()
        return True

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class DaskWorkers:
    """The workers of a Dask cluster, by the address of its scheduler.

    Raises:
        UserError: where nothing answers there.
        ToolNotFound: where Dask is not installed.
    """

    @missing_packages_named()
    def __init__(self, address: str) -> None:
        from distributed import Client

        # a scheduler that is gone is said in one line here, and there as a traceback
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"--scheduler {address} does not answer ({error}); give the address that "
                "dask scheduler prints, such as tcp://HOST:8786"
            ) from error
        self._executor: Executor = self._client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        """How many studies are done at a time now: the threads of all workers, one at least."""
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, study: Study, task: Task) -> Future[dict[str, Any]]:
        """Give a study to the cluster."""
        return self._executor.submit(segment_study, study, task)

    def lost(self, error: BaseException) -> bool:
        """False: the scheduler itself gives the study of a worker that died to another one."""
        return False

    def close(self) -> None:
        """Leave the cluster; what it was given and has not begun is taken back."""
        self._executor.shutdown(wait=False)
        self._client.close()


Workers = LocalWorkers | DaskWorkers


@contextlib.contextmanager
def workers_of(scheduler: str, workers: int | None) -> Iterator[Workers]:
    """Yield the workers that were asked for, and end them."""
    found = DaskWorkers(scheduler) if scheduler else LocalWorkers(workers or default_workers())
    try:
        yield found
    finally:
        found.close()


def segment_all(
    studies: Iterator[Study],
    task: Task,
    workers: Workers,
    said: Callable[[Study | None, str], None],
) -> None:
    """Have studies segmented, a few in flight for each worker, and say how each ended.

    Args:
        studies: taken as workers become free.
        task: see :class:`Task`.
        workers: of this machine or a cluster.
        said: called with each study and its status, and with None each second that nothing ends.

    Raises:
        UserError: where the cluster's scheduler is gone.
    """
    flying: dict[Future[dict[str, Any]], Study] = {}
    alone: list[Study] = []
    while True:
        while len(flying) < WAITING * workers.workers and not alone:
            study = next(studies, None)
            if study is None:
                break
            flying[workers.submit(study, task)] = study
        if not flying and not alone:
            return
        if flying:
            alone += _landed(flying, workers, task, said)
            continue
        while alone:
            _by_itself(alone.pop(0), task, workers, said)


def _landed(
    flying: dict[Future[dict[str, Any]], Study], workers: Workers, task: Task,
    said: Callable[[Study | None, str], None],
) -> Sequence[Study]:  # fmt: skip
    """Take what has ended; return the studies that were under way in processes that died."""
    again = []
    ended = _ended(flying)
    if not ended:
        said(None, "")
    for future in ended:
        study = flying.pop(future)
        error = _error_of(future)
        if error is None:
            said(study, future.result()["status"])
        elif workers.lost(error):
            again.append(study)
        else:
            _give_up(study, task, error, said)
    return again


def _ended(futures: Iterable[Future[Any]]) -> set[Future[Any]]:
    """Return what has ended, after a second at most.

    A future that was cancelled and whose executor never said so is one that ``wait`` waits for.
    """
    ended = wait(futures, timeout=BEAT_S, return_when=FIRST_COMPLETED).done
    return ended or {future for future in futures if future.cancelled()}


def _by_itself(
    study: Study, task: Task, workers: Workers, said: Callable[[Study | None, str], None]
) -> None:
    future = workers.submit(study, task)
    while not _ended([future]):
        said(None, "")
    error = _error_of(future)
    if error is None:
        said(study, future.result()["status"])
        return
    workers.lost(error)
    _give_up(study, task, error, said)


def _error_of(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        raise UserError(
            "the cluster took the work back, its scheduler may be gone; what is done is kept: run "
            "the same command again"
        ) from error


def _give_up(
    study: Study, task: Task, error: BaseException, said: Callable[[Study | None, str], None]
) -> None:
    text = f"{type(error).__name__}: {error}".strip(": ")
    why = f"its worker process ended or failed, is there too little memory? ({text})"
    write_failure(study, task.masks, task.suffix, task.key, why)
    said(study, FAILED)
