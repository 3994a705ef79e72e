"""NRRD and MetaImage: laid where ITK, which reads them apart from us, lays them, or refused."""

from __future__ import annotations

import bz2
import gzip
import math
import zlib

import numpy as np
import pytest
import SimpleITK
from nifti_files import voxels

from lmaunet.data.images.metaimage import read_metaimage
from lmaunet.data.images.nrrd import read_nrrd
from lmaunet.data.images.volumes import read_volume
from lmaunet.errors import UserError

PIXELS = voxels().astype("<i2").tobytes()
NRRD = "NRRD0005\ntype: short\ndimension: 3\nsizes: 5 6 7\nencoding: raw\nendian: little\n"
TURNED = "space directions: (0,2,0) (-3,0,0) (0,0,4)\nspace origin: (10,20,30)\n"
LPS = NRRD + "space: left-posterior-superior\n" + TURNED
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = False\n"
)
ROTATED = "TransformMatrix = 0 1 0 -1 0 0 0 0 1\nOffset = 10 20 30\n"
SPACED = META + ROTATED + "ElementSpacing = 2 3 4\n"
END = "DimSize = 5 6 7\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"


def itk(path):
    image = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayFromImage(image), (
        image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    )  # fmt: skip


def assert_as_itk(path, read):
    array, grid, notes = read(path)
    theirs, (size, *rest) = itk(path)
    assert np.array_equal(array, theirs) and grid.size == size
    for ours, other in zip((grid.spacing_mm, grid.origin, grid.direction), rest, strict=True):
        assert np.allclose(ours, other, atol=1e-9)
    return notes


def write(path, header, pixels=PIXELS):
    path.write_bytes(header.encode() + pixels)
    return path


@pytest.mark.parametrize(
    ("header", "note"),
    [
        *[(NRRD + f"space: {space}\n" + TURNED + "\n", None) for space in (
            "right-anterior-superior", "RAS", "left-anterior-superior", "LAS",
            "left-posterior-superior", "LPS", "Left-Posterior-Superior")],
        *[(NRRD + f"space: {space}\n" + TURNED + "\n", "names no patient directions") for space in (
            "scanner-xyz", "3D-right-handed", "3D-left-handed")],
        (NRRD + "space dimension: 3\n" + TURNED + "\n", "gives no space"),
        (NRRD + "spacings: 2 3 4\n\n", "names no patient directions"),
        (NRRD + "\n", "no spacing: voxels are taken to be 1 mm wide"),
        (LPS + "kinds: domain domain domain\n\n", None),
        (LPS + "kinds: space space space\ncenterings: cell cell cell\n\n", None),
        (LPS + 'space units: "mm" "mm" "mm"\n\n', None),
        ((LPS + "\n").replace("\n", "\r\n"), None),
        (LPS + "# a comment: with a colon\nPatient:=x: y\n\n", None),
        (LPS + "measurement frame: (1,0,0) (0,1,0) (0,0,1)\n\n", None),
    ],
)  # fmt: skip
def test_nrrd_lies_where_itk_lays_it(tmp_path, header, note):
    notes = assert_as_itk(write(tmp_path / "a.nrrd", header), read_nrrd)
    assert (notes == ()) if note is None else any(note in n for n in notes), notes


def test_nrrd_in_every_encoding(tmp_path):
    text = " ".join(map(str, voxels().ravel())).encode()
    turned = voxels().astype(">i2").tobytes()
    for encoding, pixels in (("gzip", gzip.compress(PIXELS)), ("gz", gzip.compress(PIXELS)),
                             ("ascii", text), ("text", text.replace(b" ", b"\n"))):  # fmt: skip
        path = write(tmp_path / "a.nrrd", LPS.replace("raw", encoding) + "\n", pixels)
        assert_as_itk(path, read_nrrd)
    assert_as_itk(
        write(tmp_path / "a.nrrd", LPS.replace("little", "big") + "\n", turned), read_nrrd
    )
    packed = write(tmp_path / "a.nrrd", LPS.replace("raw", "bzip2") + "\n", bz2.compress(PIXELS))
    assert np.array_equal(read_nrrd(packed)[0], voxels())  # ITK has no bzip2
    for field, before in (("byte skip: 4", b"abcd"), ("line skip: 2", b"one\ntwo\n")):
        path = write(tmp_path / "a.nrrd", f"{LPS}{field}\n\n", before + PIXELS)
        assert_as_itk(path, read_nrrd)


