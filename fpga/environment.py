"""What FINN+ needs in its surroundings so that it can be imported without Vivado.

FINN+ expects a build folder, settings and, in places, Xilinx' simulation interface. Nothing here
simulates or synthesises; whatever would need Vivado says so when it is called.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lmaunet.errors import ToolNotFound
from lmaunet.packages import install_extra

FINN_FIX = install_extra("fpga")
VIVADO_FIX = "install AMD Vivado 2024.2 or newer and source its settings64.sh"
DOMAIN = "finn.custom_op.fpgadataflow"


class SimulatorMissing:
    """Stand in for ``finn.xsi.SimEngine``, whose import needs Vivado; raises when it is used."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        raise ToolNotFound("vivado", "to simulate RTL through Xilinx' XSI", VIVADO_FIX)


def finn_version() -> str:
    """Return the installed version of FINN+, or an empty string."""
    try:
        return importlib.metadata.version("finn-plus")
    except importlib.metadata.PackageNotFoundError:
        return ""


def finn_place() -> str:
    """Return where FINN+ is installed, without importing it, or an empty string."""
    found = importlib.util.find_spec("finn")
    if found is None or not found.submodule_search_locations:
        return ""
    return str(next(iter(found.submodule_search_locations)))


def vivado_place() -> str:
    """Return the path of the ``vivado`` program, or an empty string."""
    return shutil.which("vivado") or ""


@functools.cache
def load_finn() -> None:
    """Make FINN+ importable; takes about 3 s once.

    Qonnx runs a transformation in child processes when it is told to use several; the children
    would lack both this set-up and the operators that are registered later, so one worker is set.

    Raises:
        ToolNotFound: where FINN+ is not installed.
    """
    if not finn_place():
        raise ToolNotFound("finn-plus", "to map a network to hardware operators", FINN_FIX)
    if "FINN_BUILD_DIR" not in os.environ:
        os.environ["FINN_BUILD_DIR"] = str(Path(tempfile.gettempdir()) / f"finn-{os.getuid()}")
    Path(os.environ["FINN_BUILD_DIR"]).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("NUM_DEFAULT_WORKERS", "1")
    import finn.xsi

    if not vivado_place():
        # FINN+ reads a version out of this path even where nothing is simulated
        os.environ.setdefault("XILINX_VIVADO", "/nonexistent/2024.2")
        finn.xsi.SimEngine = SimulatorMissing
