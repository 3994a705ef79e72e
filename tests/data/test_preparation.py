"""What is said of an image that is made ready, which sizes it may have, and how it is covered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lmaunet.data import inference, windows
from lmaunet.data.images.volumes import read_image
from lmaunet.data.inference import Preparation, PreparedVolume, _framing, prepare_volume
from lmaunet.data.windows import check_overlap, cover, window_starts, window_weight
from lmaunet.errors import UserError

PLAIN = {"kind": "none"}


def grid(tmp_path, maker, shape=(2, 12, 14), spacing=(3.0, 3.0, 3.0)):
    image = maker.rng.normal(0, 9, shape).astype(np.float32)
    return maker.write(tmp_path / "a.nii", image, spacing=spacing)


def test_what_a_preparation_does_not_say_is_nothing(maker, tmp_path):
    assert Preparation((8, 9), PLAIN, None, False).intensity == ()
    _, geometry = read_image(grid(tmp_path, maker))
    framing, _ = _framing(geometry, Preparation((12, 14), PLAIN, None, False), Path("a"))
    volume = PreparedVolume((), geometry, framing, Preparation((12, 14), PLAIN, None, False))
    assert (volume.notes, volume.kind, volume.source, volume.intensity) == ((), "", None, ())
    assert len(volume) == 2


@pytest.mark.parametrize(("count", "channels"), [(2, 1), (1, 2), (0, 1), (300, 3)])
def test_an_image_is_given_for_each_channel(count, channels):
    with pytest.raises(
        UserError, match=rf"^{count} image\(s\); the network takes {channels} chann"
    ):
        prepare_volume([Path("none")] * count, Preparation((8, 8), PLAIN, None, False), channels)


def test_as_many_images_as_channels_are_read_however_many_they_are():
    for count in (1, 300):
        with pytest.raises(UserError, match="none does not exist"):
            prepare_volume([Path("none")] * count, Preparation((8, 8), PLAIN, None, False), count)
    with pytest.raises(UserError, match="none does not exist"):
        prepare_volume([Path("none")], Preparation((8, 8), PLAIN, None, False))


def test_of_several_images_the_first_is_the_one_that_counts(maker, tmp_path, monkeypatch):
    """Its grid, its name in messages, its kind; notes have the name of their own image."""
    image = maker.rng.normal(0, 9, (2, 12, 14)).astype(np.float32)
    one = maker.write(tmp_path / "one.nii", image)
    two = maker.write(tmp_path / "two.nrrd", image + 50)
    ready = Preparation((12, 14), PLAIN, (3.0, 3.0), False)
    volume = prepare_volume([one, two], ready, 2)
    kinds = [prepare_volume([path], ready).kind for path in (one, two)]
    assert volume.kind == kinds[0] != kinds[1]
    for channel, want in zip(volume.channels, (image, image + 50), strict=True):
        assert np.array_equal(channel, want)
    assert np.array_equal(volume.images(0, 2), np.stack([image, image + 50], 1))
    with pytest.raises(UserError, match=r"one\.nii: slices of 12x14 are 2x2 for the network"):
        prepare_volume([one, two], Preparation((12, 14), PLAIN, (20.0, 20.0), False), 2)
    own = inference.read_pixels
    monkeypatch.setattr(
        inference, "read_pixels", lambda p: type(own(p))(**{**vars(own(p)), "notes": ("odd",)})
    )
    assert prepare_volume([one, two], ready, 2).notes == ("one.nii: odd", "two.nrrd: odd")
    assert prepare_volume([two], ready).notes == ("odd",)


@pytest.mark.parametrize(
    ("shape", "spacing", "said"),
    [
        ((1, 12, 4096), (3.0, 3.0, 3.0), None),
        ((1, 4096, 12), (3.0, 3.0, 3.0), None),
        ((1, 12, 4097), (3.0, 3.0, 3.0), "3x3 mm makes slices of 12x4097 at the network's spacing"),
        ((1, 4097, 12), (3.0, 3.0, 3.0), "3x3 mm makes slices of 4097x12 at"),
        ((1, 8, 9), (3.0, 3.0, 3.0), None),
        ((1, 9, 8), (3.0, 3.0, 3.0), None),
        ((1, 7, 9), (3.0, 3.0, 3.0), "slices of 7x9 are 7x9 for the network; expected 8x8 or more"),
        ((1, 9, 7), (3.0, 3.0, 3.0), "slices of 9x7 are 9x7 for the network"),
        ((1, 16, 30), (3.0, 1.5, 2.0), None),
        ((1, 30, 14), (3.0, 1.5, 1.5), "slices of 30x14 are 15x7 for the network"),
    ],
)  # fmt: skip
def test_a_slice_has_8_to_4096_pixels_along_each_axis(maker, tmp_path, shape, spacing, said):
    _, geometry = read_image(grid(tmp_path, maker, shape, spacing))
    ready = Preparation((16, 24), PLAIN, (3.0, 3.0), False)
    if said is None:
        framing, notes = _framing(geometry, ready, Path("a"))
        assert framing.shape == shape[1:]
        assert len(notes) == (spacing[1:] != (3.0, 3.0))
        assert framing.size == (max(16, framing.scaled[0]), max(24, framing.scaled[1]))
        return
    with pytest.raises(UserError, match=f"^a: .*{said}"):
        _framing(geometry, ready, Path("a"))


@pytest.mark.parametrize(
    ("shape", "mm", "fit", "notes"),
    [
        ((2, 12, 14), (3.0, 1.5), False, []),
        ((2, 12, 14), (1.5, 1.0), False,
         ["slices are resampled from 3x1.5 mm to the network's 1.5x1 mm"]),
        ((2, 12, 14), None, False, ["the network's training images had no spacing: pixels are "
         "taken as they are, whatever their size (3x1.5 mm here)"]),
        ((2, 16, 24), (3.0, 1.5), True, []),
        ((2, 17, 24), (3.0, 1.5), True,
         ["slices are shrunk to 16x23 to fit the network, as those of its training were"]),
        ((2, 16, 25), (3.0, 1.5), True,
         ["slices are shrunk to 15x24 to fit the network, as those of its training were"]),
        ((2, 17, 24), (3.0, 1.5), False, []),
    ],
)  # fmt: skip
def test_what_is_done_to_slices_is_noted(maker, tmp_path, shape, mm, fit, notes):
    path = grid(tmp_path, maker, shape, (4.0, 3.0, 1.5))
    volume = prepare_volume([path], Preparation((16, 24), PLAIN, mm, fit))
    assert list(volume.notes) == notes


def test_images_of_the_networks_size_go_through_as_they_are():
    """All at once, and what the network says of them is not touched."""
    images, answer = np.zeros((9, 1, 6, 8), np.float32), np.ones((9, 2, 6, 8), np.float32)
    seen = []
    assert cover(images, [6, 8], lambda given: seen.append(given) or answer) is answer
    assert len(seen) == 1 and seen[0] is images


def test_where_nothing_is_said_windows_overlap_by_half_and_run_by_fours(monkeypatch):
    images = np.random.default_rng(0).normal(size=(2, 1, 6, 20)).astype(np.float32)
    place = np.arange(48, dtype=np.float32).reshape(6, 8)
    sizes = []

    def run(given):
        sizes.append(len(given))
        return given * place

    got = cover(images, (6, 8), run)
    assert sizes == [4, 4]  # two images of windows at 0, 4, 8 and 12
    assert np.array_equal(got, cover(images, (6, 8), run, overlap=0.5, batch=4))
    assert not np.array_equal(got, cover(images, (6, 8), run, overlap=0.25))
    cover(images, (6, 8), run, batch=3)
    assert sizes[-3:] == [3, 3, 2]


@pytest.mark.parametrize(
    ("length", "window", "overlap", "starts"),
    [(8, 8, 0.5, [0]), (9, 8, 0.5, [0, 1]), (20, 8, 0.5, [0, 4, 8, 12]), (21, 8, 0.0, [0, 8, 13]),
     (12, 8, 0.9, [0, 1, 2, 3, 4]), (10, 8, 0.7, [0, 2]), (16, 8, 0.0, [0, 8])],
)  # fmt: skip
def test_windows_begin_a_step_apart_and_the_last_ends_at_the_border(
    length, window, overlap, starts
):
    assert window_starts(length, window, overlap) == starts


def test_a_weight_is_a_gaussian_of_each_side():
    weight = window_weight((8, 17))
    assert weight.shape == (8, 17) and weight.dtype == np.float32
    y, x = (np.arange(side) - (side - 1) / 2 for side in (8, 17))
    sides = [np.exp(-0.5 * (d / (0.125 * n)) ** 2) for d, n in ((y, 8), (x, 17))]
    assert np.allclose(weight, np.maximum(np.outer(*sides), 1e-3), rtol=1e-6)
    assert weight.min() == np.float32(1e-3) and weight[4, 8] > 0.88


@pytest.mark.parametrize(
    ("overlap", "good"), [(0, True), (0.9, True), (0.91, False), (-0.01, False)]
)
def test_an_overlap_is_0_to_nine_tenths(overlap, good):
    if good:
        assert check_overlap(overlap) == overlap
        return
    with pytest.raises(UserError, match=rf"^overlap {overlap:g}; expected 0 to 0\.9 of a window's"):
        check_overlap(overlap)
    assert windows.OVERLAP == 0.5
