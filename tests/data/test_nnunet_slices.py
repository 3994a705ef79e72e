"""Slices for training and scores as nnU-Net prepares them, of volumes in any axes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmaunet.data import nnunet_slices
from lmaunet.data.assemble import assemble
from lmaunet.data.images.geometry import turn_to
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe
from lmaunet.data.nnunet_windows import padding
from lmaunet.data.source import Source, Volume
from lmaunet.errors import UserError

PLAIN = ChannelRecipe("NoNormalization", False, {})
SPACING = (4.0, 1.5, 1.0)


def recipe_of(**changed):
    return NnunetRecipe(**{
        "patch_size": (12, 16), "spacing_mm": (1.5, 1.0), "transpose": (0, 1, 2),
        "channels": (PLAIN,), **changed,
    })  # fmt: skip


def volume_of(case, role, labels, image, orientation="LPS", spacing=SPACING, dimensions=3):
    """A volume whose file has these arrays in its own axes; a source has them in LPS."""
    turn = turn_to(orientation)

    def lps(array):
        found = np.empty([array.shape[turn.order.index(axis)] for axis in range(3)], array.dtype)
        turn.view(found)[:] = array
        return found

    mm = tuple(spacing[turn.order.index(axis)] for axis in range(3))
    images = image if isinstance(image, list) else [image]
    return Volume(
        case, role, lps(labels), tuple(lambda one=one: lps(one) for one in images), mm,
        axes=lambda: (orientation, dimensions),
    )  # fmt: skip


def source_of(*volumes, channels=("image",)):
    return Source("set", "drawn", ("background", "one", "two"), volumes, "two cases.", "layout",
                  {"kind": "none"}, channels)  # fmt: skip


def drawn(shape=(9, 11, 14), seed=0):
    """An image of whole numbers without a 0, and labels that it tells: 1 above 120, 2 above 160."""
    image = np.random.default_rng(seed).integers(1, 200, shape).astype(np.float32)
    labels = (image > 120).astype(np.uint8) + (image > 160)
    return image, labels.astype(np.uint8)


def both(module=nnunet_slices, recipe=None, orientation="LPS", shape=(9, 11, 14), **changed):
    recipe = recipe or recipe_of(**changed)
    parts = [drawn(shape, seed) for seed in range(2)]
    source = source_of(*(
        volume_of(f"c{i}", role, labels, image, orientation)
        for i, (role, (image, labels)) in enumerate(zip(("train", "val"), parts, strict=True))
    ))  # fmt: skip
    return module.nnunet_slices(source, recipe), parts


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LPI", "PIR", "SRA"])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_images_and_labels_are_those_of_the_file_in_its_axes(orientation, transpose):
    mm = [SPACING[axis] for axis in transpose[1:]]
    made, parts = both(orientation=orientation, transpose=transpose, spacing_mm=tuple(mm))
    for side, (image, labels) in zip((made.train, made.val), parts, strict=True):
        sections, truth = image.transpose(transpose), labels.transpose(transpose)
        picked = list(side.z)
        assert len(picked) == len(sections)
        # slices are counted along the axis in LPS
        axis = turn_to(orientation)
        if transpose[0] in axis.backwards:
            picked = [len(sections) - 1 - z for z in picked]
        height, width = sections.shape[1:]
        around = [padding(height, 12), padding(width, 16)]
        sides = [slice(b, b + n) for (b, _), n in zip(around, (height, width), strict=True)]
        for place, at in enumerate(picked):
            got = side.images[place, 0][tuple(sides)], side.labels[place][tuple(sides)]
            want = sections[at][: got[0].shape[0], : got[0].shape[1]]
            np.testing.assert_array_equal(got[0], want)
            np.testing.assert_array_equal(got[1], truth[at][: got[1].shape[0], : got[1].shape[1]])
        assert np.array_equal(side.labels > 0, side.images[:, 0] > 120)
    assert made.axes == (orientation,)
    assert made.spacings == {"c1": tuple(SPACING[axis] for axis in transpose)}


@pytest.mark.parametrize("name", ["mr", "ct", "rows", "columns", "same"])
def test_slices_are_the_arrays_of_nnunetv2(name):
    with np.load(Path(__file__).with_name("stored_nnunet.npz")) as file:
        stored = dict(file)
    said = json.loads(str(stored["said"]))
    shape, spacing, transpose, target, patch, schemes, masked, _ = said["cases"][name]
    channels = tuple(map(ChannelRecipe, schemes, masked, [said["fingerprint"]] * len(schemes)))
    known = stored[f"{name}.ready"].swapaxes(0, 1)
    if transpose[0] in turn_to("LAS").backwards:  # slices are in the order of LPS
        known = known[::-1]
    # a patch that holds all: what prediction pads to
    patch = tuple(max(pair) for pair in zip(patch, known.shape[2:], strict=True))
    recipe = NnunetRecipe(patch, tuple(target), tuple(transpose), channels)
    images = list(stored[f"{name}.image"].astype(np.float32))
    labels = np.ones(shape, np.uint8)
    volumes = [
        volume_of(role, role, labels, images, "LAS", tuple(spacing)) for role in ("train", "val")
    ]
    names = tuple(f"c{i}" for i in range(len(images)))
    made = nnunet_slices.nnunet_slices(source_of(*volumes, channels=names), recipe)
    around = [padding(*pair) for pair in zip(known.shape[2:], patch, strict=True)]
    want = np.pad(known, [(0, 0), (0, 0), *around])
    for side in (made.train, made.val):
        assert side.images.shape == want.shape and np.abs(side.images - want).max() <= 1e-5
    assert made.normalization["kind"] == "nnunet" and made.normalization["schemes"] == schemes
    assert made.resampled_mm == tuple(target) and len(made.intensity) == len(images)


def test_labels_are_resampled_to_the_nearest_pixel():
    labels = np.zeros((9, 6, 8), np.uint8)
    labels[:, 2:4, 2:6] = 1
    labels[:, 3, 5] = 2
    image = labels.astype(np.float32) * 50 + 1
    source = source_of(
        *(volume_of(r, r, labels, image, spacing=(4, 3, 2)) for r in ("train", "val"))
    )
    made = nnunet_slices.nnunet_slices(source, recipe_of())
    want = labels.repeat(2, 1).repeat(2, 2)
    assert made.val.labels.shape[1:] == (12, 16)
    np.testing.assert_array_equal(made.val.labels, want[made.val.z])
    assert made.spacings == {"val": (4.0, 1.5, 1.0)}


def test_of_larger_slices_the_window_with_most_labels_is_taken():
    """One for all slices of a case, where nnU-Net's windows begin."""
    image, _ = drawn((9, 24, 32))
    labels = np.zeros(image.shape, np.uint8)
    labels[2:5, 13:23, 20:30] = 1
    labels[7, :6, :9] = 2
    source = source_of(*(volume_of(r, r, labels, image) for r in ("train", "val")))
    made = nnunet_slices.nnunet_slices(source, recipe_of())
    np.testing.assert_array_equal(made.val.images[:, 0], image[made.val.z, 12:, 16:])
    np.testing.assert_array_equal(made.val.labels, labels[made.val.z, 12:, 16:])
    assert set(np.unique(made.val.labels)) == {0, 1}
    share = 54 / (300 + 54)
    assert made.notes[1] == (
        "2 case(s) have slices larger than the network's 12x16: of each the window with most "
        f"labelled pixels is taken, and {100 * share:.1f}% of all labelled pixels lie beside it, "
        "which no score counts"
    )


