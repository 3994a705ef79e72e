"""Batches: deterministic, sharded, and image and labels moved together."""

import numpy as np
import pytest
import torch

from lmaunet.data import augment as module
from lmaunet.data.augment import batches, deform, recolour
from lmaunet.data.dataset import SliceSet
from lmaunet.errors import UserError


def slices(n=11, size=(32, 48)):
    """A disc in each slice, whose label is the image itself; z is the slice's number."""
    y, x = np.mgrid[: size[0], : size[1]]
    disc = (((y - 12) / 6.0) ** 2 + ((x - 30) / 10.0) ** 2 < 1).astype(np.uint8)
    labels = np.repeat(disc[None], n, 0)
    images = (
        labels[:, None].astype(np.float32) * 4 + np.arange(n, dtype=np.float32)[:, None, None, None]
    )
    return SliceSet(images, labels, np.array(["c"] * n), np.arange(n))


def numbers(loaded):
    return [int(i) for images, _ in loaded for i in images.amin((1, 2, 3)).tolist()]


def test_an_epoch_gives_each_slice_once_with_its_own_labels():
    found = list(batches(slices(), 4, 0, False))
    assert [len(images) for images, _ in found] == [4, 4, 3]
    assert sorted(numbers(found)) == list(range(11))
    for images, labels in found:
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        low = images.amin((1, 2, 3), keepdim=True)
        assert torch.equal((images - low)[:, 0] > 2, labels == 1)


def test_seed_and_epoch_decide_everything():
    def epoch(**options):
        return torch.cat([i for i, _ in batches(slices(), 4, 7, True, **options)])

    assert torch.equal(epoch(epoch=1), epoch(epoch=1))
    assert not torch.equal(epoch(epoch=1), epoch(epoch=2))
    ordered = list(batches(slices(), 4, 7, False, shuffle=False))
    assert numbers(ordered) == list(range(11))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_shards_are_disjoint_and_equally_long(world):
    shards = [numbers(batches(slices(), 2, 3, False, rank=r, world=world)) for r in range(world)]
    assert {len(s) for s in shards} == {11 // world}
    together = [n for shard in shards for n in shard]
    assert len(set(together)) == len(together)


def test_other_slices_are_left_out_in_other_epochs():
    left = [set(range(11)) - set(numbers(batches(slices(), 2, 3, False, epoch=e, world=2)))
            - set(numbers(batches(slices(), 2, 3, False, epoch=e, rank=1, world=2)))
            for e in range(8)]  # fmt: skip
    assert all(len(s) == 1 for s in left) and len(set().union(*left)) > 1


def overlap(images, labels):
    """Dice of the labels with the bright half of the image."""
    bright = images[:, 0] > 2
    return float(2 * (bright & (labels == 1)).sum() / (bright.sum() + (labels == 1).sum()))


def test_image_and_labels_move_together():
    one = slices(16)
    images = torch.from_numpy(one.labels[:, None].astype(np.float32) * 4)
    labels = torch.from_numpy(one.labels.astype(np.int64))
    moved, moved_labels = deform(images, labels, torch.Generator().manual_seed(0))
    assert overlap(moved, moved_labels) > 0.97
    assert overlap(images, moved_labels) < 0.9  # the mutant: labels moved, images not
    assert set(moved_labels.unique().tolist()) == {0, 1}


def test_a_rotation_keeps_shape_and_area_on_a_map_that_is_not_square(monkeypatch):
    monkeypatch.setattr(module, "SCALE", (1.0, 1.0))
    monkeypatch.setattr(module, "SHIFT", 0.0)
    monkeypatch.setattr(module, "ROTATION_DEG", 40.0)
    y, x = np.mgrid[:40, :80]
    square = (abs(y - 19.5) < 8) & (abs(x - 39.5) < 8)
    labels = torch.from_numpy(np.repeat(square[None], 12, 0).astype(np.int64))
    _, moved = deform(labels[:, None].float(), labels, torch.Generator().manual_seed(1))
    areas = moved.sum((1, 2)).float() / labels[0].sum()
    assert (areas - 1).abs().max() < 0.06
    width = moved.any(1).sum(1).float()
    height = moved.any(2).sum(1).float()
    assert (width - height).abs().max() <= 2  # a square stays a square; a shear would not


def test_recolouring_keeps_the_picture_and_changes_each_slice():
    images = torch.from_numpy(slices(8).images)
    changed = recolour(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape and torch.isfinite(changed).all()
    for before, after in zip(images, changed, strict=True):
        joint = torch.stack([before.flatten(), after.flatten()])
        assert 0.9 < float(torch.corrcoef(joint)[0, 1]) < 1
    flat = recolour(torch.zeros(2, 1, 8, 8), torch.Generator().manual_seed(0))
    assert torch.isfinite(flat).all()


def test_bad_arguments_are_refused():
    with pytest.raises(
        UserError, match="batch_size=0, rank=0 of 1; give a batch size of 1 or more"
    ):
        next(batches(slices(), 0, 0, False))
    with pytest.raises(UserError, match="rank=2 of 2"):
        next(batches(slices(), 1, 0, False, rank=2, world=2))
    with pytest.raises(UserError, match="3 slices for 4 processes; use fewer processes"):
        next(batches(slices(3), 1, 0, False, world=4))
    assert len(next(batches(slices(4), 1, 0, False, rank=3, world=4))[0]) == 1


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (0, 0), (1, 1), (0, -1)])
def test_a_process_that_is_none_of_the_world_is_refused(rank, world):
    with pytest.raises(UserError, match=f"batch_size=2, rank={rank} of {world}; give"):
        next(batches(slices(), 2, 0, False, rank=rank, world=world))


