"""An image to a network's slices and back: the grid is the file's own, nothing is cut off."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from lmaunet.data import windows
from lmaunet.data.fetch import DICOM_FILES, DICOM_FOLDER, info
from lmaunet.data.images import geometry as geometry_module
from lmaunet.data.images import masks
from lmaunet.data.images.masks import write_labels
from lmaunet.data.images.volumes import read_image
from lmaunet.data.inference import Preparation, prepare_volume
from lmaunet.data.windows import check_overlap, cover
from lmaunet.errors import UserError

CT = Path(__file__).parents[2] / "calibration_data"
WINDOW = {"kind": "window", "low": -125.0, "high": 275.0, "mean": 0.5, "std": 0.25}
ORIENTATIONS = sorted(
    {
        "".join(axes[i][side[i]] for i in order)
        for axes in [("RL", "AP", "IS")]
        for order in itertools.permutations(range(3))
        for side in itertools.product((0, 1), repeat=3)
    }
)


def preparation(size=(16, 16), kind=WINDOW, mm=(3.0, 3.0), fit=False):
    return Preparation(size, kind, mm, fit)


def oblique(path, array, angles, spacing=(0.9, 1.3, 2.5)):
    """Write an array whose axes are turned by Euler angles in degrees; return the image."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetOrigin((-31.5, 12.25, 801.0))
    image.SetDirection(Rotation.from_euler("zyx", angles, degrees=True).as_matrix().ravel())
    SimpleITK.WriteImage(image, str(path))
    return SimpleITK.ReadImage(str(path))


def assert_same_grid(got, want):
    assert got.GetSize() == want.GetSize()
    for read in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(got, read)(), getattr(want, read)(), rtol=0, atol=1e-5), read


def round_trip(path, out, module=masks):
    """Threshold an image slice by slice and write the labels; return image and labels as stored."""
    array, geometry = read_image(path)
    module.write_labels(out, (array > 0).astype(np.uint8), geometry)
    image, labels = (SimpleITK.ReadImage(str(p)) for p in (path, out))
    return image, labels


def assert_lies_on(labels, image):
    assert_same_grid(labels, image)
    want = SimpleITK.GetArrayFromImage(image) > 0
    assert np.array_equal(SimpleITK.GetArrayFromImage(labels), want)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_labels_lie_on_the_image_in_all_48_orientations(maker, tmp_path, orientation):
    assert len(ORIENTATIONS) == 48
    array = maker.rng.normal(0, 100, (5, 6, 7)).astype(np.float32)
    path = maker.write(tmp_path / "a.nrrd", array, (5.0, 2.0, 3.0), orientation)
    assert_lies_on(*reversed(round_trip(path, tmp_path / "seg.nrrd")))


ANGLES = [(0, 0, 0), (10, -20, 5), (45, 0, 0), (45, 45, 45), (130, 35, -100), (180, 0, 90)]


@pytest.mark.parametrize("angles", ANGLES)
@pytest.mark.parametrize(("suffix", "out"), [(".nii.gz", ".nrrd"), (".nrrd", ".nii.gz"),
                                             (".mha", ".mha"), (".nii", ".nii")])  # fmt: skip
def test_labels_lie_on_an_oblique_image(maker, tmp_path, angles, suffix, out):
    array = maker.rng.normal(0, 100, (5, 6, 7)).astype(np.float32)
    oblique(tmp_path / f"a{suffix}", array, angles)
    assert_lies_on(*reversed(round_trip(tmp_path / f"a{suffix}", tmp_path / f"seg{out}")))


@pytest.mark.parametrize(
    ("module", "right", "wrong"),
    [
        (masks, "image.SetOrigin(grid.origin)", "image.SetOrigin(grid.origin[::-1])"),
        (masks, "image.SetDirection(grid.direction)", "image.SetDirection((1,0,0,0,1,0,0,0,1))"),
        (masks, "image.SetSpacing(grid.spacing_mm)", "image.SetSpacing(grid.spacing_mm[::-1])"),
        (geometry_module, "if axes[i][1]", "if not axes[i][1]"),
        (geometry_module, "if axes[i][1]", "if False"),
        (geometry_module, "reversed(orientation)", "orientation"),
        (geometry_module, "for axis in self.order)", "for axis in np.argsort(self.order))"),
    ],
)
def test_a_wrong_geometry_is_noticed(mutant_of, monkeypatch, maker, tmp_path, module, right, wrong):
    """Each of these puts the mask elsewhere than the organ; where ITK wrote it so, the file is
    refused when it is read back."""
    mutant = mutant_of(module, right, wrong)
    if module is geometry_module:
        monkeypatch.setattr(masks, "in_file_axes", mutant.in_file_axes)
    array = maker.rng.normal(0, 100, (6, 6, 6)).astype(np.float32)
    caught = 0
    for number, angles in enumerate(((130, 35, -100), (0, 90, 90))):
        path = tmp_path / f"{number}.nrrd"
        oblique(path, array, angles)
        try:
            writer = mutant if module is masks else masks
            assert_lies_on(*reversed(round_trip(path, tmp_path / f"s{number}.nrrd", writer)))
        except (AssertionError, RuntimeError, ValueError):
            caught += 1
        except UserError as error:
            assert module is masks and "off the image when it is read back" in str(error)
            assert not (tmp_path / f"s{number}.nrrd").exists()
            caught += 1
    assert caught


