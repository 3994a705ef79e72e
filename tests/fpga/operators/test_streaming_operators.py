"""Every streaming operator against its integer golden, with stalls, and its cycles."""

from __future__ import annotations

import dataclasses

import cases
import pytest
from bench import STALLS, Case, check, differs, mutated, needs_verilator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmaunet.errors import UserError
from lmaunet.fpga.operators.arithmetic import legal_divisors
from lmaunet.fpga.operators.registry import OPERATORS
from lmaunet.fpga.simulation.compilation import compile_module, lint
from lmaunet.fpga.simulation.simulator import SimulationFailed

QUICK = {
    "requantize": cases.requantize(),
    "requantize, 18-bit inputs and a wide multiplier": cases.requantize(dtype="INT16", pe=1),
    "requantize, ratios far apart, 27 bits, a ReLU": cases.requantize(
        dtype="INT27", to="UINT8", low=0, ratios=(1e-6, 0.3), pe=3
    ),
    "requantize, shifts only": cases.requantize(ratios=(2.0**-9, 2.0**-9), dtype="UINT17"),
    "table_activation": cases.table_activation(),
    "table_activation, unsigned, from 3 on": cases.table_activation(dtype="UINT5", low=3, pe=1),
    "elementwise, product": cases.elementwise(),
    "elementwise, sum": cases.elementwise(False, left="INT8", right="INT11", pe=6),
    "duplicate_streams": cases.duplicate_streams(),
    "streaming_concat": cases.streaming_concat(),
    "upsample_nearest": cases.upsample(),
    "upsample_nearest, one beat a pixel": cases.upsample(factors=(3, 1), channels=2),
    "depth_to_space": cases.depth_to_space(),
    "depth_to_space, three rows of a beat": cases.depth_to_space(4, 3, (3, 1), 3, 3, "UINT5"),
    "depth_to_space, one pixel wide": cases.depth_to_space(5, 1, (2, 3), 4, 1),
    "max_pool": cases.max_pool(),
    "max_pool, 3 x 3, unsigned": cases.max_pool(kernel=(3, 3), pe=3, dtype="UINT8"),
    "bin_sum": cases.bin_sum(),
    # the same word again in the next cycle, in the one after it, in the third, and never
    "bin_sum, the whole map, a beat a pixel": cases.bin_sum((1, 1), (3, 4), 2),
    "bin_sum, two words": cases.bin_sum((2, 1), (2, 5), 4, dtype="UINT8"),
    "bin_sum, three words": cases.bin_sum((1, 3), (4, 1), 3, 3, "INT4"),
    "bin_sum, bins of a pixel": cases.bin_sum((3, 4), (1, 1), 6, 6),
    "bin_sum, three groups of lanes": cases.bin_sum((1, 2), (4, 4), 36, 36),
    "pad_with_code": cases.pad(),
    "pad_with_code, zeros": cases.pad(code=0, padding=(1, 1, 1, 1), simd=6),
    "depthwise_conv": cases.depthwise_conv(),
    "depthwise_conv, 4 taps a beat": cases.depthwise_conv(kernel=(1, 4), simd=4, height=1, pe=3),
}

MUTANTS = {
    "requantize": ("shift_2 <= shift_1", "shift_2 <= own[0 +: S_ROOM]"),
    "table_activation": ("if (step)\n", "\n"),
    "elementwise, product": ("in0_V_tready = step && in1_V_tvalid", "in0_V_tready = step"),
    "duplicate_streams": ("{OUTPUTS{valid}} & ~served", "{OUTPUTS{valid}}"),
    "streaming_concat": ("beat <= last ? '0 : beat + 1'b1;", "beat <= beat + 1'b1;"),
    "upsample_nearest": ("occupied != count_t'(DEPTH)", "1'b1"),
    "depth_to_space": ("held < count_t'(LAST - FIRST - 1)", "held < count_t'(LAST - FIRST + 3)"),
    "depth_to_space, three rows of a beat": ("some[from]", "some[0]"),
    "max_pool": ("first || (x ^ FLIP)", "first || (x)"),
    "bin_sum": ("here <= start", "here <= here + 1'b1"),
    "bin_sum, the whole map, a beat a pixel": ("from_next = NEWEST", "from_next = STORED"),
    "bin_sum, two words": ("from_next = NEWER", "from_next = STORED"),
    "bin_sum, three words": ("= NOTHING", "= STORED"),
    "bin_sum, bins of a pixel": ("assign in0_V_tready = credit", "assign in0_V_tready = 1'b1"),
    "bin_sum, three groups of lanes": ("if (write) memory", "if (write && read_valid) memory"),
    "pad_with_code": ("int'(x) < LEFT + WIDTH", "int'(x) <= LEFT + WIDTH"),
    "depthwise_conv": ("starts <= begins[SUMMED-1]", "starts <= begins[SUMMED]"),
}


