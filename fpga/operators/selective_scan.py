"""SelectiveScan: Mamba's recurrence as one streaming operator, the states on chip.

Every width, cut and table of its RTL are parameters, printed from an integer scan. Nothing numeric
is defined here: formats, constants and tables are those of an
:class:`lmaunet.scan.integer.IntegerScan`, and the width of a sum is its range there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import check_divides, legal_divisors
from lmaunet.fpga.operators.common import REGISTER
from lmaunet.fpga.operators.operator import Constant, FinnAttributes, Folding, Operator
from lmaunet.fpga.operators.rtl_module import Port, RtlModule, hex_words, lane_words
from lmaunet.scan.compiled import run_compiled
from lmaunet.scan.formats import INPUT, ScanScales
from lmaunet.scan.integer import IntegerScan, IntegerScanResult
from lmaunet.scan.integer_algebra import deepest_shift
from lmaunet.scan.tables import DT
from lmaunet.spec import Format, ScanSpec

SOURCES = (
    REGISTER,
    "selective_scan_multiply.sv",
    "selective_scan_cut.sv",
    "selective_scan_delay.sv",
    "selective_scan_rom.sv",
    "selective_scan_sum.sv",
    "credit_queue.sv",
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


# Cycles from reading a state to reading what was written there (selective_scan.sv).
STATE_LOOP = 6
# Cycles of an update in the pipeline, the tree over PN states apart: of these 19 to the products
# with C and 10 from their sum to y; then 2 in the output queue.
PIPELINE = 19 + 10 + 2


def check_lanes(channels: int, states: int, pd: int, pn: int) -> None:
    """Raise :class:`UserError` where PD and PN do not divide, or a lane has too few states."""
    check_divides("PD", pd, "channels", channels)
    check_divides("PN", pn, "states", states)
    if not legal_lanes(channels, states, pd, pn):
        raise UserError(
            f"PD={pd}, PN={pn}: {channels * states // (pd * pn)} states for each lane, expected "
            f"{STATE_LOOP} or more (a state returns after {STATE_LOOP} cycles); use fewer lanes"
        )


def legal_lanes(channels: int, states: int, pd: int, pn: int) -> bool:
    """Tell whether each lane has enough states to hide the latency of the state loop."""
    return (channels // pd) * (states // pn) >= STATE_LOOP


def integer_scan(
    spec: str, scales: Sequence[float], rates: np.ndarray, skip: np.ndarray
) -> IntegerScan:
    """Return the integer golden of a scan node from its attributes and constants."""
    return IntegerScan.from_real(
        ScanSpec.from_json(json.loads(spec)), ScanScales(*scales), rates, skip
    )


class SelectiveScan(Operator):
    """Streams x, dt ``(1, 1, L, D)`` and B, C ``(1, 1, L, N)`` in, y ``(1, 1, L, D)`` out, INT8.

    Constants: A ``(D, N)`` and D ``(D,)``, float64; their fixed-point forms and every cut follow
    from ``Spec`` (a ScanSpec as JSON) and ``Scales`` (x, dt, B, C, y). A channel's ``state_shift``
    is applied twice a token, to delta * x before it is rounded and to the sum over the states: two
    shifters for each of the PD channels, none for a lane.

    Folding: PD channels and PN states a cycle, so PD * PN lanes. The state returns after 6 cycles,
    so one lane needs ``(D / PD) * (N / PN) >= 6`` states to go round.
    """

    folded_by = ("PD", "PN")
    streams = 4
    joins = True
    finn_attributes: ClassVar[FinnAttributes] = {
        "NumChannels": ("i", True, 0),
        "States": ("i", True, 0),
        "Length": ("i", True, 0),
        "PD": ("i", False, 1),
        "PN": ("i", False, 1),
        "inputDataType": ("s", True, "INT8"),
        "outputDataType": ("s", True, "INT8"),
        "Spec": ("s", True, ""),
        "Scales": ("floats", True, []),
        "StateBits": ("i", True, 0),
        "ABits": ("i", True, 0),
        "DeltaBits": ("i", True, 0),
        "DBits": ("i", True, 0),
        "inFIFODepths": ("ints", False, [2, 2, 2, 2]),
    }

    def scan(self, constants: Sequence[np.ndarray]) -> IntegerScan:
        """Return the integer golden; ``constants``: A and D."""
        return integer_scan(self.attributes["Spec"], self.attributes["Scales"], *constants)

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return y by the compiled form of the golden."""
        return self._run(inputs)[1].y.reshape(inputs[0].shape).astype(np.int16)

    def inside(self, inputs: list[np.ndarray]) -> Mapping[str, tuple[np.ndarray, int]]:
        """Return the accumulators before any rounding: y hides most faults of a state."""
        scan, result = self._run(inputs)
        bits = scan.ranges["accumulator"].bits
        return {"accumulators": (result.accumulators.reshape(inputs[0].shape), bits)}

    def _run(self, inputs: list[np.ndarray]) -> tuple[IntegerScan, IntegerScanResult]:
        *streams, rates, skip = inputs
        flat = [v.reshape(v.shape[0], -1, v.shape[-1]).astype(np.int64) for v in streams]
        scan = self.scan([rates, skip])
        return scan, run_compiled(scan, *flat)

    def golden(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return y by the integer scan itself."""
        *streams, rates, skip = inputs
        flat = [v.reshape(v.shape[0], -1, v.shape[-1]).astype(np.int64) for v in streams]
        return self.scan([rates, skip]).run(*flat).y.reshape(streams[0].shape)

    def stored(
        self, node: str, constants: Mapping[str, np.ndarray], types: Mapping[str, str]
    ) -> list[Constant]:
        """Return the scan's constants as the integers that its hardware holds."""
        scan = self.scan(list(constants.values()))
        formats = scan.spec.formats
        parts = {
            "rate": (scan.rate, formats["rate"]),
            "skip": (scan.skip, formats["skip"]),
            "gain": (scan.gain, formats["gain"]),
            "softplus": (scan.softplus, formats["delta"]),
            "state_shift": (scan.shift, Format(4, 0, signed=False)),
        }
        return [
            Constant(f"{node}_{name}", np.atleast_1d(values), form.bits, form.signed)
            for name, (values, form) in parts.items()
        ]

    def _sizes(self) -> tuple[int, int, int, int]:
        a = self.attributes
        return a["NumChannels"], a["States"], a["PD"], a["PN"]

    def foldings(self) -> Iterator[Folding]:
        """Yield divisors of the channels and of the states that leave a lane enough of them."""
        channels, states = self.attributes["NumChannels"], self.attributes["States"]
        for pd in legal_divisors(channels):
            for pn in legal_divisors(states):
                if legal_lanes(channels, states, pd, pn):
                    yield {"PD": pd, "PN": pn}

    def check(self) -> None:
        """Raise :class:`UserError` where the folding is not legal."""
        check_lanes(*self._sizes())

    def cycles(self) -> int:
        """Return the interval of a frame: between the outputs of frames that follow closely."""
        channels, states, pd, pn = self._sizes()
        return self.attributes["Length"] * (channels // pd) * (states // pn)

    def late(self) -> int:
        """Return the cycles beyond the interval from a frame's first beat to its last output.

        First B and C of a token are filled in, N / PN beats; then the last beat goes through the
        pipeline. A frame that follows another one does not wait.
        """
        states, pn = self.attributes["States"], self.attributes["PN"]
        return states // pn - 1 + PIPELINE + (pn - 1).bit_length()

    def dtype(self, index: int, *, output: bool) -> str:
        """Return INT8."""
        return "INT8"

    def lanes(self, index: int, *, output: bool) -> int:
        """Return PD channels of x, dt and y, PN states of B and C."""
        return int(self.attributes["PD" if output or index < 2 else "PN"])

    def shape(self, index: int, *, output: bool) -> tuple[int, ...]:
        """Return ``(1, 1, L, D)`` of x, dt and y, ``(1, 1, L, N)`` of B and C."""
        width = self.attributes["NumChannels" if output or index < 2 else "States"]
        return (1, 1, self.attributes["Length"], width)

    def resources(self) -> Resources:
        """5 DSPs a lane, 3 a channel; LUTs: 150 a lane, 330 a channel, 120 (*yosys*, 1-64 lanes).

        Fitted to within 12%; flip-flops, 1 to 12 lanes, to within 10%. The table of softplus is in
        the LUTs of a channel: a network whose dt hardly varies takes fewer. Also the state (one
        word a channel and state), A and D.
        """
        a = self.attributes
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

    def module(self, constants: Sequence[np.ndarray]) -> RtlModule:
        """Return the core of a node.

        Args:
            constants: A, ``(channels, states)``, and D, ``(channels,)``, both float64.
        """
        a = self.attributes
        return core(self.scan(constants), a["Length"], a["PD"], a["PN"])

    def counts(self) -> dict[str, int]:
        """Return the state updates of an image and the parameters by width."""
        a = self.attributes
        channels, states = a["NumChannels"], a["States"]
        return {
            "op_state_update": a["Length"] * channels * states,
            f"param_A_{a['ABits']}b": channels * states,
            f"param_D_{a['DBits']}b": channels,
        }


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
    check_lanes(channels, states, pd, pn)
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
