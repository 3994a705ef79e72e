"""Estimated resources of every hardware operator, and where memories are placed on a board.

Nothing here was synthesised for the network at hand. FINN+'s own estimators are not used: its
DSP count of an int8 MVAU is half of what its RTL instantiates, its LUT count of an MVAU is always
0, and several operators inherit 0. Sources, by the mark that a function's docstring gives:

- *yosys*: synthesised with yosys for UltraScale+ (one or two sizes), then scaled.
- *rtl*: read from FINN+'s RTL source.
- *architecture*: from the structure of the device (DSP48E2 27x18 with a 48-bit adder, six-input
  LUTs with F7 to F9 multiplexers, 36 kbit block RAM, 72-bit by 4096 UltraRAM).
- *assumed*: a plain assumption, to be replaced by a synthesis result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fpga.arithmetic import type_bits
from fpga.boards import URAM_SHARE, Board
from lmaunet.errors import UserError

# Block RAM of 18 kbit by depth and width; LUTRAM: 32 x 14 bits in 8 LUTs.
BRAM18_SHAPES = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))
LUT_PER_LUTRAM_BIT_32 = 8 / 14
# A memory goes into LUTs where that costs fewer LUTs than this for each block RAM it saves.
LUT_WORTH_A_BRAM36 = 90
URAM_WIDTH, URAM_DEPTH = 72, 4096
KINDS = ("lutram", "bram36", "uram")
# What surrounds the network: DMA in and out, AXI interconnect, resets (assumed).
SHELL_LUT = 9_000


@dataclass(frozen=True)
class Memory:
    """A memory of ``depth`` words of ``width`` bits; ``initialised`` holds constants.

    ``stream``: of a FIFO, the tensor that passes through it.
    """

    purpose: str
    width: int
    depth: int
    initialised: bool = False
    stream: str = ""

    @property
    def bits(self) -> int:
        """Bits that it holds."""
        return self.width * self.depth

    @functools.cached_property
    def bram18(self) -> int:
        """18 kbit block RAMs, in the best of their shapes."""
        return min(
            math.ceil(self.depth / depth) * math.ceil(self.width / width)
            for depth, width in BRAM18_SHAPES
        )

    @property
    def bram36(self) -> float:
        """36 kbit block RAMs, in halves."""
        return self.bram18 / 2

    @functools.cached_property
    def uram(self) -> int:
        """UltraRAMs; words narrower than 72 bits are packed side by side."""
        together = max(1, URAM_WIDTH // self.width)
        width, depth = self.width * together, math.ceil(self.depth / together)
        return math.ceil(width / URAM_WIDTH) * math.ceil(depth / URAM_DEPTH)

    @functools.cached_property
    def lutram(self) -> int:
        """LUTs that hold it as distributed RAM."""
        return math.ceil(self.width * math.ceil(self.depth / 32) * LUT_PER_LUTRAM_BIT_32)

    @property
    def distributed(self) -> bool:
        """Whether LUTs are the cheaper place."""
        return self.depth <= 32 or self.lutram <= LUT_WORTH_A_BRAM36 * self.bram36


@dataclass(frozen=True)
class Resources:
    """LUTs and DSPs without the memories, and the memories."""

    lut: int
    dsp: int
    memories: tuple[Memory, ...] = ()


@dataclass(frozen=True)
class Placed:
    """What one node or a whole design takes of a board."""

    lut: int
    dsp: int
    bram36: float
    uram: int

    def __add__(self, other: Placed) -> Placed:
        return Placed(
            self.lut + other.lut, self.dsp + other.dsp,
            self.bram36 + other.bram36, self.uram + other.uram,
        )  # fmt: skip

    def excess(self, board: Board) -> dict[str, float]:
        """Return by how much each resource exceeds the board's limit, where it does."""
        return {
            name: getattr(self, name) - limit
            for name, limit in board.limits.items()
            if getattr(self, name) > limit
        }


