from __future__ import annotations

import cases
import pytest

from lmaunet.errors import UserError
from lmaunet.fpga.board.memories import Memory
from lmaunet.fpga.board.placement import Resources, usually_placed
from lmaunet.fpga.operators.registry import OPERATORS, operator

MVAU = {"PE": 4, "SIMD": 9, "MW": 576, "MH": 64, "weightDataType": "INT8", "inputDataType": "INT8",
        "outputDataType": "INT25"}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "activations", "rows"),
    [(8, "INT8", 2), (4, "INT8", 3), (4, "UINT8", 3), (3, "INT8", 3), (4, "INT4", 4),
     (9, "INT8", 2), (12, "INT16", 1), (2, "INT8", 4), (26, "INT2", 1)],
)  # fmt: skip
def test_rows_of_a_dsp(weights, activations, rows):
    attributes = MVAU | {"PE": 12, "SIMD": 1, "weightDataType": f"INT{weights}",
                         "inputDataType": activations}  # fmt: skip
    assert operator("MVAU", attributes).resources().dsp == 12 // rows


def test_an_int8_matrix_unit_takes_a_dsp_for_two_products():
    found = operator("MVAU_rtl", MVAU).resources()
    assert found.dsp == 4 // 2 * 9
    assert found.lut > 0
    assert found.memories[0].bits == 576 * 64 * 8
    assert found.memories[1].bits == 2 * 576 * 8  # the vector at hand and the next one


# PE, SIMD, bits of the weights, MW, MH and bits of a sum; LUTs, flip-flops and DSPs by yosys for
# the 7 series with the weights in block RAM, 8-bit codes
COUNTED = [
    ((4, 12, 4, 108, 24, 18), (347, 1170, 24)),
    ((6, 18, 4, 216, 24, 19), (990, 2304, 36)),
    ((2, 9, 4, 216, 24, 19), (273, 569, 9)),
    ((3, 24, 4, 216, 48, 19), (728, 1624, 24)),
    ((6, 72, 4, 216, 24, 19), (3486, 7961, 144)),
    ((4, 12, 8, 48, 24, 21), (385, 1714, 24)),
    ((2, 9, 8, 216, 24, 23), (300, 753, 9)),
    ((4, 9, 8, 576, 64, 25), (349, 1191, 18)),
    ((8, 16, 8, 128, 64, 22), (839, 3831, 64)),
    ((32, 4, 4, 288, 64, 19), (1535, 2758, 44)),
    ((1, 16, 8, 144, 32, 23), (234, 880, 16)),
    ((16, 8, 8, 64, 48, 21), (921, 3790, 64)),
]


def matrix_off(attributes, counted) -> list[str]:
    """Return of what an estimate is more than 10% off what yosys counts."""
    found = operator("MVAU", attributes).resources()
    vectors = sum(m.lutram for m in found.memories if m.decided and m.distributed)
    weights = found.memories[0]
    own = (found.lut + vectors, found.ff - weights.width * weights.distributed)
    off = [n for n, a, b in zip(("LUT", "FF"), own, counted, strict=False) if abs(a / b - 1) > 0.1]
    return off + ["DSP"] * (found.dsp != counted[2])


@pytest.mark.parametrize(("sizes", "counted"), COUNTED)
def test_a_matrix_unit_follows_what_was_counted(sizes, counted):
    pe, simd, bits, mw, mh, out = sizes
    attributes = MVAU | {"PE": pe, "SIMD": simd, "MW": mw, "MH": mh, "outputDataType": f"INT{out}",
                         "weightDataType": f"INT{bits}"}  # fmt: skip
    assert matrix_off(attributes, counted) == []
    assert "FF" in matrix_off(attributes | {"PE": pe * 2}, counted)
    assert "LUT" in matrix_off(attributes | {"PE": pe * 2}, counted)


def test_the_scan_follows_the_measured_core():
    scan = {"NumChannels": 64, "States": 16, "StateBits": 18, "ABits": 12, "DeltaBits": 16,
            "DBits": 16}  # fmt: skip
    # yosys for the 7 series, lengths of 4096: LUTs with those of memories, DSPs
    measured = {
        (1, 1): (604, 8), (1, 4): (1054, 23), (4, 1): (2043, 32), (1, 16): (3836, 83),
        (4, 4): (4728, 92), (4, 16): (10893, 332),
    }  # fmt: skip
    for (pd, pn), (lut, dsp) in measured.items():
        found = operator("SelectiveScan", scan | {"PD": pd, "PN": pn}).resources()
        total = found.lut + sum(m.lutram for m in found.memories if m.distributed)
        assert found.dsp == dsp
        assert abs(total / lut - 1) < 0.12


