"""A FIFO whose words wait in the board's DRAM, and the one AXI port of all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory, Outside
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.operators.common import require_positive
from lmaunet.fpga.operators.fifo import Layout
from lmaunet.fpga.operators.rtl_module import Port, RtlModule, Wire

STYLE = "dram"
BEAT_BITS, BEAT_BYTES = 64, 8
"""Of the AXI port. That the ports of a Zynq UltraScale+ to its DRAM take this width is assumed."""
BURST = 64
"""Beats of a burst, 512 bytes: of a multiple of its length from one of 4096 it crosses no border of
4096 bytes, which AXI forbids, and it is long beside what a request costs."""
BUFFER = 512
"""Beats of the write buffer and of the read buffer: a block RAM of 512 x 72 bits each."""
SLOT_BITS, ADDRESS_BITS = 24, 40
SPARE_SLOTS = 3
"""Of a ring: the burst that is being filled, the one that is being emptied, and one on its way."""
OFFERED_BITS = 1 << 20
"""Bits beyond which a FIFO may be in DRAM. On the chip it takes 4 UltraRAMs or 29 block RAMs; and
even 64 bits a cycle need 16,000 cycles to fill it, so that what waits in it waits far longer than a
burst takes through the DRAM, some 600."""
LUT, FF = 122, 270
"""Of one without what joins and parts words (*yosys*: 121 to 126 and 248 to 272)."""
PORT_LUT, PORT_FF = 200, 340
"""Of the port, counted for each FIFO (*yosys*: 181 and 335 for one; 80 and 3 for each further)."""
SOURCES = (*width_converter.SOURCES, "fifo_segment.sv", "dram_image.sv", "dram_fifo.sv")
PORT_SOURCES = ("stream_register.sv", "dram_port.sv")


@dataclass(frozen=True)
class DramLayout(Layout):
    """How a FIFO in DRAM is built: ``pack`` words are a beat, ``rows`` are the slots of its ring.

    ``frame``: beats of an image. ``burst``: beats of a slot. ``buffer``: beats of each of its two
    buffers on the chip.
    """

    frame: int = 1
    burst: int = BURST
    buffer: int = BUFFER

    @property
    def words(self) -> int:
        """Words that the ring holds at least, wherever an image in it ends."""
        bursts = math.ceil(self.frame / self.burst)
        images, rest = divmod(self.rows - SPARE_SLOTS, bursts)
        # of an image that is not whole in it the short burst may be the first
        beats = images * self.frame + max(0, rest - 1) * self.burst
        return beats * self.pack


def words_of_a_beat(bits: int, words: int) -> int:
    """Return how many words of a FIFO share a beat of 64 bits: the most that divide an image.

    Args:
        bits: of a word, at most 64.
        words: of an image.
    """
    return max(count for count in range(1, BEAT_BITS // bits + 1) if words % count == 0)


def layout(bits: int, depth: int, words: int, burst: int = BURST) -> DramLayout:
    """Return how a FIFO in DRAM is built.

    Args:
        bits: of a word.
        depth: words that it holds at least.
        words: of an image.
        burst: beats of a burst, a power of two to 256.

    Raises:
        UserError: where a word has more than 64 bits, or a burst is no power of two.
    """
    require_positive("FIFO in DRAM", bits=bits, depth=depth, words=words)
    if bits > BEAT_BITS or burst not in (1 << i for i in range(9)):
        raise UserError(
            f"FIFO in DRAM: bits={bits}, burst={burst}; expected words of at most {BEAT_BITS} bits "
            "and a power of two to 256"
        )
    pack = words_of_a_beat(bits, words)
    frame = words // pack
    images, rest = divmod(math.ceil(depth / pack), frame)
    slots = images * math.ceil(frame / burst) + (math.ceil(rest / burst) + 1 if rest else 0)
    return DramLayout(bits, pack, slots + SPARE_SLOTS, 1, STYLE, frame, burst)


CLIENT = tuple(
    Wire(name, bits, output)
    for name, bits, output in (
        ("write_slot", SLOT_BITS, True), ("write_beats", 9, True), ("write_valid", 1, True),
        ("write_ready", 1, False), ("write_data", BEAT_BITS, True), ("write_last", 1, True),
        ("write_data_valid", 1, True), ("write_data_ready", 1, False), ("written", 1, False),
        ("read_slot", SLOT_BITS, True), ("read_beats", 9, True), ("read_valid", 1, True),
        ("read_ready", 1, False), ("read_data", BEAT_BITS, False), ("read_last", 1, False),
        ("read_data_valid", 1, False),
    )
)  # fmt: skip
"""The wires between a FIFO and the port, as the FIFO sees them."""
AXI = tuple(
    Wire(f"m_axi_{name}", bits, output)
    for name, bits, output in (
        ("awid", 1, True), ("awaddr", ADDRESS_BITS, True), ("awlen", 8, True),
        ("awsize", 3, True), ("awburst", 2, True), ("awcache", 4, True), ("awprot", 3, True),
        ("awvalid", 1, True), ("awready", 1, False),
        ("wdata", BEAT_BITS, True), ("wstrb", 8, True), ("wlast", 1, True), ("wvalid", 1, True),
        ("wready", 1, False),
        ("bid", 1, False), ("bresp", 2, False), ("bvalid", 1, False), ("bready", 1, True),
        ("arid", 1, True), ("araddr", ADDRESS_BITS, True), ("arlen", 8, True),
        ("arsize", 3, True), ("arburst", 2, True), ("arcache", 4, True), ("arprot", 3, True),
        ("arvalid", 1, True), ("arready", 1, False),
        ("rid", 1, False), ("rdata", BEAT_BITS, False), ("rresp", 2, False), ("rlast", 1, False),
        ("rvalid", 1, False), ("rready", 1, True),
    )
)  # fmt: skip
"""The AXI port of a design, in which every FIFO in DRAM has its part."""
CONTROL = (Wire("dram_base", ADDRESS_BITS), Wire("dram_error", 1, True))
"""Where the rings begin, a multiple of 4096, and whether the DRAM ever answered with an error."""


def outside(bits: int, depth: int, words: int, interval_us: float) -> Outside | None:
    """Return what a FIFO takes in DRAM; None where it may not be there.

    Args:
        bits: of a word.
        depth: words that it holds.
        words: of an image; 0 where not known.
        interval_us: between two images.
    """
    if not words or bits > BEAT_BITS or bits * depth <= OFFERED_BITS:
        return None
    beats = words // words_of_a_beat(bits, words)
    return Outside(LUT + PORT_LUT, FF + PORT_FF, 2.0, 2 * BEAT_BYTES * beats / interval_us)


def module(found: DramLayout, first: int = 0) -> RtlModule:
    """Return the RTL of a FIFO; ``first``: the number of its ring's first slot."""
    return RtlModule(
        "dram_fifo",
        SOURCES,
        {
            "BITS": found.bits,
            "PACK": found.pack,
            "BURST": found.burst,
            "FRAME": found.frame,
            "FIRST": first,
            "SLOTS": found.rows,
            "BUFFER": found.buffer,
            "SLOT_BITS": SLOT_BITS,
        },
        (Port("in0_V", found.bits),),
        (Port("out0_V", found.bits),),
        wires=CLIENT,
    )


