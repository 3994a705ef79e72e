import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_oracle import oracle_codes, oracle_of

from lmaunet.errors import UserError
from lmaunet.scan import fixed, recurrence
from lmaunet.scan.formats import ScanScales
from lmaunet.scan.integer import IntegerScan, calibrate, to_codes
from lmaunet.scan.integer_algebra import IntegerAlgebra
from lmaunet.scan.recurrence import CUTS
from lmaunet.scan.vectors import corners, synthetic
from lmaunet.spec import Format, ScanSpec

# --- one channel, worked by hand

HAND_FORMATS = {
    "delta": Format(8, 4, signed=False),
    "exponent": Format(8, 4, signed=False),
    "mantissa": Format(9, 8, signed=False),
    "decay": Format(9, 8, signed=False),
    "drive": Format(8, 4),
    "state": Format(8, 4),
    "accumulator": Format(8, 4),
    "output": Format(8, 0),
    "rate": Format(4, 2, signed=False),
    "skip": Format(8, 4),
    "gain": Format(8, 2, signed=False),
}


def hand_scan(shift=0):
    """rate = 1, skip = D = 1/2, gain = 128**3 / 128**3 / (1/4) = 4."""
    spec = ScanSpec(1, 1, HAND_FORMATS, exp_segments=4, state_shift=(shift,))
    scales = ScanScales(x=1 / 128, dt=1.0, b=1 / 128, c=1 / 128, y=1 / 4)
    return IntegerScan.from_real(spec, scales, [[-math.log(2)]], [0.5])


def hand_stimuli():
    x, b, c = np.array([[[64], [-64]]]), np.array([[[64], [127]]]), np.full((1, 2, 1), 64)
    return x, np.zeros_like(x), b, c


def test_worked_by_hand():
    # dt = 0: delta = log 2 = 11.09/16 -> 11/16, the exponent is 11/16 * 1, so f = 0.6875.
    # Four lines: f lies 3/4 into the third one, from 2**-0.5 = 181/256 to 2**-0.75 = 152/256:
    # 181 - 29 * 3/4 = 159.25 -> 159, and the decay is 159/256.
    # Token 1: x = B = C = 64/128 = 1/2. drive = 11/16 * 1/2 = 5.5/16 -> 6/16 (half up).
    #   h = 6/16 * 1/2 = 3/16.  acc = 3/16 * 1/2 + 1/2 * 1/2 = 704/2048 = 5.5/16 -> 6/16 (half up).
    #   y = 4 * 6/16 = 1.5 -> 2.
    # Token 2: x = -1/2, B = 127/128. drive = -5.5/16 -> -5/16 (half up, not away from zero).
    #   h = 159/256 * 3/16 - 5/16 * 127/128 = -3.098/16 -> -3/16.
    #   acc = -3/16 * 1/2 - 1/2 * 1/2 = -704/2048 -> -5/16.  y = 4 * -5/16 = -1.25 -> -1.
    scan = hand_scan()
    assert scan.rate.tolist() == [[4]] and scan.skip.tolist() == [8] and scan.gain == 16
    assert scan.exp2.value.tolist() == [256, 215, 181, 152]
    assert scan.exp2.slope.tolist() == [41, 34, 29, 24]
    result = scan.run(*hand_stimuli())
    assert result.accumulator_frac == 11
    assert result.accumulators[0, :, 0].tolist() == [704, -704]
    assert result.y[0, :, 0].tolist() == [2, -1]
    assert result.state.tolist() == [[[-3]]]
    assert not any(result.saturations.values())


def test_a_shift_worked_by_hand():
    # Two bits more than above for drive and state, which are held four times as large.
    # Token 1: drive = 4 * 11/16 * 1/2 = 22/16, nothing to round.  g = 22/16 * 1/2 = 11/16.
    #   acc = 11/16 * 1/2 / 4 + 1/2 * 1/2 = 43/128 = 2752/8192 = 5.375/16 -> 5/16.  y = 1.25 -> 1.
    # Token 2: drive = -22/16.  g = 159/256 * 11/16 - 22/16 * 127/128 = -14.996/16 -> -15/16.
    #   acc = -15/16 * 1/2 / 4 - 1/2 * 1/2 = -47/128 = -3008/8192 = -5.875/16 -> -6/16.
    #   y = 4 * -6/16 = -1.5 -> -1.
    result = hand_scan(shift=2).run(*hand_stimuli())
    assert result.accumulator_frac == 13
    assert result.accumulators[0, :, 0].tolist() == [2752, -3008]
    assert result.y[0, :, 0].tolist() == [1, -1]
    assert result.state.tolist() == [[[-15]]]
    assert not any(result.saturations.values())


