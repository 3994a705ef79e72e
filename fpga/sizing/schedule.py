"""When each node puts out each row: the latency of an image, and how deep the FIFOs must be.

A model, not a simulation. Each stream is followed in rows of its map (the tokens of a row stay a
row), each with the time of its first and of its last pixel. A row begins a pixel's time after the
last input row that it needs begins, once the row before is done; it ends when the node has worked
through it at its own rate, and no sooner than a pixel's time after that input row ends. A window of
k rows waits for k - 1 further rows, a border needs none. Bins are worked on while their rows come,
and a row of them comes out with the last of these. A pipeline delays what comes out of a node
but not the node's next row. The image enters at the rate of the slowest node. FIFOs are as deep as
they need to be for one image, so nothing stalls; back-pressure is not modelled.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmaunet.fpga.operators.operator import Rows
from lmaunet.fpga.sizing.folding import FoldedNode


@dataclass(frozen=True)
class Schedule:
    """Cycles from an image's first pixel in to its last logit out, and FIFO depths.

    ``rows_waiting`` gives, for each stream into a node that joins several, how many rows wait
    there at most; by consumer's name and input. ``begins``, ``ends``: of each stream, the time of
    its first and of its last pixel.
    """

    latency: float
    interval: int
    rows_waiting: Mapping[tuple[str, int], int]
    begins: Mapping[str, float]
    ends: Mapping[str, float]


def schedule(
    nodes: list[FoldedNode], shapes: Mapping[str, tuple[int, ...]], source: str
) -> Schedule:
    """Return the row schedule of one image through a folded graph.

    Args:
        nodes: in topological order, folded.
        shapes: of every streamed tensor, ``(1, H, W, C)``.
        source: the graph's input tensor.
    """
    interval = max(node.cycles() for node in nodes)
    height = shapes[source][1]
    ends = {source: [interval / height * (row + 1) for row in range(height)]}
    begins = {source: [interval / height * row for row in range(height)]}
    waiting: dict[tuple[str, int], int] = {}
    for node in nodes:
        streams = [(i, n) for i, n in enumerate(node.step.inputs) if n in ends]
        rows_in = len(ends[streams[0][1]])
        shape = shapes[node.name]
        geometry = node.operator.rows()
        binned = geometry.kind == "bins"
        tall, wide = (geometry.first, geometry.second) if binned else (1, 1)
        rows = shape[1] if shape[1] > 1 and not binned else rows_in
        pixels = node.operator.map_size(shape) if binned else shape[1] * shape[2]
        work = node.cycles() / rows
        pixel = work / (pixels / rows)
        needs = _needed_rows(geometry, rows, rows_in)
        first, last = (_latest([rows[n] for _, n in streams]) for rows in (begins, ends))
        begin: list[float] = []
        end: list[float] = []
        free = 0.0
        for need in needs:
            start = free if need < 0 or first[need] < free else first[need]
            begin.append(start + wide * pixel)
            free = start + work
            if need >= 0 and last[need] + pixel > free:
                free = last[need] + pixel
            end.append(free)
        begin, end = begin[tall - 1 :: tall], end[tall - 1 :: tall]
        late = node.operator.late()
        for name in node.step.outputs:
            begins[name], ends[name] = [t + late for t in begin], [t + late for t in end]
        if node.operator.joins:
            for place, name in streams:
                waiting[node.name, place] = _rows_waiting(ends[name], end, needs)
    return Schedule(
        ends[nodes[-1].name][-1], interval, waiting,
        {name: rows[0] for name, rows in begins.items()},
        {name: rows[-1] for name, rows in ends.items()},
    )  # fmt: skip


def _latest(streams: list[list[float]]) -> list[float]:
    """Return when the last of several streams has each row."""
    return streams[0] if len(streams) == 1 else [max(row) for row in zip(*streams, strict=True)]


@functools.cache
def _needed_rows(geometry: Rows, rows: int, rows_in: int) -> tuple[int, ...]:
    """Return the last input row that each row needs; -1 where it needs none.

    Of bins these are the rows that are worked on: those that come in.
    """
    first, last = geometry.first, rows_in - 1
    if geometry.kind == "border":
        return tuple(min(row - first, last) if row >= first else -1 for row in range(rows))
    if geometry.kind == "window":
        return tuple(min(row * first + geometry.second - 1, last) for row in range(rows))
    if geometry.kind == "repeat":
        return tuple(row // first for row in range(rows))
    return tuple(min(row, last) for row in range(rows))


def _rows_waiting(arrivals: list[float], done: list[float], needs: Sequence[int]) -> int:
    """Return the most rows that have arrived and are not consumed yet."""
    consumed = [
        done[min(bisect.bisect_left(needs, i), len(done) - 1)] for i in range(len(arrivals))
    ]
    return max(
        row + 1 - bisect.bisect_right(consumed, arrival) for row, arrival in enumerate(arrivals)
    )