@dataclass(frozen=True)
class Located:
    """A memory of a node, and the kind of memory on the board that holds it: of :data:`KINDS`."""

    node: str
    memory: Memory
    kind: str

    @property
    def taken(self) -> float:
        """LUTs, block RAMs or UltraRAMs that it takes."""
        return float(getattr(self.memory, self.kind))


def place(nodes: Mapping[str, Resources], board: Board) -> dict[str, Placed]:
    """Place every memory of a design as :func:`locate` does; return what each node takes."""
    taken: dict[tuple[str, str], float] = {}
    for found in locate(nodes, board):
        key = found.node, found.kind
        taken[key] = taken.get(key, 0) + found.taken
    return {
        name: Placed(
            node.lut + int(taken.get((name, "lutram"), 0)),
            node.dsp,
            taken.get((name, "bram36"), 0.0),
            int(taken.get((name, "uram"), 0)),
        )
        for name, node in nodes.items()
    }


def locate(nodes: Mapping[str, Resources], board: Board) -> list[Located]:
    """Return where every memory of a design goes.

    Small memories go into LUTs. Of the others those that save most block RAM for an UltraRAM go
    into UltraRAM while it lasts; memories with constants last, because UltraRAM cannot be
    initialised by a bitstream and the host must then write them at start-up.
    """
    large = [
        (name, memory)
        for name, node in nodes.items()
        for memory in node.memories
        if not memory.distributed
    ]
    large.sort(key=lambda item: (item[1].initialised, -item[1].bram36 / item[1].uram))
    bram_left, uram_left = board.limits["bram36"], math.floor(URAM_SHARE * board.uram)
    in_uram: list[tuple[str, Memory]] = []
    in_bram: list[tuple[str, Memory]] = []
    for name, memory in large:
        if (
            memory.uram <= uram_left
            and memory.bram36 >= 1.5 * memory.uram
            and not (memory.initialised)
        ):
            in_uram.append((name, memory))
            uram_left -= memory.uram
        else:
            in_bram.append((name, memory))
            bram_left -= memory.bram36
    for item in sorted(in_bram, key=lambda item: -item[1].bram36 / item[1].uram):
        if bram_left >= 0:
            break
        if item[1].uram <= uram_left:
            in_bram.remove(item)
            in_uram.append(item)
            uram_left -= item[1].uram
            bram_left += item[1].bram36
    small = [(n, m) for n, node in nodes.items() for m in node.memories if m.distributed]
    return [
        Located(name, memory, kind)
        for kind, held in zip(KINDS, (small, in_bram, in_uram), strict=True)
        for name, memory in held
    ]


def total(placed: Iterable[Placed]) -> Placed:
    """Return the sum of a design's nodes and of the shell around them."""
    return sum(placed, Placed(SHELL_LUT, 0, 0.0, 0))


def macs_per_dsp(weight_bits: int, activation_bits: int) -> int:
    """Return the multiplications that FINN+'s MVU packs into one DSP48E2.

    Source: NUM_LANES of mvu.sv for narrow-range weights (*rtl*): 8 x 8 bits 2, 4 x 8 bits 3.
    """
    if weight_bits >= 27:
        return 1
    return 1 + (27 - weight_bits) // (weight_bits + activation_bits - 1)


Attributes = Mapping[str, Any]
ESTIMATES: dict[str, Callable[[Attributes], Resources]] = {}


def _estimates(op_type: str) -> Callable[..., Any]:
    def register(function: Callable[[Attributes], Resources]) -> Callable[[Attributes], Resources]:
        ESTIMATES[op_type] = function
        return function

    return register


def estimate(op_type: str, attributes: Attributes) -> Resources:
    """Return the estimated resources of one node.

    Args:
        op_type: the operator, with or without its backend's suffix.
        attributes: the node's attributes.

    Raises:
        UserError: where there is no estimate for the operator; it is never taken as 0.
    """
    name = op_type.removesuffix("_rtl").removesuffix("_hls")
    if name not in ESTIMATES:
        raise UserError(
            f"no resource estimate for {op_type}; known are: {', '.join(sorted(ESTIMATES))}"
        )
    return ESTIMATES[name](attributes)