def test_nrrd_with_its_pixels_in_another_file(tmp_path):
    (tmp_path / "a.raw").write_bytes(PIXELS)
    (tmp_path / "b.raw").write_bytes(b"12345678" + PIXELS)
    for field in ("data file: a.raw\n", "datafile: a.raw\n", "byte skip: -1\ndata file: b.raw\n",
                  "byte skip: 8\ndata file: b.raw\n"):  # fmt: skip
        assert_as_itk(write(tmp_path / "a.nhdr", LPS + field + "\n", b""), read_nrrd)
    path = write(tmp_path / "a.nhdr", LPS + "data file: c.raw\n\n", b"")
    with pytest.raises(UserError, match=r"its pixels are in c\.raw, which is not there; bring"):
        read_nrrd(path)
    # a pipe in its place is not waited for
    import os

    os.mkfifo(tmp_path / "c.raw")
    with pytest.raises(UserError, match="is a named pipe"):
        read_nrrd(path)


def test_nrrd_axes_of_one_that_lie_in_no_space_are_left_out(tmp_path):
    header = LPS.replace("dimension: 3", "dimension: 4").replace("sizes: 5", "sizes: 1 5")
    header = header.replace("directions: ", "directions: none ")
    path = write(tmp_path / "a.nrrd", header + "kinds: list domain domain domain\n\n")
    assert_as_itk(path, read_nrrd)
    flat = "NRRD0005\ntype: short\ndimension: 2\nsizes: 5 42\nencoding: raw\nendian: little\n"
    flat += "space dimension: 2\nspace directions: (0,2) (-3,0)\nspace origin: (1,2)\n\n"
    assert_as_itk(write(tmp_path / "b.nrrd", flat), read_nrrd)
    assert read_volume(tmp_path / "b.nrrd").geometry.grid.size == (5, 42)


@pytest.mark.parametrize("sizes", ["1 5 6 7", "5 1 6 7", "5 6 7 1"])
def test_a_nrrd_axis_of_one_beside_three_is_left_out(tmp_path, sizes):
    header = NRRD.replace("dimension: 3", "dimension: 4").replace("sizes: 5 6 7", f"sizes: {sizes}")
    array, grid, _ = read_nrrd(write(tmp_path / "a.nrrd", header + "\n"))
    assert grid.size == (5, 6, 7) and np.array_equal(array, voxels())
    header = header.replace(sizes, sizes.replace("1", "2"))
    with pytest.raises(UserError, match=r"4 dimensions .*; expected 3"):
        read_nrrd(write(tmp_path / "a.nrrd", header + "\n", PIXELS * 2))


@pytest.mark.parametrize(("lines", "bound"), [(1022, True), (1023, True), (1026, False)])
@pytest.mark.parametrize("kind", ["nrrd", "mha"])
def test_a_header_has_a_bound(tmp_path, kind, lines, bound):
    """A file of text without end is no header: at most 1 MiB is read of it."""
    line = {"nrrd": "#" + "x" * 1022 + "\n", "mha": " " * 1023 + "\n"}[kind]
    if kind == "nrrd":
        path = write(tmp_path / "a.nrrd", NRRD + line * lines + "\n")
        read = read_nrrd
    else:
        path, read = write(tmp_path / "a.mha", META + line * lines + END), read_metaimage
    if bound:
        assert np.array_equal(read(path)[0], voxels())
    else:
        with pytest.raises(UserError, match="is cut short: its header has no"):
            read(path)


