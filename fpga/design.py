"""The design on a board: the folding that fits, its resources, its cycles and its latency.

Every figure here is estimated.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fpga.boards import Board, larger_board
from fpga.executor import Executor
from fpga.folding import FoldedNode, Neighbours, Unit, stream_bits, target_candidates, units_of
from fpga.placement import Placed, Resources, place, total
from fpga.resources import fifo, width_converter
from fpga.schedule import Schedule, schedule
from lmaunet.errors import Disagreement, UserError

DEFAULT_CLOCK_MHZ = 250.0
SHALLOW_FIFO = 32
LOOK_FURTHER = 6
CONVERTERS, FIFOS = "stream width converters", "stream FIFOs"
NAMES = {"lut": "LUT", "dsp": "DSP", "bram36": "BRAM36", "uram": "URAM", "ff": "flip-flops"}


@dataclass(frozen=True)
class Design:
    """A folded hardware graph on a board.

    ``placed`` is what each node takes, by its first output, and the two rows
    :data:`CONVERTERS` and :data:`FIFOS` for what is between the nodes; ``resources`` is the same
    before memories were placed.
    """

    board: Board
    clock_mhz: float
    nodes: list[FoldedNode]
    schedule: Schedule
    resources: Mapping[str, Resources]
    placed: Mapping[str, Placed]
    total: Placed

    @property
    def latency_ms(self) -> float:
        """Estimated time from the first pixel in to the last logit out."""
        return self.schedule.latency / self.clock_mhz / 1000

    @property
    def interval_ms(self) -> float:
        """Estimated time between two images in steady state."""
        return self.schedule.interval / self.clock_mhz / 1000

    def slowest(self) -> FoldedNode:
        """Return the node that sets the interval."""
        return max(self.nodes, key=lambda node: node.cycles())

    def with_fifos(self, words: Mapping[str, tuple[int, int]]) -> Design:
        """Return the design with other FIFOs: by tensor the bits of a word and the depth.

        It may take more than the board has.
        """
        fifos = _sum([fifo(bits, depth) for bits, depth in words.values()])
        resources = dict(self.resources) | {FIFOS: fifos}
        placed = place(resources, self.board)
        return replace(self, resources=resources, placed=placed, total=total(placed.values()))


class Sizing:
    """Tries foldings of one hardware graph.

    Args:
        executor: of the graph.
        shapes: of its streamed tensors.
    """

    def __init__(self, executor: Executor, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.nodes = [FoldedNode(step) for step in executor.steps]
        self.units: list[Unit] = units_of(self.nodes)
        self.unfolded = [dict(node.attributes) for node in self.nodes]
        self.neighbours = Neighbours(self.nodes)
        self.shapes, self.source = shapes, executor.input
        # cycles of the slowest node when all is unfolded, and when nothing is
        slowest = max(node.cycles() for node in self.nodes)
        self.bounds = max(unit.fastest for unit in self.units), slowest

    def design(self, target_cycles: int, board: Board, clock_mhz: float) -> Design:
        """Fold every node for a target and estimate the result; it may not fit."""
        for node, attributes in zip(self.nodes, self.unfolded, strict=True):
            node.attributes = dict(attributes)
        # the second round sees what the neighbours chose in the first
        for _ in range(2):
            for unit in self.units:
                unit.fold(target_cycles, board, self.neighbours.converters)
        found = schedule(self.nodes, self.shapes, self.source)
        resources: dict[str, Resources] = {node.name: node.resources() for node in self.nodes}
        resources |= self._between(found)
        placed = place(resources, board)
        nodes = [FoldedNode(node.step, dict(node.attributes)) for node in self.nodes]
        return Design(board, clock_mhz, nodes, found, resources, placed, total(placed.values()))

    def _between(self, found: Schedule) -> dict[str, Resources]:
        """Return the width converters and the FIFOs on all streams."""
        producers = {
            name: (node, i) for node in self.nodes for i, name in enumerate(node.step.outputs)
        }
        converters, fifos = [], []
        for node in self.nodes:
            for place_in, name in enumerate(node.step.inputs):
                if name not in producers:
                    continue
                source, place_out = producers[name]
                bits_out = stream_bits(source.op_type, source.attributes, place_out, output=True)
                bits_in = stream_bits(node.op_type, node.attributes, place_in, output=False)
                converters.append(width_converter(bits_out, bits_in))
                depth = self._depth(found, node, place_in, name, bits_in)
                fifos.append(fifo(bits_in, depth))
        return {CONVERTERS: _sum(converters), FIFOS: _sum(fifos)}

    def _depth(
        self, found: Schedule, node: FoldedNode, place_in: int, name: str, bits: int
    ) -> int:  # fmt: skip
        rows = found.rows_waiting.get((node.name, place_in), 0)
        if rows <= 1:
            return SHALLOW_FIFO
        _, height, width, channels = self.shapes[name]
        row_bits = math.ceil(height * width / self._rows(name)) * channels * 8
        return max(SHALLOW_FIFO, math.ceil(rows * row_bits / bits))

    def _rows(self, name: str) -> int:
        """Return into how many rows the schedule divides a stream."""
        height = self.shapes[name][1]
        if height > 1:
            return height
        while True:
            node = next(n for n in self.nodes if name in n.step.outputs)
            name = node.step.inputs[0]
            if self.shapes[name][1] > 1:
                return self.shapes[name][1]


def _sum(parts: list[Resources]) -> Resources:
    return Resources(
        sum(p.lut for p in parts), sum(p.dsp for p in parts),
        tuple(m for p in parts for m in p.memories), sum(p.ff for p in parts),
    )  # fmt: skip


def size(
    sizing: Sizing, board: Board, clock_mhz: float, target_ms: float | None = None
) -> Design:  # fmt: skip
    """Choose the folding: the fastest that fits the board, or the smallest within a latency.

    Less parallelism does not always take less memory (a slower design lets more rows wait), so
    foldings are tried and not only bisected.

    Args:
        sizing: the graph.
        board: the board.
        clock_mhz: the clock that is assumed.
        target_ms: the latency to meet with as little as possible; None for the fastest.

    Raises:
        UserError: where the board is too small, naming what does not fit, by how much, and the
            next larger board; or where no folding is fast enough.
    """
    candidates = target_candidates(*sizing.bounds)

    def design(index: int) -> Design:
        return sizing.design(candidates[index], board, clock_mhz)

    if target_ms is not None:
        meeting = bisect.bisect_right(
            range(len(candidates)), target_ms, key=lambda i: design(i).latency_ms
        )
        if meeting == 0:
            raise UserError(
                f"target_ms={target_ms:g}: the fastest folding takes {design(0).latency_ms:.3g} ms "
                f"at {clock_mhz:g} MHz (estimated); allow more time or choose a smaller network"
            )
        order = list(reversed(range(meeting)))
    else:
        enough = bisect.bisect_left(
            range(len(candidates)), True, key=lambda i: not design(i).total.excess(board)
        )
        order = [*range(max(0, enough - LOOK_FURTHER), enough + 1), *range(enough + 1, 10**6)]
        order = [index for index in order if index < len(candidates)]
        if enough == len(candidates):
            order = list(range(len(candidates)))
    best: Design | None = None
    for index in order:
        tried = design(index)
        if not tried.total.excess(board):
            return tried
        if best is None or _overload(tried) < _overload(best):
            best = tried
    assert best is not None
    raise _too_small(best)


def _overload(design: Design) -> float:
    """Return by what factor the scarcest resource exceeds its limit."""
    limits = design.board.limits
    return max(
        getattr(design.total, name) / limits[name] for name in design.total.excess(design.board)
    ) if all(limits[name] for name in design.total.excess(design.board)) else math.inf  # fmt: skip


def _too_small(design: Design) -> UserError:
    board, excess = design.board, design.total.excess(design.board)
    parts = [
        f"{NAMES[name]} {getattr(design.total, name):g} of {board.limits[name]:g} usable "
        f"({over:g} too many)"
        for name, over in excess.items()
    ]
    larger = larger_board(board)
    advice = f"use --board {larger.name}, " if larger else ""
    return UserError(
        f"the network does not fit board {board.name}: at {design.latency_ms:.3g} ms (estimated), "
        f"where least is missing, it takes {'; '.join(parts)}; {advice}or a smaller network"
    )


def apply_folding(design: Design, model: Any) -> None:
    """Write the folding and the kinds of memories into the nodes of the mapped graph.

    Raises:
        Disagreement: where FINN+'s own cycle count of a node is another one than ours.
    """
    from qonnx.custom_op.registry import getCustomOp

    nodes = {node.output[0]: node for node in model.graph.node}
    for folded in design.nodes:
        operator = getCustomOp(nodes[folded.name])
        for name in ("PE", "SIMD", "PD", "PN", "parallel_window"):
            if name in folded.attributes:
                operator.set_nodeattr(name, int(folded.attributes[name]))
        if "ram_style" in operator.get_nodeattr_types():
            _place_memory(operator, design.placed[folded.name])
        operator.verify_node()
        expected = int(operator.get_exp_cycles())
        if expected != folded.cycles():
            raise Disagreement(
                f"{folded.op_type} {folded.name}: FINN+ counts {expected} cycles, the folding "
                f"{folded.cycles()}"
            )
        operator.set_nodeattr("cycles_estimate", expected)


def _place_memory(operator: Any, placed: Placed) -> None:
    """Tell FINN+ which kind of memory the estimate put a node's buffer or weights into."""
    style = "ultra" if placed.uram else "block" if placed.bram36 else "distributed"
    operator.set_nodeattr("ram_style", style)
    if style == "ultra" and "runtime_writeable_weights" in operator.get_nodeattr_types():
        # UltraRAM starts empty: the host writes the weights before the first image
        operator.set_nodeattr("runtime_writeable_weights", 1)
