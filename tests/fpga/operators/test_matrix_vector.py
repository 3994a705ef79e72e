"""The matrix unit against the executor's integers."""

from __future__ import annotations

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, corners, mutated, needs_verilator

from fpga.operators.arithmetic import integer_bits
from fpga.operators.matrix_vector import MVAU, Packing, packing
from fpga.operators.rtl_module import pack, unpack
from fpga.simulation.compilation import compile_module, lint
from fpga.simulation.simulator import SimulationFailed, simulate
from lmaunet.errors import UserError

pytestmark = needs_verilator
FRAMES = 3


def matrix(mw, mh, simd, pe, bits=8, seed=0):
    rng = np.random.default_rng(seed)
    top = 2 ** (bits - 1) - 1
    weights = corners(rng, -top, top, (mw, mh))
    reach = int(np.abs(weights).sum(0).max()) * 128
    attributes = {
        "MW": mw, "MH": mh, "SIMD": simd, "PE": pe, "inputDataType": "INT8",
        "weightDataType": f"INT{bits}", "outputDataType": f"INT{integer_bits(-reach, reach)}",
        "numInputVectors": [1, 4, 5],
    }  # fmt: skip
    return attributes, weights


def check(attributes, weights, module, compiled):
    """Compare frames back to back with the executor's sums, with stalls and without."""
    pe, simd = attributes["PE"], attributes["SIMD"]
    x = corners(np.random.default_rng(1), -128, 127, (FRAMES, 4, 5, attributes["MW"]))
    want = MVAU(attributes).execute([x, weights]).reshape(-1, pe)
    beats = {"in0_V": pack(x.reshape(-1, simd), 8)}
    for stalls in STALLS:
        got = simulate(compiled, beats, {"out0_V": len(want)}, stalls)
        sums = unpack(got.outputs["out0_V"], module.outputs[0].bits // pe, pe)
        assert (sums == want).all()
        if stalls == NO_STALLS:
            assert (got.intervals("out0_V", FRAMES) == MVAU(attributes).cycles()).all()


@pytest.mark.parametrize(
    ("mw", "mh", "simd", "pe", "bits"),
    [(18, 6, 3, 2, 8), (18, 6, 18, 6, 4), (12, 4, 1, 1, 2), (8, 9, 2, 9, 3), (27, 8, 9, 4, 8)],
)
def test_a_matrix_gives_the_executors_sums(simulations, mw, mh, simd, pe, bits):
    attributes, weights = matrix(mw, mh, simd, pe, bits)
    module = MVAU(attributes).module([weights])
    check(attributes, weights, module, compile_module(module, simulations))


def test_a_matrix_whose_folding_does_not_divide_is_refused():
    attributes, weights = matrix(18, 6, 4, 2)
    with pytest.raises(UserError, match="SIMD=4 does not divide MW=18"):
        MVAU(attributes).module([weights])


@pytest.mark.parametrize(
    ("largest_weight", "bits", "largest_activation", "want"),
    [
        (127, 8, 128, Packing(2, 19, True)),
        (128, 8, 128, Packing(2, 19, True)),
        (7, 4, 128, Packing(3, 11, False)),
        (8, 4, 128, Packing(2, 23, True)),
        (3, 3, 128, Packing(3, 12, True)),
        (1, 2, 128, Packing(3, 12, True)),
        (127, 8, 32768, Packing(1, 27, True)),
    ],
)
def test_how_many_weights_share_a_multiplier(largest_weight, bits, largest_activation, want):
    found = packing(largest_weight, bits, largest_activation)
    assert found == want
    assert bits + (found.lanes - 1) * found.lane_bits <= 27
    if found.lanes > 1:
        products = 2 if found.cascade else 1
        assert products * largest_weight * largest_activation < 2 ** (found.lane_bits - 1)


def test_lint():
    for sizes in ((18, 6, 3, 2), (18, 6, 18, 6, 4)):
        attributes, weights = matrix(*sizes)
        lint(MVAU(attributes).module([weights]))


UNIT, BUFFER, TREE = "matrix_vector.sv", "vector_buffer.sv", "adder_tree.sv"
FAULTS = {
    "the borrow is not given back": (UNIT, "SUM_BITS'(k > 0 &&", "SUM_BITS'(0 &&"),
    "the signs are forgotten": (UNIT, "low_held - signs_held", "low_held"),
    "the second column comes with the first": (
        UNIT,
        "{low_held, signs_held, a_held} <= {low_first, signs_first, a_first};",
        "{low_held, signs_held, a_held} <= {low_bits, signs, a};",
    ),
    "sums go on into the next row": (
        UNIT, "begins[SUMMED] ? sum : sums[r] + sum", "sums[r] + sum"
    ),
    "weights do not wait": (UNIT, "else if (en && offered)\n", "else if (en)\n"),
    "a vector is offered before it is there": (BUFFER, "filled > COUNT_BITS'(index)", "1'b1"),
    "a vector is overwritten": (BUFFER, "filled_next < COUNT_BITS'(WORDS)", "1'b1"),
    "the last of an odd number is lost": (TREE, ": terms[2*i];", ": '0;"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(simulations, tmp_path, fault):
    attributes, weights = matrix(18, 6, 9 if "odd" in fault else 6, 2)
    module = MVAU(attributes).module([weights])
    compiled = mutated(module, simulations, *FAULTS[fault], tmp_path)
    with pytest.raises((AssertionError, SimulationFailed)):
        check(attributes, weights, module, compiled)
