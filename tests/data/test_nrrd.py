"""NRRD headers field by field: names, kinds of axes, places, and what may stand around pixels."""

from __future__ import annotations

import bz2
import gzip

import numpy as np
import pytest
from nifti_files import SHAPE, voxels
from test_text_headers import LPS, NRRD, PIXELS, TURNED, write

from lmaunet.data.images.nrrd import data_file, read_nrrd
from lmaunet.errors import UserError

FLAT = "NRRD0005\ntype: short\ndimension: 2\nsizes: 5 42\nencoding: raw\nendian: little\n"


def read(tmp_path, header, pixels=PIXELS):
    return read_nrrd(write(tmp_path / "a.nrrd", header, pixels))


def refused(tmp_path, text, header, pixels=PIXELS):
    with pytest.raises(UserError, match=text):
        read(tmp_path, header, pixels)


TYPES = {
    "i1": ["signed char", "int8", "int8_t"], "u1": ["uchar", "unsigned char", "uint8", "uint8_t"],
    "i2": ["short", "short int", "signed short", "signed short int", "int16", "int16_t"],
    "u2": ["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"],
    "i4": ["int", "signed int", "int32", "int32_t"],
    "u4": ["uint", "unsigned int", "uint32", "uint32_t"],
    "i8": ["longlong", "long long", "long long int", "signed long long", "signed long long int",
           "int64", "int64_t"],
    "u8": ["ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"],
    "f4": ["float"], "f8": ["double", "Double"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in TYPES.items() for n in names])
def test_every_type_by_every_name(tmp_path, kind, name):
    wanted = (voxels() % 100).astype(kind)
    array, _, _ = read(tmp_path, LPS.replace("short", name) + "\n", wanted.tobytes())
    assert array.dtype == kind and np.array_equal(array, wanted)
    if wanted.itemsize == 1:  # has no order
        header = LPS.replace("short", name).replace("endian: little\n", "")
        assert np.array_equal(read(tmp_path, header + "\n", wanted.tobytes())[0], wanted)


SIGNS = {"right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1), "RAS": (-1, -1, 1),
         "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1), "lps": (1, 1, 1),
         "left-posterior-superior": (1, 1, 1), "scanner-xyz": None, "3d-right-handed": None,
         "3d-left-handed": None, "3dr": None, "3DL": None}  # fmt: skip


@pytest.mark.parametrize(("space", "signs"), SIGNS.items())
def test_every_space_by_every_name(tmp_path, space, signs):
    _, grid, notes = read(tmp_path, f"{NRRD}space: {space}\n{TURNED}\n")
    matrix = np.array([[0, -3, 0], [2, 0, 0], [0, 0, 4]])
    sign = np.array(signs or (1, 1, 1))
    assert np.allclose(np.reshape(grid.direction, (3, 3)) * grid.spacing_mm, sign[:, None] * matrix)
    assert grid.origin == tuple(sign * (10, 20, 30))
    assert notes == (() if signs else (
        f"the file gives space '{space.lower()}', which names no patient directions: its axes are "
        "taken for left, back and head",
    ))  # fmt: skip


@pytest.mark.parametrize("unit", ["mm", "millimeter", "millimeters", "millimetre", "???", "MM", ""])
@pytest.mark.parametrize("key", ["units", "space units"])
def test_lengths_are_in_mm_by_any_name(tmp_path, unit, key):
    assert read(tmp_path, f'{LPS}{key}: "{unit}" "{unit}" "{unit}"\n\n')[2] == ()
    if unit:
        assert read(tmp_path, f"{LPS}{key}: {unit} {unit} {unit}\n\n")[2] == ()
    for other in ('"mm" "mm" "cm"', "m mm mm", '"mm" "" "in"'):
        refused(tmp_path, f"{key} .*; expected mm", f"{LPS}{key}: {other}\n\n")


