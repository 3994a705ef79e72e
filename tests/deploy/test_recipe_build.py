"""Builds of networks that nnU-Net trained: from an image in any axes to nnU-Net's own mask."""

from __future__ import annotations

import dataclasses
import json
import re
import tracemalloc
import warnings

import numpy as np
import pytest
import recipe_build
import SimpleITK

import lmaunet
from lmaunet.data import nnunet_inference, nnunet_preparation
from lmaunet.data.images.geometry import turn_to
from lmaunet.data.images.held import image_of_sitk
from lmaunet.deploy import inferring, segmenter
from lmaunet.deploy.deployment import Interface

ORIENTATIONS = ("LPS", "RAS", "LAS", "PIR", "ASL", "SRP")
# one voxel in thousands lies on a tie of two logits, which float32 rounds either way
MOST = 1


@pytest.fixture(scope="module")
def arrays():
    return recipe_build.stored()


@pytest.fixture
def opened(arrays, tmp_path, monkeypatch):
    """A function that opens the build of a stored case; returns it, images and the known mask."""
    run = recipe_build.network(arrays)
    monkeypatch.setattr(segmenter, "get_target", lambda name: recipe_build.target(run))

    def load(name, orientation="LPS", angle=0.0, **changes):
        spacing, recipe = recipe_build.recipe_of(arrays, name)
        folder = recipe_build.make(tmp_path / "-".join((name, *changes)), recipe, **changes)
        images = [
            recipe_build.image_in(channel, spacing, orientation, angle)
            for channel in arrays[f"{name}.image"]
        ]
        return lmaunet.load(folder), images, arrays[f"{name}.mask"]

    return load


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", recipe_build.NAMES)
def test_a_mask_is_nnunets_in_whatever_axes_the_image_is(opened, name, orientation):
    """Cropped, windowed or padded, one or two channels, mirrored where nnU-Net mirrored."""
    seg, images, known = opened(name, orientation, 0.2 if orientation == "RAS" else 0.0)
    mask = seg(images, tta=bool(seg.mirror_axes), batch=3)
    assert mask.IsSameImageGeometryAs(images[0], 0.0, 0.0)
    found = SimpleITK.GetArrayFromImage(mask)
    assert found.dtype == np.uint8 and len(np.unique(found)) > 1
    assert (found != known).sum() <= MOST


def differ(seg, images, known):
    mask = seg(images, tta=bool(seg.mirror_axes))
    return (SimpleITK.GetArrayFromImage(mask) != known).sum()


@pytest.mark.parametrize(
    ("module", "right", "wrong"),
    [
        (nnunet_inference, "within(self.turn.view(output))", "within(output)"),
        (nnunet_inference, "[turn.view(array) for array in arrays]", "arrays"),
        (nnunet_inference, "turn_to(axes)", "turn_to('LPS')"),
        (
            nnunet_inference,
            "exact_mm(spacing_mm[axis]) for axis in turn.order",
            "exact_mm(mm) for mm in spacing_mm",
        ),
        (nnunet_preparation, "nonzero_box(volumes)", "nonzero_box([v == v for v in volumes])"),
    ],
)
def test_a_step_that_is_done_otherwise_is_noticed(
    opened, mutant_of, monkeypatch, module, right, wrong
):
    mutant = mutant_of(module, right, wrong)
    if module is nnunet_preparation:
        monkeypatch.setattr(nnunet_inference, "prepare", mutant.prepare)
    else:
        # the methods of the mutant's classes, on the values that builds have
        monkeypatch.setattr(
            nnunet_inference.NnunetPreparation, "ready", mutant.NnunetPreparation.ready
        )
    caught = 0
    for name, orientation in (("mr", "LAS"), ("ct", "PIR"), ("rows", "SRP")):
        seg, images, known = opened(name, orientation)
        try:
            caught += differ(seg, images, known) > MOST
        except (ValueError, IndexError):
            caught += 1
    assert caught


