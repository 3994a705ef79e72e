import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from lmaunet.errors import UserError
from lmaunet.sampling import evenly_spread
from lmaunet.scan import choice
from lmaunet.scan.choice import (
    CHANNEL_ALLOWANCE_DB,
    ChosenFormats,
    Noise,
    ScanCodes,
    choose_formats,
    cost,
    measure,
    merge,
)
from lmaunet.scan.formats import ScanStatistics, Widths
from lmaunet.scan.integer import IntegerScan, calibrate
from lmaunet.scan.vectors import sqnr_db, synthetic


@pytest.fixture(scope="module")
def bench():
    vectors = synthetic(6, 4, 300, batch=4)
    return vectors.scan, ScanCodes(*vectors.stimuli)


@pytest.fixture(scope="module")
def chosen(bench):
    scan, codes = bench
    return {db: choose_formats(scan.scales, scan.A, scan.D, codes, db) for db in (36.0, 48.0)}


@pytest.mark.parametrize("target_db", [36.0, 48.0])
def test_the_target_is_met_and_not_by_far(bench, chosen, target_db):
    scan, codes = bench
    found = chosen[target_db]
    noise = measure(IntegerScan.from_real(found.spec, scan.scales, scan.A, scan.D), codes)
    assert (noise.sqnr_db, noise.worst_channel_db) == (found.sqnr_db, found.worst_channel_db)
    assert found.sqnr_db >= target_db
    assert found.worst_channel_db >= target_db - CHANNEL_ALLOWANCE_DB
    assert min(found.sqnr_db, found.worst_channel_db + CHANNEL_ALLOWANCE_DB) < target_db + 4


def test_more_accuracy_costs_more(chosen):
    assert chosen[36.0].cost < chosen[48.0].cost < cost(Widths(), states=4)
    assert chosen[36.0].widths.state_bits < chosen[48.0].widths.state_bits


def test_no_single_bit_can_be_saved(bench, chosen):
    """One bit less anywhere misses the target: else the choice was not the cheapest."""
    scan, codes = bench
    found = chosen[48.0]
    for name in ("state_bits", "delta_bits", "decay_frac", "drive_bits", "rate_bits"):
        narrower = dataclasses.replace(found.widths, **{name: getattr(found.widths, name) - 1})
        spec = choice.spec_for(scan.scales, scan.A, scan.D, found.statistics, narrower)
        noise = measure(IntegerScan.from_real(spec, scan.scales, scan.A, scan.D), codes)
        assert not noise.meets(48.0 + 0.5), name


def test_noise_by_hand():
    # 10 dB in all: (100 + 10 + 0.05) / 11.005. The second channel has 10/1 = 10 dB; the third one
    # has less signal than the rounding of y, and does not count.
    noise = Noise(np.array([100.0, 10.0, 0.05]), np.array([10.0, 1.0, 0.005]))
    assert noise.sqnr_db == pytest.approx(10)
    assert noise.worst_channel_db == pytest.approx(10)
    assert noise.meets(10 - 1e-9) and not noise.meets(10 + 1e-6)
    silent = Noise(np.zeros(2), np.zeros(2))
    assert silent.sqnr_db == math.inf and silent.meets(100)
    faint = Noise(np.full(3, 1e-4), np.array([1e-6, 1e-5, 1.3e-5]))  # 1e-4 / 12 = 0.83e-5 each
    assert faint.sqnr_db < 15 and faint.meets(46)
    assert not Noise(faint.signal, faint.error + 1e-6).meets(46)
    deaf = Noise(np.array([100.0, 1.0]), np.array([0.0, 10 ** ((CHANNEL_ALLOWANCE_DB - 10) / 10)]))
    assert deaf.worst_channel_db == pytest.approx(10 - CHANNEL_ALLOWANCE_DB)
    assert deaf.meets(10 - 1e-9) and not deaf.meets(10 + 1e-6)


def test_measured_noise_is_that_of_the_accumulators(bench):
    scan, codes = bench
    result = scan.run(*codes.stimuli)
    real = scan.run_real(*codes.stimuli).accumulator.swapaxes(0, 1)
    frac = scan.spec.formats["accumulator"].frac
    exact = np.ldexp(result.accumulators.astype(float), -result.accumulator_frac)
    got = np.ldexp(np.floor(np.ldexp(exact, frac) + 0.5), -frac)
    assert result.saturations["accumulator"] == 0
    assert measure(scan, codes).sqnr_db == pytest.approx(sqnr_db(real, got), abs=1e-9)
    mutant = dataclasses.replace(scan, rate=scan.rate + 8)
    assert measure(mutant, codes).sqnr_db < measure(scan, codes).sqnr_db - 3