@_estimates("MVAU")
def _mvau(a: Attributes) -> Resources:
    """DSPs: macs_per_dsp (*rtl*). LUTs: 46 a DSP for the adder tree (*yosys*, PE 4 SIMD 9), 150."""
    pe, simd, bits = a["PE"], a["SIMD"], type_bits(a["weightDataType"])
    dsp = math.ceil(pe / macs_per_dsp(bits, type_bits(a["inputDataType"]))) * simd
    depth = a["MW"] * a["MH"] // (pe * simd)
    weights = Memory("weights", pe * simd * bits, depth, initialised=True)
    return Resources(150 + 46 * dsp, dsp, (weights,))


@_estimates("VVAU")
def _vvau(a: Attributes) -> Resources:
    """One DSP and 28 LUTs a multiplication, 250 LUTs.

    Our RTL, *yosys*, PE 4: 338 LUTs for SIMD 1 and 4-bit weights, 591 for SIMD 3 and 8 bits, both
    with their weights as LUTs.
    """
    pe, simd, bits = a["PE"], a["SIMD"], type_bits(a["weightDataType"])
    taps = math.prod(a["Kernel"])
    weights = Memory(
        "weights", pe * simd * bits, a["Channels"] * taps // (pe * simd), initialised=True
    )
    return Resources(250 + 28 * pe * simd, pe * simd, (weights,))