def test_readers_that_turn_files_give_masks_of_that_turn(arrays, tmp_path, monkeypatch):
    """What nnU-Net's readers with Reorient do to a file: RAS, and the mask back in its own axes."""
    run = recipe_build.network(arrays)
    monkeypatch.setattr(segmenter, "get_target", lambda name: recipe_build.target(run))
    spacing, recipe = recipe_build.recipe_of(arrays, "mr")
    masks = []
    for reader in ("SimpleITKIO", "NibabelIOWithReorient", "SimpleITKIOWithReorient", "NibabelIO"):
        recipe = dataclasses.replace(recipe, reader=reader)
        seg = lmaunet.load(recipe_build.make(tmp_path / reader, recipe))
        for orientation in ("RAS", "PIR"):
            ras = [recipe_build.image_in(c, spacing, "RAS") for c in arrays["mr.image"]]
            given = [SimpleITK.DICOMOrient(image, orientation) for image in ras]
            mask = SimpleITK.DICOMOrient(seg(given, tta=True), "RAS")
            masks.append((SimpleITK.GetArrayFromImage(mask) != arrays["mr.mask"]).sum())
    # files in RAS alike by all; in other axes by those that turn them
    assert max(masks[0], *masks[2:6], masks[6]) <= MOST < min(masks[1], masks[7])


def test_a_flat_image_is_a_very_thick_slice(opened, arrays):
    """Slices alone differ from those of a volume where cubic splines are clipped to its range."""
    seg, images, _ = opened("same")
    flat = [image[:, :, 1] for image in images]
    mask = seg(flat)
    assert mask.GetSize() == flat[0].GetSize()
    volume, _ = nnunet_inference_of(seg, flat)
    assert len(volume) == 1 and volume.volume.forth.apart == 0
    seg, images, _ = opened("ct")
    volume, _ = nnunet_inference_of(seg, [images[0][:, :, 3]])
    assert volume.volume.forth.apart == 1  # the plan's first axis is the file's second


def nnunet_inference_of(seg, images):
    from lmaunet.deploy.given import prepare

    return prepare(images if len(images) > 1 else images[0], None, seg.deployment.interface)


def test_an_array_is_in_lps_and_taken_as_the_training_images_were(opened, arrays):
    """A file in the axes of training, and the array of it in LPS, have one mask."""
    seg, images, _ = opened("mr", "RAS", axes=("RAS",))
    lps = [SimpleITK.DICOMOrient(image, "LPS") for image in images]
    array = np.stack([SimpleITK.GetArrayFromImage(image) for image in lps])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mask, shares = seg(array, spacing=lps[0].GetSpacing()[::-1], tta=True, probabilities=True)
        want = SimpleITK.DICOMOrient(seg(images, tta=True), "LPS")
    np.testing.assert_array_equal(mask, SimpleITK.GetArrayFromImage(want))
    assert shares.shape == (3, *mask.shape) and shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-5)
    best = np.take_along_axis(shares, mask[None].astype(int), 0)[0]
    assert (shares.max(0) - best).max() < 1e-3
    outside = (array == 0).all((0, 2, 3))
    assert (shares[0, outside] == 1).all() and outside.any()
    # a file in other axes is segmented as nnU-Net would, and that is said
    with pytest.warns(UserWarning, match="axes run towards LPS, those of the training .* RAS; nnU"):
        other = seg(lps, tta=True)
    assert (SimpleITK.GetArrayFromImage(other) != mask).any()
    # without a word on the training's axes an array has its own
    seg, *_ = opened("mr", "RAS")
    own = seg(array, spacing=lps[0].GetSpacing()[::-1], tta=True)
    np.testing.assert_array_equal(own, SimpleITK.GetArrayFromImage(other))


