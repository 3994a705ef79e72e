import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmaunet.errors import UserError
from lmaunet.scan.formats import FINEST, ScanScales, fit, formats_for, state_maximum
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.real import softplus
from lmaunet.scan.recurrence import CONSTANTS, CUTS
from lmaunet.spec import Format, ScanSpec


@pytest.mark.parametrize(
    ("maximum", "bits", "signed", "expected"),
    [
        (0.7, 16, False, Format(16, 16, False)),  # 0.7 * 2**16 = 45875
        (1.0, 16, False, Format(16, 15, False)),  # 2**16 would not fit
        (0.999999, 16, False, Format(16, 15, False)),  # rounds up to 2**16
        (32.0, 12, False, Format(12, 6, False)),
        (31.9, 12, False, Format(12, 7, False)),
        (0.3, 18, True, Format(18, 18, True)),
        (5000.0, 8, True, Format(8, -6, True)),
        (0.0, 18, True, Format(18, 16, True)),
    ],
)
def test_fit_by_hand(maximum, bits, signed, expected):
    assert fit(maximum, bits, signed=signed) == expected


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(1e-9, 1e9), st.integers(2, 30), st.booleans())
def test_fit_holds_the_maximum_and_wastes_no_bit(maximum, bits, signed):
    form = fit(maximum, bits, signed=signed)
    assert math.floor(math.ldexp(maximum, form.frac) + 0.5) <= form.high
    assert form.frac == FINEST or math.floor(math.ldexp(maximum, form.frac + 1) + 0.5) > form.high


SCALES = ScanScales(x=0.02, dt=0.05, b=0.01, c=0.01, y=0.03)
A = [[-1.0, -4.0], [-0.5, -20.0]]


def test_formats_by_hand():
    formats = formats_for(SCALES, A, [0.5, -1.0], 0.2, dt_max=0)
    assert set(formats) == {*CUTS, *CONSTANTS}
    assert formats["delta"] == Format(16, 16, False)  # softplus(0) = 0.69
    assert formats["rate"] == Format(12, 7, False)  # 20 * 1.4427 = 28.9
    assert formats["exponent"] == Format(21, 16, False)  # 0.69 * 28.9 = 20 needs 5 bits
    assert formats["mantissa"] == formats["decay"] == Format(16, 15, False)
    assert formats["drive"] == Format(18, 17)
    assert formats["state"] == Format(18, 18)  # 0.4: one bit above 0.2
    assert formats["skip"] == Format(16, 15)  # 1 / (128**2 * 1e-4) = 0.61
    assert formats["gain"] == Format(16, 8, False)  # 128**3 * 2e-6 / 0.03 = 139.8
    assert formats["output"] == Format(8, 0)


def test_exponent_is_no_wider_than_it_can_matter():
    formats = formats_for(SCALES, [[-4000.0]], [0.0], 0.2)
    assert formats["exponent"] == Format(21, 16, False)  # 2 ** -32 is already zero


def test_state_maximum_by_hand():
    # delta = log 2, x = B = 1/2: h rises towards (log 2)/4 / (1 - 1/2); 3 tokens: 7/4 of the first
    scales = ScanScales(1, 1, 1, 1, 1)
    x = np.full((1, 3, 1), 64)
    largest = state_maximum(scales, [[-1.0]], x, np.zeros_like(x), -x)
    assert largest == pytest.approx(math.log(2) / 4 * 7 / 4, rel=1e-12)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.floats(1e-5, 1)] * 5),
    st.floats(1e-3, 100),
    st.floats(-10, 10),
    st.floats(1e-4, 100),
    st.integers(-127, 127),
)
def test_default_formats_always_make_a_scan(scales, rate, skip, state_max, dt_max):
    """No calibration leads to a constant that does not fit, or to more than 62 bits."""
    scan_scales = ScanScales(*scales)
    formats = formats_for(scan_scales, [[-rate] * 16], [skip], state_max, dt_max=dt_max)
    scan = IntegerScan.from_real(ScanSpec(1, 16, formats), scan_scales, [[-rate] * 16], [skip])
    assert scan.ranges["output"].bits <= 62
    delta = formats["delta"]
    exact = softplus(dt_max * scan_scales.dt)
    assert abs(math.ldexp(scan.softplus[dt_max + 128], -delta.frac) - exact) <= 2.0**-delta.frac


@pytest.mark.parametrize("state_max", [-1.0, math.nan, math.inf])
def test_state_maximum_that_is_none(state_max):
    with pytest.raises(UserError, match=r"give the largest \|h\| of the calibration data"):
        formats_for(SCALES, A, [0.0, 0.0], state_max)
