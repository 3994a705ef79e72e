"""Times of one image on this CPU, with what they depend on, and how far they can be trusted."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

WARM_UP_RUNS, BLOCKS, BLOCK_RUNS = 5, 6, 5
SPREAD = 1.2
"""The largest ratio of the 90th percentile to the minimum that a quiet machine shows."""


def time_turns(works: Mapping[str, Callable[[], object]]) -> dict[str, dict[str, Any]]:
    """Return the times of several works, in milliseconds, each as :func:`summary` has them.

    They take turns in blocks of runs, so that other work on the machine slows all alike; the first
    run of a block, which finds the other's data in the caches, does not count.
    """
    for work in works.values():
        for _ in range(WARM_UP_RUNS):
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(BLOCKS):
        for name, work in works.items():
            work()
            for _ in range(BLOCK_RUNS):
                started = time.perf_counter()
                work()
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: summary(found) for name, found in times.items()}


def summary(times_ms: Sequence[float]) -> dict[str, Any]:
    """Return the minimum, median and 90th percentile of some times, and their spread."""
    p90 = statistics.quantiles(times_ms, n=10)[-1]
    return {
        "min_ms": min(times_ms),
        "median_ms": statistics.median(times_ms),
        "p90_ms": p90,
        "runs": len(times_ms),
        **spread(min(times_ms), p90),
    }


def spread(min_ms: float, p90_ms: float) -> dict[str, Any]:
    """Return how many times the minimum the 90th percentile is, and whether that is too much."""
    ratio = p90_ms / min_ms
    return {"spread": ratio, "unsteady": ratio > SPREAD}


def conditions() -> dict[str, Any]:
    """Return what a time on this CPU depends on: processor, threads, and the load beside it.

    ``load_average`` is that of the last minute, which includes this program.
    """
    return {
        "cpu": cpu_model(),
        "threads": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
    }


def cpu_model() -> str:
    """Return the CPU's name as the system gives it."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def beside_float32(
    own: Mapping[str, Any], float32: Mapping[str, Any], own_mb: float, float32_mb: float, form: str
) -> dict[str, Any]:
    """Return how the FP32 network compares that was timed in the same turns.

    Args:
        own, float32: what :func:`time_turns` returned of both.
        own_mb, float32_mb: what ships of both, in MB.
        form: what computes the FP32 network, in words.
    """
    return {
        **{key: float32[key] for key in ("min_ms", "median_ms", "p90_ms", "runs", "spread")},
        "unsteady": float32["unsteady"],
        "size_mb": float32_mb,
        "form": form,
        "speed_up": float32["median_ms"] / own["median_ms"],
        "compression": float32_mb / own_mb,
    }
