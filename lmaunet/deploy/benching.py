"""Time and memory of a build on the device that it runs on: :func:`bench`, and the command over it.

The times are taken as ``measure`` takes them (:mod:`lmaunet.deploy.timing`), without the run, the
data and the FP32 network that it needs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmaunet.artifacts import Figure, Measurement, Unavailable
from lmaunet.deploy import timing
from lmaunet.deploy.console import table
from lmaunet.deploy.deployment import Deployment, open_build
from lmaunet.deploy.device import device
from lmaunet.deploy.figures import number_text
from lmaunet.deploy.machine import forget_peak, memory_mb, temperature_c
from lmaunet.deploy.targets import get_target
from lmaunet.packages import missing_packages_named
from lmaunet.stage import read_manifest

CONDITIONS = ("cpu", "gpu", "threads", "load_average")


@dataclass(frozen=True)
class Bench:
    """What a build takes of the device that it runs on, for one image of the network's size.

    Args:
        folder: the build's.
        target, network: what it was built for, and the network's name.
        sha256: of the file that ships.
        arithmetic: what was timed, in words.
        latency_ms: the median of the times of one image, logits out, after a warm-up.
        min_ms, p90_ms: the shortest, and the 90th percentile.
        runs: how many were timed.
        spread: the 90th percentile over the minimum; None where the target does not tell.
        unsteady: whether that is above 1.2: something else ran on the machine.
        conditions: ``cpu`` or ``gpu``, and on a CPU ``threads`` and ``load_average``, that of the
            last minute, which includes this program.
        first_call_ms: the first image of all, with the loading of the file.
        size_mb: all that goes to the device.
        memory_mb: of this process, before the build was loaded.
        peak_memory_mb: the most that it held from then on.
        temperature_before_c, temperature_after_c: of the processor's hottest sensor.
        files: the SHA-256 of each of the build's files, by name.
        device: the machine, as :func:`lmaunet.deploy.device.device` has it.
    """

    folder: Path
    target: str
    network: str
    sha256: str
    arithmetic: str
    latency_ms: Measurement
    min_ms: float | None
    p90_ms: float
    runs: int
    spread: float | None
    unsteady: bool
    conditions: Mapping[str, Any]
    first_call_ms: Figure
    size_mb: Measurement
    memory_mb: Figure
    peak_memory_mb: Figure
    temperature_before_c: Figure
    temperature_after_c: Figure
    files: Mapping[str, str]
    device: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; ``latency`` has the keys that the report's ``detail`` has."""
        return {
            "build": {
                "folder": str(self.folder), "target": self.target, "network": self.network,
                "sha256": self.sha256, "arithmetic": self.arithmetic,
            },
            "latency_ms": self.latency_ms.to_json(),
            "latency": {
                "min_ms": self.min_ms, "median_ms": self.latency_ms.value, "p90_ms": self.p90_ms,
                "runs": self.runs, "spread": self.spread, "unsteady": self.unsteady,
                **self.conditions,
            },
            "first_call_ms": self.first_call_ms.to_json(),
            "size_mb": self.size_mb.to_json(),
            "memory_mb": self.memory_mb.to_json(),
            "peak_memory_mb": self.peak_memory_mb.to_json(),
            "temperature_before_c": self.temperature_before_c.to_json(),
            "temperature_after_c": self.temperature_after_c.to_json(),
            "files": dict(self.files),
            "device": dict(self.device),
        }  # fmt: skip


