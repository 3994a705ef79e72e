"""Sizing: the fastest folding that fits a board, or the smallest that meets a latency.

For a bound on every node's cycles an integer program (:mod:`lmaunet.fpga.sizing.solver`) takes one
folding for each node and a place for each memory, so that the sum of the shares of the board is
smallest. The bound is searched among the cycle counts that foldings have: first one for all nodes,
by bisection, then one for each part of the network, a part being a run of nodes on maps of one
size.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from lmaunet.errors import UserError
from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.board.placement import SHELL, Placed, Resources, sum_of
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.operators import fifo, width_converter
from lmaunet.fpga.sizing.design import CONVERTERS, Design, Fifo
from lmaunet.fpga.sizing.folding import FoldedNode, Neighbours, Unit, units_of
from lmaunet.fpga.sizing.schedule import Schedule, schedule
from lmaunet.fpga.sizing.shortages import overload, share, shortages, too_small
from lmaunet.fpga.sizing.solver import Option, may_fit, options_of, solve

LOOK_FURTHER = 4
"""Bounds beyond the first that does not fit that are tried too: less parallelism is not always
less memory, because a slower design lets more rows wait."""
TRIED_WHERE_NOTHING_FITS = 12
SAME = 0.03
"""Bounds of a part that differ by less than this share are taken for one."""
PACKED_BITS = 36 * 1024
"""Bits beyond which the words of a FIFO share rows: a block RAM. A word of a row that is not full
can't be read, which needs that much of a lead."""
ROUNDS = 2
"""How often the program is solved for one bound: the second time it knows the queues."""
MORE_ROUNDS = 3
"""How often more with weights that are loaded, while what it did not know of exceeds the board."""


