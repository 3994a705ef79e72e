"""What a frame says of itself: every tag by its own name, and which numbers are none."""

from __future__ import annotations

import math
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pytest
from dicom_maker import enhanced, one
from pydicom.dataset import Dataset

from lmaunet.data.dicom import frames as dicom_frames
from lmaunet.data.dicom.frames import MOST_FRAMES, frames_of
from lmaunet.data.dicom.header import Header
from lmaunet.errors import UserError

V = maker.volume()
ROW, COLUMN = list(maker.ROW), list(maker.COLUMN)


def frames(dataset, name="f.dcm"):
    return frames_of([Header(Path("d") / name, dataset)])


def refused(dataset, text):
    with pytest.raises(UserError) as raised:
        frames(dataset)
    assert text in str(raised.value), str(raised.value)


TRAITS = {
    "SOPClassUID": ("1.2.3", "1.2.3"), "PatientID": ("P7", "P7"),
    "StudyInstanceUID": ("1.2.4", "1.2.4"), "FrameOfReferenceUID": ("1.2.5", "1.2.5"),
    "Modality": ("MR", "MR"), "Rows": (7, 7), "Columns": (8, 8), "SamplesPerPixel": (3, 3),
    "PhotometricInterpretation": ("RGB", "RGB"), "BitsAllocated": (32, 32),
    "BitsStored": (12, 12.0),
    "StackID": ("S", "S"), "EchoTime": (4.56, 4.6), "DiffusionBValue": (800.123456, 800.1235),
    "TemporalPositionIdentifier": (5, 5.0), "RescaleType": ("US", "US"),
}  # fmt: skip


def test_every_trait_comes_from_its_own_tag():
    dataset = one(
        0, V[0], ImageType=["A", "B", " C ", "D"], **{k: v for k, (v, _) in TRAITS.items()}
    )
    wanted = {k: v for k, (_, v) in TRAITS.items()} | {"image type": "C"}
    wanted["TemporalPosition"] = wanted.pop("TemporalPositionIdentifier")
    assert frames(dataset)[0].traits == wanted
    bare = one(0, V[0], ImageType=["A", "B"], SamplesPerPixel=None, PatientID="")
    traits = frames(bare)[0].traits
    assert traits["image type"] == "" and traits["SamplesPerPixel"] == 1
    assert [key for key, value in traits.items() if value is None] == [
        "PatientID", "StackID", "EchoTime", "DiffusionBValue", "TemporalPosition",
    ]  # fmt: skip


HINTS = {
    "AcquisitionNumber": 3, "TriggerTime": 4.5, "NominalCardiacTriggerDelayTime": 6.5,
    "FrameAcquisitionDateTime": "20200101", "AcquisitionTime": "101010",
    "AcquisitionDateTime": "20200102", "ContentTime": "111111", "ConvolutionKernel": "B30",
}  # fmt: skip


def test_every_hint_comes_from_its_own_tag():
    dataset = one(0, V[0], **HINTS)
    assert frames(dataset)[0].hints == HINTS | {"ImageType": ("ORIGINAL", "PRIMARY", "AXIAL")}
    dataset = enhanced((0,), values=V[:1], per_frame=lambda z: {
        "FrameContentSequence": [maker.sequence(FrameAcquisitionDateTime="20210101")],
        "CardiacSynchronizationSequence": [maker.sequence(NominalCardiacTriggerDelayTime=8.5)],
        "MRImageFrameTypeSequence": [maker.sequence(FrameType=["X", "Y", "Z"])]},
        **HINTS)  # fmt: skip
    hints = frames(dataset)[0].hints
    assert hints == HINTS | {"FrameAcquisitionDateTime": "20210101", "ImageType": ("X", "Y", "Z"),
                             "NominalCardiacTriggerDelayTime": 8.5}  # fmt: skip


FRAME_TYPES = (
    "CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence",
    "XRay3DFrameTypeSequence", "ParametricMapFrameTypeSequence",
    "CommonCTMRPETImageFrameTypeSequence",
)  # fmt: skip


@pytest.mark.parametrize("sequence", FRAME_TYPES)
def test_a_frame_has_the_type_that_its_kind_of_image_gives_it(sequence):
    dataset = enhanced(
        per_frame=lambda z: {sequence: [maker.sequence(FrameType=["A", "B", f"C{z}"])]}
    )
    assert [f.traits["image type"] for f in frames(dataset)] == ["C0", "C1", "C2", "C3", "C4"]