def test_a_flat_image_stays_flat(tmp_path):
    image = SimpleITK.GetImageFromArray(np.eye(9, dtype=np.float32) - 0.5)
    image.SetSpacing((0.5, 0.7))
    image.SetOrigin((3.0, -4.0))
    image.SetDirection((0.0, -1.0, -1.0, 0.0))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    assert_lies_on(*reversed(round_trip(tmp_path / "a.mha", tmp_path / "seg.mha")))


def dicom(folder, positions, cosines=r"1\0\0\0\1\0"):
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, (x, y, z) in enumerate(positions):
        image = SimpleITK.GetImageFromArray(np.full((1, 6, 5), number, np.int16))
        image.SetSpacing((0.5, 0.5, 2.0))
        for tag, value in {
            "0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2",
            "0008|0018": f"1.2.3.{number}", "0020|0032": f"{x}\\{y}\\{z}", "0020|0037": cosines,
            "0020|0013": str(number),
        }.items():  # fmt: skip
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{number}.dcm"))
        writer.Execute(image)
    return folder


def test_a_dicom_series_keeps_its_geometry(tmp_path):
    folder = dicom(tmp_path / "a", [(3, 4, 2.0 * z) for z in range(4)])
    _, geometry = read_image(folder)
    labels = np.arange(4)[:, None, None] * np.ones((1, 6, 5))
    stored = SimpleITK.ReadImage(str(write_labels(tmp_path / "s.nii.gz", labels, geometry)))
    assert stored.GetSize() == (5, 6, 4) and np.allclose(stored.GetSpacing(), (0.5, 0.5, 2.0))
    assert np.allclose(stored.GetOrigin(), (3, 4, 0))
    for z in range(4):  # each slice's labels are where its file says that the slice is
        index = stored.TransformPhysicalPointToIndex((3.0, 4.0, 2.0 * z))
        assert stored[index] == z


@pytest.mark.parametrize("number", [0, 2, 3])
@pytest.mark.parametrize("share", [0.9, 0.3])
def test_a_series_with_a_damaged_file_is_refused(tmp_path, number, share):
    """At its ends too, where the rest would still be a box."""
    folder = dicom(tmp_path / "a", [(0, 0, 2.0 * z) for z in range(4)])
    path = folder / f"{number}.dcm"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=rf"{number}\.dcm is damaged .*; get the file again"):
        read_image(folder)
    path.unlink()
    (folder / "notes.txt").write_text("no image")
    if number == 2:
        with pytest.raises(UserError, match="slices are 2 to 4 mm apart"):
            read_image(folder)
    else:
        assert len(read_image(folder)[0]) == 3


def test_the_real_dicom_series_keeps_its_geometry(tmp_path):
    """Every corner of every slice is where the slice's own file says."""
    if not info(CT)["complete"]:
        pytest.skip(f"{CT.name}: {info(CT)['problem']}")
    folder = CT / DICOM_FOLDER
    array, geometry = read_image(folder)
    out = write_labels(tmp_path / "s.nii.gz", (array > 0).astype(np.uint8), geometry)
    labels = SimpleITK.ReadImage(str(out))
    assert labels.GetSize() == (512, 512, DICOM_FILES)
    for file in folder.iterdir():
        slice_of = SimpleITK.ReadImage(str(file))
        where = [slice_of.TransformIndexToPhysicalPoint(i) for i in ((0, 0, 0), (511, 511, 0))]
        first, last = (labels.TransformPhysicalPointToIndex(point) for point in where)
        z = first[2]
        assert (first, last) == ((0, 0, z), (511, 511, z))
        inside = SimpleITK.GetArrayFromImage(slice_of)[0] > 0
        assert np.array_equal(SimpleITK.GetArrayFromImage(labels)[z] > 0, inside)


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        ([(0, 0, z) for z in (0, 2, 6, 8)], "slices are 2 to 4 mm apart; expected equal steps"),
        ([(0, 0, z) for z in (0, 2, 2, 4)], r"1\.dcm and .*2\.dcm show the same place"),
        ([(0, 0.6 * z, 2 * z) for z in range(4)], "shifted by up to 1.8 mm within their plane"),
    ],
)
def test_a_series_that_is_no_box_of_voxels_is_refused(tmp_path, positions, text):
    with pytest.raises(UserError, match=text):
        read_image(dicom(tmp_path / "a", positions))