def test_an_operator_without_an_estimate_is_refused():
    with pytest.raises(UserError, match="unknown hardware operator Crop_rtl; known are: BinSum"):
        operator("Crop_rtl", {}).resources()


# matrix (MW, MH), SIMD and PE, weights of 4 bits in block RAM, products in LUTs; by yosys for
# UltraScale+: LUTs, flip-flops
LUT_PRODUCTS = {
    (216, 24, 18, 2): (1381, 2384), (216, 24, 24, 2): (1808, 3061), (216, 24, 36, 2): (2697, 4580),
    (216, 24, 18, 6): (3594, 5500), (432, 48, 12, 4): (1650, 2536), (216, 48, 8, 3): (963, 1427),
}  # fmt: skip


@pytest.mark.parametrize("case", LUT_PRODUCTS)
def test_products_in_luts_are_what_yosys_counts(case):
    mw, mh, simd, pe = case
    types = {"inputDataType": "INT8", "weightDataType": "INT4", "outputDataType": "INT18"}
    attributes = {**types, "MW": mw, "MH": mh, "SIMD": simd, "PE": pe, "resType": "lut"}
    found = usually_placed(operator("MVAU", attributes).resources(), "block")
    assert found.dsp == 0
    assert found.lut == pytest.approx(LUT_PRODUCTS[case][0], rel=0.05)
    assert found.ff == pytest.approx(LUT_PRODUCTS[case][1], rel=0.10)


def test_every_operator_has_flip_flops():
    scan = {"NumChannels": 4, "States": 4, "PD": 1, "PN": 1, "StateBits": 18, "ABits": 12,
            "DBits": 16}  # fmt: skip
    window = {"SIMD": 2, "ConvKernelDim": (3, 3), "IFMDim": (8, 8), "IFMChannels": 4,
              "inputDataType": "INT8", "Stride": (1, 1), "depthwise": 1}  # fmt: skip
    common = {"PE": 2, "SIMD": 2, "inputDataType": "INT8", "outputDataType": "INT20",
              "weightDataType": "INT8", "NumChannels": 4, "Channels": 4, "Kernel": (3, 3), "MW": 4,
              "MH": 4, "ImgDim": (4, 4), "Padding": (1, 1, 1, 1), "IsShift": 0, "Entries": 256,
              "lhs_dtype": "INT8", "rhs_dtype": "INT8", "out_dtype": "INT9", "dtype": "INT8",
              "InputDataType": "INT8", "WI": 8, "ChannelsPerStream": (4, 4),
              "inputDataTypes": ("INT8", "INT8"), "NumOutputStreams": 2, "Bin": (2, 2),
              "Factors": (2, 2)}  # fmt: skip
    for name in OPERATORS:
        for parallel in (0, 1):
            attributes = common | (scan if name == "SelectiveScan" else window)
            found = operator(name, attributes | {"parallel_window": parallel, "PE": 2}).resources()
            assert found.ff > 0 and found.lut > 0, name


def test_a_parallel_window_is_in_registers():
    window = {"SIMD": 12, "ConvKernelDim": (3, 3), "IFMDim": (130, 130), "IFMChannels": 12,
              "inputDataType": "INT8", "Stride": (1, 1), "depthwise": 0}  # fmt: skip
    serial, parallel = (
        operator("ConvolutionInputGenerator", window | {"parallel_window": p}).resources()
        for p in (0, 1)
    )
    assert parallel.ff > 9 * 12 * 8 > serial.ff


# By yosys, its memories of lines in UltraRAM: the map, channels, kernel, stride, SIMD, depthwise,
# parallel; LUTs, flip-flops.
WINDOWS = [
    (258, 24, 3, 1, 24, 0, 0, 236, 495), (258, 24, 3, 1, 12, 0, 0, 190, 310),
    (130, 48, 3, 1, 48, 0, 0, 341, 874), (130, 48, 3, 1, 16, 0, 0, 213, 371),
    (66, 96, 3, 1, 8, 0, 0, 168, 246), (34, 192, 3, 1, 8, 0, 0, 167, 246),
    (18, 64, 3, 1, 1, 1, 0, 141, 139), (256, 24, 2, 2, 4, 1, 0, 156, 180),
    (256, 24, 2, 2, 24, 1, 0, 215, 477), (64, 96, 2, 2, 1, 1, 0, 160, 145),
    (134, 48, 7, 1, 4, 1, 0, 214, 204), (258, 1, 3, 1, 1, 0, 1, 78, 183),
    (258, 24, 3, 1, 24, 0, 1, 414, 2583), (66, 24, 3, 1, 12, 1, 1, 592, 1337),
    (134, 48, 7, 1, 8, 1, 1, 1942, 3843), (134, 48, 7, 1, 16, 1, 1, 3780, 7535),
    (134, 24, 7, 1, 24, 1, 1, 927, 11065), (70, 96, 7, 1, 4, 1, 1, 1000, 1998),
    (38, 192, 7, 1, 2, 1, 1, 170, 1061),
]  # fmt: skip


