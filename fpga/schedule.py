"""When each node puts out each row: the latency of an image, and how deep the FIFOs must be.

A model, not a simulation. Each stream is followed in rows of its map (the tokens of a row stay a
row), each with the time of its first and of its last pixel. A row begins a pixel's time after the
last input row that it needs begins, once the row before is done; it ends when the node has worked
through it at its own rate, and no sooner than a pixel's time after that input row ends. A window of
k rows waits for k - 1 further rows, a border needs none. A pipeline delays what comes out of a node
but not the node's next row. The image enters at the rate of the slowest node. FIFOs are as deep as
they need to be for one image, so nothing stalls; back-pressure is not modelled.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass

from fpga.folding import FoldedNode

JOINS = ("ElementwiseAdd", "ElementwiseMul", "StreamingConcat", "SelectiveScan")


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
        rows = shape[1] if shape[1] > 1 else rows_in
        work = node.cycles() / rows
        pixel = work / (shape[1] * shape[2] / rows)
        needs = [_needed_row(node, row, rows_in) for row in range(rows)]
        begin: list[float] = []
        end: list[float] = []
        for need in needs:
            free = end[-1] if end else 0.0
            first = max(begins[n][need] for _, n in streams) if need >= 0 else 0.0
            last = max(ends[n][need] for _, n in streams) if need >= 0 else 0.0
            begin.append(max(first, free) + pixel)
            end.append(max(begin[-1] + work - pixel, last + pixel if need >= 0 else 0.0))
        late = node.pipeline_cycles()
        for name in node.step.outputs:
            begins[name], ends[name] = [t + late for t in begin], [t + late for t in end]
        if node.op_type in JOINS:
            for place, name in streams:
                waiting[node.name, place] = _rows_waiting(ends[name], end, needs)
    return Schedule(
        ends[nodes[-1].name][-1], interval, waiting,
        {name: rows[0] for name, rows in begins.items()},
        {name: rows[-1] for name, rows in ends.items()},
    )  # fmt: skip


def _needed_row(node: FoldedNode, row: int, rows_in: int) -> int:
    """Return the last input row that an output row needs; -1 where it needs none."""
    a = node.attributes
    if node.op_type in ("FMPadding", "PadWithCode") and a["ImgDim"][0] > 1:
        return min(row - a["Padding"][0], rows_in - 1) if row >= a["Padding"][0] else -1
    if node.op_type == "ConvolutionInputGenerator" and a["IFMDim"][0] > 1:
        return min(row * a["Stride"][0] + a["ConvKernelDim"][0] - 1, rows_in - 1)
    if node.op_type == "UpsampleNearestNeighbour":
        return row // (a["HO"] // a["HI"])
    return min(row, rows_in - 1)


def _rows_waiting(arrivals: list[float], done: list[float], needs: list[int]) -> int:
    """Return the most rows that have arrived and are not consumed yet."""
    consumed = [
        done[min(bisect.bisect_left(needs, i), len(done) - 1)] for i in range(len(arrivals))
    ]
    return max(
        row + 1 - bisect.bisect_right(consumed, arrival) for row, arrival in enumerate(arrivals)
    )
