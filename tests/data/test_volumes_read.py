"""What reading an image gives and refuses, whatever its format."""

from __future__ import annotations

import dicom_maker as dicom
import numpy as np
import pytest
import SimpleITK
from nifti_files import voxels, write

from lmaunet.data.images import image_file, volumes
from lmaunet.data.images.volumes import (
    Image,
    check_finite,
    check_pixels,
    check_shapes,
    is_volume,
    kind_of,
    read_image,
    read_labels,
    read_pixels,
    read_volume,
    stem,
)
from lmaunet.errors import UserError

SUFFIXES = [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".NII.GZ"])
def test_a_volume_is_known_by_its_suffix(tmp_path, suffix):
    path = tmp_path / f"a.b{suffix}"
    assert is_volume(path) and stem(path) == "a.b"
    for name in (suffix[1:], f"a{suffix}x"):
        assert not is_volume(tmp_path / name) and stem(tmp_path / name) == name
    assert stem(tmp_path / "a.nii.gz.nii") == "a.nii.gz" and not is_volume(tmp_path)


def test_every_format_has_its_name(tmp_path):
    image = SimpleITK.GetImageFromArray(voxels())
    for name, kind in (("a.nii", "NIfTI"), ("a.nrrd", "NRRD"), ("a.mha", "MetaImage")):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        found = read_volume(tmp_path / name)
        assert kind_of(tmp_path / name) == found.kind == kind
        assert (found.modality, found.source) == ("", None)
        assert (found.geometry.placement is not None) == (kind == "NIfTI")
    folder = dicom.series(tmp_path / "a")
    for path in (folder, folder / dicom.name(2)):
        found = read_volume(path)
        assert kind_of(path) == found.kind == "DICOM" and found.modality == "CT"
        assert found.source.files[0].name in (dicom.name(0), dicom.name(2)) and is_volume(folder)
    with pytest.raises(UserError, match="does not exist"):
        kind_of(tmp_path / "absent")


def test_notes_of_a_file_are_kept(tmp_path):
    path = write(tmp_path / "a.nii", qform_code=0, sform_code=0)
    assert len(read_volume(path).notes) == len(read_pixels(path).notes) == 1


def test_an_image_is_shown_without_its_pixels_and_source(tmp_path):
    found = read_volume(write(tmp_path / "a.nii"))
    shown = repr(Image(found.array, "lies here", "NIfTI", ("note",), "CT", "source"))
    assert shown == "Image(geometry='lies here', kind='NIfTI', notes=('note',), modality='CT')"


def test_pixels_are_float32_and_labels_as_they_are(tmp_path):
    path = write(tmp_path / "a.nii")
    (image, where), (labels, of_labels) = read_image(path), read_labels(path)
    assert image.dtype == np.float32 and labels.dtype == np.int16 and where == of_labels
    assert np.array_equal(image, labels) and np.array_equal(image, voxels())


@pytest.mark.parametrize(("bad", "good"), [([np.nan], 3), ([np.inf, -np.inf, np.nan], 4)])
def test_pixels_that_are_no_numbers_are_counted(bad, good):
    array = np.array([*bad, *range(good)])
    text = f"^w: {len(bad)} of {len(array)} pixels are NaN or infinite; expected finite"
    for check in (check_finite, check_pixels):
        with pytest.raises(UserError, match=text):
            check(array, "w")
        check(array[len(bad) :], "w")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_square_of_a_pixel_is_a_float32(sign):
    for largest, good in ((1e15, True), (1.0001e15, False), (3e15, False)):
        array = np.array([0.0, sign * largest, 1.0])
        if good:
            check_pixels(array, "w")
            assert np.isfinite(np.square(array.astype(np.float32))).all()
        else:
            with pytest.raises(UserError) as raised:
                check_pixels(array, "w")
            assert f"w: a pixel of magnitude {largest:g}; expected at most 1e+15" in str(
                raised.value
            )


@pytest.mark.parametrize("kind", ["i1", "u8", "f4", "f8", "?"])
def test_pixels_are_real_numbers(kind):
    check_pixels(np.ones(3, kind), "w")
    for other in ("c8", "U1", "O", "M8[s]"):
        with pytest.raises(UserError, match=r"w: pixels of type .*; expected real numbers"):
            check_pixels(np.ones(3).astype(other), "w")


def test_an_image_and_its_labels_have_one_shape():
    check_shapes((2, 3, 4), [2, 3, 4], "w")
    check_shapes((1, 1), (1, 1), "w")
    for labels in ((2, 3, 5), (2, 3), (4, 3, 2), (1, 3, 4)):
        with pytest.raises(UserError, match=r"w: image of shape \(2, 3, 4\) but labels of shape"):
            check_shapes((2, 3, 4), labels, "w")
    for empty in ((0, 3), (3, 0)):
        with pytest.raises(UserError, match="hold no pixel; expected one slice or more"):
            check_shapes(empty, empty, "w")


@pytest.mark.parametrize(
    ("error", "text"),
    [(RuntimeError("itk::ERROR\n\n why \n "), "cannot be read: why"), (OSError("odd"), "odd"),
     (RuntimeError(" \n"), "cannot be read: RuntimeError"), (MemoryError(), "does not fit in")],
)  # fmt: skip
def test_a_library_that_fails_is_told_by_its_last_line(tmp_path, monkeypatch, error, text):
    def fail(*_):
        raise error

    path = write(tmp_path / "a.nii")
    monkeypatch.setattr(volumes, "to_lps", fail)
    with pytest.raises(UserError) as raised:
        read_volume(path)
    assert str(raised.value).startswith(f"{path} ") and text in str(raised.value)


def test_a_name_that_is_no_text_is_shown_with_escapes(tmp_path):
    path = tmp_path / "a\udcff.nii"
    assert image_file.shown(path).endswith("a\\xff.nii")
    for check in (read_volume, kind_of, image_file.open_regular):
        with pytest.raises(
            UserError, match=r"a\\xff\.nii: the name holds a byte that is not UTF-8"
        ):
            check(path)


def test_a_flat_image_stays_flat_in_its_file(tmp_path):
    image = SimpleITK.GetImageFromArray(voxels()[0])
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    found = read_volume(tmp_path / "a.mha")
    assert found.array.shape == (1, 6, 5) and found.geometry.grid.size == (5, 6)


def test_a_dicom_series_lies_on_its_own_grid(tmp_path):
    found = read_volume(dicom.series(tmp_path / "a"))
    grid = found.geometry.grid
    assert grid.size == dicom.SHAPE[::-1] and np.allclose(grid.spacing_mm, dicom.SPACING[::-1])
    assert np.allclose(grid.origin, dicom.ORIGIN)
    wanted = np.stack([dicom.ROW, dicom.COLUMN, dicom.NORMAL], 1)
    assert np.allclose(np.reshape(grid.direction, (3, 3)), wanted, atol=1e-6)
    single = read_volume(tmp_path / "a" / dicom.name(3))
    assert single.notes and single.geometry.grid.size == (9, 6, 1)
