"""Estimated resources of every hardware operator.

Nothing here was synthesised for the network at hand. FINN+'s own estimators are not used: its
DSP count of an int8 MVAU is half of what its RTL instantiates, its LUT count of an MVAU is always
0, and several operators inherit 0. Sources, by the mark that a function's docstring gives:

- *yosys*: the form is that of the RTL, the constants fit what yosys counts for several sizes
  (``benchmarks/fpga_synthesis.py``; LUTs and flip-flops with filled DSPs, see
  :mod:`synthesis`). A ROM in LUTs is not taken from yosys, which takes one LUT a bit for 16
  words but three for 64 and seventeen for 256, where the device needs one and four.
- *rtl*: read from the RTL source.
- *architecture*: from the structure of the device (DSP48E2 27x18 with a 48-bit adder, six-input
  LUTs with F7 to F9 multiplexers, 36 kbit block RAM, 72-bit by 4096 UltraRAM).
- *assumed*: a plain assumption, to be replaced by a synthesis result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fpga.board.memories import Memory
from fpga.board.placement import Resources
from fpga.operators.arithmetic import type_bits
from lmaunet.errors import UserError


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


def _count_bits(values: int) -> int:
    """Bits of a counter of so many values."""
    return (values - 1).bit_length()


def _register(bits: int) -> Resources:
    """The two words that nearly every module ends with (*yosys*, 8 to 80 bits: exact)."""
    return Resources(bits + 3, 0, (), 2 * bits + 2)


@_estimates("MVAU")
def _mvau(a: Attributes) -> Resources:
    """DSPs: macs_per_dsp (*rtl*). LUTs and flip-flops: by matrix_vector.sv, *yosys*.

    A lane above the lowest one of a multiplier is an adder for its borrow, two columns share it.
    Then come the tree over the pairs of columns, the sum over the folds and the output register. A
    weight and an activation go through three registers on their way, which yosys makes shift
    registers of LUTs.
    """
    pe, simd, bits = a["PE"], a["SIMD"], type_bits(a["weightDataType"])
    code, out = type_bits(a["inputDataType"]), type_bits(a["outputDataType"])
    lanes = macs_per_dsp(bits, code)
    dsp = math.ceil(pe / lanes) * simd
    folds, rows = a["MW"] // simd, a["MH"] // pe
    memories = [Memory("weights", pe * simd * bits, folds * rows, initialised=True)]
    if rows > 1:
        memories.append(Memory("vectors", simd * code, 2 * folds, decided=True))
    terms = math.ceil(simd / 2) if simd > 1 else 1
    width = min(out, bits + code + 1)  # of two products
    added = pe * width * terms * (lanes - 1) // lanes
    tree_lut, tree_ff = 0, pe * width * terms
    while terms > 1:
        width = min(out, width + 1)
        tree_lut += pe * width * (terms // 2)
        terms = math.ceil(terms / 2)
        tree_ff += pe * width * terms
    end = _register(pe * out)
    delays = pe * simd * bits + simd * code
    return Resources(
        60 + added + tree_lut + pe * out + delays + end.lut, dsp, tuple(memories),
        60 + tree_ff + pe * out + end.ff,
    )  # fmt: skip


@_estimates("VVAU")
def _vvau(a: Attributes) -> Resources:
    """One DSP a multiplication (*rtl*). A lane: a tree, an accumulator, its register.

    *yosys*, PE 1 to 32 with SIMD 1, PE 2 with SIMD 49: it leaves the accumulator and the register
    of the product outside the DSP, and adds the taps with half as many LUTs again as adders have.
    """
    pe, simd, bits = a["PE"], a["SIMD"], type_bits(a["weightDataType"])
    taps, out = math.prod(a["Kernel"]), type_bits(a["outputDataType"])
    product = bits + type_bits(a["inputDataType"])
    weights = Memory(
        "weights", pe * simd * bits, a["Channels"] * taps // (pe * simd), initialised=True
    )
    tree = (simd - 1) * (product + 2) * 3 // 2
    end = _register(pe * out)
    sums = pe * (simd * product + (product + 2 if simd > 1 else 0))
    return Resources(
        30 + pe * (out + tree) + end.lut, pe * simd, (weights,),
        25 + pe * (out + simd * bits) + sums + end.ff,
    )  # fmt: skip


@_estimates("ConvolutionInputGenerator")
def _window(a: Attributes) -> Resources:
    """200 LUTs and 100 flip-flops of control, our register behind it (*yosys*).

    The sizes of the buffers are those of FINN+'s generator (*rtl*). In the parallel form the window
    is in registers and the lines above it in memories.
    """
    simd, (kernel_h, kernel_w), (_, width) = a["SIMD"], a["ConvKernelDim"], a["IFMDim"]
    bits, folds = type_bits(a["inputDataType"]), a["IFMChannels"] // a["SIMD"]
    if a["parallel_window"] and kernel_h * kernel_w > 1:
        lines = tuple(
            Memory("line", simd * bits, max(1, (width - kernel_w) * folds + 1))
            for _ in range(kernel_h - 1)
        )
        window = kernel_h * kernel_w * simd * bits
        end = _register(window)
        return Resources(200 + end.lut, 0, lines, 100 + window + end.ff)
    stride_h = a["Stride"][0]
    depth = ((kernel_h - 1) * width + kernel_w) * folds
    depth += max(0, (stride_h - 1) * width - kernel_h * kernel_w) * folds
    end = _register(simd * bits)
    return Resources(200 + end.lut, 0, (Memory("line", simd * bits, depth),), 100 + end.ff)


@_estimates("FMPadding")
def _padding(a: Attributes) -> Resources:
    """The register and three counters, of beats, columns and rows (*yosys*, 8 to 24 bits)."""
    end = _register(a["SIMD"] * type_bits(a["inputDataType"]))
    (height, width), (top, left, bottom, right) = a["ImgDim"], a["Padding"]
    counters = sum(
        _count_bits(n)
        for n in (a["NumChannels"] // a["SIMD"], height + top + bottom, width + left + right)
    )
    return Resources(end.lut + counters, 0, (), end.ff + counters)


ESTIMATES["PadWithCode"] = _padding


@_estimates("Requantize")
def _requantize(a: Attributes) -> Resources:
    """A lane: one DSP to 27-bit inputs, else two (*architecture*); 18 LUTs, 52 flip-flops.

    *yosys*, PE 1 and 3: of the constants' registers it leaves half outside the DSP. A shifter,
    which most nodes do not have, is 40 LUTs a lane more. A plain shift needs no DSP but an adder as
    wide as the input.
    """
    pe, bits, channels = a["PE"], type_bits(a["inputDataType"]), a["NumChannels"]
    folds = channels // pe
    offset = bits + 8  # what an offset has at most beside the codes that it moves
    if a["IsShift"]:
        rom = Memory("offsets", offset * pe, folds, True, True)
        return Resources(5 + pe * (18 + bits), 0, (rom,), 8 + pe * (52 + bits))
    dsp = pe * (1 if bits <= 27 else 2)
    rom = Memory("multipliers", (17 + offset) * pe, folds, True, True)
    return Resources(5 + 18 * pe, dsp, (rom,), 8 + 52 * pe)


@_estimates("TableActivation")
def _table(a: Attributes) -> Resources:
    """A ROM of 256 x 1 bit is four LUTs and their F7, F8 multiplexers (*architecture*).

    The ROM's register and the output's: *yosys*, PE 1 and 2.
    """
    bits = a["PE"] * type_bits(a["outputDataType"])
    end = _register(bits)
    return Resources(end.lut + bits * math.ceil(a["Entries"] / 64), 0, (), end.ff + bits + 1)


@_estimates("SelectiveScan")
def _scan(a: Attributes) -> Resources:
    """5 DSPs a lane, 3 a channel; LUTs: 150 a lane, 330 a channel, 120 (*yosys*, 1 to 64 lanes).

    Fitted to within 12%; flip-flops, 1 to 12 lanes, to within 10%. The table of softplus is in the
    LUTs of a channel: a network whose dt hardly varies takes fewer. Also the state (one word a
    channel and state), A and D.
    """
    pd, pn = a["PD"], a["PN"]
    lanes, channels, states = pd * pn, a["NumChannels"], a["States"]
    depth = channels * states // lanes
    memories = (
        Memory("state", a["StateBits"] * lanes, depth, decided=True),
        Memory("A", a["ABits"] * lanes, depth, initialised=True, decided=True),
        Memory("D", a["DBits"] * pd, channels // pd, initialised=True, decided=True),
    )
    return Resources(
        120 + 150 * lanes + 330 * pd, 5 * lanes + 3 * pd, memories, 75 + 167 * lanes + 166 * pd
    )


@_estimates("ElementwiseMul")
def _multiply(a: Attributes) -> Resources:
    """An int8 multiplication is one DSP, its operands and its product inside (*yosys*: exact)."""
    end = _register(a["PE"] * type_bits(a["out_dtype"]))
    return Resources(end.lut + 3, a["PE"], (), end.ff + 2)


@_estimates("ElementwiseAdd")
def _add(a: Attributes) -> Resources:
    """An adder, registers before and behind it and the output's (*yosys*, PE 1 and 2)."""
    end = _register(a["PE"] * type_bits(a["out_dtype"]))
    left, right, out = (type_bits(a[name]) for name in ("lhs_dtype", "rhs_dtype", "out_dtype"))
    return Resources(
        end.lut + 3 + a["PE"] * max(left, right), 0, (), end.ff + 2 + a["PE"] * (left + right + out)
    )


