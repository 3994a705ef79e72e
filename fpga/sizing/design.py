"""The design on a board: its folding, its resources, its cycles and its latency.

Every figure here is estimated; a simulation and a synthesis put theirs in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from lmaunet.fpga.board.boards import Board
from lmaunet.fpga.board.memories import KIND_OF, Located
from lmaunet.fpga.board.placement import Placed, Resources, total
from lmaunet.fpga.operators import dram_fifo, fifo
from lmaunet.fpga.sizing.folding import FoldedNode
from lmaunet.fpga.sizing.schedule import Schedule
from lmaunet.fpga.sizing.solver import place

DEFAULT_CLOCK_MHZ = 250.0
QUEUE = "FIFO of "  # a tensor is named as the node that makes it
CONVERTERS, FIFOS = "stream width converters", "stream FIFOs"
NAMES = {
    "lut": "LUT", "dsp": "DSP", "bram36": "BRAM36", "uram": "URAM", "ff": "flip-flops",
    "dram_mb_s": "MB/s of DRAM",
}  # fmt: skip


@dataclass(frozen=True)
class Fifo:
    """A queue on a stream: bits of a word, words, and how many of them share a row of a memory.

    ``image``: words of an image, and ``interval_us`` between two, where it may be in DRAM.
    """

    bits: int
    depth: int
    pack: int = 1
    image: int = 0
    interval_us: float = 0.0

    def resources(self, stream: str = "") -> Resources:
        """Return the estimate; ``stream``: the tensor that passes through it."""
        outside = dram_fifo.outside(self.bits, self.depth, self.image, self.interval_us)
        return fifo.resources(self.bits, self.depth, stream, self.pack, outside)


@dataclass(frozen=True)
class Design:
    """A folded hardware graph on a board.

    ``resources``: what each node takes, by its first output, and :data:`CONVERTERS`. ``fifos``: by
    tensor. ``styles``: of each of a node's memories, and of each FIFO's, where it is, as the
    synthesis attribute ``ram_style``, or ``dram``. ``limits``: in words, what keeps it from being
    better.
    ``dsp_bound``: the interval in cycles if every DSP of the board worked in every cycle.
    """

    board: Board
    clock_mhz: float
    nodes: list[FoldedNode]
    schedule: Schedule
    resources: Mapping[str, Resources]
    fifos: Mapping[str, Fifo]
    placed: Mapping[str, Placed]
    styles: Mapping[str, tuple[str, ...]]
    limits: str = ""
    dsp_bound: int = 0

    @staticmethod
    def of(
        board: Board,
        clock_mhz: float,
        nodes: list[FoldedNode],
        found: Schedule,
        resources: Mapping[str, Resources],
        fifos: Mapping[str, Fifo],
        loaded: Mapping[str, int] | None = None,
    ) -> Design:
        """Return the design with every memory placed.

        ``loaded``: how many memories of a node are loaded at the start, where that is decided.
        """
        queues = _queues(fifos)
        options = place(dict(resources) | queues, board, loaded)
        placed = {name: options[name].placed for name in resources}
        placed[FIFOS] = sum((options[name].placed for name in queues), Placed(0, 0, 0.0, 0))
        styles = {name: option.styles for name, option in options.items()}
        return Design(board, clock_mhz, nodes, found, resources, fifos, placed, styles)

    def located(self) -> list[Located]:
        """Return every memory of the nodes and of the FIFOs, and where it is."""
        queues = _queues(self.fifos)
        return [
            Located(FIFOS if name in queues else name, memory, KIND_OF[style])
            for name, part in (*self.resources.items(), *queues.items())
            for memory, style in zip(part.memories, self.styles[name], strict=True)
        ]

    def fifo_styles(self) -> dict[str, str]:
        """Return the ``ram_style`` of each FIFO that has a memory, or ``dram``, by tensor."""
        styles = {t: self.styles[f"{QUEUE}{t}"] for t in self.fifos}
        return {t: found[0] for t, found in styles.items() if found}

    @property
    def total(self) -> Placed:
        """All of it, and the shell around it."""
        return total(self.placed.values())

    @property
    def fits(self) -> bool:
        """Whether no resource exceeds the board's limit."""
        return not self.total.excess(self.board)

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

    def with_fifos(self, fifos: Mapping[str, Fifo]) -> Design:
        """Return the design with other FIFOs, by tensor; it may take more than the board has.

        What is loaded at the start stays the same, because the nodes' RTL depends on it.
        """
        loaded = {
            name: sum(m.loaded(s) for m, s in zip(part.memories, self.styles[name], strict=True))
            for name, part in self.resources.items()
        }
        design = Design.of(
            self.board, self.clock_mhz, self.nodes, self.schedule, self.resources, fifos, loaded
        )
        return replace(design, limits=self.limits, dsp_bound=self.dsp_bound)


def _queues(fifos: Mapping[str, Fifo]) -> dict[str, Resources]:
    return {f"{QUEUE}{t}": queue.resources(t) for t, queue in fifos.items()}
