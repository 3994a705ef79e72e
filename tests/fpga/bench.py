"""What the tests of the RTL share: where simulations are kept, stalls, mutants."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmaunet.errors import ToolNotFound
from lmaunet.fpga.operators.operator import Operator
from lmaunet.fpga.operators.registry import operator
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, RtlModule, pack
from lmaunet.fpga.simulation.compilation import (
    Compiled,
    compile_module,
    compiler_place,
    verilator_place,
)
from lmaunet.fpga.simulation.simulator import Stalls, simulate

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


@dataclass(frozen=True)
class Case:
    """A node of the hardware graph and what streams into it.

    ``tensors``: one ``(frames, ..., channels)`` for each stream, in the executor's order of
    elements. ``lanes``: channels a beat.
    """

    op_type: str
    attributes: Mapping[str, Any]
    tensors: tuple[np.ndarray, ...]
    constants: tuple[np.ndarray, ...] = ()
    lanes: int = 1

    @property
    def operator(self) -> Operator:
        return operator(self.op_type, self.attributes)

    def module(self) -> RtlModule:
        return self.operator.module(list(self.constants))

    def inputs(self) -> dict[str, np.ndarray]:
        """Return each input's codes ``(beats, lanes)``."""
        streams = [self._window(t) if self.taps else t for t in self.tensors]
        wide = self.lanes * self.attributes.get("SIMD", 1) if self.taps else self.lanes
        return {f"in{i}_V": s.reshape(-1, wide) for i, s in enumerate(streams)}

    @property
    def taps(self) -> int:
        """Taps of the depthwise window that comes in, or 0."""
        kernel = self.attributes.get("Kernel", self.attributes.get("KernelSize", [0]))
        return int(np.prod(kernel))

    def _window(self, tensor: np.ndarray) -> np.ndarray:
        """From the executor's (taps, channels) to (channel groups, taps, lanes)."""
        split = tensor.reshape(*tensor.shape[:-1], self.taps, -1, self.lanes)
        return np.swapaxes(split, -3, -2)

    def outputs(self) -> dict[str, np.ndarray]:
        """Return what the integer golden puts out."""
        result = self.operator.execute([*self.tensors, *self.constants])
        count = len(self.module().outputs)
        return {f"out{i}_V": result.reshape(-1, self.lanes) for i in range(count)}

    @property
    def frames(self) -> int:
        return len(self.tensors[0])

    @property
    def cycles(self) -> int:
        return self.operator.cycles()


def beats_of(module: RtlModule, codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Pack each port's codes; a lane's width is the port's bits divided by the lanes."""
    return {
        port.name: pack(codes[port.name], port.bits // codes[port.name].shape[1])
        for port in module.ports
        if port.name in codes
    }


def differs(compiled: Compiled, case: Case, stalls: Stalls) -> str:
    """Run a case; return where it differs from the golden first, or an empty string."""
    module = compiled.module
    expected = beats_of(module, case.outputs())
    beats = {name: len(values) for name, values in expected.items()}
    # a padding puts out the next map's upper border by itself
    settle = 0 if module.name == "pad_with_code" else 64
    got = simulate(compiled, beats_of(module, case.inputs()), beats, stalls, settle=settle)
    for name, values in expected.items():
        wrong = (got.outputs[name] != values).any(1)
        if wrong.any():
            first = int(np.argmax(wrong))
            return (
                f"{name}: {wrong.sum()} of {len(values)} beats differ, first {first}: "
                f"{got.outputs[name][first]} for {values[first]}; {stalls}"
            )
        if stalls == NO_STALLS:
            intervals = got.intervals(name, case.frames)
            if not (intervals == case.cycles).all():
                return f"{name}: {intervals} cycles a frame, expected {case.cycles}"
    return ""


def check(case: Case, simulations: Path, stalls: tuple[Stalls, ...] = STALLS) -> None:
    """Compare a case with the golden under all stalls, and its cycles without any."""
    assert case.frames >= 3
    compiled = compile_module(case.module(), simulations)
    for each in stalls:
        assert differs(compiled, case, each) == ""
