"""lmaunet.load: an array, an image or a path in; the mask that the command infer writes out."""

from __future__ import annotations

import re
import shutil
import sys
import warnings

import lone_build
import numpy as np
import pytest
import SimpleITK
import small_build

import lmaunet
from lmaunet.deploy import inferring, segmenter


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    alone = tmp_path_factory.mktemp("copied") / "ort"
    return small_build.make(tmp_path_factory.mktemp("run"), alone)


@pytest.fixture(scope="module")
def seg(build):
    return lmaunet.load(build)


def written(build, images, output, **options):
    """Return the mask that the command writes."""
    given = {"overlap": 0.5, "batch": 4, **options}
    inferring.infer(build, images, output, say=lambda share, line: None, **given)
    return SimpleITK.ReadImage(str(output))


def turned(path, orientation, angle=0.0):
    """Write the image of a path in other axes, and rotated; return its new path."""
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), orientation)
    image.SetOrigin((-31.5, 12.25, 801.0))
    if angle:
        c, s = np.cos(angle), np.sin(angle)
        around = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        image.SetDirection((around @ np.reshape(image.GetDirection(), (3, 3))).ravel())
    new = path.with_name(f"{orientation}-{path.name}")
    SimpleITK.WriteImage(image, str(new))
    return new


def array_of(image):
    return SimpleITK.GetArrayFromImage(image)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(
    ("shape", "spacing", "orientation", "angle"),
    [
        ((3, 32, 40), (3.0, 3.0, 4.0), "RAI", 0.0),  # windows
        ((4, 50, 60), (1.3, 1.7, 4.0), "LPS", 0.0),  # resampled: enlarged again
        ((4, 20, 24), (5.0, 4.0, 2.0), "PIR", 0.0),  # sagittal
        ((5, 30, 31), (3.5, 3.0, 4.0), "RAS", 0.2),  # oblique
    ],
)
def test_a_mask_is_that_of_the_command(
    build, seg, tmp_path, suffix, shape, spacing, orientation, angle
):
    """Voxel for voxel and on the same grid, from the path and from the image in memory."""
    path = turned(small_build.write_scan(tmp_path / f"scan{suffix}", shape, spacing), orientation,
                  angle)  # fmt: skip
    want = written(build, [path], tmp_path / f"mask{suffix}")
    assert len(np.unique(array_of(want))) >= 2
    for got in (seg(path), seg(str(path)), seg(SimpleITK.ReadImage(str(path)))):
        np.testing.assert_array_equal(array_of(got), array_of(want))
        assert array_of(got).dtype == np.uint8
        for read in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(got, read)(), getattr(want, read)(), atol=1e-5)


def test_an_image_in_memory_keeps_its_grid_to_the_bit(seg, tmp_path):
    path = turned(small_build.write_scan(tmp_path / "scan.nrrd"), "RAS", 0.3)
    image = SimpleITK.ReadImage(str(path))
    mask = seg(image)
    assert mask.IsSameImageGeometryAs(image, 0.0, 0.0)
    flat = image[:, :, 1]
    assert seg(flat).GetSize() == flat.GetSize()


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64, np.uint16])
def test_an_array_is_taken_in_the_order_of_its_axes(build, seg, tmp_path, kind):
    """Slices, rows, columns, as SimpleITK gives them for an image in LPS; it is not changed."""
    path = small_build.write_scan(tmp_path / "scan.nrrd", (4, 50, 60), (1.3, 1.7, 4.0))
    volume = np.clip(array_of(SimpleITK.ReadImage(str(path))), 0, None).astype(kind)
    image = SimpleITK.GetImageFromArray(volume)
    image.SetSpacing((1.3, 1.7, 4.0))
    SimpleITK.WriteImage(image, str(path))
    want, before = array_of(written(build, [path], tmp_path / "mask.nrrd")), volume.copy()
    got = seg(volume, spacing=(4.0, 1.7, 1.3))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(volume, before)
    np.testing.assert_array_equal(seg(volume[None], spacing=np.array([4.0, 1.7, 1.3])), want)
    # rows and columns the other way round are another image
    assert (seg(volume, spacing=(4.0, 1.3, 1.7)) != want).any()


def test_overlap_and_batch_are_those_of_the_command(build, seg, tmp_path):
    path = small_build.write_scan(tmp_path / "scan.nrrd", (5, 40, 70))
    half, much = (seg(path, overlap=overlap, batch=3) for overlap in (0.5, 0.9))
    want = written(build, [path], tmp_path / "mask.nrrd", overlap=0.9, batch=2)
    np.testing.assert_array_equal(array_of(much), array_of(want))
    assert (array_of(much) != array_of(half)).any()