KINDS = ["domain", "space", "???", "none", "Domain"]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_axes_that_lie_in_space(tmp_path, kind):
    assert read(tmp_path, f"{LPS}kinds: {kind} domain {kind}\n\n")[1].size == SHAPE


@pytest.mark.parametrize("kind", ["list", "vector", "RGB-color", "time"])
@pytest.mark.parametrize("place", range(4))
def test_an_axis_that_lies_in_no_space_is_left_out_where_it_has_one_entry(tmp_path, kind, place):
    def header(count):
        sizes, kinds, vectors = ["5", "6", "7"], ["domain"] * 3, ["(0,2,0)", "(-3,0,0)", "(0,0,4)"]
        for entries, one in ((sizes, count), (kinds, kind), (vectors, "none")):
            entries.insert(place, one)
        made = LPS.replace("dimension: 3", "dimension: 4").replace("5 6 7", " ".join(sizes))
        made = made.replace("(0,2,0) (-3,0,0) (0,0,4)", " ".join(vectors))
        return f"{made}kinds: {' '.join(kinds)}\n\n"

    array, grid, notes = read(tmp_path, header("1"))
    assert np.array_equal(array, voxels()) and grid.size == SHAPE and notes == ()
    assert np.allclose(grid.spacing_mm, (2, 3, 4))
    what = "times" if kind == "time" else "values per pixel"
    refused(tmp_path, f"2 {what}; expected one channel", header("2"), PIXELS * 2)


@pytest.mark.parametrize(("sizes", "text"), [
    ("5 1", None), ("5 1 7", None), ("5 6 1", None), ("1 1 1", None), ("5 1 1 7 1", None),
    ("5", r"1 dimensions \(5\); expected 3"),
    ("5 6 2 3", r"4 dimensions \(5 x 6 x 2 x 3\)")])  # fmt: skip
def test_axes_of_one_are_left_out_only_beyond_three(tmp_path, sizes, text):
    numbers = [int(n) for n in sizes.split()]
    header = NRRD.replace("dimension: 3", f"dimension: {len(numbers)}").replace("5 6 7", sizes)
    pixels = PIXELS[: 2 * int(np.prod(numbers))]
    if text:
        refused(tmp_path, text, header + "\n", pixels)
        return
    _, grid, _ = read(tmp_path, header + "\n", pixels)
    assert len(grid.size) == min(3, len(numbers)) and np.prod(grid.size) == np.prod(numbers)


@pytest.mark.parametrize(("fields", "text"), [
    ("kinds: domain domain\n", "kinds or space directions are not 3 axes'"),
    ("kinds: domain domain domain domain\n", "kinds or space directions are not 3 axes'"),
    ("spacings: 2 3 0\n", "expected positive sizes"), ("spacings: 2 inf 4\n", "positive sizes"),
    ("spacings: 2 3 4 5\n", "spacings '2 3 4 5'; expected 3 numbers"),
    ("spacings: 2 3 x\n", "spacings '2 3 x' in its header"),
    ("axis mins: 1 2 3\n", "without space directions"),
    ("space origin: (1,2,3)\n", "without space directions"),
    ("space: lps\nspace directions: (1,0,0) (0,1,0) (0,0,1) (0,0,1)\n", "are not 3 axes'"),
    ("space: lps\nspace directions: (1,0,0) (0,1,0) (0,0,1,0)\n", "expected vectors of 3 numbers"),
    ("space: lps\nspace directions: (1,0) (0,1) (1,1)\n", "expected vectors of 3 numbers"),
    ("space: lps\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: none\n", "'none'"),
    ("space: lps\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (1,2,3,4)\n", "origin"),
    ("space: lps\nspace directions: zzz (0,1,0) (0,0,1)\n", "'zzz' in its header is no vector"),
    ("space: lps\nspace directions: (1,0,0) (0,1,0) (0,0,z)\n", r"'\(0,0,z\)' in its header"),
])  # fmt: skip
def test_fields_that_do_not_fit_the_axes_are_refused(tmp_path, fields, text):
    refused(tmp_path, text, NRRD + fields + "\n")


