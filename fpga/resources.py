"""Estimated resources of every hardware operator.

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

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fpga.arithmetic import type_bits
from fpga.boards import Board
from fpga.memories import Memory, locate
from lmaunet.errors import UserError

# What surrounds the network: DMA in and out, AXI interconnect, resets (assumed).
SHELL_LUT = 9_000


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


def place(nodes: Mapping[str, Resources], board: Board) -> dict[str, Placed]:
    """Return what each node takes, its memories where :func:`fpga.memories.locate` puts them."""
    taken: dict[tuple[str, str], float] = {}
    for found in locate({name: node.memories for name, node in nodes.items()}, board):
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