@pytest.mark.parametrize(
    ("side", "channels", "kernel", "stride", "simd", "depthwise", "parallel", "lut", "ff"), WINDOWS
)
def test_a_window_is_what_yosys_counts(
    side, channels, kernel, stride, simd, depthwise, parallel, lut, ff
):
    window = {"SIMD": simd, "ConvKernelDim": (kernel, kernel), "IFMDim": (side, side),
              "IFMChannels": channels, "inputDataType": "INT8", "Stride": (stride, stride),
              "depthwise": depthwise, "parallel_window": parallel}  # fmt: skip
    found = operator("ConvolutionInputGenerator", window).resources()
    assert abs(found.lut / lut - 1) < 0.1
    assert abs(found.ff / ff - 1) < 0.05


# By yosys: bins along each axis, pixels of a bin, channels, PE; LUTs, flip-flops and block RAMs of
# 18 kbit. The first four are those of `base` at 256x256.
BIN_SUMS = [
    ((1, 1), (16, 16), 512, 1, 134, 167, 1), ((2, 2), (8, 8), 512, 1, 130, 167, 1),
    ((4, 4), (4, 4), 512, 1, 138, 165, 2), ((8, 8), (2, 2), 512, 1, 125, 163, 3),
    ((8, 8), (2, 2), 512, 4, 198, 289, 3), ((4, 4), (4, 4), 512, 8, 328, 511, 3),
    ((2, 2), (2, 2), 12, 2, 128, 180, 0), ((1, 1), (8, 8), 6, 6, 253, 561, 0),
    ((2, 3), (3, 5), 64, 16, 665, 1093, 0), ((1, 1), (4, 4), 48, 48, 1529, 3697, 0),
    ((1, 2), (4, 4), 8, 8, 343, 562, 0), ((1, 4), (4, 4), 40, 40, 1570, 2621, 0),
]  # fmt: skip


@pytest.mark.parametrize(("bins", "pixels", "channels", "pe", "lut", "ff", "bram18"), BIN_SUMS)
def test_sums_of_bins_are_what_yosys_counts(bins, pixels, channels, pe, lut, ff, bram18):
    found = usually_placed(cases.bin_sum(bins, pixels, channels, pe).operator.resources())
    assert abs(found.lut - lut) <= 8 and abs(found.ff - ff) <= 6
    assert (found.bram36, found.dsp) == (bram18 / 2, 0)


# By yosys: the map, the blocks, channels, PE; LUTs, flip-flops and block RAMs of 18 kbit.
BLOCKS = [
    ((8, 8), (2, 2), 96, 1, 137, 116, 2), ((8, 8), (2, 2), 96, 8, 164, 204, 2),
    ((16, 64), (2, 2), 32, 4, 146, 153, 4), ((64, 64), (2, 2), 16, 16, 214, 321, 4),
    ((128, 128), (2, 2), 16, 2, 136, 128, 4), ((8, 8), (2, 1), 32, 32, 470, 811, 0),
    ((8, 8), (3, 2), 32, 4, 158, 168, 1), ((4, 4), (2, 2), 4, 1, 118, 83, 0),
    ((8, 8), (4, 4), 16, 4, 208, 208, 2),
]  # fmt: skip


@pytest.mark.parametrize(("size", "blocks", "channels", "pe", "lut", "ff", "bram18"), BLOCKS)
def test_blocks_of_pixels_are_what_yosys_counts(size, blocks, channels, pe, lut, ff, bram18):
    found = usually_placed(cases.depth_to_space(*size, blocks, channels, pe).operator.resources())
    assert abs(found.lut - lut) <= 9 and abs(found.ff - ff) <= 5
    assert (found.bram36, found.dsp) == (bram18 / 2, 0)