def test_the_first_of_two_types_of_a_frame_counts_and_one_without_a_type_is_none():
    both = {key: [maker.sequence(FrameType=["A", "B", key])] for key in FRAME_TYPES[1:3]}
    assert frames(enhanced(per_frame=lambda z: both))[0].traits["image type"] == FRAME_TYPES[1]
    bare = {FRAME_TYPES[0]: [maker.sequence(StackID="1")]}
    assert frames(enhanced(per_frame=lambda z: bare))[0].traits["image type"] == "VOLUME"


def test_every_tag_of_a_frame_comes_from_its_own_group():
    """The frame's own before the shared one; numbers are counted from 0, names from 1."""

    def groups(z):
        return {
            "PixelMeasuresSequence": [maker.sequence(
                PixelSpacing=[0.5 + z, 0.25], SliceThickness=3 + z, SpacingBetweenSlices=4 + z)],
            "FrameContentSequence": [maker.sequence(StackID=f"S{z}", TemporalPositionIndex=6 + z)],
            "MREchoSequence": [maker.sequence(EffectiveEchoTime=7.25 + z)],
            "MRDiffusionSequence": [maker.sequence(DiffusionBValue=8.0 + z)],
        }  # fmt: skip

    found = frames(enhanced((2, 0), per_frame=groups, transformation="per frame"))
    for number, (z, slope, frame) in enumerate(zip((2, 0), (0.25, 0.25), found, strict=True)):
        assert (frame.source, frame.number, frame.name) == (
            0,
            number,
            f"d/f.dcm frame {number + 1}",
        )
        assert frame.spacing_mm == (0.5 + z, 0.25) and frame.between_mm == 4 + z
        assert frame.thickness_mm == 3 + z and frame.traits["StackID"] == f"S{z}"
        assert (frame.slope, frame.intercept) == (slope, -1024 - z)
        assert frame.traits["RescaleType"] == "HU" and frame.traits["TemporalPosition"] == 6 + z
        assert frame.traits["EchoTime"] == round(7.25 + z, 1)
        assert frame.traits["DiffusionBValue"] == 8 + z
        assert np.allclose(frame.position, maker.place(z))


def test_frames_know_their_file():
    headers = [Header(Path(f"{z}.dcm"), one(z, V[z])) for z in range(3)]
    headers.append(Header(Path("all.dcm"), enhanced((0, 1))))
    found = frames_of(headers)
    assert [(f.source, f.number) for f in found] == [
        (0, None),
        (1, None),
        (2, None),
        (3, 0),
        (3, 1),
    ]
    assert [f.name for f in found][::4] == ["0.dcm", "all.dcm frame 2"]
    assert "traits" not in repr(found[0]) and "hints" not in repr(found[0])


def test_frames_are_counted():
    dataset = enhanced(NumberOfFrames=6)
    refused(dataset, "holds 6 frames, but describes 5")
    dataset = one(0, V[0], NumberOfFrames=2)
    refused(dataset, "holds 2 frames without a position of each")
    assert len(frames(one(0, V[0], NumberOfFrames=1))) == 1
    # functional groups, shared alone
    dataset = enhanced()
    del dataset.PerFrameFunctionalGroupsSequence
    refused(dataset, "holds 5 frames, but describes 0")


@pytest.mark.parametrize(("rows", "text"), [(MOST_FRAMES, None), (1, None),
    (MOST_FRAMES + 1, "Rows is 100001; expected 1 or more"), (0, "Rows is 0; expected 1 or more"),
    (None, "f.dcm has no Rows; expected a whole number")])  # fmt: skip
def test_counts_are_1_to_100_000(rows, text):
    dataset = one(0, V[0], Rows=rows)
    if text:
        refused(dataset, text)
    else:
        assert frames(dataset)[0].traits["Rows"] == rows


@pytest.mark.parametrize("value", ["", "x"])
def test_a_count_that_is_no_number(value):
    dataset = Dataset()
    dataset.add_new("Rows", "LO", value)
    with pytest.raises(UserError, match="n: Rows is 'x'" if value else "n has no Rows"):
        dicom_frames._whole_number(dataset, "Rows", "n")
    if not value:
        assert dicom_frames._whole_number(dataset, "Rows", "n", 3) == 3


@pytest.mark.parametrize(
    ("row", "column", "good"),
    [(1.0009, 1, True), (1.0011, 1, False), (0.9991, 1, True), (0.9989, 1, False),
     (1, 1.0009, True), (1, 1.0011, False), (1, 0.9989, False)],
)  # fmt: skip
def test_directions_are_of_length_1_to_a_thousandth(row, column, good):
    values = [*(v * row for v in ROW), *(v * column for v in COLUMN)]
    if good:
        assert np.allclose(dicom_frames._orthonormal(values, "n"), [*ROW, *COLUMN], atol=1e-12)
    else:
        with pytest.raises(UserError, match=r"n: ImageOrientationPatient is .*two unit vectors"):
            dicom_frames._orthonormal(values, "n")


