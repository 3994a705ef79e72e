"""``infer`` and a loaded build with several images: unlike grids, and one that is missing."""

from __future__ import annotations

import dataclasses
import json
import warnings

import lone_build
import numpy as np
import pytest
import recipe_build
import SimpleITK
from command_line import runner

import lmaunet
from lmaunet.data import modalities
from lmaunet.data.modalities import Modalities
from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe
from lmaunet.deploy import segmenter

KNOWN = Modalities(("CT", "MR"), 0.2, 0.8, (0.4, 0.7))
SHAPE = (3, 32, 32)


def second_channel(build, images):
    """Class 1 where the sum of both channels is above 0."""
    assert images.shape[1:] == (2, 32, 32)
    seen.append(images)
    return np.stack([np.zeros_like(images[:, 0]), images.sum(1)], 1)


seen: list[np.ndarray] = []


@pytest.fixture
def target(monkeypatch):
    seen.clear()
    made = lone_build.target(run=second_channel)
    monkeypatch.setattr(segmenter, "get_target", lambda name: made)


def build(place, known=KNOWN, **changes):
    """A build of two channels that knows of missing ones, and so when it was read again."""
    plain = lone_build.interface

    def interface(**given):
        return dataclasses.replace(plain(**given), modalities=known)

    lone_build.interface = interface
    try:
        return lone_build.make(place, channels=2, **changes)
    finally:
        lone_build.interface = plain


def image(values, spacing=(3.0, 3.0, 4.0), origin=(0.0, 0.0, 0.0)):
    made = SimpleITK.GetImageFromArray(np.asarray(values, np.float32))
    made.SetSpacing(spacing)
    made.SetOrigin(origin)
    return made


def values(seed):
    return np.random.default_rng(seed).choice([-100.0, 250.0], SHAPE)


@pytest.fixture
def files(tmp_path):
    """CT, MR on its grid, and MR on one of twice the voxels that reaches a little farther."""
    first, second = values(0), values(1)
    fine = second.repeat(2, 1).repeat(2, 2)
    made = {
        "ct.nii": image(first), "mr.nii": image(second),
        "fine.nii": image(fine, (1.5, 1.5, 4.0), (-0.75, -0.75, 0.0)),
        "far.nii": image(second, origin=(500.0, 0.0, 0.0)),
        "cut.nii": image(second[:2]),
    }  # fmt: skip
    for name, one in made.items():
        SimpleITK.WriteImage(one, str(tmp_path / name))
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys, files, target):
    monkeypatch.chdir(files)
    return runner(monkeypatch, capsys)