def test_saturation_worked_by_hand():
    # dt = 127: delta = 127 -> saturates at 255/16; the exponent 255/16 fits; 2**-15.9 -> 0.
    # drive = 255/16 * 127/128 = 253.008/16 -> saturates at 127/16.
    # h = 127/16 * 127/128 = 126.008/16 -> 126/16, twice, since nothing of it decays into the next.
    # acc = 126/16 * 127/128 + 1/2 * 127/128 = 17018/2048 = 132.95/16 -> saturates at 127/16.
    # y = 4 * 127/16 = 31.75 -> 32.
    scan = hand_scan()
    full = np.full((1, 2, 1), 127)
    result = scan.run(full, full, full, full)
    assert result.accumulators[0, :, 0].tolist() == [17018, 17018]
    assert result.y[0, :, 0].tolist() == [32, 32]
    assert result.saturations == {
        "delta": 2, "exponent": 0, "mantissa": 0, "decay": 0, "drive": 2, "state": 0,
        "accumulator": 2, "output": 0,
    }  # fmt: skip


# --- pinned results of the oracle

GOLDEN_FORMATS = {
    "delta": Format(12, 11, signed=False),
    "exponent": Format(11, 8, signed=False),
    "mantissa": Format(11, 10, signed=False),
    "decay": Format(11, 10, signed=False),
    "drive": Format(12, 10),
    "state": Format(12, 11),
    "accumulator": Format(10, 6),
    "output": Format(8, 0),
    "rate": Format(8, 5, signed=False),
    "skip": Format(10, 9),
    "gain": Format(10, 3, signed=False),
}
GOLDEN_X = [[90, -33], [101, -128], [-17, 127], [55, 3], [-120, 64], [8, -77]]
GOLDEN_DT = [[-9, 4], [-60, 11], [22, -31], [5, -2], [-14, 19], [-3, 0]]
GOLDEN_B = [[77, -50], [127, -128], [-11, 93], [66, 45], [-107, 31], [19, -2]]
GOLDEN_C = [[-64, 39], [83, 120], [-128, 127], [7, -91], [58, 58], [111, -5]]
GOLDEN_Y = [[8, 12], [22, 42], [-23, 105], [8, -6], [-10, -26], [23, -13]]
GOLDEN_ACCUMULATORS = [
    [24509, 37079],
    [71523, 131464],
    [-73747, 331481],
    [23041, -22518],
    [-31784, -82424],
    [73973, -42027],
]

SHIFT = (2, 1)
SHIFTED_Y = [[8, 12], [22, 30], [-23, 51], [8, -4], [-19, -22], [13, -9]]
SHIFTED_ACCUMULATORS = [
    [97997, 148316],
    [285824, 374544],
    [-294991, 633056],
    [92157, -56010],
    [-238554, -275292],
    [166365, -122376],
]


def golden_scan(shift=()):
    spec = ScanSpec(2, 2, GOLDEN_FORMATS, exp_segments=8, state_shift=shift)
    scales = ScanScales(x=0.011, dt=0.05, b=0.009, c=0.008, y=0.02)
    return IntegerScan.from_real(spec, scales, [[-0.8, -2.1], [-1.2, -3.3]], [0.4, -0.25])


def golden_stimuli():
    return [np.array([v]) for v in (GOLDEN_X, GOLDEN_DT, GOLDEN_B, GOLDEN_C)]


def test_pinned_codes():
    result = golden_scan().run(*golden_stimuli())
    assert result.accumulators[0].tolist() == GOLDEN_ACCUMULATORS
    assert result.y[0].tolist() == GOLDEN_Y


def test_pinned_codes_with_shifts():
    result = golden_scan(SHIFT).run(*golden_stimuli())
    assert result.accumulators[0].tolist() == SHIFTED_ACCUMULATORS
    assert result.y[0].tolist() == SHIFTED_Y


