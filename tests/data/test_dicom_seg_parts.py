"""The parts of a DICOM SEG by hand: codes by every name, sources, places and what is read back."""

from __future__ import annotations

import logging
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pydicom
import pytest
from dicom_maker import enhanced, one
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from lmaunet.data.dicom import codes as dicom_codes
from lmaunet.data.dicom import seg
from lmaunet.data.dicom.codes import segment_code
from lmaunet.data.dicom.frames import frames_of
from lmaunet.data.dicom.header import Header
from lmaunet.data.dicom.series import DicomImage
from lmaunet.errors import UserError

V = maker.volume()


def image(datasets, order, **change):
    """A series of datasets whose frames lie in an order, without files."""
    headers = [Header(Path(f"{i}.dcm"), dataset) for i, dataset in enumerate(datasets)]
    every = frames_of(headers)
    frames = [every[i] for i in order]
    values = {
        "array": np.zeros((len(frames), 6, 9), np.float32), "spacing_mm": (1.25, 0.75, 2.5),
        "origin": frames[0].position, "notes": (), "modality": "CT",
        "direction": tuple(np.stack([maker.ROW, maker.COLUMN, maker.NORMAL], 1).ravel()),
        "files": tuple(headers[f.source].path for f in frames), "frames": tuple(frames),
        "headers": tuple(headers),
    }  # fmt: skip
    return DicomImage(**values | change)


def classic(zs=(2, 0, 1), **tags):
    return image([one(z, V[z], **tags) for z in zs], np.argsort(zs))


def multi(zs=(2, 0, 1)):
    return image([enhanced(zs)], np.argsort(zs))


def test_slices_are_told_in_the_order_of_files_and_frames():
    assert seg._source_order(classic()) == seg._source_order(multi()) == [2, 0, 1]


@pytest.mark.parametrize("zs", [(2, 0, 1), (0, 2, 1)])
def test_source_images_lie_where_their_slices_do(zs):
    found = seg._sources(classic(zs))
    for z, source in zip(zs, found, strict=True):
        assert np.allclose(source.ImagePositionPatient, maker.place(z))
        assert np.allclose(source.ImageOrientationPatient, [*maker.ROW, *maker.COLUMN])
        assert source.PixelSpacing == [0.75, 1.25]
        assert source.SliceThickness == source.SpacingBetweenSlices == 2.5
        assert (source.Rows, source.Columns, source.Modality) == (6, 9, "CT")
        assert "NumberOfFrames" not in source
    (source,) = seg._sources(multi(zs))
    assert source.NumberOfFrames == 3 and "ImagePositionPatient" not in source
    for z, group in zip(zs, source.PerFrameFunctionalGroupsSequence, strict=True):
        assert np.allclose(group.PlanePositionSequence[0].ImagePositionPatient, maker.place(z))
    shared = source.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert measures.PixelSpacing == [0.75, 1.25]
    assert measures.SliceThickness == measures.SpacingBetweenSlices == 2.5
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert np.allclose(orientation, [*maker.ROW, *maker.COLUMN])


def test_identity_is_kept_and_what_is_missing_is_new_and_the_same_for_all():
    kept = seg._sources(classic())
    assert {(s.StudyInstanceUID, s.SeriesInstanceUID) for s in kept} == {("1.2.3", "1.2.3.5")}
    assert len({s.SOPInstanceUID for s in kept}) == 3
    lost = seg._sources(classic(StudyInstanceUID=None, SeriesInstanceUID=None))
    pairs = {(s.StudyInstanceUID, s.SeriesInstanceUID) for s in lost}
    assert len(pairs) == 1 and len({*pairs.pop(), "1.2.3", "1.2.3.5"}) == 4


TEXTS = ["PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", "StudyDescription",
         "PatientAge", "IssuerOfPatientID", "ClinicalTrialSubjectID", "PositionReferenceIndicator",
         "PatientPosition", "BodyPartExamined", "Laterality"]  # fmt: skip


@pytest.mark.parametrize("key", TEXTS)
def test_what_describes_patient_and_study_is_carried(key):
    def described(**tags):
        return seg._described(Header(Path("a"), maker.sequence(**tags)))

    assert described(**{key: "X1"})[key].value == "X1"
    needed = ("PatientID", "AccessionNumber", "StudyID")
    assert (key in described()) == (key in needed) and described().PatientName == ""


@pytest.mark.parametrize(("sex", "kept"), [("M", "M"), ("F", "F"), ("O", "O"), ("U", ""), ("", "")])
def test_a_sex_that_the_standard_has_is_kept(sex, kept):
    assert seg._described(Header(Path("a"), maker.sequence(PatientSex=sex))).PatientSex == kept


def test_dates_names_and_long_texts():
    name = "A" * 70 + "^B"
    found = seg._described(Header(Path("a"), maker.sequence(
        PatientBirthDate="19700102", StudyDate="20200203", StudyTime="101112", PatientName=name,
        PatientID="x" * 64 + "y")))  # fmt: skip
    assert (str(found.PatientBirthDate), str(found.StudyDate)) == ("19700102", "20200203")
    assert str(found.StudyTime) == "101112" and found.PatientID == "x" * 64
    assert str(found.PatientName) == name
    empty = seg._described(Header(Path("a"), Dataset()))
    assert [empty[key].value for key in ("PatientBirthDate", "StudyDate", "StudyTime")] == [""] * 3


