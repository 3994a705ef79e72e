"""What device a figure was measured on: the machine, its system and the versions on it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from lmaunet.deploy.machine import system
from lmaunet.stage import tool_versions

CPU_INFORMATION = Path("/proc/cpuinfo")
INSTRUCTIONS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm",
    "sve",
)  # fmt: skip
"""The instruction sets that decide what an INT8 or an FP32 kernel takes, in Linux's names."""


def device(information: Path = CPU_INFORMATION) -> dict[str, Any]:
    """Return the machine as plain JSON.

    What a report says of the machine that made it (:func:`lmaunet.deploy.machine.system`), and
    ``architecture``, ``versions`` and ``instructions``: those of :data:`INSTRUCTIONS` that the
    first processor has, None where the system does not tell.
    """
    return {
        **system(),
        "architecture": platform.machine(),
        "instructions": instructions(information),
        "versions": tool_versions(),
    }


def instructions(information: Path = CPU_INFORMATION) -> list[str] | None:
    """Return the instruction sets of :data:`INSTRUCTIONS` that the first processor has."""
    try:
        text = information.read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            has = value.split()
            return [name for name in INSTRUCTIONS if name in has]
    return None