@pytest.mark.parametrize(
    ("shift", "y", "accumulators"),
    [((), GOLDEN_Y, GOLDEN_ACCUMULATORS), (SHIFT, SHIFTED_Y, SHIFTED_ACCUMULATORS)],
)
def test_the_oracle_gives_the_pinned_codes(shift, y, accumulators):
    scan = golden_scan(shift)
    oracle_y, oracle_accumulators = oracle_codes(oracle_of(scan), scan, *golden_stimuli())
    assert oracle_accumulators[0] == accumulators
    assert oracle_y[0] == y


def test_shifts_of_zero_are_none():
    result = golden_scan((0, 0)).run(*golden_stimuli())
    assert result.accumulators[0].tolist() == GOLDEN_ACCUMULATORS


# --- mutants that the pins must catch


def truncate(code, bits):
    return code >> bits if bits > 0 else code << -bits


def half_to_even(code, bits):
    return np.rint(np.ldexp(code.astype(np.float64), -bits)).astype(np.int64)


def half_away_from_zero(code, bits):
    if bits <= 0:
        return code << -bits
    return np.sign(code) * ((np.abs(code) + (1 << (bits - 1))) >> bits)


@pytest.mark.parametrize("rounding", [truncate, half_to_even, half_away_from_zero])
def test_another_rounding_is_caught(monkeypatch, rounding):
    monkeypatch.setattr(fixed, "round_half_up", rounding)
    pinned = golden_scan().run(*golden_stimuli())
    by_hand = hand_scan().run(*hand_stimuli())
    caught_by_pins = pinned.accumulators[0].tolist() != GOLDEN_ACCUMULATORS
    assert caught_by_pins or by_hand.accumulators[0, :, 0].tolist() != [704, -704]
    if rounding is truncate:
        assert caught_by_pins
        assert pinned.y[0].tolist() != GOLDEN_Y


def lifted_after_the_cut(k, x, dt, b):
    """The mutant of a shifter on the wrong side of the drive's rounding."""
    delta = k.cut("delta", k.table("softplus", dt))
    drive = k.lift(k.cut("drive", k.mul(delta, x)))
    return k.decays(dt, delta), k.mul(drive[..., None], b[..., None, :])


def unaligned(self, value):
    """The mutant of a sum that drops the bits which it shifts out."""
    return fixed.Fixed(value.code >> self.shift, value.frac)


@pytest.mark.parametrize(
    ("target", "name", "mutant"),
    [
        (IntegerAlgebra, "lift", lambda self, value: value),
        (IntegerAlgebra, "lower", lambda self, value: value),
        (IntegerAlgebra, "lower", unaligned),
        (recurrence, "prepare", lifted_after_the_cut),
    ],
    ids=["not lifted", "not lowered", "lowered by truncation", "lifted after the cut"],
)
def test_a_wrong_shift_is_caught(monkeypatch, target, name, mutant):
    monkeypatch.setattr(target, name, mutant)
    result = golden_scan(SHIFT).run(*golden_stimuli())
    real = np.ldexp(result.accumulators[0].astype(float), -result.accumulator_frac)
    wanted = np.ldexp(
        np.array(SHIFTED_ACCUMULATORS, float), -golden_scan(SHIFT).ranges["accumulator"].frac
    )
    assert (real != wanted).any()


def golden_with(name, mutant, monkeypatch):
    """Run the pinned scan with another cut of one name."""
    original = IntegerAlgebra.cut
    monkeypatch.setattr(
        IntegerAlgebra,
        "cut",
        lambda self, cut_name, value: (
            mutant(value, self.formats[name])
            if cut_name == name
            else original(self, cut_name, value)
        ),
    )
    return golden_scan().run(*golden_stimuli())


@pytest.mark.parametrize(
    "name", ["exponent", "mantissa", "decay", "drive", "state", "accumulator", "output"]
)
def test_truncation_at_one_cut_is_caught(monkeypatch, name):
    def mutant(value, to):
        code = truncate(value.code, value.frac - to.frac)
        return fixed.Fixed(np.clip(code, to.low, to.high), to.frac)

    result = golden_with(name, mutant, monkeypatch)
    narrow = name in ("accumulator", "output")
    differs_in = result.y if narrow else result.accumulators
    expected = GOLDEN_Y if narrow else GOLDEN_ACCUMULATORS
    assert differs_in[0].tolist() != expected


def test_a_state_that_wraps_is_caught(monkeypatch):
    def mutant(value, to):
        code = fixed.round_half_up(value.code, value.frac - to.frac)
        return fixed.Fixed((code - to.low) % (1 << to.bits) + to.low, to.frac)

    result = golden_with("state", mutant, monkeypatch)
    assert result.accumulators[0].tolist() != GOLDEN_ACCUMULATORS


