import numpy as np
import pytest

from lmaunet.scan.fixed import Fixed, nearest, round_half_up
from lmaunet.scan.tables import Exp2Table, shift_right, softplus_table
from lmaunet.spec import Format


def test_half_up_is_neither_half_to_even_nor_half_away():
    halves = np.array([-5, -3, -1, 1, 3, 5])  # -2.5, -1.5, -0.5, 0.5, 1.5, 2.5
    assert round_half_up(halves, 1).tolist() == [-2, -1, 0, 1, 2, 3]
    assert nearest(halves / 2, Format(8, 0)).tolist() == [-2, -1, 0, 1, 2, 3]


def test_negative_bits_shift_left():
    assert round_half_up(np.array([-3, 5]), -2).tolist() == [-12, 20]


def test_nearest_saturates():
    assert nearest([300.0, -300.0], Format(8, 0)).tolist() == [127, -128]
    assert nearest([300.0, -1.0], Format(8, 0, signed=False)).tolist() == [255, 0]


def test_softplus_by_hand():
    # softplus(0) = log 2 = 177.4/256; softplus(-128 * 0.1) = 2.8e-6; softplus(12.7) = 12.700003.
    table = softplus_table(0.1, 8)
    assert table.shape == (256,)
    assert (table[0], table[128], table[255]) == (0, 177, 3251)
    assert (np.diff(table) >= 0).all()


@pytest.mark.parametrize("segments", [1, 8, 32])
@pytest.mark.parametrize("frac", [9, 15])
def test_lines_stay_within_their_error(segments, frac):
    table = Exp2Table.build(segments, Format(frac + 1, frac, signed=False))
    exponent = Fixed(np.arange(1 << 12), 12)  # every fraction
    lines = table.interpolate(exponent).to_real()
    error = np.abs(lines - np.exp2(-exponent.to_real())).max()
    chord = np.log(2) ** 2 / (8 * segments**2)
    assert error <= chord + 2.0 ** -(frac + 1)
    assert error >= 0.5 * chord  # the bound is not idle
    assert lines[0] == 1.0
    assert (np.diff(lines) <= 0).all()


def test_a_slope_rounded_by_itself_would_leave_the_error(monkeypatch):
    """The mutant: slopes that do not end at the next point leave the lines' error bound."""
    table = Exp2Table.build(8, Format(10, 9, signed=False))
    mutant = Exp2Table(table.value, table.slope + 2, table.mantissa)
    exponent = Fixed(np.arange(1 << 12), 12)
    error = np.abs(mutant.interpolate(exponent).to_real() - np.exp2(-exponent.to_real())).max()
    assert error > np.log(2) ** 2 / (8 * 8**2) + 2.0**-10


def test_shift_right_is_exact_until_the_deepest():
    mantissa, exponent = Fixed(np.full(5, 8), 3), Fixed(np.array([0, 1, 4, 5, 200]) * 4 + 3, 2)
    assert shift_right(mantissa, exponent, 5).to_real().tolist() == [
        1,
        1 / 2,
        1 / 16,
        1 / 32,
        1 / 32,
    ]