def stored(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_unlike_grids_are_refused_or_resampled(run, files):
    folder = build(files / "run")
    status, _, err = run("infer", "--build", folder, "ct.nii", "fine.nii", "-o", "s.nii")
    assert status == 2 and "--fuse resample" in err and not (files / "s.nii").exists()
    given = ("infer", "--build", folder, "ct.nii", "fine.nii", "--fuse", "resample")
    status, out, err = run(*given, "-o", "s.nii")
    assert status == 0 and "fine.nii: resampled onto the grid of ct.nii" in out, err
    assert run("infer", "--build", folder, "ct.nii", "mr.nii", "-o", "same.nii")[0] == 0
    assert np.array_equal(stored("s.nii"), stored("same.nii"))
    said = json.loads(run(*given, "-o", "s.nii", "--json")[1])["modalities"]
    assert [row["how"] for row in said] == ["as it is", "resampled"]
    assert [row["name"] for row in said] == ["CT", "MR"] and said[1]["uncovered"] == 0
    for name, text in (("far.nii", "leaves out 100%"), ("cut.nii", "leaves out 33%")):
        status, _, err = run(
            "infer", "--build", folder, "ct.nii", name, "--fuse", "resample", "-o", "t.nii"
        )
        assert status == 2 and text in err and not (files / "t.nii").exists()


def test_images_that_cannot_be_registered_leave_no_file(run, files):
    folder = build(files / "run")
    status, _, err = run(
        "infer", "--build", folder, "ct.nii", "mr.nii", "--fuse", "register", "-o", "s.nii"
    )
    assert status == 2 and "a registration needs 8 or more" in err
    status, _, err = run(
        "infer", "--build", folder, "ct.nii", "mr.nii", "--fuse", "blend", "-o", "s.nii"
    )
    assert status == 2 and "expected resample or register" in err
    assert not (files / "s.nii").exists()


@pytest.mark.parametrize("given", [("ct.nii", "-"), ("ct.nii", "--missing", 2)])
def test_a_missing_image_is_zero_and_said(run, files, given):
    status, out, err = run("infer", "--build", build(files / "run"), *given, "-o", "s.nii")
    assert status == 0, err
    assert "image 2 (MR): missing" in out and "Dice was 70.0% without it and 80.0%" in out
    assert "intensities of channel 2" not in out
    first = np.concatenate(seen)[:, 0]
    assert (np.concatenate(seen)[:, 1] == modalities.ABSENT).all() and first.any()
    assert np.array_equal(stored("s.nii"), stored("ct.nii") > 75)
    content = json.loads(
        run("infer", "--build", files / "run/build/pixels", *given, "-o", "s.nii", "--json")[1]
    )
    row = content["modalities"][1]
    assert row["how"] == "missing" and row["dice"] == {"all": 0.8, "missing": 0.7}
    assert content["intensity"][1]["seen"] is None


def test_the_first_may_be_missing_and_the_mask_lies_on_the_second(run, files):
    folder = build(files / "run")
    assert run("infer", "--build", folder, "-", "fine.nii", "-o", "s.nii")[0] == 0
    assert stored("s.nii").shape == (3, 64, 64)
    assert (np.concatenate(seen)[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("-", "-"), "every image is missing"),
        (("ct.nii", "-", "--missing", 1), "give either"),
        (("ct.nii", "-", "--crf"), "--crf with a missing image"),
        (("ct.nii", "mr.nii", "--fuse", "resample", "--crf"), "--crf with --fuse resample"),
        (("ct.nii", "--missing", 3), "give numbers of 1 to 2"),
        (("ct.nii", "--missing", 0), "give numbers of 1 to 2"),
        (("ct.nii", "mr.nii", "--missing", 2), "2 image(s); the network takes 2 channel(s), 1 of"),
        (("ct.nii",), "1 image(s); the network takes 2 channel(s): give 2 images"),
        (("ct.nii", "-", "fine.nii"), "2 image(s); the network takes 2 channel(s), 1 of them"),
    ],
)
def test_what_is_missing_is_checked(run, files, given, text):
    status, _, err = run("infer", "--build", build(files / "run"), *given, "-o", "s.nii")
    assert (
        status == 2
        and text in err
        and err.count("lmaunet-deploy:") == 1
        and not (files / "s.nii").exists()
    )


@pytest.mark.parametrize("known", [None, Modalities(("CT", "MR"), 0.0)])
def test_a_build_that_was_not_trained_so_refuses(run, files, known):
    folder = build(files / "run", known)
    status, _, err = run("infer", "--build", folder, "ct.nii", "-", "-o", "s.nii")
    assert status == 2 and "pixels was not trained for that" in err and "--drop-modality" in err
    assert not (files / "s.nii").exists()