@pytest.mark.parametrize(
    ("kind", "axes", "taken", "said"),
    [
        # nnU-Net reads no DICOM: it is taken as its users convert it
        ("DICOM", ("LAS",), "LAS", False), ("DICOM", (), "RSP", False),
        ("DICOM", ("LAS", "RAS"), "RSP", True), ("DICOM", ("RSP", "RAS"), "RSP", False),
        ("NIfTI", ("LAS",), "RSP", True), ("NIfTI", ("RSP",), "RSP", False),
        ("SimpleITK", ("LAS",), "RSP", True), ("array", ("LAS",), "LAS", False),
    ],
)  # fmt: skip
def test_the_axes_in_which_an_image_is_taken(arrays, kind, axes, taken, said):
    spacing, recipe = recipe_build.recipe_of(arrays, "ct")
    image = recipe_build.image_in(arrays["ct.image"][0], spacing, "RSP")
    read = dataclasses.replace(image_of_sitk(image, "x"), kind=kind)
    ready = nnunet_inference.NnunetPreparation(recipe, axes=axes).ready([read], ["x"])
    assert ready.turn == turn_to(taken)
    (note, *_), doubts = (*ready.notes, ""), ready.doubts
    assert (f"axes run towards RSP, those of the training images towards {' or '.join(axes)}"
            in note) == said == (note in doubts)  # fmt: skip


def test_the_command_writes_the_same_mask(opened, tmp_path):
    """And says how many windows there are, and along what was mirrored."""
    seg, images, known = opened("mr", "RAS", 0.2)
    paths = [tmp_path / f"{number}.nii.gz" for number in range(2)]
    for image, path in zip(images, paths, strict=True):
        SimpleITK.WriteImage(image, str(path))
    content, lines = inferring.infer(
        seg.folder, paths, tmp_path / "m.nii.gz", overlap=0.5, batch=4, tta=True,
        say=lambda share, line: None,
    )  # fmt: skip
    found = SimpleITK.ReadImage(str(tmp_path / "m.nii.gz"))
    assert (SimpleITK.GetArrayFromImage(found) != known).sum() <= MOST
    np.testing.assert_allclose(found.GetDirection(), images[0].GetDirection(), atol=1e-6)
    count = len(range(1, 5))  # slices that are not zero
    assert content["slices"] == {
        "count": count, "at_network_spacing": [22, 21], "window": [32, 24],
        "windows_per_slice": 1, "overlap": None, "mirrored": ["rows", "columns"],
    }  # fmt: skip
    assert "averaged over images that are mirrored along rows and columns" in lines
    assert "slices are resampled from 1.3x0.8 mm to the network's 1x0.9 mm" in lines


def test_overlap_is_one_less_nnunets_step(opened, monkeypatch):
    seg, images, _ = opened("ct")
    asked = []
    predict = nnunet_inference.predict
    monkeypatch.setattr(
        nnunet_inference, "predict",
        lambda *given, **named: asked.append(named["step"]) or predict(*given, **named),
    )  # fmt: skip
    for overlap in (0.5, 0.9, 0.0, 0.25):
        seg(images[0], overlap=overlap)
    assert sorted(set(asked)) == [0.1, 0.5, 0.75, 1.0]
    with pytest.raises(lmaunet.UserError, match=r"overlap 0.95; expected 0 to 0.9"):
        seg(images[0], overlap=0.95)


def test_mirroring_is_refused_where_training_did_not_mirror(opened):
    seg, images, _ = opened("ct")
    with pytest.raises(lmaunet.UserError, match="stored was not trained on such: left and right"):
        seg(images[0], tta=True)
    assert seg.mirror_axes == () and seg.spacing_mm == (0.8, 0.7)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (lambda images: images[:1], "1 image(s); the network takes 2 channel(s)"),
        (lambda images: [stretched(image, 0.001) for image in images], "expected 1 to 4096"),
        (lambda images: [stretched(image, 1e6) for image in images], "expected 1 to 4096"),
    ],
)
def test_images_that_cannot_be_are_refused(opened, given, text):
    seg, images, _ = opened("mr")
    with pytest.raises(lmaunet.UserError, match=re.escape(text)):
        seg(given(images))


def stretched(image, factor):
    changed = SimpleITK.Image(image)
    changed.SetSpacing([mm * factor for mm in image.GetSpacing()])
    return changed


def test_values_that_are_no_colours_are_refused(opened):
    seg, images, _ = opened("columns")
    with pytest.raises(lmaunet.UserError, match="trained on colours, expected 0 to 255"):
        seg(SimpleITK.Cast(images[0], SimpleITK.sitkFloat32) * 2)


def content_of(arrays, **changes):
    _, recipe = recipe_build.recipe_of(arrays, "mr")
    given = {"axes": ("RAS", "LPS"), "intensity": ({"q500": [1.0, 2.0]},) * 2, **changes}
    return recipe_build.interface(recipe, **given).to_json()


