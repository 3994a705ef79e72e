import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmaunet.scan import recurrence
from lmaunet.scan.bound import accumulator_bound
from lmaunet.scan.formats import ScanScales, Widths
from lmaunet.scan.integer import IntegerScan, calibrate
from lmaunet.scan.vectors import synthetic


def observed_error(scan, stimuli):
    result = scan.run(*stimuli)
    harmless = ("exponent", "accumulator", "output")
    saturated = {k: n for k, n in result.saturations.items() if k not in harmless}
    assert not any(saturated.values()), saturated
    real = scan.run_real(*stimuli).accumulator.swapaxes(0, 1)
    return np.abs(np.ldexp(result.accumulators, -result.accumulator_frac) - real)


@pytest.mark.parametrize("seed", range(4))
def test_bound_holds_and_says_something(seed):
    vectors = synthetic(6, 8, 500, seed=seed)
    error = observed_error(vectors.scan, vectors.stimuli)
    bound = accumulator_bound(vectors.scan, *vectors.stimuli)
    assert bound.shape == error.shape
    assert (error <= bound).all()
    assert bound.max() < 100 * error.max()
    assert np.median(bound / error.max()) < 100


@st.composite
def calibrated_scans(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    channels, states, length = (draw(st.integers(1, n)) for n in (3, 4, 60))
    sizes = [channels] * 2 + [states] * 2
    stimuli = [rng.integers(-128, 128, (2, length, size)) for size in sizes]
    scales = ScanScales(*(10 ** draw(st.floats(-3, -1)) for _ in range(5)))
    A = -np.exp(rng.uniform(-3, 4, (channels, states)))
    D = rng.uniform(-1, 1, channels)
    widths = Widths(
        state_bits=draw(st.integers(8, 24)),
        drive_bits=draw(st.integers(8, 18)),
        delta_bits=draw(st.integers(6, 16)),
        decay_frac=draw(st.integers(6, 15)),
        exponent_frac=draw(st.integers(6, 16)),
        exp_segments=2 ** draw(st.integers(0, 5)),
        per_channel=draw(st.booleans()),
    )
    # channels of very different size, so that shifts differ
    quiet = rng.integers(0, 6, channels)
    stimuli[0] >>= quiet
    return calibrate(scales, A, D, *stimuli[:3], widths), stimuli


@settings(max_examples=40, deadline=None, derandomize=True)
@given(calibrated_scans())
def test_bound_holds_for_any_formats(drawn):
    scan, stimuli = drawn
    assert (observed_error(scan, stimuli) <= accumulator_bound(scan, *stimuli) + 1e-12).all()


def test_bound_holds_where_the_exponent_saturates():
    rng = np.random.default_rng(0)
    stimuli = [rng.integers(-128, 128, shape) for shape in [(1, 50, 2)] * 2 + [(1, 50, 3)] * 2]
    scales = ScanScales(0.01, 0.04, 0.01, 0.01, 0.05)
    scan = calibrate(scales, [[-1, -20, -400], [-2, -40, -90]], [1, 0], *stimuli[:3])
    assert scan.run(*stimuli).saturations["exponent"] > 0
    assert (observed_error(scan, stimuli) <= accumulator_bound(scan, *stimuli)).all()


def test_bound_does_not_depend_on_the_blocks(monkeypatch):
    vectors = synthetic(3, 4, 40, batch=2)
    whole = accumulator_bound(vectors.scan, *vectors.stimuli)
    monkeypatch.setattr(recurrence, "BLOCK_ELEMENTS", 7 * 2 * 3 * 4)
    np.testing.assert_array_equal(accumulator_bound(vectors.scan, *vectors.stimuli), whole)


def wrong_rate(scan):
    return dataclasses.replace(scan, rate=scan.rate + 8)


def wrong_skip(scan):
    return dataclasses.replace(scan, skip=scan.skip + 64)


def narrower_state(scan):
    formats = dict(scan.spec.formats)
    state = formats["state"]
    formats["state"] = dataclasses.replace(state, bits=state.bits - 8, frac=state.frac - 8)
    spec = dataclasses.replace(scan.spec, formats=formats)
    return IntegerScan.from_real(spec, scan.scales, scan.A, scan.D)


def without_shifts(scan):
    assert max(scan.shift) > 2
    return dataclasses.replace(scan, shift=np.zeros_like(scan.shift))


@pytest.mark.parametrize("mutate", [wrong_rate, wrong_skip, narrower_state])
def test_a_mutant_leaves_the_bound(mutate):
    vectors = synthetic(6, 8, 500)
    bound = accumulator_bound(vectors.scan, *vectors.stimuli)
    assert (observed_error(mutate(vectors.scan), vectors.stimuli) > bound).any()