@_estimates("ConvolutionInputGenerator")
def _window(a: Attributes) -> Resources:
    """LUTs: 218 for a small one (*yosys*), 6 a channel; buffer sizes as FINN+'s generator (*rtl*).

    In the parallel form the window is in registers and the lines above it in memories.
    """
    simd, (kernel_h, kernel_w), (_, width) = a["SIMD"], a["ConvKernelDim"], a["IFMDim"]
    bits, folds = type_bits(a["inputDataType"]), a["IFMChannels"] // a["SIMD"]
    if a["parallel_window"] and kernel_h * kernel_w > 1:
        lines = tuple(
            Memory("line", simd * bits, max(1, (width - kernel_w) * folds + 1))
            for _ in range(kernel_h - 1)
        )
        # registers are flip-flops; a multiplexer over the folds costs LUTs
        return Resources(218 + 6 * simd + kernel_h * kernel_w * simd // 2, 0, lines)
    stride_h = a["Stride"][0]
    depth = ((kernel_h - 1) * width + kernel_w) * folds
    depth += max(0, (stride_h - 1) * width - kernel_h * kernel_w) * folds
    return Resources(218 + 6 * simd, 0, (Memory("line", simd * bits, depth),))


@_estimates("FMPadding")
def _padding(a: Attributes) -> Resources:
    """59 LUTs (*yosys*, 8 bits wide) and one a further bit; ours is 51 for 32 bits."""
    return Resources(51 + a["SIMD"] * type_bits(a["inputDataType"]), 0)


ESTIMATES["PadWithCode"] = _padding


@_estimates("Requantize")
def _requantize(a: Attributes) -> Resources:
    """A lane: one DSP to 27-bit inputs, else two (*architecture*); 40 LUTs a lane.

    Our RTL, *yosys*, without the ROM: 20 LUTs a lane, 64 with a shifter of 8 positions. That is
    for DSP48E1; for UltraScale+ yosys leaves the adder and the registers outside the DSP.

    The LUTs are the barrel shifter's last stages and the clip. A plain shift needs no DSP but an
    adder as wide as the input.
    """
    pe, bits, channels = a["PE"], type_bits(a["inputDataType"]), a["NumChannels"]
    folds = channels // pe
    if a["IsShift"]:
        return Resources(60 + pe * (40 + bits), 0, (Memory("offsets", 54 * pe, folds, True),))
    dsp = pe * (1 if bits <= 27 else 2)
    return Resources(60 + 40 * pe, dsp, (Memory("multipliers", 71 * pe, folds, True),))


@_estimates("TableActivation")
def _table(a: Attributes) -> Resources:
    """A ROM of 256 x 1 bit is four LUTs and their F7, F8 multiplexers (*architecture*)."""
    bits = type_bits(a["outputDataType"])
    return Resources(20 + a["PE"] * bits * math.ceil(a["Entries"] / 64), 0)


@_estimates("SelectiveScan")
def _scan(a: Attributes) -> Resources:
    """5 DSPs a lane, 3 a channel; LUTs: 150 a lane, 330 a channel, 120 (*yosys*, 1 to 64 lanes).

    Fitted to within 12% for the 7 series, whose DSPs yosys fills with the registers and adders
    around a multiplication; AMD's tools should for UltraScale+ too. The table of softplus is in the
    LUTs of a channel. Also the state (one word a channel and state), A and D.
    """
    pd, pn = a["PD"], a["PN"]
    lanes, channels, states = pd * pn, a["NumChannels"], a["States"]
    depth = channels * states // lanes
    memories = (
        Memory("state", a["StateBits"] * lanes, depth),
        Memory("A", a["ABits"] * lanes, depth, initialised=True),
        Memory("D", a["DBits"] * pd, channels // pd, initialised=True),
    )
    return Resources(120 + 150 * lanes + 330 * pd, 5 * lanes + 3 * pd, memories)


def _elementwise(dsp_a_lane: int) -> Callable[[Attributes], Resources]:
    def function(a: Attributes) -> Resources:
        """An int8 multiplication is one DSP; else 80 LUTs and 10 a lane (*yosys*, PE 4: 70, 74)."""
        return Resources(80 + 10 * a["PE"], dsp_a_lane * a["PE"])

    return function


ESTIMATES["ElementwiseMul"] = _elementwise(1)
ESTIMATES["ElementwiseAdd"] = _elementwise(0)


@_estimates("Pool")
def _pool(a: Attributes) -> Resources:
    """A comparison and a selection of 8 bits are 12 LUTs; 100 LUTs (*yosys*, PE 4: 97)."""
    return Resources(100 + 12 * a["PE"], 0)


@_estimates("UpsampleNearestNeighbour")
def _upsample(a: Attributes) -> Resources:
    """200 LUTs, 4 a channel (*yosys*, SIMD 4: 112), and a row of the input."""
    simd = a["SIMD"]
    row = Memory("row", simd * type_bits(a["inputDataType"]), a["WI"] * a["NumChannels"] // simd)
    return Resources(200 + 4 * simd, 0, (row,))


@_estimates("StreamingConcat")
def _concat(a: Attributes) -> Resources:
    """100 LUTs, and 8 a channel and input for the selection (*yosys*, two of SIMD 4: 47)."""
    return Resources(100 + 8 * a["SIMD"] * len(a["ChannelsPerStream"]), 0)


@_estimates("DuplicateStreams")
def _duplicate(a: Attributes) -> Resources:
    """60 LUTs, and 2 a lane and output (*yosys*, two of PE 4: 39)."""
    return Resources(60 + 2 * a["PE"] * a["NumOutputStreams"], 0)


@_estimates("Reshape")
def _reshape(a: Attributes) -> Resources:
    """Renames a stream: a register stage of 20 LUTs (*assumed*)."""
    return Resources(20, 0)


def width_converter(bits_in: int, bits_out: int) -> Resources:
    """Return the estimate of a converter between two widths: 30 LUTs and one a bit (*assumed*).

    Ours, *yosys*: 6 from 8 to 32 bits, 63 back. Where neither width divides the other that is too
    little: 175 from 24 to 32 bits, through 96.
    """
    if bits_in == bits_out:
        return Resources(0, 0)
    return Resources(30 + max(bits_in, bits_out), 0)


def fifo(bits: int, depth: int, stream: str = "") -> Resources:
    """Return the estimate of a FIFO of ``depth`` words: its memory and 20 LUTs (*assumed*).

    That is too little for ours, which has a register of two words behind its memory: *yosys*, 32
    bits: 54 LUTs beside the memory for 32 words, 53 for 515 words.
    """
    return Resources(20, 0, (Memory("fifo", bits, max(2, depth), stream=stream),))
