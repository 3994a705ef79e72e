"""DICOM SEG: what was written, read by pydicom and highdicom, lies on the slices it refers to."""

import errno
import shutil

import dicom_maker as maker
import highdicom
import numpy as np
import pydicom
import pytest
from dicom_maker import SHAPE, enhanced, in_syntax, one, save, series
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from lmaunet.data.dicom import seg as dicom_seg
from lmaunet.data.dicom.codes import segment_code
from lmaunet.data.dicom.seg import check_segmentation_source, write_segmentation
from lmaunet.data.dicom.series import read_dicom
from lmaunet.errors import UserError

CLASSES = ("background", "spleen", "right_kidney", "left kidney", "aorta")
V = maker.volume()


def labels(shape=SHAPE):
    """Each class somewhere but class 3, and slices with none."""
    array = np.zeros(shape, np.uint8)
    array[1:3, 1:3, 2:7], array[2:4, 4:, :3], array[3, :2, 8] = 1, 2, 4
    return array


def written(tmp_path, source, array=None, classes=CLASSES):
    array = labels() if array is None else array
    out = tmp_path / "new" / "out" / "seg.dcm"
    path = write_segmentation(out, array, source, classes, "demo 1.0")
    assert [p.name for p in path.parent.iterdir()] == ["seg.dcm"]
    return path


def by_position(path):
    """The pixels of each segment and position, by pydicom alone."""
    dataset = pydicom.dcmread(path)
    planes = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    result = {}
    for plane, group in zip(planes, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = tuple(float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient)
        sources = group.DerivationImageSequence[0].SourceImageSequence
        result[segment, position] = plane, sources
    return dataset, result


def assert_lies_on(path, source, array):
    """Every frame has the pixels of its class at the place of the slice that it refers to."""
    dataset, frames = by_position(path)
    expected = {(n, z) for z in range(len(array)) for n in np.unique(array[z]) if n}
    assert len(frames) == len(expected)
    for (segment, position), (plane, sources) in frames.items():
        near = [z for z in range(len(array)) if np.allclose(maker.place(z), position, atol=1e-6)]
        assert len(near) == 1 and len(sources) == 1
        z = near[0]
        assert np.array_equal(plane, array[z] == segment)
        header = pydicom.dcmread(source.files[z])
        assert sources[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert sources[0].get("ReferencedFrameNumber") in (None, (source.frames[z].number or 0) + 1)
        expected.remove((segment, z))
    assert not expected
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert np.allclose(measures.PixelSpacing, maker.SPACING[1:])
    assert np.allclose(float(measures.SpacingBetweenSlices), maker.SPACING[0])
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert np.allclose(orientation, [*maker.ROW, *maker.COLUMN], atol=1e-6)
    return dataset


def test_segments_of_a_series_lie_on_its_slices(tmp_path):
    source = read_dicom(series(tmp_path / "a"))
    dataset = assert_lies_on(written(tmp_path, source), source, labels())
    header = pydicom.dcmread(source.files[0])
    for key in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName"):
        assert dataset[key].value == header[key].value
    assert dataset.SeriesInstanceUID != header.SeriesInstanceUID
    assert dataset.SeriesNumber == 1004 and dataset.Modality == "SEG"
    assert dataset.SegmentationType == "BINARY" and dataset.ContentLabel == "SEGMENTATION"
    assert dataset.SeriesDescription == "Segmentation demo 1.0"
    referred = dataset.ReferencedSeriesSequence[0]
    assert referred.SeriesInstanceUID == header.SeriesInstanceUID
    assert len(referred.ReferencedInstanceSequence) == SHAPE[0]
    assert [s.SegmentLabel for s in dataset.SegmentSequence] == list(CLASSES[1:])
    assert [s.SegmentNumber for s in dataset.SegmentSequence] == [1, 2, 3, 4]
    for segment in dataset.SegmentSequence:
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert segment.SegmentAlgorithmName == "demo 1.0"
    kidney = dataset.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0]
    assert (kidney.CodeValue, kidney.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 0, 3, 1, 2)])
def test_segments_of_a_multi_frame_image_lie_on_its_frames(tmp_path, order):
    path = save(enhanced(order), tmp_path / "a.dcm")
    source = read_dicom(path)
    assert_lies_on(written(tmp_path, source), source, labels())