@pytest.mark.parametrize(("text", "kept"), [("a\\b", "ab"), (" a ", "a"), ("", "")])
def test_a_value_has_no_control_characters(text, kept):
    class Damaged:
        def text(self, key):
            if text == "":
                raise UserError("damaged")
            return "\x01" + text + "\x7f\x1f"

    assert seg._value(Damaged(), "PatientID") == kept


@pytest.mark.parametrize(("change", "text"), [
    (lambda s: None, None), (lambda s: s[1].dataset.pop("SOPInstanceUID"), "lack or share"),
    (lambda s: setattr(s[2].dataset, "SOPInstanceUID", s[0].text("SOPInstanceUID")), "or share"),
    (lambda s: setattr(s[0].dataset, "SOPClassUID", "1.2.9"), r"SOPClassUID 1\.2\.9 is no class"),
    (lambda s: setattr(s[-1].dataset, "SOPClassUID", "1.2.9"), None),
    (lambda s: setattr(s[0].dataset, "FrameOfReferenceUID", ""), "has no FrameOfReferenceUID"),
    (lambda s: setattr(s[-1].dataset, "FrameOfReferenceUID", ""), None)])  # fmt: skip
def test_a_source_has_what_a_seg_refers_to(change, text):
    """The first file's class and frame of reference, and every file's own UID."""
    source = classic()
    change(source.headers)
    if text is None:
        assert seg.check_segmentation_source(source, Path("s.dcm")) == ()
    else:
        with pytest.raises(UserError, match=f"^s.dcm: .*{text}"):
            seg.check_segmentation_source(source, Path("s.dcm"))


@pytest.mark.parametrize(("keys", "said"), [
    (["StudyInstanceUID"], "has no StudyInstanceUID (anonymised)"),
    (["SeriesInstanceUID"], "has no SeriesInstanceUID (anonymised)"),
    (["StudyInstanceUID", "SeriesInstanceUID"], "no StudyInstanceUID and SeriesInst"),
])  # fmt: skip
def test_new_uids_are_said(keys, said):
    (note,) = seg.check_segmentation_source(classic(**dict.fromkeys(keys)), Path("s.dcm"))
    assert said in note and seg.check_segmentation_source(multi(), Path("s.dcm")) == ()


@pytest.mark.parametrize(("labels", "classes", "text"), [
    ([0, 4], 4, "labels up to 4 and 4 classes"), ([0, 0], 1, "labels up to 0 and 1 classes"),
    ([-1, 3], 4, "labels up to 3 and 4 classes")])  # fmt: skip
def test_labels_are_below_the_number_of_classes(tmp_path, labels, classes, text):
    array = np.resize(labels, (3, 6, 9))
    with pytest.raises(UserError, match=f"{text}; expected labels below"):
        seg.write_segmentation(tmp_path / "s.dcm", array, classic(), list("abcd")[:classes], "n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "text"), [
    (OSError(28, "No space left"), "cannot write s.dcm: No space left"),
    (OSError("odd"), "cannot write s.dcm: odd"),
    (ValueError("first\nsecond"), "cannot write s.dcm as DICOM SEG: first; write .nii.gz"),
    (ValueError(""), "cannot write s.dcm as DICOM SEG: ValueError; write .nii.gz or .nrrd instead"),
    (UserError("own"), "own")])  # fmt: skip
def test_why_a_seg_cannot_be_written_is_one_line(tmp_path, monkeypatch, error, text):
    def fail(*_):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(seg, "_segmentation", fail)
    with pytest.raises(UserError) as raised:
        seg.write_segmentation(Path("s.dcm"), np.zeros((3, 6, 9), int), classic(), "ab", "n")
    assert str(raised.value).startswith(text) and list(tmp_path.iterdir()) == []


def test_highdicom_is_quiet_only_while_it_writes():
    logger = logging.getLogger("highdicom")
    level = logger.level
    with pytest.raises(KeyError), seg._silent():
        assert logger.level == logging.CRITICAL + 1
        raise KeyError
    assert logger.level == level


def written(path, labels, source, change=lambda d: None):
    """A SEG of the tags that reading it back looks at, of one bit a pixel."""
    dataset = Dataset()
    dataset.Rows, dataset.Columns = labels.shape[1:]
    dataset.SegmentSequence = [maker.sequence(SegmentNumber=n) for n in (1, 2)]
    groups, planes = [], []
    for number in (1, 2):
        for z, plane in enumerate(labels):
            if (plane == number).any():
                place = maker.sequence(ImagePositionPatient=maker.text(source.frames[z].position))
                segment = maker.sequence(ReferencedSegmentNumber=number)
                groups.append(maker.sequence(PlanePositionSequence=[place],
                                             SegmentIdentificationSequence=[segment]))  # fmt: skip
                planes.append((plane == number).ravel())
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    dataset.NumberOfFrames = len(groups)
    content = np.packbits(np.concatenate(planes), bitorder="little").tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    dataset.file_meta = maker.header("1.2.840.10008.5.1.4.1.1.66.4", "1.2").file_meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.9"
    dataset.BitsAllocated = 1
    change(dataset)
    maker.save(dataset, path)
    seg._check_written(path, labels, source, 2)


