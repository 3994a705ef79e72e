"""Foldings, cycles, stream widths and converters, worked by hand for every operator."""

from __future__ import annotations

import itertools

import pytest

from lmaunet.errors import UserError
from lmaunet.fpga.graph.executor import Step
from lmaunet.fpga.operators import width_converter
from lmaunet.fpga.operators.depthwise_conv import LARGEST_HLS_BITS
from lmaunet.fpga.operators.registry import operator
from lmaunet.fpga.sizing.folding import FoldedNode, Neighbours, Unit, units_of
from lmaunet.fpga.sizing.solver import undominated

INT8 = {"inputDataType": "INT8"}
PADDING = {**INT8, "ImgDim": (20, 12), "Padding": (1, 2, 3, 4), "NumChannels": 6, "SIMD": 2}
MATRIX = {**INT8, "numInputVectors": (1, 5, 7), "MW": 18, "MH": 10, "SIMD": 3, "PE": 2,
          "weightDataType": "INT4", "outputDataType": "INT15"}  # fmt: skip
VECTOR = {**INT8, "Dim": (5, 7), "Channels": 6, "Kernel": (3, 5), "PE": 2, "SIMD": 5,
          "weightDataType": "INT8", "outputDataType": "INT20"}  # fmt: skip
ROUNDING = {"inputDataType": "INT15", "outputDataType": "INT8", "numInputVectors": (1, 5, 7),
            "NumChannels": 6, "PE": 2, "IsShift": 0, "Entries": 256}  # fmt: skip
SUM = {"lhs_dtype": "INT8", "rhs_dtype": "INT6", "out_dtype": "INT9", "out_shape": (1, 5, 7, 6),
       "PE": 2}  # fmt: skip
CONCAT = {"numInputVectors": (1, 5, 7), "ChannelsPerStream": (4, 6, 2), "SIMD": 2,
          "inputDataTypes": ["INT8"] * 3}  # fmt: skip
UPSAMPLE = {**INT8, "HO": 10, "WO": 14, "WI": 7, "NumChannels": 6, "SIMD": 3}
POOL = {"InputDataType": "INT8", "OutImgDims": (5, 7), "KernelSize": (2, 3), "Channels": 6,
        "PE": 3}  # fmt: skip
SCAN = {"NumChannels": 12, "States": 4, "Length": 35, "PD": 3, "PN": 2, "StateBits": 18,
        "ABits": 12, "DBits": 16}  # fmt: skip
BINS = {**INT8, "ImgDim": (20, 12), "Bin": (5, 3), "NumChannels": 6, "PE": 3,
        "outputDataType": "INT12"}  # fmt: skip
WINDOW = {**INT8, "ConvKernelDim": (3, 5), "IFMDim": (20, 12), "OFMDim": (18, 8), "Stride": (1, 1),
          "IFMChannels": 6, "SIMD": 2, "depthwise": 0, "parallel_window": 0}  # fmt: skip
