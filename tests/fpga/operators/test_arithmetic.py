from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmaunet.errors import UserError
from lmaunet.fpga.operators.arithmetic import (
    MULTIPLIER_BITS,
    SUM_BITS,
    Rescaling,
    check_divides,
    fixed_point,
    integer_bits,
    look_up,
    requantize,
    rescaling_error,
    type_range,
)

LARGEST = (1 << 23) - 1


def one(multiplier: int, offset: int, shift: int) -> Rescaling:
    return Rescaling(*(np.array([v], np.int64) for v in (multiplier, offset, shift)))


def exact_codes(x: np.ndarray, ratio: float, bias: float, low: int, high: int) -> np.ndarray:
    """Round half up in rational arithmetic."""
    values = [Fraction(int(v)) * Fraction(ratio) + Fraction(bias) for v in x.ravel()]
    codes = [(v + Fraction(1, 2)).__floor__() for v in values]
    return np.clip(np.array(codes, np.int64), low, high).reshape(x.shape)


def test_hand_worked():
    # (x * 3 + 4) >> 3 is x * 3 / 8 rounded half up: -1.5 -> -1, 1.5 -> 2, 3.75 -> 4
    x = np.array([[-4], [4], [10], [-12], [1000]])
    assert requantize(x, one(3, 4, 3), -128, 127).ravel().tolist() == [-1, 2, 4, -4, 127]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-5, 1.9), st.floats(-300, 300), st.integers(0, 1 << 30),
    st.sampled_from([(-128, 127), (0, 127), (0, 255)]),
)  # fmt: skip
def test_differs_from_exact_rounding_only_near_a_tie(ratio, bias, seed, span):
    random = np.random.default_rng(seed)
    reach = min(LARGEST, int(300 / ratio) + 1)
    x = random.integers(-reach, reach + 1, (200, 1))
    form = fixed_point("t", np.array([ratio]), np.array([bias]), LARGEST, 255)
    got = requantize(x, form, *span)
    want = exact_codes(x, ratio, bias, *span)
    assert np.abs(got - want).max() <= 1
    real = x * ratio + bias
    error = rescaling_error(x, form, np.array([ratio]), np.array([bias]))
    near = np.abs(real - np.floor(real) - 0.5) <= error + 1e-9
    assert (got == want)[~near].all()
    assert error.max() < 0.01


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-14, 30000), st.floats(-1e6, 1e6))
def test_operands_fit_the_dsp(ratio, bias):
    form = fixed_point("t", np.array([ratio]), np.array([bias]), LARGEST, 255)
    assert 0 <= form.multiplier[0] < 1 << MULTIPLIER_BITS
    assert 1 <= form.shift[0] < 64
    largest = LARGEST * int(form.multiplier[0]) + abs(int(form.offset[0]))
    assert largest < 1 << (SUM_BITS - 1)


def test_truncation_is_caught():
    random = np.random.default_rng(0)
    x = random.integers(-20000, 20000, (1000, 1))
    form = fixed_point("t", np.array([0.00613]), np.array([3.3]), LARGEST, 255)
    want = exact_codes(x, 0.00613, 3.3, -128, 127)
    assert (requantize(x, form, -128, 127) == want).all()
    assert (requantize(x, form, -128, 127, truncate=True) != want).mean() > 0.3


def test_a_power_of_two_is_a_shift_without_error():
    form = fixed_point("t", np.array([2.0**-7, 0.25, 1.0]), np.zeros(3), LARGEST, 255)
    assert form.is_shift
    x = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, (500, 3))
    want = np.floor(x * np.array([2.0**-7, 0.25, 1.0]) + 0.5)
    assert (requantize(x, form, -(1 << 20), 1 << 20) == want).all()
    assert not fixed_point("t", np.array([0.3, 0.25]), np.zeros(2), LARGEST, 255).is_shift


def test_a_scale_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="y: a scale is not a positive finite number"):
        fixed_point("y", np.array([np.nan]), np.zeros(1), 100, 127)
    with pytest.raises(UserError, match="y: a rescaling ratio of 100000, expected less than 32768"):
        fixed_point("y", np.array([1e5]), np.zeros(1), 100, 127)


def test_look_up_counts_from_the_smallest_code():
    table = np.arange(256)[::-1]
    assert look_up(np.array([-128, 0, 127]), table, -128).tolist() == [255, 127, 0]


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(-128, 127, 8), (-129, 0, 9), (0, 127, 8), (0, 128, 9), (0, 0, 2)]
)
def test_integer_bits(low, high, bits):
    assert integer_bits(low, high) == bits
    assert type_range(f"INT{bits}")[0] <= low <= high <= type_range(f"INT{bits}")[1]


def test_a_folding_that_does_not_divide_names_what_does():
    with pytest.raises(UserError) as caught:
        check_divides("PE", 3, "channels", 64)
    expected = "PE=3 does not divide channels=64; use 1, 2, 4, 8, 16, 32 or 64"
    assert str(caught.value) == expected
