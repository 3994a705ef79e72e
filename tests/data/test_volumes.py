"""Reading, canonical orientation, writing back, and images that must be refused."""

import struct

import numpy as np
import pytest
import SimpleITK

from lmaunet.data.images.masks import write_labels
from lmaunet.data.images.volumes import is_volume, read_image, read_labels, stem
from lmaunet.errors import UserError


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAS", "LIA", "PIR"])
def test_every_orientation_reads_the_same(maker, tmp_path, suffix, orientation):
    array = maker.rng.integers(-1000, 1000, (5, 6, 7)).astype(np.float32)
    path = maker.write(tmp_path / f"a{suffix}", array, (5.0, 2.0, 3.0), orientation)
    read, geometry = read_image(path)
    assert np.array_equal(read, array) and read.dtype == np.float32
    assert np.allclose(geometry.spacing_mm, (5.0, 2.0, 3.0))
    assert geometry.orientation == orientation


def test_an_orientation_that_is_not_undone_would_show(maker, tmp_path):
    array = maker.rng.integers(0, 9, (5, 6, 7)).astype(np.float32)
    path = maker.write(tmp_path / "a.nii", array, orientation="RAS")
    raw = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    assert not np.array_equal(raw, array)
    assert np.array_equal(read_image(path)[0], array)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LIA"])
def test_labels_are_written_on_the_grid_of_the_image(maker, tmp_path, orientation):
    image = maker.write(tmp_path / "a.nii.gz", maker.image(maker.labels()), orientation=orientation)
    _, geometry = read_image(image)
    out = write_labels(tmp_path / "out" / "seg.nii.gz", maker.labels(), geometry)
    read, of_labels = read_labels(out)
    assert np.array_equal(read, maker.labels()) and of_labels.same_grid(geometry)
    stored = SimpleITK.ReadImage(str(out))
    assert stored.GetSize() == SimpleITK.ReadImage(str(image)).GetSize()
    assert of_labels.orientation == orientation
    assert [p.name for p in out.parent.iterdir()] == ["seg.nii.gz"]


@pytest.mark.parametrize(
    "name", ["a.nii.gz.nii.gz", "a.nii.nii", "v1.2.NII.GZ", "a.hdr.nii", ".nii"]
)
def test_a_name_of_several_suffixes_is_the_name_that_is_written(maker, tmp_path, name):
    _, geometry = read_image(maker.write(tmp_path / "a.nii", maker.image(maker.labels())))
    write_labels(tmp_path / "out" / name, maker.labels(), geometry)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    assert np.array_equal(read_labels(tmp_path / "out" / name)[0], maker.labels())


def test_a_grid_that_is_shifted_or_flipped_is_another_grid(maker, tmp_path):
    array = maker.image(maker.labels())
    _, geometry = read_image(maker.write(tmp_path / "a.nii", array))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii"))
    image.SetOrigin((-20.0, 7.2, 100.0))
    SimpleITK.WriteImage(image, str(tmp_path / "b.nii"))
    assert geometry.same_grid(geometry)
    assert not geometry.same_grid(read_image(tmp_path / "b.nii")[1])


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("off_mm", "same"), [(0.045, True), (-0.045, True), (0.055, False)])
def test_grids_are_one_where_their_first_and_last_voxels_are(tmp_path, axis, off_mm, same):
    """To 0.05 mm; axes of other lengths, turned, and steps that add up to the last voxel."""
    shape, spacing = (4, 6, 11), np.array([3.0, 2.0, 1.5])
    array = np.zeros(shape, np.int16)
    grids = []
    for name in ("original", "longer", "moved"):
        image = SimpleITK.GetImageFromArray(array)
        image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))
        steps, origin = spacing[::-1].copy(), np.zeros(3)
        if name == "longer":
            steps[axis] += off_mm / (shape[::-1][axis] - 1)
        elif name == "moved":
            origin[axis] += off_mm
        image.SetSpacing(steps.tolist())
        image.SetOrigin(origin.tolist())
        SimpleITK.WriteImage(image, str(tmp_path / f"{name}.mha"))
        grids.append(read_image(tmp_path / f"{name}.mha")[1])
    assert [grids[0].same_grid(other) for other in grids] == [True, same, same]


