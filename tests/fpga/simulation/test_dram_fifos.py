"""The proof of a network whose largest skips wait in DRAM."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import pytest
from bench import needs_verilator

from lmaunet.errors import Disagreement
from lmaunet.fpga.operators.rtl_module import RTL_FOLDER
from lmaunet.fpga.simulation.dram import Dram
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.proof import IMAGES, SIMULATION, Proof, prove, write_design

pytestmark = needs_verilator


def largest(count: int):
    """Return what puts the deepest FIFOs into DRAM, and the others where synthesis likes."""

    def place(fifos):
        deepest = sorted(fifos, key=lambda tensor: (-fifos[tensor].depth, tensor))
        return dict.fromkeys(deepest[:count], "dram")

    return place


def proved(network: Network, codes, simulations, folder, count: int, **changed) -> Proof:
    built = Network(network.executor, network.shapes, **changed)
    return prove(built, codes, folder, folder, print, simulations, largest(count))


@pytest.fixture(scope="module")
def on_chip(network, codes, simulations, tmp_path_factory):
    folder = tmp_path_factory.mktemp("on_chip")
    return prove(network, codes, folder, folder, print, simulations)


def test_the_largest_skip_in_dram_changes_nothing(network, codes, simulations, on_chip, tmp_path):
    """Every stream of all runs, and the latency: what waits that long does not see the DRAM."""
    found = proved(network, codes, simulations, tmp_path, 1)
    (tensor,) = found.dram["fifos"]
    assert found.streams == on_chip.streams
    assert found.alone.latency == found.tight.latency == on_chip.alone.latency
    assert not any(found.tight.blocked[other] for other in network.waiting - {tensor})
    layout = found.layouts[tensor]
    assert layout.style == "dram" and layout.words >= found.fifos[tensor].depth
    # an image of 1024 words of 8 bits, there and back
    assert found.dram["bytes_an_image"] == 2 * 1024
    intervals = found.dram["interval_cycles"]
    assert intervals["most"] - intervals["least"] <= found.dram["spread_allowed"]
    stored = json.loads((tmp_path / SIMULATION).read_text())
    assert stored["interval_cycles"] == intervals["most"] == max(found.tight.intervals)
    assert stored["dram"]["fifos"] == [tensor]
    assert stored["fifos"][tensor]["frame"] == 128
    assert len(found.tight.intervals) == IMAGES - 1
    assert "dram" not in on_chip.to_json()


@pytest.mark.slow
def test_short_bursts_of_several_skips_share_the_port(network, codes, simulations, tmp_path):
    """These come late, so that other joins must hold more: they are measured with them there."""
    found = proved(network, codes, simulations, tmp_path, 3, burst=2, dram=Dram(seed=3))
    assert len(found.dram["fifos"]) == 3
    assert found.dram["bytes_an_image"] == 2 * (1024 + 384 + 384)


def test_the_design_that_is_written_has_one_port(network, tmp_path):
    tensors = [t for t in sorted(network.waiting) if network.fifos({})[t].bits == 8][:2]
    module = network.placed(dict.fromkeys(tensors, "dram")).module(dict.fromkeys(tensors, 100))
    write_design(module, tmp_path / "rtl")
    text = (tmp_path / "rtl" / "network.sv").read_text()
    assert text.count("dram_fifo #(") == 2 and text.count("dram_port #(") == 1
    assert "output wire [39:0] m_axi_awaddr" in text and "input  wire [39:0] dram_base" in text
    assert ".FIRST(0)" in text and text.count(".FIRST(") == 2
    assert not (tmp_path / "rtl" / "axi_memory.sv").exists()
    without = network.module(dict.fromkeys(tensors, 100))
    assert not without.wires and "dram" not in without.generated["network.sv"]


def refusal(network, codes, simulations, folder, **changed) -> str:
    try:
        proved(network, codes, simulations, folder, 1, **changed)
    except Disagreement as error:
        return str(error)
    return "proved"


def test_a_dram_that_is_too_slow_is_refused(network, codes, simulations, tmp_path):
    """A beat in 20 cycles, where an image has 256 and takes 2,000 to 4,000."""
    told = refusal(network, codes, simulations, tmp_path, dram=Dram(slow=20))
    assert "latency" in told or "refused a word" in told or "the interval changes" in told


# Each: a text of dram_fifo.sv that occurs once, what replaces it where FAULT, what is said.
FAULTS = {
    "a bit of a beat": (
        "64'(buffered[BEAT_BITS-1:0]);",
        "64'(buffered[BEAT_BITS-1:0]) ^ (FAULT ? 64'd4 : 64'd0);",
        "differs from the integer executor in image 0 of 1",
    ),
    "a read before the write is confirmed": (
        "if (written != ask_read) readable <=",
        "if ((FAULT ? ask_write : written) != ask_read) readable <=",
        "DRAM: a read of what is not confirmed",
    ),
    "an image that ends in a burst that never fills": (
        "entered == (enters_rest ? 9'(REST - 1)",
        "entered == (enters_rest ? 9'(REST - 1 + 32'(FAULT))",
        "nothing moved for 200000 cycles",
    ),
}


class Faulty(Network):
    """A network with all faults built in, of which one is chosen."""

    chosen = 0

    def _stitched(self, layouts, name):
        made = super()._stitched(layouts, name)
        return dataclasses.replace(
            made, memories={**made.memories, "fault.hex": [f"{self.chosen}"]}
        )


@pytest.fixture(scope="module")
def faulty(network, tmp_path_factory):
    rtl = tmp_path_factory.mktemp("faulty") / "rtl"
    shutil.copytree(RTL_FOLDER, rtl)
    text = (rtl / "dram_fifo.sv").read_text()
    for number, (old, new, _) in enumerate(FAULTS.values(), 1):
        assert text.count(old) == 1
        text = text.replace(old, new.replace("FAULT", f"(chosen[0] == {number})"))
    chosen = '\n);\n    logic [31:0] chosen[1];\n    initial $readmemh("fault.hex", chosen);\n'
    (rtl / "dram_fifo.sv").write_text(text.replace("\n);\n", chosen, 1))
    return Faulty(network.executor, network.shapes, rtl)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(faulty, codes, simulations, tmp_path, fault):
    wrong = copy.copy(faulty)
    wrong.chosen = list(FAULTS).index(fault) + 1
    with pytest.raises(Disagreement, match=FAULTS[fault][2]):
        prove(wrong, codes, tmp_path, tmp_path, print, simulations, largest(1))