@needs_verilator
@pytest.mark.parametrize("name", QUICK)
def test_equals_the_golden(simulations, name):
    lint(QUICK[name].module())
    check(QUICK[name], simulations)


@needs_verilator
@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_caught(simulations, tmp_path, name):
    case = QUICK[name]
    source = case.module().sources[-1]
    compiled = mutated(case.module(), simulations, source, *MUTANTS[name], tmp_path)
    try:
        found = [differs(compiled, case, stalls) for stalls in STALLS]
    except SimulationFailed as error:
        found = [str(error)]
    assert any(found)


def test_every_operator_has_a_case_and_a_fault():
    here = {case.op_type for case in QUICK.values()}
    # with a test file of its own
    elsewhere = {"SelectiveScan", "MVAU", "ConvolutionInputGenerator", "Reshape"}
    assert here == set(OPERATORS) - elsewhere
    sources = {QUICK[name].module().sources[-1] for name in MUTANTS}
    assert sources == {case.module().sources[-1] for case in QUICK.values()}


BAD = {
    "requantize": ("PE", 4, "PE=4 does not divide channels=6; use 1, 2, 3 or 6"),
    "table_activation": ("Low", -129, "256 entries from -129 on, but INT8 is -128 to 127"),
    "elementwise, product": ("out_dtype", "UINT16", None),
    "duplicate_streams": ("NumOutputStreams", 0, "NumOutputStreams=0, expected 1 or more"),
    "streaming_concat": ("SIMD", 4, "SIMD=4 does not divide channels of input 1=2; use 1 or 2"),
    "upsample_nearest": ("HO", 7, "3 x 4 to 7 x 8, expected whole factors"),
    "depth_to_space": ("Factors", [1, 2], "blocks of 1 x 2 pixels on a map of 3 x 4, expected two"),
    "max_pool": ("Function", "QuantAvgPool", "QuantAvgPool of INT8 to INT8, expected MaxPool"),
    "bin_sum": ("Bin", [4, 2], "bins of 4 x 2 pixels on a map of 6 x 6, expected bins that"),
    "bin_sum, two words": ("outputDataType", "INT11", "10 codes of UINT8 as INT11, expected INT13"),
    "pad_with_code": ("Code", 200, r"Code=200, expected -128 to 127 \(INT8\)"),
    "depthwise_conv": ("SIMD", 2, "SIMD=2 does not divide taps=9; use 1, 3 or 9"),
}


def changed(case: Case, name: str, value: object) -> Case:
    return dataclasses.replace(case, attributes=dict(case.attributes) | {name: value})


@pytest.mark.parametrize("name", BAD)
def test_bad_attributes_are_refused(name):
    attribute, value, message = BAD[name]
    case = QUICK[name]
    if name == "elementwise, product":
        case, message = changed(case, "rhs_dtype", "INT8"), "INT8 and INT8 give negative results"
    with pytest.raises(UserError, match=message):
        changed(case, attribute, value).module()


BAD_PARAMETERS = {
    "requantize": ("SUM_BITS", 49, "SUM_BITS=49, expected .* to 48"),
    "table_activation": ("INPUT_BITS", 13, "INPUT_BITS=13, expected 1 to 12"),
    "elementwise, sum": ("PE", 0, "PE=0, expected 1 or more"),
    "duplicate_streams": ("OUTPUTS", 0, "OUTPUTS=0, expected 1 or more"),
    "streaming_concat": ("BEATS", 0x0000_0001_0002, "input 2 has no beats"),
    "upsample_nearest": ("DEPTH", 15, "DEPTH=15, expected 16 or more"),
    "depth_to_space": ("FACTOR", 1, "FACTOR=1, expected 1, 1, 1, 2 up"),
    "depth_to_space, one pixel wide": ("SPARE", 15, "SPARE=15, expected 16 or more"),
    "max_pool": ("TAPS", 0, "TAPS=0, expected 1 or more"),
    "bin_sum": ("BIN_W", 0, "BIN_W=0, BINS=3, expected 1 or more"),
    "bin_sum, two words": ("SUM_BITS", 7, "SUM_BITS=7, expected 8 or more"),
    "pad_with_code": ("LEFT", -1, "a negative border"),
    "depthwise_conv": ("SIMD", 2, "SIMD=2 does not divide TAPS=9"),
}