class Sizing:
    """Tries foldings of one hardware graph.

    Args:
        executor: of the graph.
        shapes: of its streamed tensors.
    """

    def __init__(self, executor: Executor, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.nodes = [FoldedNode(step) for step in executor.steps]
        self.unfolded = [dict(node.attributes) for node in self.nodes]
        self.shapes, self.source = shapes, executor.input
        self.units: list[Unit] = units_of(self.nodes)
        self.neighbours = Neighbours(self.nodes)
        self.parts = self._parts()
        # cycles of the slowest node when nothing can be faster, and when all is unfolded
        slowest = max(node.cycles() for node in self.nodes)
        self.bounds = max(unit.fastest for unit in self.units), slowest

    def _parts(self) -> list[int]:
        """Return each unit's part: a run of nodes, in topological order, on maps of one size."""
        part, size, number = {}, 0, -1
        for node in self.nodes:
            pixels = node.operator.map_size(self.shapes[node.name])
            if pixels != size:
                number, size = number + 1, pixels
            part[node.name] = number
        return [part[unit.nodes[-1].name] for unit in self.units]

    def steps(self, part: int | None = None) -> list[int]:
        """Return the cycle counts that foldings of a part, or of all, have within the bounds."""
        units = [u for u, p in zip(self.units, self.parts, strict=True) if part in (None, p)]
        found = {cycles for unit in units for cycles in unit.steps}
        low = max(unit.fastest for unit in units)
        return sorted(cycles for cycles in found if cycles >= low)

    def dsp_bound(self, board: Board) -> int:
        """Return the interval, in cycles, if every DSP of a board worked in every cycle.

        Each unit is taken in the folding that spends fewest DSP cycles on an image; no folding of
        the network can have a shorter interval on that board.
        """
        work = sum(
            min(
                option.placed.dsp * cycles
                for cycles, options in unit.foldings
                for option in options
            )
            for unit in self.units
        )
        return math.ceil(work / board.dsp)

    def may_fit(self, board: Board) -> bool:
        """Tell whether some folding may fit a board; False is certain, FIFOs left aside."""
        loosest = self.steps()[-1]
        return may_fit([unit.best_options(loosest) for unit in self.units], board)

    def design(self, bound: int | Mapping[int, int], board: Board, clock_mhz: float) -> Design:
        """Fold every node within a bound and estimate the result; it may not fit.

        Args:
            bound: cycles, of all nodes or by part.
            board: the board.
            clock_mhz: the clock that is assumed.
        """
        for node, attributes in zip(self.nodes, self.unfolded, strict=True):
            node.attributes = dict(attributes)
        bounds = [bound if isinstance(bound, int) else bound[part] for part in self.parts]
        between = spare = Placed(0, 0, 0.0, 0)
        queues = list[Resources]()
        for number in range(ROUNDS + MORE_ROUNDS):
            parts = [u.best_options(b) for u, b in zip(self.units, bounds, strict=True)]
            parts += [options_of(queue) for queue in queues]
            solution = solve(parts, board, SHELL + between + spare)
            taken = solution.taken
            for unit, option in zip(self.units, taken, strict=False):
                unit.take(option.choice)
            for unit, option, within in zip(self.units, taken, bounds, strict=False):
                self._match_neighbours(unit, option, within, board)
            found = schedule(self.nodes, self.shapes, self.source)
            fifos = self._fifos(found, found.interval / clock_mhz)
            converters = self._converters()
            between = converters.logic
            queues = [queue.resources() for queue in fifos.values()]
            if number + 1 < ROUNDS:
                continue
            resources: dict[str, Resources] = {node.name: node.resources() for node in self.nodes}
            resources[CONVERTERS] = converters
            nodes = [FoldedNode(node.step, dict(node.attributes)) for node in self.nodes]
            design = Design.of(board, clock_mhz, nodes, found, resources, fifos)
            excess = design.total.excess(board)
            if not excess or solution.load > 1 or not any(option.loaded for option in taken):
                break
            spare = replace(
                spare,
                **{kind: getattr(spare, kind) + math.ceil(over) for kind, over in excess.items()},
            )
        return design

    def _match_neighbours(self, unit: Unit, taken: Option, bound: int, board: Board) -> None:
        """Take a folding that needs less with the converters around it, and no more memory or DSPs.

        Less is the sum of the shares of LUTs and flip-flops.
        """
        spare, limits = taken.placed, board.limits

        def around(option: Option) -> float:
            all_of_it = option.placed + self.neighbours.converters(unit, option.choice)
            return all_of_it.lut / limits["lut"] + all_of_it.ff / limits["ff"]

        others = [
            option for option in unit.options(bound)
            if option.placed.dsp <= spare.dsp and option.placed.bram36 <= spare.bram36
            and option.placed.uram <= spare.uram
        ]  # fmt: skip
        unit.take(min(others, key=around).choice)

    def _streams(self) -> list[tuple[str, FoldedNode, int, int, int]]:
        """Return each stream between two nodes: tensor, consumer, input, bits from it and to it."""
        producers = {
            name: (node, i) for node in self.nodes for i, name in enumerate(node.step.outputs)
        }
        found = []
        for node in self.nodes:
            for place_in, name in enumerate(node.step.inputs):
                if name in producers:
                    source, place_out = producers[name]
                    out = source.operator.stream_bits(place_out, output=True)
                    into = node.operator.stream_bits(place_in, output=False)
                    found.append((name, node, place_in, out, into))
        return found

    def _converters(self) -> Resources:
        return sum_of(width_converter.resources(out, into) for *_, out, into in self._streams())

    def _fifos(self, found: Schedule, interval_us: float) -> dict[str, Fifo]:
        """Return a FIFO for each stream: a register, or at a join room for the rows that wait."""
        fifos = {}
        for name, node, place_in, bits, _ in self._streams():
            rows = found.rows_waiting.get((node.name, place_in), 0)
            depth, pack, image = fifo.SHALLOW, 1, 0
            if rows > 1:
                image = self._image_words(name)
                depth = max(fifo.SHALLOW, math.ceil(rows * image / self._rows(name)))
                if depth * bits > PACKED_BITS:
                    pack = fifo.words_of_a_row(bits, image)
            fifos[name] = Fifo(bits, depth, pack, image, interval_us if image else 0.0)
        return fifos

    def _image_words(self, name: str) -> int:
        """Return how many words a stream has for an image."""
        node = next(n for n in self.nodes if name in n.step.outputs)
        lanes = node.operator.lanes(node.step.outputs.index(name), output=True)
        return math.prod(self.shapes[name]) // lanes

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


def size(
    sizing: Sizing, board: Board, clock_mhz: float, target_ms: float | None = None
) -> Design:  # fmt: skip
    """Choose the folding: the fastest that fits the board, or the smallest within a latency.

    FIFOs go into DRAM only where nothing on the chip does that: who builds the design must then
    connect a port to it. Weights are loaded only where DRAM does not help either, and then both are
    allowed: the host must load them after each reset. The design's ``limits`` says what keeps it
    from being faster, or smaller.

    Args:
        sizing: the graph.
        board: the board.
        clock_mhz: the clock that is assumed.
        target_ms: the latency to meet with as little as possible; None for the fastest.

    Raises:
        UserError: where the board is too small, naming what does not fit, by how much, and the
            next larger board; or where no folding is fast enough.
    """
    initialised = replace(board, loads=False)
    plain, loading = replace(initialised, dram_mb_s=None), board.loads and board.uram > 0
    # equal ones are tried once
    ways = list(dict.fromkeys((plain, initialised, replace(board, loads=loading))))
    while len(ways) > 1 and not sizing.may_fit(ways[0]):
        ways.pop(0)
    while True:
        try:
            found = _sized(sizing, ways.pop(0), clock_mhz, target_ms)
        except UserError:
            if not ways:
                raise
        else:
            return replace(found, dsp_bound=sizing.dsp_bound(board))


def _sized(sizing: Sizing, board: Board, clock_mhz: float, target_ms: float | None) -> Design:
    search = _Search(sizing, board, clock_mhz)
    return search.fastest() if target_ms is None else search.smallest(target_ms)


class _Search:
    """Designs of one graph for one board by their bounds, each made once."""

    def __init__(self, sizing: Sizing, board: Board, clock_mhz: float) -> None:
        self.sizing, self.board, self.clock_mhz = sizing, board, clock_mhz
        self.steps = sizing.steps()
        self.known: dict[tuple[int, ...], Design] = {}

    def at(self, bound: int | Mapping[int, int]) -> Design:
        """Return the design within a bound; equal foldings are not made twice."""
        sizing = self.sizing
        limits = tuple(
            unit.limit(bound if isinstance(bound, int) else bound[part])
            for unit, part in zip(sizing.units, sizing.parts, strict=True)
        )
        if limits not in self.known:
            self.known[limits] = sizing.design(bound, self.board, self.clock_mhz)
        return self.known[limits]

    def fastest(self) -> Design:
        """Return the design with the shortest latency that fits."""
        steps = self.steps
        first = bisect.bisect_left(steps, True, key=lambda step: self.at(step).fits)
        tried = steps[max(0, first - LOOK_FURTHER) : first + 1]
        if first == len(steps):
            tried = steps[:: -(-len(steps) // TRIED_WHERE_NOTHING_FITS)] + steps[-1:]
        fitting = [step for step in tried if self.at(step).fits]
        if not fitting:
            raise too_small(min((self.at(step) for step in tried), key=overload))
        best = min(fitting, key=lambda step: self.at(step).latency_ms)

        def better(design: Design, than: Design) -> float:
            return max(0.0, than.latency_ms - design.latency_ms) if design.fits else -1.0

        found = self._refine(best, self._faster, better)
        return replace(found, limits=self._what_limits(found, steps[: steps.index(best)]))

    def smallest(self, target_ms: float) -> Design:
        """Return the design with the smallest sum of shares of the board within a latency."""
        steps = self.steps
        meeting = bisect.bisect_right(steps, target_ms, key=lambda step: self.at(step).latency_ms)
        limits = f"the smallest that was found within {target_ms:g} ms"
        if meeting == 0:
            found = self.fastest()  # other bounds for its parts may gain what one for all does not
            if found.latency_ms <= target_ms:
                return replace(found, limits=limits)
            raise UserError(
                f"target_ms={target_ms:g}: the fastest folding takes {found.latency_ms:.3g} ms at "
                f"{self.clock_mhz:g} MHz (estimated); allow more time or choose a smaller network"
            )
        # the slowest is most likely to fit; a little less parallelism can need more memory
        tried = steps[max(0, meeting - LOOK_FURTHER) : meeting]
        fitting = [step for step in tried if self.at(step).fits]
        if not fitting:
            raise too_small(min((self.at(step) for step in tried), key=overload))

        def better(design: Design, than: Design) -> float:
            meets = design.fits and design.latency_ms <= target_ms
            return max(0.0, share(than) - share(design)) if meets else -1.0

        return replace(self._refine(max(fitting), self._slower, better), limits=limits)

    def _refine(
        self,
        bound: int,
        move: Callable[[int, int], int | None],
        better: Callable[[Design, Design], float],
    ) -> Design:
        """Move the bound of one part at a time, the most gainful first, while one gains.

        A part whose move does not fit or misses the target (a gain below 0) is left alone from
        then on: later moves only take more of what it lacked.
        """
        bounds = dict.fromkeys(self.sizing.parts, bound)
        best = self.at(bounds)
        hopes = dict.fromkeys(bounds, math.inf)  # what each part's move gained when last tried
        while hopes:
            part = max(hopes, key=lambda part: hopes[part])
            if hopes[part] <= 0:
                break
            new = move(part, bounds[part])
            gain = -1.0 if new is None else better(self.at(bounds | {part: new}), best)
            if new is None or gain < 0:
                del hopes[part]
            elif gain < max((h for p, h in hopes.items() if p != part), default=0.0):
                hopes[part] = gain  # another one may gain more
            else:
                hopes[part] = gain
                if gain > 0:
                    bounds[part] = new
                    best = self.at(bounds)
                    # what gained nothing before may do so now
                    hopes = {p: h if h > 0 and p != part else math.inf for p, h in hopes.items()}
        return best

    def _faster(self, part: int, bound: int) -> int | None:
        """Return the next lower bound of a part that differs by more than a little."""
        steps = [step for step in self.sizing.steps(part) if step < bound * (1 - SAME)]
        return steps[-1] if steps else None

    def _slower(self, part: int, bound: int) -> int | None:
        steps = [step for step in self.sizing.steps(part) if step > bound * (1 + SAME)]
        return steps[0] if steps else None

    def _what_limits(self, found: Design, faster: Sequence[int]) -> str:
        """Return in words why there is no faster design; ``faster``: the bounds below its own."""
        for bound in reversed(faster):
            tried = self.at(bound)
            short = shortages(tried)
            if short and tried.latency_ms < found.latency_ms:
                return (
                    f"the next faster folding, {tried.latency_ms:.3g} ms (estimated), would need "
                    f"{short}"
                )
        if faster:
            return "no folding that was tried has a shorter latency"
        slowest = found.slowest()
        return f"no folding of {slowest.op_type} {slowest.name} is faster"