@pytest.mark.parametrize(
    ("change", "pixels", "text"),
    [
        (("(-3,0,0)", "(-3,0.5,0)"), PIXELS, "9.46 degrees off right angles"),
        (("(0,2,0)", "(0,0,0)"), PIXELS, "expected a size"),
        (("(0,2,0)", "(0,nan,0)"), PIXELS, "NaN or infinite"),
        (("(10,20,30)", "(10,inf,30)"), PIXELS, "NaN or infinite"),
        (("(10,20,30)", "(10,20)"), PIXELS, "space origin"),
        (("(10,20,30)", "(10,20,x)"), PIXELS, "is no vector"),
        (("(0,2,0) ", ""), PIXELS, "are not 3 axes'"),
        (("(0,2,0)", "none"), PIXELS, "5 values per pixel"),
        (("endian: little", 'endian: little\nspace units: "m" "m" "m"'), PIXELS, "expected mm"),
        (("endian: little", 'endian: little\nunits: "um" "um" "um"'), PIXELS, "expected mm"),
        (("endian: little", "endian: little\nkinds: domain domain RGB-color"), PIXELS,
         "7 values per pixel"),
        (("endian: little", "endian: little\nkinds: domain domain time"), PIXELS, "7 times"),
        (("left-posterior-superior", "left-posterior-superior-time"), PIXELS, "save one volume"),
        (("endian: little", "endian: middle"), PIXELS, "endian 'middle'"),
        (("endian: little\n", ""), PIXELS, "endian ''"),
        (("type: short", "type: block"), PIXELS, "pixels of type 'block'"),
        (("encoding: raw", "encoding: hex"), PIXELS, "encoding 'hex'"),
        (("sizes: 5 6 7", "sizes: 5 6 0"), PIXELS, "sizes '5 6 0'"),
        (("sizes: 5 6 7", "sizes: 5 6"), PIXELS, "in 3 axes"),
        (("sizes: 5 6 7", "sizes: 5 6 x"), PIXELS, "sizes '5 6 x'"),
        (("sizes: 5 6 7", "sizes: 5 6 8"), PIXELS, "is cut short: 420 bytes, expected 480"),
        (("sizes: 5 6 7", "sizes: 5 6 6"), PIXELS, "holds more than its header says"),
        (("sizes: 5 6 7", "sizes: 999999 999999 999999"), PIXELS, "asks for"),
        (("endian: little", "endian: little\nendian: big"), PIXELS, "is given twice"),
        (("endian: little", "endian: little\nbyte skip: -2"), PIXELS, "byte skip -2"),
        (("endian: little", "endian: little\nline skip: -1"), PIXELS, "line skip -1"),
        (("endian: little", "endian: little\nline skip: 999999999999"), PIXELS, "is cut short"),
        (("encoding: raw", "encoding: gzip\nbyte skip: -1"), gzip.compress(PIXELS), "byte skip -1"),
        (("encoding: raw", "encoding: gzip"), gzip.compress(PIXELS)[:-9], "cut short"),
        (("encoding: raw", "encoding: gzip"), PIXELS, "is damaged"),
        (("encoding: raw", "encoding: bzip2"), bz2.compress(PIXELS)[:-9], "cut short"),
        (("encoding: raw", "encoding: bzip2"), PIXELS, "is damaged"),
        (("encoding: raw", "encoding: ascii"), b"1 2 3", "3 numbers, expected 210"),
        (("encoding: raw", "encoding: ascii"), b"x " * 210, "among its pixels"),
        (("NRRD0005\n", "NRRD0005\nno field\n"), PIXELS, "is no field of NRRD"),
        (("space:", "spbce:"), PIXELS, "is no field of NRRD"),
    ],
)  # fmt: skip
def test_a_nrrd_file_that_cannot_be_right_is_refused(tmp_path, change, pixels, text):
    header = LPS + "\n"
    assert change[0] in header
    path = write(tmp_path / "a.nrrd", header.replace(*change), pixels)
    with pytest.raises(UserError, match=text) as raised:
        read_nrrd(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (NRRD + "spacings: 2 -3 4\n\n", "expected positive sizes"),
        (NRRD + "spacings: 2 nan 4\n\n", "expected positive sizes"),
        (NRRD + "spacings: 2 3\n\n", "expected 3 numbers"),
        (NRRD + "spacings: 2 3 4\naxis mins: 1 2 3\n\n", "a place .* without space directions"),
        (LPS, "its header has no end"),
        (NRRD + "#space: LPS\n" + TURNED + "\n", "space directions without a space"),
        (NRRD + "space: laft-posterior-superior\n" + TURNED + "\n", "correct the header"),
        (LPS.replace("(-3,0,0)", "(-3,0)") + "\n", "expected vectors of 3 numbers"),
        (LPS.replace("NRRD0005", "NRRD0009") + "\n", "cannot be read as an image"),
        (LPS.replace("(-3,0,0)", "(-3,0\0,0)") + "\n", "a control character"),
        (LPS + "data file: LIST\na.raw\n\n", "a list of files"),
        (LPS + "data file: a%03d.raw 1 7 1\n\n", "which is not there"),
    ],
)
def test_a_nrrd_file_that_leaves_its_place_open_is_refused(tmp_path, header, text):
    with pytest.raises(UserError, match=text):
        read_volume(write(tmp_path / "a.nrrd", header, b"" if header == LPS else PIXELS))


