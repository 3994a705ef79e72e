"""Folding: how many values each node handles a cycle, from all legal divisors, by a target.

FINN+'s SetFolding does not know our operators and ignores upsampling. Here every legal folding of
each node is an option of the integer program of :mod:`lmaunet.fpga.sizing.solver`; a window
generator for depthwise layers and the node behind it are folded together, because they share their
parallelism.

The operators' cycle counts are those of FINN+'s ``get_exp_cycles``, written again so that thousands
of foldings can be tried; :func:`lmaunet.fpga.toolchain.assemble.apply_folding` requires both to be
equal.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lmaunet.fpga.board.placement import Placed, Resources, sum_of
from lmaunet.fpga.graph.executor import Step
from lmaunet.fpga.operators import width_converter
from lmaunet.fpga.operators.operator import Folding, Operator
from lmaunet.fpga.operators.registry import operator
from lmaunet.fpga.operators.sliding_window import ConvolutionInputGenerator
from lmaunet.fpga.sizing.solver import Option, options_of, undominated

Attributes = dict[str, Any]


@dataclass
class FoldedNode:
    """A node of the hardware graph and its attributes, whose folding is being chosen."""

    step: Step
    attributes: Attributes = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.attributes:
            self.attributes = dict(self.step.attributes)

    @property
    def name(self) -> str:
        """The node's first output, which names it in every stage."""
        return self.step.outputs[0]

    @property
    def op_type(self) -> str:
        """The operator without its backend's suffix."""
        return self.step.op_type

    @property
    def operator(self) -> Operator:
        """The operator with the folding at hand."""
        return operator(self.op_type, self.attributes)

    def changed(self, change: Folding) -> Operator:
        """Return the operator with another folding."""
        return operator(self.op_type, self.attributes | change)

    def cycles(self) -> int:
        """Cycles for one image."""
        return self.operator.cycles()

    def resources(self) -> Resources:
        """Estimated resources."""
        return self.operator.resources()


Choice = tuple[Folding, ...]


class Unit:
    """Nodes that are folded together: one, or a depthwise window and the node behind it."""

    def __init__(self, nodes: list[FoldedNode]) -> None:
        self.nodes = nodes
        self.foldings = sorted(
            ((self._cycles(choice), self._options(choice)) for choice in self.choices()),
            key=lambda folding: folding[0],
        )
        self.steps = sorted({cycles for cycles, _ in self.foldings})
        self._best: dict[int, list[Option]] = {}

    @property
    def fastest(self) -> int:
        """Cycles of the fastest folding."""
        return self.steps[0]

    def limit(self, target: int) -> int:
        """Return the cycles of the slowest folding that meets a target, or of the fastest."""
        return self.steps[max(0, bisect.bisect_right(self.steps, target) - 1)]

    def options(self, target: int) -> list[Option]:
        """Return every folding that meets a target, or the fastest, with places for its memories.

        An option's ``choice`` is the folding.
        """
        limit = self.limit(target)
        within = itertools.takewhile(lambda folding: folding[0] <= limit, self.foldings)
        return [option for _, options in within for option in options]

    def best_options(self, target: int) -> list[Option]:
        """Return the options that no other one betters in every kind of resource."""
        limit = self.limit(target)
        if limit not in self._best:
            self._best[limit] = undominated(self.options(limit))
        return self._best[limit]

    def take(self, choice: Choice) -> None:
        """Give the nodes a folding."""
        for node, change in zip(self.nodes, choice, strict=True):
            node.attributes.update(change)

    def _cycles(self, choice: Choice) -> int:
        return max(
            node.changed(change).cycles() for node, change in zip(self.nodes, choice, strict=True)
        )

    def _options(self, choice: Choice) -> list[Option]:
        resources = sum_of(
            node.changed(change).resources()
            for node, change in zip(self.nodes, choice, strict=True)
        )
        return options_of(resources, choice)

    def choices(self) -> Iterator[Choice]:
        """Yield every legal folding."""
        node = self.nodes[-1].operator
        for folding in node.foldings():
            if len(self.nodes) == 1:
                yield (folding,)
            else:
                yield (node.window_folding(folding), folding)


class Neighbours:
    """The streams between the nodes, and what their width converters cost."""

    def __init__(self, nodes: list[FoldedNode]) -> None:
        producers = {name: (n, i) for n in nodes for i, name in enumerate(n.step.outputs)}
        self.streams: dict[str, list[tuple[FoldedNode, int, FoldedNode, int]]] = {}
        for node in nodes:
            for place_in, name in enumerate(node.step.inputs):
                if name in producers:
                    source, place_out = producers[name]
                    stream = (source, place_out, node, place_in)
                    self.streams.setdefault(source.name, []).append(stream)
                    self.streams.setdefault(node.name, []).append(stream)

    def converters(self, unit: Unit, choice: Choice) -> Placed:
        """Return what the converters on all streams of a unit take for one of its foldings."""
        own = {n.name: n.changed(c) for n, c in zip(unit.nodes, choice, strict=True)}
        found = Placed(0, 0, 0.0, 0)
        for node in unit.nodes:
            for source, place_out, user, place_in in self.streams.get(node.name, ()):
                ends = own.get(source.name, source.operator), own.get(user.name, user.operator)
                out = ends[0].stream_bits(place_out, output=True)
                into = ends[1].stream_bits(place_in, output=False)
                found += width_converter.resources(out, into).logic
        return found


def units_of(nodes: list[FoldedNode]) -> list[Unit]:
    """Group the nodes: each depthwise window with the one node that it feeds."""
    producers = {name: node for node in nodes for name in node.step.outputs}
    units: list[list[FoldedNode]] = []
    taken: set[str] = set()
    for node in nodes:
        if node.operator.follows_window:
            window = producers.get(node.step.inputs[0])
            pair = [node]
            if window is not None and isinstance(window.operator, ConvolutionInputGenerator):
                pair = [window, node]
            units.append(pair)
            taken.update(n.name for n in pair)
    units.extend([node] for node in nodes if node.name not in taken)
    return [Unit(group) for group in units]
