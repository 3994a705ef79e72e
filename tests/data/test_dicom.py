"""DICOM series as volumes: where each voxel lies, and what is no box of voxels."""

import shutil

import dicom_maker as maker
import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_maker import NORMAL, ORIGIN, SHAPE, SPACING, enhanced, one, place, save, series
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from lmaunet.data.dicom import geometry as dicom_geometry
from lmaunet.data.dicom.series import read_dicom
from lmaunet.data.images.volumes import is_volume, read_image
from lmaunet.errors import UserError


def assert_box(image, values=None):
    """Values and place of every voxel are those that the slices were made with."""
    values = maker.volume() if values is None else values
    assert image.array.dtype == np.float32 and image.array.shape == values.shape
    assert np.array_equal(image.array, values)
    step = np.array(image.direction).reshape(3, 3) * np.array(image.spacing_mm)
    assert np.allclose(image.origin, ORIGIN, atol=1e-6)
    wanted = np.stack([SPACING[2] * maker.ROW, SPACING[1] * maker.COLUMN, SPACING[0] * NORMAL], 1)
    assert np.allclose(step, wanted, atol=1e-6)


def refused(path, *texts):
    with pytest.raises(UserError) as raised:
        read_dicom(path)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


def test_slices_are_sorted_by_position_whatever_names_and_numbers_say(tmp_path):
    image = read_dicom(series(tmp_path / "a"))
    assert_box(image)
    assert [p.name for p in image.files] == [maker.name(z) for z in range(SHAPE[0])]
    assert image.modality == "CT" and image.notes == ()