def test_highdicom_reads_the_labels_back_as_a_volume(tmp_path):
    source = read_dicom(series(tmp_path / "a"))
    segmentation = highdicom.seg.segread(written(tmp_path, source))
    volume = segmentation.get_volume(combine_segments=True)
    for index in np.ndindex(*volume.spatial_shape):
        point = volume.affine @ [*index, 1]
        step = np.array(source.direction).reshape(3, 3) * np.array(source.spacing_mm)
        x, y, z = np.rint(np.linalg.solve(step, point[:3] - source.origin)).astype(int)
        assert volume.array[index] == labels()[z, y, x]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("labels.astype(kind)[order]", "labels.astype(kind)"),
        ("source.frames[slices[0]].position", "source.frames[0].position"),
        ("numbers([y, x])\n        image.SliceThickness", "numbers([x, y])\n        image.Slice"
         "Thickness"),
        ("*source.direction[0::3], *source.direction[1::3]",
         "*source.direction[1::3], *source.direction[0::3]"),
    ],
)  # fmt: skip
def test_a_segment_elsewhere_is_noticed(tmp_path, mutant_of, right, wrong):
    """By reading back, or by the independent check of these tests."""
    mutant = mutant_of(dicom_seg, right, wrong)
    source = read_dicom(series(tmp_path / "a"))
    with pytest.raises((UserError, AssertionError)):
        path = mutant.write_segmentation(tmp_path / "s.dcm", labels(), source, CLASSES, "demo")
        assert_lies_on(path, source, labels())


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: setattr(d, "PixelData", bytes(len(d.PixelData))),
        lambda d: setattr(d, "PixelData", b"\xff" + d.PixelData[1:]),
        lambda d: d.SegmentSequence.pop(),
        lambda d: d.PerFrameFunctionalGroupsSequence.reverse(),
        lambda d: setattr(
            d.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0],
            "ImagePositionPatient", ["1", "2", "3"],
        ),
        lambda d: (d.PerFrameFunctionalGroupsSequence.pop(), setattr(d, "NumberOfFrames", 4)),
    ],
)  # fmt: skip
def test_what_was_written_is_read_back_before_it_takes_its_place(tmp_path, monkeypatch, damage):
    source = read_dicom(series(tmp_path / "a"))
    old = written(tmp_path, source)
    content = old.read_bytes()
    make = dicom_seg._segmentation

    def damaged(*args):
        dataset = make(*args)
        damage(dataset)
        return dataset

    monkeypatch.setattr(dicom_seg, "_segmentation", damaged)
    with pytest.raises(UserError, match=r"does not read back as it was written"):
        written(tmp_path, source)
    assert old.read_bytes() == content and len(list(old.parent.iterdir())) == 1


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    source = read_dicom(series(tmp_path / "a"))
    old = written(tmp_path, source)
    content = old.read_bytes()

    def full(self, stream, **_):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(UserError, match=r"cannot write .*seg\.dcm: No space left on device"):
        written(tmp_path, source)
    assert old.read_bytes() == content and len(list(old.parent.iterdir())) == 1


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_a_mask_without_any_voxel_has_all_segments_and_one_place(tmp_path, kind):
    if kind == "classic":
        source = read_dicom(series(tmp_path / "a"))
    else:
        source = read_dicom(save(enhanced((4, 0, 3, 1, 2)), tmp_path / "a.dcm"))
    path = written(tmp_path, source, np.zeros(SHAPE, np.uint8))
    dataset, frames = by_position(path)
    assert len(dataset.SegmentSequence) == 4 and len(frames) == 4
    assert not any(plane.any() for plane, _ in frames.values())


def test_one_class_and_one_slice(tmp_path):
    source = read_dicom(save(one(2, V[2]), tmp_path / "a.dcm"))
    array = np.zeros((1, *SHAPE[1:]), np.uint8)
    array[0, 2, 3] = 1
    path = written(tmp_path, source, array, ("background", "tumour"))
    dataset = pydicom.dcmread(path)
    assert np.array_equal(dataset.pixel_array.reshape(array.shape), array)
    assert dataset.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0].CodeValue == (
        "49755003"
    )


