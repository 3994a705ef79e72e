"""Stored numbers of DICOM files and what they stand for, against pydicom and SimpleITK."""

import dicom_maker as maker
import numpy as np
import pydicom
import pytest
from dicom_maker import SHAPE, enhanced, in_syntax, one, save, series
from pydicom.pixels import apply_rescale
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from lmaunet.data.dicom import pixels as dicom_pixels
from lmaunet.data.dicom.series import read_dicom
from lmaunet.errors import UserError

V = maker.volume()


def refused(path, *texts):
    with pytest.raises(UserError) as raised:
        read_dicom(path)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


def pydicom_values(image):
    """The values of an image's slices as pydicom gives them."""
    values = []
    for file in image.files:
        dataset = pydicom.dcmread(file)
        values.append(apply_rescale(dataset.pixel_array, dataset))
    return np.stack(values)


@pytest.mark.parametrize("odd", [0, 2, 4])
def test_each_slice_has_its_own_slope_and_intercept(tmp_path, odd):
    """Whichever slice comes first, and fractions are kept."""

    def change(z):
        slope, intercept = (1.0, -1024.0) if z == odd else (0.07, -1200.25)
        pixels = maker.stored_words(V[z], slope, intercept).tobytes()
        return {"RescaleSlope": str(slope), "RescaleIntercept": str(intercept), "PixelData": pixels}

    image = read_dicom(series(tmp_path / "a", change))
    assert np.abs(image.array - V).max() <= 0.036
    assert np.array_equal(image.array, pydicom_values(image).astype(np.float32))
    assert not np.array_equal(image.array[3], np.rint(image.array[3]))


def test_each_frame_has_its_own_slope_and_intercept(tmp_path):
    order = (3, 0, 4, 1, 2)
    image = read_dicom(save(enhanced(order, transformation="per frame"), tmp_path / "a.dcm"))
    assert np.array_equal(image.array[1], maker.stored_words(V[1], 0.5, -1025) * 0.5 - 1025)
    assert np.abs(image.array - V).max() <= 0.25


def test_rescaling_by_one_slope_for_all_is_noticed(tmp_path, mutant_of):
    path = save(enhanced(transformation="per frame"), tmp_path / "a.dcm")
    image = read_dicom(path)
    mutant = mutant_of(
        dicom_pixels, "_values(plane, frames[z], header)", "_values(plane, frames[0], header)"
    )
    from lmaunet.data.dicom.files import read_headers

    array, _ = mutant.read_pixels(image.frames, read_headers(path)[0])
    assert not np.allclose(array, image.array, atol=1)


def test_values_without_rescaling_are_as_stored_and_said(tmp_path):
    nothing = {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None}
    image = read_dicom(series(tmp_path / "a", lambda z: nothing))
    assert np.array_equal(image.array, V + 1024)
    assert any("values are as stored, which may not be HU" in note for note in image.notes)
    image = read_dicom(save(enhanced(transformation=""), tmp_path / "b.dcm"))
    assert np.array_equal(image.array, V + 1024) and image.notes


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_uncompressed_transfer_syntaxes(tmp_path, syntax):
    for z in range(SHAPE[0]):
        in_syntax(one(z, V[z]), syntax, tmp_path / "a" / f"{z}.dcm")
    image = read_dicom(tmp_path / "a")
    assert np.array_equal(image.array, V)
    assert np.array_equal(image.array, pydicom_values(image))
    in_syntax(enhanced((4, 2, 0, 1, 3)), syntax, tmp_path / "b.dcm")
    assert np.array_equal(read_dicom(tmp_path / "b.dcm").array, V)


def test_a_deflated_file(tmp_path):
    values = maker.volume((5, 96, 100))  # pixels large enough to be left in a file for later
    for z in range(5):
        dataset = one(z, values[z])
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        save(dataset, tmp_path / "a" / f"{z}.dcm")
    assert np.array_equal(read_dicom(tmp_path / "a").array, values)