def test_blocks_are_not_folded_wider_than_an_enable_reaches():
    """By yosys 257 loads at 32 lanes of 8 bits, where 256 are the limit."""
    lanes = [f["PE"] for f in cases.depth_to_space(channels=32, pe=1).operator.foldings()]
    assert lanes == [1, 2, 4, 8, 16]


# Every estimate worked by hand from what its docstring says. Sizes are odd and unequal, so that no
# two of them can be taken for each other.
INT8 = {"inputDataType": "INT8"}
WINDOW = {**INT8, "IFMDim": (20, 12), "IFMChannels": 6, "depthwise": 0}
BINS = {**INT8, "ImgDim": (20, 12)}
BY_HAND = [
    # two lanes of 17 bits a DSP: 4/2 * 9. Of 9 products 5 sums of two, 4 * 17 * 5 registers and
    # half of that in borrows; then 3, 2 and 1 of them, of 18, 19 and 20 bits; the sum over folds
    # and the output have 25 bits, and 4*9*8 + 9*8 bits are delayed
    ("MVAU", {**INT8, "PE": 4, "SIMD": 9, "MW": 576, "MH": 64, "weightDataType": "INT8",
              "outputDataType": "INT25"},
     # three chains of three, 17 bits a row; in each row two adders; 58 LUTs of the queue's memory
     Resources(45 + 4 * (17 + 18) + 100 + (22 + 58), 18,
               (Memory("weights", 288, 64 * 16, initialised=True, loader=(6 + 10, 76 + 20 + 8)),
                Memory("vectors", 72, 128, decided=True)),
               20 + 9 * (16 + 32) + 9 * (8 + 32) + 4 * (18 + 17 + 19) + 100 + (26 + 100))),
    # three rows in one DSP, no tree; one row of channels, so that no vector is kept
    ("MVAU", {**INT8, "PE": 3, "SIMD": 1, "MW": 6, "MH": 3, "weightDataType": "INT4",
              "outputDataType": "INT14"},
     Resources(45 + 42 + (22 + 24), 1,
               (Memory("weights", 12, 6, initialised=True, loader=(6 + 3, 76 + 6 + 2)),),
               20 + (16 + 2 * 12) + 42 + (26 + 42))),
    # two chains of two; three rows of five share a bit with the one below; the tree does not grow
    # beyond the 12 bits of an accumulator
    ("MVAU", {**INT8, "PE": 5, "SIMD": 4, "MW": 8, "MH": 10, "weightDataType": "INT4",
              "outputDataType": "INT12"},
     Resources(45 + 5 * 12 + 3 * 2 + 60 + (22 + 35), 8,
               (Memory("weights", 80, 4, initialised=True, loader=(6 + 2, 76 + 4 + 4)),
                Memory("vectors", 32, 4, decided=True)),
               20 + 4 * (16 + 2 * 20) + 2 * (8 + 20) + 3 * 2 * 4 + 5 * 12 + 3 + 60 + (26 + 60))),
    # 12 chains of four taps and one; 6, 3, 2 and 1 adders of 19 to 21 bits, no accumulator
    ("VVAU", {**INT8, "PE": 2, "SIMD": 49, "Channels": 8, "Kernel": (7, 7),
              "weightDataType": "INT8", "outputDataType": "INT21"},
     Resources(18 + 2 * (6 * 19 + 3 * 20 + 2 * 21 + 21) + (22 + 24), 98,
               (Memory("weights", 784, 4, initialised=True),),
               12 + 2 * (36 * 8 + 49 * 8) + 2 * ((6 * 19 + 18) + (3 * 20 + 19) + 3 * 21 + 21)
               + 2 * 16 * (12 * 6 + 3) + (26 + 42))),
    # a DSP accumulates
    ("VVAU", {**INT8, "PE": 4, "SIMD": 1, "Channels": 8, "Kernel": (1, 4),
              "weightDataType": "INT4", "outputDataType": "INT15"},
     Resources(18 + (22 + 35), 4, (Memory("weights", 16, 2 * 4, initialised=True),),
               12 + 4 * 4 + (26 + 60))),
    # 2 lines of 12 pixels and 5 of the third, the next row's first 5, and 4 words: an address of 7
    # bits. A run of 15, 3 lines, 8 windows, 18 rows: 4 + 2 + 3 + 5 bits
    ("ConvolutionInputGenerator",
     {**WINDOW, "SIMD": 2, "ConvKernelDim": (3, 5), "Stride": (1, 1), "parallel_window": 0},
     Resources(16 + 63 + 42 - 27, 0, (Memory("line", 16, (24 + 5 + 5) * 3 + 4),),
               32 + 23 + 35 + 28)),
    # the row that a stride of 2 passes over; a run of 2, 2 lines, 3 folds, 11 windows, 10 rows
    ("ConvolutionInputGenerator",
     {**WINDOW, "SIMD": 2, "ConvKernelDim": (2, 2), "Stride": (2, 1), "parallel_window": 0,
      "depthwise": 1},
     Resources(16 + 63 + 36 - 27, 0, (Memory("line", 16, (12 + 2 + 14) * 3 + 4),),
               32 + 23 + 35 + 24)),
    # a map of one column lies on its side: 3 pixels, the next map's first 3, 8 windows
    ("ConvolutionInputGenerator",
     {**WINDOW, "IFMDim": (17, 1), "SIMD": 2, "ConvKernelDim": (3, 1), "Stride": (2, 1),
      "parallel_window": 0},
     Resources(16 + 45 + 21 - 27, 0, (Memory("line", 16, (3 + 3) * 3 + 4),),
               32 + 23 + 25 + 14)),
    # every pixel of the window in registers, four groups of them; a column of 144 bits and a bit
    # in the queue, two lines of 12 places; 20 rows and 12 columns are counted
    ("ConvolutionInputGenerator",
     {**WINDOW, "SIMD": 6, "ConvKernelDim": (3, 5), "Stride": (1, 1), "parallel_window": 1},
     Resources(88 + 31 + 12 + 8, 0, (Memory("line", 96, 12),), 912 + 34 + 12 + 9 + 4)),
    # two folds: 11 older taps of 16 bits in LUTs, three times
    ("ConvolutionInputGenerator",
     {**WINDOW, "SIMD": 3, "ConvKernelDim": (2, 12), "Stride": (1, 1), "parallel_window": 1},
     Resources(32 + 312 + 31 + 18 + 6, 0, (Memory("line", 24, 24),), 648 + 34 + 15 + 10 + 9)),
    # 40 folds: 4 older taps of 24 bits in a memory of their own
    ("ConvolutionInputGenerator",
     {**WINDOW, "IFMChannels": 40, "SIMD": 1, "ConvKernelDim": (3, 5), "Stride": (1, 1),
      "parallel_window": 1},
     Resources(16 + 31 + 45 + 2, 0, (Memory("line", 16, 480), Memory("line", 96, 40, decided=True)),
               152 + 34 + 27 + 15 + 13)),
    # a window of one pixel is never parallel
    ("ConvolutionInputGenerator",
     {**WINDOW, "SIMD": 6, "ConvKernelDim": (1, 1), "Stride": (1, 1), "parallel_window": 1},
     Resources(32 + 27 + 27 - 27, 0, (Memory("line", 48, 1 + 4),), 96 + 23 + 15 + 18)),
    # 3 beats, 24 rows and 18 columns: counters of 2, 5 and 5 bits
    *((name, {**INT8, "SIMD": 2, "NumChannels": 6, "ImgDim": (20, 12), "Padding": (1, 2, 3, 4)},
       Resources(19 + 12, 0, (), 34 + 12)) for name in ("FMPadding", "PadWithCode")),
    # the multipliers' port has 27 bits
    ("Requantize", {"PE": 3, "NumChannels": 12, "inputDataType": "INT27", "IsShift": 0},
     Resources(5 + 54, 3, (Memory("multipliers", 3 * (17 + 35), 4, True, True),), 8 + 156)),
    ("Requantize", {"PE": 3, "NumChannels": 12, "inputDataType": "INT28", "IsShift": 0},
     Resources(5 + 54, 6, (Memory("multipliers", 3 * (17 + 36), 4, True, True),), 8 + 156)),
    ("Requantize", {"PE": 3, "NumChannels": 12, "inputDataType": "UINT27", "IsShift": 0},
     Resources(5 + 54, 6, (Memory("multipliers", 3 * (17 + 35), 4, True, True),), 8 + 156)),
    ("Requantize", {"PE": 3, "NumChannels": 12, "inputDataType": "INT28", "IsShift": 1},
     Resources(5 + 3 * 46, 0, (Memory("offsets", 3 * 36, 4, True, True),), 8 + 3 * 80)),
    ("TableActivation", {"PE": 2, "outputDataType": "INT8", "Entries": 256},
     Resources(19 + 16 * 4, 0, (), 34 + 16 + 1)),
    ("TableActivation", {"PE": 2, "outputDataType": "INT4", "Entries": 100},
     Resources(11 + 8 * 2, 0, (), 18 + 8 + 1)),
    ("SelectiveScan", {"PD": 2, "PN": 4, "NumChannels": 12, "States": 8, "StateBits": 18,
                       "ABits": 11, "DBits": 16},
     Resources(120 + 150 * 8 + 330 * 2, 5 * 8 + 3 * 2,
               (Memory("state", 18 * 8, 12, decided=True), Memory("A", 11 * 8, 12, True, True),
                Memory("D", 16 * 2, 6, True, True)),
               75 + 167 * 8 + 166 * 2)),
    ("ElementwiseMul", {"PE": 3, "out_dtype": "INT16"}, Resources(51 + 3, 3, (), 98 + 3)),
    *(("ElementwiseAdd", {"PE": 3, "lhs_dtype": left, "rhs_dtype": right, "out_dtype": "INT9"},
       Resources(30 + 3 + 3 * 8, 0, (), 56 + 2 + 3 * (8 + 6 + 9)))
      for left, right in (("INT8", "INT6"), ("INT6", "INT8"))),
    ("Pool", {"PE": 3, "InputDataType": "INT8"}, Resources(27 + 8 + 40, 0, (), 50 + 24 + 4)),
    # a queue of 36 bits in three times 8 LUTs; 4 bins of two beats: addresses of 3 bits; counts to
    # 2, 3, 4 and 5
    ("BinSum", {**BINS, "PE": 3, "NumChannels": 6, "Bin": (5, 3), "outputDataType": "INT12"},
     Resources(24 + 72 + 32 + 18, 0, (Memory("sums", 36, 8, decided=True),),
               108 + 48 + 40 + 15 + 1 + 2 + 2 + 3)),
    # three groups of 12 lanes, each with an address of its own; counts to 2, 6, 2 and 20
    ("BinSum", {**BINS, "PE": 36, "NumChannels": 72, "Bin": (20, 6), "outputDataType": "INT16"},
     Resources(336 + 1152 + 32 + 12, 0, (Memory("sums", 192, 4, decided=True),) * 3,
               1728 + 576 + 40 + 14 + 1 + 3 + 1 + 5)),
    # one word: in registers, and once more where it is read
    ("BinSum", {**BINS, "PE": 36, "NumChannels": 36, "Bin": (20, 12), "outputDataType": "INT16"},
     Resources(336 + 1152 + 32 + 6, 0, (), 1728 + 1152 + 576 + 40 + 7 + 4 + 5)),
    # a row of 12 pixels and three beats each; an address to 40
    ("UpsampleNearestNeighbour", {**INT8, "SIMD": 2, "WI": 12, "NumChannels": 6},
     Resources(19 + 8 * 6, 0, (Memory("row", 16, 36, decided=True),), 34 + 6 * 6 + 15)),
    # rows of 12 pixels of 3 columns and 2 beats, 72 beats. Of three rows the first has 2/3 of one,
    # the second a whole one, the third 4/3; 6 beats and 4 more each: 246 words
    ("DepthToSpace", {**INT8, "PE": 3, "NumChannels": 6, "ImgDim": (5, 12), "Factors": (3, 3)},
     Resources(27 + 12 * 8 + 3 + 7 + 8, 0,
               (Memory("rows", 24, 48 + 72 + 96 + 3 * 10, decided=True),),
               50 + 9 * 8 + 3 + 7 + 7)),
    ("StreamingConcat", {"SIMD": 2, "ChannelsPerStream": (4, 4, 2), "inputDataTypes": ["INT8"] * 3},
     Resources(19 + 18 + 8, 0, (), 34 + 16 + 2)),
    ("StreamingConcat", {"SIMD": 2, "ChannelsPerStream": (4, 4), "inputDataTypes": ["INT8"] * 2},
     Resources(19 + 12, 0, (), 34 + 16 + 1)),
    ("DuplicateStreams", {**INT8, "PE": 2, "NumOutputStreams": 3}, Resources(25, 0, (), 37)),
    ("Reshape", {"PE": 2, "dtype": "INT8"}, Resources(19, 0, (), 34)),
]  # fmt: skip


def test_every_operator_is_worked_by_hand():
    assert {name for name, *_ in BY_HAND} == set(OPERATORS)


@pytest.mark.parametrize(("name", "attributes", "expected"), BY_HAND)
@pytest.mark.parametrize("suffix", ["", "_rtl", "_hls"])
def test_an_estimate_by_hand(name, suffix, attributes, expected):
    assert operator(name + suffix, attributes).resources() == expected
