"""The command refine: strokes and a mask in, a corrected mask on its grid out, or one line."""

from __future__ import annotations

import json

import docstring_examples
import fresh_process
import lone_build
import numpy as np
import pytest
import SimpleITK
from command_line import runner

import lmaunet
from lmaunet.deploy import refine_command, refining, segmenter
from lmaunet.deploy.correction import CutOptions
from lmaunet.deploy.scribbles import BACKGROUND_STROKE
from lmaunet.errors import UserError

SPACING = (3.0, 3.0, 4.0)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target())
    return runner(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path):
    return lone_build.make(tmp_path / "run")


def write(path, array, orientation="LPS", spacing=SPACING, origin=(-31.5, 12.25, 801.0)):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, orientation), str(path))
    return path


def stored(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def scene(place, shape=(3, 32, 32)):
    """A bright square of which the mask has half, and a stroke in the other half."""
    rng = np.random.default_rng(0)
    truth = np.zeros(shape, np.uint8)
    truth[:, 8:24, 8:24] = 1
    image = (np.where(truth, 60.0, -100.0) + rng.normal(0, 5, shape)).astype(np.float32)
    mask = truth.copy()
    mask[:, :, 16:] = 0
    strokes = np.zeros(shape, np.uint8)
    strokes[1, 9:23, 19:21] = 1
    write(place / "image.nii.gz", image, "RAS")
    write(place / "mask.nii.gz", mask, "LIA")
    write(place / "s.nii.gz", strokes)
    return image, truth, mask, strokes


def is_found(fixed, truth, mask):
    """Whether the slice of the stroke has nearly all that the mask lacked, and nothing else."""
    lacked = np.count_nonzero(mask[1] != truth[1])
    return not (fixed > truth).any() and np.count_nonzero(fixed[1] != truth[1]) <= 0.05 * lacked


def lps(path):
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    return SimpleITK.GetArrayFromImage(image)


GIVEN = ("image.nii.gz", "mask.nii.gz", "--scribbles", "s.nii.gz")


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_corrected_mask_lies_on_the_mask(run, folder, tmp_path, suffix, built):
    _, truth, mask, _ = scene(tmp_path)
    build = ("--build", folder) if built else ()
    status, out, err = run("refine", *GIVEN, *build, "-o", f"o/fixed{suffix}", "--json")
    assert status == 0, err
    content = json.loads(out)
    fixed = lps(tmp_path / "o" / f"fixed{suffix}")
    assert is_found(fixed, truth, mask)
    before, after = (SimpleITK.ReadImage(str(p)) for p in ("mask.nii.gz", f"o/fixed{suffix}"))
    for read in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(after, read)(), getattr(before, read)(), rtol=0, atol=1e-5)
    assert content["changed_voxels"] == np.count_nonzero(fixed != mask)
    gained = np.count_nonzero((fixed == 1) & (mask == 0))
    name = "organ" if built else "label 1"
    assert [(c["index"], c["name"], c["gained"]) for c in content["classes"]] == [(1, name, gained)]
    assert content["options"] == vars(CutOptions()) and content["background"] == 255
    assert (content["build"] is None) == (not built)
    assert (refining.ALONE in content["notes"]) == (not built)
    assert content["slices_of_the_network"] == (3 if built else 0)
    assert [p.name for p in (tmp_path / "o").iterdir()] == [f"fixed{suffix}"]


def test_the_lines_for_a_person(run, folder, tmp_path):
    scene(tmp_path)
    status, out, err = run("refine", *GIVEN, "--build", folder, "-o", "fixed.nii.gz")
    assert status == 0, err
    assert "one pixel at a time" in out and "within 15 mm of the strokes" in out
    assert out.endswith("wrote fixed.nii.gz\n") and "organ" in out


def test_a_nifti_mask_keeps_its_forms_and_codes(run, tmp_path):
    import nibabel

    scene(tmp_path)
    old = nibabel.load(tmp_path / "mask.nii.gz")
    turned = nibabel.Nifti1Image(np.asarray(old.dataobj), old.affine)
    turned.set_qform(old.affine, 4)
    turned.set_sform(old.affine, 3)
    nibabel.save(turned, tmp_path / "mask.nii.gz")
    assert run("refine", *GIVEN, "-o", "fixed.nii.gz")[0] == 0
    new = nibabel.load(tmp_path / "fixed.nii.gz")
    assert (int(new.header["qform_code"]), int(new.header["sform_code"])) == (4, 3)
    assert np.array_equal(new.affine, old.affine) and new.get_data_dtype() == np.uint8


