"""FIFOs in DRAM behind one AXI port: under stalls and random latencies, full and empty."""

from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, needs_verilator

from lmaunet.errors import UserError
from lmaunet.fpga.operators import dram_fifo
from lmaunet.fpga.operators.dram_fifo import AXI, CONTROL, DramLayout
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER, Port, RtlModule, instance, pack
from lmaunet.fpga.simulation.compilation import compile_module, lint
from lmaunet.fpga.simulation.dram import VALUES, Dram, ring_beats, with_dram
from lmaunet.fpga.simulation.simulator import SimulationFailed, Stalls, Watch, simulate
from lmaunet.fpga.simulation.streams import Beats, checksum

# bursts of 4 beats; images of 10 beats, that is bursts of 4, 4 and 2; rings and buffers
# of a few bursts
SMALL = DramLayout(12, 5, 6, 1, "dram", 10, 4, 16)
SINGLE = DramLayout(33, 1, 4, 1, "dram", 8, 4, 8)
SHORT = DramLayout(8, 8, 5, 1, "dram", 3, 4, 12)  # an image is less than a burst
QUEUES = (SMALL, SINGLE, SHORT)
WIDE = dram_fifo.layout(16, 3000, 4096)
# what the DRAM does: at once, as it is, late, slow, and pausing before it takes an address
DRAMS = (
    Dram(write=(1, 1), read=(1, 1), address_waits=0),
    Dram(seed=2),
    Dram(seed=3, write=(250, 300), read=(1, 20)),
    Dram(seed=4, write=(1, 20), read=(250, 300), slow=7),
    Dram(seed=5, write=(1, 60), read=(1, 60), address_waits=230),
)
IMAGES = 9


def design(layouts) -> RtlModule:
    """Return a module of FIFOs behind one port, the streams of each with its number."""
    body, firsts = [], np.cumsum([0, *(found.rows for found in layouts)])
    prefixes = [f"q{i}" for i in range(len(layouts))]
    declared, joined = dram_fifo.port_wiring(prefixes)
    ports = []
    for i, found in enumerate(layouts):
        streams = {"in0_V": f"in{i}_V", "out0_V": f"out{i}_V"}
        each = dram_fifo.module(found, int(firsts[i]))
        body.append(instance(each, f"fifo_{i}", streams | dram_fifo.client_signals(f"q{i}")))
        ports.append(Port(f"in{i}_V", found.bits))
        ports.append(Port(f"out{i}_V", found.bits))
    body.append(instance(dram_fifo.port_module(len(layouts), layouts[0].burst), "port", joined))
    lines = ["input wire ap_clk", "input wire ap_rst_n"]
    for port in ports:
        there, back = ("input", "output") if port.name.startswith("in") else ("output", "input")
        lines += [f"{there} wire [{8 * port.bytes - 1}:0] {port.name}_tdata"]
        lines += [f"{there} wire {port.name}_tvalid", f"{back} wire {port.name}_tready"]
    wires = (*CONTROL, *AXI)
    lines += [wire.declaration for wire in wires]
    text = "module queues (\n" + ",\n".join(lines) + f"\n);\n{declared}{''.join(body)}endmodule\n"
    sources = dict.fromkeys((*dram_fifo.SOURCES, *dram_fifo.PORT_SOURCES))
    return RtlModule(
        "queues", tuple(sources), {}, tuple(ports[::2]), tuple(ports[1::2]),
        generated={"queues.sv": text}, wires=wires,
    )  # fmt: skip


def simulated(layouts, dram: Dram | None = None) -> RtlModule:
    return with_dram(design(layouts), ring_beats(layouts), dram)


