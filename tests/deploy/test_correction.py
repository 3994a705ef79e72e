"""A mask corrected by strokes: they hold, the rest of the image stays, and organs follow edges."""

from __future__ import annotations

import numpy as np
import pytest

from lmaunet.deploy import correction
from lmaunet.deploy.correction import NO_STROKE, CutOptions, boxes_around, correct
from lmaunet.errors import UserError

SPACING = (3.0, 1.0, 1.0)


def blank(shape):
    return np.full(shape, NO_STROKE, np.int32)


def scene(shape=(3, 40, 40), noise=5.0):
    """Two organs: a bright square, and beside it a brighter one."""
    rng = np.random.default_rng(0)
    truth = np.zeros(shape, np.uint8)
    truth[:, 8:28, 6:20] = 1
    truth[:, 8:28, 20:34] = 2
    image = (np.array([0.0, 100.0, 200.0])[truth] + rng.normal(0, noise, shape)).astype(np.float32)
    return image[None], truth


def shares_of(labels, sure=0.9, classes=3):
    shares = np.full((classes, *labels.shape), (1 - sure) / (classes - 1), np.float32)
    np.put_along_axis(shares, labels[None].astype(int), sure, 0)
    return shares


@pytest.mark.parametrize("with_network", [True, False])
def test_a_stroke_in_what_was_missed_brings_it_back(with_network):
    image, truth = scene()
    mask = truth.copy()
    mask[:, :, 13:20] = np.where(truth[:, :, 13:20] == 1, 0, truth[:, :, 13:20])
    strokes = blank(mask.shape)
    for z in range(3):
        strokes[z, 12:24, 16] = 1
    shares = shares_of(mask) if with_network else None
    done = correct(image, mask, strokes, SPACING, shares)
    assert np.count_nonzero(done.mask != truth) <= 0.05 * np.count_nonzero(mask != truth)
    assert [r.label for r in done.regions] == [1] and done.regions[0].gained > 300


@pytest.mark.parametrize("with_network", [True, False])
def test_a_stroke_of_background_takes_away_what_lies_under_it(with_network):
    image, truth = scene()
    mask = truth.copy()
    mask[:, 28:36, 6:20] = 1
    mask[:, 30:36, 30:34] = 2
    strokes = blank(mask.shape)
    strokes[:, 32, 8:18] = 0
    done = correct(image, mask, strokes, SPACING, shares_of(mask) if with_network else None)
    assert not (done.mask[:, 29:36, 6:20] == 1).any()
    assert np.array_equal(done.mask == 2, mask == 2)  # another organ is not under the stroke
    assert not ((done.mask != 0) & (mask == 0)).any()


def test_background_on_background_changes_nothing_and_says_so():
    image, truth = scene()
    strokes = blank(truth.shape)
    strokes[1, 35, 3:9] = 0
    done = correct(image, truth, strokes, SPACING)
    assert np.array_equal(done.mask, truth) and "change nothing" in done.notes[0]


def random_case(seed):
    rng = np.random.default_rng(seed)
    shape = [(1, 24, 30), (4, 20, 18), (3, 1, 40), (5, 16, 16)][seed % 4]
    image = rng.normal(0, 1, (1 + seed % 2, *shape)).astype(np.float32)
    mask = rng.integers(0, 4, shape).astype(np.uint8)
    strokes = blank(shape)
    for label in range(4):
        at = tuple(rng.integers(0, n, 3) for n in shape)
        strokes[at] = label
    shares = rng.dirichlet(np.ones(4), shape).astype(np.float32)
    return image, mask, strokes, np.moveaxis(shares, -1, 0) if seed % 3 else None


@pytest.mark.parametrize("seed", range(12))
def test_strokes_hold_and_the_rest_of_the_image_stays(seed):
    from scipy import ndimage

    image, mask, strokes, shares = random_case(seed)
    options = CutOptions(margin_mm=4.0, strength_mm=3.0)
    done = correct(image, mask, strokes, SPACING, shares, options)
    drawn = strokes != NO_STROKE
    assert np.array_equal(done.mask[drawn], strokes[drawn])
    far = ndimage.distance_transform_edt(~drawn, sampling=SPACING) > options.margin_mm
    assert far.any() and np.array_equal(done.mask[far], mask[far])
    assert (done.mask != mask).any() and done.mask.dtype == mask.dtype


def test_what_is_given_is_left_as_it_was():
    given = random_case(1)
    before = [None if a is None else a.copy() for a in given]
    correct(*given[:3], SPACING, given[3])
    for a, b in zip(given, before, strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)


