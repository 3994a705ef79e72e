"""Faults that the proof of a build must catch, each with the name of the stream that shows it.

The RTL is compiled once with all of them built in; the number in a memory's file chooses one.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil

import pytest
from bench import needs_verilator

from lmaunet.errors import Disagreement
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.proof import prove

pytestmark = needs_verilator

ACCUMULATORS = r"stream quant\d+_codes, accumulators differs .*"
FIRST = r"it is the first in topological order of"
# Each: its edits, (source, text that occurs once, what replaces it where FAULT); the message.
FAULTS = {
    "a truncated state": (
        [
            ("selective_scan_lane.sv", ".c(INFLOW_HALF)", ".c(FAULT ? '0 : INFLOW_HALF)"),
            ("selective_scan_lane.sv", "| BELOW_HALF", "| (FAULT ? '0 : BELOW_HALF)"),
        ],
        rf"{ACCUMULATORS} in image 0 of 1, beat \d+ of 384, lane .*; {FIRST}",
    ),
    "a truncated decay": (
        [("selective_scan_decay.sv", "+ DECAY_HALF", "+ (FAULT ? '0 : DECAY_HALF)")],
        rf"{ACCUMULATORS} in image 0 of 1, beat \d+ of 384, lane .*; {FIRST}",
    ),
    "a truncated drive": (
        [("selective_scan_drive.sv", ".c(DRIVE_HALF)", ".c(FAULT ? '0 : DRIVE_HALF)")],
        rf"{ACCUMULATORS} in image 0 of 1, beat \d+ of 384, lane .*; {FIRST}",
    ),
    "the state of the image before": (
        [
            (
                "selective_scan_issue.sv",
                "assign first_token = token == '0;",
                "logic later;\n"
                "    always_ff @(posedge ap_clk) later <= ap_rst_n && (later || "
                "(states_taken && token == TOKEN_BITS'(LENGTH - 1)));\n"
                "    assign first_token = token == '0 && !(FAULT && later);",
            )
        ],
        rf"^RTL: {ACCUMULATORS} in image 1 of 8, beat 0 of 384, lane .*; {FIRST}",
    ),
    "a bin that begins with the sum of the one above it": (
        [("bin_sum.sv", "if (read_first) from", "if (read_first && !FAULT) from")],
        rf"stream \S+_sums differs from the integer executor in image 0 of 1, beat .*; {FIRST}",
    ),
    "FIFOs that hold a word less than their depth": (
        [
            (
                "fifo_segment.sv",
                "in_ready <= count != COUNT_BITS'(rows - 1);",
                "in_ready <= count != COUNT_BITS'(rows - 1 - 32'(FAULT));",
            )
        ],
        r"^the FIFO of \S+ refused a word in \d+ cycles, expected in none",
    ),
    "a FIFO that gives a word twice": (
        [("fifo_segment.sv", "if (put) read <=", "if (put && !(FAULT && read == 2)) read <=")],
        rf"stream .+ differs from the integer executor in image 0 of 1, beat .*; {FIRST}",
    ),
}


class Faulty(Network):
    """A network with a fault chosen, one of its memories changed, or a FIFO an entry too small."""

    chosen, smaller = 0, ""

    def _stitched(self, layouts, name):
        made = super()._stitched(layouts, name)
        memories = {**made.memories, "fault.hex": [f"{self.chosen:02x}"]}
        return dataclasses.replace(made, memories=memories)

    def needed_depths(self, run):
        depths = super().needed_depths(run)
        return depths | ({self.smaller: depths[self.smaller] - 1} if self.smaller else {})

    def with_bit_flipped(self, i: int, bit: int) -> str:
        """Flip a bit in the first word of a node's memory; return the node's output."""
        module = self.nodes[i].module
        ((name, words),) = module.memories.items()
        word = f"{int(words[0], 16) ^ (1 << bit):0{len(words[0])}x}"
        self.nodes = list(self.nodes)
        changed = dataclasses.replace(module, memories={name: [word, *words[1:]]})
        self.nodes[i] = dataclasses.replace(self.nodes[i], module=changed)
        return self.nodes[i].outputs[0]


@pytest.fixture(scope="module")
def faulty(network, tmp_path_factory):
    """Return a network with every fault built in and none chosen."""
    rtl = tmp_path_factory.mktemp("faulty") / "rtl"
    shutil.copytree(RTL_FOLDER, rtl)
    names = set()
    for number, (edits, _) in enumerate(FAULTS.values(), 1):
        for name, old, new in edits:
            text = (rtl / name).read_text()
            assert text.count(old) == 1, f"{name}: {old!r} occurs {text.count(old)} times"
            new = new.replace("FAULT", f"(chosen[0] == 8'd{number})")
            (rtl / name).write_text(text.replace(old, new))
            names.add(name)
    chosen = '\n);\n    logic [7:0] chosen[1];\n    initial $readmemh("fault.hex", chosen);\n'
    for name in names:
        path = rtl / name
        path.write_text(path.read_text().replace("\n);\n", chosen, 1))
    return Faulty(network.executor, network.shapes, rtl)


def refusal(network: Network, codes, simulations, folder) -> str:
    """Return with which words the proof refuses a network, or that it does not."""
    try:
        prove(network, codes, folder, folder / "evidence", lambda line: None, simulations)
    except Disagreement as error:
        return str(error)
    return "proved"


def test_without_a_fault_every_stream_is_equal(faulty, codes, simulations, tmp_path):
    found = prove(faulty, codes, tmp_path, tmp_path, lambda line: None, simulations)
    assert found.streams == len(faulty.fifos({})) + 2  # the input; a scan's accumulators
    assert set(found.tight.intervals) == {found.tight.intervals[0]}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_rtl_is_named(faulty, codes, simulations, tmp_path, fault):
    wrong = copy.copy(faulty)
    wrong.chosen = list(FAULTS).index(fault) + 1
    assert re.search(FAULTS[fault][1], refusal(wrong, codes, simulations, tmp_path))


# Each: the module, and of its parameters the bit that is wrong in the first word of the memory of
# the first of them.
CONSTANTS = {
    "one weight": ("matrix_vector", lambda parameters: 2),
    "one weight of a depthwise convolution": ("depthwise_conv", lambda parameters: 2),
    "one entry of a table": ("table_activation", lambda parameters: 0),
    "the half of one channel's rounding, in the offset": (
        "requantize",
        lambda parameters: parameters["SHIFT_BITS"] + parameters["SHIFT"] - 1,
    ),
}


@pytest.mark.parametrize("fault", CONSTANTS)
def test_a_wrong_constant_is_named(faulty, codes, simulations, tmp_path, fault):
    kind, bit = CONSTANTS[fault]
    wrong = copy.copy(faulty)
    place = next(i for i, node in enumerate(wrong.nodes) if node.module.name == kind)
    stream = wrong.with_bit_flipped(place, bit(wrong.nodes[place].module.parameters))
    message = rf"stream {stream} differs from the integer executor in image 0 .*; {FIRST}"
    assert re.search(message, refusal(wrong, codes, simulations, tmp_path))


def test_a_fifo_of_one_entry_less_is_named(faulty, codes, simulations, tmp_path):
    depths = faulty.needed_depths(faulty.run(codes[:1], faulty.roomy_depths(), simulations))
    wrong = copy.copy(faulty)
    wrong.smaller = max(depths, key=lambda tensor: depths[tensor])
    message = rf"the FIFO of {wrong.smaller} refused a word in \d+ cycles, expected in none"
    assert re.search(message, refusal(wrong, codes, simulations, tmp_path))


@pytest.mark.slow
def test_a_network_is_compiled_once(faulty, codes, tmp_path):
    """For all depths, all images and all faults."""
    prove(faulty, codes[:1], tmp_path, tmp_path, lambda line: None, tmp_path)
    assert len(list(tmp_path.glob("network-*"))) == 1
