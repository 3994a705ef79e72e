"""LMa-UNet: specification, arithmetic, network, data, training and deployment.

What a program uses is named here and described in docs/api.md::

    seg = lmaunet.load("runs/demo/build/ort")
    mask = seg(volume, spacing=(5.0, 0.98, 0.98))

Importing this package loads no torch and no vendor library, and a name's module only when the name
is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmaunet.artifacts import Agreement, Figure, Measurement, Unavailable
    from lmaunet.deploy.benching import Bench, bench
    from lmaunet.deploy.building import BuildResult, build
    from lmaunet.deploy.quantized import QuantizeResult, quantize
    from lmaunet.deploy.refining import refine
    from lmaunet.deploy.report_types import GateRow, Report, TargetRow, read_report
    from lmaunet.deploy.segmenter import Segmenter, load
    from lmaunet.errors import Disagreement, ToolNotFound, UserError

__version__ = "0.1.0"

__all__ = [
    "Agreement",
    "Bench",
    "BuildResult",
    "Disagreement",
    "Figure",
    "GateRow",
    "Measurement",
    "QuantizeResult",
    "Report",
    "Segmenter",
    "TargetRow",
    "ToolNotFound",
    "Unavailable",
    "UserError",
    "bench",
    "build",
    "load",
    "quantize",
    "read_report",
    "refine",
]

_HOMES = {
    "lmaunet.artifacts": ("Agreement", "Figure", "Measurement", "Unavailable"),
    "lmaunet.deploy.benching": ("Bench", "bench"),
    "lmaunet.deploy.building": ("BuildResult", "build"),
    "lmaunet.deploy.quantized": ("QuantizeResult", "quantize"),
    "lmaunet.deploy.refining": ("refine",),
    "lmaunet.deploy.report_types": ("GateRow", "Report", "TargetRow", "read_report"),
    "lmaunet.deploy.segmenter": ("Segmenter", "load"),
    "lmaunet.errors": ("Disagreement", "ToolNotFound", "UserError"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'lmaunet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
