from __future__ import annotations

import pytest

from fpga.resources import ESTIMATES, estimate, fifo, macs_per_dsp, width_converter
from lmaunet.errors import UserError

MVAU = {"PE": 4, "SIMD": 9, "MW": 576, "MH": 64, "weightDataType": "INT8", "inputDataType": "INT8",
        "outputDataType": "INT25"}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "activations", "macs"), [(8, 8, 2), (4, 8, 3), (3, 8, 3), (4, 4, 4)]
)
def test_macs_per_dsp_are_those_of_the_rtl(weights, activations, macs):
    assert macs_per_dsp(weights, activations) == macs


def test_an_int8_matrix_unit_takes_a_dsp_for_two_products():
    found = estimate("MVAU_rtl", MVAU)
    assert found.dsp == 4 // 2 * 9
    assert found.lut > 0
    assert found.memories[0].bits == 576 * 64 * 8
    assert found.memories[1].bits == 2 * 576 * 8  # the vector at hand and the next one


def test_the_scan_follows_the_measured_core():
    scan = {"NumChannels": 64, "States": 16, "StateBits": 18, "ABits": 12, "DeltaBits": 16,
            "DBits": 16}  # fmt: skip
    # yosys for the 7 series, lengths of 4096: LUTs with those of memories, DSPs
    measured = {
        (1, 1): (604, 8), (1, 4): (1054, 23), (4, 1): (2043, 32), (1, 16): (3836, 83),
        (4, 4): (4728, 92), (4, 16): (10893, 332),
    }  # fmt: skip
    for (pd, pn), (lut, dsp) in measured.items():
        found = estimate("SelectiveScan", scan | {"PD": pd, "PN": pn})
        total = found.lut + sum(m.lutram for m in found.memories if m.distributed)
        assert found.dsp == dsp
        assert abs(total / lut - 1) < 0.12


def test_an_operator_without_an_estimate_is_refused():
    with pytest.raises(UserError, match="no resource estimate for Crop_rtl; known are: Conv"):
        estimate("Crop_rtl", {})


def test_what_is_between_nodes_is_what_yosys_counts():
    # without the memory: LUTs and flip-flops of a register, of 40 and of 700 words, of converters
    register = fifo(32, 2)
    assert (register.lut, register.ff, register.memories) == (35, 66, ())
    assert [m.depth for m in fifo(32, 40).memories] == [37]
    assert abs(fifo(32, 40).lut / 55 - 1) < 0.1 and abs(fifo(40, 700).lut / 78 - 1) < 0.1
    assert abs(fifo(40, 700).ff / 113 - 1) < 0.1
    measured = {(8, 16): (5, 26), (40, 20): (67, 83), (84, 21): (154, 172), (64, 144): (1022, 2249)}
    for (bits_in, bits_out), (lut, ff) in measured.items():
        found = width_converter(bits_in, bits_out)
        assert abs(found.lut - lut) <= 2 and found.ff == ff
    assert width_converter(24, 24) == type(register)(0, 0)


def test_every_operator_has_flip_flops():
    scan = {"NumChannels": 4, "States": 4, "PD": 1, "PN": 1, "StateBits": 18, "ABits": 12,
            "DBits": 16}  # fmt: skip
    window = {"SIMD": 2, "ConvKernelDim": (3, 3), "IFMDim": (8, 8), "IFMChannels": 4,
              "inputDataType": "INT8", "Stride": (1, 1)}  # fmt: skip
    common = {"PE": 2, "SIMD": 2, "inputDataType": "INT8", "outputDataType": "INT20",
              "weightDataType": "INT8", "NumChannels": 4, "Channels": 4, "Kernel": (3, 3), "MW": 4,
              "MH": 4, "ImgDim": (4, 4), "Padding": (1, 1, 1, 1), "IsShift": 0, "Entries": 256,
              "lhs_dtype": "INT8", "rhs_dtype": "INT8", "out_dtype": "INT9", "dtype": "INT8",
              "InputDataType": "INT8", "WI": 8, "ChannelsPerStream": (4, 4),
              "inputDataTypes": ("INT8", "INT8"), "NumOutputStreams": 2}  # fmt: skip
    for name in ESTIMATES:
        for parallel in (0, 1):
            attributes = common | (scan if name == "SelectiveScan" else window)
            found = estimate(name, attributes | {"parallel_window": parallel, "PE": 2})
            assert found.ff > 0 and found.lut > 0, name


def test_a_parallel_window_is_in_registers():
    window = {"SIMD": 12, "ConvKernelDim": (3, 3), "IFMDim": (130, 130), "IFMChannels": 12,
              "inputDataType": "INT8", "Stride": (1, 1)}  # fmt: skip
    serial, parallel = (
        estimate("ConvolutionInputGenerator", window | {"parallel_window": p}) for p in (0, 1)
    )
    assert parallel.ff - serial.ff == 3 * 9 * 12 * 8 - 2 * 12 * 8
