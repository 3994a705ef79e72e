"""Slices brought to a size and labels brought back."""

import numpy as np
import pytest

from lmaunet.data import framing
from lmaunet.data import normalization as norm
from lmaunet.data.framing import Framing, _neighbours, resample_in_plane
from lmaunet.errors import UserError


def test_padding_and_cropping_keep_the_centre_and_come_back():
    slices = np.arange(2 * 5 * 10, dtype=np.float32).reshape(2, 5, 10)
    framing = Framing.of((5, 10), (8, 6))
    framed = framing.images(slices, -1.0)
    assert framed.shape == (2, 8, 6)
    assert np.array_equal(framed[:, 1:6], slices[:, :, 2:8])
    assert (framed[:, [0, 6, 7]] == -1).all()
    restored = framing.restore(framed)
    assert np.array_equal(restored[:, :, 2:8], slices[:, :, 2:8])
    assert (restored[:, :, [0, 1, 8, 9]] == 0).all()


def test_a_spacing_that_is_off_by_rounding_gives_the_same_size():
    """26 pixels of 2.5 mm are 32.5 of 2 mm: both ends of the tie go the same way."""
    for step in (2.0, 1.9999999999999996, 2.0000000000000004, 1.99999988, 2.00000012):
        assert Framing.of((26, 27), (64, 64), zoom=(2.5 / step, 2.5 / step)).scaled == (32, 34)
        assert Framing.of((1025, 1027), (64, 64), zoom=(1 / step, 1 / step)).scaled == (512, 514)
    assert Framing.of((26, 27), (64, 64), zoom=(2.5 / 1.9999, 1.0)).scaled == (33, 27)


def test_fit_shrinks_by_one_factor_and_only_what_is_too_large():
    assert Framing.of((100, 50), (50, 50), fit=True).scaled == (50, 25)
    assert Framing.of((40, 20), (50, 50), fit=True).scaled == (40, 20)
    assert Framing.of((100, 50), (50, 50)).scaled == (100, 50)


@pytest.mark.parametrize(
    ("shape", "size", "scaled"),
    [
        ((100, 50), (50, 80), (50, 25)),  # only the height is too large
        ((40, 100), (50, 80), (32, 80)),  # only the width
        ((200, 200), (50, 80), (50, 50)),  # both, the height by more
        ((60, 400), (30, 100), (15, 100)),  # both, the width by more
        ((30, 70), (50, 80), (30, 70)),
        ((1000, 2), (50, 80), (50, 1)),  # never to nothing
    ],
)
def test_fit_looks_at_the_axis_that_is_too_large(shape, size, scaled):
    assert Framing.of(shape, size, fit=True) == Framing(shape, size, scaled)
    turned = Framing.of(shape[::-1], size[::-1], fit=True)
    assert turned.scaled == scaled[::-1]


def test_each_axis_has_its_own_zoom():
    framing = Framing.of((40, 60), (64, 64), zoom=(0.5, 2.0))
    assert framing.scaled == (20, 120)
    assert framing.shrink == (0.5, 2.0)
    fitted = Framing.of((40, 60), (64, 64), zoom=(0.5, 2.0), fit=True)
    assert fitted.scaled == (11, 64)  # 120 columns are brought to 64, rows by the same factor


@pytest.mark.parametrize(
    ("spacing", "target", "zoom"),
    [
        ((1.5, 1.0), (1.5, 1.5), (1.0, 1.0 / 1.5)),  # only the width is off
        ((1.0, 1.5), (1.5, 1.5), (1.0 / 1.5, 1.0)),  # only the height
        ((3.0, 0.5), (1.5, 1.0), (2.0, 0.5)),
        ((1.52, 1.5), (1.5, 1.5), (1.52 / 1.5, 1.0)),
        ((1.509, 1.491), (1.5, 1.5), (1.0, 1.0)),  # within a hundredth, either way
        ((0.7, 0.9), None, (1.0, 1.0)),
    ],
)
def test_the_zoom_is_of_each_axis_and_from_one_axis_alone(spacing, target, zoom):
    assert framing.zoom_to(spacing, target) == pytest.approx(zoom, abs=1e-12)


def test_resampling_keeps_pixel_areas_aligned():
    # A ramp stays a ramp through the same points when pixel areas, not corners, are aligned.
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (1, 40, 40)).copy()
    half = resample_in_plane(ramp, (20, 20), labels=False)
    expected = np.arange(20) * 2 + 0.5
    assert np.abs(half[0, 10, 2:-2] - expected[2:-2]).max() < 1e-3
    corners = np.linspace(0, 39, 20)
    assert np.abs(corners - expected)[2:-2].max() > 0.3  # what aligning the corners would give


def test_labels_stay_classes_and_survive_the_way_back():
    labels = np.zeros((1, 40, 60), np.uint8)
    labels[0, 10:30, 20:50] = 7
    framing = Framing.of((40, 60), (32, 32), zoom=(0.5, 0.5))
    framed = framing.labels(labels)
    assert set(np.unique(framed)) == {0, 7}
    assert (framing.restore(framed) == labels).mean() > 0.97