def test_geometry_is_that_of_other_readers(tmp_path):
    """SimpleITK and highdicom read the same series without this program."""
    folder = series(tmp_path / "a")
    image = read_dicom(folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    itk = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(itk), image.array)
    assert np.allclose(itk.GetOrigin(), image.origin) and itk.GetSize() == SHAPE[::-1]
    assert np.allclose(itk.GetSpacing(), image.spacing_mm)
    assert np.allclose(itk.GetDirection(), image.direction, atol=1e-6)
    datasets = [pydicom.dcmread(p) for p in folder.iterdir()]
    other = highdicom.get_volume_from_series(datasets)
    first = other.affine @ [0, 0, 0, 1]
    last = other.affine @ [*(np.array(other.spatial_shape) - 1), 1]
    corners = [itk.TransformIndexToPhysicalPoint(index) for index in ((0, 0, 0), (8, 5, 4))]
    ends = [p for p in (first[:3], last[:3])]
    if np.dot(last[:3] - first[:3], NORMAL) < 0:  # it may count slices the other way
        flipped = other.affine @ [other.spatial_shape[0] - 1, 0, 0, 1]
        other_end = other.affine @ [0, *(np.array(other.spatial_shape[1:]) - 1), 1]
        ends = [flipped[:3], other_end[:3]]
    assert np.allclose(ends, corners, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
@pytest.mark.parametrize(
    "sop_class", [EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage]
)
@pytest.mark.parametrize("as_folder", [True, False])
def test_frames_are_sorted_by_position(tmp_path, order, sop_class, as_folder):
    path = save(enhanced(order, sop_class=sop_class), tmp_path / "a" / "all.dcm")
    image = read_dicom(path.parent if as_folder else path)
    assert_box(image)
    assert [frame.number for frame in image.frames] == [order.index(z) for z in range(SHAPE[0])]
    assert set(image.files) == {path}


def test_common_tags_may_stand_at_the_frames_and_those_of_frames_be_common(tmp_path):
    dataset = enhanced((0,), values=maker.volume()[:1])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    group = dataset.PerFrameFunctionalGroupsSequence[0]
    shared.PlanePositionSequence = group.PlanePositionSequence
    group.PixelMeasuresSequence = shared.PixelMeasuresSequence
    group.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del group.PlanePositionSequence, shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    image = read_dicom(save(dataset, tmp_path / "a.dcm"))
    assert np.array_equal(image.array, maker.volume()[:1]) and np.allclose(image.origin, ORIGIN)
    assert image.spacing_mm == (1.25, 0.75, 7.0)


def test_an_image_split_into_several_files_is_one(tmp_path):
    for part, order in enumerate([(4, 0), (1, 3, 2)]):
        tags = {"ConcatenationUID": "1.9", "InConcatenationNumber": part + 1,
                "InConcatenationTotalNumber": 2}  # fmt: skip
        save(enhanced(order, **tags), tmp_path / "a" / f"{part}.dcm")
    assert_box(read_dicom(tmp_path / "a"))
    refused(tmp_path / "a" / "1.dcm", "part(s) 2 of an image that was split into 2 files")
    (tmp_path / "a" / "0.dcm").unlink()
    refused(tmp_path / "a", "expected all of them", "give the folder with all parts")


@pytest.mark.parametrize(("total", "missing"), [(2, False), (3, True), (None, False), (1, True)])
def test_the_last_part_of_a_split_image_is_missed(tmp_path, total, missing):
    """As its tag says; without one the highest number is taken for the last."""
    for part, order in enumerate([(0, 1), (2, 3, 4)]):
        dataset = enhanced(order, ConcatenationUID="1.9", InConcatenationNumber=part + 1)
        if total is not None:
            dataset.InConcatenationTotalNumber = total
        save(dataset, tmp_path / "a" / f"{part}.dcm")
    if missing:
        refused(tmp_path / "a", f"part(s) 1, 2 of an image that was split into {total} files")
    else:
        assert_box(read_dicom(tmp_path / "a"))


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize(
    ("gone", "text"),
    [((2,), "1 slice(s) are missing: 1 between"), ((2, 3), "2 slice(s) are missing: 2 between"),
     ((1, 3), "2 slice(s) are missing: 1 between")],
)  # fmt: skip
def test_missing_slices_are_counted_and_placed(tmp_path, kind, gone, text):
    values = maker.volume((7, 6, 9))
    rest = tuple(z for z in range(7) if z not in gone)
    if kind == "classic":
        series(tmp_path / "a", values=values, skip=gone)
        names = maker.name(gone[0] - 1), maker.name(gone[0] + 1)
    else:
        save(enhanced(rest, values=values), tmp_path / "a" / "all.dcm")
        names = f"all.dcm frame {gone[0]}", f"all.dcm frame {gone[0] + 1}"
    names = [
        f"{name} (at {', '.join(f'{v:.6g}' for v in place(z))} mm)"
        for name, z in zip(names, (gone[0] - 1, gone[0] + 1), strict=True)
    ]
    expected = [text, "expected equal steps of 2.5 mm"]
    refused(tmp_path / "a", *expected, *(names if len(gone) == 1 else ()))


@pytest.mark.parametrize(("jitter", "counted"), [(0.04, True), (0.06, False)])
def test_a_missing_slice_is_counted_beside_jitter_of_twice_its_tolerance(tmp_path, jitter, counted):
    """A step between two slices has the jitter of both."""
    folder = shifted(tmp_path, [0, 0, jitter, 0, 0, 0, 0])
    (folder / maker.name(5)).unlink()
    refused(folder, "1 slice(s) are missing" if counted else "the most unusual")


def test_a_slice_twice_is_named(tmp_path):
    folder = series(tmp_path / "a")
    shutil.copy(folder / maker.name(2), folder / "copy (1).dcm")
    refused(folder, maker.name(2), "copy (1).dcm", "a slice twice (1 time(s)")
    save(enhanced((0, 1, 2, 2, 3, 4)), tmp_path / "b.dcm")
    refused(tmp_path / "b.dcm", "frame 3 and", "frame 4 show the same place", "a slice twice")


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        (lambda again: {"AcquisitionTime": f"1010{again:02d}"}, "differ in AcquisitionTime"),
        (lambda again: {"AcquisitionNumber": again}, "differ in AcquisitionNumber: 0.0 and 1.0"),
        (lambda again: {"EchoTime": 4.6 * (1 + again)}, "2 echoes in one series (EchoTime 4.6, 9"),
        (lambda again: {"TemporalPositionIdentifier": again + 1}, "2 points in time"),
        (lambda again: {"StackID": str(again)}, "2 stacks in one series"),
        (lambda again: {"DiffusionBValue": 800.0 * again}, "2 diffusion weightings"),
        (lambda again: {"ImageType": ["O", "P", "MP"[again]]}, "of another kind (image type P)"),
        (lambda again: {}, "differ in no tag that is known"),
        (lambda again: {}, "holds 10 images at 5 place(s)"),
    ],
)
def test_several_images_of_each_place_are_said_with_what_they_differ_in(tmp_path, tags, text):
    values = maker.volume()
    for again in range(2):
        for z in range(SHAPE[0]):
            save(one(z, values[z], **tags(again)), tmp_path / "a" / f"{again}{z}.dcm")
    refused(tmp_path / "a", text)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (lambda z: {"FrameContentSequence": [maker.sequence(StackID=str(z % 2))]}, "2 stacks"),
        (lambda z: {"MREchoSequence": [maker.sequence(EffectiveEchoTime=4.0 + z % 2)]}, "2 echoes"),
        (lambda z: {"FrameContentSequence": [maker.sequence(TemporalPositionIndex=1 + z % 2)]},
         "2 points in time"),
        (lambda z: {"MRDiffusionSequence": [maker.sequence(DiffusionBValue=400.0 * (z % 2))]},
         "2 diffusion weightings"),
        (lambda z: {"CTImageFrameTypeSequence": [maker.sequence(
            FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER" if z == 3 else "VOLUME", "NONE"])]},
         "frame 4 is an image of another kind (image type LOCALIZER); expected VOLUME"),
        (lambda z: {"PlaneOrientationSequence": [maker.sequence(
            ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"])]} if z == 2 else {},
         "frame 3 is seen in another direction"),
        (lambda z: {"PixelMeasuresSequence": [maker.sequence(PixelSpacing=["1.25", "0.75"])]}
         if z == 1 else {}, "frame 2: PixelSpacing is 1.25, 0.75 mm; expected 0.75, 1.25 mm"),
    ],
)  # fmt: skip
def test_frames_of_several_kinds_are_refused(tmp_path, items, text):
    refused(save(enhanced(per_frame=items), tmp_path / "a.dcm"), text)


@pytest.mark.parametrize(
    ("z", "tags", "text"),
    [
        (0, {"PixelSpacing": ["0.75", "1.0"]}, "PixelSpacing is 0.75, 1 mm; expected 0.75, 1.25"),
        (4, {"PixelSpacing": ["1.25", "0.75"]}, "PixelSpacing is 1.25, 0.75 mm"),
        (2, {"ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"]}, "such as a localizer"),
        (2, {"ImageType": ["DERIVED", "SECONDARY", "LOCALIZER"]}, "another kind (image type LOCAL"),
        (1, {"FrameOfReferenceUID": "1.2.3.9"}, "FrameOfReferenceUID is 1.2.3.9; expected 1.2.3.4"),
        (1, {"FrameOfReferenceUID": None}, "FrameOfReferenceUID is missing; expected 1.2.3.4"),
        (3, {"PatientID": "P2"}, "PatientID is P2; expected P1"),
        (3, {"BitsStored": 12, "HighBit": 11}, "BitsStored is 12.0; expected 16.0"),
        (3, {"PhotometricInterpretation": "MONOCHROME1"}, "PhotometricInterpretation is MONO"),
        (3, {"Rows": 9, "Columns": 6}, "Rows is 9; expected 6, as 4 other(s)"),
        (0, {"Modality": "PT"}, "another kind (Modality PT); expected CT"),
        (2, {"RescaleSlope": None, "RescaleIntercept": None}, "has no RescaleSlope and"),
        (2, {"RescaleIntercept": None}, "has no RescaleIntercept; expected 1 number"),
        (2, {"RescaleSlope": "0"}, "RescaleSlope is 0; expected another number"),
        (2, {"ImagePositionPatient": None}, "has no ImagePositionPatient; expected 3"),
        (2, {"ImagePositionPatient": ["1", "2"]}, "ImagePositionPatient is 1, 2; expected 3"),
        (2, {"ImageOrientationPatient": None}, "has no ImageOrientationPatient; expected 6"),
        (2, {"ImageOrientationPatient": ["0"] * 6}, "expected two unit vectors at right angles"),
        (2, {"PixelSpacing": None}, "has no PixelSpacing; expected 2"),
        (2, {"PixelSpacing": ["0", "1"]}, "PixelSpacing 0, 1; expected sizes above 0 mm"),
        (2, {"PixelSpacing": ["-0.75", "1.25"]}, "PixelSpacing -0.75, 1.25; expected sizes above"),
    ],
)  # fmt: skip
def test_a_slice_that_is_not_like_the_others_is_named(tmp_path, z, tags, text):
    folder = series(tmp_path / "a", lambda number: tags if number == z else {})
    refused(folder, text, maker.name(z))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ImagePositionPatient", b"1\\2\\nan"), ("ImagePositionPatient", b"1\\2\\x3"),
        ("ImagePositionPatient", b"1,5\\2\\3 "), ("ImagePositionPatient", b""),
        ("ImagePositionPatient", b"1\\2\\inf"), ("PixelSpacing", b"nan\\1 "),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\one\\0 "), ("RescaleSlope", b"one "),
        ("RescaleIntercept", b"nan "), ("PixelSpacing", b"\\"), ("Rows", b""),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused_by_name(tmp_path, keyword, value):
    folder = series(tmp_path / "a")
    path = folder / maker.name(3)
    dataset = pydicom.dcmread(path)
    tag = pydicom.datadict.tag_for_keyword(keyword)
    raw = pydicom.dataelem.RawDataElement
    vr = dataset[keyword].VR
    # as raw bytes, because pydicom would not write them as numbers
    dataset._dict[pydicom.tag.Tag(tag)] = raw(
        pydicom.tag.Tag(tag), vr, len(value), value, 0, False, True
    )
    dataset.save_as(path)
    refused(folder, keyword, path.name)


def shifted(tmp_path, offsets, name="a", shape=None):
    """A series whose slices lie off their places by lengths in mm, along the normal."""
    values = maker.volume((len(offsets), *SHAPE[1:]))
    return series(
        tmp_path / name,
        lambda z: {"ImagePositionPatient": maker.text(place(z) + offsets[z] * NORMAL)},
        values,
    )


def test_jitter_below_a_hundredth_of_the_step_is_tolerated_and_said(tmp_path):
    image = read_dicom(shifted(tmp_path, [0, 0.02, 0, 0.02, 0, 0.02, 0]))
    assert any("lie up to 0.02 mm from equal steps of 2.5 mm" in note for note in image.notes)
    assert np.isclose(image.spacing_mm[2], 2.5, rtol=1e-3)
    moved = read_dicom(shifted(tmp_path, [0, 0.036, 0.036, 0.036, 0], "c"))
    assert "lie up to 0.018 mm from equal steps of 2.5 mm" in moved.notes[0]
    assert np.allclose(np.array(moved.origin) - place(0), 0.018 * NORMAL, atol=1e-4)
    refused(shifted(tmp_path, [0, 0.08, 0, 0.08, 0, 0.08, 0], "b"), "from equal steps", "2.42 to")


@pytest.mark.parametrize(
    "offsets",
    [[0, 0, 0.5, 0, 0], [0, 0, 0, 0, 1.2], [0, 0.3, 0.3, 0.3, 0.3],
     [0, 0.04, 0.08, 0.12, 0.16, 0.12, 0.08, 0.04, 0]],  # each step by itself is near the usual
)  # fmt: skip
def test_uneven_steps_are_refused(tmp_path, offsets):
    refused(shifted(tmp_path, offsets), "mm apart, the most unusual", "resample it")


def test_a_small_tolerance_for_the_step_would_refuse_jitter_and_a_large_one_take_gaps(
    tmp_path, mutant_of
):
    folder = shifted(tmp_path, [0, 0.02, 0, 0.02, 0, 0.02, 0])
    frames = read_dicom(folder).frames
    strict = mutant_of(dicom_geometry, "STEP_TOLERANCE = 0.01", "STEP_TOLERANCE = 0.0001")
    strict.SMALLEST_TOLERANCE_MM = 0.0
    with pytest.raises(UserError, match="from equal steps"):
        strict.stack(frames, folder)


@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_tilted_gantry_is_refused_with_a_remedy(tmp_path, direction, kind):
    def where(z):
        aside = [0.0, 0.0]
        aside[direction] = 0.3 * z
        return maker.text(place(z, aside))

    if kind == "classic":
        path = series(tmp_path / "a", lambda z: {"ImagePositionPatient": where(z)})
    else:
        path = save(enhanced(per_frame=lambda z: {"PlanePositionSequence": [
            maker.sequence(ImagePositionPatient=where(z))]}), tmp_path / "a.dcm")  # fmt: skip
    refused(path, "shifted by up to 1.2 mm within their plane, 6.8 degrees", "dcm2niix")


@pytest.mark.parametrize(
    ("aside", "text"),
    [
        ([0, 0.003, 0.006, 0.009, 0.012], ""),  # 0.07 degrees
        ([0, 0, 0.04, 0, 0], ""),
        ([0, 0.025, 0.05, 0.075, 0.1], "shifted by up to 0.1 mm"),  # 0.57 degrees
        ([0, 0, 0.1, 0, 0], "shifted by up to 0.1 mm"),  # one slice alone, the ends in line
        ([0.1, 0, 0, 0, 0], "shifted by up to 0.1 mm"),
        ([0, 0, 0.4, 0, 0], "shifted by up to 0.4 mm"),
    ],
)
@pytest.mark.parametrize("direction", [0, 1])
def test_only_small_shifts_within_the_plane_are_tolerated_and_said(
    tmp_path, aside, text, direction
):
    def change(z):
        shift = [0.0, 0.0]
        shift[direction] = aside[z]
        return {"ImagePositionPatient": maker.text(place(z, shift))}

    folder = series(tmp_path / "a", change)
    if text:
        refused(folder, text, "within their plane")
        return
    notes = read_dicom(folder).notes
    assert any(f"shifted by up to {max(aside):g} mm within their plane" in n for n in notes)


def test_a_tilt_of_many_slices_may_add_up_to_a_quarter_of_a_pixel(tmp_path):
    """Over 60 slices of 2.5 mm a twentieth of a degree is 0.13 mm; pixels are of 0.75 mm."""
    values = maker.volume((60, 3, 4))
    for per_slice, good in ((0.0022, True), (0.0035, False), (0.005, False)):
        change = lambda z, s=per_slice: {  # noqa: E731
            "ImagePositionPatient": maker.text(place(z, (s * z, 0)))
        }
        folder = series(tmp_path / f"{per_slice}", change, values, naming="{:03d}")
        if good:
            assert any("shifted by up to 0.13 mm" in n for n in read_dicom(folder).notes)
        else:
            refused(folder, "within their plane")


def test_positions_count_and_not_what_tags_say_of_the_distance(tmp_path):
    near = read_dicom(series(tmp_path / "b", lambda z: {"SpacingBetweenSlices": "2.53"}))
    assert np.isclose(near.spacing_mm[2], 2.5) and near.notes == ()
    image = read_dicom(series(tmp_path / "a", lambda z: {"SpacingBetweenSlices": "9"}))
    assert np.isclose(image.spacing_mm[2], 2.5)
    assert any("positions give 2.5 mm" in n and "SpacingBetweenSlices 9 mm" in n
               for n in image.notes)  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "step", "text"),
    [
        ({"SpacingBetweenSlices": "3.5"}, 3.5, "taken from its tags, 3.5 mm"),
        ({}, 7.0, "taken from its tags, 7 mm"),
        ({"SliceThickness": None}, 1.0, "no tag tells its thickness: 1 mm is taken"),
        ({"SliceThickness": "0"}, 1.0, "no tag tells its thickness"),
    ],
)
def test_a_single_slice_has_the_thickness_of_its_tags(tmp_path, tags, step, text):
    path = save(one(3, maker.volume()[3], **tags), tmp_path / "a.dcm")
    image = read_dicom(path)
    assert image.spacing_mm == (1.25, 0.75, step) and any(text in note for note in image.notes)
    assert np.allclose(image.origin, place(3)) and image.array.shape == (1, 6, 9)


def test_a_multi_frame_file_without_positions_of_frames_is_refused(tmp_path):
    dataset = enhanced()
    del dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence
    refused(save(dataset, tmp_path / "a.dcm"), "holds 5 frames without a position of each")
    dataset = enhanced()
    del dataset.PerFrameFunctionalGroupsSequence[4]
    refused(save(dataset, tmp_path / "b.dcm"), "holds 5 frames, but describes 4")
    dataset = enhanced()
    del dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    refused(save(dataset, tmp_path / "c.dcm"), "c.dcm frame 2 has no ImagePositionPatient")


def test_the_volume_in_one_orientation_is_the_same_for_a_series_and_a_multi_frame_file(tmp_path):
    first, geometry = read_image(series(tmp_path / "a"))
    second, of_frames = read_image(save(enhanced((3, 1, 0, 2, 4)), tmp_path / "b.dcm"))
    assert is_volume(tmp_path / "a") and np.array_equal(first, second)
    assert geometry.same_grid(of_frames)