def test_where_nothing_is_said_one_process_shuffles_the_first_epoch():
    said = batches(slices(), 4, 7, True, epoch=0, rank=0, world=1, shuffle=True)
    for got, want in zip(batches(slices(), 4, 7, True), said, strict=True):
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_a_seed_draws_what_it_drew_for_earlier_results():
    """The order, and with it the first draw of each process."""
    order = list(batches(slices(), 4, 7, False, epoch=3, rank=1, world=2))
    assert numbers(order) == [5, 7, 0, 2, 9]
    drawn = [next(batches(slices(), 4, 7, True, epoch=3, rank=rank, world=2))[0] for rank in (0, 1)]
    assert [float(images.mean()) for images in drawn] == pytest.approx([6.71719, 3.99567], abs=1e-3)


NEUTRAL = {"ROTATION_DEG": 0.0, "SCALE": (1.0, 1.0), "SHIFT": 0.0, "GAMMA": (1.0, 1.0),
           "CONTRAST": (1.0, 1.0), "BRIGHTNESS": 0.0, "NOISE": 0.0}  # fmt: skip


@pytest.fixture
def only(monkeypatch):
    """A function that leaves one change of images, with its own range or another."""

    def leave(name, value=None):
        kept = getattr(module, name) if value is None else value
        for other, neutral in (NEUTRAL | {name: kept}).items():
            monkeypatch.setattr(module, other, neutral)
        return torch.Generator().manual_seed(5)

    return leave


def textured(n=300, channels=2, size=(9, 7)):
    """Images whose channels, slices and spans differ; the darkest pixel and the brightest too."""
    images = torch.rand((n, channels, *size), generator=torch.Generator().manual_seed(1))
    return images * torch.linspace(0.01, 4, n).view(n, 1, 1, 1) - 0.3


def assert_spread(values, low, high, middle):
    """Values fill a range, and as many are below its middle as above."""
    width = high - low
    assert low <= min(values) < low + 0.1 * width and high - 0.1 * width < max(values) <= high
    assert 0.4 < np.mean(np.asarray(values) < middle) < 0.6


def test_brightness_is_in_units_of_a_slices_deviation(only):
    images, generator = textured(), only("BRIGHTNESS")
    moved = (recolour(images, generator) - images) / images.std((1, 2, 3), keepdim=True)
    assert float((moved.amax((1, 2, 3)) - moved.amin((1, 2, 3))).max()) < 1e-3
    assert_spread(moved.mean((1, 2, 3)).tolist(), -0.15, 0.15, 0)


def test_contrast_is_about_a_slices_mean(only):
    images, generator = textured(), only("CONTRAST")
    mean = images.mean((1, 2, 3), keepdim=True)
    around, changed = images - mean, recolour(images, generator) - mean
    factors = (changed * around).sum((1, 2, 3)) / (around**2).sum((1, 2, 3))
    assert torch.allclose(changed, around * factors.view(-1, 1, 1, 1), atol=1e-5)
    assert_spread(factors.tolist(), 0.85, 1.18, 1.015)