def test_the_slices_are_those_of_training(maker, tmp_path):
    labels = maker.labels()
    path = maker.write(tmp_path / "a.nii.gz", maker.image(labels), orientation="RAS")
    volume = prepare_volume([path], preparation())
    assert len(volume) == 24 and volume.notes == () and volume.framing.size == (16, 16)
    images = volume.images(3, 10)
    assert images.shape == (7, 1, 16, 16) and images.dtype == np.float32
    assert images.min() == -2.0
    # logits that threshold the image: fat is background, organs are not
    logits = np.concatenate([np.zeros_like(images), images + 1.5], 1)
    assert np.array_equal(volume.labels(logits) > 0, labels[3:10] > 0)
    whole = np.concatenate([volume.images(i, i + 1) for i in range(24)])
    assert np.array_equal(volume.images(0, 24), whole)


def test_an_image_of_another_spacing_is_brought_to_that_of_training(maker, tmp_path):
    labels = maker.labels((24, 24, 28))
    path = maker.write(tmp_path / "a.nii", maker.image(labels), spacing=(3.0, 1.5, 1.5))
    volume = prepare_volume([path], preparation(kind={"kind": "zscore"}))
    assert volume.framing.scaled == (12, 14)
    assert volume.notes[-1] == "slices are resampled from 1.5x1.5 mm to the network's 3x3 mm"
    assert volume.labels(np.ones((24, 2, 16, 16), np.float32)).shape == (24, 24, 28)


def test_a_larger_slice_is_kept_whole_or_shrunk_as_in_training(maker, tmp_path):
    labels = maker.labels((24, 24, 28))
    path = maker.write(tmp_path / "a.nii", maker.image(labels), spacing=(3.0, 3.0, 3.0))
    whole = prepare_volume([path], preparation())
    assert whole.framing.size == whole.framing.scaled == (24, 28)
    assert whole.images(0, 2).shape == (2, 1, 24, 28)
    wide = prepare_volume([path], preparation((32, 16)))
    assert wide.framing.size == (32, 28)  # padded one way, windows the other way
    shrunk = prepare_volume([path], preparation(mm=None, fit=True))
    assert shrunk.framing.scaled == (14, 16) and shrunk.framing.size == (16, 16)
    assert "had no spacing" in shrunk.notes[0] and "shrunk to 14x16" in shrunk.notes[1]


def test_classes_are_interpolated_not_enlarged(maker, tmp_path):
    """A disc that was shrunk by three comes back rounder than its pixels are."""
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(y - 47.5, x - 47.5) < 30
    image = np.where(disc, 100.0, -100.0).astype(np.float32)[None]
    path = maker.write(tmp_path / "a.nii", image, spacing=(3.0, 1.0, 1.0))
    volume = prepare_volume([path], preparation((32, 32)))
    images = volume.images(0, 1)
    logits = np.concatenate([np.zeros_like(images), images + 0.75], 1)  # half way between
    smooth = volume.labels(logits)[0] > 0
    nearest = volume.framing.restore(logits.argmax(1))[0] > 0
    wrong = [int((found != disc).sum()) for found in (smooth, nearest)]
    assert wrong[0] < 0.6 * wrong[1], wrong


@pytest.mark.parametrize(
    ("shape", "spacing", "text"),
    [
        ((2, 12, 14), (3.0, 9e3, 9e3), r"a\.nii: spacing 9000x9000 mm makes slices of 36000x42000"),
        ((2, 12, 14), (3.0, 1e-3, 1e-3), "are 1x1 for the network; expected 8x8 or more"),
        ((1, 1, 1), (3.0, 3.0, 3.0), "slices of 1x1 are 1x1 for the network"),
    ],
)
def test_a_size_that_cannot_be_is_refused(maker, tmp_path, shape, spacing, text):
    path = maker.write(tmp_path / "a.nii", np.zeros(shape, np.float32), spacing=spacing)
    with pytest.raises(UserError, match=text):
        prepare_volume([path], preparation())


