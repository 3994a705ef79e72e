"""What every stream of a design must carry, from the executor, as a simulation sees it.

A simulation sums up every image of every stream in a checksum; that of what the executor has for
the stream, folded into beats as the stream carries it, must be the same. The sum is defined in
``streams.cpp``: every word of 64 bits enters it with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmaunet.fpga.graph.executor import Executor, Step
from lmaunet.fpga.operators.arithmetic import type_bits
from lmaunet.fpga.operators.common import is_signed
from lmaunet.fpga.operators.fifo import Layout
from lmaunet.fpga.operators.rtl_module import pack, unpack
from lmaunet.fpga.simulation.simulator import Watch

STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Beats:
    """How a stream carries integers: the bits of one, how many a beat has, and their kind."""

    bits: int
    lanes: int
    signed: bool

    def words(self, integers: np.ndarray) -> np.ndarray:
        """Return an image's beats as the harness is told them, uint64 ``(beats, words)``.

        Args:
            integers: of the image, in the order of the stream.
        """
        beats = pack(integers.reshape(-1, self.lanes), self.bits)
        count = -(-self.bits * self.lanes // 64)
        padded = np.zeros((len(beats), count * 8), np.uint8)
        padded[:, : beats.shape[1]] = beats
        return padded.view("<u8")

    def integers(self, words: np.ndarray) -> np.ndarray:
        """Return the integers ``(beats, lanes)`` of words ``(beats, words)``."""
        taken = np.ascontiguousarray(words, "<u8").view(np.uint8)
        size = -(-self.bits * self.lanes // 8)
        return unpack(taken[:, :size], self.bits, self.lanes, signed=self.signed)


@dataclass(frozen=True)
class Inside:
    """A stream of a design, or what an operator shows beside it.

    ``name``: the tensor, and what is shown beside it where it is not the tensor itself.
    ``instance``: that shows it. ``beats``: how it is carried. ``words``: 64-bit words of an image.
    """

    name: str
    instance: str
    beats: Beats
    words: int = 0


@dataclass(frozen=True)
class Expected:
    """What images must give.

    ``output``: the executor's integers ``(n, H, W, C)``, int64. ``streams``: in topological order,
    what a node shows inside before its outputs. ``checksums``: of each stream, by name, one for
    each image.
    """

    output: np.ndarray
    streams: tuple[Inside, ...]
    checksums: Mapping[str, tuple[int, ...]]

    def first(self, count: int) -> Expected:
        """Return what the first ``count`` images must give."""
        sums = {name: values[:count] for name, values in self.checksums.items()}
        return Expected(self.output[:count], self.streams, sums)


def checksum(words: np.ndarray) -> int:
    """Return the sum that ``streams.cpp`` makes of an image's words, uint64 of any shape."""
    flat = np.ascontiguousarray(words, "<u8").ravel()
    with np.errstate(over="ignore"):
        places = _mix(np.arange(len(flat), dtype=np.uint64) + STEP)
        return int(_mix(flat ^ places).sum(dtype=np.uint64))


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Watcher:
    """Follows the executor through images.

    Args:
        executor: of the folded graph.
        fifos: the instance name of each tensor's FIFO.
        nodes: the instance name of each node, by its first output.
    """

    def __init__(
        self, executor: Executor, fifos: Mapping[str, str], nodes: Mapping[str, str]
    ) -> None:
        self.executor, self.fifos, self.nodes = executor, fifos, nodes
        self.steps = {name: step for step in executor.steps for name in step.outputs}
        self.reader = next(step for step in executor.steps if executor.input in step.inputs)

    def expected(self, images: np.ndarray) -> Expected:
        """Return what images must give.

        Args:
            images: codes ``(n, H, W, C)``; those that occur twice are executed once.
        """
        different, places = np.unique(images, axis=0, return_inverse=True)
        places = places.ravel()
        streams: dict[str, Inside] = {}
        sums: dict[str, list[int]] = {}
        outputs = []

        def see(stream: Inside, integers: np.ndarray) -> None:
            words = stream.beats.words(integers)
            streams[stream.name] = replace(stream, words=words.size)
            sums.setdefault(stream.name, []).append(checksum(words))

        outputs = [self._follow(image[None], see) for image in different]
        return Expected(
            np.concatenate(outputs)[places],
            tuple(streams.values()),
            {name: tuple(values[i] for i in places) for name, values in sums.items()},
        )

    def words(self, image: np.ndarray, name: str) -> np.ndarray:
        """Return what one stream must carry for an image ``(H, W, C)``; see :meth:`Beats.words`."""
        seen: list[np.ndarray] = []

        def see(stream: Inside, integers: np.ndarray) -> None:
            if stream.name == name:
                seen.append(stream.beats.words(integers))

        self._follow(image[None], see)
        return seen[0]

    def _follow(self, image: np.ndarray, see: Callable[[Inside, np.ndarray], None]) -> np.ndarray:
        """Execute an image; ``see`` gets each stream with its integers as it carries them."""

        def observe(tensor: str, integers: np.ndarray) -> None:
            step = self.steps[tensor]
            beats = _beats(step, step.outputs.index(tensor), output=True)
            see(Inside(tensor, self.fifos[tensor], beats), step.operator.streamed(integers))

        def inside(step: Step, what: str, integers: np.ndarray, bits: int) -> None:
            tensor = step.outputs[0]
            beats = Beats(bits, step.operator.lanes(0, output=True), signed=True)
            see(Inside(f"{tensor}, {what}", self.nodes[tensor], beats), integers)

        source = self.executor.input
        beats = _beats(self.reader, self.reader.inputs.index(source), output=False)
        see(Inside(source, self.fifos[source], beats), image)
        return self.executor.run(image, observe, inside)


def _beats(step: Step, port: int, *, output: bool) -> Beats:
    dtype = step.operator.dtype(port, output=output)
    lanes = step.operator.lanes(port, output=output)
    return Beats(type_bits(dtype), lanes, signed=bool(is_signed(dtype)))


def watches(
    streams: Sequence[Inside],
    fifos: Mapping[str, str],
    layouts: Mapping[str, Layout],
    kept: str = "",
) -> list[Watch]:
    """Return what a simulation is told: the streams to watch, and the sizes of FIFOs.

    Args:
        streams: the streams.
        fifos: the name of each tensor's FIFO.
        layouts: of the FIFOs that have other sizes than the compiled ones, by tensor.
        kept: the name of the stream whose words are kept.
    """
    told = {s.instance: Watch(s.instance, s.words, keeps=s.name == kept) for s in streams}
    for tensor, found in layouts.items():
        watch = told.get(fifos[tensor], Watch(fifos[tensor], 0))
        told[fifos[tensor]] = replace(watch, rows=found.rows, segments=found.segments)
    return list(told.values())