@pytest.mark.parametrize("spacing", [(3.0, 3.0, 4.0), (1.3, 1.7, 4.0), (5.0, 3.1, 4.0)])
def test_probabilities_are_the_softmax_on_the_images_grid(seg, tmp_path, spacing):
    """Where nothing is resampled, where logits are enlarged, and where one axis is shrunk."""
    path = turned(small_build.write_scan(tmp_path / "scan.nrrd", (3, 33, 44), spacing), "RAS")
    mask, shares = seg(path, probabilities=True)
    assert shares.GetNumberOfComponentsPerPixel() == 3
    assert shares.IsSameImageGeometryAs(mask, 0.0, 0.0)
    np.testing.assert_array_equal(array_of(mask), array_of(seg(path)))
    found = array_of(shares)
    assert found.dtype == np.float32 and found.shape == (3, 33, 44, 3)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)
    best = np.take_along_axis(found, array_of(mask)[..., None].astype(int), -1)[..., 0]
    assert (found.max(-1) - best).max() < 1e-5  # but for ties, the class of the mask
    assert found.max() > 0.5 and found.min() < 0.2
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    _, same = seg(array_of(image), spacing=image.GetSpacing()[::-1], probabilities=True)
    assert same.shape == (3, 3, 33, 44)
    both = SimpleITK.DICOMOrient(shares, "LPS")
    np.testing.assert_array_equal(same, np.moveaxis(array_of(both), -1, 0))


def test_the_softmax_is_of_the_logits(monkeypatch, tmp_path):
    """Logits 0 and x, of a network that looks at one pixel at a time: a logistic function of x."""
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target())
    seg = lmaunet.load(lone_build.make(tmp_path / "run"))
    volume = np.linspace(-125, 275, 2 * 32 * 32).reshape(2, 32, 32)
    mask, shares = seg(volume, spacing=(4, 3, 3), probabilities=True)
    x = ((volume + 125) / 400 - 0.5) / 0.25
    np.testing.assert_allclose(shares[1], 1 / (1 + np.exp(-x)), atol=1e-6)
    np.testing.assert_array_equal(mask, volume > 75)


def test_what_it_says_of_itself(build, seg):
    assert (seg.classes, seg.target, seg.network) == (small_build.CLASSES, "ort", "small")
    assert (seg.input_size, seg.spacing_mm, seg.channels) == ((32, 32), (3.0, 3.0), 1)
    assert seg.folder == build and not seg.synthetic
    assert seg.digests["shipped"] == inferring.load(build).deployment.digests["shipped"]
    assert "on this CPU" in seg.arithmetic
    assert repr(seg) == "<Segmenter: small on ort, 1 channel(s), 32x32 at 3x3 mm, 3 classes>"


def test_several_channels(monkeypatch, tmp_path):
    monkeypatch.setattr(segmenter, "get_target", lambda name: lone_build.target())
    seg = lmaunet.load(lone_build.make(tmp_path / "run", channels=2))
    volume = np.random.default_rng(0).choice([-100.0, 250.0], (2, 3, 32, 32))
    mask = seg(volume, spacing=(4, 3, 3))
    np.testing.assert_array_equal(mask, volume[0] > 75)
    images = [SimpleITK.GetImageFromArray(channel) for channel in volume]
    for number, image in enumerate(images):
        image.SetSpacing((3, 3, 4))
        SimpleITK.WriteImage(image, str(tmp_path / f"{number}.nrrd"))
    np.testing.assert_array_equal(array_of(seg(images)), mask)
    np.testing.assert_array_equal(array_of(seg(images[::-1])), volume[1] > 75)
    np.testing.assert_array_equal(
        array_of(seg([tmp_path / "0.nrrd", str(tmp_path / "1.nrrd")])), mask
    )
    images[1].SetSpacing((3, 3, 5))
    with pytest.raises(lmaunet.UserError, match="image 1 lies on another grid than image 0"):
        seg(images)
    with pytest.raises(lmaunet.UserError, match=r"shape \(3, 32, 32\).*\(2, D, H, W\)"):
        seg(volume[0], spacing=(4, 3, 3))