def through(compiled, layouts, dram, stalls, images=IMAGES, watch=(), memories=None):
    """Send random words through all; return the run and whether they are the same."""
    random = np.random.default_rng(1)
    sent = {}
    for i, found in enumerate(layouts):
        words = images * found.frame * found.pack
        sent[f"in{i}_V"] = pack(random.integers(0, 2, (words, found.bits)), 1)
    module = dataclasses.replace(
        compiled.module,
        memories={**compiled.module.memories, VALUES: dram.words(), **(memories or {})},
    )
    expected = {f"out{i}_V": len(sent[f"in{i}_V"]) for i in range(len(layouts))}
    got = simulate(
        dataclasses.replace(compiled, module=module), sent, expected, stalls, watch=watch
    )
    equal = all((got.outputs[f"out{i}_V"] == sent[f"in{i}_V"]).all() for i in range(len(layouts)))
    return got, equal


def held(got, i: int) -> int:
    """Return how many words were inside a FIFO at most, counted at its ports."""
    ends = 1 + max(int(got.cycles[f"{end}{i}_V"][-1]) for end in ("in", "out"))
    into, out = (np.bincount(got.cycles[f"{end}{i}_V"], minlength=ends) for end in ("in", "out"))
    return int(np.cumsum(into - out).max())


@pytest.fixture(scope="module")
def queues(simulations):
    return compile_module(simulated(QUEUES), simulations)


@needs_verilator
def test_nothing_is_warned_of():
    lint(design(QUEUES))
    lint(design((WIDE,)))


@needs_verilator
@pytest.mark.parametrize("dram", DRAMS)
def test_words_come_back_in_order(queues, dram):
    """Bursts of several FIFOs, of whole and of short bursts, under stalls at all ends."""
    for stalls in (*STALLS, Stalls(0.95, 0.0, seed=6)):
        got, equal = through(queues, QUEUES, dram, stalls)
        assert equal, stalls
        for i in range(len(QUEUES)):
            needed = got.counters[
                next(path for path in got.counters if path.endswith(f"fifo_{i}.needed"))
            ]
            # a word that goes in the cycle in which one comes still has its place
            assert held(got, i) <= needed <= max(5, held(got, i) + 1)