def test_a_slice_is_a_volume_of_one(tmp_path):
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(np.eye(4, dtype=np.int16)), str(tmp_path / "a.mha")
    )
    array, geometry = read_image(tmp_path / "a.mha")
    assert array.shape == (1, 4, 4) == geometry.shape


def test_a_dicom_series_is_rescaled_and_sorted_by_position(tmp_path):
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(4):
        image = SimpleITK.GetImageFromArray(np.full((1, 6, 5), z - 3, np.int16))
        image.SetSpacing((0.5, 0.5, 2.0))
        for tag, value in {
            "0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2",
            "0008|0018": f"1.2.3.{9 - z}",
            "0020|0032": f"0\\0\\{2.0 * z}", "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024", "0028|1053": "1", "0020|0013": str(9 - z),
        }.items():  # fmt: skip
            image.SetMetaData(tag, value)
        # Names and instance numbers run against the positions.
        writer.SetFileName(str(tmp_path / f"{9 - z}.dcm"))
        writer.Execute(image)
    assert is_volume(tmp_path)
    array, geometry = read_image(tmp_path)
    assert array[:, 0, 0].tolist() == [-3.0, -2.0, -1.0, 0.0]
    stored = np.frombuffer((tmp_path / "9.dcm").read_bytes()[-60:], "<i2")
    assert (stored == 1021).all()  # so the intercept of -1024 was applied
    assert np.allclose(geometry.spacing_mm, (2.0, 0.5, 0.5))


def refused(path, text):
    with pytest.raises(UserError, match=text) as raised:
        read_image(path)
    assert path.name in str(raised.value)


def test_images_that_cannot_be_used(maker, tmp_path):
    array = maker.image(maker.labels())
    array[0, 0, 0] = np.nan
    refused(maker.write(tmp_path / "nan.nii", array), "1 of 4032 pixels are NaN or infinite")
    colour = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(colour, str(tmp_path / "rgb.nrrd"))
    refused(tmp_path / "rgb.nrrd", "3 values per pixel; expected one channel")
    four = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4, 5), np.float32), isVector=False)
    SimpleITK.WriteImage(four, str(tmp_path / "four.nii"))
    refused(tmp_path / "four.nii", r"4 dimensions \(5 x 4 x 3 x 2\); expected 3")
    (tmp_path / "text.nii.gz").write_text("no image")
    refused(tmp_path / "text.nii.gz", "cannot be read as an image")
    refused(tmp_path / "absent.nii", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no DICOM series")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_file_that_is_cut_short_is_refused_not_filled_with_zeros(maker, tmp_path, suffix):
    path = maker.write(tmp_path / f"a{suffix}", maker.image(maker.labels()))
    whole = path.read_bytes()
    for share in (0.98, 0.5, 0.1):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, "is cut short: .* expected|is damaged|cannot be read as an image")


@pytest.mark.parametrize("size", [0.0, float("nan"), float("inf")])
def test_voxels_without_a_size_are_not_taken_for_1_mm(maker, tmp_path, size):
    path = maker.write(tmp_path / "a.nii", maker.image(maker.labels()))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 84, size)
    path.write_bytes(content)
    refused(path, rf"voxels of 3 x {size:g} x 3 mm; expected a size; correct pixdim")


def test_labels_of_another_shape_or_format_are_not_written(maker, tmp_path):
    _, geometry = read_image(maker.write(tmp_path / "a.nii", maker.image(maker.labels())))
    with pytest.raises(UserError, match=r"labels of shape \(2, 2, 2\); expected \(24, 12, 14\)"):
        write_labels(tmp_path / "b.nii", np.zeros((2, 2, 2)), geometry)
    with pytest.raises(UserError, match=r"b\.png: unknown format; use \.nii\.gz"):
        write_labels(tmp_path / "b.png", maker.labels(), geometry)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii"]


def test_stem_drops_the_whole_suffix(tmp_path):
    assert [stem(tmp_path / n) for n in ("a.nii.gz", "b.c.nrrd", "d")] == ["a", "b.c", "d"]