def test_what_a_build_says_of_its_recipe_is_what_it_was_made_with(arrays):
    content = json.loads(json.dumps(content_of(arrays)))
    assert content["normalization"] == {"kind": "nnunet"} and content["resampled_mm"] == [1.0, 0.9]
    found = Interface.from_json(content, "x")
    assert found.to_json() == content
    assert (found.preparation.axes, found.preparation.mirror_axes) == (("RAS", "LPS"), (0, 1))


def put(*path, to):
    def change(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


def drop(*path):
    def change(content):
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return change


DAMAGED = [
    put("recipe", to=None), drop("recipe"), put("recipe", to=3), put("recipe", to=[]),
    put("recipe", to={}), put("recipe", "kind", to="other"), drop("recipe", "kind"),
    put("normalization", to={"kind": "zscore"}), put("recipe", "axes", to="RAS"),
    put("recipe", "axes", to=["RAX"]), put("recipe", "axes", to=["RLS"]),
    put("recipe", "axes", to=[3]), put("recipe", "axes", to=["RA"]), drop("recipe", "axes"),
    put("recipe", "patch_size", to=[32, 25]), put("recipe", "patch_size", to=[32]),
    put("recipe", "spacing_mm", to=[1.0, 0.8]), put("recipe", "spacing_mm", to=[1.0, -0.9]),
    put("recipe", "spacing_mm", to=[1.0, "0.9"]), put("recipe", "transpose", to=[0, 1, 1]),
    put("recipe", "transpose", to=[0.0, 1.0, 2.0]), put("recipe", "mirror_axes", to=[0, 2]),
    put("recipe", "mirror_axes", to=5), put("recipe", "channels", to=[]),
    put("recipe", "channels", 0, "scheme", to="CTNormalization!"),
    put("recipe", "channels", 0, "masked", to=1), drop("recipe", "channels", 0, "masked"),
    put("recipe", "channels", 0, "fingerprint", to=[1]),
    put("recipe", "channels", 0, "fingerprint", "mean", to=None),
    put("recipe", "images", "order", to=2), put("recipe", "images", to={"order": 3, "x": 1}),
    put("recipe", "logits", to=None), put("recipe", "reader", to="Tiff3DIO"),
    put("recipe", "reader", to=["SimpleITKIO"]), drop("recipe", "reader"),
    put("resampled_mm", to=[1.0, 1.0]), put("resampled_mm", to=None),
    put("shrunk_to_fit", to=True), put("input", "channels", to=1),
]  # fmt: skip


@pytest.mark.parametrize("change", range(len(DAMAGED)))
def test_a_damaged_recipe_is_refused(arrays, change):
    content = json.loads(json.dumps(content_of(arrays)))
    DAMAGED[change](content)
    with pytest.raises(
        lmaunet.UserError, match=r"^here is damaged.*copy the whole folder"
    ) as error:
        Interface.from_json(content, "here")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700


def test_one_channel_of_a_recipe_of_two_is_refused(arrays):
    content = json.loads(json.dumps(content_of(arrays)))
    content["recipe"]["channels"].pop()
    with pytest.raises(lmaunet.UserError, match="a recipe for slices of"):
        Interface.from_json(content, "here")


def test_a_build_of_before_has_no_recipe():
    content = recipe_build.lone_build.interface().to_json()
    assert content.pop("recipe") is None
    assert Interface.from_json(content, "x") == recipe_build.lone_build.interface()


@pytest.mark.parametrize("slices", [4, 40])
def test_memory_is_that_of_image_and_mask(opened, slices):
    """Beside them a batch of slices, however many there are."""
    seg, *_ = opened("ct")
    rows = np.random.default_rng(0).integers(1, 200, (120, slices, 150)).astype(np.float32)
    image = recipe_build.image_in(rows, (1.1, 1.6, 0.9), "LPS")
    volume, _ = nnunet_inference_of(seg, [image])
    tracemalloc.start()
    seg.compute(volume, overlap=0.5, batch=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - rows.size < 12e6, peak  # the mask has a byte for each voxel