def test_channels_are_images_on_one_grid(maker, tmp_path):
    a = maker.write(tmp_path / "a.nii", maker.image(maker.labels()))
    b = maker.write(tmp_path / "b.nii", maker.image(maker.labels()), orientation="RAS")
    two = prepare_volume([a, b], preparation(), channels=2)
    one = prepare_volume([b], preparation())
    assert two.images(0, 3).shape == (3, 2, 16, 16)
    assert np.array_equal(two.images(0, 3)[:, 1:], one.images(0, 3))
    with pytest.raises(UserError, match=r"1 image\(s\); the network takes 2 channel\(s\): give 2"):
        prepare_volume([a], preparation(), channels=2)
    with pytest.raises(
        UserError, match=r"2 image\(s\); the network takes 1 channel\(s\): give one"
    ):
        prepare_volume([a, b], preparation())
    other = maker.write(tmp_path / "c.nii", maker.image(maker.labels()), spacing=(3.0, 3.0, 2.0))
    with pytest.raises(UserError, match=r"c\.nii lies on another grid than .*a\.nii"):
        prepare_volume([a, other], preparation(), channels=2)


def pointwise(images):
    """A network that looks at one pixel at a time."""
    return np.concatenate([0.3 - images, images**2, np.sin(3 * images)], 1).astype(np.float32)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (33, 16), (50, 61)])
def test_windows_of_a_pointwise_network_give_the_whole_image(overlap, shape):
    images = np.random.default_rng(0).normal(size=(3, 1, *shape)).astype(np.float32)
    sizes = []

    def run(windows):
        assert windows.shape[2:] == (16, 16) and windows.dtype == np.float32
        sizes.append(len(windows))
        return pointwise(windows)

    got = cover(images, (16, 16), run, overlap=overlap, batch=4)
    # a sum of up to 256 float32 windows
    assert np.allclose(got, pointwise(images), rtol=256 * 2**-24, atol=256 * 2**-24)
    assert shape == (16, 16) or max(sizes) == 4


def test_blending_favours_the_middle_of_a_window():
    """A network that errs at a window's edge is outvoted where windows overlap; and only there."""
    images = np.zeros((1, 1, 16, 48), np.float32)

    def run(windows):
        logits = np.zeros((len(windows), 2, 16, 16), np.float32)
        logits[:, 1] = -1.0
        logits[:, 1, :, :2] = logits[:, 1, :, -2:] = 1.0
        return logits

    classes = {
        share: cover(images, (16, 16), run, overlap=share).argmax(1)[0, 8] for share in (0.0, 0.5)
    }
    assert classes[0.0][14:18].all()
    assert not classes[0.5][2:-2].any() and classes[0.5][:2].all()


def by_monai(images, run, overlap):
    import torch
    from monai.inferers.utils import sliding_window_inference

    def predict(windows):
        return torch.from_numpy(run(windows.numpy()))

    return sliding_window_inference(
        torch.from_numpy(images), (16, 24), 4, predict, overlap=overlap, mode="gaussian"
    ).numpy()


def uneven(windows):
    """A network whose answer depends on where in a window a pixel lies."""
    place = np.arange(16 * 24, dtype=np.float32).reshape(16, 24) / 100
    return np.concatenate([windows * place, windows[:, :, ::-1], place + 0 * windows], 1)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("shape", [(16, 25), (17, 24), (32, 48), (50, 61), (16, 97)])
def test_windows_are_blended_as_by_monai(overlap, shape):
    images = np.random.default_rng(0).normal(size=(3, 1, *shape)).astype(np.float32)
    got = cover(images, (16, 24), uneven, overlap=overlap)
    assert np.allclose(got, by_monai(images, uneven, overlap), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("DEVIATION = 0.125", "DEVIATION = 0.25"),
        ("LEAST_WEIGHT = 1e-3", "LEAST_WEIGHT = 1e-2"),
        ("(side - 1) / 2", "side / 2"),
        ("int(window * (1 - overlap))", "int(window * overlap)"),
        ("return [*starts, length - window]", "return [*starts, starts[-1] + step]"),
        ("+= weight * logits", "+= logits"),
    ],
)
def test_windows_that_are_blended_otherwise_are_noticed(mutant_of, right, wrong):
    images = np.random.default_rng(0).normal(size=(2, 1, 50, 61)).astype(np.float32)
    try:
        got = mutant_of(windows, right, wrong).cover(images, (16, 24), uneven, overlap=0.25)
    except ValueError:  # a window beyond the border
        return
    assert not np.allclose(got, by_monai(images, uneven, 0.25), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("overlap", [-0.1, 0.95, float("nan")])
def test_an_overlap_that_cannot_be_is_refused(overlap):
    with pytest.raises(UserError, match=r"expected 0 to 0\.9 of a window's side"):
        check_overlap(overlap)
