"""A folded hardware graph as RTL: every node's module stitched into one, its FIFOs, its simulation.

The depths of the FIFOs come from a simulation. A tensor that waits at a join of two paths, such as
a skip, needs room for what the slower path is behind; how much, tells a run of one image in which
every such FIFO has room for all of it (:meth:`Network.roomy_depths`): each says at the end with how
many entries it would have refused no word. A second run with exactly these must give the same
integers in the same cycles and refuse no word at a join: that is the proof, and with one entry less
somewhere it fails. Where it is known which memories hold the FIFOs (:meth:`Network.placed`), they
have as many rows as these. An image that follows may find a FIFO full and wait, which costs nothing
but a longer interval. The sizes are values of a simulation, so that a design is compiled once; with
FIFOs in DRAM it is another design, at whose port is a model of the memory (:mod:`.dram`). Weights
that are loaded come before the first image; all cycles are counted from that one on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.operators import dram_fifo, fifo
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.dram_fifo import DramLayout
from lmaunet.fpga.operators.rtl_module import LOAD, RTL_FOLDER, RtlModule, load_beats, pack, unpack
from lmaunet.fpga.simulation.compilation import compile_module
from lmaunet.fpga.simulation.dram import MOVED_BEATS, Dram, ring_beats, with_dram
from lmaunet.fpga.simulation.simulator import Simulation, Stalls, simulate
from lmaunet.fpga.simulation.stitch import NodeRtl, fifo_names, node_names, stitch
from lmaunet.fpga.simulation.streams import Expected, Watcher, watches
from lmaunet.fpga.sizing.design import Fifo
from lmaunet.fpga.sizing.folding import FoldedNode

NOTHING_MOVES = 200_000
"""Cycles without a transfer at a border after which a network counts as stuck."""
ROOM_BESIDE = 8
"""Words that a roomy FIFO holds beside those of an image."""
DEEPER = 2
"""By what factor a FIFO may be deeper than estimated before it has to be compiled again."""
UNEXPECTED = 6
"""The part of an image, one in so many, that any FIFO of a join may hold before that: the sizing
takes some for registers that the simulation finds to hold an eighth of one."""
LOADING_SPARE = 8
"""Cycles from the last word that is loaded until the first image, beside one for each node."""


@dataclass(frozen=True)
class NetworkRun:
    """What a simulated network did.

    ``codes``: of the output, int64 ``(n, H, W, C)``. ``latency``: cycles from the first beat in to
    the last beat of the first image out. ``intervals``: cycles between the last beats of
    consecutive images. ``blocked``: for each tensor the cycles in which its FIFO refused a word;
    ``needed``: where it is deeper than a register, the depth at which it would have refused none of
    those that it took. ``begins``, ``ends``: for each tensor, the network's input and output among
    them, the cycle in which its FIFO took its first and its last word, counted from the first beat
    in; behind a padding the last may be of the border of an image that would follow, and the first
    of one that it puts out while weights are loaded, which counts as 0. ``cycles``: until the last
    beat, without loading. ``checksums``: of each watched stream, by name, one for each image.
    ``kept``: the words of the stream that was kept, uint64 ``(words,)``. ``dram_beats``: of 8 bytes
    that were written to DRAM or read from it.
    """

    codes: np.ndarray
    latency: int
    intervals: tuple[int, ...]
    needed: Mapping[str, int]
    blocked: Mapping[str, int]
    begins: Mapping[str, int]
    ends: Mapping[str, int]
    cycles: int
    checksums: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kept: np.ndarray | None = None
    dram_beats: int = 0


class Network:
    """A folded hardware graph whose nodes all have RTL.

    Args:
        executor: of the graph, with its folding written into it.
        shapes: of its streamed tensors, ``(1, H, W, C)``.
        rtl: the folder of the SystemVerilog sources.
        estimated: the FIFOs as the sizing expects them, by tensor.
        dram: how the DRAM behaves that FIFOs may be in.
        burst: beats of a burst of that.

    Raises:
        UserError: for a node without RTL.
    """

    def __init__(
        self,
        executor: Executor,
        shapes: Mapping[str, tuple[int, ...]],
        rtl: Path = RTL_FOLDER,
        estimated: Mapping[str, Fifo] | None = None,
        dram: Dram | None = None,
        burst: int = dram_fifo.BURST,
    ) -> None:
        self.executor, self.shapes, self.rtl = executor, shapes, rtl
        self.dram, self.burst = dram or Dram(), burst
        self.estimated = dict(estimated or {})
        self.styles: Mapping[str, str] = {}
        self.nodes = [_with_rtl(FoldedNode(step), executor) for step in executor.steps]
        self.waiting = {
            tensor
            for step in executor.steps
            if step.operator.joins
            for tensor in step.inputs
            if tensor not in executor.constants and tensor != executor.input
        }
        last = FoldedNode(next(s for s in executor.steps if executor.output in s.outputs))
        self.output_bits = type_bits(last.operator.dtype(0, output=True))

        self._word_bits = {
            tensor: port.bits
            for node in self.nodes
            for tensor, port in zip(node.outputs, node.module.outputs, strict=True)
        }
        self._image_words = {
            tensor: math.prod(shapes[tensor]) // step.operator.lanes(port, output=True)
            for step in executor.steps
            for port, tensor in enumerate(step.outputs)
        }
        self._fifos = fifo_names(self.nodes, executor.input, executor.output)

    def expected(self, images: np.ndarray) -> Expected:
        """Return what images, codes ``(n, H, W, C)``, must give on every stream."""
        return self._watcher().expected(images)

    def expected_words(self, image: np.ndarray, name: str) -> np.ndarray:
        """Return what a stream must carry for an image ``(H, W, C)``: uint64 ``(beats, words)``."""
        return self._watcher().words(image, name)

    def _watcher(self) -> Watcher:
        return Watcher(self.executor, self._fifos, node_names(self.nodes))

    def roomy_depths(self) -> dict[str, int]:
        """Return depths with room for an image at every join."""
        return {tensor: self._image_words[tensor] + ROOM_BESIDE for tensor in self.waiting}

    def placed(self, styles: Mapping[str, str]) -> Network:
        """Return the network with the FIFOs in memories; ``styles``: each one's ``ram_style``."""
        found = copy.copy(self)
        found.styles = styles
        return found

    @property
    def in_dram(self) -> tuple[str, ...]:
        """The tensors whose FIFOs are in DRAM, in the order of their names."""
        return tuple(sorted(t for t, style in self.styles.items() if style == dram_fifo.STYLE))

    @property
    def loaded(self) -> list[NodeRtl]:
        """The nodes whose weights are loaded, in the order in which they are."""
        return [node for node in self.nodes if node.module.load]

    def first_image(self) -> int:
        """Return the cycle in which the first image may come: when all weights are loaded."""
        loaded = self.loaded
        words = sum(len(node.module.load) for node in loaded)
        return words + len(loaded) + LOADING_SPARE if loaded else 0

    @property
    def spread(self) -> int:
        """Cycles by which the DRAM may change when an image comes; 0 where nothing is in it.

        What one burst needs through it at most: its latency is random, and what comes late is
        caught up with.
        """
        return self.dram.latency if self.in_dram else 0

    def fifos(self, depths: Mapping[str, int]) -> dict[str, Fifo]:
        """Return every FIFO between two nodes; a register where no depth is given."""
        plain = Fifo(0, 0)
        return {
            tensor: replace(
                self.estimated.get(tensor, plain),
                bits=bits,
                depth=depths.get(tensor, fifo.SHALLOW),
            )
            for tensor, bits in self._word_bits.items()
        }

    def needed_depths(self, run: NetworkRun) -> dict[str, int]:
        """Return the depths that are just enough for what a roomy run did."""
        return {tensor: run.needed[tensor] for tensor in self.waiting}

    def layout(self, tensor: str, depth: int) -> fifo.Layout:
        """Return how a FIFO of a depth is built."""
        style = self.styles.get(tensor, "auto")
        if style == dram_fifo.STYLE:
            return dram_fifo.layout(
                self._word_bits[tensor], depth, self._image_words[tensor], self.burst
            )
        return fifo.layout(self._word_bits[tensor], depth, style, self._pack(tensor))

    def chain_delay(self, depths: Mapping[str, int]) -> int:
        """Return the cycles that words need through segments beyond the first, of all FIFOs."""
        layouts = [self.layout(tensor, depth) for tensor, depth in depths.items()]
        return fifo.SEGMENT_DELAY * sum(found.segments - 1 for found in layouts)

    def module(self, depths: Mapping[str, int], name: str = "network") -> RtlModule:
        """Return the network as one module; ``depths``: of the FIFOs, in words."""
        return self._stitched({t: self.layout(t, depth) for t, depth in depths.items()}, name)

    def _stitched(self, layouts: Mapping[str, fifo.Layout], name: str) -> RtlModule:
        return stitch(name, self.nodes, self.executor.input, self.executor.output, layouts)

    def _pack(self, tensor: str) -> int:
        return self.estimated[tensor].pack if tensor in self.estimated else 1

    def holds(self, found: fifo.Layout, tensor: str, room: int) -> bool:
        """Return whether a FIFO is a smaller one of that which is compiled for a tensor.

        ``room``: words that it must be able to hold.
        """
        compiled = self._compiled(tensor, room)
        rows = compiled.rows * (compiled.segments if found.segments == 1 else 1)
        return 0 < found.rows <= rows and found.segments <= compiled.segments

    def _compiled(self, tensor: str, room: int) -> fifo.Layout:
        """Return a FIFO with room for all that any run may ask of it.

        The first segment gets the rows of all, see ``fifo.sv``; a later one those of a memory.
        """
        if tensor in self.in_dram:
            return self.layout(tensor, room)
        bits, pack = self._word_bits[tensor], self._pack(tensor)
        whole = fifo.layout(bits, room, pack=pack)
        if tensor not in self.estimated:
            return whole
        deeper = min(room, max(DEEPER * self.estimated[tensor].depth, room // UNEXPECTED))
        parts = [
            fifo.layout(bits, max(deeper, fifo.SHALLOW + 1), style, pack)
            for style in ("block", "ultra")
        ]
        segments = max(part.segments for part in parts)
        rows = max(part.rows for part in parts) if segments > 1 else 0
        return replace(whole, segments=segments, rows=max(rows, -(-whole.rows // segments)))

    def run(
        self,
        codes: np.ndarray,
        depths: Mapping[str, int],
        simulations: Path,
        stalls: Stalls | None = None,
        expected: Expected | None = None,
        kept: str = "",
    ) -> NetworkRun:
        """Simulate images back to back.

        Args:
            codes: of the images, int8 values ``(n, H, W, C)``.
            depths: of the FIFOs, in words.
            simulations: where compiled simulations are kept.
            stalls: of the network's input and output.
            expected: whose streams are watched; none where absent.
            kept: the name of one of them whose words are kept.

        Raises:
            Deadlock, BrokenRule: see :func:`lmaunet.fpga.simulation.simulator.simulate`.
            ToolNotFound: without Verilator or a C++ compiler.
        """
        # a FIFO with a memory is compiled with room for all: its size is a value of the run
        layouts = {tensor: self.layout(tensor, depth) for tensor, depth in depths.items()}
        rooms = self.roomy_depths()
        values = {
            tensor: found
            for tensor, found in layouts.items()
            if tensor in rooms and self.holds(found, tensor, rooms[tensor])
        }
        streams = expected.streams if expected else ()
        watched = watches(streams, self._fifos, values, kept)
        compiled = {**layouts, **{t: self._compiled(t, rooms[t]) for t in values}}
        module = self._stitched(compiled, "network")
        rings = [found for found in compiled.values() if isinstance(found, DramLayout)]
        if rings:
            module = with_dram(module, ring_beats(rings), self.dram)
        lanes_in = module.inputs[0].bits // 8
        lanes_out = module.outputs[0].bits // self.output_bits
        shape = (len(codes), *self.shapes[self.executor.output][1:])
        inputs = {"in0_V": pack(codes.reshape(-1, lanes_in), 8)}
        if module.load:
            inputs[LOAD.name] = load_beats(module)
        wait = self.first_image()
        found = simulate(
            compile_module(module, simulations, self.rtl),
            inputs,
            {"out0_V": math.prod(shape) // lanes_out},
            stalls, NOTHING_MOVES, settle=0, check_paths=False, watch=watched,
            starts={"in0_V": wait},
        )  # fmt: skip
        out = unpack(found.outputs["out0_V"], self.output_bits, lanes_out).reshape(shape)
        cycles = found.cycles["out0_V"]
        start = int(found.cycles["in0_V"][0])
        first = cycles[len(cycles) // len(codes) - 1] - start + 1
        names = self._fifos
        # a padding may put out a border while weights are loaded
        begins = _counters(found, names, "first")
        begins = {t: max(value, start) if wait else value for t, value in begins.items()}
        instances = {stream.name: stream.instance for stream in streams}
        return NetworkRun(
            out,
            int(first),
            tuple(int(v) for v in found.intervals("out0_V", len(codes))),
            _counters(found, names, "needed"),
            _counters(found, names, "blocked"),
            {t: value - start for t, value in begins.items()},
            {t: value - start for t, value in _counters(found, names, "last").items()},
            int(cycles[-1]) + 1 - wait,
            {name: found.checksums[instance] for name, instance in instances.items()},
            found.kept[instances[kept]] if kept else None,
            sum(v for path, v in found.counters.items() if path.endswith(MOVED_BEATS)),
        )


def _with_rtl(node: FoldedNode, executor: Executor) -> NodeRtl:
    constants = [executor.constants[n] for n in node.step.inputs if n in executor.constants]
    streams = tuple(n for n in node.step.inputs if n not in executor.constants)
    return NodeRtl(node.name, node.operator.module(constants), streams, node.step.outputs)


def _counters(found: Simulation, names: Mapping[str, str], counter: str) -> dict[str, int]:
    """Return a counter of each tensor's FIFO, by its instance's place in the hierarchy."""
    tensors = {name: tensor for tensor, name in names.items()}
    values = {}
    for path, value in found.counters.items():
        *places, own = path.split(".")
        instance = next((place for place in places if place in tensors), None)
        if own == counter and instance is not None:
            values[tensors[instance]] = value
    return values