def test_gamma_acts_between_a_slices_minimum_and_maximum(only):
    images, generator = textured(), only("GAMMA")
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    unit, curved = ((x - low) / (high - low) for x in (images, recolour(images, generator)))
    inside = (unit > 0.1) & (unit < 0.9)
    powers = curved.log() / unit.log()
    found = [powers[i][inside[i]] for i in range(len(images))]
    assert all(torch.allclose(p, p.mean().expand_as(p), rtol=2e-2) for p in found)
    assert_spread([float(p.median()) for p in found], 0.699, 1.451, np.sqrt(0.7 * 1.45))
    for place, end in ((curved.amin((1, 2, 3)), 0), (curved.amax((1, 2, 3)), 1)):
        assert (place - end).abs().max() < 1e-4


def test_noise_is_in_units_of_a_slices_deviation_and_of_its_own_strength(only):
    images, generator = textured(size=(40, 50)), only("NOISE")
    noise = (recolour(images, generator) - images) / images.std((1, 2, 3), keepdim=True)
    assert noise.mean((1, 2, 3)).abs().max() < 0.015
    assert_spread(noise.std((1, 2, 3)).tolist(), 0.0, 0.155, 0.075)
    assert torch.corrcoef(noise.transpose(0, 1).reshape(2, -1))[0, 1].abs() < 0.02


def blob(n=200, size=(64, 96)):
    """An oblong of labels in the middle, whose images are the labels themselves."""
    y, x = np.mgrid[: size[0], : size[1]]
    inside = (abs(y - 31.5) < 5) & (abs(x - 47.5) < 16)
    labels = torch.from_numpy(np.repeat(inside[None], n, 0).astype(np.int64))
    return labels[:, None].float(), labels


def test_what_is_not_deformed_stays_as_it_is(only):
    images, labels = torch.rand(3, 2, 9, 14), torch.arange(3 * 9 * 14).view(3, 9, 14)
    moved, moved_labels = deform(images, labels, only("SHIFT", 0.0))
    assert torch.allclose(moved, images, atol=1e-5) and torch.equal(moved_labels, labels)


def test_slices_are_shifted_along_both_axes_by_draws_of_their_own(only):
    images, labels = blob()
    moved = deform(images, labels, only("SHIFT"))[0][:, 0]
    share = moved / moved.sum((1, 2), keepdim=True)
    down = ((share.sum(2) * torch.arange(64)).sum(1) - 31.5) / 64
    right = ((share.sum(1) * torch.arange(96)).sum(1) - 47.5) / 96
    for shifts in (down, right):
        assert_spread(shifts.tolist(), -0.081, 0.081, 0)
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.2


def test_labels_take_the_pixel_that_lies_nearest_and_repeat_the_border(only, monkeypatch):
    """4.3 pixels to the left and 2.15 up: what is beyond the border is the border's."""
    generator = only("SHIFT", 4.3 / 32)
    monkeypatch.setattr(module, "_uniform", lambda n, low, high, generator: torch.full((n,), high))
    images = torch.rand(2, 1, 16, 32)
    labels = torch.arange(2 * 16 * 32).view(2, 16, 32)
    moved, moved_labels = deform(images, labels, generator)
    rows, columns = (np.arange(16) + 2).clip(max=15), (np.arange(32) + 4).clip(max=31)
    assert torch.equal(moved_labels, labels[:, rows][:, :, columns])
    one, two = images[:, 0, 2:-1], images[:, 0, 3:]  # 0.15 of the way between rows, 0.3 of columns
    between = 0.85 * one + 0.15 * two
    want = 0.7 * between[:, :, 4:-1] + 0.3 * between[:, :, 5:]
    assert torch.allclose(moved[:, 0, :13, :27], want, atol=1e-4)


def test_slices_are_scaled_between_both_factors(only):
    images, labels = blob()
    moved, _ = deform(images, labels, only("SCALE"))
    sides = (moved.sum((1, 2, 3)) / labels[0].sum()).sqrt().tolist()
    assert_spread(sides, 0.84, 1.19, 1.0)
    twice, _ = deform(images, labels, only("SCALE", (2.0, 2.0)))
    assert float(twice[0].sum() / labels[0].sum()) == pytest.approx(4, rel=0.02)


def test_slices_are_turned_either_way(only):
    images, labels = blob()
    _, moved = deform(images, labels, only("ROTATION_DEG"))
    angles = []
    for plane in moved:
        y, x = torch.nonzero(plane).float().T
        cov = np.cov(np.stack([x, y]))
        angles.append(np.degrees(0.5 * np.arctan2(2 * cov[0, 1], cov[0, 0] - cov[1, 1])))
    assert_spread(angles, -15.5, 15.5, 0)