def queue_module(found: Layout, first: int = 0) -> RtlModule:
    """Return the RTL of a FIFO on the chip or in DRAM."""
    return module(found, first) if isinstance(found, DramLayout) else fifo.module(found)


def resources_of(found: Layout) -> Resources:
    """Return the estimate of a FIFO as it is built, without the port of those in DRAM."""
    if not isinstance(found, DramLayout):
        return fifo.resources_of(found)
    ends = fifo.resources(found.bits, fifo.SHALLOW + 1, pack=found.pack)
    buffer = Memory("buffer", BEAT_BITS, found.buffer, decided=True)
    return Resources(ends.lut + LUT, 0, (buffer, buffer), ends.ff + FF)


def port_resources(clients: int) -> Resources:
    """Return the estimate of the AXI port of so many FIFOs (*yosys*: 1 to 8)."""
    return Resources(120 + 75 * clients, 0, (), PORT_FF + 3 * (clients - 1))


def port_module(clients: int, burst: int = BURST) -> RtlModule:
    """Return the RTL of the AXI port of so many FIFOs; each wire of theirs is a vector."""
    vectors = (Wire(w.name, w.bits * clients, not w.output) for w in CLIENT)
    return RtlModule(
        "dram_port",
        PORT_SOURCES,
        {
            "CLIENTS": clients,
            "BURST": burst,
            "SLOT_BITS": SLOT_BITS,
            "ADDRESS_BITS": ADDRESS_BITS,
        },
        (),
        (),
        wires=(*CONTROL, *vectors, *AXI),
    )


def port_wiring(prefixes: list[str]) -> tuple[str, dict[str, str]]:
    """Return the wires of so many FIFOs, declared, and the signals that the port connects to.

    Args:
        prefixes: of each FIFO's wires.
    """
    declared = "".join(
        f"    wire [{wire.bits - 1}:0] {prefix}_{wire.name};\n"
        for prefix in prefixes
        for wire in CLIENT
    )
    joined = {
        wire.name: "{" + ", ".join(f"{prefix}_{wire.name}" for prefix in reversed(prefixes)) + "}"
        for wire in CLIENT
    }
    return declared, joined


def client_signals(prefix: str) -> dict[str, str]:
    """Return the signals that a FIFO connects to."""
    return {wire.name: f"{prefix}_{wire.name}" for wire in CLIENT}