def test_truncated_constants_and_tables_are_caught(monkeypatch):
    def mutant(value, to):
        scaled = np.floor(np.ldexp(np.asarray(value, np.float64), to.frac))
        return np.clip(scaled, to.low, to.high).astype(np.int64)

    for module in ("lmaunet.scan.integer", "lmaunet.scan.tables"):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.nearest", mutant)
            result = golden_scan().run(*golden_stimuli())
        assert result.accumulators[0].tolist() != GOLDEN_ACCUMULATORS, module


# --- against the oracle


def assert_equals_oracle(scan, stimuli):
    oracle = oracle_of(scan)
    y, accumulators = oracle_codes(oracle, scan, *stimuli)
    result = scan.run(*stimuli)
    assert result.accumulators.tolist() == accumulators
    assert result.y.tolist() == y
    for name in ("exponent", "drive", "state", "accumulator", "output"):
        assert result.saturations[name] == oracle.saturations[name], name


def test_default_formats_equal_the_oracle():
    vectors = synthetic(3, 4, 30, batch=2)
    assert_equals_oracle(vectors.scan, vectors.stimuli)


def test_corner_codes_equal_the_oracle():
    scan = synthetic(2, 2, 40, seed=3).scan
    vectors = corners(scan, 12)
    saturations = scan.run(*vectors.stimuli).saturations
    assert saturations["state"] and saturations["delta"] and saturations["output"]
    assert_equals_oracle(scan, vectors.stimuli)


def test_an_exponent_that_saturates_equals_the_oracle():
    # Rates of 400 and a delta of up to 4.9 give exponents far beyond 32, where 2 ** -v is zero.
    rng = np.random.default_rng(0)
    stimuli = [rng.integers(-128, 128, shape) for shape in [(1, 9, 2)] * 2 + [(1, 9, 3)] * 2]
    scales = ScanScales(0.01, 0.04, 0.01, 0.01, 0.05)
    scan = calibrate(scales, [[-1, -20, -400], [-2, -40, -90]], [1, 0], *stimuli[:3])
    assert scan.run(*stimuli).saturations["exponent"] > 0
    assert_equals_oracle(scan, stimuli)


@st.composite
def scans_and_stimuli(draw):
    """Scans with arbitrary formats, also ones that saturate often, and arbitrary codes."""

    def form(bits, frac, signed):
        return Format(draw(st.integers(*bits)), draw(st.integers(*frac)), signed)

    formats = {
        "delta": form((3, 12), (2, 12), False),
        "exponent": form((4, 14), (3, 10), False),
        "mantissa": form((6, 12), (3, 9), False),
        "decay": form((3, 10), (1, 10), False),
        "drive": form((3, 12), (1, 14), True),
        "state": form((3, 14), (1, 14), True),
        "accumulator": form((4, 16), (0, 12), True),
        "output": form((2, 10), (-3, 3), True),
        "rate": form((14, 14), (2, 6), False),
        "skip": form((16, 16), (2, 6), True),
        "gain": form((20, 20), (0, 6), False),
    }
    channels, states, length = (draw(st.integers(1, 3)) for _ in range(3))
    real = st.floats(0.01, 4, allow_nan=False)
    scales = ScanScales(*(draw(st.floats(0.004, 0.03)) for _ in range(4)), draw(real))
    A = [[-draw(real) for _ in range(states)] for _ in range(channels)]
    D = [draw(st.floats(-4, 4)) for _ in range(channels)]
    shift = tuple(draw(st.integers(0, 4)) for _ in range(draw(st.sampled_from([0, channels]))))
    spec = ScanSpec(channels, states, formats, 2 ** draw(st.integers(0, 3)), shift)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = [channels] * 2 + [states] * 2
    stimuli = [rng.integers(-128, 128, (1, length, size)) for size in sizes]
    return IntegerScan.from_real(spec, scales, A, D), stimuli


@settings(max_examples=40, deadline=None, derandomize=True)
@given(scans_and_stimuli())
def test_arbitrary_formats_equal_the_oracle(drawn):
    assert_equals_oracle(*drawn)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(scans_and_stimuli())
