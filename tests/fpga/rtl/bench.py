"""What the tests of the RTL share: where simulations are kept, stalls, mutants."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fpga.hardware import RTL_FOLDER, RtlModule
from fpga.simulation import Compiled, Stalls, compile_module, compiler_place, verilator_place
from lmaunet.errors import ToolNotFound

NO_STALLS = Stalls()
STALLS = (
    NO_STALLS,
    Stalls(0.4, 0.0, seed=1),
    Stalls(0.0, 0.4, seed=2),
    Stalls(0.3, 0.3, seed=3),
    Stalls(0.1, 0.9, seed=4),
)


def why_no_simulation() -> str:
    """Return why nothing can be simulated here, or an empty string."""
    try:
        verilator_place()
        compiler_place()
    except ToolNotFound as error:
        return str(error)
    return ""


needs_verilator = pytest.mark.skipif(bool(why_no_simulation()), reason=why_no_simulation())


def mutated(
    module: RtlModule, folder: Path, source: str, old: str, new: str, work: Path
) -> Compiled:
    """Compile a module with one text of one source replaced; the text must occur exactly once."""
    rtl = work / "mutant"
    shutil.copytree(RTL_FOLDER, rtl)
    text = (rtl / source).read_text()
    assert text.count(old) == 1, f"{source}: {old!r} occurs {text.count(old)} times"
    (rtl / source).write_text(text.replace(old, new))
    return compile_module(module, folder, rtl)


def corners(random: np.random.Generator, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return random integers of ``low..high`` among which the ends and 0 are frequent."""
    values = random.integers(low, high + 1, shape)
    ends = random.choice([low, high, max(low, min(0, high))], shape)
    return np.where(random.random(shape) < 0.2, ends, values)
