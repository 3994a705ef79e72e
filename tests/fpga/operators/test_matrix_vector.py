"""The matrix unit against the executor's integers."""

from __future__ import annotations

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, corners, mutated, needs_verilator

from lmaunet.errors import UserError
from lmaunet.fpga.operators.arithmetic import integer_bits, type_bits, type_range
from lmaunet.fpga.operators.matrix_vector import MVAU, Packing, packing
from lmaunet.fpga.operators.rtl_module import pack, unpack
from lmaunet.fpga.simulation.compilation import compile_module, lint
from lmaunet.fpga.simulation.simulator import SimulationFailed, Stalls, simulate

pytestmark = needs_verilator
FRAMES = 3


def attributes_of(weights, simd, pe, bits, dtype="INT8", pixels=(4, 5)):
    mw, mh = weights.shape
    reach = int(np.abs(weights).sum(0).max()) * -min(-128, -type_range(dtype)[1])
    return {
        "MW": mw, "MH": mh, "SIMD": simd, "PE": pe, "inputDataType": dtype,
        "weightDataType": f"INT{bits}", "outputDataType": f"INT{integer_bits(-reach, reach)}",
        "numInputVectors": [1, *pixels],
    }  # fmt: skip


def matrix(mw, mh, simd, pe, bits=8, dtype="INT8", seed=0):
    top = 2 ** (bits - 1) - 1
    weights = corners(np.random.default_rng(seed), -top, top, (mw, mh))
    return attributes_of(weights, simd, pe, bits, dtype), weights


def codes(attributes, seed=1):
    low, high = type_range(attributes["inputDataType"])
    shape = (FRAMES, *attributes["numInputVectors"][1:], attributes["MW"])
    return corners(np.random.default_rng(seed), low, high, shape)


