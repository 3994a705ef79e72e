"""Simulates a module cycle by cycle, with stalls on every stream.

The simulation is a program of its own: it reads the inputs' beats from files, checks the rules of
the handshake in every cycle and writes the outputs' beats and the cycle of each transfer.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lmaunet.errors import Disagreement, UserError
from lmaunet.fpga.operators.rtl_module import RtlModule, write_memories
from lmaunet.fpga.simulation.compilation import Compiled

DEADLOCK, BROKEN_RULE = 3, 4


class SimulationFailed(Disagreement):
    """A simulated module does not do what a stream must do."""


class Deadlock(SimulationFailed):
    """Nothing moves any more, and beats are missing."""


class BrokenRule(SimulationFailed):
    """A module broke a rule of the valid/ready handshake or put out too many beats."""


@dataclass(frozen=True)
class Stalls:
    """How often streams pause: the probability in each cycle that a port does so.

    A source pauses before it offers a beat and never takes back what it offers. ``ports`` overrides
    the probability of single ports.
    """

    inputs: float = 0.0
    outputs: float = 0.0
    seed: int = 0
    ports: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Watch:
    """A stream inside a module that a simulation watches.

    ``instance``: the name of the FIFO or of another instance that shows it. ``words``: 64-bit words
    of an image; 0 where only the size is given. ``rows``, ``segments``: of its FIFO, at most those
    that it was compiled with; 0 for these. One segment may have the rows of all. ``keeps``: whether
    all words are kept, not their checksum only.
    """

    instance: str
    words: int
    rows: int = 0
    segments: int = 0
    keeps: bool = False


@dataclass(frozen=True)
class Simulation:
    """What came out.

    ``outputs``: each output's beats, uint8 ``(beats, bytes)``. ``cycles``: for each stream, inputs
    too, the cycle in which each beat was taken, int64 ``(beats,)``. ``counters``: what the modules
    printed at the end as ``counter NAME VALUE``, by hierarchical name. ``checksums``: of each
    watched stream, by its instance, one for each image that went through it whole. ``kept``: the
    words of those streams whose words are kept, uint64 ``(words,)``.
    """

    outputs: Mapping[str, np.ndarray]
    cycles: Mapping[str, np.ndarray]
    counters: Mapping[str, int]
    checksums: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)

    def intervals(self, port: str, frames: int) -> np.ndarray:
        """Return the cycles between the last beats of consecutive frames, ``(frames - 1,)``."""
        cycles = self.cycles[port]
        if len(cycles) % frames:
            raise UserError(f"{port}: {len(cycles)} beats are not {frames} equal frames")
        return np.diff(cycles.reshape(frames, -1)[:, -1])


def simulate(
    compiled: Compiled,
    inputs: Mapping[str, np.ndarray],
    expected_beats: Mapping[str, int],
    stalls: Stalls | None = None,
    limit: int = 10_000,
    *,
    settle: int = 64,
    check_paths: bool = True,
    watch: Sequence[Watch] = (),
    starts: Mapping[str, int] | None = None,
) -> Simulation:
    """Run a module until every output has given its beats, and some cycles more.

    Checked in every cycle: tvalid does not fall and tdata does not change before tready; no output
    gives more beats than expected; at the end every input beat was taken.

    Args:
        compiled: the simulation.
        inputs: each input's beats, uint8 ``(beats, bytes)``; see
            :func:`lmaunet.fpga.operators.rtl_module.pack`.
        expected_beats: how many beats each output gives.
        stalls: how often streams pause; None for never.
        limit: cycles without a transfer after which it counts as a deadlock.
        settle: how many cycles more; 0 for a module that begins its next frame by itself.
        check_paths: refuse a combinational path from an output's tready to any tvalid, tdata or to
            an input's tready.
        watch: the streams inside that are watched.
        starts: the cycle before which an input offers nothing; the first where absent.

    Raises:
        Deadlock: where nothing moves, with every stream's state.
        BrokenRule: where a rule is broken.
        UserError: where the arrays do not fit the ports.
    """
    module, stalls = compiled.module, stalls or Stalls()
    _check_ports(module, inputs, expected_beats, stalls)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # read when it starts: modules that differ in nothing else share a program
        write_memories(module, folder)
        for port in module.inputs:
            inputs[port.name].tofile(folder / f"{port.name}.bin")
        (folder / "streams.txt").write_text(
            "".join(f"{w.instance} {w.words} {w.rows} {w.segments} {int(w.keeps)}\n" for w in watch)
        )
        arguments = [name, name, str(limit), str(settle), str(stalls.seed), str(int(check_paths))]
        for port in module.ports:
            default = stalls.inputs if port in module.inputs else stalls.outputs
            probability = stalls.ports.get(port.name, default)
            # of an input: when it starts
            number = expected_beats.get(port.name, (starts or {}).get(port.name, 0))
            arguments += [repr(float(probability)), str(number)]
        result = subprocess.run(
            [str(compiled.program.resolve()), *arguments],
            cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
        if result.returncode:
            kinds = {DEADLOCK: Deadlock, BROKEN_RULE: BrokenRule}
            raise kinds.get(result.returncode, SimulationFailed)(
                f"{module.name}: {(result.stderr + result.stdout).strip()[-2000:]}"
            )
        outputs = {
            port.name: np.fromfile(folder / f"{port.name}.bin", np.uint8).reshape(-1, port.bytes)
            for port in module.outputs
        }
        cycles = {
            port.name: np.fromfile(folder / f"{port.name}.cycles", "<u8").astype(np.int64)
            for port in module.ports
        }
        sums: dict[str, list[int]] = {w.instance: [] for w in watch}
        for line in (folder / "streams.txt").read_text(encoding="utf-8").splitlines():
            instance, value = line.split()
            sums[instance].append(int(value))
        kept = {
            w.instance: np.fromfile(folder / f"{w.instance}.words", "<u8") for w in watch if w.keeps
        }
    found = re.findall(r"^counter (\S+) (\d+)$", result.stdout, re.MULTILINE)
    counters = {path: int(value) for path, value in found}
    checksums = {instance: tuple(values) for instance, values in sums.items()}
    return Simulation(outputs, cycles, counters, checksums, kept)


def _check_ports(
    module: RtlModule,
    inputs: Mapping[str, np.ndarray],
    expected_beats: Mapping[str, int],
    stalls: Stalls,
) -> None:
    names = {port.name for port in module.inputs}, {port.name for port in module.outputs}
    if (set(inputs), set(expected_beats)) != names:
        raise UserError(
            f"{module.name}: got inputs {sorted(inputs)} and outputs {sorted(expected_beats)}, "
            f"expected {sorted(names[0])} and {sorted(names[1])}"
        )
    for port in module.inputs:
        beats = inputs[port.name]
        if beats.dtype != np.uint8 or beats.ndim != 2 or beats.shape[1] != port.bytes:
            raise UserError(
                f"{module.name}: {port.name} got {beats.dtype} of shape {beats.shape}, expected "
                f"uint8 (beats, {port.bytes}); use fpga.operators.rtl_module.pack"
            )
    chances = (stalls.inputs, stalls.outputs, *stalls.ports.values())
    if not all(0 <= chance < 1 for chance in chances) or set(stalls.ports) - (names[0] | names[1]):
        raise UserError(f"{stalls}: expected probabilities from 0 to below 1, of {module.ports}")