def flip(bit):
    def change(dataset):
        content = bytearray(dataset.PixelData)
        content[bit // 8] ^= 1 << bit % 8
        dataset.PixelData = bytes(content)

    return change


def moved(mm):
    def change(dataset):
        place = dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
        place.ImagePositionPatient = [v + mm * n for v, n in zip(
            map(float, place.ImagePositionPatient), maker.ROW, strict=True)]  # fmt: skip

    return change


def drop(dataset):
    dataset.PerFrameFunctionalGroupsSequence.pop()
    dataset.NumberOfFrames = 3


def share(dataset):
    """As where all frames are of one segment: its number stands in the shared groups."""
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.SegmentIdentificationSequence
    dataset.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence = [
        maker.sequence(ReferencedSegmentNumber=1)
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: None, None),
        (moved(0.0009), None),
        (moved(0.0011), "frame 2 of segment 1"),
        # frames of 54 bits begin within bytes
        (flip(0), "frame 1 of segment 1"), (flip(53), "frame 1 of segment 1"),
        (flip(54), "frame 2 of segment 1"), (flip(107), "frame 2 of segment 1"),
        (flip(108), "frame 3 of segment 2"), (flip(215), "frame 4 of segment 2"),
        (drop, "3 frames, expected 4"), (share, "frame 3 of segment 1"),
        (lambda d: setattr(d, "NumberOfFrames", 5), "4 frames, expected 4"),
        (lambda d: d.SegmentSequence.reverse(), r"segments \[2, 1\]"),
        (lambda d: d.SegmentSequence.pop(), r"segments \[1\]"),
    ],
)  # fmt: skip
def test_a_seg_is_read_back_bit_by_bit(tmp_path, change, text):
    labels = np.zeros((3, 6, 9), np.uint8)
    labels[0, 0, :2], labels[1, 2:4], labels[1, 5, 8], labels[2, 0, 0] = 1, 1, 2, 2
    if text is None:
        written(tmp_path / "a.dcm", labels, classic(), change)
    else:
        with pytest.raises(UserError, match=f"{text}"):
            written(tmp_path / "a.dcm", labels, classic(), change)


NAMES = [(name, category, keyword) for category, types in dicom_codes._NAMES.items()
         for keyword, names in types.items() for name in names]  # fmt: skip


def test_every_name_has_a_code_of_its_own_kind():
    for name, category, keyword in NAMES:
        for written_so in (name, name.upper(), name.replace(" ", "_"), f"the {name}"):
            found = segment_code(written_so)
            assert found.type == getattr(codes.SCT, keyword), written_so
            assert found.category == getattr(codes.cid7150, category) and found.side is None
    assert len({name for name, _, _ in NAMES}) == len(NAMES)


@pytest.mark.parametrize(("name", "keyword", "side"), [
    ("LV", "LeftVentricle", None), ("rv", "RightVentricle", None), ("LA", "LeftAtrium", None),
    ("ra", "RightAtrium", None), ("cardiac left atrium", "LeftAtrium", None),
    ("heart ventricle left", "LeftVentricle", None),
    ("cardiac heart right ventricle", "RightVentricle", None),
    ("LV blood pool", "LeftVentricle", None),
    ("left brain ventricle", "AnatomicalStructure", "Left"), ("l kidney", "Kidney", "Left"),
    ("kidney r", "Kidney", "Right"), ("left and right kidney", "AnatomicalStructure", None),
    ("left right kidney", "Kidney", None), ("ventricle", "AnatomicalStructure", None)])  # fmt: skip
def test_sides_and_chambers(name, keyword, side):
    found = segment_code(name)
    assert found.type == getattr(codes.SCT, keyword)
    assert found.side == (getattr(codes.SCT, side) if side else None)


def test_a_number_of_a_series_is_a_thousand_more():
    labels = np.zeros((3, 6, 9), np.uint8)
    for number, wanted in ((7, 1007), (None, 1000)):
        found = seg._segmentation(labels, classic(SeriesNumber=number), ["a", "spleen"], "net")
        assert found.SeriesNumber == wanted and found.InstanceNumber == 1
    places = [g.PlanePositionSequence[0].ImagePositionPatient
              for g in found.PerFrameFunctionalGroupsSequence]  # fmt: skip
    assert len(places) == 1 and np.allclose(places[0], maker.place(2))
    assert [s.SegmentLabel for s in found.SegmentSequence] == ["spleen"]
    assert (
        found.ContentDescription == "Segmentation by net" and found.Manufacturer == "lmaunet-deploy"
    )
    assert isinstance(found, pydicom.Dataset)