def check(attributes, weights, module, compiled, x=None, stalls=STALLS):
    """Compare frames back to back with the executor's sums, with stalls and without."""
    pe, simd = attributes["PE"], attributes["SIMD"]
    x = codes(attributes) if x is None else x
    want = MVAU(attributes).execute([x, weights]).reshape(-1, pe)
    beats = {"in0_V": pack(x.reshape(-1, simd), type_bits(attributes["inputDataType"]))}
    for each in stalls:
        got = simulate(compiled, beats, {"out0_V": len(want)}, each)
        sums = unpack(got.outputs["out0_V"], module.outputs[0].bits // pe, pe)
        assert (sums == want).all()
        if each == NO_STALLS:
            assert (got.intervals("out0_V", FRAMES) == MVAU(attributes).cycles()).all()


SIZES = [
    (18, 6, 3, 2, 8, "INT8"),
    (18, 6, 18, 6, 4, "INT8"),  # an output in every cycle; rows share a bit
    (12, 4, 1, 1, 2, "INT8"),
    (8, 9, 2, 9, 3, "INT8"),
    (27, 8, 9, 4, 8, "INT8"),
    (18, 6, 9, 3, 4, "INT8"),  # an odd number of columns whose rows share a bit
    (15, 5, 5, 5, 4, "INT8"),  # a multiplier with fewer rows
    (20, 4, 10, 4, 4, "INT8"),  # two rows a multiplier take as few of them as three
    (18, 6, 6, 3, 4, "UINT8"),  # rows share a bit, or only two fit
    (14, 4, 7, 2, 8, "UINT8"),
    (10, 3, 5, 1, 8, "INT16"),
    (9, 4, 1, 4, 4, "INT8"),
    (12, 7, 12, 7, 4, "INT8"),  # the last row has multipliers of its own
    (6, 8, 6, 8, 2, "INT8"),  # four rows a multiplier
]


@pytest.mark.parametrize(("mw", "mh", "simd", "pe", "bits", "dtype"), SIZES)
def test_a_matrix_gives_the_executors_sums(simulations, mw, mh, simd, pe, bits, dtype):
    attributes, weights = matrix(mw, mh, simd, pe, bits, dtype)
    module = MVAU(attributes).module([weights])
    check(attributes, weights, module, compile_module(module, simulations))


@pytest.mark.parametrize(
    ("mw", "mh", "simd", "pe", "bits", "dtype"),
    [
        (18, 6, 18, 6, 4, "INT8"),  # an output in every cycle
        (15, 4, 5, 2, 4, "UINT8"),
        (8, 9, 4, 3, 3, "INT8"),
        (12, 4, 3, 4, 2, "UINT4"),
        (6, 5, 1, 5, 4, "INT6"),
    ],
)
def test_products_in_luts_give_the_same_sums(simulations, mw, mh, simd, pe, bits, dtype):
    attributes, weights = matrix(mw, mh, simd, pe, bits, dtype)
    attributes["resType"] = "lut"
    module = MVAU(attributes).module([weights])
    lint(module)
    check(attributes, weights, module, compile_module(module, simulations))


@pytest.mark.parametrize("dtype", ["INT8", "UINT8"])
def test_every_product_in_luts_is_exact(simulations, dtype):
    """Every weight of 4 bits, the lowest among them, times every code."""
    weights = np.arange(-8, 8).reshape(1, 16)
    low, high = type_range(dtype)
    attributes = attributes_of(weights, 1, 16, 4, dtype, (16, 16)) | {"resType": "lut"}
    x = np.arange(low, high + 1).reshape(1, 16, 16, 1).repeat(FRAMES, 0)
    module = MVAU(attributes).module([weights])
    check(attributes, weights, module, compile_module(module, simulations), x, STALLS[:1])


def test_rows_that_share_no_multiplier_are_signed(simulations):
    """Where codes are so wide that each row has its own."""
    attributes, weights = matrix(6, 4, 3, 2, 8, "INT16")
    assert packing(127, 8, 32768, 2, 3).lanes == 1
    module = MVAU(attributes).module([weights])
    check(attributes, weights, module, compile_module(module, simulations))


EXTREMES = [(8, 2, 8, 2), (8, 4, 5, 4), (4, 3, 6, 3), (4, 3, 5, 3), (4, 4, 8, 4), (2, 4, 3, 4)]


@pytest.mark.parametrize(("bits", "mh", "mw", "pe"), EXTREMES)
@pytest.mark.parametrize("dtype", ["INT8", "UINT8"])
@pytest.mark.parametrize("lowest", [0, 1])
def test_the_largest_products_of_all_signs_stay_in_their_rows(
    simulations, bits, mh, mw, pe, dtype, lowest
):
    """All weights of a row at one end and all codes at one end, every row with every sign."""
    top = 2 ** (bits - 1) - 1
    ends = np.array([-top - lowest, 0, top])
    weights = np.stack([ends[(np.arange(mh) * 2 + i) % 3] for i in range(mw // mw + 2)]).repeat(
        mw, 0
    )  # (3 * mw, mh): three vectors in one, of which codes choose
    low, high = type_range(dtype)
    x = np.zeros((FRAMES, 1, 9, 3 * mw), np.int64)
    for pixel in range(9):
        x[:, :, pixel, (pixel % 3) * mw : (pixel % 3 + 1) * mw] = (low, high, -1 - low)[pixel // 3]
    x = x.clip(low, high)
    attributes = attributes_of(weights, mw, pe, bits, dtype, (1, 9))
    module = MVAU(attributes).module([weights])
    check(attributes, weights, module, compile_module(module, simulations), x)


@pytest.mark.parametrize(("simd", "pe", "bits"), [(18, 6, 4), (9, 3, 8), (3, 1, 8)])
def test_a_sink_that_stands_for_long_loses_nothing(simulations, simd, pe, bits):
    """Longer than the queue lasts, again and again; the queue ends the run where it overflows."""
    attributes, weights = matrix(18, 6, simd, pe, bits)
    attributes["numInputVectors"] = [1, 10, 12]
    module = MVAU(attributes).module([weights])
    compiled = compile_module(module, simulations)
    stalls = (Stalls(0.0, 0.985, seed=5), Stalls(0.5, 0.97, seed=6))
    check(attributes, weights, module, compiled, codes(attributes), stalls)


def test_a_matrix_whose_folding_does_not_divide_is_refused():
    attributes, weights = matrix(18, 6, 4, 2)
    with pytest.raises(UserError, match="SIMD=4 does not divide MW=18"):
        MVAU(attributes).module([weights])


@pytest.mark.parametrize(
    ("largest_weight", "bits", "largest_activation", "pe", "simd", "want"),
    [
        (127, 8, 128, 2, 1, Packing(2, 19, 1, 15)),
        (127, 8, 128, 6, 9, Packing(2, 19, 3, 17)),
        (128, 8, 128, 6, 16, Packing(2, 19, 4, 18)),
        (127, 8, 128, 1, 9, Packing(1, 27, 3, 17)),
        (7, 4, 128, 6, 1, Packing(3, 11, 1, 11)),
        (7, 4, 128, 6, 72, Packing(3, 11, 2, 12)),
        (8, 4, 128, 6, 72, Packing(3, 11, 1, 12)),
        (7, 4, 128, 4, 12, Packing(2, 23, 4, 13)),
        (7, 4, 255, 6, 12, Packing(3, 11, 1, 12)),
        (3, 3, 128, 9, 2, Packing(3, 12, 2, 11)),
        (1, 2, 128, 8, 6, Packing(4, 8, 1, 9)),
        (127, 8, 32768, 2, 8, Packing(1, 27, 4, 25)),
        (1, 4, 1, 8, 4, Packing(4, 7, 4, 4)),
    ],
)
def test_how_many_weights_share_a_multiplier(
    largest_weight, bits, largest_activation, pe, simd, want
):
    found = packing(largest_weight, bits, largest_activation, pe, simd)
    assert found == want


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("largest_activation", [1, 15, 127, 128, 255, 32768])
def test_a_row_stays_within_its_field(bits, largest_activation):
    """By plain inequalities, for every number of rows and columns."""
    for weight in (1, 2 ** (bits - 1) - 1, 2 ** (bits - 1)):
        for pe in (1, 2, 3, 4, 5, 6, 7, 8, 16, 27):
            for simd in range(1, 20):
                p = packing(weight, bits, largest_activation, pe, simd)
                assert 1 <= p.lanes <= pe and 1 <= p.columns <= simd
                assert bits + (p.lanes - 1) * p.lane_bits <= 27
                assert p.lanes == 1 or p.field_bits <= p.lane_bits + 1
                largest = p.columns * weight * largest_activation
                bias = 2 ** (p.field_bits - 1)
                assert bias - largest >= 0
                assert bias + largest + p.overlaps < 2**p.field_bits
                # no shorter chains than needed, one shorter by less than a whole chain
                assert -(-simd // p.columns) == -(-simd // max(1, p.columns))


def test_lint():
    for sizes in ((18, 6, 3, 2), (18, 6, 18, 6, 4)):
        attributes, weights = matrix(*sizes)
        lint(MVAU(attributes).module([weights]))


UNIT, BUFFER, TREE = "matrix_vector_core.sv", "vector_buffer.sv", "adder_tree.sv"
PRODUCTS, QUEUE, IN_LUTS = "packed_products.sv", "credit_queue.sv", "lut_products.sv"
SHARED = (18, 6, 9, 3, 4)  # rows that share a bit, an odd number of columns
LUTS = (15, 4, 5, 2, 4, "UINT8")
FAULTS = {
    "a row without bias": (PRODUCTS, "k < ROWS && ROWS > 1;", "k < ROWS - 1;"),
    "half of the bias": (PRODUCTS, "+ FIELD_BITS - 1);", "+ FIELD_BITS - 2);"),
    "the signs are forgotten": (PRODUCTS, "low_bits - signs;", "low_bits;"),
    "the second column comes with the first": (UNIT, "CYCLES(LATER)", "CYCLES(0)"),
    "a short chain begins too early": (
        UNIT, "(GROUP == GROUPS - 1 ? ABSENT : 0);", "0;", (20, 4, 10, 4, 4)
    ),
    "the bias of all beats but one is taken off": (UNIT, "-(64'(FOLDS)", "-(64'(FOLDS - 1)"),
    "a row alone is unsigned": (UNIT, "SIGNED(ALONE)", "SIGNED(0)", (18, 3, 6, 1)),
    "a row alone is not extended": (UNIT, "SUM_BITS{ALONE &&", "SUM_BITS{0 &&", (18, 3, 6, 1)),
    "sums go on into the next row": (
        UNIT, "starts ? SUM_BITS'(START) : sums[r]", "sums[r]"
    ),
    "what is not there is summed up": (UNIT, "adds <= valid[SUMMED-1];", "adds <= 1'b1;"),
    "the shared bit is the row's above": (PRODUCTS, "] ^ parity[k+1]", "]", SHARED),
    "the shared bit comes too early": (
        PRODUCTS, "COLUMNS + 2 + LATE", "COLUMNS + 1 + LATE", SHARED
    ),
    "a carry stays in the row above": (
        PRODUCTS, "carries[k] = !gen_row[k-1].top", "carries[k] = 1'b1", SHARED
    ),
    "the carry of a pair is lost": (TREE, "{b, carries[FIRST]}", "{b, 1'b1}", SHARED),
    "a carry is not handed on": (
        TREE, "carries_left[i] <= carries[FIRST+1]", "carries_left[i] <= 1'b1", SHARED
    ),
    "the carry of the last is lost": (TREE, "carries_left[i] <= carries[FIRST];",
                                      "carries_left[i] <= 1'b1;", SHARED),
    "the last carry is lost": (UNIT, "{so_far, left}", "{so_far, 1'b1}", SHARED),
    "weights do not wait": (UNIT, "else if (issued) address", "else address"),
    "a vector is offered before it is there": (BUFFER, "filled > COUNT_BITS'(index)", "1'b1"),
    "a vector is overwritten": (BUFFER, "filled_next < COUNT_BITS'(WORDS)", "1'b1"),
    "the last of an odd number is lost": (
        TREE, "pairs[i] <= a;", "pairs[i] <= '0;", (18, 6, 9, 2)
    ),
    "the tree does not grow": (TREE, "BITS < LIMIT ? BITS + 1 : LIMIT", "BITS", (18, 6, 9, 2)),
    "no credit is needed": (UNIT, "loaded && (!first || credit);", "loaded;"),
    "a credit too many": (QUEUE, "credits <= (ADDRESS_BITS + 1)'(DEPTH);",
                          "credits <= (ADDRESS_BITS + 1)'(DEPTH + 1);"),
    "a credit is not returned": (QUEUE, "returned <= taken;", "returned <= taken && read[0];"),
    "too few places": (UNIT, "$clog2(SUMMED + 1 + 4)", "$clog2(SUMMED + 1 + 4) >> 1",
                       (18, 6, 18, 6, 4)),
    "three times a code is twice": (
        IN_LUTS, "default: low_next = thrice", "default: low_next = once <<< 1"
    ),
    "the sign of a weight is lost": (IN_LUTS, "minus_then <= -HIGH_BITS'(once)",
                                     "minus_then <= HIGH_BITS'(once)"),
    "the high digit is of other bits": (
        IN_LUTS, "high <= weight[3:2];", "high <= 2'(weight[3:1]);"
    ),
    "a weight meets the code before its own": (UNIT, "IN_LUTS ? beat_early : beat;", "beat;",
                                               LUTS),
    "an unsigned code is signed": (UNIT, "SIGNED && code_then", "code_then", LUTS),
    "rows of their own have a bias": (UNIT, "ALONE = LANES == 1 ||", "ALONE =", LUTS),
    "a word is given twice": (QUEUE, "read <= reading;", "read <= push ? read : reading;"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(simulations, tmp_path, fault):
    source, old, new, *sizes = FAULTS[fault]
    luts = source == IN_LUTS or sizes == [LUTS]
    attributes, weights = matrix(*(LUTS if luts else sizes[0] if sizes else (18, 6, 6, 2)))
    attributes["resType"] = "lut" if luts else "dsp"
    attributes["numInputVectors"] = [1, 6, 12]
    module = MVAU(attributes).module([weights])
    compiled = mutated(module, simulations, source, old, new, tmp_path)
    with pytest.raises((AssertionError, SimulationFailed)):
        check(attributes, weights, module, compiled)
