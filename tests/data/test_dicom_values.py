"""Pixels of single files by hand: bits, padding, tables, and which file of several is named."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_maker import SHAPE, enhanced, one, save, series
from pydicom.uid import ExplicitVRBigEndian, JPEGLSLossless
from test_dicom_compressed import compressed

from lmaunet.data.dicom import pixels
from lmaunet.data.dicom.frames import frames_of
from lmaunet.data.dicom.header import Header, read_header
from lmaunet.data.dicom.pixels import read_pixels
from lmaunet.data.dicom.series import read_dicom
from lmaunet.errors import UserError

V = maker.volume()
FRAME = frames_of([Header(Path("a.dcm"), one(0, V[0]))])[0]


def header(name="a.dcm", **tags):
    dataset = pydicom.Dataset()
    for key, value in tags.items():
        setattr(dataset, key, value)
    return Header(Path(name), dataset)


def like(z, traits=None, **change):
    """The frame of a slice, with other traits or fields."""
    change["traits"] = FRAME.traits | (traits or {})
    return dataclasses.replace(FRAME, name=f"s{z}", source=z, **change)


@pytest.mark.parametrize(("traits", "text"), [
    ({}, None), ({"PhotometricInterpretation": None}, None),
    ({"SamplesPerPixel": 3}, "s0 is in colour (3 samples per pixel); expected one"),
    ({"PhotometricInterpretation": "RGB"}, "s0: PhotometricInterpretation is RGB; expected MONOC"),
    *[({"BitsAllocated": bits}, None) for bits in (8, 16, 32, 64)],
    *[({"BitsAllocated": bits}, f"s0: BitsAllocated is {bits}; expected 8, 16, 32 or 64")
      for bits in (1, 7, 9, 12, 15, 17, 31, 33, 63, 65)]])  # fmt: skip
def test_the_kind_of_pixels_is_the_first_slices(traits, text):
    frames = [like(0, traits), like(1, {"SamplesPerPixel": 1})]
    if text is None:
        pixels._check_kind(frames)
    else:
        with pytest.raises(UserError) as raised:
            pixels._check_kind(frames)
        assert str(raised.value).startswith(text)


def test_the_first_slices_with_and_without_a_slope_are_named():
    frames = [like(z, slope=None if z in (2, 3) else 1.0) for z in range(5)]
    for order in (frames, frames[2:] + frames[:2]):
        without = next(f.name for f in order if f.slope is None)
        slope = next(f.name for f in order if f.slope is not None)
        with pytest.raises(UserError) as raised:
            pixels._check_kind(order)
        assert str(raised.value).startswith(
            f"{without} has no RescaleSlope and RescaleIntercept, and {slope} has; expected both"
        )


@pytest.mark.parametrize(
    ("shape", "more", "good"),
    [((5, 7), 1, True), ((5, 7), 3, True), ((5, 7), 5, False), ((6, 9), 2, True),
     ((6, 9), 4, False), ((6, 9), -2, False)],
)  # fmt: skip
def test_up_to_three_bytes_of_padding_may_follow_the_pixels(tmp_path, shape, more, good):
    values = np.arange(math.prod(shape)).reshape(shape)
    content = values.astype("u1").tobytes()
    content = content + bytes(more) if more > 0 else content[:more]
    path = save(one(0, values, BitsAllocated=8, BitsStored=8, HighBit=7, RescaleIntercept="0",
                    PixelData=content), tmp_path / "a.dcm")  # fmt: skip
    if good:
        assert np.array_equal(read_dicom(path).array[0], values)
    else:
        text = rf"{len(content)} bytes of pixels, expected {values.size} for 1 x {shape[0]} x "
        with pytest.raises(UserError, match=text + rf"{shape[1]} of 8 bits"):
            read_dicom(path)


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize(("bits", "high"), [(16, None), (12, None), (12, 11), (12, 13), (12, 15),
    (1, 0), (1, 15), (16, 15)])  # fmt: skip
def test_numbers_are_of_the_bits_that_are_stored(bits, high, sign):
    top = bits - 1 if high is None else high
    stored = np.array([0, 1, 0x5A5A, 0xA5A5, 0x7FFF, 0x8000, 0xFFFF], np.uint16)
    tags = {"BitsStored": bits, "PixelRepresentation": sign} | (
        {} if high is None else {"HighBit": high}
    )
    wanted = [(int(n) >> (top + 1 - bits)) & ((1 << bits) - 1) for n in stored]
    if sign:
        wanted = [n - (1 << bits) if n >= 1 << (bits - 1) else n for n in wanted]
    for order in "<>":
        given = stored.astype(f"{order}u2")
        found = pixels._used_bits(given, header(**tags))
        assert found.tolist() == wanted and found.dtype == np.dtype("i2" if sign else "u2")


@pytest.mark.parametrize(("bits", "high", "text"), [
    (0, 15, "0 bits stored up to bit 15 of 16"), (17, 16, "17 bits stored up to bit 16 of 16"),
    (12, 10, "12 bits stored up to bit 10 of 16"), (16, 16, "16 bits stored up to bit 16 of 16"),
    (None, 15, "a.dcm has no BitsStored, or no PixelRepresentation of 0 or 1")])  # fmt: skip
def test_bits_that_do_not_fit_are_refused(bits, high, text):
    tags = {"HighBit": high, "PixelRepresentation": 0} | (
        {} if bits is None else {"BitsStored": bits}
    )
    with pytest.raises(UserError) as raised:
        pixels._used_bits(np.zeros(3, np.uint16), header(**tags))
    assert text in str(raised.value)
    for sign in (2, -1):
        with pytest.raises(
            UserError, match=r"has no BitsStored, or no PixelRepresentation of 0 or 1"
        ):
            pixels._used_bits(
                np.zeros(3, np.uint16), header(BitsStored=9, PixelRepresentation=sign)
            )


@pytest.mark.parametrize(("tags", "marked"), [
    ({}, None), ({"PixelPaddingValue": 5}, [5]),
    ({"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 5}, [5]),
    ({"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 7}, [5, 6, 7]),
    ({"PixelPaddingValue": 7, "PixelPaddingRangeLimit": 5}, [5, 6, 7]),
    ({"PixelPaddingValue": 5, "BitsStored": 2}, [1]), ({"PixelPaddingValue": 0}, [0])])  # fmt: skip
@pytest.mark.parametrize("kind", ["u2", "i2"])
def test_marked_pixels_are_those_of_a_number_or_a_range(tags, marked, kind):
    stored = np.arange(10).astype(kind)
    found = pixels._padded(stored, header(**tags))
    assert (found is None) if marked is None else np.flatnonzero(found).tolist() == marked
    assert pixels._padded(stored.astype("f4"), header(**tags)) is None


@pytest.mark.parametrize(("mark", "bits"), [(-1, 16), (-1, 12), (65535, 16), (4095, 12)])
def test_a_mark_is_compared_by_its_bits(mark, bits):
    last = (1 << bits) - 1
    tags = header(PixelPaddingValue=mark, BitsStored=bits)
    assert pixels._padded(np.array([0, 1, last], np.uint16), tags).tolist() == [False, False, True]
    assert pixels._padded(np.array([0, 1, -1, -2], np.int16), tags).tolist() == [
        False,
        False,
        True,
        False,
    ]


def filled(rest, marked, marks=((0, 0), (1, 1))):
    """What padding becomes in slices of 3 x 3 with a value each, marked at places of two slices."""
    padding = pixels._Padding()
    array = np.array([np.full((3, 3), v, np.float32) for v in rest])
    for z, plane in enumerate(array):
        stored = np.zeros((3, 3), np.uint16)
        if z < 2:
            stored[marks[z]] = 9
            plane[marks[z]] = marked[z]
        padding.look(z, stored, plane, header(PixelPaddingValue=9, BitsStored=16))
    notes = padding.fill(array)
    return array, notes


@pytest.mark.parametrize(
    ("rest", "marked", "note"),
    [
        ([10, 20, 30], [5, 6], "hold 5, darker than all others: left as they are"),
        ([10, 20, 30], [6, 5], "hold 5, darker than all others: left as they are"),
        ([10, 20, 30], [5, 10], None),
        ([30, 20, 10], [5, 9], "hold 5, darker than all others: left as they are"),
        (
            [10, 20, 30],
            [31, 40],
            "held 40, brighter than all others: set to the darkest of the rest, 10",
        ),
        (
            [10, 20, 30],
            [40, 31],
            "held 40, brighter than all others: set to the darkest of the rest, 10",
        ),
        (
            [30, 20, 10],
            [31, 40],
            "held 40, brighter than all others: set to the darkest of the rest, 10",
        ),
        ([10, 20, 30], [30, 40], None),
        ([10, 20, 30], [29, 40], None),
        ([10, 20, 30], [5, 40], None),
    ],
)
def test_marked_pixels_are_darkened_where_all_are_brighter_than_the_rest(rest, marked, note):
    array, notes = filled(rest, marked)
    begin = "2 pixel(s) outside the field of view (PixelPaddingValue) "
    assert notes == ((begin + note,) if note else ())
    darkened = bool(note) and "held" in note
    for z, (place, value) in enumerate(
        zip([(0, 0), (1, 1), (0, 0)], [*marked, rest[2]], strict=True)
    ):
        assert array[z][place] == (10 if darkened and z < 2 else value)
        others = np.ones((3, 3), bool)
        others[place] = False
        assert (array[z][others] == rest[z]).all()


def test_slices_that_are_all_marked_leave_nothing_to_compare():
    padding = pixels._Padding()
    array = np.full((1, 2, 2), 7, np.float32)
    padding.look(
        0, np.full((2, 2), 9, np.uint16), array[0], header(PixelPaddingValue=9, BitsStored=16)
    )
    assert padding.count == 4 and padding.fill(array) == () and (array == 7).all()
    assert pixels._Padding().fill(array) == ()


@pytest.mark.parametrize("first", [0, 2])
def test_the_unit_is_the_first_slices(first):
    headers = [header(f"{z}", Units=f"U{z}") for z in range(3)]
    frames = [like(z, {"Modality": "PT"}) for z in (first, 1)]
    assert pixels._notes(frames, headers) == [
        f"values are in U{first}, as the scanner gives them, not turned into SUV"
    ]
    unknown = pixels._notes(frames, [header(str(z)) for z in range(3)])
    assert unknown[0].startswith("values are in an unknown unit, as")


@pytest.mark.parametrize(("traits", "slope", "tags", "note"), [
    ({}, 1.0, {}, None), ({"RescaleType": None}, 1.0, {}, None),
    ({"RescaleType": "US"}, 1.0, {}, "values are in US (RescaleType), expected HU for CT"),
    ({"RescaleType": "US"}, None, {}, "no RescaleSlope and RescaleIntercept: values are as stored, "
     "which may not be HU"),
    ({"RescaleType": "US"}, None, {"ModalityLUTSequence": []}, None),
    ({"RescaleType": "US", "Modality": "MR"}, None, {}, None),
    ({"Modality": "AA"}, None, {}, None), ({"Modality": "PX"}, 1.0, {}, None)])  # fmt: skip
def test_only_a_ct_is_expected_in_hu(traits, slope, tags, note):
    found = pixels._notes([like(0, traits, slope=slope), like(1, slope=1.0)],
                          [header(**tags), header()])  # fmt: skip
    assert found == ([note] if note else [])


def test_loss_is_said_of_every_file_that_has_it():
    headers = [header("a"), header("b", LossyImageCompression="01"),
               header("c", LossyImageCompression="00"),
               header("d", LossyImageCompression="01")]  # fmt: skip
    assert pixels._notes([like(0)], headers) == ["compressed with loss: b and 1 more"]


@pytest.mark.parametrize(("slope", "intercept", "wanted"), [
    (2.0, -3.0, [[-3, 7]]), (None, None, [[0, 5]]), (0.5, 0.25, [[0.25, 2.75]])])  # fmt: skip
def test_values_are_stored_ones_times_the_slope_and_the_intercept(slope, intercept, wanted):
    frame = like(0, slope=slope, intercept=intercept)
    found = pixels._values(np.array([[0, 5]], np.uint16), frame, header())
    assert found.tolist() == wanted


def test_a_table_that_cannot_be_applied_is_refused():
    with pytest.raises(UserError, match=r"a\.dcm is damaged or no DICOM image \(Modality LUT: "):
        pixels._values(
            np.zeros((1, 2), np.uint16), FRAME, header(ModalityLUTSequence=[pydicom.Dataset()])
        )


def test_a_volume_that_does_not_fit_is_told_by_its_size(monkeypatch):
    monkeypatch.setattr(np, "empty", lambda *a: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(UserError, match=r"^a\.dcm: 2 x 3 x 4 voxels do not fit in memory; use"):
        pixels._room((2, 3, 4), header())


def test_frames_are_read_from_their_files_in_any_order(tmp_path):
    """Each file once, and each frame by its number."""
    paths = [save(one(z, V[z]), tmp_path / f"{z}.dcm") for z in (0, 1)]
    paths.append(save(enhanced((4, 2, 3)), tmp_path / "2.dcm"))
    headers = [read_header(path) for path in paths]
    frames = frames_of(headers)
    for order in ([0, 1, 3, 4, 2], [4, 0, 2, 3, 1]):
        array, notes = read_pixels([frames[i] for i in order], [read_header(p) for p in paths])
        assert np.array_equal(array, V[[[0, 1, 4, 2, 3][i] for i in order]]) and notes == ()
        assert array.dtype == np.float32


def test_big_endian_pixels_are_known_by_their_syntax_or_their_tags(tmp_path):
    for named in (True, False):
        path = maker.in_syntax(one(0, V[0]), ExplicitVRBigEndian, tmp_path / "a.dcm")
        found = read_header(path)
        if not named:
            del found.dataset.file_meta.TransferSyntaxUID
        assert np.array_equal(read_pixels(frames_of([found]), [found])[0][0], V[0])


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG", JPEGLSLossless])
def test_decoders_leave_the_terminal_as_it_was(tmp_path, capfd, compressor):
    path, _, _ = compressed(tmp_path / "a", compressor)
    capfd.readouterr()
    for shown in (True, False):
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert read_dicom(path).array.shape == (1, 33, 40)
        assert SimpleITK.ProcessObject.GetGlobalWarningDisplay() == shown
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        os.write(2, b"said")
        assert capfd.readouterr() == ("", "said")


def test_what_decoders_say_is_not_heard(capfd):
    with pixels._mute():
        os.write(2, b"noise")
    os.write(2, b"said")
    assert capfd.readouterr().err == "said"


def test_warnings_of_decoders_are_off_while_they_read(tmp_path, monkeypatch):
    path, _, _ = compressed(tmp_path / "a", "JPEG2000")
    read, seen = SimpleITK.ReadImage, []

    def watched(*args, **kwargs):
        seen.append(SimpleITK.ProcessObject.GetGlobalWarningDisplay())
        return read(*args, **kwargs)

    monkeypatch.setattr(SimpleITK, "ReadImage", watched)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)
    read_dicom(path)
    assert seen == [False]


def test_pixels_of_another_shape_than_the_tags_are_refused(tmp_path, monkeypatch):
    folder = series(tmp_path / "a")
    monkeypatch.setattr(pixels, "_native", lambda *a: np.zeros((1, 6, 8), np.uint16))
    with pytest.raises(UserError, match="pixels of 1 x 6 x 8, and tags that say 1 x 6 x 9"):
        read_dicom(folder)
    assert SHAPE[1:] == (6, 9)


@pytest.mark.parametrize(("bits", "kind"), [(8, "Byte"), (16, "Word"), (9, "Word")])
def test_a_decoder_gets_a_whole_file_of_the_class_of_its_bits(monkeypatch, bits, kind):
    allocated = 8 if bits == 8 else 16
    dataset = one(0, V[0], BitsAllocated=allocated, BitsStored=bits, HighBit=bits - 1)
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(8)])
    dataset["PixelData"].is_undefined_length = True
    seen = []

    def read(file, **_):
        seen.append((Path(file).read_bytes()[:132], pydicom.dcmread(file)))
        return SimpleITK.Image(9, 6, SimpleITK.sitkUInt16)

    monkeypatch.setattr(SimpleITK, "ReadImage", read)
    found = pixels._compressed(Header(Path("a.dcm"), dataset), JPEGLSLossless, 1)
    start, written = seen[0]
    assert found.shape == (1, 6, 9) and start == bytes(128) + b"DICM"
    name = f"Multi-frame Grayscale {kind} Secondary Capture Image Storage"
    assert written.SOPClassUID.name == written.file_meta.MediaStorageSOPClassUID.name == name
    assert written.NumberOfFrames == 1 and "RescaleSlope" not in written