def bits(values, allocated, stored, high, signed, garbage):
    """Words with integers in bits ``high - stored + 1`` to ``high``, and garbage in the others."""
    kind = np.dtype(f"u{allocated // 8}")
    below = high + 1 - stored
    mask = ((1 << stored) - 1) << below
    words = (values.astype(np.int64) << below) & mask
    return (words | (garbage & ((1 << allocated) - 1) & ~mask)).astype(kind).tobytes()


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("garbage", [0, -1])
@pytest.mark.parametrize(
    ("allocated", "stored", "high"),
    [(8, 8, 7), (8, 6, 5), (16, 16, 15), (16, 12, 11), (16, 12, 15), (16, 12, 13), (32, 32, 31),
     (32, 20, 19)],
)  # fmt: skip
def test_only_the_bits_that_are_stored_count(tmp_path, allocated, stored, high, signed, garbage):
    low = -(1 << (stored - 1)) if signed else 0
    values = np.random.default_rng(3).integers(low, low + (1 << stored), SHAPE)
    values[:, 0, 0], values[:, 0, 1] = low, low + (1 << stored) - 1
    tags = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": high,
            "PixelRepresentation": signed}  # fmt: skip

    def change(z):
        pixels = bits(values[z], allocated, stored, high, signed, garbage)
        return {**tags, "PixelData": pixels, "RescaleSlope": "2", "RescaleIntercept": "5"}

    image = read_dicom(series(tmp_path / "a", change, values))
    assert np.array_equal(image.array, (values * 2.0 + 5).astype(np.float32))


def test_pixels_of_8_bits_in_big_endian_words(tmp_path):
    values = np.random.default_rng(3).integers(0, 256, (4, 6, 9))
    for z in range(4):
        dataset = one(z, values[z], BitsAllocated=8, BitsStored=8, HighBit=7,
                      RescaleIntercept="0", PixelData=values[z].astype("u1").tobytes())  # fmt: skip
        in_syntax(dataset, ExplicitVRBigEndian, tmp_path / "a" / f"{z}.dcm")
    image = read_dicom(tmp_path / "a")
    assert np.array_equal(image.array, pydicom_values(image))


@pytest.mark.parametrize(("keyword", "kind"), [("FloatPixelData", "f4"),
                                               ("DoubleFloatPixelData", "f8")])  # fmt: skip
def test_pixels_of_floats(tmp_path, keyword, kind):
    values = np.random.default_rng(3).normal(0, 100, SHAPE).astype(kind)

    def change(z):
        return {"PixelData": None, keyword: values[z].tobytes(), "BitsStored": None,
                "BitsAllocated": 8 * values.itemsize, "HighBit": None}  # fmt: skip

    def with_floats(z):
        dataset = one(z, V[z])
        for key, value in change(z).items():
            if value is None:
                del dataset[key]
            else:
                setattr(dataset, key, value)
        return dataset

    for z in range(SHAPE[0]):
        save(with_floats(z), tmp_path / "a" / f"{z}.dcm")
    assert np.allclose(read_dicom(tmp_path / "a").array, values - 1024, rtol=1e-6)


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"Rows": 5}, "108 bytes of pixels, expected 90 for 1 x 5 x 9 of 16 bits"),
        ({"Columns": 10}, "108 bytes of pixels, expected 120"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "expected 54"),
        ({"BitsAllocated": 12, "BitsStored": 12, "HighBit": 11}, "expected 8, 16, 32 or 64"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "expected 8, 16, 32 or 64"),
        ({"PixelRepresentation": None}, "has no BitsStored, or no PixelRepresentation of 0 or 1"),
        ({"PixelRepresentation": 7}, "has no BitsStored, or no PixelRepresentation of 0 or 1"),
        ({"BitsStored": None}, "has no BitsStored, or no PixelRepresentation"),
        ({"BitsStored": 0}, "0 bits stored up to bit 15 of 16"),
        ({"HighBit": 16}, "16 bits stored up to bit 16 of 16"),
        ({"BitsStored": 12, "HighBit": 8}, "12 bits stored up to bit 8 of 16"),
        ({"SamplesPerPixel": 0}, "SamplesPerPixel is 0; expected 1 or more"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "is in colour (3 samples"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1; expected MONOCHROME2"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "expected MONOCHROME2"),
        ({"Rows": 60000, "Columns": 60000}, "108 bytes of pixels, expected 7200000000"),
    ],
)
def test_pixels_that_their_tags_do_not_fit_are_refused(tmp_path, tags, text):
    refused(series(tmp_path / "a", lambda z: tags), text)


def test_bytes_of_padding_after_the_pixels_are_no_damage(tmp_path):
    values = maker.volume((3, 5, 7))
    values = np.abs(values) % 256

    def change(z):
        return {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleIntercept": "0",
                "PixelData": values[z].astype("u1").tobytes() + b"\0"}  # fmt: skip

    assert np.array_equal(read_dicom(series(tmp_path / "a", change, values)).array, values)


