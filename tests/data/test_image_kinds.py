"""What a file is, by the first of its bytes: every mark, and what is like it and is another."""

from __future__ import annotations

import re

import pytest

from lmaunet.data.images import image_file
from lmaunet.data.images.image_file import identify
from lmaunet.errors import UserError

STARTS = {
    "a PNG picture": [b"\x89PNG"], "a JPEG picture": [b"\xff\xd8\xff"],
    "a JPEG 2000 picture": [b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP"],
    "a TIFF picture": [b"II*\x00", b"MM\x00*", b"II+\x00"], "a BMP picture": [b"BM"],
    "a GIF picture": [b"GIF8"], "an HDF5 file (MINC 2": [b"\x89HDF\r\n"],
    "a netCDF file (MINC 1": [b"CDF\x01"], "a netCDF file;": [b"CDF\x02"],
    "a numpy array": [b"\x93NUMPY"], "a zip archive": [b"PK\x03\x04"],
    "an empty zip archive": [b"PK\x05\x06"], "compressed by bzip2": [b"BZh"],
    "compressed by xz": [b"\xfd7zXZ"], "compressed by zstd": [b"\x28\xb5\x2f\xfd"],
    "a 7z archive": [b"7z\xbc\xaf"], "a RAR archive": [b"Rar!"], "a PDF": [b"%PDF"],
    "a VTK file": [b"# vtk"], "a MATLAB file": [b"MATLAB 5.0"],
    "a tar archive": [b"\x01" * 257 + b"ustar"], "a NIfTI or Analyze header, cut short": [
        (348).to_bytes(4, "little"), (348).to_bytes(4, "big") + bytes(343)],
    "an Analyze 7.5 header": [(348).to_bytes(4, "little") + bytes(344),
                              (348).to_bytes(4, "big") + bytes(344)],
    "text;": [b"~ \t\r\n\0\0", b"\0text"],
    "of an unknown kind": [
        b"\x01" * 257 + b"ustaR", b"\x01" * 256 + b"ustar", b"\x01" * 258 + b"ustar", b"\x1f",
        b"\x7f", b"a\x01", b"\x80", (349).to_bytes(4, "little"),
        (347).to_bytes(4, "big") + bytes(344),
        b"\x5c\x01\0", b"\0\0\0\x01", b"\x01\0\0\0"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("start", "name"), [(start, name) for name, found in STARTS.items() for start in found]
)
def test_a_file_is_named_by_how_it_begins(tmp_path, start, name):
    (tmp_path / "a").write_bytes(start)
    with pytest.raises(UserError, match=re.escape(f"cannot be read as an image: it is {name}")):
        identify(tmp_path / "a")


@pytest.mark.parametrize(("name", "start", "text"), [
    ("a.mgh", b"\0\0\0\x01", "an MGH file"), ("a.mgz", b"\x01\0\0\0", "an MGH file"),
    ("a.mgh", b"\0\0\0\x02", "unknown"), ("a.img", b"\0\x01\x02", "the data of a pair"),
    ("a.hdr", b"\0\x01\x02", "unknown")])  # fmt: skip
def test_a_file_without_a_mark_is_named_by_its_name_too(tmp_path, name, start, text):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(UserError, match=text):
        identify(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        *[(f"NRRD000{n}\n".encode(), "NRRD") for n in "12345"], (b"NRRD0005\r\n", "NRRD"),
        (b"NRRD0000\n", None), (b"NRRD0006\n", None), (b"NRRD0005 \n", None),
        *[(f"{key} = x\n".encode(), "MetaImage") for key in ("ObjectType", "NDims", "Comment")],
        (b"ObjectType: x\n", None), (b"DimSize = 3\n", None),
        (bytes(128) + b"DICM", "DICOM"), (bytes(127) + b"DICM", None), (bytes(128) + b"DICN", None),
        *[(size.to_bytes(4, order) + middle, kind)
          for order in ("little", "big") for size, middle, kind in (
            (348, bytes(340) + b"n+1\0", "NIfTI"), (348, bytes(340) + b"ni1\0", "NIfTI"),
            (348, bytes(340) + b"n+1\1", None), (540, b"n+2\0\r\n\x1a\n", "NIfTI"),
            (540, b"ni2\0\r\n\x1a\n", "NIfTI"), (540, b"n+2\0\r\n\x1a\r", None),
            (541, b"n+2\0\r\n\x1a\n", None), (349, bytes(340) + b"n+1\0", None))],
    ],
)  # fmt: skip
def test_a_kind_of_image_is_known_by_its_mark(tmp_path, start, kind):
    assert image_file._kind(start + bytes(9)) == kind
