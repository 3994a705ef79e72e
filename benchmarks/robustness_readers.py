"""Readers of images and masks that share nothing with the program: nibabel, pydicom, and own ones.

Each gives voxels in the file's index order and where they lie, in RAS millimetres. What a reader
cannot make sense of it refuses with :class:`Refused`; the judge then knows nothing of the image.
"""

from __future__ import annotations

import bz2
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from robustness_image import TO_RAS, Image, NotABox, Refused

MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Of a unit of length in xyzt_units; 0 is unknown, which all readers take for millimetres."""
LARGEST_BYTES = 1 << 28
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def content_of(path: Path) -> bytes:
    """Return a file's bytes, uncompressed where they are gzip's, whatever its name."""
    content = path.read_bytes()
    return gunzip(content) if content[:2] == b"\x1f\x8b" else content


def gunzip(content: bytes) -> bytes:
    """Return the content of gzip's members; what follows them and is none is left out.

    Raises:
        NotABox: where a member is cut or damaged: some of the image is missing.
    """
    parts: list[Any] = []
    rest = content
    while rest[:2] == b"\x1f\x8b" or not parts:
        parts.append(inflated(rest, 31))
        rest = rest[len(rest) - _unused(rest) :].lstrip(b"\0")
    return b"".join(parts)


def inflated(content: bytes, window: int) -> bytes:
    """Return what the first stream in some bytes holds; raises NotABox for one that is damaged."""
    stream = zlib.decompressobj(window)
    try:
        found = stream.decompress(content)
    except zlib.error as error:
        raise NotABox(f"damaged data: {error}") from error
    if not stream.eof:
        raise NotABox("compressed data end early")
    return found


def _unused(content: bytes) -> int:
    stream = zlib.decompressobj(31)
    stream.decompress(content)
    return len(stream.unused_data)


def read(path: Path) -> Image:
    """Return an image or mask by what its bytes are."""
    if path.is_dir():
        from robustness_dicom_reader import read_series

        return read_series(path)
    content = content_of(path)
    if content[:4] == b"NRRD":
        return read_nrrd(path, content)
    if content[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        return read_nifti(path, content)
    head = content[:64].replace(b" ", b"").lower()
    if head.startswith((b"objecttype=", b"ndims=", b"comment=")):
        return read_metaimage(path, content)
    raise Refused("neither NIfTI, NRRD nor MetaImage")


def read_nifti(path: Path, content: bytes) -> Image:
    """Return what nibabel reads: with sform before qform, and with qform before sform."""
    second = content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    magic = content[4:8] if second else content[344:348]
    if magic in (b"n+1\0", b"n+2\0"):
        # extensions say nothing of the voxels, and nibabel refuses broken ones
        end = 540 if second else 348
        content = content[:end] + b"\0\0\0\0" + content[end + 4 :]
    try:
        if magic in (b"ni1\0", b"ni2\0"):
            kind = nibabel.Nifti2Pair if second else nibabel.Nifti1Pair
            image = kind.from_filename(str(path))
        else:
            kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
            image = kind.from_bytes(content)
        header = image.header
        size = int(np.prod([int(n) for n in image.shape], dtype=object))
        if not 0 < size * header.get_data_dtype().itemsize < LARGEST_BYTES:
            raise Refused(f"{size} voxels")
        raw = np.asanyarray(image.dataobj.get_unscaled())
        voxels = np.asanyarray(image.dataobj)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"nibabel: {type(error).__name__}: {error}") from error
    if voxels.dtype.kind not in "iuf":
        raise Refused(f"voxels of {voxels.dtype}")
    shape = voxels.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise Refused(f"{len(shape)} dimensions")
    shape = (*shape, 1, 1)[:3] if len(shape) < 3 else shape
    scale = MILLIMETRES.get(int(header["xyzt_units"]) & 7)
    if scale is None:
        raise Refused(f"unit of length {int(header['xyzt_units']) & 7}")
    exact = raw.dtype.kind in "iu" and bool((raw == voxels).all())
    # as the file has them: nibabel sets codes to 0 that the standard does not name
    kind, length = (
        (nibabel.Nifti2Header, 540) if second else (nibabel.Nifti1Header, 348)
    )  # fmt: skip
    header = kind(content[:length], check=False)
    forms = _nifti_forms(header, scale)
    stored = tuple(n for n in ("sform", "qform") if int(header[f"{n}_code"]) > 0)
    return Image(voxels.reshape(shape), forms, exact, stored)


def _nifti_forms(header: nibabel.Nifti1Header, scale: float) -> dict[str, np.ndarray]:
    millimetres = np.diag([scale, scale, scale, 1.0])
    found: dict[str, np.ndarray] = {}
    # nibabel lays out no qform of negative sizes; those who do take their magnitudes
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    # nor one whose side of the third axis is not 1 or -1; the standard's own library takes the sign
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    for name, get in (("sform", header.get_sform), ("qform", header.get_qform)):
        try:
            affine = get(coded=True)[0] if int(header[f"{name}_code"]) > 0 else None
        except Exception:
            affine = None
        if affine is not None and np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0:
            found[name] = millimetres @ affine
    if not found:
        if int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0:
            raise Refused("no form that can be used")
        sizes = np.array([float(v) for v in header["pixdim"][1:4]])
        sizes = np.where(np.isfinite(sizes) & (sizes != 0), np.abs(sizes), np.nan)
        if not np.isfinite(sizes[: min(3, int(header["dim"][0]))]).all():
            raise Refused("voxels without a size")
        sizes = np.nan_to_num(sizes, nan=1.0)
        base = millimetres @ np.diag([*sizes, 1.0])
        # nibabel takes x as running to the left, the standard to the right, and ITK all as LPS
        signs = {"nibabel": (-1, 1, 1), "the standard": (1, 1, 1), "ITK": (-1, -1, 1)}
        return {f"no form, {n}": np.diag([*each, 1.0]) @ base for n, each in signs.items()}
    first = found.get("sform", found.get("qform"))
    second = found.get("qform", found.get("sform"))
    return {"sform first": first, "qform first": second}  # type: ignore[dict-item]


NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "unsigned char": "u1",
    "uint8": "u1", "uint8_t": "u1", "short": "i2", "short int": "i2", "signed short": "i2",
    "signed short int": "i2", "int16": "i2", "int16_t": "i2", "ushort": "u2",
    "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2", "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4",
    "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4", "longlong": "i8", "long long": "i8",
    "long long int": "i8", "signed long long": "i8", "signed long long int": "i8", "int64": "i8",
    "int64_t": "i8", "ulonglong": "u8", "unsigned long long": "u8",
    "unsigned long long int": "u8", "uint64": "u8", "uint64_t": "u8", "float": "f4",
    "double": "f8",
}  # fmt: skip
SPACES = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
"""Factors from a space to LPS."""


def read_nrrd(path: Path, content: bytes) -> Image:
    """Return a NRRD file of three dimensions, its data attached or in one file beside it."""
    head, found, data = content.partition(b"\n\n")
    if not found or b"\r\n\r\n" in content[: len(head) + 4]:
        head, found, data = content.partition(b"\r\n\r\n")
    fields: dict[str, str] = {}
    for line in head.decode("ascii", "replace").splitlines()[1:]:
        if line.startswith("#") or ":=" in line or not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or name.strip().lower() in fields:
            raise Refused(f"header line {line[:60]!r}")
        fields[name.strip().lower()] = value.strip()
    try:
        kind = NRRD_TYPES[fields["type"].lower()]
        sizes = [int(v) for v in fields["sizes"].split()]
        dimension = int(fields["dimension"])
        encoding = fields["encoding"].lower()
        if len(sizes) != dimension or dimension not in (2, 3) or min(sizes) < 1:
            raise Refused(f"sizes {sizes}, dimension {dimension}")
        if kind[1] != "1" and encoding not in ("txt", "text", "ascii"):
            kind = {"little": "<", "big": ">"}[fields["endian"].lower()] + kind
        detached = fields.get("data file", fields.get("datafile"))
        if detached is not None:
            data = (path.parent / detached).read_bytes()
        forms, exact = {"the header": _nrrd_affine(fields, dimension)}, kind[-2] in "iu"
        voxels = _nrrd_data(fields, data, encoding, np.dtype(kind), sizes)
    except (KeyError, ValueError, OSError, EOFError, zlib.error) as error:
        raise Refused(f"NRRD: {type(error).__name__}: {error}") from error
    return Image(voxels, forms, exact)


def _nrrd_data(
    fields: Mapping[str, str], data: bytes, encoding: str, kind: np.dtype, sizes: list[int]
) -> np.ndarray:
    if any(int(fields.get(n, "0")) for n in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise Refused("data are skipped")
    count = int(np.prod(sizes))
    if count * kind.itemsize > LARGEST_BYTES:
        raise Refused(f"{count} voxels")
    if encoding in ("gzip", "gz"):
        data = gunzip(data)
    elif encoding in ("bzip2", "bz2"):
        data = bz2.decompress(data)
    elif encoding in ("txt", "text", "ascii"):
        values = data.split()
        if len(values) < count:
            raise Refused(f"{len(values)} of {count} values")
        array = np.array([float(v) for v in values[:count]])
        return _volume(array.astype(kind), sizes)
    elif encoding != "raw":
        raise Refused(f"encoding {encoding}")
    if len(data) < count * kind.itemsize:
        raise NotABox(f"{len(data)} bytes of {count * kind.itemsize}")
    return _volume(np.frombuffer(data, kind, count), sizes)


def _volume(array: np.ndarray, sizes: list[int]) -> np.ndarray:
    return array.reshape(sizes, order="F").reshape((*sizes, 1)[:3])


def _nrrd_affine(fields: Mapping[str, str], dimension: int) -> np.ndarray:
    affine = np.eye(4)
    if "space directions" in fields:
        rows = fields["space directions"].replace(") (", ")|(").split("|")
        vectors = [_vector(row) for row in rows]
        space = fields.get("space", "").lower()
        origin = _vector(fields.get("space origin", f"({','.join('0' * dimension)})"))
        if {len(vectors), len(origin), *map(len, vectors)} != {dimension}:
            raise Refused(f"{len(vectors)} directions of {len(origin)} numbers")
        affine[:dimension, :dimension] = np.transpose(vectors)
        affine[:dimension, 3] = origin
        # others name no directions of a patient; ITK takes them for LPS
        affine = np.diag([*SPACES.get(space, (1, 1, 1)), 1]) @ affine
    elif "spacings" in fields:
        affine[range(dimension), range(dimension)] = [float(v) for v in fields["spacings"].split()]
        if "space" in fields or "axis mins" in fields or "axismins" in fields:
            raise Refused("a space without directions")
    else:
        raise Refused("neither spacings nor directions")
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise Refused("an affine that cannot be used")
    return TO_RAS @ affine


def _vector(text: str) -> list[float]:
    text = text.strip()
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError(f"vector {text!r}")
    return [float(v) for v in text[1:-1].split(",")]


META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


def read_metaimage(path: Path, content: bytes) -> Image:
    """Return a MetaImage of three dimensions, its data attached or in one file beside it."""
    fields: dict[str, str] = {}
    rest = content
    while "ElementDataFile" not in fields:
        line, newline, rest = rest.partition(b"\n")
        name, equals, value = line.decode("latin-1").partition("=")
        if not newline or not equals or fields.get(name.strip(), value.strip()) != value.strip():
            raise Refused(f"header line {line[:60]!r}")
        fields[name.strip()] = value.strip()
    try:
        n = int(fields["NDims"])
        sizes = [int(v) for v in fields["DimSize"].split()]
        kind = np.dtype(META_TYPES[fields["ElementType"]])
        if n not in (2, 3) or len(sizes) != n or min(sizes) < 1:
            raise Refused(f"DimSize {sizes}, NDims {n}")
        if int(fields.get("ElementNumberOfChannels", "1")) != 1 or "HeaderSize" in fields:
            raise Refused("several channels, or a header size")
        orders = [
            fields[k] for k in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if k in fields
        ]
        if orders and orders[0].lower() in ("true", "1"):
            kind = kind.newbyteorder(">")
        if fields.get("BinaryData", "True").lower() != "true":
            raise Refused("data in text")
        if fields["ElementDataFile"].upper() != "LOCAL":
            rest = (path.parent / fields["ElementDataFile"]).read_bytes()
        if fields.get("CompressedData", "False").lower() == "true":
            rest = inflated(rest, 15)
        count = int(np.prod(sizes))
        if count * kind.itemsize > LARGEST_BYTES:
            raise Refused(f"{count} voxels")
        if len(rest) < count * kind.itemsize:
            raise NotABox(f"{len(rest)} bytes for {count} voxels")
        voxels = _volume(np.frombuffer(rest, kind, count), sizes)
        affine = _meta_affine(fields, n)
    except (KeyError, ValueError, OSError, zlib.error) as error:
        raise Refused(f"MetaImage: {type(error).__name__}: {error}") from error
    return Image(voxels, {"the header": affine}, kind.kind in "iu")


def _meta_affine(fields: Mapping[str, str], n: int) -> np.ndarray:
    def numbers(count: int, *names: str) -> np.ndarray | None:
        for name in names:
            if name in fields:
                values = np.array([float(v) for v in fields[name].split()])
                if values.shape != (count,):
                    raise ValueError(f"{name} {fields[name]!r}")
                return values
        return None

    spacing = numbers(n, "ElementSpacing")
    if spacing is None:
        spacing = np.ones(n)  # as MetaIO has it
    turn = numbers(n * n, "TransformMatrix", "Rotation", "Orientation")
    origin = numbers(n, "Offset", "Position", "Origin")
    affine = np.eye(4)
    # a row of TransformMatrix is the direction of an axis
    directions = np.eye(n) if turn is None else turn.reshape(n, n).T
    affine[:n, :n] = directions * spacing
    affine[:n, 3] = 0 if origin is None else origin
    if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise Refused("an affine that cannot be used")
    return TO_RAS @ affine
