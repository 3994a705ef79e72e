"""The selective scan's RTL: every width, cut and table of an integer scan as parameters.

Nothing numeric is defined here: formats, constants and tables are those of an
:class:`lmaunet.scan.integer.IntegerScan`, and the width of a sum is its range there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fpga.board.memories import Memory
from fpga.operators.arithmetic import check_divides
from fpga.operators.common import REGISTER, text
from fpga.operators.rtl_module import Port, RtlModule, hex_words, lane_words
from fpga.operators.scan_node import STATE_LOOP, integer_scan, legal_lanes
from lmaunet.errors import UserError
from lmaunet.scan.formats import INPUT
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.integer_algebra import deepest_shift
from lmaunet.scan.tables import DT

SOURCES = (
    REGISTER,
    "selective_scan_multiply.sv",
    "selective_scan_cut.sv",
    "selective_scan_delay.sv",
    "selective_scan_rom.sv",
    "selective_scan_sum.sv",
    "selective_scan_fifo.sv",
    "selective_scan_token.sv",
    "selective_scan_issue.sv",
    "selective_scan_decay.sv",
    "selective_scan_drive.sv",
    "selective_scan_lane.sv",
    "selective_scan_readout.sv",
    "selective_scan.sv",
)
UNSIGNED = ("delta", "exponent", "mantissa", "decay", "rate", "gain")
LARGEST_WHOLE_BITS = 30  # of the exponent, which the core holds in a 32-bit integer


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray]) -> RtlModule:
    """Return the core of a node.

    Args:
        attributes: of the operator ``SelectiveScan``.
        constants: A, ``(channels, states)``, and D, ``(channels,)``, both float64.
    """
    scan = integer_scan(text(attributes["Spec"]), attributes["Scales"], *constants)
    return core(scan, attributes["Length"], attributes["PD"], attributes["PN"])


def core(scan: IntegerScan, length: int, pd: int, pn: int, *, wide: bool = False) -> RtlModule:
    """Return the core of an integer scan.

    Args:
        scan: the arithmetic.
        length: tokens of a frame.
        pd, pn: channels and states that are updated in a cycle.
        wide: whether each y comes with its accumulator before any rounding, in the bits above it.

    Raises:
        UserError: where the folding is not legal, or a format is one that the core does not have.
    """
    channels, states = scan.spec.channels, scan.spec.states
    check_divides("PD", pd, "channels", channels)
    check_divides("PN", pn, "states", states)
    if not legal_lanes(channels, states, pd, pn):
        raise UserError(
            f"PD={pd}, PN={pn}: {channels * states // (pd * pn)} states for each lane, expected "
            f"{STATE_LOOP} or more (a state returns after {STATE_LOOP} cycles); use fewer lanes"
        )
    if length < 1:
        raise UserError(f"a scan of {length} tokens; give 1 or more")
    _check_formats(scan)
    numbers = _numbers(scan)
    parameters: dict[str, int | str] = {
        "CHANNELS": channels, "STATES": states, "LENGTH": length, "PD": pd, "PN": pn,
        "WIDE_OUTPUT": int(wide), **numbers,
    }  # fmt: skip
    memories = _memories(scan, numbers, pd, pn)
    parameters |= {f"{name.upper()}_FILE": f"selective_scan_{name}.hex" for name in memories}
    lanes, beats = pd * pn, channels * states // (pd * pn)
    # where a small ROM goes is left to the tool: yosys has no "distributed" for one with a register
    for name, small in (("STATE", "distributed"), ("RATE", "auto")):
        memory = Memory(name, numbers[f"{name}_BITS"] * lanes, beats)
        parameters[f"{name}_STYLE"] = small if memory.distributed else "block"
    result = numbers["OUTPUT_BITS"] + (numbers["ACCUMULATOR_IN_BITS"] if wide else 0)
    widths = (("in0_V", pd), ("in1_V", pd), ("in2_V", pn), ("in3_V", pn))
    return RtlModule(
        "selective_scan",
        SOURCES,
        parameters,
        tuple(Port(name, parallel * INPUT.bits) for name, parallel in widths),
        (Port("out0_V", pd * result),),
        {f"selective_scan_{name}.hex": words for name, words in memories.items()},
    )


def _check_formats(scan: IntegerScan) -> None:
    formats = scan.spec.formats
    for name, form in formats.items():
        if form.signed != (name not in UNSIGNED):
            kind = "unsigned" if name in UNSIGNED else "signed"
            raise UserError(f"the scan's {name} has the format {form}; the core's is {kind}")
    segments, frac = scan.exp2.segment_bits, formats["exponent"].frac
    if segments < 1 or frac <= segments:
        raise UserError(
            f"the core needs at least 2 segments of 2 ** -f and an exponent with more fractional "
            f"bits than choose one of them; got {1 << segments} segments and {frac} bits"
        )
    if formats["exponent"].bits - frac > LARGEST_WHOLE_BITS or formats["decay"].frac < 0:
        raise UserError(
            f"the scan's exponent {formats['exponent']} and decay {formats['decay']}; the core "
            f"has at most {LARGEST_WHOLE_BITS} bits before the exponent's point and a decay below 2"
        )


def _numbers(scan: IntegerScan) -> dict[str, int]:
    """Return the widths, dropped bits and alignments of every cut."""
    formats, before = scan.spec.formats, scan.ranges
    frac = {name: form.frac for name, form in formats.items()}
    largest, smallest = int(scan.shift.max()), int(scan.shift.min())

    def drop(cut: str) -> int:
        # to drop all bits is as good as to drop more
        return min(before[cut].frac - frac[cut], before[cut].bits)

    def sum_bits(cut: str) -> int:
        return before[cut].bits + 1  # room for the half

    numbers = {
        "INPUT_BITS": INPUT.bits,
        **{f"{name.upper()}_BITS": formats[name].bits for name in
           ("delta", "rate", "exponent", "decay", "drive", "state", "skip", "accumulator",
            "gain", "output")},
        "EXPONENT_SUM_BITS": sum_bits("exponent"),
        "EXPONENT_DROP": drop("exponent"),
        "EXPONENT_FRAC": frac["exponent"],
        "SEGMENT_BITS": scan.exp2.segment_bits,
        "VALUE_BITS": int(scan.exp2.value.max()).bit_length(),
        "FALL_BITS": int(scan.exp2.slope.max()).bit_length() + 1,
        "DEEPEST_SHIFT": deepest_shift(formats),
        "DECAY_DROP": frac["mantissa"] - frac["decay"],
        "SHIFT_BITS": max(1, largest.bit_length()),
        "LARGEST_SHIFT": largest,
        "DRIVE_SUM_BITS": sum_bits("drive"),
        "DRIVE_DROP": drop("drive"),
        "DECAYED_ALIGN": before["state"].frac - (frac["decay"] + frac["state"]),
        "INFLOW_ALIGN": before["state"].frac - (frac["drive"] + INPUT.frac),
        "STATE_SUM_BITS": sum_bits("state"),
        "STATE_DROP": drop("state"),
        "LOWER_BITS": max(1, (largest - smallest).bit_length()),
        "READ_ALIGN": before["accumulator"].frac - (frac["state"] + INPUT.frac + largest),
        "SKIP_ALIGN": before["accumulator"].frac - (frac["skip"] + INPUT.frac),
        "ACCUMULATOR_IN_BITS": before["accumulator"].bits,
        "ACCUMULATOR_DROP": drop("accumulator"),
        "GAIN": int(scan.gain),
        "OUTPUT_SUM_BITS": sum_bits("output"),
        "OUTPUT_DROP": drop("output"),
    }  # fmt: skip
    return numbers


def tables(scan: IntegerScan, pd: int, pn: int) -> dict[str, np.ndarray]:
    """Return the constants of a core as codes, in the order in which it reads them.

    Args:
        scan: the arithmetic.
        pd, pn: a legal folding.

    Returns:
        ``softplus`` ``(256,)``, the codes of dt from 0 up, as unsigned numbers; ``rate``
        ``(updates of a token, pd * pn)``, lane ``d * pn + n``; ``shift``, ``lower`` and ``skip``
        ``(channels // pd, pd)``; ``value`` and ``fall``, a line of 2 ** -f for each segment.
    """
    rates = scan.rate.reshape(-1, pd, scan.spec.states // pn, pn).transpose(0, 2, 1, 3)
    return {
        "softplus": np.roll(scan.softplus, DT.low),
        "rate": rates.reshape(-1, pd * pn),
        "shift": scan.shift.reshape(-1, pd),
        "lower": (int(scan.shift.max()) - scan.shift).reshape(-1, pd),
        "skip": scan.skip.reshape(-1, pd),
        "value": scan.exp2.value,
        "fall": -scan.exp2.slope,
    }


def _memories(
    scan: IntegerScan, numbers: Mapping[str, int], pd: int, pn: int
) -> dict[str, list[str]]:
    """Return the words of every ROM, by what it holds."""
    codes = tables(scan, pd, pn)
    fall_bits, skip_bits = numbers["FALL_BITS"], numbers["SKIP_BITS"]
    read = _joined(codes["lower"].ravel(), codes["skip"].ravel(), skip_bits)
    exp2 = _joined(codes["value"], codes["fall"], fall_bits)
    return {
        "softplus": hex_words(codes["softplus"], numbers["DELTA_BITS"]),
        "rate": lane_words(codes["rate"], numbers["RATE_BITS"]),
        "shift": lane_words(codes["shift"], numbers["SHIFT_BITS"]),
        "read": lane_words(read.reshape(-1, pd), numbers["LOWER_BITS"] + skip_bits),
        "exp2": hex_words(exp2, numbers["VALUE_BITS"] + fall_bits),
    }


def _joined(high: np.ndarray, low: np.ndarray, low_bits: int) -> np.ndarray:
    """Return words with ``low`` in the low bits, in two's complement, and ``high`` above."""
    mask = (1 << low_bits) - 1
    words = [(int(h) << low_bits) | (int(v) & mask) for h, v in zip(high, low, strict=True)]
    return np.array(words, dtype=object)
