"""A folder of studies: throughput by workers, and the client's memory by the number of studies.

    python benchmarks/archive.py

Copies of one image (the synthetic abdomen in 64 slices of 512x512, or ``--image``) are segmented
with one build (``edge`` with random weights, or ``--build``) by one process and by more, in turns,
then by a Dask cluster of as many local workers where ``distributed`` is installed; masks must be
those of one process, byte for byte. For memory, empty files stand for studies and nothing is
computed: what is measured is what the client holds of them, in a process of its own for each count.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from accuracy import neutral
from infer_volume import build_untrained, write_volume

from lmaunet.artifacts import Measurement
from lmaunet.deploy.archive import segment_archive
from lmaunet.deploy.console import run_command, table
from lmaunet.deploy.infer_command import ArchiveOptions, InferOptions
from lmaunet.deploy.machine import memory_mb
from lmaunet.deploy.studies import Study, find_studies, write_record
from lmaunet.deploy.study_workers import Task, segment_all
from lmaunet.deploy.timing import conditions
from lmaunet.errors import Disagreement, UserError
from lmaunet.stage import read_json, tool_versions, write_json

COUNTS = (1_000, 10_000, 100_000)
IN_A_FOLDER = 100
SPACING_MM = 0.8


def throughput(arguments: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
    """Return the time of all studies for each number of workers, in turns."""
    archive = place / "archive"
    build = arguments.build or build_untrained("edge", place / "edge")
    image = arguments.image or write_volume(place / "volume.nii.gz", SPACING_MM)
    for index in range(arguments.studies):
        folder = archive / f"study{index:03}"
        folder.mkdir(parents=True)
        shutil.copyfile(image, folder / image.name)
    counts = sorted({1, *arguments.workers})
    times: dict[str, list[float]] = {}
    masks: dict[str, dict[str, bytes]] = {}
    for turn in range(arguments.turns):
        for count in counts:
            several = ArchiveOptions(workers=count)
            timed(f"{count}", several, build, archive, place / f"m{turn}-{count}", times,
                  masks)  # fmt: skip
        with dask_cluster(counts[-1]) as address:
            if address:
                several = ArchiveOptions(scheduler=address)
                timed(f"Dask, {counts[-1]}", several, build, archive,
                      place / f"m{turn}-dask", times, masks)  # fmt: skip
    if any(found != masks["1"] for found in masks.values()):
        raise Disagreement("masks of several workers differ from those of one")
    return [
        {"workers": name, "studies": arguments.studies, "seconds": [round(v, 2) for v in values],
         "a_minute": round(60 * arguments.studies / statistics.median(values), 1)}
        for name, values in times.items()
    ]  # fmt: skip


def timed(
    name: str, several: ArchiveOptions, build: Path, archive: Path, masks: Path,
    times: dict[str, list[float]], found: dict[str, dict[str, bytes]],
) -> None:  # fmt: skip
    """Segment the archive once and note the time and the masks."""
    began = time.perf_counter()
    content, lines, status = segment_archive(
        build, [archive], masks, InferOptions(), several, lambda share, line: None
    )
    if status:
        raise Disagreement("\n".join(lines))
    times.setdefault(name, []).append(time.perf_counter() - began)
    found[name] = {p.relative_to(masks).as_posix(): p.read_bytes() for p in masks.rglob("*.nii.gz")}
    print(name, f"{times[name][-1]:.1f} s", content["workers"], flush=True)


@contextlib.contextmanager
def dask_cluster(workers: int) -> Iterator[str]:
    """Yield the address of a cluster of local workers of a thread each, empty without Dask."""
    try:
        from distributed import LocalCluster
    except ImportError:
        yield ""
        return
    with LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as cluster:
        yield str(cluster.scheduler_address)


class Nothing:
    """Workers that compute nothing and are done at once."""

    workers = 2

    def submit(self, study: Study, task: Task) -> Future[dict[str, Any]]:
        """Note the study as done."""
        write_record(study, task.masks, {"key": task.key, "status": "done"})
        future: Future[dict[str, Any]] = Future()
        future.set_result({"status": "done"})
        return future


def client(count: int) -> None:
    """Print the client's peak memory before and after ``count`` studies, in MB."""
    with tempfile.TemporaryDirectory() as name:
        archive, masks = Path(name) / "a", Path(name) / "m"
        for index in range(count):
            folder = archive / f"{index // IN_A_FOLDER:05}"
            if index % IN_A_FOLDER == 0:
                folder.mkdir(parents=True)
            (folder / f"{index:07}.nii.gz").touch()
        task = Task(Path("b"), "", masks, ".nii.gz", InferOptions(), "k")
        seen = [0]

        def said(study: Study | None, status: str) -> None:
            seen[0] += 1

        before = peak_mb()
        workers: Any = Nothing()
        segment_all(find_studies(archive, 1), task, workers, said)
        after = peak_mb()
    if seen[0] != count:
        raise Disagreement(f"{seen[0]} of {count} studies were done")
    print(before, after)


def peak_mb() -> float:
    """Return this process's peak memory in MB; getrusage's is its parent's where that is larger."""
    found = memory_mb("peak", peak=True)
    if not isinstance(found, Measurement):
        raise UserError(f"{found.why}; the client's memory can't be measured here")
    return found.value


def memory() -> list[dict[str, Any]]:
    """Return the client's memory for each count."""
    rows = []
    for count in COUNTS:
        out = subprocess.run(
            [sys.executable, __file__, "--client", str(count)], capture_output=True, text=True,
            check=True,
        ).stdout.split()  # fmt: skip
        rows.append({"studies": count, "before_mb": round(float(out[0]), 1),
                     "peak_mb": round(float(out[1]), 1)})  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main(arguments: argparse.Namespace) -> int:
    """Measure both and write the result."""
    if arguments.client:
        client(arguments.client)
        return 0
    if arguments.only_memory:
        known = read_json(arguments.output)
        again = {"command": neutral("benchmarks/archive.py", sys.argv), "rows": memory()}
        write_json(arguments.output, {**known, "memory": again})
        return 0
    before = conditions()
    with tempfile.TemporaryDirectory() as name:
        rows = throughput(arguments, Path(name))
    result = {
        "command": neutral("benchmarks/archive.py", sys.argv),
        "date": datetime.date.today().isoformat(), "conditions": before,
        "load_after": round(os.getloadavg()[0], 2), "tools": tool_versions(),
        "build": "given" if arguments.build else "edge, random weights, ort",
        "image": "given" if arguments.image else "synthetic abdomen, 64 slices of 512x512, int16",
        "throughput": rows,
        "memory": {"command": neutral("benchmarks/archive.py", sys.argv), "rows": memory()},
    }  # fmt: skip
    write_json(arguments.output, result)
    cells = [[r["workers"], str(r["studies"]), f"{r['a_minute']:g}"] for r in rows]
    print("\n".join(table(["workers", "studies", "a minute"], cells)))
    return 0


def parse() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--build", type=Path, help="in place of edge with random weights")
    add("--image", type=Path, help="in place of the synthetic abdomen")
    add("--studies", type=int, default=12)
    add("--turns", type=int, default=3)
    add("--workers", type=int, nargs="*", default=[len(os.sched_getaffinity(0))])
    add("--only-memory", action="store_true", help="measure that again, and keep the rest")
    add("--client", type=int, help=argparse.SUPPRESS)
    add("-o", "--output", type=Path, default=Path("results/archive.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(parse())))
