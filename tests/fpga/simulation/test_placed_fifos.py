"""The proof of a network whose FIFOs are in memories: packed rows, and chains of segments."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
from bench import needs_verilator

from lmaunet.errors import Disagreement
from lmaunet.fpga.board import memories
from lmaunet.fpga.operators import fifo
from lmaunet.fpga.simulation.network import Network
from lmaunet.fpga.simulation.proof import prove
from lmaunet.fpga.sizing.design import Fifo

pytestmark = needs_verilator
ROWS = 16


@pytest.fixture
def small(monkeypatch):
    """Let a memory of the device have few rows, so that the FIFOs of a small network are chains."""
    monkeypatch.setattr(memories, "URAM_DEPTH", ROWS)


@pytest.fixture(scope="module")
def needed(network, codes, simulations):
    return network.needed_depths(network.run(codes[:1], network.roomy_depths(), simulations))


@pytest.fixture
def packed(network, needed, small):
    """Return the network with the FIFOs of all joins in UltraRAM, the deeper ones packed."""
    fifos = {}
    for tensor, depth in needed.items():
        bits = network.fifos({})[tensor].bits
        words = math.prod(network.shapes[tensor]) * 8 // bits
        pack = fifo.words_of_a_row(bits, words) if depth > 24 else 1
        fifos[tensor] = Fifo(bits, depth, pack)
    assert {queue.pack for queue in fifos.values()} > {1}
    return Network(network.executor, network.shapes, estimated=fifos)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def in_ultraram(fifos):
    return {tensor: "ultra" for tensor, queue in fifos.items() if queue.depth > fifo.SHALLOW}


@pytest.mark.slow
def test_chains_carry_the_same_streams(packed, codes, compiled, tmp_path):
    found = prove(packed, codes, tmp_path, tmp_path, print, compiled, in_ultraram)
    placed = packed.placed(in_ultraram(found.fifos))
    layouts = {t: placed.layout(t, queue.depth) for t, queue in found.fifos.items()}
    assert max(layout.segments for layout in layouts.values()) > 3
    assert {layout.rows for layout in layouts.values()} == {0, ROWS}
    assert any(layout.pack > 1 for layout in layouts.values())
    # one compilation for all runs
    assert len(list(compiled.glob("network-*"))) == 1
    # what is written is what was simulated
    written = placed.module({t: queue.depth for t, queue in found.fifos.items()})
    text = written.generated["network.sv"]
    for layout in layouts.values():
        assert f".ROWS({layout.rows})" in text and f".SEGMENTS({layout.segments})" in text


@pytest.mark.slow
def test_too_few_segments_are_refused(packed, needed, codes, compiled, tmp_path):
    """The mutant: the longest chain has two less; the registers of others hold what one has."""
    placed = packed.placed(in_ultraram(packed.fifos(needed)))
    layouts = {tensor: placed.layout(tensor, depth) for tensor, depth in needed.items()}
    longest = max(layouts, key=lambda tensor: layouts[tensor].segments)

    class Short(Network):
        def layout(self, tensor, depth):
            found = super().layout(tensor, depth)
            less = self.styles and tensor == longest
            return dataclasses.replace(found, segments=found.segments - 2) if less else found

    wrong = copy.copy(packed)
    wrong.__class__ = Short
    with pytest.raises(Disagreement, match=rf"the FIFO of {longest} refused a word in \d+ cycles"):
        prove(wrong, codes, tmp_path, tmp_path, print, compiled, in_ultraram)


def test_a_fifo_deeper_than_expected_is_compiled_as_deep_as_it_is(network, needed, small):
    """Where the estimate is far too low, so that the chain that was compiled is too short."""
    tensor = max(needed, key=lambda name: needed[name])
    bits, room = network.fifos({})[tensor].bits, network.roomy_depths()[tensor]
    for estimate, within in ((needed[tensor], True), (needed[tensor] // 2, True), (2, False)):
        expected = {tensor: Fifo(bits, estimate)}
        found = Network(network.executor, network.shapes, estimated=expected)
        run = found.placed({tensor: "ultra"}).layout(tensor, needed[tensor])
        assert run.segments > 2
        assert found.holds(run, tensor, room) == within
        # even where no memory was expected there is room for a part of an image
        sixth = found.placed({tensor: "ultra"}).layout(tensor, room // 6)
        assert sixth.segments > 1 and found.holds(sixth, tensor, room)
        # one segment may have the rows of all that are compiled; a register has none
        for rows, fits in ((fifo.layout(bits, room).rows, True), (10**7, False), (0, False)):
            alone = dataclasses.replace(run, rows=rows, segments=1)
            assert found.holds(alone, tensor, room) == fits
