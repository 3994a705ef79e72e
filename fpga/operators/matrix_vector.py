"""MVAU: a matrix times the vectors of a stream, several weights to a multiplier.

It stands in for FINN+'s ``mvu_vvu_axi``. That one loses sums under back-pressure where it puts one
out in every cycle (MW = SIMD and MH = PE): its output queue is shorter than its pipeline. And under
Verilator it becomes a behavioural model, so that what is simulated is not what is synthesised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fpga.board.memories import Memory
from fpga.board.placement import Resources
from fpga.operators.arithmetic import (
    check_divides,
    exact_dtype,
    legal_divisors,
    type_bits,
    type_range,
)
from fpga.operators.common import REGISTER, register, stream
from fpga.operators.operator import Folding, Operator
from fpga.operators.rtl_module import RtlModule, lane_words

PORT_BITS = 27  # the wide port of a DSP48E2's multiplier
WEIGHTS = "weights.mem"
SOURCES = (REGISTER, "vector_buffer.sv", "adder_tree.sv", "matrix_vector.sv")


@dataclass(frozen=True)
class Packing:
    """How weights share a multiplier: ``lanes`` of them, ``lane_bits`` apart.

    ``cascade``: whether two products are added before the lanes are taken apart.
    """

    lanes: int
    lane_bits: int
    cascade: bool


def packing(largest_weight: int, weight_bits: int, largest_activation: int) -> Packing:
    """Return the packing with the most lanes, and of those one that adds two products if it can.

    A lane holds its sum: ``products * largest_weight * largest_activation < 2^(lane_bits - 1)``.
    The top lane ends at the multiplier's port: ``weight_bits + (lanes - 1) * lane_bits <= 27``.

    Args:
        largest_weight: of the magnitudes of the weights.
        weight_bits: of a weight.
        largest_activation: of the magnitudes of the activations.
    """
    product = max(1, largest_weight * largest_activation)
    single = product.bit_length() + 1
    lanes = 1 + (PORT_BITS - weight_bits) // single
    lane_bits = (PORT_BITS - weight_bits) // (lanes - 1) if lanes > 1 else PORT_BITS
    return Packing(lanes, lane_bits, lanes == 1 or 2 * product < 1 << (lane_bits - 1))


def macs_per_dsp(weight_bits: int, activation_bits: int) -> int:
    """Return the multiplications that FINN+'s MVU packs into one DSP48E2.

    Source: NUM_LANES of mvu.sv for narrow-range weights (*rtl*): 8 x 8 bits 2, 4 x 8 bits 3.
    """
    if weight_bits >= 27:
        return 1
    return 1 + (27 - weight_bits) // (weight_bits + activation_bits - 1)


class MVAU(Operator):
    """Vectors ``(n, H, W, MW)`` times a matrix ``(MW, MH)``: accumulators ``(n, H, W, MH)``.

    SIMD columns of PE rows a cycle. The output's type must hold every sum that the codes can cause
    that do come in; the lowering, which knows them, sees to it.
    """

    folded_by = ("PE", "SIMD")
    wide = True

    def execute(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return the accumulators, int64; raises :class:`UserError` where no float is exact."""
        x, weights = inputs
        dtype = exact_dtype(weights, x)
        return np.rint(x.astype(dtype) @ weights.astype(dtype)).astype(np.int64)

    @classmethod
    def purpose(cls) -> str:
        """Return that its constants are weights."""
        return "weights"

    def channels(self) -> int:
        """Return the rows of the matrix."""
        return int(self.attributes["MH"])

    def foldings(self) -> Iterator[Folding]:
        """Yield divisors of the rows and of the columns."""
        for pe in legal_divisors(self.attributes["MH"]):
            for simd in legal_divisors(self.attributes["MW"]):
                yield {"PE": pe, "SIMD": simd}

    def check(self) -> None:
        """Raise :class:`UserError` where SIMD or PE do not divide MW or MH."""
        check_divides("SIMD", self.attributes["SIMD"], "MW", self.attributes["MW"])
        check_divides("PE", self.attributes["PE"], "MH", self.attributes["MH"])

    def cycles(self) -> int:
        """Return a cycle for each block of the matrix and vector."""
        a = self.attributes
        return math.prod(a["numInputVectors"]) * (a["MW"] // a["SIMD"]) * (a["MH"] // a["PE"])

    def lanes(self, index: int, *, output: bool) -> int:
        """Return PE rows out, SIMD columns in."""
        return int(self.attributes["PE" if output else "SIMD"])

    def resources(self) -> Resources:
        """DSPs: macs_per_dsp (*rtl*). LUTs and flip-flops: by matrix_vector.sv, *yosys*.

        A lane above the lowest one of a multiplier is an adder for its borrow, two columns share
        it. Then come the tree over the pairs of columns, the sum over the folds and the output
        register. A weight and an activation go through three registers on their way, which yosys
        makes shift registers of LUTs.
        """
        a = self.attributes
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
        end = register(pe * out)
        delays = pe * simd * bits + simd * code
        return Resources(
            60 + added + tree_lut + pe * out + delays + end.lut, dsp, tuple(memories),
            60 + tree_ff + pe * out + end.ff,
        )  # fmt: skip

    def module(self, constants: Sequence[np.ndarray]) -> RtlModule:
        """Return the RTL.

        Args:
            constants: the weights' codes ``(MW, MH)``.

        Raises:
            UserError: where SIMD or PE do not divide MW or MH.
        """
        a = self.attributes
        self.check()
        weights = np.asarray(constants[0]).astype(np.int64)
        mw, mh, simd, pe = (a[name] for name in ("MW", "MH", "SIMD", "PE"))
        bits = type_bits(a["weightDataType"])
        low, high = type_range(a["inputDataType"])
        packed = packing(int(np.abs(weights).max()), bits, max(-low, high))
        # a word for each (fold of MH, fold of MW); in a word PE outermost, SIMD innermost
        blocks = weights.T.reshape(mh // pe, pe, mw // simd, simd)
        words = blocks.transpose(0, 2, 1, 3).reshape(-1, pe * simd)
        return RtlModule(
            "matrix_vector",
            SOURCES,
            {
                "MW": mw, "MH": mh, "SIMD": simd, "PE": pe,
                "ACTIVATION_BITS": type_bits(a["inputDataType"]),
                "SIGNED": int(low < 0),
                "WEIGHT_BITS": bits,
                "SUM_BITS": type_bits(a["outputDataType"]),
                "LANES": packed.lanes,
                "LANE_BITS": packed.lane_bits,
                "CASCADE": int(packed.cascade and simd > 1),
                "WEIGHTS": WEIGHTS,
                "STYLE": a.get("ram_style", "auto"),
            },
            (stream("in0_V", a["inputDataType"], simd),),
            (stream("out0_V", a["outputDataType"], pe),),
            {WEIGHTS: lane_words(words, bits)},
        )  # fmt: skip