@pytest.mark.parametrize("kind", ["implicit", "compressed", "no thickness", "private tags"])
def test_sources_of_several_kinds(tmp_path, kind):
    for z in range(SHAPE[0]):
        path = tmp_path / "a" / f"{z}.dcm"
        dataset = one(z, V[z])
        if kind == "implicit":
            in_syntax(dataset, ImplicitVRLittleEndian, path)
            continue
        if kind == "compressed":
            dataset.compress(RLELossless, generate_instance_uid=False)
        elif kind == "no thickness":
            del dataset.SliceThickness
        else:
            dataset.private_block(0x11, "x", create=True).add_new(1, "OB", b"\1\2")
        save(dataset, path)
    source = read_dicom(tmp_path / "a")
    assert_lies_on(written(tmp_path, source), source, labels())


@pytest.mark.parametrize(
    "tags",
    [
        dict.fromkeys(("PatientID", "PatientName", "StudyInstanceUID", "SeriesNumber"), None),
        {"PatientName": "", "PatientID": "", "PatientBirthDate": "", "PatientSex": "",
         "StudyDate": "", "StudyTime": "", "StudyID": "", "AccessionNumber": ""},
        {"PatientSex": "U", "PatientID": "x" * 70, "StudyID": "a\\b", "SeriesNumber": "-3"},
        {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "M\u00fcller^J\u00f6rg"},
    ],
)  # fmt: skip
def test_identity_may_be_missing_or_illegal(tmp_path, tags):
    source = read_dicom(series(tmp_path / "a", lambda z: tags))
    notes = check_segmentation_source(source, tmp_path / "s.dcm")
    assert any("has no StudyInstanceUID" in n for n in notes) == (
        "StudyInstanceUID" in tags and tags["StudyInstanceUID"] is None
    )
    dataset = assert_lies_on(written(tmp_path, source), source, labels())
    if "ller" in (tags.get("PatientName") or ""):
        assert str(dataset.PatientName) == "M\u00fcller^J\u00f6rg"
    if tags.get("PatientSex") == "U":
        assert dataset.PatientSex == "" and dataset.SeriesNumber == 1000


def test_a_damaged_birth_date_is_left_out(tmp_path):
    folder = series(tmp_path / "a", lambda z: {"PatientBirthDate": "19700101"})
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"19700101", b"19 7x.01"))
    source = read_dicom(folder)
    assert pydicom.dcmread(written(tmp_path, source)).PatientBirthDate == ""


@pytest.mark.parametrize(
    ("name", "label"),
    [("a" * 80, "a" * 64), ("left\\kidney", "left kidney"), ("", "class 1"), ("\n", "class 1"),
     ("R\u00fcckenmark", "R\u00fcckenmark"), (" two\twords ", "two words")],
)  # fmt: skip
def test_names_that_are_no_legal_text_are_made_one(tmp_path, name, label):
    source = read_dicom(series(tmp_path / "a"))
    array = (labels() == 1).astype(np.uint8)
    path = write_segmentation(tmp_path / "s.dcm", array, source, ("bg", name), "n\\1" * 40)
    dataset = pydicom.dcmread(path)
    assert dataset.SegmentSequence[0].SegmentLabel == label
    assert len(dataset.SeriesDescription) <= 64 and "\\" not in dataset.SeriesDescription


def test_more_classes_than_a_byte_holds(tmp_path):
    source = read_dicom(series(tmp_path / "a"))
    array = labels().astype(np.uint16)
    array[array == 4] = 299
    path = written(tmp_path, source, array, [f"c{n}" for n in range(300)])
    assert_lies_on(path, source, array)


@pytest.mark.parametrize(("classes", "kind"), [(5, "uint8"), (256, "uint8"), (257, "uint16")])
def test_labels_take_no_more_memory_than_they_need(tmp_path, monkeypatch, classes, kind):
    source, seen = read_dicom(series(tmp_path / "a")), []
    make = dicom_seg._segmentation
    monkeypatch.setattr(
        dicom_seg,
        "_segmentation",
        lambda array, *a: seen.append(array.dtype.name) or make(array, *a),
    )
    written(tmp_path, source, labels().astype(np.int64), [f"c{n}" for n in range(classes)])
    assert seen == [kind]


