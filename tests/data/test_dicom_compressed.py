"""Compressed pixels of DICOM files: whole ones as other readers give them, damaged ones refused."""

import dicom_maker as maker
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_maker import SHAPE, enhanced, one, save
from pydicom.pixels import apply_rescale
from pydicom.uid import JPEGLSLossless, RLELossless

from lmaunet.data.dicom import codestream
from lmaunet.data.dicom.series import read_dicom
from lmaunet.errors import UserError

V = maker.volume()


def refused(path, *texts):
    with pytest.raises(UserError) as raised:
        read_dicom(path)
    for text in texts:
        assert text in str(raised.value), str(raised.value)


def gdcm(folder, values, compressor, signed):
    """Write slices with GDCM's own compressors; pydicom's headers come afterwards."""
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    for z, plane in enumerate(values):
        image = SimpleITK.GetImageFromArray(plane[None].astype(np.int16 if signed else np.uint16))
        image.SetMetaData("0008|0060", "CT")
        writer.SetFileName(str(folder / "raw.dcm"))
        writer.Execute(image)
        compressed = pydicom.dcmread(folder / "raw.dcm")
        dataset = one(z, plane)
        dataset.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
        dataset.PixelRepresentation = compressed.PixelRepresentation
        dataset.BitsStored, dataset.HighBit = compressed.BitsStored, compressed.HighBit
        dataset["PixelData"] = compressed["PixelData"]
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", str(-z)
        save(dataset, folder / f"{z}.dcm")
    (folder / "raw.dcm").unlink()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("compressor", "uid"),
    [("JPEG2000", "1.2.840.10008.1.2.4.90"), ("JPEG", "1.2.840.10008.1.2.4.70")],
)
def test_compressed_pixels_that_gdcm_wrote(tmp_path, compressor, uid, signed):
    values = maker.volume((4, 33, 40)) + (0 if signed else 1100)
    gdcm(tmp_path / "a", values, compressor, signed)
    image = read_dicom(tmp_path / "a")
    assert pydicom.dcmread(image.files[0]).file_meta.TransferSyntaxUID == uid
    assert np.array_equal(image.array, values * 0.5 - np.arange(4)[:, None, None])


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_pixels_that_pydicom_wrote(tmp_path, syntax):
    for z in range(SHAPE[0]):
        dataset = one(z, V[z])
        dataset.compress(syntax, generate_instance_uid=False)
        save(dataset, tmp_path / "a" / f"{z}.dcm")
    image = read_dicom(tmp_path / "a")
    assert np.array_equal(image.array, V)
    for z, file in enumerate(image.files):
        dataset = pydicom.dcmread(file)
        assert np.array_equal(image.array[z], apply_rescale(dataset.pixel_array, dataset))
    dataset = enhanced((2, 1, 4, 3, 0), transformation="per frame")
    want = read_dicom(save(dataset, tmp_path / "b.dcm")).array
    dataset.compress(syntax, generate_instance_uid=False)
    assert np.array_equal(read_dicom(save(dataset, tmp_path / "c.dcm")).array, want)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("signed", [0, 1])
def test_compressed_12_bits_with_a_sign(tmp_path, syntax, signed):
    values = V if signed else V + 1024
    tags = {"PixelRepresentation": signed, "BitsStored": 12, "HighBit": 11,
            "RescaleIntercept": "0"}  # fmt: skip
    for z in range(SHAPE[0]):
        dataset = one(z, V[z], PixelData=values[z].astype("<i2").tobytes(), **tags)
        dataset.compress(syntax, generate_instance_uid=False)
        save(dataset, tmp_path / "a" / f"{z}.dcm")
    assert np.array_equal(read_dicom(tmp_path / "a").array, values)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_8_bits(tmp_path, syntax):
    y, x = np.indices((33, 40))
    values = np.stack([(5 * y + 3 * x + 40 * z) % 251 for z in range(SHAPE[0])])
    tags = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleIntercept": "-3"}
    for z, plane in enumerate(values):
        dataset = one(z, plane, PixelData=plane.astype(np.uint8).tobytes(), **tags)
        dataset.compress(syntax, generate_instance_uid=False)
        save(dataset, tmp_path / "a" / f"{z}.dcm")
    assert np.array_equal(read_dicom(tmp_path / "a").array, values - 3.0)


def test_compressed_pixels_need_a_temporary_folder_and_say_so(tmp_path, monkeypatch):
    path, _, _ = compressed(tmp_path / "a", "JPEG2000")

    def none(*_, **__):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", none)
    refused(path, "need a temporary file: No usable", "set TMPDIR")


def compressed(folder, compressor):
    """One slice of 33 x 40 in a syntax, with its frame as bytes."""
    values = maker.volume((1, 33, 40))
    if compressor in ("JPEG2000", "JPEG"):
        gdcm(folder, values + 1100, compressor, signed=False)
        path = folder / "0.dcm"
    else:
        dataset = one(0, values[0])
        dataset.compress(compressor, generate_instance_uid=False)
        path = save(dataset, folder / "0.dcm")
    dataset = pydicom.dcmread(path)
    return (
        path,
        dataset,
        next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)),
    )


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG", RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_frame_that_is_cut_short_in_a_whole_file_is_refused(tmp_path, compressor, share):
    """Decoders fill the rest with something."""
    path, dataset, frame = compressed(tmp_path / "a", compressor)
    read_dicom(path)
    short = frame[: int(len(frame) * share)]
    dataset.PixelData = pydicom.encaps.encapsulate([short])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    refused(path, "0.dcm is damaged")


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG", RLELossless, JPEGLSLossless])
@pytest.mark.parametrize(("rows", "columns"), [(32, 40), (40, 33), (33, 41), (66, 20)])
def test_a_frame_of_another_size_than_the_tags_is_refused(tmp_path, compressor, rows, columns):
    path, dataset, _ = compressed(tmp_path / "a", compressor)
    if (rows, columns) in ((40, 33), (66, 20)) and compressor == RLELossless:
        dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])  # as many bytes: no size in it
        dataset["PixelData"].is_undefined_length = True
    dataset.Rows, dataset.Columns = rows, columns
    dataset.save_as(path)
    refused(path, "0.dcm is damaged")


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (300, 515), (515, 300), (65535, 256)])
def test_sizes_of_two_bytes_are_read_whole(rows, columns):
    sizes = rows.to_bytes(2) + columns.to_bytes(2)
    other = b"\xff\xe0" + (16).to_bytes(2) + bytes(14)
    frame = b"\xff\xd8" + other + b"\xff\xff\xc0" + (11).to_bytes(2) + b"\x08" + sizes + bytes(9)
    assert codestream._size(frame) == (rows, columns)