ATTRIBUTES = {
    "FMPadding": PADDING, "PadWithCode": PADDING, "MVAU": MATRIX, "VVAU": VECTOR,
    "Requantize": ROUNDING, "TableActivation": ROUNDING,
    "DuplicateStreams": {**ROUNDING, "NumOutputStreams": 2}, "ElementwiseAdd": SUM,
    "ElementwiseMul": SUM, "Reshape": {**SUM, "dtype": "INT8"}, "StreamingConcat": CONCAT,
    "UpsampleNearestNeighbour": UPSAMPLE, "Pool": POOL, "SelectiveScan": SCAN,
    "ConvolutionInputGenerator": WINDOW, "BinSum": BINS,
}  # fmt: skip
CYCLES = {
    "FMPadding": 24 * 18 * 3, "PadWithCode": 24 * 18 * 3, "MVAU": 35 * 6 * 5, "VVAU": 35 * 3 * 3,
    "Requantize": 35 * 3, "TableActivation": 35 * 3, "DuplicateStreams": 35 * 3,
    "ElementwiseAdd": 35 * 3, "ElementwiseMul": 35 * 3, "Reshape": 35 * 3,
    "StreamingConcat": 35 * 6, "UpsampleNearestNeighbour": 140 * 2, "Pool": 35 * 6 * 2,
    "SelectiveScan": 35 * 4 * 2,
    "BinSum": 20 * 12 * 2,
    # two rows of 12 and 5 pixels fill it; then 18 rows of 8 windows, 15 pixels each; three beats
    "ConvolutionInputGenerator": (29 + 18 * 8 * 15) * 3,
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_cycles_by_hand(name):
    assert operator(name, ATTRIBUTES[name]).cycles() == CYCLES[name]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # every pixel once
        ({"parallel_window": 1, "SIMD": 6}, 240 + 2),
        ({"ConvKernelDim": (1, 1), "OFMDim": (20, 12)}, 240 * 3 + 2),
        ({"ConvKernelDim": (1, 1), "OFMDim": (10, 12), "Stride": (2, 1), "parallel_window": 1},
         240 * 3 + 2),
        # a line, either way: only its windows are put out
        ({"IFMDim": (1, 12), "ConvKernelDim": (1, 5), "OFMDim": (1, 8)}, 8 * 5 * 3 + 2),
        ({"IFMDim": (20, 1), "ConvKernelDim": (3, 1), "OFMDim": (18, 1)}, 18 * 3 * 3 + 2),
        # of each channel's windows the last beats overlap; or the pixels take longer
        ({"IFMDim": (1, 12), "ConvKernelDim": (1, 5), "OFMDim": (1, 8), "depthwise": 1},
         8 * 5 * 3 + 2 * 5 + 2),
        ({"IFMDim": (1, 12), "ConvKernelDim": (1, 2), "OFMDim": (1, 3), "Stride": (1, 4),
          "depthwise": 1}, 12 * 3 + 3 * 1 * 3 + 2),
        # reading two rows takes longer than putting out 4 windows of 2 pixels
        ({"ConvKernelDim": (1, 2), "OFMDim": (20, 3), "Stride": (1, 4)}, 2 * 3 + 20 * 4 * 12 * 3),
        ({"OFMDim": (9, 4), "Stride": (2, 2), "depthwise": 1},
         (29 + 12) * 3 + 9 * (4 * 15 * 3 + 4 * 2)),
    ],
)  # fmt: skip
def test_cycles_of_a_window_by_hand(changes, expected):
    assert operator("ConvolutionInputGenerator", WINDOW | changes).cycles() == expected


def test_only_the_scan_is_late():
    # 4 states by 2: one beat more of B and C, 31 registers, one adder in the tree
    late = {name: operator(name, ATTRIBUTES[name]).late() for name in ATTRIBUTES}
    assert late.pop("SelectiveScan") == 1 + 31 + 1
    assert set(late.values()) == {0}


def test_an_unknown_operator_has_no_cycles():
    with pytest.raises(UserError, match="unknown hardware operator Crop; known are: BinSum"):
        operator("Crop", {}).cycles()


@pytest.mark.parametrize(
    ("name", "index", "output", "bits"),
    [
        ("FMPadding", 0, False, 16), ("FMPadding", 0, True, 16),
        ("MVAU", 0, False, 24), ("MVAU", 0, True, 30),
        ("VVAU", 0, False, 80), ("VVAU", 0, True, 40),
        ("Requantize", 0, False, 30), ("Requantize", 0, True, 16),
        ("DuplicateStreams", 0, False, 30), ("ElementwiseAdd", 0, False, 16),
        ("ElementwiseAdd", 1, False, 12), ("ElementwiseAdd", 0, True, 18),
        ("ElementwiseMul", 1, False, 12), ("StreamingConcat", 1, False, 16),
        ("StreamingConcat", 0, True, 16), ("UpsampleNearestNeighbour", 0, True, 24),
        ("Pool", 0, False, 24), ("Pool", 0, True, 24), ("Reshape", 0, False, 16),
        ("BinSum", 0, False, 24), ("BinSum", 0, True, 36),
        *(("SelectiveScan", i, False, bits) for i, bits in enumerate((24, 24, 16, 16))),
        *(("SelectiveScan", i, True, 24) for i in range(4)),
        ("ConvolutionInputGenerator", 0, False, 16), ("ConvolutionInputGenerator", 0, True, 16),
    ],
)  # fmt: skip
def test_stream_widths_by_hand(name, index, output, bits):
    assert operator(name, ATTRIBUTES[name]).stream_bits(index, output=output) == bits


