"""Requantize: accumulators to codes of 8 bits by a multiplication, an addition and a shift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import (
    SUM_BITS,
    Rescaling,
    integer_bits,
    requantize,
    type_bits,
    type_range,
)
from lmaunet.fpga.operators.common import REGISTER, is_signed, stream
from lmaunet.fpga.operators.operator import FinnAttributes, Operator
from lmaunet.fpga.operators.rtl_module import RtlModule, hex_words

CONSTANTS = "constants.dat"
# The signed ports of a DSP48E2's multiplier, by the input's width.
WIDE_PORT, NARROW_PORT = 27, 18


@dataclass(frozen=True)
class Aligned:
    """The same result with constants that need as small a shifter as possible.

    ``(x * multiplier + offset) >> shift`` does not change where multiplier and offset are doubled
    and the shift grows by one. ``shift`` is split into ``common``, which is wiring, and what a
    channel shifts further. ``multiplier`` is None where every one is a power of two: then the
    offset's bits below the input's unit cannot matter, and the shift is smaller by as much.
    """

    multiplier: np.ndarray | None
    offset: np.ndarray
    common: int
    further: np.ndarray


def align(
    multiplier: np.ndarray, offset: np.ndarray, shift: np.ndarray, low: int, high: int
) -> Aligned:
    """Choose the form for inputs of ``low..high``; all arrays int64 ``(C,)``."""
    exponent = np.array([int(m).bit_length() - 1 for m in multiplier], np.int64)
    if ((multiplier & (multiplier - 1) == 0) & (multiplier > 0) & (shift >= exponent)).all():
        rest = shift - exponent
        return Aligned(None, offset >> exponent, int(rest.min()), rest - rest.min())
    # a wider multiplier where the input leaves the DSP's wide port to it
    port = WIDE_PORT if integer_bits(low, high) <= NARROW_PORT else NARROW_PORT
    reach = max(-low, high)
    doubled = [
        _doublings(int(m), int(o), reach, port - 1, int(shift.max() - s))
        for m, o, s in zip(multiplier, offset, shift, strict=True)
    ]
    by = np.array(doubled, np.int64)
    total = shift + by
    return Aligned(multiplier << by, offset << by, int(total.min()), total - total.min())


def _doublings(multiplier: int, offset: int, reach: int, bits: int, wanted: int) -> int:
    room = min(
        bits - multiplier.bit_length(),
        SUM_BITS - 1 - (multiplier * reach + abs(offset)).bit_length(),
    )
    return max(0, min(wanted, room))


class Requantize(Operator):
    """``y = clip((x * multiplier + offset) >> shift, Low, High)``, rounding half up.

    Inputs: the stream ``(*numInputVectors, NumChannels)``; int64 constants multiplier, offset and
    shift, each ``(NumChannels,)``. The bias and a ReLU of the layer before are in ``offset`` and
    ``Low``; ``IsShift`` says that no multiplier is needed. Against exact real rescaling a code
    differs by at most 1, and only where the real value is within
    :func:`lmaunet.fpga.operators.arithmetic.rescaling_error` of a half. One beat of PE channels a
    cycle.

    FINN+ has thresholds (255 comparisons per channel and value at 8 bits) and ``Requant``, whose
    ``execute_node`` is in floating point and rounds otherwise than its own fixed-point datapath.
    """

    wide = True
    finn_attributes: ClassVar[FinnAttributes] = {
        "NumChannels": ("i", True, 0),
        "PE": ("i", False, 1),
        "numInputVectors": ("ints", True, [1]),
        "inputDataType": ("s", True, ""),
        "outputDataType": ("s", True, ""),
        "Low": ("i", True, 0),
        "High": ("i", True, 0),
        "IsShift": ("i", False, 0, {0, 1}),
    }

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the codes, by :func:`lmaunet.fpga.operators.arithmetic.requantize`."""
        x, multiplier, offset, shift = (v.astype(np.int64) for v in inputs)
        rescaling = Rescaling(multiplier, offset, shift)
        y = requantize(x, rescaling, self.attributes["Low"], self.attributes["High"])
        return y.astype(np.int16)

    def cycles(self) -> int:
        """Return a cycle for each beat."""
        a = self.attributes
        return math.prod(a["numInputVectors"]) * (a["NumChannels"] // a["PE"])

    def resources(self) -> Resources:
        """A lane: one DSP to signed inputs of 27 bits, else two; 18 LUTs, 52 flip-flops (*yosys*).

        *yosys*, PE 1 and 3: of the constants' registers it leaves half outside the DSP. A shifter,
        which most nodes do not have, is 40 LUTs a lane more. A plain shift needs no DSP but an
        adder as wide as the input.
        """
        a = self.attributes
        pe, bits, channels = a["PE"], type_bits(a["inputDataType"]), a["NumChannels"]
        folds = channels // pe
        offset = bits + 8  # what an offset has at most beside the codes that it moves
        if a["IsShift"]:
            rom = Memory("offsets", offset * pe, folds, True, True)
            return Resources(5 + pe * (18 + bits), 0, (rom,), 8 + pe * (52 + bits))
        signed = bits + 1 - is_signed(a["inputDataType"])
        dsp = pe * (1 if signed <= WIDE_PORT else 2)
        rom = Memory("multipliers", (17 + offset) * pe, folds, True, True)
        return Resources(5 + 18 * pe, dsp, (rom,), 8 + 52 * pe)

    def module(self, constants: Sequence[np.ndarray]) -> RtlModule:
        """Return the RTL: the constants of a channel in one word of a ROM.

        Args:
            constants: multiplier, offset and shift, each ``(channels,)``.

        Raises:
            UserError: where PE does not divide the channels, or a sum is wider than the DSP's
                adder.
        """
        a = self.attributes
        self.check()
        channels, pe = a["NumChannels"], a["PE"]
        input_type, output_type = a["inputDataType"], a["outputDataType"]
        low, high = type_range(input_type)
        clip = a["Low"], a["High"]
        least, most = type_range(output_type)
        if not least <= clip[0] <= clip[1] <= most:
            raise UserError(
                f"Requantize: clipping to {clip}, expected a range within {output_type}"
            )
        multiplier, offset, shift = (np.asarray(c).astype(np.int64) for c in constants)
        if not multiplier.shape == offset.shape == shift.shape == (channels,):
            raise UserError(
                f"Requantize: constants of shapes {multiplier.shape}, {offset.shape} and "
                f"{shift.shape}, expected ({channels},)"
            )
        form = align(multiplier, offset, shift, low, high)
        factor = np.ones_like(multiplier) if form.multiplier is None else form.multiplier
        sums = [int(m) * x + int(o) for m, o in zip(factor, form.offset, strict=True)
                for x in (low, high)]  # fmt: skip
        offset_bits = integer_bits(int(form.offset.min()), int(form.offset.max()))
        sum_bits = max(integer_bits(min(sums), max(sums)), offset_bits, form.common + 1)
        if sum_bits > SUM_BITS:
            raise UserError(
                f"Requantize: sums of {sum_bits} bits for {input_type} inputs, a DSP adds "
                f"{SUM_BITS}"
            )
        multiplier_bits = max(int(factor.max()).bit_length(), 1)
        shift_bits = int(form.further.max()).bit_length()
        fields = [(form.further, shift_bits), (form.offset, offset_bits)]
        if form.multiplier is not None:
            fields.append((form.multiplier, multiplier_bits))
        return RtlModule(
            "requantize",
            (REGISTER, "requantize.sv"),
            {
                "PE": pe,
                "BEATS": channels // pe,
                "INPUT_BITS": type_bits(input_type),
                "INPUT_SIGNED": is_signed(input_type),
                "OUTPUT_BITS": type_bits(output_type),
                "MULTIPLY": int(form.multiplier is not None),
                "MULTIPLIER_BITS": multiplier_bits,
                "OFFSET_BITS": offset_bits,
                "SUM_BITS": sum_bits,
                "SHIFT": form.common,
                "SHIFT_BITS": shift_bits,
                "LOW": clip[0],
                "HIGH": clip[1],
                "CONSTANTS": CONSTANTS,
            },
            (stream("in0_V", input_type, pe),),
            (stream("out0_V", output_type, pe),),
            {CONSTANTS: _words(fields, pe)},
        )

    def counts(self) -> dict[str, int]:
        """Return the multiplications of an image and the parameters by width."""
        channels = self.attributes["NumChannels"]
        return {
            "op_mul_27bx18b": math.prod(self.shape(0, output=True)),
            "param_multiplier_17b": channels,
            "param_offset_48b": channels,
            "param_shift_6b": channels,
        }


def _words(fields: list[tuple[np.ndarray, int]], pe: int) -> list[str]:
    """Return one word a beat; in a lane the first field is in the low bits."""
    bits = sum(width for _, width in fields)
    lanes = []
    for channel in zip(*(values for values, _ in fields), strict=True):
        word, place = 0, 0
        for value, (_, width) in zip(channel, fields, strict=True):
            word |= (int(value) & ((1 << width) - 1)) << place
            place += width
        lanes.append(word)
    beats = [lanes[i : i + pe] for i in range(0, len(lanes), pe)]
    return hex_words([sum(w << (bits * i) for i, w in enumerate(b)) for b in beats], bits * pe)
