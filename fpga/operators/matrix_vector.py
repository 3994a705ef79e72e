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

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import URAM_DEPTH, Memory
from lmaunet.fpga.board.placement import Resources
from lmaunet.fpga.operators.arithmetic import (
    check_divides,
    exact_dtype,
    legal_divisors,
    type_bits,
    type_range,
)
from lmaunet.fpga.operators.common import (
    LONGEST_CHAIN,
    adder_tree,
    balanced_chain,
    count_bits,
    credit_queue,
    delayed,
    stream,
)
from lmaunet.fpga.operators.operator import Folding, Operator
from lmaunet.fpga.operators.rtl_module import (
    LOAD_BITS,
    LOAD_WIRES,
    RtlModule,
    lane_words,
    load_words,
)

PORT_BITS = 27  # the wide port of a DSP48E2's multiplier
WEIGHTS = "weights.mem"
SOURCES = (
    "credit_queue.sv", "vector_buffer.sv", "delay_line.sv", "adder_tree.sv", "packed_products.sv",
    "lut_products.sv", "matrix_vector_core.sv",
)  # fmt: skip
FROM_ROM = (*SOURCES, "matrix_vector.sv")
LOADED = (*SOURCES, "loaded_weights.sv", "matrix_vector_loaded.sv")
LOADED_STYLE = "ultra"
SUM_BITS = 48  # of a DSP's adder
LUT_WEIGHT_BITS = 4
"""Bits of a weight up to which products may be made in LUTs."""
LUT_PRODUCTS = 12
"""Products a cycle from which they may be: fewer DSPs are not worth an option."""


@dataclass(frozen=True)
class Packing:
    """How weights share multipliers, and how products are added before they are taken apart.

    ``lanes`` rows share one, ``lane_bits`` apart; ``columns`` are added by a chain of DSPs. A row's
    sum of a chain is ``field_bits`` wires, one of them shared with the row above it where they are
    more than ``lane_bits``.
    """

    lanes: int
    lane_bits: int
    columns: int
    field_bits: int

    @property
    def overlaps(self) -> bool:
        """Whether the rows of a multiplier share a bit."""
        return self.lanes > 1 and self.field_bits > self.lane_bits


def packing(
    largest_weight: int, weight_bits: int, largest_activation: int, pe: int, simd: int
) -> Packing:
    """Return the packing with the fewest DSPs, and of those the one with the longest chains.

    Where a chain's sum has a magnitude of ``s`` at most, its field, the bias ``2^(field_bits - 1)``
    included, is from 1 to ``2^field_bits - 1`` because ``s < 2^(field_bits - 1)``; with an overlap
    it gets a carry from the row below too, and ``s + 1 < 2^(field_bits - 1)``. The top row ends at
    the multiplier's port: ``weight_bits + (lanes - 1) * lane_bits <= 27``.

    Args:
        largest_weight: of the magnitudes of the weights.
        weight_bits: of a weight.
        largest_activation: of the magnitudes of the activations.
        pe, simd: the rows and columns that are multiplied in a cycle.
    """
    product = max(1, largest_weight * largest_activation)

    def apart(lanes: int) -> int:
        return (PORT_BITS - weight_bits) // (lanes - 1) if lanes > 1 else PORT_BITS

    lanes = pe
    while lanes > 1 and not (apart(lanes) >= weight_bits and product + 1 < 1 << apart(lanes)):
        lanes -= 1
    lanes = math.ceil(pe / math.ceil(pe / lanes))
    lane_bits = apart(lanes)
    room = lane_bits if lanes > 1 else SUM_BITS - 1
    alone = ((1 << (room - 1)) - 1) // product  # columns, where rows share no bit
    shared = ((1 << room) - 2) // product if lanes > 1 else 0
    overlaps = alone < min(2, simd) and shared > alone
    columns = balanced_chain(simd, min(simd, LONGEST_CHAIN, shared if overlaps else alone))
    field_bits = lane_bits + 1 if overlaps else (columns * product).bit_length() + 1
    return Packing(lanes, lane_bits, columns, field_bits)


def in_luts(largest_weight: int, largest_activation: int) -> Packing:
    """Return how products that are made in LUTs are added: each by itself, signed."""
    product = max(1, largest_weight * largest_activation)
    return Packing(1, PORT_BITS, 1, product.bit_length() + 1)


def _loader(width: int, depth: int) -> tuple[int, int]:
    """Return the LUTs and flip-flops that write weights into UltraRAM at the start (*yosys*).

    Of words of 36 to 432 bits: flip-flops to within 3; LUTs 4 to 7 and an incrementer.
    """
    columns, address = math.ceil(width / LOAD_BITS), count_bits(depth)
    return 6 + address, LOAD_BITS + 4 + 2 * address + 2 * columns


