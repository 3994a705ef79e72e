import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmaunet.errors import UserError
from lmaunet.scan.formats import (
    FINEST,
    LARGEST_SHIFT,
    ScanScales,
    ScanStatistics,
    Widths,
    fit,
    observe_scan,
    spec_for,
)
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
    # the second channel's states are 1/20 of the first one's: four bits more, drives 1/10: three
    spec = spec_for(SCALES, A, [0.5, -1.0], ScanStatistics((0.2, 0.01), (0.06, 0.006), dt=-14))
    formats = spec.formats
    assert set(formats) == {*CUTS, *CONSTANTS}
    assert formats["delta"] == Format(16, 16, False)  # softplus(-0.7) = 0.40, 0.81 with the margin
    assert formats["rate"] == Format(12, 7, False)  # 20 * 1.4427 = 28.9
    assert formats["exponent"] == Format(21, 16, False)  # 0.81 * 28.9 = 23 needs 5 bits
    assert formats["mantissa"] == formats["decay"] == Format(16, 15, False)
    assert formats["state"] == Format(18, 18)  # 0.4: one bit above 0.2
    assert spec.state_shift == (0, 4)  # 0.02 has 22 fractional bits
    assert formats["drive"] == Format(18, 19)  # 2 * max(0.06, 16 * 0.006) = 0.19
    assert formats["skip"] == Format(16, 15)  # 1 / (128**2 * 1e-4) = 0.61
    assert formats["gain"] == Format(16, 8, False)  # 128**3 * 2e-6 / 0.03 = 139.8
    assert formats["accumulator"] == Format(18, 17)  # 129 / 139.8 = 0.92
    assert formats["output"] == Format(8, 0)


def test_one_scale_for_all_channels():
    statistics = ScanStatistics((0.2, 0.01), (0.06, 0.006), dt=-14)
    spec = spec_for(SCALES, A, [0.5, -1.0], statistics, Widths(per_channel=False, state_bits=14))
    assert spec.state_shift == ()
    assert spec.formats["state"] == Format(14, 14)
    assert spec.formats["drive"] == Format(18, 20)  # 2 * 0.06 = 0.12


def test_delta_needs_no_margin_above_what_its_code_can_be():
    formats = spec_for(SCALES, A, [0, 0], ScanStatistics((0.2, 0.2), (0.1, 0.1), dt=127)).formats
    assert formats["delta"] == Format(16, 13, False)  # softplus(6.35) = 6.35


def test_a_shift_has_four_bits_and_a_silent_channel_none():
    statistics = ScanStatistics((0.5, 1e-9, 0.0), (0.5, 1e-9, 0.0), dt=0)
    rates = [[-1.0]] * 3
    assert spec_for(SCALES, rates, [0] * 3, statistics).state_shift == (0, FINEST - 16, 0)
    narrow = spec_for(SCALES, rates, [0] * 3, statistics, Widths(state_bits=10))
    assert narrow.state_shift == (0, LARGEST_SHIFT, 0)


def test_the_accumulator_saturates_only_where_the_output_does():
    for y in (0.03, 0.0301, 0.049, 0.05):
        scales = dataclasses.replace(SCALES, y=y)
        form = spec_for(scales, A, [0, 0], ScanStatistics((0.2, 0.2), (0.1, 0.1), 0)).formats
        scan = IntegerScan.from_real(
            spec_for(scales, A, [0, 0], ScanStatistics((0.2, 0.2), (0.1, 0.1), 0)),
            scales,
            A,
            [0, 0],
        )
        unit = 2.0 ** -(form["accumulator"].frac + form["gain"].frac)
        assert form["accumulator"].high * int(scan.gain) * unit > 127.5
        assert form["accumulator"].low * int(scan.gain) * unit < -128.5


def test_exponent_is_no_wider_than_it_can_matter():
    statistics = ScanStatistics((0.2,), (0.1,), dt=127)
    formats = spec_for(SCALES, [[-4000.0]], [0.0], statistics).formats
    assert formats["exponent"] == Format(21, 16, False)  # 2 ** -32 is already zero


def test_statistics_by_hand():
    # delta = log 2, x = B = 1/2: h rises towards (log 2)/4 / (1 - 1/2); 3 tokens: 7/4 of the first.
    # The second channel has half of the x.
    scales = ScanScales(1, 1, 1, 1, 1)
    x = np.array([[[64, -32]] * 3])
    seen = observe_scan(scales, [[-1.0], [-1.0]], x, np.zeros_like(x), np.full((1, 3, 1), -64))
    assert seen.state == pytest.approx((math.log(2) / 4 * 7 / 4, math.log(2) / 8 * 7 / 4))
    assert seen.drive == pytest.approx((math.log(2) / 2, math.log(2) / 4))
    assert seen.dt == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(*[st.floats(1e-5, 1)] * 5),
    st.floats(1e-3, 100),
    st.floats(-10, 10),
    st.floats(1e-4, 100),
    st.floats(1e-9, 1),
    st.integers(-127, 127),
)
def test_default_formats_always_make_a_scan(scales, rate, skip, state_max, quiet, dt_max):
    """No calibration leads to a constant that does not fit, or to more than 62 bits."""
    scan_scales, rates, skips = ScanScales(*scales), [[-rate] * 16] * 2, [skip, 0]
    delta_max = float(softplus(dt_max * scan_scales.dt))
    statistics = ScanStatistics((state_max, quiet * state_max), (delta_max, delta_max), dt_max)
    spec = spec_for(scan_scales, rates, skips, statistics)
    scan = IntegerScan.from_real(spec, scan_scales, rates, skips)
    assert max(r.bits for r in scan.ranges.values()) <= 62
    delta = spec.formats["delta"]
    exact = softplus(dt_max * scan_scales.dt)
    assert abs(math.ldexp(scan.softplus[dt_max + 128], -delta.frac) - exact) <= 2.0**-delta.frac


@pytest.mark.parametrize("largest", [-1.0, math.nan, math.inf])
def test_statistics_that_are_none(largest):
    with pytest.raises(UserError, match="give the largest magnitude of each channel"):
        ScanStatistics((0.1, largest), (0.1, 0.1), 0)


def test_statistics_of_another_scan():
    with pytest.raises(UserError, match=r"scan statistics of 1 channels, A of 2"):
        spec_for(SCALES, A, [0, 0], ScanStatistics((0.1,), (0.1,), 0))


def test_a_spec_survives_json():
    spec = spec_for(SCALES, A, [0.5, -1.0], ScanStatistics((0.2, 0.01), (0.06, 0.006), dt=-14))
    assert spec.state_shift == (0, 4)
    assert ScanSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_spec_without_shifts_is_read():
    spec = ScanSpec(4, 2, {"state": Format(18, 15)})
    content = spec.to_json()
    del content["state_shift"]
    assert ScanSpec.from_json(content) == spec


@pytest.mark.parametrize("change", [{"formats": {"state": 3}}, {"channels": None}, {"formats": 1}])
def test_json_that_is_no_spec(change):
    with pytest.raises(UserError, match="not the number formats of a scan"):
        ScanSpec.from_json(ScanSpec(4, 2, {"state": Format(18, 15)}).to_json() | change)