def test_cost_by_hand():
    # each state: 16*12 + 16*(16-5) + 16*18 + 8*18 + 8*18 + (18+12) + 2*16*32/64 = 990
    # each channel: 8*16 + 18*16 + 256*16/64 = 480, shared by 8
    assert cost(Widths(), states=8) == 990 + 60


def test_a_target_beyond_the_widest(bench):
    scan, codes = bench
    with pytest.raises(UserError, match=r"an SQNR of 150 dB .* the widest formats reach"):
        choose_formats(scan.scales, scan.A, scan.D, codes, 150.0)


def test_statistics_are_merged_and_have_their_margin(bench, chosen):
    scan, codes = bench
    found = chosen[48.0]
    assert merge([ScanStatistics((1, 2), (4, 3), 5), ScanStatistics((2, 1), (3, 4), 4)]) == (
        ScanStatistics((2, 2), (4, 4), 5)
    )
    narrow = IntegerScan.from_real(found.spec, scan.scales, scan.A, scan.D)
    states = np.abs(narrow.run(*codes.stimuli).state).max((0, 2))
    assert (states <= found.spec.formats["state"].high / 2 + 1).all()


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_merged_statistics_are_the_largest_wherever_they_stand(order):
    parts = [
        ScanStatistics((1, 2), (4, 3), 5),
        ScanStatistics((2, 1), (3, 4), 4),
        ScanStatistics((0, 7), (9, 0), -8),
    ]
    assert merge(parts[i] for i in order) == ScanStatistics((2, 7), (9, 4), 5)


def test_noise_is_measured_against_what_the_format_can_hold(bench):
    """Where y saturates, so does the real scan's: that is no error of the integers."""
    scan, codes = bench
    loud = dataclasses.replace(scan.scales, y=scan.scales.y / 3)
    loud_scan = calibrate(loud, scan.A, scan.D, *codes.stimuli[:3])
    result = loud_scan.run(*codes.stimuli)
    assert result.saturations["accumulator"] > 0
    form = loud_scan.spec.formats["accumulator"]
    low, high = np.ldexp((form.low, form.high), -form.frac)
    real = loud_scan.run_real(*codes.stimuli).accumulator.swapaxes(0, 1)
    exact = np.ldexp(result.accumulators.astype(float), -result.accumulator_frac)
    got = np.ldexp(np.floor(np.ldexp(exact, form.frac) + 0.5), -form.frac)
    got, clipped = np.clip(got, low, high), np.clip(real, low, high)
    noise = measure(loud_scan, codes)
    unit = loud_scan.scales.gain**2
    np.testing.assert_allclose(noise.error, ((got - clipped) ** 2).mean((0, 1)) * unit)
    np.testing.assert_allclose(noise.signal, (clipped**2).mean((0, 1)) * unit)
    beyond = ((got - real) ** 2).mean((0, 1)) * unit
    assert (beyond > 100 * noise.error).any(), "else clipping would not show"


def test_spread_takes_images_from_everywhere(bench):
    _, codes = bench
    np.testing.assert_array_equal(codes.spread(2).x, codes.x[evenly_spread(len(codes.x), 2)])
    np.testing.assert_array_equal(codes.spread(9).x, codes.x)


def test_json_keeps_everything(chosen):
    found = chosen[36.0]
    assert ChosenFormats.from_json(json.loads(json.dumps(found.to_json()))) == found
    before = {name: value for name, value in found.to_json().items() if name != "silent"}
    assert ChosenFormats.from_json(before) == found, "files from before there was 'silent'"
    with pytest.raises(UserError, match="not the chosen formats of a scan"):
        ChosenFormats.from_json({**found.to_json(), "widths": {"bits": 3}})


@pytest.mark.parametrize("ratio", [math.inf, -math.inf])
def test_an_infinite_ratio_is_null_in_json_and_comes_back(chosen, ratio):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    found = dataclasses.replace(chosen[36.0], sqnr_db=ratio, worst_channel_db=math.inf)
    content = json.loads(json.dumps(found.to_json()), parse_constant=refuse)
    assert content["sqnr_db"] is content["worst_channel_db"] is None
    assert ChosenFormats.from_json(content) == found


def test_a_scan_without_signal_has_a_ratio_of_minus_infinity():
    assert Noise(np.zeros(2), np.array([0.0, 1e-9])).sqnr_db == -math.inf
