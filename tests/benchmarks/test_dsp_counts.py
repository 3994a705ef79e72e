"""The DSPs of the estimates are those that yosys counts for UltraScale+, to the last one."""

from __future__ import annotations

from collections.abc import Callable

import cases
import numpy as np
import pytest
from bench import Case
from synthesis import synthesize_all
from test_synthesis import needs_yosys

from lmaunet.fpga.operators.arithmetic import integer_bits

pytestmark = [needs_yosys, pytest.mark.slow, pytest.mark.timeout(1800)]


def matrix(simd: int, pe: int, bits: int, dtype: str) -> Case:
    top = 2 ** (bits - 1) - 1
    weights = np.full((2 * simd, 2 * pe), top)
    reach = 2 * simd * top * 256
    attributes = {
        "MW": 2 * simd, "MH": 2 * pe, "SIMD": simd, "PE": pe, "inputDataType": dtype,
        "weightDataType": f"INT{bits}", "outputDataType": f"INT{integer_bits(-reach, reach)}",
        "numInputVectors": [1, 1, 1],
    }  # fmt: skip
    return Case("MVAU", attributes, (), (weights,))


CASES = [
    *(cases.requantize(pe=pe, dtype=dtype, ratios=ratios)
      for pe, dtype, ratios in [
          (1, "INT16", (1e-4, 3e-3)), (3, "INT20", (1e-4, 3e-3)), (1, "INT27", (1e-4, 3e-3)),
          (1, "UINT26", (1e-4, 3e-3)), (1, "UINT27", (1e-4, 3e-3)), (3, "INT28", (1e-4, 3e-3)),
          (1, "INT36", (1e-8, 3e-8)), (2, "INT20", (2.0**-9, 2.0**-9)),
      ]),
    *(cases.depthwise_conv(kernel, channels=4, pe=pe, simd=simd, dtype=dtype, weights=weights)
      for kernel, pe, simd, dtype, weights in [
          ((3, 3), 4, 1, "INT8", "INT8"), ((3, 3), 2, 3, "UINT8", "INT4"),
          ((3, 3), 1, 9, "INT8", "INT8"), ((1, 7), 2, 7, "INT8", "INT8"),
      ]),
    *(matrix(simd, pe, bits, dtype)
      for simd, pe, bits, dtype in [
          (1, 1, 8, "INT8"), (3, 2, 8, "INT8"), (5, 4, 4, "INT8"), (3, 5, 4, "INT8"),
          (2, 3, 4, "UINT8"), (2, 8, 2, "INT8"), (2, 3, 8, "UINT8"),
      ]),
]  # fmt: skip


@pytest.fixture(scope="module")
def counted() -> list[int]:
    return [found.dsp for found in synthesize_all([case.module() for case in CASES], "xcup")]


def wrong(counted: list[int], estimate: Callable[[Case], int]) -> set[str]:
    pairs = zip(CASES, counted, strict=True)
    return {case.op_type for case, found in pairs if estimate(case) != found}


def own(case: Case) -> int:
    return case.operator.resources().dsp


def test_dsps_are_exact(counted):
    assert sum(counted) > 50
    assert wrong(counted, own) == set()


def test_half_of_the_dsps_would_be_seen(counted):
    assert wrong(counted, lambda case: own(case) // 2) == {case.op_type for case in CASES}


def test_one_dsp_for_every_width_would_be_seen(counted):
    """Of a requantization one for each channel, above 27 bits too."""
    lanes = wrong(counted, lambda case: min(own(case), case.attributes["PE"]))
    assert "Requantize" in lanes


def test_as_many_rows_as_without_a_shared_bit_would_be_seen(counted):
    rows = {"INT8": {8: 2, 4: 3, 2: 3}, "UINT8": {8: 2, 4: 2}}

    def fewer(case: Case) -> int:
        if case.op_type != "MVAU":
            return own(case)
        a = case.attributes
        lanes = rows[a["inputDataType"]][int(a["weightDataType"][3:])]
        return -(-a["PE"] // lanes) * a["SIMD"]

    assert wrong(counted, fewer) == {"MVAU"}
