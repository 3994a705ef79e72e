"""Where the memories of a design are, against what the design says that it takes."""

from __future__ import annotations

import pytest

from lmaunet.fpga.board.boards import named_board
from lmaunet.fpga.board.memories import KINDS
from lmaunet.fpga.sizing.design import FIFOS, Fifo
from lmaunet.fpga.sizing.memory_map import JOIN_FIFOS, OTHER_FIFOS, memory_map, memory_rows
from lmaunet.fpga.sizing.part_times import parts_of
from lmaunet.fpga.sizing.search import Sizing


@pytest.fixture(scope="module")
def design(whole):
    sizing = Sizing(whole.executor, whole.lowered.graph.shapes)
    return sizing.design(2000, named_board("ZCU104"), 250.0)


def require_all(rows, design):
    """Check that every block of every node is a memory of the map."""
    parts = {name: part.lut for name, part in design.resources.items()}
    queues = [queue.resources() for queue in design.fifos.values()]
    parts[FIFOS] = sum(part.lut for part in queues)
    # what controls the memories of the FIFOs
    for tensor, style in design.fifo_styles().items():
        (memory,) = design.fifos[tensor].resources().memories
        assert memory.control is not None
        luts, _ = memory.control(memory.segment_rows(style))
        parts[FIFOS] += memory.segments(style) * luts
    for node, placed in design.placed.items():
        own = [row for row in rows if row["node"] == node]
        for kind in ("bram36", "uram"):
            taken = sum(row["taken"] for row in own if row["kind"] == kind)
            assert taken == getattr(placed, kind), f"{node} has {taken} {kind}"
        lut = sum(row["taken"] for row in own if row["kind"] == "lutram")
        assert parts[node] + lut == placed.lut


def test_the_map_holds_every_memory(design):
    rows = memory_rows(design, {})
    require_all(rows, design)
    assert sum(row["bits"] for row in rows) == sum(
        m.bits for node in design.resources.values() for m in node.memories
    ) + sum(m.bits for queue in design.fifos.values() for m in queue.resources().memories)


def test_a_memory_that_is_missing_is_caught(design):
    """The mutant: one memory is left out."""
    rows = memory_rows(design, {})
    with pytest.raises(AssertionError):
        require_all(rows[1:], design)


def test_a_purpose_holds_its_memories(design, whole):
    rows = memory_rows(design, {})
    parts = parts_of(design.nodes, whole.lowered.graph.origins)
    found = memory_map(rows, design, parts, "estimated")
    purposes = {entry["purpose"]: entry for entry in found["purposes"]}
    assert {"weights", "line buffers of windows", "scan state", "requantization constants",
            JOIN_FIFOS} <= set(purposes)  # fmt: skip
    assert OTHER_FIFOS not in purposes  # all of them are registers
    assert sum(entry["bits"] for entry in purposes.values()) == found["bits"]
    assert sum(entry["share_of_bits"] for entry in purposes.values()) == pytest.approx(1)
    assert sum(entry["count"] for entry in purposes.values()) == len(rows)
    for kind in KINDS:
        taken = sum(row["taken"] for row in rows if row["kind"] == kind)
        assert sum(entry[kind] for entry in purposes.values()) == pytest.approx(taken)


def test_fifos_at_joins_are_told_apart(design):
    joined = {t for n in design.nodes if n.operator.joins for t in n.step.inputs}
    fifos = [row for row in memory_rows(design, {}) if row["stream"]]
    assert all((row["purpose"] == JOIN_FIFOS) == (row["stream"] in joined) for row in fifos)
    assert all(row["node"] == FIFOS for row in fifos)


def test_the_largest_fifos_have_the_depths_that_were_given(design, whole):
    parts = parts_of(design.nodes, whole.lowered.graph.origins)
    streams = [tensor for node in design.nodes for tensor in node.step.outputs]
    words = {tensor: Fifo(8, 2) for tensor in streams} | {streams[3]: Fifo(16, 4097, 4)}
    given = design.with_fifos(words)
    found = memory_map(memory_rows(given, {}), given, parts, "simulated")
    largest = found["fifos"][0]
    assert (largest["stream"], largest["width"], largest["depth"]) == (streams[3], 16, 4097)
    assert largest["bits"] == 16 * 4097 and largest["kind"] != "lutram"
    # of its words 3 stand in registers, of the others four in a row of a memory
    (row,) = (row for row in memory_rows(given, {}) if row["stream"] == streams[3])
    assert (row["width"], row["depth"]) == (64, 1024)
    assert OTHER_FIFOS in {entry["purpose"] for entry in found["purposes"]}
    bits = [fifo["bits"] for fifo in found["fifos"]]
    assert bits == sorted(bits, reverse=True)
    assert found["depths_provenance"] == "simulated" and found["placed_provenance"] == "estimated"