def test_a_parallel_window_is_put_out_whole():
    parallel = WINDOW | {"parallel_window": 1, "SIMD": 6}
    assert operator("ConvolutionInputGenerator", parallel).stream_bits(0, output=False) == 48
    assert operator("ConvolutionInputGenerator", parallel).stream_bits(0, output=True) == 48 * 15


def node(name, op_type, source, **changes):
    return FoldedNode(Step(op_type, {}, (source,), (name,)), ATTRIBUTES[op_type] | changes)


def foldings(op_type, **changes):
    return [choice[0] for choice in Unit([node("n", op_type, "x", **changes)]).choices()]


ONE_NAME = {
    "FMPadding": ("SIMD", 6), "PadWithCode": ("SIMD", 6), "Requantize": ("PE", 6),
    "TableActivation": ("PE", 6), "DuplicateStreams": ("PE", 6), "ElementwiseAdd": ("PE", 6),
    "ElementwiseMul": ("PE", 6), "Reshape": ("PE", 6), "UpsampleNearestNeighbour": ("SIMD", 6),
    "BinSum": ("PE", 6),
}  # fmt: skip


def test_every_operator_has_all_its_divisors():
    for op_type, (name, channels) in ONE_NAME.items():
        assert foldings(op_type) == [{name: n} for n in (1, 2, 3, 6) if channels % n == 0], op_type
    wide = foldings("MVAU", MH=10, MW=9, weightDataType="INT5")
    assert wide == [
        {"PE": pe, "SIMD": simd, "resType": "dsp"} for pe in (1, 2, 5, 10) for simd in (1, 3, 9)
    ]
    # weights of up to 4 bits in LUTs, from 12 products a cycle on
    narrow = foldings("MVAU", MH=10, MW=9)
    assert [f["PE"] * f["SIMD"] for f in narrow if f["resType"] == "lut"] == [18, 15, 45, 30, 90]
    assert [f for f in narrow if f["resType"] == "dsp"] == wide
    assert foldings("StreamingConcat") == [{"SIMD": 1}, {"SIMD": 2}]
    assert foldings("ConvolutionInputGenerator") == [
        *({"SIMD": n, "parallel_window": 0} for n in (1, 2, 3, 6)),
        {"SIMD": 6, "parallel_window": 1},
    ]
    assert foldings("ConvolutionInputGenerator", ConvKernelDim=(1, 1)) == [
        {"SIMD": n, "parallel_window": 0} for n in (1, 2, 3, 6)
    ]
    # a lane needs six states: (12 / PD) * (4 / PN) >= 6
    assert foldings("SelectiveScan") == [
        {"PD": pd, "PN": pn}
        for pd in (1, 2, 3, 4, 6, 12)
        for pn in (1, 2, 4)
        if (12 // pd) * (4 // pn) >= 6
    ]


def pair(op_type, **changes):
    """A depthwise window and the node that it feeds."""
    return [
        node("window", "ConvolutionInputGenerator", "x"),
        node("n", op_type, "window", **changes),
    ]


def test_a_window_and_its_node_are_folded_as_one():
    (unit,) = units_of(pair("VVAU", Channels=6, Kernel=(1, 3)))
    assert list(unit.choices()) == [
        ({"SIMD": pe, "parallel_window": int(simd > 1)}, {"PE": pe, "SIMD": simd})
        for pe in (1, 2, 3, 6)
        for simd in (1, 3)
    ]
    (unit,) = units_of(pair("Pool", Channels=6))
    assert list(unit.choices()) == [({"SIMD": pe}, {"PE": pe}) for pe in (1, 2, 3, 6)]
    # without a window before it the node is folded alone
    (unit,) = units_of([node("n", "VVAU", "x", Channels=2, Kernel=(1, 3))])
    assert list(unit.choices()) == [({"PE": pe, "SIMD": simd},) for pe in (1, 2) for simd in (1, 3)]
    dense = node("window", "ConvolutionInputGenerator", "x")
    alone = units_of([dense, node("m", "MVAU", "window")])
    assert [[n.name for n in unit.nodes] for unit in alone] == [["window"], ["m"]]


@pytest.mark.parametrize(("channels", "kernel"), [(128, (4, 4)), (186, (1, 11)), (33, (5, 31))])
def test_no_stream_is_wider_than_hls_has_integers(channels, kernel):
    """And every folding within that is tried."""
    unit = Unit([node("n", "VVAU", "x", Channels=channels, Kernel=kernel)])
    tried = {(choice[0]["PE"], choice[0]["SIMD"]) for choice in unit.choices()}
    taps = kernel[0] * kernel[1]
    every = [
        (pe, simd)
        for pe, simd in itertools.product(range(1, channels + 1), range(1, taps + 1))
        if channels % pe == 0 and taps % simd == 0
    ]
    widths = {
        (pe, simd): operator("VVAU", VECTOR | {"PE": pe, "SIMD": simd}).stream_bits(0, output=False)
        for pe, simd in every
    }
    assert tried == {key for key, bits in widths.items() if bits <= LARGEST_HLS_BITS == 8191}
    assert len(tried) < len(every)


def test_a_target_takes_the_slowest_that_meets_it():
    unit = Unit([node("n", "Requantize", "x")])  # 210, 105, 70 and 35 cycles
    assert unit.steps == [35, 70, 105, 210] and unit.fastest == 35
    for target, limit in ((10**9, 210), (210, 210), (209, 105), (70, 70), (69, 35), (1, 35)):
        assert unit.limit(target) == limit
        assert {o.choice[0]["PE"] for o in unit.options(target)} == {
            210 // c for c in unit.steps if c <= limit
        }
        assert unit.best_options(target) == undominated(unit.options(target))


def test_a_unit_is_as_slow_as_its_slowest_node_and_takes_what_they_all_take():
    (unit,) = units_of(pair("VVAU", Channels=6, Kernel=(3, 5), Dim=(18, 8)))
    by_choice = {str(o[0].choice): (c, o) for c, o in unit.foldings}
    for choice in unit.choices():
        parts = [
            FoldedNode(n.step, n.attributes | change)
            for n, change in zip(unit.nodes, choice, strict=True)
        ]
        count, options = by_choice[str(choice)]
        assert count == max(part.cycles() for part in parts)
        assert all(o.placed.dsp == sum(p.resources().dsp for p in parts) for o in options)
    unit.take(({"SIMD": 3, "parallel_window": 1}, {"PE": 3, "SIMD": 15}))
    assert [n.attributes["SIMD"] for n in unit.nodes] == [3, 15]
    assert unit.nodes[1].attributes["PE"] == 3


def test_converters_are_those_of_all_streams_of_a_unit():
    padding = node("padded", "FMPadding", "image", SIMD=2)
    (window, vector) = pair("VVAU", Channels=6, Kernel=(3, 5))
    window.step = Step("ConvolutionInputGenerator", {}, ("padded",), ("window",))
    rounding = node("codes", "Requantize", "n", PE=6, inputDataType="INT20")
    nodes = [padding, window, vector, rounding]
    neighbours = Neighbours(nodes)
    (unit,) = [u for u in units_of(nodes) if len(u.nodes) == 2]
    choice = ({"SIMD": 3, "parallel_window": 1}, {"PE": 3, "SIMD": 15})
    expected = width_converter.resources(16, 24).logic + width_converter.resources(60, 120).logic
    # the window's stream counts from both ends, and has one width
    assert neighbours.converters(unit, choice) == expected
    alone = Unit([rounding])
    # as wide as the vector unit's two lanes
    assert neighbours.converters(alone, ({"PE": 2},)) == width_converter.resources(9, 9).logic
    assert neighbours.converters(alone, ({"PE": 3},)) == width_converter.resources(40, 60).logic