def test_spacings_without_directions_are_those_of_their_axes(tmp_path):
    header = NRRD.replace("dimension: 3", "dimension: 4").replace("5 6 7", "5 1 6 7")
    _, grid, notes = read(tmp_path, header + "spacings: 2 9 3 4\n\n")
    assert grid.spacing_mm == (2, 3, 4) and grid.origin == (0, 0, 0) and len(notes) == 1
    assert grid.direction == tuple(np.eye(3).ravel())
    _, grid, notes = read(tmp_path, header + "\n")
    assert grid.spacing_mm == (1, 1, 1) and len(notes) == 2


def test_a_flat_image_lies_in_a_plane_without_patient_directions(tmp_path):
    turned = "space directions: (0,2) (-3,0)\n"
    _, grid, notes = read(tmp_path, f"{FLAT}space dimension: 2\n{turned}space origin: (4,7)\n\n")
    assert grid.origin == (4, 7) and grid.spacing_mm == (2, 3) and grid.direction == (0, -1, 1, 0)
    assert notes == ("the file gives no space, which names no patient directions: its axes are "
                     "taken for left, back and head",)  # fmt: skip
    _, grid, _ = read(tmp_path, f"{FLAT}space dimension: 2\n{turned}\n")
    assert grid.origin == (0, 0)
    refused(tmp_path, r"space 'lps' with 2 axes in space", f"{FLAT}space: lps\n{turned}\n")


NAMES = {"blocksize": "block size", "oldmin": "old min", "oldmax": "old max",
         "sampleunits": "sample units", "axismins": "axis mins", "axismaxs": "axis maxs",
         "centers": "centerings"}  # fmt: skip
FIELDS = ["thicknesses", "axis maxs", "centerings", "labels", "min", "max", "old min", "old max",
          "content", "sample units", "number", "block size"]  # fmt: skip


@pytest.mark.parametrize("field", [*FIELDS, *NAMES, "Content"])
def test_fields_that_place_nothing_are_let_pass(tmp_path, field):
    value = "1 2 3"
    if field != "axismins":
        assert read(tmp_path, f"{LPS}{field}: {value}\n\n")[2] == ()
    if field in NAMES:
        refused(tmp_path, "is given twice", f"{LPS}{field}: 1\n{NAMES[field]}: 1\n\n")


@pytest.mark.parametrize(("encoding", "pack"), [
    ("raw", bytes), ("gzip", gzip.compress), ("gz", gzip.compress), ("GZIP", gzip.compress),
    ("bzip2", bz2.compress), ("bz2", bz2.compress)])  # fmt: skip
def test_bytes_around_the_pixels_in_every_encoding(tmp_path, encoding, pack):
    header = LPS.replace("raw", encoding)
    for field, before in (("", b""), ("byte skip: 0\n", b""), ("byte skip: 3\n", b"abc"),
                          ("byteskip: 3\n", b"abc")):  # fmt: skip
        array = read(tmp_path, f"{header}{field}\n", pack(before + PIXELS))[0]
        assert np.array_equal(array, voxels())
    for field in ("line skip", "lineskip"):
        array = read(tmp_path, f"{header}{field}: 1\n\n", b"a line\n" + pack(PIXELS))[0]
        assert np.array_equal(array, voxels())
    for behind, good in ((b"\0\r\n", True), (b"\0" * 99, True), (b"1", False), (b"\n1", False)):
        if good:
            array = read(tmp_path, header + "\n", pack(PIXELS + behind))[0]
            assert np.array_equal(array, voxels())
        else:
            refused(tmp_path, f"{420 + len(behind)} bytes of pixels, expected 420; get",
                    header + "\n", pack(PIXELS + behind))  # fmt: skip
    refused(
        tmp_path, "is cut short: 419 bytes, expected 420; get", header + "\n", pack(PIXELS[:-1])
    )
    for skip in (-2, *([-1] if encoding != "raw" else [])):
        refused(tmp_path, f"line skip 0 and byte skip {skip} in its header",
                f"{header}byte skip: {skip}\n\n", pack(PIXELS))  # fmt: skip
    refused(tmp_path, "line skip -1 and byte skip 4", f"{header}line skip: -1\nbyte skip: 4\n\n")
    refused(tmp_path, "line skip '1.5' in its header", f"{header}line skip: 1.5\n\n")
    refused(tmp_path, "byte skip '1 2'; expected 1 numbers", f"{header}byte skip: 1 2\n\n")