def test_what_is_cropped_off_is_counted_and_never_shown():
    image, labels = drawn((9, 11, 14))
    image[:2] = 0
    image[:, :, 12:] = 0
    labels[labels == 2] = 1
    total, kept = np.count_nonzero(labels), np.count_nonzero(labels[2:, :, :12])
    source = source_of(*(volume_of(r, r, labels, image) for r in ("train", "val")))
    made = nnunet_slices.nnunet_slices(source, recipe_of())
    assert made.val.z.tolist() == list(range(2, 9))
    assert np.count_nonzero(made.val.labels) == kept
    assert made.notes[-1].startswith(f"{100 * (1 - kept / total):.1f}% of the labelled pixels lie")


def test_one_volume_is_divided_by_blocks_along_the_networks_slices():
    image, labels = drawn((12, 40, 14))
    source = source_of(volume_of("only", "blocks", labels, image, "LPI"))
    made = nnunet_slices.nnunet_slices(
        source, recipe_of(transpose=(1, 0, 2), spacing_mm=(4.0, 1.0), patch_size=(12, 14))
    )
    assert len(made.val) and set(made.val.z) <= set(range(40))
    assert min(abs(a - b) for a in made.train.z for b in made.val.z) > 2
    for side in (made.train, made.val):
        np.testing.assert_array_equal(side.images[:, 0], image.swapaxes(0, 1)[side.z])
    assert made.sentences[0].startswith("only: one volume split by contiguous blocks")


