"""The DRAM of a simulation: a design with an AXI port, and a model of the memory at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lmaunet.fpga.operators.dram_fifo import ADDRESS_BITS, AXI, DramLayout
from lmaunet.fpga.operators.rtl_module import RtlModule, instance

MODEL = Path(__file__).with_name("axi_memory.sv")
VALUES = "axi_memory.hex"
BASE = 0x7_0000_3000
"""Where the rings begin: a multiple of 4096 and of nothing more."""
PREFIX = "m_axi_"
MOVED_BEATS = ".memory.beats"
"""How the counter of the model's beats ends."""
UNUSED = ("awcache", "awprot", "arcache", "arprot")


@dataclass(frozen=True)
class Dram:
    """How the model behaves: what ``axi_memory.sv`` says of its values, in cycles.

    The latencies are assumptions: at 250 MHz 80 to 300 cycles are 0.3 to 1.2 us, from an idle DRAM
    to one that refreshes (DDR4 of 8 Gbit: 0.35 us) and serves a processor too.
    """

    seed: int = 1
    write: tuple[int, int] = (80, 300)
    read: tuple[int, int] = (80, 300)
    slow: int = 1
    error_at: int = 0
    address_waits: int = 64

    def words(self) -> list[str]:
        """Return what the model reads, in hexadecimal."""
        values = (
            self.seed, *self.write, *self.read, self.slow, self.error_at, self.address_waits,
        )  # fmt: skip
        return [f"{value:08x}" for value in values]

    @property
    def latency(self) -> int:
        """Cycles from a burst asked to be written until it comes back, at most, by itself."""
        return self.write[1] + self.read[1]


def ring_beats(layouts: Sequence[DramLayout]) -> int:
    """Return the beats of DRAM that FIFOs take together."""
    return sum(found.rows * found.burst for found in layouts)


def with_dram(module: RtlModule, beats: int, dram: Dram | None = None) -> RtlModule:
    """Return a design with the model at its AXI port: a module that has streams only.

    Args:
        module: a design with :data:`lmaunet.fpga.operators.dram_fifo.AXI` among its wires.
        beats: of 8 bytes, that the memory has.
        dram: how it behaves.
    """
    name = f"{module.name}_with_dram"
    named = {wire.name.removeprefix(PREFIX): wire for wire in AXI}
    wires = "".join(f"    wire [{w.bits - 1}:0] {w.name};\n" for w in AXI) + "    wire error;\n"
    base = f"{ADDRESS_BITS}'h{BASE:x}"
    design = instance(module, "whole", {"dram_base": base, "dram_error": "error"})
    connections = ",\n".join(
        f"    .{name}({wire.name})" for name, wire in named.items() if name not in UNUSED
    )
    model = (
        f"axi_memory #(.BEATS({beats}), .ADDRESS_BITS({ADDRESS_BITS}), .BASE({base})) memory (\n"
        f"    .ap_clk(ap_clk), .ap_rst_n(ap_rst_n), .failed(error),\n{connections}\n);\n"
    )
    ports = ["    input  wire ap_clk", "    input  wire ap_rst_n"]
    for port in module.ports:
        there, back = ("input ", "output") if port in module.inputs else ("output", "input ")
        ports += [
            f"    {there} wire [{8 * port.bytes - 1}:0] {port.name}_tdata",
            f"    {there} wire {port.name}_tvalid",
            f"    {back} wire {port.name}_tready",
        ]
    text = f"module {name} (\n" + ",\n".join(ports) + f"\n);\n{wires}{design}{model}endmodule\n"
    return replace(
        module,
        name=name,
        parameters={},
        memories={**module.memories, VALUES: (dram or Dram()).words()},
        generated={
            **module.generated,
            MODEL.name: MODEL.read_text(encoding="utf-8"),
            f"{name}.sv": text,
        },
        wires=(),
    )
