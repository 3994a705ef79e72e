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
