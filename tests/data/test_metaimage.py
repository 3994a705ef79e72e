"""MetaImage headers field by field: names, defaults, tolerances, and what may stand behind."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from nifti_files import SHAPE, voxels
from test_text_headers import END, META, PIXELS, ROTATED, SPACED, write

from lmaunet.data.images import metaimage
from lmaunet.data.images.metaimage import data_file, read_metaimage
from lmaunet.errors import UserError

PACKED = SPACED.replace("CompressedData = False", "CompressedData = True")


def read(tmp_path, header, pixels=PIXELS):
    return read_metaimage(write(tmp_path / "a.mha", header, pixels))


def refused(tmp_path, text, header, pixels=PIXELS):
    with pytest.raises(UserError, match=text):
        read(tmp_path, header, pixels)


def test_a_header_of_only_what_it_must_say_has_defaults(tmp_path):
    array, grid, notes = read(tmp_path, "NDims = 3\n" + END)
    assert np.array_equal(array, voxels()) and grid.size == SHAPE
    assert grid.spacing_mm == (1, 1, 1) and grid.origin == (0, 0, 0)
    assert grid.direction == tuple(np.eye(3).ravel())
    assert notes == ("the file gives no spacing: voxels are taken to be 1 mm wide",)


@pytest.mark.parametrize("size", [(5, 6), (5, 6, 1), (1, 6, 7), (5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_two_or_three_axes_and_more_of_one(tmp_path, size):
    n, count = len(size), np.prod(size)
    text = END.replace("5 6 7", " ".join(map(str, size)))
    pixels = PIXELS[: 2 * count]
    offset = f"Offset = {' '.join('123456'[:n])}\nElementSpacing = {' '.join('234567'[:n])}\n"
    array, grid, _ = read(tmp_path, f"NDims = {n}\n{offset}{text}", pixels)
    assert grid.size == size[:3] and array.shape == size[:3][::-1]
    assert np.array_equal(array.ravel(), voxels().ravel()[:count])
    assert grid.origin == (1, 2, 3)[:n] and grid.spacing_mm == (2, 3, 4)[:n]


@pytest.mark.parametrize(("dims", "size", "text"), [
    (1, "210", r"1 dimensions \(210\); expected 3"), (0, "", "sizes of 1 or more"),
    (4, "5 6 1 7", r"4 dimensions \(5 x 6 x 1 x 7\)"), (3, "5 0 7", "sizes of 1 or more"),
    ("3.0", "5 6 7", "NDims '3.0' in its header"),
    (3, "5 6.0 7", "DimSize '5 6.0 7' in its header"),
    ("3 3", "5 6 7", "NDims '3 3'; expected 1 numbers")])  # fmt: skip
def test_other_axes_are_refused(tmp_path, dims, size, text):
    refused(tmp_path, text, f"NDims = {dims}\n" + END.replace("5 6 7", size))


@pytest.mark.parametrize(("field", "text"), [
    ("ElementNumberOfChannels = 0", "0 values per pixel"),
    ("ElementNumberOfChannels = 2", "2 values per pixel"), ("ElementNumberOfChannels = 1", None),
    ("ElementNumberOfChannels = 1.0", "'1.0' in its header"),
    ("ElementToIntensityFunctionSlope = 1", None), ("ElementToIntensityFunctionOffset = 0", None),
    ("ElementToIntensityFunctionSlope = 0", "Slope is 0; expected 1"),
    ("ElementToIntensityFunctionOffset = -1", "Offset is -1; expected 0"),
    ("DistanceUnits = mm", None), ("DistanceUnits = ?", None),
    ("DistanceUnits = cm", "expected mm"),
    ("ObjectType = Image", None), ("ObjectType = Mesh", "a MetaIO Mesh"),
    ("BinaryDataByteOrderMSB = 0", None), ("BinaryData = 1", None), ("BinaryData = TRUE", None),
    ("BinaryData = 2", "BinaryData '2'; expected True or False"),
    ("BinaryData = false", "written as text"), ("HeaderSize = 0", None),
    ("HeaderSize = x", "HeaderSize 'x' in its header")])  # fmt: skip
def test_a_field_is_what_it_is_without_or_is_refused(tmp_path, field, text):
    header = f"NDims = 3\n{field}\n{END}"
    if text is None:
        assert np.array_equal(read(tmp_path, header)[0], voxels())
    else:
        refused(tmp_path, text, header)


@pytest.mark.parametrize("field", ["ElementByteOrderMSB", "BinaryDataByteOrderMSB"])
@pytest.mark.parametrize("value", ["True", "1"])
def test_the_byte_order_has_two_names(tmp_path, field, value):
    pixels = voxels().astype(">i2").tobytes()
    array = read(tmp_path, f"NDims = 3\n{field} = {value}\n{END}", pixels)[0]
    assert np.array_equal(array, voxels()) and array.dtype.isnative


@pytest.mark.parametrize("matrix", ["TransformMatrix", "Rotation", "Orientation"])
@pytest.mark.parametrize("origin", ["Offset", "Position", "Origin"])
def test_the_place_has_several_names(tmp_path, matrix, origin):
    header = META + ROTATED.replace("TransformMatrix", matrix).replace("Offset", origin)
    _, grid, _ = read(tmp_path, header + END)
    assert grid.origin == (10, 20, 30) and grid.direction == (0, -1, 0, 1, 0, 0, 0, 0, 1)


TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4",
         "LONG": "i4", "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4",
         "DOUBLE": "f8"}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), TYPES.items())
def test_every_type_of_pixels(tmp_path, name, kind):
    wanted = (voxels() % 100).astype(kind)
    array = read(tmp_path, SPACED + END.replace("MET_SHORT", f"MET_{name}"), wanted.tobytes())[0]
    assert array.dtype == kind and np.array_equal(array, wanted)


@pytest.mark.parametrize(("length", "good"), [(1.0009, True), (1.0011, False), (0.9991, True),
                                              (0.9989, False)])  # fmt: skip
@pytest.mark.parametrize("axis", range(3))
def test_axes_are_of_length_one_to_a_thousandth(tmp_path, length, good, axis):
    rows = [["0", "1", "0"], ["-1", "0", "0"], ["0", "0", "1"]]
    rows[axis] = [str(float(entry) * length) for entry in rows[axis]]
    header = SPACED.replace("0 1 0 -1 0 0 0 0 1", " ".join(e for row in rows for e in row))
    if good:
        _, grid, _ = read(tmp_path, header + END)
        assert np.allclose(grid.spacing_mm, (2, 3, 4)) and grid.direction == (
            0,
            -1,
            0,
            1,
            0,
            0,
            0,
            0,
            1,
        )
    else:
        refused(tmp_path, "has axes that are not of length 1", header + END)


@pytest.mark.parametrize("center", ["1 0 0", "0 0 -2"])
def test_a_centre_of_rotation_matters_where_there_is_a_rotation(tmp_path, center):
    field = f"CenterOfRotation = {center}\n"
    read(tmp_path, META + field + END)
    refused(tmp_path, f"CenterOfRotation of {center} and a rotation", SPACED + field + END)


@pytest.mark.parametrize("local", ["LOCAL", "Local", "local"])
def test_pixels_that_are_here_have_three_names(tmp_path, local):
    path = write(tmp_path / "a.mha", SPACED + END.replace("LOCAL", local))
    assert np.array_equal(read_metaimage(path)[0], voxels()) and data_file(path) == path


@pytest.mark.parametrize("name", ["list", "LIST 2D", "a%d.raw"])
def test_pixels_in_several_files_are_refused(tmp_path, name):
    refused(tmp_path, "its pixels are in several files", SPACED + END.replace("LOCAL", name))


def test_a_header_apart_may_end_without_a_line_and_hold_empty_ones(tmp_path):
    (tmp_path / "b.raw").write_bytes(b"head" + PIXELS)
    header = (
        "\n \r\n"
        + SPACED.replace("\n", "\r\n")
        + "HeaderSize = 4\n\n"
        + END.replace("LOCAL", "b.raw")
    )
    path = write(tmp_path / "a.mhd", header.rstrip("\n"), b"")
    array, grid, _ = read_metaimage(path)
    assert np.array_equal(array, voxels()) and grid.origin == (10, 20, 30)
    assert data_file(path) == tmp_path / "b.raw"


def test_a_field_twice_may_say_the_same(tmp_path):
    read(tmp_path, SPACED + "NDims = 3\n" + END)
    refused(
        tmp_path,
        "'NDims = 2' in its header is no field, or given twice",
        SPACED + "NDims = 2\n" + END,
    )
    long = "Comment " + "x" * 60
    refused(tmp_path, f"'{long[:40]}' in its header is no field", SPACED + long + "\n" + END)


@pytest.mark.parametrize(("skip", "before"), [(1, 1), (5, 5), (-1, 0), (-1, 7), (0, 0)])
def test_bytes_before_the_pixels_are_skipped(tmp_path, skip, before):
    header = f"{SPACED}HeaderSize = {skip}\n{END}"
    assert np.array_equal(read(tmp_path, header, b"x" * before + PIXELS)[0], voxels())


@pytest.mark.parametrize("skip", [1, -1])
def test_bytes_before_compressed_pixels_are_refused(tmp_path, skip):
    header = f"{PACKED}HeaderSize = {skip}\n{END}"
    refused(tmp_path, f"HeaderSize {skip} before compressed pixels", header, zlib.compress(PIXELS))


@pytest.mark.parametrize("behind", [b"", b"\0", b"\r\n", b"\n\n\0", bytes(99_999)])
@pytest.mark.parametrize("packed", [False, True])
def test_zeros_and_ends_of_lines_may_stand_behind_the_pixels(tmp_path, behind, packed):
    pixels = PIXELS + behind
    header = (PACKED if packed else SPACED) + END
    assert np.array_equal(
        read(tmp_path, header, zlib.compress(pixels) if packed else pixels)[0], voxels()
    )
    refused(tmp_path, "holds more than its header says: over 420 bytes of pixels, expected 420",
            header, zlib.compress(pixels + b"1") if packed else pixels + b"1")  # fmt: skip


@pytest.mark.parametrize(("pixels", "text"), [
    (PIXELS[:-1], "is cut short: 419 bytes, expected 420; get"),
    (zlib.compress(PIXELS[:-1]), "is cut short: 419 bytes, expected 420; get"),
    (zlib.compress(PIXELS)[:-1], "its compressed pixels are cut short"),
    (zlib.compress(PIXELS)[:-4], "its compressed pixels are cut short"),
    (zlib.compress(PIXELS)[:-60], r"is cut short: \d\d\d bytes, expected 420; get")])  # fmt: skip
def test_pixels_that_end_too_early(tmp_path, pixels, text):
    refused(tmp_path, text, (SPACED if pixels == PIXELS[:-1] else PACKED) + END, pixels)


def test_a_file_too_small_for_its_pixels_however_compressed(tmp_path, monkeypatch):
    """As deflate packs 1032 bytes into one at most, nothing is unpacked."""
    monkeypatch.setattr(metaimage, "check_memory", lambda size, path: None)
    header = PACKED + END.replace("5 6 7", "1100 20 5")
    zeros = zlib.compress(bytes(220_000))
    assert 200 < len(zeros) < 300
    assert not read(tmp_path, header, zeros)[0].any()
    refused(tmp_path, "is cut short: expected 220000 bytes", header, zeros[:199])
    refused(tmp_path, r"is cut short: \d+ bytes, expected 220000", header, zeros[:200])
