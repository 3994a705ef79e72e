"""What the system tells while something runs: the memory of this process, the temperature."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmaunet.artifacts import Figure, Measurement, Unavailable
from lmaunet.deploy.timing import cpu_model

PROCESS = Path("/proc/self")
MEMORY = Path("/proc/meminfo")
SENSORS = Path("/sys/class")
RESET_PEAK = "5"
"""What makes Linux forget a process's highest memory, written to ``clear_refs``."""
OF_THE_CPU = ("cpu", "x86_pkg", "core", "k10temp", "zenpower", "soc", "tdie", "tctl", "package")
"""What the name of a processor's sensor holds; those of disks and radios are passed over."""


def forget_peak(process: Path = PROCESS) -> None:
    """Let the peak of this process's memory begin anew, where the system can."""
    with contextlib.suppress(OSError):
        (process / "clear_refs").write_text(RESET_PEAK, encoding="ascii")


def memory_mb(quantity: str, *, peak: bool, process: Path = PROCESS) -> Figure:
    """Return what this process holds in memory, or held at most, in MB of 10^6 bytes."""
    key = "VmHWM:" if peak else "VmRSS:"
    with contextlib.suppress(OSError, ValueError):
        for line in (process / "status").read_text(encoding="utf-8").splitlines():
            name, *rest = line.split()
            if name == key:
                return Measurement(quantity, int(rest[0]) * 1024 / 1e6, "MB", "measured")
    return Unavailable(
        quantity, "/proc/self/status", "this system does not tell the memory of a process",
        "watch the process from outside, on Linux with: /usr/bin/time -v",
    )  # fmt: skip


def system(information: Path = MEMORY) -> dict[str, Any]:
    """Return what this program runs on: ``cpu``, ``cores``, ``memory_mb``, ``system``, the load."""
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemTotal:"):
                found["memory_mb"] = round(int(line.split()[1]) * 1024 / 1e6)
    with contextlib.suppress(OSError):
        found["load_average"] = round(os.getloadavg()[0], 2)
    return found


def available_bytes(information: Path = MEMORY) -> int | None:
    """Return the memory that a new process can take without swapping; None where nothing tells.

    Linux's estimate (``MemAvailable``): free pages, and cached ones that can be dropped.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in information.read_text(encoding="utf-8").splitlines():
            name, *rest = line.split()
            if name == "MemAvailable:":
                return int(rest[0]) * 1024
    return None


def temperature_c(quantity: str, sensors: Path = SENSORS) -> Figure:
    """Return the temperature of the processor's hottest sensor, in degrees Celsius."""
    found = [degrees for name, degrees in _sensors(sensors) if _of_the_cpu(name)]
    if found:
        return Measurement(quantity, max(found), "°C", "measured")
    return Unavailable(
        quantity, "a temperature sensor", "this system tells of none on its processor, as in most "
        "containers and virtual machines", "run this on the device itself",
    )  # fmt: skip


def _of_the_cpu(name: str) -> bool:
    return any(part in name.lower() for part in OF_THE_CPU)


def _sensors(sensors: Path) -> Iterator[tuple[str, float]]:
    """Yield the name and the degrees of each sensor that can be read."""
    for zone in sorted(sensors.glob("thermal/thermal_zone*")):
        yield from _sensor(zone / "type", zone / "temp")
    for value in sorted(sensors.glob("hwmon/hwmon*/temp*_input")):
        yield from _sensor(value.with_name("name"), value)


def _sensor(name: Path, value: Path) -> Iterator[tuple[str, float]]:
    with contextlib.suppress(OSError, ValueError):  # a sensor that sleeps answers with an error
        yield name.read_text(encoding="utf-8").strip(), int(value.read_text("ascii")) / 1000
