"""Synthesises a module with yosys for an AMD family and counts what it takes.

No timing comes from it: yosys places and routes nothing for these families. It fills the DSPs of
the 7 series (``xc7``) with the registers and additions around a multiplication, but not those of
UltraScale and UltraScale+, for which it counts them as flip-flops and LUTs; AMD's tools fill all of
them. So :class:`network_synthesis.Synthesiser` takes DSPs and memories from UltraScale+, and
LUTs and flip-flops from the 7 series, where a module's operands are first made to fit a DSP48E1.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmaunet.errors import UserError
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, RtlModule
from lmaunet.fpga.toolchain.yosys import netlist_name, synthesize_into

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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesize_into(
            folder, modules, family, wasm_cache=wasm_cache, rtl=rtl, timeout_s=timeout_s
        )
        found = json.loads((folder / "cells.json").read_text())["modules"]
    names = [f"\\{netlist_name(i)}" for i in range(len(modules))]
    return [Synthesised.of(found[name]["num_cells_by_type"]) for name in names]