@pytest.mark.parametrize(("dot", "good"), [(0.0009, True), (0.0011, False), (-0.0009, True),
                                           (-0.0011, False)])  # fmt: skip
def test_directions_are_at_right_angles_to_a_thousandth(dot, good):
    lean = math.asin(dot)
    column = math.cos(lean) * maker.COLUMN + dot * maker.ROW
    if good:
        assert np.allclose(dicom_frames._orthonormal([*ROW, *column], "n")[3:], column)
    else:
        with pytest.raises(UserError, match="right angles; correct the tag"):
            dicom_frames._orthonormal([*ROW, *column], "n")


@pytest.mark.parametrize(("value", "length"), [("2.5", 2.5), (-3, 3.0), (0, None), (None, None),
    ("inf", None), ("nan", None), ("x", None), (1e-3, 1e-3)])  # fmt: skip
def test_a_length_that_is_none_is_left_out(value, length):
    assert dicom_frames._length(lambda keyword: value, "SliceThickness") == length


@pytest.mark.parametrize(
    ("slope", "intercept", "found"),
    [(None, None, (None, None)), ("", "", (None, None)), ("2", "-3", (2.0, -3.0)),
     ("-0.5", "0", (-0.5, 0.0)), ("2", None, "n has no RescaleIntercept; expected 1 number"),
     (None, "3", "n has no RescaleSlope; expected 1 number"), ("0", "3", "n: RescaleSlope is 0"),
     ("x", "3", "n: RescaleSlope is no number (could not convert string to float: 'x')"),
     (["1", "2"], "3", "n: RescaleSlope is 1, 2; expected 1 finite"),
     ("inf", "3", "n: RescaleSlope is inf; expected 1 finite number(s)")],
)  # fmt: skip
def test_slope_and_intercept_are_there_both_or_neither(slope, intercept, found):
    get = {"RescaleSlope": slope, "RescaleIntercept": intercept}.get
    if isinstance(found, tuple):
        assert dicom_frames._rescaling(get, "n") == found
        return
    with pytest.raises(UserError) as raised:
        dicom_frames._rescaling(get, "n")
    assert found in str(raised.value)


@pytest.mark.parametrize("error", [ValueError("bad\nvalue"), TypeError("bad\nvalue"),
                                   ArithmeticError("bad\nvalue")])  # fmt: skip
def test_a_number_that_cannot_be_converted_is_there_and_is_none(error):
    def get(keyword):
        raise error

    with pytest.raises(
        UserError, match=r"n: RescaleSlope is no number \(bad value\); expected 1 nu"
    ):
        dicom_frames._rescaling(get, "n")
    assert dicom_frames._length(get, "SliceThickness") is None


@pytest.mark.parametrize(("spacing", "good"), [(["1e-6", "0.5"], True), (["0", "0.5"], False),
                                               (["0.5", "-1e-6"], False)])  # fmt: skip
def test_pixels_have_a_size(spacing, good):
    dataset = one(0, V[0], PixelSpacing=spacing)
    if good:
        assert frames(dataset)[0].spacing_mm == (1e-6, 0.5)
    else:
        refused(dataset, f"f.dcm: PixelSpacing {spacing[0]}, {float(spacing[1]):g}; expected sizes")


@pytest.mark.parametrize(
    ("value", "plain"),
    [(None, None), ("", None), (" a\nb ", "a b"), (3, 3.0), (1.23456, 1.2346), (0, 0.0),
     (["a", 1.00001], ("a", 1.0)), ((1, None), (1.0, None))],
)  # fmt: skip
def test_values_are_compared_as_numbers_and_text(value, plain):
    assert dicom_frames._plain(value) == plain


@pytest.mark.parametrize(("value", "tenths"), [(4.64, 4.6), (4.66, 4.7), (4, 4.0), ("a", "a"),
                                               (None, None)])  # fmt: skip
def test_echo_times_are_compared_to_a_tenth(value, tenths):
    assert dicom_frames._tenths(value) == tenths


@pytest.mark.parametrize(("image_type", "kind"), [(None, ""), ("A", ""), (["A", "B"], ""),
    (["A", "B", "C"], "C"), (["A", "B", "C", "D"], "C"), (["A", "B", " \n"], "")])  # fmt: skip
def test_the_kind_of_an_image_is_the_third_value_of_its_type(image_type, kind):
    assert dicom_frames._kind(image_type) == kind