@needs_verilator
@pytest.mark.parametrize("found", [SMALL, WIDE, dram_fifo.layout(8, 700, 16384, 16)])
def test_a_stopped_sink_fills_the_ring_and_nothing_is_lost(simulations, found):
    """The capacity is at least what was asked for; then everything comes."""
    compiled = compile_module(simulated((found,)), simulations)
    images = -(-2 * (found.words // found.pack + 2 * found.buffer) // found.frame)
    got, equal = through(compiled, (found,), Dram(seed=7), Stalls(outputs=0.97, seed=9), images)
    assert equal
    assert held(got, 0) >= found.words
    assert next(v for k, v in got.counters.items() if k.endswith(".blocked")) > 0


@needs_verilator
def test_a_size_of_the_run_is_a_smaller_ring(queues):
    watch = [Watch("fifo_0", 50, 4, 1), Watch("fifo_1", 8, 3, 1), Watch("fifo_2", 24, 2, 1)]
    got, equal = through(queues, QUEUES, DRAMS[1], Stalls(outputs=0.8, seed=9), watch=watch)
    assert equal
    whole, _ = through(queues, QUEUES, DRAMS[1], Stalls(outputs=0.8, seed=9))
    assert held(got, 1) < held(whole, 1)
    with pytest.raises(SimulationFailed, match="fifo_1: 5 rows, expected at most 4"):
        through(queues, QUEUES, DRAMS[1], NO_STALLS, watch=[Watch("fifo_1", 8, 5, 1)])


@needs_verilator
def test_a_fifo_tells_every_word_and_when(queues):
    words = 10 * 5
    watch = [Watch("fifo_0", words, keeps=True)]
    got, _ = through(queues, QUEUES, DRAMS[1], STALLS[3], watch=watch)
    beats = np.random.default_rng(1).integers(0, 2, (IMAGES * words, 12))
    sent = Beats(1, 12, signed=False).words(beats)
    sums = tuple(checksum(sent[i * words : (i + 1) * words]) for i in range(IMAGES))
    assert got.checksums["fifo_0"] == sums
    assert got.kept["fifo_0"].tolist() == sent.ravel().tolist()
    times = {k.rsplit(".", 1)[1]: v for k, v in got.counters.items() if ".fifo_0." in k}
    assert times["first"] == got.cycles["in0_V"][0] and times["last"] == got.cycles["in0_V"][-1]


@needs_verilator
def test_full_rate_at_the_latency_that_is_assumed(simulations):
    """A beat of 8 bytes in 4 cycles each way: half of what the port moves."""
    found = dram_fifo.layout(16, 8000, 65536)
    compiled = compile_module(simulated((found,)), simulations)
    got, equal = through(compiled, (found,), Dram(), NO_STALLS, 1)
    assert equal
    assert (np.diff(got.cycles["in0_V"]) == 1).all()
    # a burst may come late once; what follows catches up
    assert got.cycles["out0_V"][-1] - got.cycles["in0_V"][-1] < 4 * found.burst + 2 * Dram().latency
    # single words are beats: as fast as one port moves each twice
    single = dram_fifo.layout(64, 8000, 65536)
    compiled = compile_module(simulated((single,)), simulations)
    got, equal = through(compiled, (single,), Dram(), NO_STALLS, 1)
    assert equal
    assert len(got.cycles["in0_V"]) / got.cycles["out0_V"][-1] > 0.45


@needs_verilator
@pytest.mark.parametrize("answer", [1, 2, 17])
def test_an_answer_that_is_an_error_is_seen(queues, answer):
    with pytest.raises(SimulationFailed, match="DRAM: the design saw an error"):
        through(queues, QUEUES, Dram(error_at=answer), NO_STALLS)


# Each: the source, a text that occurs once, what replaces it where FAULT, and what is said where
# that is more than that words differ.
FAULTS = {
    "read before the write is confirmed": (
        "dram_fifo.sv",
        "if (written != ask_read) readable <=",
        "if (FAULT ? ask_write != ask_read : written != ask_read) readable <=",
        "a read of what is not confirmed",
    ),
    "a read without room": (
        "dram_fifo.sv",
        "room >= room_t'(BURST);",
        "(FAULT || room >= room_t'(BURST));",
        "the read buffer overflows",
    ),
    "one slot too many": (
        "dram_fifo.sv",
        "free <= slots_t'(`USED_SLOTS);",
        "free <= slots_t'(`USED_SLOTS + 32'(FAULT));",
        "a write of what is being read",
    ),
    "a slot that is free when its read begins": (
        "dram_fifo.sv",
        "wire came = read_data_valid && read_last;",
        "wire came = FAULT ? ask_read : read_data_valid && read_last;",
        "a write of what is being read",
    ),
    "a ring that wraps a slot late": (
        "dram_fifo.sv",
        "place_t'(FIRST + `USED_SLOTS - 1)",
        "place_t'(FIRST + `USED_SLOTS - 32'(!FAULT))",
        None,
    ),
    "WLAST a beat early": (
        "dram_fifo.sv",
        "enters_rest ? 9'(REST - 1) : 9'(BURST - 1)",
        "enters_rest ? 9'(REST - 1) : 9'(BURST - 1 - 32'(FAULT))",
        "WLAST at another beat",
    ),
    "a pointer that is not reset": (
        "dram_fifo.sv",
        "read_place <= place_t'(FIRST);\n        end else",
        "if (!FAULT) read_place <= place_t'(FIRST);\n        end else",
        None,
    ),
    "a short burst that is asked for as a whole one": (
        "dram_fifo.sv",
        "wire [8:0] next_read = reads_rest ?",
        "wire [8:0] next_read = reads_rest && !FAULT ?",
        None,
    ),
    "an address that changes while it waits": (
        "dram_port.sv",
        "only(write_turn) & {CLIENTS{!m_axi_awvalid && write_room}}",
        "only(write_turn) & {CLIENTS{(FAULT || !m_axi_awvalid) && write_room}}",
        "an address to write changed",
    ),
    "data of the wrong FIFO": (
        "dram_port.sv",
        "if (!sends) sender <= write_order[sent_writes[PLACE_BITS-1:0]]",
        "if (!sends) sender <= FAULT ? '0 : write_order[sent_writes[PLACE_BITS-1:0]]",
        None,
    ),
    "an error that is forgotten": (
        "dram_port.sv",
        "if (!ap_rst_n) dram_error <= 1'b0;",
        "if (!ap_rst_n || FAULT) dram_error <= 1'b0;",
        "forgotten",
    ),
}


@pytest.fixture(scope="module")
def faulty(simulations, tmp_path_factory):
    """Return the FIFOs compiled with every fault; a file says which one is there."""
    rtl = tmp_path_factory.mktemp("faulty") / "rtl"
    shutil.copytree(RTL_FOLDER, rtl)
    for number, (name, old, new, _) in enumerate(FAULTS.values(), 1):
        text = (rtl / name).read_text()
        assert text.count(old) == 1, f"{name}: {old!r} occurs {text.count(old)} times"
        (rtl / name).write_text(text.replace(old, new.replace("FAULT", f"(chosen[0] == {number})")))
    chosen = '\n);\n    logic [31:0] chosen[1];\n    initial $readmemh("fault.hex", chosen);\n'
    for name in {fault[0] for fault in FAULTS.values()}:
        path = rtl / name
        path.write_text(path.read_text().replace("\n);\n", chosen, 1))
    return compile_module(simulated(QUEUES), simulations, rtl)


def said(faulty, number: int) -> set[str]:
    """Return what is said in the runs of a fault, empty where all is well."""
    found = set()
    values = {"fault.hex": [f"{number:x}"]}
    for dram in (*DRAMS, Dram(error_at=9)):
        for stalls in (NO_STALLS, STALLS[3], Stalls(outputs=0.97, seed=9)):
            try:
                _, equal = through(faulty, QUEUES, dram, stalls, 30, memories=values)
            except SimulationFailed as error:
                found.add(str(error))
            else:
                found |= set() if equal else {"words differ"}
                found |= {"forgotten"} if dram.error_at else set()
    return found


@needs_verilator
def test_without_a_fault_only_the_error_is_seen(faulty):
    assert all("the design saw an error" in text for text in said(faulty, 0))


@needs_verilator
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(faulty, fault):
    found = said(faulty, list(FAULTS).index(fault) + 1)
    told = FAULTS[fault][3]
    wrong = [text for text in found if "the design saw an error" not in text]
    assert wrong
    assert told is None or any(re.search(told, text) for text in wrong), wrong


def test_a_layout_has_slots_for_what_it_must_hold():
    # 8 words a beat, 64 beats a burst: 16 images' worth is 15.3 bursts of 512 words
    found = dram_fifo.layout(8, 7821, 65536)
    assert found == DramLayout(8, 8, 16 + 1 + 3, 1, "dram", 8192, 64)
    assert dram_fifo.layout(24, 100, 30) == DramLayout(24, 2, 3 * 1 + 2 + 3, 1, "dram", 15, 64)
    for bits, depth, words, burst in (
        (8, 5, 64, 4), (8, 1000, 72, 4), (12, 999, 50, 2), (16, 333, 1000, 64), (64, 7, 3, 1)
    ):  # fmt: skip
        assert dram_fifo.layout(bits, depth, words, burst).words >= depth


def test_words_of_a_beat_divide_an_image():
    assert [dram_fifo.words_of_a_beat(bits, 60) for bits in (8, 9, 16, 21, 33, 64)] == [
        6, 6, 4, 3, 1, 1
    ]  # fmt: skip


def test_bad_sizes_are_refused():
    with pytest.raises(UserError, match="bits=65, burst=64; expected words of at most 64 bits"):
        dram_fifo.layout(65, 8, 64)
    with pytest.raises(UserError, match=r"burst=3; expected words .* and a power of two to 256"):
        dram_fifo.layout(8, 8, 64, 3)