def test_only_slices_near_the_strokes_go_through_the_network(run, folder, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    seen = []

    def looked(build, images):
        seen.append(len(images))
        return lone_build.run(build, images)

    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target(run=looked))
    image = rng.normal(0, 100, (20, 32, 32)).astype(np.float32)
    mask = (image > 75).astype(np.uint8)
    strokes = np.zeros_like(mask)
    strokes[4, 10:12, 10], strokes[15, 4, 4] = 1, 255
    for name, array in (("image", image), ("mask", mask), ("s", strokes)):
        write(tmp_path / f"{name}.nii.gz", array)
    options = ("--build", folder, "-o", "a.nii.gz", "--margin", "8", "--json")
    status, out, err = run("refine", *GIVEN, *options)
    assert status == 0, err
    assert sum(seen) == json.loads(out)["slices_of_the_network"] == 10  # 2 to 6, 13 to 17
    whole = lmaunet.refine(
        "image.nii.gz", "mask.nii.gz", "s.nii.gz", build="run/build/pixels", margin_mm=8.0
    )
    assert np.array_equal(SimpleITK.GetArrayFromImage(whole), stored("a.nii.gz"))
    seg = lmaunet.load(folder)
    found = refining.correct(
        image[None], mask, np.where(strokes == 255, 0, np.where(strokes, 1, -1)), (4.0, 3.0, 3.0),
        seg(image, spacing=(4.0, 3.0, 3.0), probabilities=True)[1], CutOptions(margin_mm=8.0),
    ).mask  # fmt: skip
    assert np.array_equal(lps("a.nii.gz"), found)


def test_several_channels(run, tmp_path):
    image, truth, mask, _ = scene(tmp_path)
    folder = lone_build.make(tmp_path / "two", channels=2)
    write(tmp_path / "b.nii.gz", -image)
    options = ("--build", folder, "-o", "fixed.nrrd")
    status, _, err = run("refine", *GIVEN, *options)
    assert status == 2 and "the network takes 2 channel(s): give the first as IMAGE" in err
    status, _, err = run("refine", *GIVEN, *options, "--channel", "b.nii.gz")
    assert status == 0, err
    assert is_found(lps("fixed.nrrd"), truth, mask)


def test_strokes_of_floats_are_rounded_to_a_thousandth(run, tmp_path):
    _, _, _, strokes = scene(tmp_path)
    write(tmp_path / "s.nii.gz", strokes.astype(np.float32) * 1.0009)
    assert run("refine", *GIVEN, "-o", "a.nii.gz")[0] == 0
    write(tmp_path / "s.nii.gz", strokes)
    assert run("refine", *GIVEN, "-o", "b.nii.gz")[0] == 0
    assert np.array_equal(stored("a.nii.gz"), stored("b.nii.gz"))


def bad_files(place, image, mask, strokes):
    holes = image.copy()
    holes[0, 1, 2] = np.nan
    write(place / "nan.nii.gz", holes)
    write(place / "empty.nii.gz", np.zeros_like(strokes))
    write(place / "moved.nii.gz", strokes, origin=(-30.0, 12.25, 801.0))
    write(place / "small.nii.gz", strokes[:2])
    write(place / "thick.nii.gz", strokes, spacing=(3.0, 3.0, 5.0))
    write(place / "unknown.nii.gz", strokes * 7)
    write(place / "half.nii.gz", strokes * np.float32(0.5))
    write(place / "below.nii.gz", strokes.astype(np.int16) * -1)
    write(place / "nans.nii.gz", np.where(strokes, np.nan, 0).astype(np.float32))
    write(place / "mask9.nii.gz", mask * 9)
    write(place / "off.nii.gz", mask, origin=(-30.0, 12.25, 801.0))
    (place / "text.nii.gz").write_text("nothing")