def test_raw_pixels_may_be_counted_from_the_end(tmp_path):
    array = read(tmp_path, f"{LPS}byte skip: -1\n\n", b"anything" + PIXELS)[0]
    assert np.array_equal(array, voxels())


def test_what_is_unpacked_has_a_bound(tmp_path):
    header = LPS.replace("raw", "bzip2") + "\n"
    many = bz2.compress(PIXELS + b"1" * 99_999)
    refused(tmp_path, f"{420 + 4096} bytes of pixels, expected 420", header, many)
    # skipped bytes are unpacked too
    for skip in (0, 9):
        made = LPS.replace("raw", "gzip") + f"byte skip: {skip}\n\n"
        many = gzip.compress(bytes(skip) + PIXELS + b"1" * 99_999)
        refused(tmp_path, f"{420 + 4097} bytes of pixels, expected 420", made, many)
    refused(tmp_path, "its bzip2 stream is cut short", header, bz2.compress(PIXELS)[:-1])


@pytest.mark.parametrize("text", ["ascii", "text", "txt"])
def test_pixels_as_text(tmp_path, text):
    header = LPS.replace("raw", text).replace("endian: little\n", "") + "\n"
    for mark in (" ", ",", ", ", "\n"):
        array = read(tmp_path, header, mark.join(map(str, voxels().ravel())).encode())[0]
        assert array.dtype == np.int16 and np.array_equal(array, voxels())
    for count in (209, 211):
        refused(tmp_path, f"{count} numbers, expected 210", header, b"1 " * count)
    refused(tmp_path, "among its pixels", header, b"\xff " * 210)


def test_a_header_apart_may_end_with_its_last_line(tmp_path):
    (tmp_path / "b.raw").write_bytes(b"x\n" + PIXELS)
    path = write(tmp_path / "a.nhdr", f"{LPS}line skip: 1\ndata file: b.raw", b"")
    assert np.array_equal(read_nrrd(path)[0], voxels()) and data_file(path) == tmp_path / "b.raw"
    path = write(tmp_path / "c.nrrd", LPS + "\n")
    assert data_file(path) == path
    for name in ("b%d.raw", "b%03d.raw", "c.raw"):
        path = write(tmp_path / "d.nhdr", f"{LPS}data file: {name}\n", b"")
        with pytest.raises(UserError, match=f"its pixels are in {name}, which is not there; bring"):
            read_nrrd(path)


def test_lines_that_are_no_fields(tmp_path):
    assert read(tmp_path, LPS + "#key: 1\nkey:=1\n:=\n\n")[2] == ()
    long = "x" * 60
    refused(tmp_path, f"'{'x' * 40}' in its header is no field of NRRD", LPS + long + "\n\n")
    refused(tmp_path, "'type: short' in its header is given twice", LPS + "type: short\n\n")
    refused(tmp_path, "sizes '5 6 7' in 2 axes", LPS.replace("dimension: 3", "dimension: 2") + "\n")
    refused(tmp_path, "dimension None in its header", LPS.replace("dimension: 3\n", "") + "\n")
    refused(tmp_path, "sizes '5.0 6 7' in its header", LPS.replace("5 6 7", "5.0 6 7") + "\n")
    refused(tmp_path, "encoding None; expected raw", LPS.replace("encoding: raw\n", "") + "\n")
    refused(tmp_path, "pixels of type ''", LPS.replace("type: short\n", "") + "\n")