def test_ranges_hold_every_code(drawn):
    scan, stimuli = drawn
    seen = set()
    original = IntegerAlgebra.cut

    def watch(self, name, value):
        seen.add(name)
        assert value.frac == scan.ranges[name].frac
        assert scan.ranges[name].low <= value.code.min(), name
        assert value.code.max() <= scan.ranges[name].high, name
        return original(self, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IntegerAlgebra, "cut", watch)
        result = scan.run(*stimuli)
    assert seen == set(CUTS)
    accumulator = scan.ranges["accumulator"]
    assert accumulator.frac == result.accumulator_frac
    assert accumulator.low <= result.accumulators.min()
    assert result.accumulators.max() <= accumulator.high


# --- real and integer agree


def test_default_formats_are_close_to_real():
    vectors = synthetic(8, 8, 400, batch=2)
    real = vectors.scan.run_real(*vectors.stimuli)
    y = np.clip(np.floor(real.output.swapaxes(0, 1) + 0.5), -128, 127)
    assert np.abs(y - vectors.y).max() <= 1
    assert (y != vectors.y).mean() < 0.02


def test_codes_are_rounded_half_to_even():
    assert to_codes([0.5, 1.5, -0.5, -2.5, 300, -300], 1.0).tolist() == [0, 2, 0, -2, 127, -128]


# --- bad input


def formats_with(**changes):
    return dataclasses.replace(golden_scan().spec, formats={**GOLDEN_FORMATS, **changes})


def build(spec, scales=None, A=None, D=None):
    scan = golden_scan()
    return IntegerScan.from_real(
        spec, scales or scan.scales, scan.A if A is None else A, scan.D if D is None else D
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: build(formats_with(state=Format(60, 40))),
            "more than the 62 that the integer scan has; use narrower formats",
        ),
        (
            lambda: build(formats_with(exponent=Format(60, 58, signed=False))),
            "2 ** -v needs 67 bits, more than the 62 that the integer scan has; "
            "use fewer fractional bits for exponent, mantissa or decay",
        ),
        (
            lambda: build(formats_with(exponent=Format(8, 2, signed=False))),
            "the exponent has 2 fractional bits, but 8 segments need at least 3",
        ),
        (
            lambda: build(formats_with(skip=Format(4, 5))),
            "the scan's skip goes from -0.211928 to 0.339084",
        ),
        (
            lambda: build(formats_with(rate=Format(4, 2, signed=False))),
            "4 unsigned bits with 2 fractional do not hold; use fewer fractional bits",
        ),
        (
            lambda: build(ScanSpec(2, 2, {"delta": Format(8, 4)})),
            "the scan's spec has no format for exponent, mantissa, decay, drive, state, "
            "accumulator, output, rate, skip, gain; lmaunet.scan.formats.spec_for gives all of "
            "them",
        ),
        (
            lambda: build(dataclasses.replace(golden_scan().spec, state_shift=(1,))),
            "state_shift=[1]; give one shift from 0 to 15 for each of 2 channels, or none",
        ),
        (
            lambda: build(dataclasses.replace(golden_scan().spec, state_shift=(1, -1))),
            "state_shift=[1, -1]; give one shift from 0 to 15",
        ),
        (
            lambda: build(dataclasses.replace(golden_scan().spec, exp_segments=12)),
            "exp_segments=12; use a power of two",
        ),
        (
            lambda: build(golden_scan().spec, A=[[-1.0]]),
            "A is (1, 1) and D is (2,), expected (2, 2) and (2,) from the scan's spec",
        ),
        (
            lambda: build(golden_scan().spec, D=[np.nan, 0]),
            "D has values that are not finite",
        ),
        (
            lambda: ScanScales(1, 1, 0, 1, 1),
            "scan scale b=0; give a positive finite number",
        ),
        (
            lambda: golden_scan().run(*(v * 2 for v in golden_stimuli())),
            "scan input x has codes from -256 to 254; give codes from -128 to 127",
        ),
        (
            lambda: golden_scan().run(*(v / 2 for v in golden_stimuli())),
            "scan input x is float64; give integer codes",
        ),
        (
            lambda: golden_scan().run(*(v[:, :-1] if i == 3 else v
                                        for i, v in enumerate(golden_stimuli()))),
            "C has shape (1, 5, 2), expected (1, 6, 2) beside x (1, 6, 2) and 2 states",
        ),
    ],
)  # fmt: skip
def test_errors(make, message):
    with pytest.raises(UserError) as raised:
        make()
    assert message in str(raised.value)