@missing_packages_named()
def bench(folder: str | os.PathLike[str]) -> Bench:
    """Measure what a build takes of this machine.

    Args:
        folder: the build's, as for :func:`lmaunet.load`. For an ort build the base installation is
            enough.

    Raises:
        UserError: where there is no build or it is damaged, or its device is not driven from here.
        ToolNotFound: where what runs it is not here, such as a GPU.

    >>> found = lmaunet.bench("build/ort")
    >>> found.latency_ms.unit, found.latency_ms.provenance, found.runs
    ('ms', 'measured', 30)
    >>> found.min_ms <= found.latency_ms.value <= found.p90_ms
    True
    """
    import numpy as np

    build, deployment = open_build(Path(folder))
    target = get_target(build.target)
    interface = deployment.interface
    shape = (1, interface.network.in_channels, *interface.network.input_size)
    # the values of a normalized image; what they are changes no time
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    before_c = temperature_c("temperature_before_c")
    before_mb = memory_mb("memory_mb", peak=False)
    if target.time is not None:
        times = target.time(build, image)
        elsewhere = Unavailable(
            "peak_memory_mb", "this process", "the device computes in a process of its own",
            "watch the device while it runs, such as with nvidia-smi",
        )  # fmt: skip
        first = times.get("first_run_ms")
        first_ms: Figure = (
            Unavailable("first_call_ms", build.target, "the target does not time it", "none")
            if first is None
            else Measurement("first_call_ms", first, "ms", "measured")
        )
        return _bench(build, deployment, times, first_ms, before_mb, elsewhere, before_c)
    forget_peak()
    started = time.perf_counter()
    target.run(build, image)
    first_ms = Measurement("first_call_ms", 1e3 * (time.perf_counter() - started), "ms", "measured")
    times = timing.time_turns({"own": lambda: target.run(build, image)})["own"]
    times |= timing.conditions()
    peak_mb = memory_mb("peak_memory_mb", peak=True)
    return _bench(build, deployment, times, first_ms, before_mb, peak_mb, before_c)


def _bench(
    build: Any, deployment: Deployment, times: Mapping[str, Any], first_ms: Figure,
    before_mb: Figure, peak_mb: Figure, before_c: Figure,
) -> Bench:  # fmt: skip
    return Bench(
        build.folder, build.target, deployment.interface.network.name,
        deployment.digests["shipped"], get_target(build.target).arithmetic(build),
        Measurement("latency_ms", times["median_ms"], "ms", "measured"), times.get("min_ms"),
        times["p90_ms"], times["runs"], times.get("spread"), times.get("unsteady", False),
        {key: times[key] for key in CONDITIONS if key in times}, first_ms,
        Measurement("size_mb", build.ships_mb(), "MB", "measured"), before_mb, peak_mb, before_c,
        temperature_c("temperature_after_c"), read_manifest(build.folder)["outputs"], device(),
    )  # fmt: skip


def lines(found: Bench) -> list[str]:
    """Return a bench as lines for a person, in the words of the report."""
    rows = [
        ["Latency", _ms(found.latency_ms.value) + (", unsteady" if found.unsteady else "")],
        ["Latency, minimum", "unavailable" if found.min_ms is None else _ms(found.min_ms)],
        ["Latency, 90th percentile", _ms(found.p90_ms)],
        ["First call, with loading", _shown(found.first_call_ms)],
        ["Size of all that ships", f"{number_text('size_mb', found.size_mb.value)} MB"],
        ["Memory before", _shown(found.memory_mb)],
        ["Memory, peak", _shown(found.peak_memory_mb)],
        ["Temperature before", _shown(found.temperature_before_c)],
        ["Temperature after", _shown(found.temperature_after_c)],
    ]
    labels = {"cpu": "CPU", "gpu": "GPU", "threads": "Threads", "load_average": "Load average"}
    rows += [[labels[key], str(value)] for key, value in found.conditions.items()]
    said = [*table(["figure", "measured"], rows), ""]
    said.append(f"{found.network} on {found.target}: {found.arithmetic}; {found.runs} runs")
    if found.spread is not None:
        said.append(f"90th percentile to minimum {found.spread:.2f}{_caution(found)}")
    figures = (found.first_call_ms, found.peak_memory_mb, found.temperature_after_c)
    return [*said, *(f"{f.quantity}: {f.why}" for f in figures if isinstance(f, Unavailable))]


def _caution(found: Bench) -> str:
    if not found.unsteady:
        return ""
    return (
        f", above {timing.SPREAD:g}: UNSTEADY, something else ran on the machine; measure again "
        "when it is idle"
    )


def _ms(value: float) -> str:
    return f"{number_text('latency_ms', value)} ms"


def _shown(figure: Figure) -> str:
    if isinstance(figure, Unavailable):
        return "unavailable"
    return f"{figure.value:.0f} {figure.unit}"