def test_a_build_from_a_program(files, target):
    seg = lmaunet.load(build(files / "run"))
    ct, mr, fine = (SimpleITK.ReadImage(str(files / n)) for n in ("ct.nii", "mr.nii", "fine.nii"))
    with pytest.raises(lmaunet.UserError, match="image 1 lies on another grid"):
        seg([ct, fine])
    whole = SimpleITK.GetArrayFromImage(seg([ct, mr]))
    with pytest.warns(UserWarning, match="resampled onto the grid of image 0"):
        fused = seg([ct, fine], fuse="resample")
    assert np.array_equal(SimpleITK.GetArrayFromImage(fused), whole)
    with pytest.warns(UserWarning, match=r"image 2 \(MR\): missing"):
        without = SimpleITK.GetArrayFromImage(seg([ct, None]))
    first = SimpleITK.GetArrayFromImage(ct)
    assert np.array_equal(without, first > 75)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same = [
            seg([files / "ct.nii", None]), seg([ct], missing=[2]), seg(ct, missing=[2]),
        ]  # fmt: skip
        array = seg(first, spacing=(4, 3, 3), missing=[2])
        only_mr = seg([None, str(files / "mr.nii")])
    assert all(np.array_equal(SimpleITK.GetArrayFromImage(m), without) for m in same)
    assert np.array_equal(array, without)
    assert np.array_equal(SimpleITK.GetArrayFromImage(only_mr), values(1) > 75)
    for given, options, text in (
        ([None, None], {}, "every image is missing"),
        ([ct, None], {"missing": [2]}, "give one"),
        ([ct], {"missing": ["MR"]}, "expected numbers of images"),
        ([ct, mr], {"fuse": "add"}, "expected resample or register"),
        (np.stack([first, first]), {"fuse": "resample", "spacing": (4, 3, 3)}, "with an array"),
    ):
        with pytest.raises(lmaunet.UserError, match=text):
            seg(given, **options)


def test_a_mutant_that_fills_with_air_is_noticed(run, files, monkeypatch):
    """Air is 0 in the window, which is -2 for the network here; what stands in must be 0."""
    folder = build(files / "run")
    run("infer", "--build", folder, "ct.nii", "-", "-o", "s.nii")
    right = stored("s.nii")
    monkeypatch.setattr(modalities, "ABSENT", -2.0)
    monkeypatch.setattr(Modalities, "from_json", staticmethod(lambda content, channels: KNOWN))
    run("infer", "--build", folder, "ct.nii", "-", "-o", "t.nii")
    assert not np.array_equal(stored("t.nii"), right)


def test_a_network_of_nnunet_too(files, monkeypatch):
    ct_values = {"mean": 50.0, "std": 20.0, "percentile_00_5": -90.0, "percentile_99_5": 240.0}
    channels = (
        ChannelRecipe("ZScoreNormalization", True, {}),
        ChannelRecipe("CTNormalization", False, ct_values),
    )
    recipe = NnunetRecipe((32, 32), (3.0, 3.0), (0, 1, 2), channels, ())
    plain = recipe_build.interface
    monkeypatch.setattr(
        recipe_build, "interface",
        lambda recipe, **given: _with(plain(recipe, ("background", "organ"))),
    )  # fmt: skip
    folder = recipe_build.make(files / "run", recipe)
    seen.clear()
    made = recipe_build.target(lambda images: second_channel(None, images))
    monkeypatch.setattr(segmenter, "get_target", lambda name: made)
    seg = lmaunet.load(folder)
    ct, mr, fine = (SimpleITK.ReadImage(str(files / n)) for n in ("ct.nii", "mr.nii", "fine.nii"))
    with pytest.raises(lmaunet.UserError, match="another grid"):
        seg([ct, fine])
    whole = SimpleITK.GetArrayFromImage(seg([ct, mr]))
    with pytest.warns(UserWarning, match="resampled onto"):
        assert np.array_equal(SimpleITK.GetArrayFromImage(seg([ct, fine], fuse="resample")), whole)
    seen.clear()
    with pytest.warns(UserWarning, match="image 2"):
        seg([ct, None])
    images = np.concatenate(seen)
    assert (images[:, 1] == 0).all() and images[:, 0].any()
    seen.clear()
    with pytest.warns(UserWarning, match="image 1"):
        seg([None, mr])
    images = np.concatenate(seen)
    assert (images[:, 0] == 0).all() and images[:, 1].any()


def _with(own):
    return dataclasses.replace(own, modalities=KNOWN)