def test_readers_that_turn_files_show_their_axes():
    made, _ = both(orientation="PIR", reader="NibabelIOWithReorient")
    assert made.axes == ("RAS",)


def test_the_record_of_values_is_of_what_trains(monkeypatch):
    made, parts = both(orientation="RAS")
    image, labels = parts[0]
    assert (labels.reshape(len(labels), -1).max(1) > 0).all()  # every slice trains
    (record,) = made.intensity
    assert record["lowest"] == [image.min()] * 2 and record["highest"] == [image.max()] * 2


def test_a_data_set_of_it(monkeypatch):
    image, labels = drawn()
    source = source_of(*(volume_of(r, r, labels, image, "RAS") for r in ("train", "val")))
    recipe = recipe_of()
    data = assemble(source, size=(12, 16), classes=3, recipe=recipe)
    assert data.recipe == recipe and data.axes == ("RAS",) and not data.fit
    assert data.to_json()["normalization"] == {
        "kind": "nnunet", "schemes": ["NoNormalization"], "masked": [False]
    }  # fmt: skip
    assert data.notes == ("images are prepared as nnU-Net's plan says: NoNormalization, 1.5x1 mm",)
    assert data.spacing_mm == SPACING and data.resampled_mm == (1.5, 1.0)


def test_what_cannot_be_prepared_is_refused():
    image, labels = drawn()
    lacking = volume_of("a", "train", labels, image, spacing=(4.0, float("nan"), 1.0))
    with pytest.raises(UserError, match=r"case 'a' has no spacing, and the network's images are"):
        nnunet_slices.nnunet_slices(source_of(lacking), recipe_of())
    two = recipe_of(channels=(PLAIN, PLAIN))
    with pytest.raises(UserError, match=r"set has 1 channel\(s\) \(image\), the network was trai"):
        nnunet_slices.nnunet_slices(source_of(volume_of("a", "train", labels, image)), two)
    colours = recipe_of(channels=(ChannelRecipe("RGBTo01Normalization", False, {}),))
    with pytest.raises(UserError, match=r"case 'a': values from 2 to 398"):
        nnunet_slices.nnunet_slices(source_of(volume_of("a", "train", labels, image * 2)), colours)
    with pytest.raises(UserError, match=r"set: no slice is left to val"):
        nnunet_slices.nnunet_slices(source_of(volume_of("a", "train", labels, image)), recipe_of())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("len(sections) - 1 - picked if one.backwards else picked", "picked"),
        ("sections[::-1] if backwards else sections", "sections"),
        ("at[seen] - first, picked[seen]", "at[seen], picked[seen]"),
        ("[one.turn.view(read()) for", "[read() for"),
        ("labels = one.turn.view(volume.labels)", "labels = volume.labels"),
        ("resize_axis(labels, axis, side, 0)", "resize_axis(labels, axis, side, 1)"),
    ],
)
def test_a_mistake_is_noticed(mutant_of, right, wrong):
    mutant = mutant_of(nnunet_slices, right, wrong)
    caught = 0
    for orientation in ("LPI", "PIR"):
        image, labels = drawn()
        image[:3], labels[6:] = 0, 0
        known, found = [], []
        for module, into in ((nnunet_slices, known), (mutant, found)):
            source = source_of(*(
                volume_of(r, r, labels, image, orientation) for r in ("train", "val")
            ))  # fmt: skip
            try:
                made = module.nnunet_slices(
                    source, recipe_of(spacing_mm=(0.7, 0.8), patch_size=(40, 40))
                )
                into += [made.val.images, made.val.labels, made.val.z]
            except (ValueError, IndexError, TypeError):
                into.append(None)
        caught += any(
            a is None or a.shape != b.shape or not np.array_equal(a, b)
            for a, b in zip(found, known, strict=False)
        )
    assert caught