BAD = [
    ({"s": "moved"}, "moved.nii.gz lies on another grid than image.nii.gz (as many voxels in"),
    ({"s": "small"}, "(2 x 32 x 32 voxels, expected 3 x 32 x 32, slices first); draw on image"),
    ({"s": "thick"}, "thick.nii.gz lies on another grid than image.nii.gz"),
    ({"s": "unknown"}, "holds 7 (28 voxels); the build knows 1 organ, and 255 is background"),
    ({"s": "empty"}, "empty.nii.gz holds no stroke: all voxels are 0; draw an organ's label"),
    ({"s": "half"}, "half.nii.gz: a voxel of 0.5 (28 such); expected labels, whole numbers"),
    ({"s": "below"}, "below.nii.gz: a voxel of -1 (28 such)"),
    ({"s": "nans"}, "nans.nii.gz: a voxel of nan (28 such)"),
    ({"s": "text"}, "text.nii.gz cannot be read as an image"),
    ({"s": "absent"}, "absent.nii.gz does not exist"),
    ({"mask": "off"}, "off.nii.gz lies on another grid than image.nii.gz"),
    ({"mask": "mask9"}, "mask9.nii.gz holds label 9; the build knows 0 to 1 (background, organ)"),
    ({"image": "nan"}, "nan.nii.gz: 1 of 3072 pixels are NaN"),
    ({"o": "mask.nii.gz"}, "-o mask.nii.gz would overwrite the image mask.nii.gz"),
    ({"o": "s.nii.gz"}, "-o s.nii.gz would overwrite the image s.nii.gz"),
    ({"o": "image.nii.gz"}, "would overwrite the image image.nii.gz"),
    ({"o": "x.dcm"}, "x.dcm: refine writes labels"),
    ({"o": "x.png"}, "unknown format"),
    ({"more": ("--margin", "-1")}, "margin_mm -1.0; expected 0 to 1000"),
    ({"more": ("--margin", "nan")}, "margin_mm nan"),
    ({"more": ("--background", "1")}, "--background 1 is organ; name a value from 1 to 65535"),
    ({"more": ("--background", "0")}, "--background 0 is no label"),
    ({"more": ("--build", "nowhere")}, "nowhere is no folder"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[text[:30] for _, text in BAD])
def test_bad_input_is_one_line_and_no_file(run, folder, tmp_path, given, text):
    image, _, mask, strokes = scene(tmp_path)
    bad_files(tmp_path, image, mask, strokes)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    more = given.get("more", ())
    build = () if "--build" in more else ("--build", folder)
    status, out, err = run(
        "refine", f"{given.get('image', 'image')}.nii.gz", f"{given.get('mask', 'mask')}.nii.gz",
        "--scribbles", f"{given.get('s', 's')}.nii.gz", *build, "-o", given.get("o", "o/x.nii.gz"),
        *more,
    )  # fmt: skip
    said = [line for line in err.splitlines() if line.startswith("lmaunet-deploy:")]
    assert status == 2 and len(said) == 1 and text in said[0], err
    assert out == "" and "Traceback" not in err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_without_a_build_the_masks_labels_are_known(run, tmp_path):
    _, _, mask, strokes = scene(tmp_path)
    write(tmp_path / "s.nii.gz", strokes * 2)
    status, _, err = run("refine", *GIVEN, "-o", "x.nii.gz")
    assert status == 2 and "the mask knows 1, and 255 is background; --build names" in err
    write(tmp_path / "s.nii.gz", strokes)
    write(tmp_path / "mask.nii.gz", mask * 0)
    status, _, err = run("refine", *GIVEN, "-o", "x.nii.gz")
    assert status == 2 and "the mask knows no organ" in err


def test_without_scipy_it_says_what_installs_it(tmp_path):
    scene(tmp_path)
    done = fresh_process.run("refine", *GIVEN, "-o", "x.nii.gz", cwd=tmp_path, lacking=("scipy",))
    fresh_process.assert_one_line(done, 3, "the Python package scipy", "pip install", "scipy>=")
    assert not (tmp_path / "x.nii.gz").exists()


def test_from_a_program(tmp_path):
    image, truth, mask, strokes = scene(tmp_path)
    spacing = SPACING[::-1]
    array = lmaunet.refine(image, mask, strokes, spacing=spacing)
    assert array.dtype == np.uint8 and is_found(array, truth, mask)
    paths = [tmp_path / name for name in ("image.nii.gz", "mask.nii.gz", "s.nii.gz")]
    of_paths = lmaunet.refine(*paths)
    like = SimpleITK.ReadImage(str(paths[1]))
    assert of_paths.GetDirection() == like.GetDirection()
    turned = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(of_paths, "LPS"))
    assert np.array_equal(turned, array)
    held = lmaunet.refine(*(SimpleITK.ReadImage(str(p)) for p in paths))
    assert np.array_equal(
        SimpleITK.GetArrayViewFromImage(held), SimpleITK.GetArrayFromImage(of_paths)
    )
    with pytest.raises(UserError, match="refine takes no margin; expected margin_mm"):
        lmaunet.refine(image, mask, strokes, margin=3)
    with pytest.raises(UserError, match="spacing is for arrays"):
        lmaunet.refine(*paths, spacing=spacing)
    with pytest.raises(UserError, match="the mask is a int; expected"):
        lmaunet.refine(image, 3, strokes)


def test_the_example_is_true():
    assert docstring_examples.run(lmaunet.refine) == 6


def test_the_command_lines_defaults_are_those_of_the_work():
    assert CutOptions().margin_mm == refine_command.MARGIN_MM
    assert refine_command.BACKGROUND == BACKGROUND_STROKE


@pytest.mark.parametrize("crf", [False, True])
def test_infer_with_a_crf_smooths_where_there_is_no_edge(run, folder, tmp_path, crf):
    """Noise around the network's limit gives specks, which a CRF takes away."""
    image = np.full((2, 32, 32), 70.0, np.float32)
    image[:, 10:20, 10:20] = 250
    image[:, 4, 4] = 78
    write(tmp_path / "a.nii.gz", image, spacing=(3.0, 3.0, 4.0))
    status, out, err = run(
        "infer", "--build", folder, "a.nii.gz", "-o", "m.nii.gz", *["--crf"] * crf
    )
    assert status == 0, err
    want = image > (200 if crf else 75)
    assert np.array_equal(stored("m.nii.gz"), want)
    assert ("a conditional random field changed 2 voxels" in out) == crf