def test_window_and_zscore_worked_by_hand():
    hu = np.array([[[-1000.0, -125.0], [75.0, 900.0]]])
    window = norm.window(-125, 275)
    assert norm.to_unit(hu, window).tolist() == [[[0.0, 0.0], [0.5, 1.0]]]
    learned = norm.with_statistics(window, np.array([0.0, 1.0], np.float32))
    assert (learned["mean"], learned["std"]) == (0.5, 0.5)
    assert norm.standardize(np.array([0.5, 1.0]), learned).tolist() == [0.0, 1.0]
    scored = norm.to_unit(np.array([[[1, 3]], [[5, 5]]], np.uint8), norm.zscore())
    assert scored.tolist() == [[[-1.0, 1.0]], [[0.0, 0.0]]]
    assert norm.fill(scored, norm.zscore()).ravel().tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("bad", [{}, {"kind": "window", "low": 5, "high": 5}, {"kind": "x"}, 3])
def test_a_normalization_that_is_none_is_refused(bad):
    with pytest.raises(UserError, match=r"c\.json: normalization .* expected"):
        norm.check(bad, "c.json")


SHAPES = [((120, 120), (512, 512)), ((53, 64), (101, 122)), ((7, 9), (7, 30)), ((1, 5), (4, 5)),
          ((6, 6), (6, 6))]  # fmt: skip