@needs_verilator
@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameters_are_refused_at_elaboration(simulations, name):
    parameter, value, message = BAD_PARAMETERS[name]
    module = QUICK[name].module()
    module = dataclasses.replace(module, parameters=dict(module.parameters) | {parameter: value})
    with pytest.raises(UserError, match=message):
        compile_module(module, simulations)


@st.composite
def any_case(draw) -> Case:
    """Draw a node of any operator, size, type and folding."""
    seed = draw(st.integers(0, 1 << 30))
    channels = draw(st.integers(1, 12))
    pe = draw(st.sampled_from(legal_divisors(channels)))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(["INT8", "UINT8", "INT4", "INT3", "UINT7"]))
    kernel = draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (1, 4), (4, 1), (2, 3)]))
    common = {"channels": channels, "pe": pe, "seed": seed}
    name = draw(st.sampled_from(sorted(set(OPERATORS) - {"SelectiveScan", "Reshape"})))
    if name == "Requantize":
        wide = draw(st.sampled_from(["INT8", "INT16", "INT19", "INT27", "INT30", "UINT18"]))
        low = draw(st.sampled_from([1e-8, 1e-4, 0.2, 2.0**-5]))
        high = low * draw(st.sampled_from([1, 1, 3, 1000]))
        to, least = draw(st.sampled_from([("INT8", -128), ("INT8", 0), ("UINT8", 0), ("INT4", -7)]))
        return cases.requantize(dtype=wide, to=to, low=least, ratios=(low, high), **common)
    if name == "TableActivation":
        return cases.table_activation(dtype=dtype, to=draw(st.sampled_from(["INT8", "UINT4"])),
                                      **common)  # fmt: skip
    if name.startswith("Elementwise"):
        right = draw(st.sampled_from(["INT8", "UINT5", "INT18"]))
        return cases.elementwise(name.endswith("Mul"), left=dtype, right=right, **common)
    if name == "DuplicateStreams":
        return cases.duplicate_streams(draw(st.integers(1, 5)), dtype=dtype, **common)
    if name == "StreamingConcat":
        counts = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
        return cases.streaming_concat([pe * count for count in counts], pe, dtype, seed=seed)
    if name == "UpsampleNearestNeighbour":
        factors = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        return cases.upsample(height, width, factors, channels, pe, dtype, seed)
    if name == "DepthToSpace":
        factors = draw(st.integers(2, 4)), draw(st.integers(1, 3))
        return cases.depth_to_space(height, width, factors, channels, pe, dtype, seed)
    if name == "Pool":
        return cases.max_pool(kernel, height, width, dtype=dtype, **common)
    if name == "BinSum":
        bins = draw(st.integers(1, 3)), draw(st.integers(1, 4))
        return cases.bin_sum(bins, (height, width), dtype=dtype, **common)
    if name in ("PadWithCode", "FMPadding"):
        borders = draw(st.tuples(*[st.integers(0, 3)] * 4))
        code = draw(st.sampled_from([1, 3])) if name == "PadWithCode" else 0
        return cases.pad(code, height, width, borders, channels, pe, dtype, seed)
    simd = draw(st.sampled_from(legal_divisors(kernel[0] * kernel[1])))
    weights = draw(st.sampled_from(["INT2", "INT4", "INT8"]))
    return cases.depthwise_conv(kernel, height, width, channels, pe, simd, dtype, weights, seed)


@needs_verilator
@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_case())
def test_any_size_and_folding_equals_the_golden(simulations, case):
    check(case, simulations)


@needs_verilator
def test_an_output_does_not_wait_for_another(simulations):
    """A slow output may hold the others back by one beat at most, and only at the next beat."""
    import numpy as np
    from bench import beats_of

    from lmaunet.fpga.simulation.simulator import Stalls, simulate

    case = QUICK["duplicate_streams"]
    compiled = compile_module(case.module(), simulations)
    expected = beats_of(compiled.module, case.outputs())
    beats = {name: len(values) for name, values in expected.items()}
    got = simulate(compiled, beats_of(compiled.module, case.inputs()), beats,
                   Stalls(ports={"out1_V": 0.8}, seed=5))  # fmt: skip
    slow, others = got.cycles["out1_V"], [got.cycles[n] for n in ("out0_V", "out2_V")]
    for taken in others:
        assert (taken[1:] == slow[:-1] + 1).all()
        assert (np.diff(taken) >= 1).all()