@pytest.mark.parametrize(
    ("header", "note"),
    [
        (SPACED + END, None),
        (SPACED + "CenterOfRotation = 0 0 0\nAnatomicalOrientation = RAI\n" + END, None),
        (META + ROTATED + "ElementSize = 2 3 4\n" + END, None),
        (META + ROTATED + "ElementSize = 2 3 4\nElementSpacing = 5 6 7\n" + END, None),
        (META + ROTATED + END, "no spacing: voxels are taken to be 1 mm wide"),
        (META + "Rotation = 0 1 0 -1 0 0 0 0 1\nPosition = 1 2 3\nElementSpacing = 2 3 4\n" + END,
         None),
        (META + "ElementSpacing = 2 3 4\nCenterOfRotation = 1 2 3\n" + END, None),
        (SPACED + "HeaderSize = -1\n" + END, None),
    ],
)  # fmt: skip
def test_metaimage_lies_where_itk_lays_it(tmp_path, header, note):
    notes = assert_as_itk(write(tmp_path / "a.mha", header), read_metaimage)
    assert (notes == ()) if note is None else any(note in n for n in notes), notes


def test_metaimage_in_every_form(tmp_path):
    packed = zlib.compress(PIXELS)
    compressed = SPACED.replace("CompressedData = False", "CompressedData = True")
    with_size = compressed + f"CompressedDataSize = {len(packed)}\n" + END
    assert_as_itk(write(tmp_path / "a.mha", with_size, packed), read_metaimage)
    # ITK cannot read this one
    alone = write(tmp_path / "a.mha", compressed + END, packed)
    assert np.array_equal(read_metaimage(alone)[0], voxels())
    turned = SPACED.replace("MSB = False", "MSB = True") + END
    assert_as_itk(
        write(tmp_path / "a.mha", turned, voxels().astype(">i2").tobytes()), read_metaimage
    )
    for name, kind in (("CHAR", "i1"), ("UCHAR", "u1"), ("USHORT", "u2"), ("INT", "i4"),
                       ("UINT", "u4"), ("LONG", "i4"), ("ULONG", "u4"), ("LONG_LONG", "i8"),
                       ("FLOAT", "f4"), ("DOUBLE", "f8")):  # fmt: skip
        pixels = (voxels() % 100).astype(f"<{kind}").tobytes()
        header = SPACED + END.replace("MET_SHORT", f"MET_{name}")
        assert_as_itk(write(tmp_path / "a.mha", header, pixels), read_metaimage)
    (tmp_path / "a.raw").write_bytes(PIXELS)
    assert_as_itk(
        write(tmp_path / "a.mhd", SPACED + END.replace("LOCAL", "a.raw"), b""), read_metaimage
    )


COMPRESSED = ("CompressedData = False", "CompressedData = True")