def test_a_modality_table_is_applied(tmp_path):
    table = maker.sequence(
        LUTDescriptor=[4096, 0, 16], ModalityLUTType="HU",
        LUTData=((np.arange(4096, dtype=np.uint32) * 7) % 5000).astype("<u2").tobytes(),
    )  # fmt: skip
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    nothing = {"RescaleSlope": None, "RescaleIntercept": None, "RescaleType": None}
    image = read_dicom(
        series(tmp_path / "a", lambda z: {**nothing, "ModalityLUTSequence": [table]})
    )
    assert np.array_equal(image.array, ((V + 1024) * 7) % 5000)


def padded(tmp_path, stored, tag, signed=0, **tags):
    """A series in which one corner of each slice holds a stored number that is marked."""

    def change(z):
        words = (V[z] + (0 if signed else 1024)).astype("<i4")
        words[:2, :2] = stored
        intercept = "0" if signed else "-1024"
        return {"PixelData": words.astype("<i2" if signed else "<u2").tobytes(),
                "PixelRepresentation": signed, "RescaleIntercept": intercept} | tags  # fmt: skip

    folder = series(tmp_path / "a", change)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00280120, "SS" if tag < 0 else "US", tag)
        dataset.save_as(path)
    image = read_dicom(folder)
    rest = image.array.copy()
    rest[:, :2, :2] = V[:, :2, :2]
    assert np.array_equal(rest, V)
    return image.array[:, :2, :2], image.notes


def test_padding_darker_than_all_else_stays_and_is_said(tmp_path):
    corner, notes = padded(tmp_path, -2000, -2000, signed=1)
    assert (corner == -2000).all()
    assert any("20 pixel(s) outside the field of view" in n and "hold -2000" in n for n in notes)


@pytest.mark.parametrize("tag", [63536, -2000])
def test_padding_stored_without_its_sign_is_no_metal(tmp_path, tag):
    corner, notes = padded(tmp_path, 63536, tag)
    rest = np.delete(V.reshape(5, -1), [0, 1, 9, 10], axis=1)
    assert (corner == rest.min()).all()
    assert any("held 62512, brighter than all others" in note for note in notes)


@pytest.mark.parametrize("bits", [8, 12, 15, 16])
def test_stored_numbers_and_their_sign(bits):
    """As numpy reads the same bits, at the ends and in the middle of the range."""
    half, whole = 1 << (bits - 1), 1 << bits
    for number in (0, 1, bits - 1, bits, half - 1, half, half + 1, whole - 1):
        shifted = np.array(number << (16 - bits), np.uint16).view(np.int16)
        assert dicom_pixels._signed(number, bits) == int(shifted) >> (16 - bits)


@pytest.mark.parametrize(("first", "last"), [(-2048, -1800), (-1800, -2048)])
def test_a_range_of_marks(tmp_path, first, last):
    def change(z):
        words = V[z].astype("<i2")
        words[0, :3] = -2048, -1900, -1800
        words[0, 3] = -1799
        return {"PixelData": words.tobytes(), "PixelRepresentation": 1, "RescaleIntercept": "0"}

    folder = series(tmp_path / "a", change)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00280120, "SS", first)
        dataset.add_new(0x00280121, "SS", last)
        dataset.save_as(path)
    image = read_dicom(folder)
    assert image.array[:, 0, :4].tolist() == [[-2048, -1900, -1800, -1799]] * SHAPE[0]
    assert any("15 pixel(s) outside the field of view" in note for note in image.notes)


def test_a_mark_that_pixels_of_the_body_have_is_no_mark(tmp_path):
    corner, notes = padded(tmp_path, 0, 0, signed=1)
    assert (corner == 0).all() and not notes


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({"RescaleType": "US"}, "values are in US (RescaleType), expected HU"),
        ({"Modality": "PT", "Units": "BQML"}, "values are in BQML, as the scanner gives them"),
        ({"LossyImageCompression": "01"}, "compressed with loss: IM0000.dcm and 4 more"),
    ],
)
def test_what_the_unit_of_the_values_is_is_said(tmp_path, tags, text):
    image = read_dicom(series(tmp_path / "a", lambda z: tags))
    assert any(text in note for note in image.notes) and np.array_equal(image.array, V)