def test_a_seg_is_a_file_that_any_dicom_reader_knows(tmp_path):
    content = written(tmp_path, read_dicom(series(tmp_path / "a"))).read_bytes()
    assert content[:132] == bytes(128) + b"DICM"
    meta = pydicom.dcmread(tmp_path / "new" / "out" / "seg.dcm").file_meta
    assert meta.MediaStorageSOPClassUID.name == "Segmentation Storage"
    assert meta.ImplementationClassUID and meta.TransferSyntaxUID


def test_what_a_seg_cannot_refer_to_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"the image is none; write \.nii\.gz or \.nrrd instead"):
        check_segmentation_source(None, tmp_path / "seg.dcm")
    folder = series(tmp_path / "a", lambda z: {"FrameOfReferenceUID": None})
    with pytest.raises(UserError, match="has no FrameOfReferenceUID; write"):
        check_segmentation_source(read_dicom(folder), tmp_path / "seg.dcm")
    folder = series(tmp_path / "b", lambda z: {"SOPInstanceUID": "1.2.9"})
    with pytest.raises(UserError, match="SOPInstanceUID, which the image's files lack or share"):
        check_segmentation_source(read_dicom(folder), tmp_path / "seg.dcm")
    folder = series(tmp_path / "d", lambda z: {"SOPClassUID": "1.2.840.99"})
    with pytest.raises(UserError, match=r"SOPClassUID 1\.2\.840\.99 is no class of images"):
        check_segmentation_source(read_dicom(folder), tmp_path / "seg.dcm")
    for part, order in enumerate([(4, 0), (1, 3, 2)]):
        save(enhanced(order), tmp_path / "c" / f"{part}.dcm")
    with pytest.raises(UserError, match="split into 2 multi-frame files"):
        check_segmentation_source(read_dicom(tmp_path / "c"), tmp_path / "seg.dcm")


def test_labels_that_do_not_fit_are_refused(tmp_path):
    source = read_dicom(series(tmp_path / "a"))
    out = tmp_path / "s.dcm"
    with pytest.raises(UserError, match=r"labels of shape \(2, 6, 9\); expected \(5, 6, 9\)"):
        write_segmentation(out, labels()[:2], source, CLASSES, "demo")
    with pytest.raises(UserError, match="labels up to 4 and 4 classes"):
        write_segmentation(out, labels(), source, CLASSES[:4], "demo")
    with pytest.raises(UserError, match="one class beside the background"):
        write_segmentation(out, labels() * 0, source, CLASSES[:1], "demo")
    assert not out.exists()


def test_the_source_may_be_gone_when_the_segmentation_is_written(tmp_path):
    folder = series(tmp_path / "a")
    source = read_dicom(folder)
    shutil.rmtree(folder)
    assert by_position(written(tmp_path, source))[1]


@pytest.mark.parametrize(
    ("name", "category", "code", "side"),
    [
        ("spleen", "91723000", "78961009", None),
        ("Right Kidney", "91723000", "64033007", "24028007"),
        ("kidney_left", "91723000", "64033007", "7771000"),
        ("gallbladder", "91723000", "28231008", None),
        ("esophagus", "91723000", "32849002", None),
        ("liver", "91723000", "10200004", None),
        ("stomach", "91723000", "69695003", None),
        ("aorta", "91723000", "15825003", None),
        ("inferior_vena_cava", "91723000", "64131007", None),
        ("pancreas", "91723000", "15776009", None),
        ("right adrenal gland", "91723000", "23451007", "24028007"),
        ("duodenum", "91723000", "38848004", None),
        ("right ventricle", "91723000", "53085002", None),
        ("LV", "91723000", "87878005", None),
        ("left ventricular cavity", "91723000", "91723000", "7771000"),
        ("left lateral ventricle", "91723000", "91723000", "7771000"),  # one of the brain
        ("left ventricle cavity", "91723000", "87878005", None),
        ("heart_ventricle_left", "91723000", "87878005", None),
        ("RA", "91723000", "73829009", None),
        ("myocardium", "91723000", "49848007", None),
        ("tumour", "49755003", "108369006", None),
        ("enhancing tumor", "49755003", "108369006", None),
        ("edema", "49755003", "79654002", None),
        ("organ 7", "91723000", "91723000", None),
        ("left", "91723000", "91723000", "7771000"),
        ("", "91723000", "91723000", None),
    ],
)
def test_codes_of_classes(name, category, code, side):
    found = segment_code(name)
    assert (found.category.value, found.type.value) == (category, code)
    assert (found.side.value if found.side else None) == side