@pytest.mark.parametrize(
    ("change", "pixels", "text"),
    [
        (("ElementSpacing = 2 3 4", "ElementSpacing = 2 -3 4"), PIXELS, "expected positive sizes"),
        (("ElementSpacing = 2 3 4", "ElementSpacing = 2 0 4"), PIXELS, "expected positive sizes"),
        (("ElementSpacing = 2 3 4", "ElementSpacing = 2 nan 4"), PIXELS, "expected positive sizes"),
        (("ElementSpacing = 2 3 4", "ElementSpacing = 2 3"), PIXELS, "expected 3 numbers"),
        (("0 1 0 -1 0 0 0 0 1", "0 2 0 -3 0 0 0 0 4"), PIXELS, "not of length 1"),
        (("0 1 0 -1 0 0 0 0 1", "1 0 0 0.1 0.995 0 0 0 1"), PIXELS, "5.74 degrees off"),
        (("0 1 0 -1 0 0 0 0 1", "0 1 0 0 1 0 0 0 1"), PIXELS, "degrees off right angles"),
        (("0 1 0 -1 0 0 0 0 1", "0 nan 0 -1 0 0 0 0 1"), PIXELS, "NaN or infinite"),
        (("Offset = 10 20 30", "Offset = 10 inf 30"), PIXELS, "NaN or infinite"),
        (("NDims = 3", "NDims = 3\nCenterOfRotation = 1 0 0"), PIXELS, "readers disagree"),
        (("NDims = 3", "NDims = 3\nDistanceUnits = um"), PIXELS, "expected mm"),
        (("NDims = 3", "NDims = 3\nElementNumberOfChannels = 3"), PIXELS, "3 values per pixel"),
        (("NDims = 3", "NDims = 3\nElementToIntensityFunctionSlope = 2"), PIXELS, "expected 1"),
        (("NDims = 3", "NDims = 3\nElementToIntensityFunctionOffset = 1"), PIXELS, "expected 0"),
        (("NDims = 3", "NDims = 3\nHeaderSize = -2"), PIXELS, "HeaderSize -2"),
        (("NDims = 3", "NDims = 4"), PIXELS, "expected 4 numbers"),
        (("ObjectType = Image", "ObjectType = Tube"), PIXELS, "a MetaIO Tube"),
        (("BinaryData = True", "BinaryData = False"), PIXELS, "written as text"),
        (("BinaryData = True", "BinaryData = maybe"), PIXELS, "expected True or False"),
        (("DimSize = 5 6 7", "DimSize = 5 6 8"), PIXELS, "is cut short: 420 bytes, expected 480"),
        (("DimSize = 5 6 7", "DimSize = 5 6 6"), PIXELS, "holds more than its header says"),
        (("DimSize = 5 6 7", "DimSize = 5 -6 7"), PIXELS, "expected sizes of 1 or more"),
        (("DimSize = 5 6 7", "DimSize = 999999 999999 999999"), PIXELS, "asks for"),
        (("MET_SHORT", "MET_SHORT_ARRAY"), PIXELS, "pixels of type"),
        (("NDims = 3", "NDims = 3\nNDims = 2"), PIXELS, "given twice"),
        (("NDims = 3", "NDims = 3\nno field"), PIXELS, "is no field"),
        (("LOCAL", "b.raw"), PIXELS, r"b\.raw, which is not there"),
        (("LOCAL", "LOCaL"), PIXELS, "LOCaL, which is not there"),
        (("Offset =", "Offset\x1f="), PIXELS, "a control character"),
        (("LOCAL", "LIST"), PIXELS, "in several files"),
        (("LOCAL", "a%02d.raw 1 7 1"), PIXELS, "in several files"),
        (("ElementDataFile = LOCAL\n", ""), b"", "no ElementDataFile"),
        (COMPRESSED, zlib.compress(PIXELS)[:-3], "are cut short"),
        (COMPRESSED, zlib.compress(PIXELS)[:-30], "cut short"),
        (COMPRESSED, zlib.compress(PIXELS)[:-1] + b"x", "incorrect data check"),
        # bytes that may stand behind the pixels hide neither what is damaged nor what is too much
        (COMPRESSED, zlib.compress(PIXELS + b"\0")[:-1] + b"x", "incorrect data check"),
        (COMPRESSED, zlib.compress(PIXELS + bytes(99_999))[:-1] + b"x", "incorrect data check"),
        (COMPRESSED, zlib.compress(PIXELS + b"\0\n")[:-3], "are cut short"),
        (COMPRESSED, zlib.compress(PIXELS + bytes(9) + b"1"), "holds more than"),
        (COMPRESSED, PIXELS, "is damaged"),
        (COMPRESSED, zlib.compress(PIXELS + b"1"), "holds more than"),
    ],
)  # fmt: skip
def test_a_metaimage_that_cannot_be_right_is_refused(tmp_path, change, pixels, text):
    header = SPACED + END
    assert change[0] in header
    path = write(tmp_path / "a.mha", header.replace(*change), pixels)
    with pytest.raises(UserError, match=text) as raised:
        read_metaimage(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["nrrd", "mha"])
def test_a_tiny_shear_is_repaired_and_said(tmp_path, kind):
    if kind == "nrrd":
        header, read = LPS.replace("(-3,0,0)", "(-3,0.005,0)") + "\n", read_nrrd
        sheared = np.array([[0, -3, 0], [2, 0.005, 0], [0, 0, 4]])
    else:
        header, read = SPACED.replace("-1 0 0 0 0 1", "-1 0.0016 0 0 0 1") + END, read_metaimage
        sheared = np.array([[0, -3, 0], [2, 0.0048, 0], [0, 0, 4]])
    _, grid, notes = read(write(tmp_path / f"a.{kind}", header))
    assert "degrees off right angles: the nearest right angles are used" in notes[0]
    matrix = np.reshape(grid.direction, (3, 3)) * grid.spacing_mm
    corner = np.array([4, 5, 6])
    off = matrix @ corner + grid.origin - sheared @ corner - [10, 20, 30]
    assert 0 < np.linalg.norm(off) < 0.05 and math.isclose(grid.spacing_mm[1], 3, rel_tol=1e-5)