def test_an_organ_that_the_network_never_saw_grows_along_the_image():
    image, truth = scene()
    mask = np.where(truth == 2, 0, truth)
    shares = shares_of(mask, 1.0)  # probability 0 of organ 2 everywhere
    strokes = blank(mask.shape)
    strokes[1, 12:24, 27] = 2
    strokes[1, 18, 22:33] = 2
    done = correct(image, mask, strokes, SPACING, shares)
    grown = done.mask == 2
    assert np.count_nonzero(grown & (truth != 2)) == 0
    assert np.count_nonzero(grown[1]) > 2 * np.count_nonzero(strokes == 2)


def test_what_loses_its_label_gets_the_networks_next_best():
    image, truth = scene()
    mask = np.where(truth == 2, 1, truth).astype(np.uint8)
    strokes = blank(mask.shape)
    strokes[:, 10:26, 10] = 1
    shares = shares_of(truth, 0.98)
    done = correct(image, mask, strokes, SPACING, shares, CutOptions(trust=1.0, margin_mm=40.0))
    assert np.mean(done.mask[truth == 2] == 2) > 0.95
    alone = correct(image, mask, strokes, SPACING, None, CutOptions(margin_mm=40.0))
    assert set(np.unique(alone.mask)) <= {0, 1}  # nobody knows of organ 2


@pytest.mark.parametrize("shape", [(1, 30, 30), (30, 1, 30), (1, 1, 1), (2, 1, 1)])
def test_a_stroke_over_a_whole_volume_is_the_mask(shape):
    image = np.zeros((1, *shape), np.float32)
    mask = np.ones(shape, np.uint8)
    strokes = np.full(shape, 2, np.int32)
    for shares in (None, shares_of(mask)):
        assert (correct(image, mask, strokes, SPACING, shares).mask == 2).all()
    strokes[0, 0, 0] = NO_STROKE
    assert correct(image, mask, strokes, SPACING).mask.shape == shape


def test_a_large_region_is_cut_to_the_nearest_voxels(monkeypatch):
    monkeypatch.setattr(correction, "MOST_VOXELS", 500)
    image, truth = scene((9, 40, 40))
    strokes = blank(truth.shape)
    strokes[4, 10:30, 12] = 1
    done = correct(image, np.zeros_like(truth), strokes, SPACING)
    (region,) = done.regions
    assert 0 < region.voxels <= 500 and region.margin_mm < CutOptions().margin_mm
    assert "draw less" in done.notes[0]


def test_thick_slices_keep_a_correction_to_fewer_of_them():
    """15 mm are seven voxels of 2 mm up and down, and one of 10 mm."""
    shape = (15, 20, 20)
    image, mask = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
    strokes = blank(shape)
    strokes[7, 8:12, 8:12] = 1
    for mm, slices in ((2.0, 15), (10.0, 3)):
        regions = correct(image, mask, strokes, (mm, 1.0, 1.0)).regions
        assert regions[0].box[0].stop - regions[0].box[0].start == slices


def test_boxes_hold_the_margin_and_do_not_meet():
    drawn = np.zeros((1, 60, 60), bool)
    drawn[0, 5, 5] = drawn[0, 12, 12] = drawn[0, 50, 50] = drawn[0, 30, 5:50] = True
    for margin in (0.0, 3.0, 4.0, 9.0, 100.0):
        boxes = boxes_around(drawn, (1, 1, 1), margin)
        times = np.zeros(drawn.shape, int)
        for box in boxes:
            times[box] += 1
        assert times.max() == 1
        for _, y, x in np.argwhere(drawn):
            n = int(margin)
            assert times[0, max(0, y - n) : y + n + 1, max(0, x - n) : x + n + 1].all()
    assert len(boxes_around(drawn, (1, 1, 1), 3.0)) == 3


def test_the_order_of_far_strokes_does_not_matter():
    """Two strokes in regions of their own are what each alone would be."""
    image, truth = scene((1, 40, 80))
    first, second = blank(truth.shape), blank(truth.shape)
    first[0, 10:20, 12], second[0, 10:20, 70] = 2, 1
    options = CutOptions(margin_mm=10.0)
    both = np.where(first >= 0, first, second)
    a, b, c = (correct(image, truth, s, SPACING, None, options).mask for s in (first, second, both))
    assert np.array_equal(np.where(a != truth, a, b), c) and (a != truth).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("margin_mm", -1.0), ("margin_mm", float("nan")), ("strength_mm", float("inf")),
     ("sigma", 0.0), ("reach_mm", -0.5), ("trust", 1.5), ("margin_mm", 1e9)],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(name, value):
    with pytest.raises(UserError, match=f"{name} .*; expected "):
        CutOptions(**{name: value})
