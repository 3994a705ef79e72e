"""The window generator against plain loops, with stalls, and its cycles against FINN+'s count."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from bench import NO_STALLS, STALLS, corners, mutated, needs_verilator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmaunet.errors import UserError
from lmaunet.fpga.operators.arithmetic import type_bits, type_range
from lmaunet.fpga.operators.rtl_module import pack
from lmaunet.fpga.operators.sliding_window import ConvolutionInputGenerator
from lmaunet.fpga.simulation.compilation import compile_module, lint
from lmaunet.fpga.simulation.simulator import SimulationFailed, Stalls, simulate

LONG_STALLS = Stalls(0.0, 0.98, seed=6)
# cycles from a word to the output that needs it last
LATENCY, LATENCY_PARALLEL = 5, 4
SETTLE = 2000  # rows below a map's last window are still taken when all outputs are done


def generator(
    height, width, channels, kernel, strides=(1, 1), simd=1, depthwise=0, parallel=0, dtype="INT8"
):
    return {
        "ConvKernelDim": list(kernel), "IFMChannels": channels, "IFMDim": [height, width],
        "OFMDim": [(height - kernel[0]) // strides[0] + 1, (width - kernel[1]) // strides[1] + 1],
        "SIMD": simd, "Stride": list(strides), "Dilation": [1, 1], "inputDataType": dtype,
        "outputDataType": dtype, "depthwise": depthwise, "parallel_window": parallel,
        "is1D": int(height == 1 or width == 1), "ram_style": "auto",
    }  # fmt: skip


# no two sizes of a case are equal
CASES = {
    "dense": generator(6, 7, 4, (3, 2), simd=2),
    "dense, one fold": generator(7, 6, 3, (2, 3), simd=3),
    "dense, strides": generator(9, 8, 6, (3, 2), (2, 3), simd=2),
    "dense, 9 bits a beat": generator(5, 6, 3, (2, 3), simd=3, dtype="UINT3"),
    "depthwise": generator(6, 7, 6, (3, 2), simd=2, depthwise=1),
    "depthwise, strides": generator(7, 9, 4, (2, 3), (3, 2), simd=1, depthwise=1),
    "pool": generator(8, 6, 4, (2, 2), (2, 2), simd=1, depthwise=1),
    "rows and columns below and beside the last window": generator(
        9, 10, 3, (2, 3), (3, 2), simd=1, depthwise=1
    ),
    "one row": generator(1, 12, 4, (1, 4), simd=2),
    "one row, depthwise, a stride": generator(1, 13, 6, (1, 4), (1, 2), simd=2, depthwise=1),
    "one column": generator(12, 1, 4, (4, 1), (2, 1), simd=2),
    "one pixel a window, strides": generator(7, 9, 4, (1, 1), (2, 3), simd=2),
    "one pixel a window, parallel": generator(6, 7, 4, (1, 1), (3, 2), simd=4, parallel=1),
    "a window as large as the map": generator(3, 2, 4, (3, 2), simd=2),
    "parallel": generator(6, 7, 3, (3, 2), simd=3, parallel=1),
    "parallel, folds": generator(7, 6, 6, (2, 4), simd=2, depthwise=1, parallel=1),
    "parallel, two folds": generator(5, 6, 4, (2, 3), simd=2, depthwise=1, parallel=1),
    "parallel, strides": generator(9, 8, 6, (3, 2), (2, 3), simd=3, depthwise=1, parallel=1),
    "parallel, many folds": generator(4, 5, 35, (3, 2), simd=1, depthwise=1, parallel=1),
    "parallel, several groups": generator(8, 9, 14, (5, 7), simd=7, depthwise=1, parallel=1),
    "parallel, one row": generator(1, 11, 6, (1, 4), simd=2, depthwise=1, parallel=1),
    "parallel, one column": generator(11, 1, 6, (4, 1), (2, 1), simd=2, depthwise=1, parallel=1),
    "parallel, two columns": generator(5, 2, 1, (3, 2), simd=1, parallel=1),
}


def windows(attributes, x):
    """Return every beat ``(beats, lanes)``, one loop for each axis."""
    a = attributes
    (kernel_h, kernel_w), (stride_h, stride_w) = a["ConvKernelDim"], a["Stride"]
    taps = [(i, j) for i in range(kernel_h) for j in range(kernel_w)]
    folds = range(0, a["IFMChannels"], a["SIMD"])
    parallel = a["parallel_window"] and len(taps) > 1
    beats = []
    for image in x:
        for top in range(0, a["OFMDim"][0] * stride_h, stride_h):
            for left in range(0, a["OFMDim"][1] * stride_w, stride_w):
                order = (
                    [(i, j, f) for f in folds for i, j in taps]
                    if a["depthwise"] or parallel
                    else [(i, j, f) for i, j in taps for f in folds]
                )
                beats += [image[top + i, left + j, f : f + a["SIMD"]] for i, j, f in order]
    lanes = a["SIMD"] * (len(taps) if parallel else 1)
    return np.array(beats).reshape(-1, lanes)


def ideal(attributes):
    """Return the beats of an image that pass the narrower end: no interval is shorter."""
    a = attributes
    folds = a["IFMChannels"] // a["SIMD"]
    taps = math.prod(a["ConvKernelDim"])
    each = folds if a["parallel_window"] else folds * taps
    return max(math.prod(a["IFMDim"]) * folds, math.prod(a["OFMDim"]) * each)


def differs(compiled, attributes, stalls, frames=3):
    """Return how a simulation differs from the loops, or an empty string."""
    a, bits = attributes, type_bits(attributes["inputDataType"])
    x = corners(
        np.random.default_rng(2), *type_range(a["inputDataType"]),
        (frames, *a["IFMDim"], a["IFMChannels"]),
    )  # fmt: skip
    want = pack(windows(a, x), bits)
    beats = {"in0_V": pack(x.reshape(-1, a["SIMD"]), bits)}
    got = simulate(compiled, beats, {"out0_V": len(want)}, stalls, settle=SETTLE)
    wrong = (got.outputs["out0_V"] != want).any(1)
    if wrong.any():
        return f"{wrong.sum()} of {len(want)} beats differ, first {np.argmax(wrong)}; {stalls}"
    if stalls == NO_STALLS:
        intervals = got.intervals("out0_V", frames)
        # FINN+ counts fewer cycles than beats where rows are passed over that nobody needs
        counted = ConvolutionInputGenerator(a).cycles()
        if counted >= ideal(a) and intervals.max() > counted:
            return f"intervals of {intervals}, FINN+ counts {counted}"
    return ""


def check(attributes, simulations, stalls=(*STALLS, LONG_STALLS)):
    compiled = compile_module(ConvolutionInputGenerator(attributes).module(), simulations)
    for each in stalls:
        assert differs(compiled, attributes, each) == ""


@needs_verilator
@pytest.mark.parametrize("name", CASES)
def test_it_gives_the_windows(simulations, name):
    lint(ConvolutionInputGenerator(CASES[name]).module())
    check(CASES[name], simulations)


@pytest.mark.parametrize("name", CASES)
def test_the_executor_gives_the_same(name):
    a = CASES[name]
    x = np.random.default_rng(3).integers(-100, 100, (2, *a["IFMDim"], a["IFMChannels"]))
    operator = ConvolutionInputGenerator(a)
    streamed = operator.streamed(operator.execute([x]))
    assert streamed.shape[:3] == (2, *a["OFMDim"])
    np.testing.assert_array_equal(streamed.ravel(), windows(a, x).ravel())


@needs_verilator
@pytest.mark.parametrize("name", CASES)
def test_images_follow_each_other_at_one_interval(simulations, name):
    a, frames = CASES[name], 8
    compiled = compile_module(ConvolutionInputGenerator(a).module(), simulations)
    x = np.zeros((frames, *a["IFMDim"], a["IFMChannels"]), np.int64)
    bits = type_bits(a["inputDataType"])
    beats = {"in0_V": pack(x.reshape(-1, a["SIMD"]), bits)}
    got = simulate(compiled, beats, {"out0_V": len(windows(a, x))}, NO_STALLS, settle=SETTLE)
    intervals = got.intervals("out0_V", frames)[1:]
    assert len(set(intervals)) == 1
    counted = ConvolutionInputGenerator(a).cycles()
    assert ideal(a) <= intervals[0] and (intervals[0] <= counted or counted < ideal(a))
    if a["parallel_window"] or math.prod(a["ConvKernelDim"]) == 1:
        assert intervals[0] == ideal(a)


@needs_verilator
@pytest.mark.parametrize("name", ["parallel, strides", "parallel, many folds", "parallel, one row"])
def test_a_window_comes_as_soon_as_its_last_word(simulations, name):
    a = CASES[name]
    compiled = compile_module(ConvolutionInputGenerator(a).module(), simulations)
    x = np.zeros((1, *a["IFMDim"], a["IFMChannels"]), np.int64)
    beats = {"in0_V": pack(x.reshape(-1, a["SIMD"]), 8)}
    got = simulate(compiled, beats, {"out0_V": len(windows(a, x))}, NO_STALLS, settle=SETTLE)
    folds = a["IFMChannels"] // a["SIMD"]
    place = np.arange(math.prod(a["IFMDim"]) * folds).reshape(*a["IFMDim"], folds)
    last = place[a["ConvKernelDim"][0] - 1 :: a["Stride"][0],
                 a["ConvKernelDim"][1] - 1 :: a["Stride"][1]].ravel()  # fmt: skip
    np.testing.assert_array_equal(
        got.cycles["out0_V"], got.cycles["in0_V"][last] + LATENCY_PARALLEL
    )


@needs_verilator
@pytest.mark.parametrize("name", ["dense", "depthwise", "pool"])
def test_a_word_comes_as_soon_as_it_is_there(simulations, name):
    """The first taps of the first window come long before the window is whole."""
    a = CASES[name]
    compiled = compile_module(ConvolutionInputGenerator(a).module(), simulations)
    x = np.zeros((1, *a["IFMDim"], a["IFMChannels"]), np.int64)
    beats = {"in0_V": pack(x.reshape(-1, a["SIMD"]), 8)}
    count = len(windows(a, x))
    got = simulate(compiled, beats, {"out0_V": count}, NO_STALLS, settle=SETTLE)
    came, taken = got.cycles["out0_V"], got.cycles["in0_V"]
    assert came[0] == taken[0] + LATENCY
    # the last word of the first window; all beats before it have come by then
    folds, kernel = a["IFMChannels"] // a["SIMD"], a["ConvKernelDim"]
    window = folds * math.prod(kernel)
    last = ((kernel[0] - 1) * a["IFMDim"][1] + kernel[1]) * folds - 1
    assert came[window - 1] <= taken[last] + LATENCY + (window if a["depthwise"] else 0)


@needs_verilator
@pytest.mark.parametrize("name", ["dense", "depthwise", "pool"])
def test_a_ring_of_no_more_than_a_window_is_too_slow(simulations, name):
    a = CASES[name]
    g = ConvolutionInputGenerator(a).geometry()
    module = ConvolutionInputGenerator(a).module()
    words = ((g.kernel[0] - 1) * g.size[1] + g.kernel[1]) * g.folds
    assert g.depth > words
    short = dataclasses.replace(module, parameters={**module.parameters, "DEPTH": words})
    found = differs(compile_module(short, simulations), a, NO_STALLS)
    assert found == "" or found.startswith("intervals of")
    assert slowest(short, a, simulations) > slowest(module, a, simulations)
    with pytest.raises(UserError, match=f"DEPTH={words - 1}, expected {words} or more"):
        shorter = dataclasses.replace(module, parameters={**module.parameters, "DEPTH": words - 1})
        compile_module(shorter, simulations)


def slowest(module, a, simulations):
    x = np.zeros((3, *a["IFMDim"], a["IFMChannels"]), np.int64)
    beats = {"in0_V": pack(x.reshape(-1, a["SIMD"]), 8)}
    compiled = compile_module(module, simulations)
    got = simulate(compiled, beats, {"out0_V": len(windows(a, x))}, NO_STALLS, settle=SETTLE)
    return got.intervals("out0_V", 3).max()


MUTANTS = {
    "counts on a line more than there is": (
        "dense", "window_ring.sv", "room <= count_t'(DEPTH - 1)", "room <= count_t'(DEPTH+LINE-1)"
    ),
    "frees a word with each that it reads": ("pool", "window_ring.sv", "freed - 1)", "freed)"),
    "reads a word before it is there": ("dense", "window_ring.sv", "ahead <= '1;", "ahead <= '0;"),
    "passes no rows over": (
        "dense, strides", "window_ring.sv", "TO_ROW = STRIDE_H * LINE", "TO_ROW = LINE"
    ),
    "passes no columns over": (
        "pool", "window_ring.sv", "TO_WINDOW = STRIDE_W * FOLDS", "TO_WINDOW = FOLDS"
    ),
    "leaves the rows below the last window": (
        "rows and columns below and beside the last window", "window_ring.sv",
        "(HEIGHT - (OUT_H - 1) * STRIDE_H) * LINE", "KERNEL_H * LINE",
    ),
    "one fold for another": ("depthwise", "window_ring.sv", "TO_GROUP = 1 -", "TO_GROUP = 0 -"),
    "wraps a word late": ("dense", "window_ring.sv", "hop - DEPTH)", "hop - DEPTH - 1)"),
    "starts without a credit": ("dense", "window_ring.sv", "primed && credit &&", "primed &&"),
    "a counter's last value one late": (
        "dense", "wrap_counter.sv", "BITS'(COUNT - 2)", "BITS'(COUNT - 1)"
    ),
    "a credit too many": (
        "parallel", "window_queue.sv", "(DEPTH - 1);", "(DEPTH);"
    ),
    "offers what is not there": (
        "parallel", "window_taps.sv", "filled <= offered && complete", "filled <= complete"
    ),
    "ends of windows of another image": (
        "parallel, strides", "window_edge.sv", "(!ap_rst_n || (step && last))", "(!ap_rst_n)"
    ),
    "windows at every second place only": (
        "parallel, strides", "window_edge.sv", "(STRIDE - 1) : left", "(STRIDE) : left"
    ),
    "begins a row in the middle": (
        "parallel", "window_edge.sv", "else if (step && last) ends <= KERNEL == 1;", ""
    ),
    "puts out every column": (
        "parallel", "sliding_window.sv", ".complete(complete_head)", ".complete(1'b1)"
    ),
    "writes a line at another place": (
        "parallel, folds", "window_columns.sv", "lines[address_2] <=", "lines[address_1] <="
    ),
    "writes a line without a word": (
        "parallel, folds", "window_columns.sv", "if (valid[1]) lines", "lines"
    ),
    "a line of two words does not move": (
        "parallel, two columns", "window_columns.sv", "read_word <= lines[LINE-1]",
        "read_word <= lines[0]",
    ),
    "keeps the columns of another fold": (
        "parallel, folds", "window_taps.sv", "next <= next == FOLD_BITS'(FOLDS - 1)",
        "next <= next == FOLD_BITS'(FOLDS - 2)",
    ),
    "keeps the columns of another of many folds": (
        "parallel, many folds", "window_taps.sv", "after <= FOLD_BITS'(1);",
        "after <= FOLD_BITS'(2);",
    ),
}  # fmt: skip


@needs_verilator
@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_is_caught(simulations, tmp_path, name):
    case, source, old, new = MUTANTS[name]
    module = ConvolutionInputGenerator(CASES[case]).module()
    compiled = mutated(module, simulations, source, old, new, tmp_path)
    try:
        found = [differs(compiled, CASES[case], stalls) for stalls in (*STALLS, LONG_STALLS)]
    except SimulationFailed as error:
        found = [str(error)]
    assert any(found)


def test_every_source_has_a_fault():
    sources = {source for _, source, *_ in MUTANTS.values()}
    assert sources == set(ConvolutionInputGenerator(CASES["dense"]).module().sources)


@st.composite
def any_window(draw):
    """Draw a generator of any size, strides and folding."""
    shape = draw(st.sampled_from(["map", "map", "map", "row", "column"]))
    height = 1 if shape == "row" else draw(st.integers(1, 9))
    width = 1 if shape == "column" else draw(st.integers(1, 10))
    kernel = draw(st.integers(1, min(height, 5))), draw(st.integers(1, min(width, 5)))
    strides = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    simd, folds = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3, 5, 34]))
    return generator(
        height, width, simd * folds, kernel, strides, simd, draw(st.integers(0, 1)),
        draw(st.integers(0, 1)), draw(st.sampled_from(["INT8", "UINT5", "INT3"])),
    )  # fmt: skip


@needs_verilator
@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_window())
def test_any_size_and_folding_gives_the_windows(simulations, attributes):
    check(attributes, simulations)


def test_a_folding_that_does_not_divide():
    with pytest.raises(UserError, match="SIMD=3 does not divide channels=4"):
        ConvolutionInputGenerator(generator(6, 7, 4, (3, 3), simd=3)).module()


@needs_verilator
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SIMD": 0}, "SIMD=0, BITS=8, FOLDS=2, expected 1 or more"),
        ({"KERNEL_H": 7}, "a kernel of 7 x 2 on a map of 6 x 7"),
        ({"STRIDE_W": -1}, "strides of 1 and -1, expected 1 or more"),
    ],
)
def test_bad_parameters_are_refused_at_elaboration(simulations, changes, message):
    module = ConvolutionInputGenerator(CASES["dense"]).module()
    module = dataclasses.replace(module, parameters={**module.parameters, **changes})
    with pytest.raises(UserError, match=message):
        compile_module(module, simulations)
