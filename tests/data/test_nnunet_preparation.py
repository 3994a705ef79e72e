"""Each step of nnU-Net's preparation, with values computed by hand and by scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import ndimage

from lmaunet.data.nnunet_preparation import (
    PlaneResampling,
    filled_mask,
    nonzero_box,
    normaliser,
    prepare,
)
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe, Resampling
from lmaunet.data.nnunet_resampling import resize, resized_shape, separate_axis
from lmaunet.data.nnunet_windows import mirrored, padding, predict, window_starts, window_weight
from lmaunet.errors import UserError


def normalise(volume, recipe, mask):
    return normaliser(volume, recipe, mask)(volume, mask)


CT = {"mean": 40.0, "std": 20.0, "percentile_00_5": -10.0, "percentile_99_5": 100.0}


@pytest.mark.parametrize(
    ("shape", "wanted", "order"),
    [((31, 22), (43, 60), 3), ((32, 41), (14, 25), 3), ((5, 3), (9, 2), 3), ((1, 7), (4, 9), 3),
     ((4, 13, 6), (4, 9, 11), 3), ((21, 12), (40, 7), 1), ((1, 7), (4, 9), 1),
     ((9, 7), (4, 15), 0)],
)  # fmt: skip
def test_resizing_is_scipys_zoom(shape, wanted, order):
    image = np.random.default_rng(0).normal(size=shape)
    factors = [new / old for new, old in zip(wanted, shape, strict=True)]
    known = ndimage.zoom(image, factors, order=order, mode="nearest", grid_mode=True)
    known = np.clip(known, image.min(), image.max())
    assert np.abs(resize(image, wanted, order) - known).max() < 1e-12


def test_resizing_by_hand():
    row = np.array([[0.0, 8.0]])
    # centres at -1/4, 1/4, 3/4, 5/4 of a pixel
    assert np.allclose(resize(row, (1, 4), 1), [[0, 2, 6, 8]])
    assert np.allclose(resize(row, (1, 4), 0), [[0, 0, 8, 8]])
    assert resize(row, (1, 2), 3).tolist() == row.tolist()
    # a spline overshoots beside a step, and is clipped to the image or to what is given
    step = np.array([[0.0, 0, 0, 8, 8, 8]])
    assert resize(step, (1, 12), 3).min() == 0 and resize(step, (1, 12), 3).max() == 8
    open_ended = (np.array(-99.0), np.array(99.0))
    assert resize(step, (1, 12), 3, open_ended).min() < -0.2


def test_a_shape_at_another_spacing():
    assert resized_shape((4, 30, 25), (5.0, 1.5, 0.5), (5.0, 1.0, 0.8)) == (4, 45, 16)
    assert resized_shape((3,), (1.5,), (1.0,)) == (4,)  # 4.5: the even side


@pytest.mark.parametrize(
    ("spacing", "wanted", "force", "axis"),
    [
        ((5.0, 1.0, 1.2), (5.0, 0.8, 0.8), None, 0),
        ((3.0, 1.0, 1.0), (3.0, 1.1, 1.1), None, None),
        ((3.0, 1.0, 1.0), (3.0, 0.9, 0.8), None, 0),
        ((1.0, 4.0, 1.1), (1.0, 0.5, 0.5), None, 1),
        ((1.0, 1.1, 3.2), (1.0, 3.0, 1.0), None, 2),
        ((4.0, 4.0, 1.0), (4.0, 1.0, 1.0), None, None),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), True, None),
        ((1.0, 1.2, 1.1), (1.0, 1.0, 1.0), True, 1),
        ((9.0, 1.0, 1.0), (9.0, 1.0, 1.0), False, None),
    ],
)
def test_the_axis_that_is_resampled_apart(spacing, wanted, force, axis):
    assert separate_axis(spacing, wanted, force) == axis


def test_the_box_and_what_is_filled():
    one, other = np.zeros((2, 3, 6, 9))
    one[1, 2, 3] = -5
    assert nonzero_box([one, other]) == (slice(1, 2), slice(2, 3), slice(3, 4))
    other[2, 4, 7] = 1
    assert nonzero_box([one, other]) == (slice(1, 3), slice(2, 5), slice(3, 8))
    assert nonzero_box([other * 0]) == (slice(0, 3), slice(0, 6), slice(0, 9))
    random = np.random.default_rng(1)
    for shape in ((7, 9, 11), (1, 9, 11), (3, 8, 8)):
        image = (random.random(shape) < 0.75) * 3.0
        filled = filled_mask([image])
        assert filled.dtype == bool
        assert np.array_equal(filled, ndimage.binary_fill_holes(image != 0))
    ball = np.ones((5, 5, 5))
    ball[2, 2, 2] = ball[0, 0, 0] = 0
    assert filled_mask([ball])[2, 2, 2] and not filled_mask([ball])[0, 0, 0]


@pytest.mark.parametrize(
    ("scheme", "known"),
    [
        ("ZScoreNormalization", [-1.5, -0.5, 0.5, 1.5]),
        ("CTNormalization", [-2.5, -1.0, 1.0, 3.0]),
        ("NoNormalization", [-20, 20, 60, 100]),
        ("RescaleTo01Normalization", [0, 1 / 3, 2 / 3, 1]),
    ],
)
def test_normalizations_by_hand(scheme, known):
    volume = np.array([[[-20, 20], [60, 100]]], np.int16)
    found = normalise(volume, ChannelRecipe(scheme, False, CT), None)
    assert found.dtype == np.float32 and volume.min() == -20
    scale = 40 / np.sqrt(2000) if scheme == "ZScoreNormalization" else 1
    assert np.allclose(found.ravel(), np.multiply(known, scale))


def test_a_masked_score_leaves_what_is_outside():
    volume = np.array([[[0, 2, 4, 9]]])
    mask = np.array([[[False, True, True, False]]])
    recipe = ChannelRecipe("ZScoreNormalization", True, {})
    assert normalise(volume, recipe, mask).tolist() == [[[0, -1, 1, 9]]]
    assert normalise(volume, recipe, mask & False).tolist() == volume.tolist()
    assert normalise(volume * 0 + 3, recipe, mask | True).tolist() == [[[0, 0, 0, 0]]]


def test_colours_and_what_is_none():
    recipe = ChannelRecipe("RGBTo01Normalization", False, {})
    assert np.allclose(normalise(np.array([[[0, 51, 255]]]), recipe, None), [[[0, 0.2, 1]]])
    for wrong in (-1, 256):
        with pytest.raises(UserError, match="expected 0 to 255"):
            normalise(np.array([[[0, wrong]]]), recipe, None)


def test_padding_windows_and_their_weights_by_hand():
    assert padding(5, 10) == (2, 3) and padding(10, 5) == (0, 0) and padding(7, 7) == (0, 0)
    assert window_starts(110, 64) == [0, 23, 46]
    assert window_starts(64, 64) == [0] and window_starts(65, 64) == [0, 1]
    assert window_starts(21, 16) == [0, 5]
    assert window_starts(29, 12) == [0, 6, 11, 17]  # 5.67, 11.33
    assert window_starts(10, 5) == [0, 2, 5]  # 2.5: the even pixel
    weight = window_weight((16, 24))
    assert weight.dtype == np.float16 and weight[8, 12] == weight.max() == 10
    assert weight[6, 12] == np.float16(10 * np.exp(-0.5))
    assert weight[8, 9] == np.float16(10 * np.exp(-0.5))
    assert weight.min() > 0 and weight[0, 0] == weight.min()


def test_mirroring_by_hand():
    def run(images):  # the first pixel of each image, everywhere
        return np.broadcast_to(images[:, :, :1, :1], images.shape)

    images = np.arange(6.0).reshape(1, 1, 2, 3)
    assert mirrored(run, ())(images).tolist() == run(images).tolist()
    assert mirrored(run, (0,))(images)[0, 0, 1, 2] == (0 + 3) / 2
    assert mirrored(run, (1,))(images)[0, 0, 0, 0] == (0 + 2) / 2
    assert mirrored(run, (0, 1))(images)[0, 0, 1, 0] == (0 + 3 + 2 + 5) / 4


def test_predicting_slices():
    def run(images):
        assert images.shape[2:] == (8, 6) and len(images) <= 2
        return np.concatenate([images, -images], 1)

    images = np.random.default_rng(0).normal(size=(3, 1, 5, 17)).astype(np.float32)
    found = predict(images, (8, 6), run, batch=2)
    assert found.shape == (3, 2, 5, 17) and found.dtype == np.float16
    assert np.abs(found[:, :1] - images).max() < 0.01
    large = predict(images * 30000, (8, 6), run, batch=2)
    assert large.dtype == np.float32 and np.abs(large[:, :1] / 30000 - images).max() < 0.01


def recipe_of(**changed):
    channel = ChannelRecipe("NoNormalization", False, {})
    return NnunetRecipe(**{
        "patch_size": (8, 8), "spacing_mm": (2.0, 1.0), "transpose": (2, 0, 1),
        "channels": (channel,), **changed,
    })  # fmt: skip


def test_the_way_there_and_back():
    image = np.zeros((7, 12, 5))
    image[1:6, 2:11, 1:4] = np.arange(135.0).reshape(5, 9, 3) + 1
    volume = prepare([image], (2.0, 1.0, 3.0), recipe_of())
    # the file's last axis is the network's first; the two others keep their spacing
    assert len(volume) == 3 and volume.images(0, 3).shape == (3, 1, 5, 9)
    assert volume.images(1, 2)[0, 0].tolist() == image[1:6, 2:11, 2].tolist()
    labels = volume.labels(np.stack([volume.images(0, 3)[:, 0], np.full((3, 5, 9), 60.0)], 1))
    mask = volume.mask(labels)
    assert mask.shape == image.shape
    assert np.array_equal(mask == 1, (image > 0) & (image < 60))


def test_a_plane_that_is_of_the_right_size_stays_as_it_is():
    plane = PlaneResampling((4, 6), (4, 6), 0, Resampling(3))
    image = np.eye(4, 6)
    assert plane(image) is image


def test_other_channels_and_spacings_are_refused():
    image = np.ones((3, 4, 5))
    with pytest.raises(UserError, match=r"2 image\(s\); the network takes 1"):
        prepare([image, image], (1, 1, 1), recipe_of())
    with pytest.raises(
        UserError, match=r"are 0.15x4 pixels at the network's 2x1 mm; expected 1 to 4096"
    ):
        prepare([image], (0.1, 1, 1), recipe_of())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"patch_size": (8, 0)}, "patch size"),
        ({"patch_size": (8, 8, 8)}, "patch size"),
        ({"spacing_mm": (1.0, float("nan"))}, "spacing"),
        ({"transpose": (0, 1, 1)}, "transposition"),
        ({"mirror_axes": (2,)}, "mirroring axes"),
        ({"mirror_axes": (0, 0)}, "mirroring axes"),
        ({"channels": ()}, "channels"),
    ],
)
def test_recipes_that_cannot_be(changed, said):
    with pytest.raises(UserError, match=said):
        recipe_of(**changed)


def test_a_recipe_in_json():
    channels = (ChannelRecipe("CTNormalization", False, CT),)
    recipe = recipe_of(channels=channels, mirror_axes=(1,), images=Resampling(3, 0, True))
    content = json.loads(json.dumps(recipe.to_json()))
    assert NnunetRecipe.from_json(content) == recipe and recipe.transpose_back == (1, 2, 0)
    for damaged in (
        {},
        {**content, "channels": [{"scheme": "x"}]},
        {**content, "transpose": 3},
        [],
    ):
        with pytest.raises(UserError, match="import its folder again"):
            NnunetRecipe.from_json(damaged)
    with pytest.raises(UserError, match="expected orders 0, 1 or 3"):
        NnunetRecipe.from_json({**content, "images": {"order": 2}})
    with pytest.raises(UserError, match="mean, std, percentile_00_5, percentile_99_5 lack"):
        ChannelRecipe("CTNormalization", False, {})
    with pytest.raises(UserError, match="expected one of ZScoreNormalization"):
        ChannelRecipe("Own", False, {})