@pytest.mark.parametrize(
    ("width", "height", "left", "top"),
    [(515, 300, 0, 0), (300, 515, 7, 0), (300, 515, 0, 9), (70_000, 66_000, 5, 300)],
)
def test_a_frame_of_jpeg_2000_begins_at_its_offset(width, height, left, top):
    sizes = b"".join(n.to_bytes(4) for n in (width, height, left, top))
    frame = codestream.JPEG_2000 + (47).to_bytes(2) + b"\0\0" + sizes + bytes(20)
    assert codestream._size(frame) == (height - top, width - left)


FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}


@pytest.mark.parametrize("mark", [*range(0xBE, 0xD1), *range(0xF5, 0xFA)])
def test_the_marks_that_begin_a_frame_are_those_of_the_standard(mark):
    """ITU-T T.81, table B.1, and T.87: the others have a length and no size."""
    segment = (11).to_bytes(2) + b"\x08" + (5).to_bytes(2) + (7).to_bytes(2) + bytes(4)
    frame = b"\xff\xd8\xff" + bytes([mark]) + segment
    later = frame + b"\xff\xc0" + (11).to_bytes(2) + b"\x08" + (3).to_bytes(2) + (9).to_bytes(2)
    assert codestream._size(later) == ((5, 7) if mark in FRAMES else (3, 9))
    assert codestream._size(frame) == ((5, 7) if mark in FRAMES else None)


@pytest.mark.parametrize(
    "frame", [b"\xff\xd8", b"\xff\xd8\x00\xc0" + bytes(20), b"\xff\xd8\xff\xc0"]
)
def test_a_frame_without_a_mark_that_tells_its_size_has_none(frame):
    assert codestream._size(frame) is None


def test_a_mark_that_ends_with_the_frame_tells_its_size():
    frame = b"\xff\xd8\xff\xc0" + (11).to_bytes(2) + b"\x08" + (5).to_bytes(2) + (7).to_bytes(2)
    assert codestream._size(frame) == (5, 7) and codestream._size(frame[:-1]) is None


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG", RLELossless, JPEGLSLossless])
def test_frames_too_few_or_too_many_are_refused(tmp_path, compressor):
    path, dataset, frame = compressed(tmp_path / "a", compressor)
    for frames in ([frame, frame], [frame[:-20], b"\xff\xd9" * 20]):
        dataset.PixelData = pydicom.encaps.encapsulate(frames)
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        refused(path, "0.dcm is damaged")


def whole(rows, columns):
    """A JPEG frame that has marks and a size, and no pixels."""
    size = b"\x08" + rows.to_bytes(2) + columns.to_bytes(2)
    return b"\xff\xd8\xff\xc0" + (11).to_bytes(2) + size + b"\xff\xd9"


@pytest.mark.parametrize(
    ("frames", "count", "text"),
    [
        ([whole(300, 500)] * 2, 2, None),
        ([b"no JPEG!", whole(300, 500)], 2, None),
        (
            [b"no JPEG!", whole(300, 501)],
            2,
            r"compressed frame 2 is of \(300, 501\), expected \(300, 5",
        ),
        ([whole(300, 500), whole(300, 500)[:-2]], 2, "compressed frame 2 has no end"),
        ([whole(299, 500), whole(300, 500)], 2, r"compressed frame 1 is of \(299, 500\)"),
        ([whole(300, 500)], 2, r"1 compressed frame\(s\), expected 2"),
        ([whole(300, 500)] * 3, 2, r"3 compressed frame\(s\), expected 2"),
    ],
)
def test_every_frame_is_whole_and_is_told_by_its_number(frames, count, text):
    frames = [frame + bytes(len(frame) % 2) for frame in frames]
    packed = pydicom.encaps.encapsulate(frames)
    if text is None:
        codestream.check_frames(packed, count, 300, 500)
    else:
        with pytest.raises(ValueError, match=text):
            codestream.check_frames(packed, count, 300, 500)


def test_numbers_of_four_bytes_and_long_marks_before_the_size():
    numbers = (0x01020304, 0x05060708, 0x00010203, 0x00020304)
    frame = b"\xff\x4f\xff\x51" + bytes(4) + b"".join(n.to_bytes(4) for n in numbers)
    assert codestream._size(frame) == (0x05040404, 0x01010101)
    long = b"\xff\xe1" + (0x0203).to_bytes(2) + bytes(0x0201)
    assert codestream._size(b"\xff\xd8" + long + whole(300, 500)[2:]) == (300, 500)


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_compressed_file_that_is_cut_short_is_refused(tmp_path, where, syntax):
    dataset = one(0, V[0])
    dataset.compress(syntax, generate_instance_uid=False)
    path = save(dataset, tmp_path / "a.dcm")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * where)])
    refused(path, "a.dcm is damaged")
