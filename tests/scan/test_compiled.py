"""The compiled scan against the definition: every code, every count."""

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmaunet.errors import UserError
from lmaunet.scan import integer_kernel
from lmaunet.scan.compiled import run_compiled
from lmaunet.scan.formats import Widths
from lmaunet.scan.integer import IntegerScan
from lmaunet.scan.vectors import corners, synthetic


def assert_same(got, expected):
    for name in ("y", "accumulators", "state"):
        a, b = getattr(got, name), getattr(expected, name)
        assert a.shape == b.shape and (a == b).all(), name
    assert got.accumulator_frac == expected.accumulator_frac
    assert got.saturations == expected.saturations


WIDTHS = st.builds(
    Widths,
    delta_bits=st.integers(8, 18),
    rate_bits=st.integers(6, 16),
    exponent_frac=st.integers(8, 18),
    decay_frac=st.integers(8, 18),
    drive_bits=st.integers(8, 20),
    state_bits=st.integers(8, 22),
    accumulator_bits=st.integers(10, 24),
    exp_segments=st.sampled_from([8, 32, 128]),
    per_channel=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(WIDTHS, st.integers(1, 6), st.integers(1, 5), st.integers(1, 40), st.integers(0, 99))
def test_equals_the_definition(widths, channels, states, length, seed):
    vectors = synthetic(channels, states, length, batch=2, seed=seed, widths=widths)
    result = run_compiled(vectors.scan, *vectors.stimuli)
    assert_same(result, vectors.scan.run(*vectors.stimuli))


FEWER = {"delta": 1, "exponent": 4, "decay": 3, "drive": 2, "state": 3}


def narrow_scan(**fewer):
    """A scan whose cuts saturate now and then: they have fewer bits than they need."""
    scan = synthetic(4, 3, 50, seed=3).scan
    formats = {
        name: dataclasses.replace(form, bits=form.bits - (FEWER | fewer).get(name, 0))
        for name, form in scan.spec.formats.items()
    }
    spec = dataclasses.replace(scan.spec, formats=formats)
    return IntegerScan.from_real(spec, scan.scales, scan.A, scan.D)


@pytest.mark.parametrize("last", ["accumulator", "output"])
def test_counts_every_saturation(last):
    scan = narrow_scan(**{last: 3})
    vectors = corners(scan, 60)
    expected = scan.run(*vectors.stimuli)
    assert {name for name, count in expected.saturations.items() if count} >= {*FEWER, last}
    for threads in (1, 3, 40):
        assert_same(run_compiled(scan, *vectors.stimuli, threads=threads), expected)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("return (code + (np.int64(1) << (bits - 1))) >> bits", "return code >> bits"),
        ("saturated += within != value", "saturated += 0"),
        ("within = min(max(value, low), high)", "within = min(value, high)"),
        ("(largest_shift - shift[d])", "largest_shift"),
        ("total += c[t, n] * within", "total += c[t, n] * value"),
        ("rounded[3]", "rounded[2]"),
    ],
)
def test_a_mutant_is_caught(monkeypatch, mutant_of, right, wrong):
    mutant = mutant_of(integer_kernel, right, wrong)
    monkeypatch.setitem(sys.modules, "lmaunet.scan.integer_kernel", mutant)
    scan = narrow_scan()
    vectors = corners(scan, 60)
    with pytest.raises(AssertionError):
        assert_same(run_compiled(scan, *vectors.stimuli), scan.run(*vectors.stimuli))


def test_bad_codes_are_refused():
    vectors = synthetic(2, 2, 4)
    with pytest.raises(UserError, match="scan input x has codes from"):
        run_compiled(vectors.scan, vectors.x + 300, vectors.dt, vectors.b, vectors.c)
    with pytest.raises(UserError, match="B has shape"):
        run_compiled(vectors.scan, vectors.x, vectors.dt, vectors.b[:, :2], vectors.c)
    assert np.array_equal(
        run_compiled(vectors.scan, *vectors.stimuli).y, vectors.scan.run(*vectors.stimuli).y
    )