@_estimates("Pool")
def _pool(a: Attributes) -> Resources:
    """A comparison, a selection and the best so far, 8 bits each (*yosys*, PE 1, 2 and 4)."""
    bits = a["PE"] * type_bits(a["InputDataType"])
    end = _register(bits)
    return Resources(end.lut + 8 + 17 * bits // 10, 0, (), end.ff + bits + 4)


@_estimates("UpsampleNearestNeighbour")
def _upsample(a: Attributes) -> Resources:
    """A row of the input, its six addresses and counts, four more counters (*yosys*, 16 to 32)."""
    bits = a["SIMD"] * type_bits(a["inputDataType"])
    depth = a["WI"] * a["NumChannels"] // a["SIMD"]
    end, address = _register(bits), _count_bits(depth + 4)
    row = Memory("row", bits, depth, decided=True)
    return Resources(end.lut + 8 * address, 0, (row,), end.ff + 6 * address + 15)


@_estimates("StreamingConcat")
def _concat(a: Attributes) -> Resources:
    """The selection: a LUT for two bits of an input beyond the second (*yosys*, 2 and 4 inputs)."""
    inputs, bits = len(a["ChannelsPerStream"]), a["SIMD"] * type_bits(a["inputDataTypes"][0])
    end = _register(bits)
    chosen = 6 * inputs + bits * (inputs - 2) // 2
    return Resources(end.lut + chosen, 0, (), end.ff + 16 + _count_bits(inputs))


@_estimates("DuplicateStreams")
def _duplicate(a: Attributes) -> Resources:
    """A register, and which outputs have their word (*yosys*, 8 to 64 bits to two: exact)."""
    end, outputs = _register(a["PE"] * type_bits(a["inputDataType"])), a["NumOutputStreams"]
    return Resources(end.lut + 2 * outputs, 0, (), end.ff + outputs)


@_estimates("Reshape")
def _reshape(a: Attributes) -> Resources:
    """Renames a stream: a register (*rtl*)."""
    return _register(a["PE"] * type_bits(a["dtype"]))


def width_converter(bits_in: int, bits_out: int) -> Resources:
    """Return the estimate of a converter between two widths (*yosys*, 8 to 864 bits).

    Where neither width divides the other, it goes up to their smallest multiple and down again.
    """
    if bits_in == bits_out:
        return Resources(0, 0)
    common = math.lcm(bits_in, bits_out)
    lut = ff = 0
    if common > bits_in:
        count = _count_bits(common // bits_in)
        lut, ff = 4 + count, 2 * common - bits_in + count + 1
    if common > bits_out:
        count = _count_bits(common // bits_out)
        lut, ff = lut + 2 * common - bits_out + 6 + count, ff + 2 * common + 2 + count
    return Resources(lut, 0, (), ff)


def fifo(bits: int, depth: int, stream: str = "") -> Resources:
    """Return the estimate of a FIFO of ``depth`` words (*yosys*, 8 to 80 bits, 2 to 700 words).

    One of two words is a register; a deeper one has a memory, two addresses and a count before it.
    """
    end = _register(bits)
    if depth <= 2:
        return end
    address = _count_bits(depth - 3) if depth > 5 else 1
    memory = Memory("fifo", bits, max(2, depth - 3), stream=stream)
    return Resources(end.lut + 3 + 3 * address, 0, (memory,), end.ff + 3 * address + 2)
