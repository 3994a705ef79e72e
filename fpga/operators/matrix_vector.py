"""MVAU's RTL: a matrix times the vectors of a stream, several weights to a multiplier.

It stands in for FINN+'s ``mvu_vvu_axi``. That one loses sums under back-pressure where it puts one
out in every cycle (MW = SIMD and MH = PE): its output queue is shorter than its pipeline. And under
Verilator it becomes a behavioural model, so that what is simulated is not what is synthesised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fpga.operators.arithmetic import check_divides, type_bits, type_range
from fpga.operators.common import REGISTER, memory_style, stream, text
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


def hardware(attributes: Mapping[str, Any], constants: Sequence[np.ndarray]) -> RtlModule:
    """Return the RTL of a node.

    Args:
        attributes: of the operator ``MVAU``. Its output's type must hold every sum that the codes
            can cause that do come in; the lowering, which knows them, sees to it.
        constants: the weights' codes ``(MW, MH)``.

    Raises:
        UserError: where SIMD or PE do not divide MW or MH.
    """
    a: dict[str, Any] = {
        name: text(v) if isinstance(v, bytes) else v for name, v in attributes.items()
    }
    weights = np.asarray(constants[0]).astype(np.int64)
    mw, mh, simd, pe = (a[name] for name in ("MW", "MH", "SIMD", "PE"))
    check_divides("SIMD", simd, "MW", mw)
    check_divides("PE", pe, "MH", mh)
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
            "STYLE": memory_style(a),
        },
        (stream("in0_V", a["inputDataType"], simd),),
        (stream("out0_V", a["outputDataType"], pe),),
        {WEIGHTS: lane_words(words, bits)},
    )  # fmt: skip