def logits_of(have, seed=0):
    """Logits in which classes hold areas, as a network's do, and some pixels that stand alone."""
    rng = np.random.default_rng(seed)
    rough = rng.normal(size=(3 * 5, -(-have[0] // 6), -(-have[1] // 6)))
    smooth = rough.repeat(6, 1).repeat(6, 2)[:, : have[0], : have[1]].reshape(3, 5, *have)
    return (smooth + 0.3 * rng.normal(size=smooth.shape)).astype(np.float32)


def interpolated(logits, shape):
    flat = logits.reshape(-1, *logits.shape[2:])
    return resample_in_plane(flat, shape, labels=False).reshape(*logits.shape[:2], *shape)


@pytest.mark.parametrize(("have", "want"), SHAPES)
def test_enlarged_classes_are_those_of_interpolated_logits(have, want):
    logits = logits_of(have)
    assert np.array_equal(
        framing.enlarged_classes(logits, want), interpolated(logits, want).argmax(1)
    )


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(np.arange(want) + 0.5) * have / want - 0.5", "np.arange(want) * have / want"),
        ("coarse[:, :-1] == coarse[:, 1:]", "coarse[:, :-1] >= coarse[:, 1:]"),
        ("coarse[:, :-1, :-1] == coarse[:, 1:, 1:]", "coarse[:, :-1, :-1] >= 0"),
        ("(bottom[y], down[y])", "(top[y], down[y])"),
    ],
)
def test_classes_that_are_enlarged_wrongly_are_noticed(mutant_of, right, wrong):
    logits = logits_of((53, 64))
    got = mutant_of(framing, right, wrong).enlarged_classes(logits, (101, 122))
    assert not np.array_equal(got, interpolated(logits, (101, 122)).argmax(1))


def test_pixels_beyond_the_outer_centres_are_those_of_the_edge():
    before, share = _neighbours(8, 3)
    place = before + share
    assert place[0] == 0 and place[-1] == 2 and share[-1] == 0 and before.max() == 2
    assert np.allclose(place[2:6], (np.arange(2, 6) + 0.5) * 3 / 8 - 0.5)


def test_only_a_grid_that_is_finer_both_ways_is_enlarged():
    for shape, scaled in (((9, 9), (18, 18)), ((9, 18), (18, 9))):
        logits = logits_of(scaled)
        found = Framing(shape, scaled, scaled).classes(logits)
        assert np.array_equal(found, interpolated(logits, shape).argmax(1))


@pytest.mark.parametrize(("have", "want"), SHAPES)
def test_operators_do_what_resampling_does(have, want):
    rng = np.random.default_rng(0)
    for shape, scaled in ((have, want), (want, have)):
        slices = rng.normal(size=(3, *shape)).astype(np.float32)
        frame = Framing(shape, (scaled[0] + 3, scaled[1]), scaled)
        got = frame.images(slices, 7.0, frame.operators())
        assert np.allclose(got, frame.images(slices, 7.0), rtol=0, atol=3e-6)
        assert (got[:, -1] == 7.0).all()


@pytest.mark.parametrize(("have", "want"), [(64, 53), (120, 512), (512, 120), (9, 30), (1, 4)])
def test_operators_hold_no_weight_that_no_pixel_needs(have, want):
    """Each tap costs a pass over all pixels."""
    operator = framing.AxisOperator.of(have, want)
    matrix = resample_in_plane(np.eye(have, dtype=np.float32)[None], (want, have), labels=False)[0]
    used = [np.flatnonzero(row) for row in matrix]
    assert operator.weights.shape == (want, max(row[-1] - row[0] + 1 for row in used))
    last = operator.first + operator.weights.shape[1]
    assert (operator.first >= 0).all() and (last <= have).all()
    assert all(operator.first[i] <= row[0] and row[-1] < last[i] for i, row in enumerate(used))


def test_what_is_less_than_a_thousandth_of_a_pixel_is_rounding():
    """Of the longest sides too: 4097 pixels of a spacing that is off by float32's rounding."""
    assert Framing.of((4097, 4097), (64, 64), zoom=(1 / 1.99999988, 0.5)).scaled == (2048, 2048)
    assert Framing.of((4097, 4097), (64, 64), zoom=(0.5, 1 / 1.99999)).scaled == (2048, 2049)


def test_what_is_not_said_is_no_zoom_and_no_shrinking():
    assert Framing.of((50, 70), (32, 48)) == Framing((50, 70), (32, 48), (50, 70))
    assert Framing((50, 70), (32, 48), (25, 14)).shrink == (0.5, 0.2)


def test_an_axis_that_shrinks_is_smoothed_by_four_tenths_of_its_new_pixel():
    """Halfway between two pixels the variance is 0.25, the Gaussian's, with its ends cut, 2.56."""
    operator = framing.AxisOperator.of(40, 10)
    assert operator.weights.dtype == np.float32 and np.allclose(
        operator.weights.sum(1), 1, atol=1e-5
    )
    for new in (4, 5):
        pixels = operator.first[new] + np.arange(operator.weights.shape[1])
        around = pixels - (4 * new + 1.5)
        assert float(operator.weights[new] @ around) == pytest.approx(0, abs=1e-4)
        assert float(operator.weights[new] @ around**2) == pytest.approx(2.81, rel=0.08)


def test_an_axis_that_keeps_its_pixels_or_gets_more_is_not_smoothed():
    stripes = np.zeros((2, 40, 30), np.float32)
    stripes[:, :, ::2] = 1
    assert np.array_equal(resample_in_plane(stripes, (20, 30), labels=False), stripes[:, :20])
    turned = stripes.swapaxes(1, 2).copy()
    assert np.array_equal(resample_in_plane(turned, (30, 10), labels=False), turned[:, :, :10])
    assert framing.AxisOperator.of(10, 20).weights.shape == (20, 2)


def test_pixels_beyond_the_outer_centres_repeat_the_edge():
    flat = np.full((1, 5, 7), 3.0, np.float32)
    for labels in (False, True):
        assert (resample_in_plane(flat, (13, 20), labels=labels) == 3).all()


def test_resampling_leaves_types_and_sameness():
    labels = np.arange(2 * 4 * 6, dtype=np.uint8).reshape(2, 4, 6)
    halved = resample_in_plane(labels, (2, 6), labels=True)
    assert halved.dtype == np.uint8 and halved.shape == (2, 2, 6)
    assert set(np.unique(halved)) <= set(range(48))
    assert resample_in_plane(labels, (4, 6), labels=False) is labels
    assert resample_in_plane(labels, (4, 3), labels=False).dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "scaled", "enlarged"),
    [((18, 9), (9, 9), True), ((9, 18), (9, 9), True), ((18, 18), (9, 9), True),
     ((8, 18), (9, 9), False), ((18, 8), (9, 9), False), ((9, 9), (9, 9), False)],
)  # fmt: skip
def test_only_a_grid_that_loses_no_pixel_is_enlarged_by_its_borders(
    monkeypatch, shape, scaled, enlarged
):
    seen = []
    own = framing.enlarged_classes
    monkeypatch.setattr(framing, "enlarged_classes", lambda *a: seen.append(a) or own(*a))
    logits = logits_of(scaled)
    found = Framing(tuple(list(shape)), scaled, scaled).classes(logits)
    want = logits if shape == scaled else interpolated(logits, shape)
    assert np.array_equal(found, want.argmax(1)) and bool(seen) is enlarged


@pytest.mark.parametrize("shape", [(5, 10), (6, 11), (8, 6)])
@pytest.mark.parametrize("size", [(8, 6), (9, 7), (5, 11), (6, 10)])
def test_the_odd_row_and_column_are_at_the_end(shape, size):
    """Where padding or cropping leaves one over; each slice's fill is its own."""
    slices = np.arange(3 * shape[0] * shape[1], dtype=np.float32).reshape(3, *shape) + 1
    fill = -np.arange(1.0, 4, dtype=np.float32).reshape(3, 1, 1)
    framed = Framing.of(shape, size).images(slices, fill)
    rows, columns = (
        [(i - (want - have) // 2) if want >= have else i + (have - want) // 2 for i in range(want)]
        for have, want in zip(shape, size, strict=True)
    )
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            inside = 0 <= row < shape[0] and 0 <= column < shape[1]
            want = slices[:, row, column] if inside else fill[:, 0, 0]
            assert np.array_equal(framed[:, y, x], want)