class MVAU(Operator):
    """Vectors ``(n, H, W, MW)`` times a matrix ``(MW, MH)``: accumulators ``(n, H, W, MH)``.

    SIMD columns of PE rows a cycle. The output's type must hold every sum that the codes can cause
    that do come in; the lowering, which knows them, sees to it.
    """

    folded_by = ("PE", "SIMD", "resType")
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
        """Yield divisors of the rows and of the columns; weights of few bits in LUTs, too."""
        narrow = type_bits(self.attributes["weightDataType"]) <= LUT_WEIGHT_BITS
        for pe in legal_divisors(self.attributes["MH"]):
            for simd in legal_divisors(self.attributes["MW"]):
                yield {"PE": pe, "SIMD": simd, "resType": "dsp"}
                if narrow and pe * simd >= LUT_PRODUCTS:
                    yield {"PE": pe, "SIMD": simd, "resType": "lut"}

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
        """Registers, adders and DSPs as in matrix_vector.sv; the control is fitted (*yosys*).

        DSPs are those of weights of magnitudes below ``2^(bits - 1)``. A row that shares a bit has
        a LUT for the parity of each chain; the adder takes the bit in.
        """
        a = self.attributes
        pe, simd, bits = a["PE"], a["SIMD"], type_bits(a["weightDataType"])
        code, out = type_bits(a["inputDataType"]), type_bits(a["outputDataType"])
        low, high = type_range(a["inputDataType"])
        largest = (1 << (bits - 1)) - 1
        luts = self._in_luts()
        packed = (
            in_luts(largest, max(-low, high))
            if luts
            else packing(largest, bits, max(-low, high), pe, simd)
        )
        packs, chains = math.ceil(pe / packed.lanes), math.ceil(simd / packed.columns)
        folds, rows = a["MW"] // simd, a["MH"] // pe
        width, depth = pe * simd * bits, folds * rows
        memories = [Memory("weights", width, depth, initialised=True, loader=_loader(width, depth))]
        if rows > 1:
            memories.append(Memory("vectors", simd * code, 2 * folds, decided=True))
        shared = pe - packs if packed.overlaps else 0
        field = min(packed.field_bits, out)
        plain, carried = (
            adder_tree(chains, field, out),
            adder_tree(chains, field, out, carries=True),
        )
        queue = credit_queue(pe * out)
        lut = (
            45 + (pe - shared) * plain.lut + shared * (carried.lut + chains) + pe * out
            + queue.lut
        )  # fmt: skip
        # a word comes out of LUTs into one register more than out of block RAM
        words = pe * simd * bits * (1 + memories[0].distributed)
        operands = 2 * simd * code + words + delayed(simd, packed.columns) * (code + pe * bits)
        parities = shared * chains * (packed.columns + 2)
        ff = (
            20 + operands + parities + (pe - shared) * plain.ff + shared * carried.ff + pe * out
            + queue.ff
        )  # fmt: skip
        if luts:
            products = pe * simd
            lut += products * 2 * (code + 1) + simd * code
            ff += products * (2 * code + 1) + simd * (4 * code - 2)
        return Resources(lut, 0 if luts else packs * simd, tuple(memories), ff)

    def _in_luts(self) -> bool:
        return bool(self.attributes.get("resType") == "lut")

    def module(self, constants: Sequence[np.ndarray]) -> RtlModule:
        """Return the RTL; in UltraRAM the weights are loaded at the start.

        Args:
            constants: the weights' codes ``(MW, MH)``.

        Raises:
            UserError: where SIMD or PE do not divide MW or MH, or weights in UltraRAM have more
                words than one.
        """
        a = self.attributes
        self.check()
        weights = np.asarray(constants[0]).astype(np.int64)
        mw, mh, simd, pe = (a[name] for name in ("MW", "MH", "SIMD", "PE"))
        bits = type_bits(a["weightDataType"])
        low, high = type_range(a["inputDataType"])
        largest = int(np.abs(weights).max())
        if self._in_luts():
            packed = in_luts(largest, max(-low, high))
        else:
            packed = packing(largest, bits, max(-low, high), pe, simd)
        # a word for each (fold of MH, fold of MW); in a word PE outermost, SIMD innermost
        blocks = weights.T.reshape(mh // pe, pe, mw // simd, simd)
        words = blocks.transpose(0, 2, 1, 3).reshape(-1, pe * simd)
        held = lane_words(words, bits)
        style = a.get("ram_style", "auto")
        loaded = style == LOADED_STYLE
        if loaded and len(held) > URAM_DEPTH:
            raise UserError(
                f"MVAU: {len(held)} words of weights in UltraRAM, expected at most {URAM_DEPTH}"
            )
        return RtlModule(
            "matrix_vector_loaded" if loaded else "matrix_vector",
            LOADED if loaded else FROM_ROM,
            {
                "MW": mw, "MH": mh, "SIMD": simd, "PE": pe,
                "ACTIVATION_BITS": type_bits(a["inputDataType"]),
                "SIGNED": int(low < 0),
                "WEIGHT_BITS": bits,
                "SUM_BITS": type_bits(a["outputDataType"]),
                "LANES": packed.lanes,
                "LANE_BITS": packed.lane_bits,
                "FIELD_BITS": packed.field_bits,
                "CASCADE": packed.columns,
                "IN_LUTS": int(self._in_luts()),
                **({} if loaded else {"WEIGHTS": WEIGHTS}),
                "STYLE": style,
            },
            (stream("in0_V", a["inputDataType"], simd),),
            (stream("out0_V", a["outputDataType"], pe),),
            {} if loaded else {WEIGHTS: held},
            wires=LOAD_WIRES if loaded else (),
            load=load_words(held, pe * simd * bits) if loaded else (),
        )  # fmt: skip
