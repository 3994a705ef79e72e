"""The depthwise unit at its limits: extreme numbers, a sink that stands, faults inside."""

from __future__ import annotations

import dataclasses

import cases
import numpy as np
import pytest
from bench import STALLS, Stalls, check, differs, mutated, needs_verilator

from lmaunet.errors import UserError
from lmaunet.fpga.operators.arithmetic import integer_bits, type_range
from lmaunet.fpga.simulation.compilation import compile_module, lint
from lmaunet.fpga.simulation.simulator import SimulationFailed

pytestmark = needs_verilator


@pytest.mark.parametrize("simd", [1, 3, 9])
@pytest.mark.parametrize("dtype", ["INT8", "UINT8"])
@pytest.mark.parametrize("weights", ["INT4", "INT8"])
def test_the_largest_products_of_all_signs_are_exact(simulations, simd, dtype, weights):
    """A channel's weights are all at one end, a pixel's codes too, an output for every pair."""
    case = cases.depthwise_conv(channels=4, pe=2, simd=simd, dtype=dtype, weights=weights)
    (low, high), (least, most) = type_range(weights), type_range(dtype)
    matrix = np.array([low, high, -high, 0])[:, None, None, None].repeat(9, 2).reshape(4, 1, 3, 3)
    ends = np.array([least, most, 0, max(least, -most)]).reshape(1, 1, 4, 1)
    tensor = np.broadcast_to(ends, case.tensors[0].shape).copy()
    reach = 9 * -low * max(-least, most)
    attributes = dict(case.attributes) | {"outputDataType": f"INT{integer_bits(-reach, reach)}"}
    case = dataclasses.replace(case, tensors=(tensor,), constants=(matrix,), attributes=attributes)
    check(case, simulations)


SHAPES = {
    "one tap": {"channels": 6, "pe": 2},
    "chains of three": {"channels": 6, "pe": 2, "simd": 9, "weights": "INT8"},
    "a short chain": {"kernel": (7, 7), "channels": 2, "pe": 2, "simd": 7, "weights": "INT8"},
    "several beats": {"channels": 6, "pe": 3, "simd": 3, "dtype": "UINT8"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sink_that_stands_for_long_loses_nothing(simulations, shape):
    """Longer than the queue lasts, again and again; the queue ends the run where it overflows."""
    case = cases.depthwise_conv(height=6, width=10, **SHAPES[shape])
    lint(case.module())
    check(case, simulations, (*STALLS, Stalls(0.0, 0.985, seed=5), Stalls(0.5, 0.97, seed=6)))


UNIT, TREE, QUEUE = "depthwise_conv.sv", "adder_tree.sv", "credit_queue.sv"
FAULTS = {
    "one tap is not accumulated": (
        "one tap", UNIT, "OUTPUT_BITS'(product) + (starts ? '0 : accumulator)",
        "OUTPUT_BITS'(product)",
    ),
    "beats are not accumulated": (
        "several beats", UNIT, "sum + (starts ? '0 : accumulator)", "sum"
    ),
    "the sign of a sum is lost": ("a short chain", UNIT, "$signed(tree_sum)", "tree_sum"),
    "what is not there is summed up": (
        "one tap", UNIT, "adds <= valid[SUMMED-1];", "adds <= 1'b1;"
    ),
    "a short chain begins too early": ("a short chain", UNIT, "CYCLES(LACKS + i)", "CYCLES(i)"),
    "the tree is unsigned": ("a short chain", UNIT, ".SIGNED(1)", ".SIGNED(0)"),
    "unsigned codes are signed": ("several beats", UNIT, "x[tap] = {1'b0, raw}",
                                  "x[tap] = {raw[INPUT_BITS-1], raw}"),
    "a waiting term is lost": ("chains of three", TREE, "pairs[i] <= a;", "pairs[i] <= '0;"),
    "no credit is needed": ("one tap", UNIT, "in0_V_tready = !first || credit",
                            "in0_V_tready = 1'b1"),
    "weights do not wait": ("one tap", UNIT, "else if (issued) address", "else address"),
    "a word is given twice": (
        "one tap", QUEUE, "read <= reading;", "read <= push ? read : reading;"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(simulations, tmp_path, fault):
    shape, *change = FAULTS[fault]
    case = cases.depthwise_conv(height=6, width=10, **SHAPES[shape])
    compiled = mutated(case.module(), simulations, *change, tmp_path)
    try:
        found = [differs(compiled, case, stalls) for stalls in STALLS]
    except SimulationFailed as error:
        found = [str(error)]
    assert any(found)


def test_a_chain_longer_than_the_taps_is_refused(simulations):
    module = cases.depthwise_conv(simd=3).module()
    module = dataclasses.replace(module, parameters=dict(module.parameters) | {"CHAIN": 4})
    with pytest.raises(UserError, match="CHAIN=4, expected 1 to SIMD=3"):
        compile_module(module, simulations)