def test_values_unlike_those_of_training_are_a_warning(seg):
    ct = np.random.default_rng(0).normal(0, 200, (2, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seg(ct, spacing=(5, 1.5, 1.5))  # that slices are resampled is none
    with pytest.warns(UserWarning, match="intensities are not those of training") as caught:
        seg(ct + 1024, spacing=(5, 3, 3))
    assert caught[0].filename == __file__


SPACED = {"spacing": (5, 3, 3)}
VOLUME = np.zeros((2, 32, 32))


@pytest.mark.parametrize(
    ("given", "options", "text"),
    [
        (VOLUME, {}, "an array without its spacing; the network works at 3x3 mm: give spacing="),
        (VOLUME, {"spacing": (3, 3)}, "spacing (3, 3); expected three lengths in mm"),
        (VOLUME, {"spacing": 3}, "spacing 3; expected three lengths"),
        (VOLUME, {"spacing": (5, 0, 3)}, "expected three positive lengths"),
        (VOLUME, {"spacing": (5, float("nan"), 3)}, "expected three positive lengths"),
        (VOLUME[0], SPACED, "shape (32, 32); the network takes 1 channel(s): expected (D, H, W); "
         "give volume[None]"),
        (np.zeros((2, 2, 32, 32)), SPACED, "expected (D, H, W)"),
        (np.zeros((0, 32, 32)), SPACED, "holds no voxel"),
        (np.full((1, 32, 32), np.nan), SPACED, "the array: 1024 of 1024 pixels are NaN"),
        (np.zeros((1, 32, 32), complex), SPACED, "pixels of type complex128; expected real"),
        (np.full((1, 32, 32), "a"), SPACED, "pixels of type <U1; expected real numbers"),
        (VOLUME[:, :2, :2], SPACED, "the array: slices of 2x2 are 2x2 for the network; expected"),
        (VOLUME, {**SPACED, "overlap": 1}, "overlap 1; expected 0 to 0.9"),
        (VOLUME, {**SPACED, "batch": 0}, "batch 0; expected 1 slice or more"),
        (VOLUME, {**SPACED, "batch": 1.5}, "batch 1.5; expected 1 slice or more"),
        ("absent.nii", {}, "absent.nii does not exist"),
        ("absent.nii", SPACED, "spacing (5, 3, 3) was given with a str, which has its own"),
        ([VOLUME.tolist()], {}, "a list was given; expected a numpy array, a SimpleITK image"),
        (["a.nii", "b.nii"], {}, "2 image(s); the network takes 1 channel(s): give one image"),
        (None, {}, "a NoneType was given; expected a numpy array"),
        (SimpleITK.Image([4, 4, 4, 4], SimpleITK.sitkInt16), {}, "has 4 dimensions (4 x 4 x 4 x 4"),
        (SimpleITK.Image([9, 9, 9], SimpleITK.sitkVectorInt16, 2), {}, "has 2 values per pixel"),
        (SimpleITK.Image([9, 9, 9], SimpleITK.sitkComplexFloat32), {}, "expected real numbers"),
    ],
)  # fmt: skip
def test_bad_input_says_what_was_got_and_what_to_do(seg, tmp_path, given, options, text):
    with pytest.raises(lmaunet.UserError, match=re.escape(text)):
        seg(given, **options)


def test_a_sheared_image_is_refused(seg):
    image = SimpleITK.GetImageFromArray(np.zeros((2, 32, 32), np.int16))
    image.SetSpacing((3, 3, 4))
    image.SetDirection((1, 0.3, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(lmaunet.UserError, match="degrees off right angles"):
        seg(image)


def test_what_is_no_build_is_refused(tmp_path):
    for place, text in ((tmp_path / "no", "is no folder"), (tmp_path, "holds no finished build")):
        with pytest.raises(lmaunet.UserError, match=text):
            lmaunet.load(place)


def test_a_damaged_build_is_refused(build, tmp_path):
    copy = shutil.copytree(build, tmp_path / "ort")
    content = bytearray((copy / "model.onnx").read_bytes())
    content[100] ^= 1
    (copy / "model.onnx").write_bytes(content)
    with pytest.raises(lmaunet.UserError, match=r"model\.onnx"):
        lmaunet.load(copy)


def test_what_is_not_installed_is_asked_for(seg, tmp_path, monkeypatch):
    (tmp_path / "slice.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    for name in [m for m in sys.modules if m.startswith(("pydicom.", "lmaunet.data.dicom."))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(lmaunet.ToolNotFound, match=r"pip install .*pydicom>=3\.0,<4"):
        seg(tmp_path / "slice.dcm")
