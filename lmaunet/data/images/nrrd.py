"""NRRD files: their header as text, with the pixels behind it or in a file that it names."""

from __future__ import annotations

import bz2
import math
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.data.images.geometry import FileGrid, orthogonal_grid
from lmaunet.data.images.image_file import check_memory, header_line, inflate, open_regular
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LARGEST_HEADER = 1 << 20
AGAIN = "get the file again"
REMEDY = "resample it to a grid with axes at right angles, or correct the header"

_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,"
        "int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
# the sign of each axis towards LPS
_SPACES = {
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
}  # fmt: skip
_NOWHERE = (
    "", "scanner-xyz", "3d-right-handed", "3d-left-handed", "3dr", "3dl",
)  # fmt: skip
_ENCODINGS = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
    "ascii": "text", "text": "text", "txt": "text",
}  # fmt: skip
_SPATIAL_KINDS = ("domain", "space", "???", "none", "")
_MM = ("mm", "millimeter", "millimeters", "millimetre", "???", "")
_FIELDS = {
    "type", "block size", "dimension", "sizes", "spacings", "thicknesses", "axis mins", "axis maxs",
    "centerings", "labels", "units", "kinds", "min", "max", "old min", "old max", "encoding",
    "endian", "content", "sample units", "data file", "line skip", "byte skip", "number", "space",
    "space dimension", "space units", "space origin", "space directions", "measurement frame",
}  # fmt: skip
_NAMES = {
    "blocksize": "block size", "oldmin": "old min", "oldmax": "old max", "datafile": "data file",
    "sampleunits": "sample units", "lineskip": "line skip", "byteskip": "byte skip",
    "axismins": "axis mins", "axismaxs": "axis maxs", "centers": "centerings",
}  # fmt: skip


def read_nrrd(path: Path) -> tuple[np.ndarray, FileGrid, tuple[str, ...]]:
    """Return an image's array (slowest axis first), its grid and notes.

    Raises:
        UserError: for a damaged file, several values per pixel, other than 2 or 3 axes, lengths in
            another unit than mm, and a grid that cannot be used.
    """
    import numpy as np

    fields, start = _header(path)
    name = str(path)
    sizes = [int(n) for n in _numbers(fields, "sizes", name)]
    if len(sizes) != int(_one(fields, "dimension", name)) or min(sizes, default=0) < 1:
        raise UserError(f"{path}: sizes {fields['sizes']!r} in {fields['dimension']} axes; {AGAIN}")
    kind = fields.get("type", "").lower()
    if kind not in _TYPES:
        raise UserError(f"{path}: pixels of type {kind!r}; expected a real number; save it as one")
    dtype = np.dtype(_TYPES[kind])
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise UserError(
            f"{path}: encoding {fields.get('encoding')!r}; expected raw, gzip, bzip2 or ascii; "
            "save it as one of them"
        )
    if dtype.itemsize > 1 and encoding != "text":
        order = fields.get("endian", "").lower()
        if order not in ("little", "big"):
            raise UserError(f"{path}: endian {order!r}; expected little or big; {AGAIN}")
        dtype = dtype.newbyteorder("<" if order == "little" else ">")
    keep = _spatial_axes(fields, sizes, name)
    grid, notes = _grid(fields, sizes, keep, name)
    array = _pixels(path, fields, start, dtype, math.prod(sizes), encoding)
    array = array.astype(dtype.newbyteorder("="), copy=False)
    return array.reshape([sizes[axis] for axis in reversed(keep)]), grid, notes


def data_file(path: Path) -> Path:
    """Return the file that holds the pixels: another one where the header is detached."""
    fields, _ = _header(path)
    return path.parent / fields["data file"] if "data file" in fields else path


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the fields of a header by their names in lower case, and where it ends."""
    with open_regular(path) as stream:
        text = stream.read(LARGEST_HEADER)
    fields: dict[str, str] = {}
    lines = re.compile(rb"([^\n]*)\n|([^\n]+)$").finditer(text)
    end = len(text)
    for number, match in enumerate(lines):
        line = (match[1] if match[1] is not None else match[2]).rstrip(b"\r")
        if not line:
            end = match.end()
            break
        if number == 0 or line.startswith(b"#"):
            continue
        plain = header_line(line, path)
        key, mark, value = plain.partition(":")
        if value.startswith("="):  # a pair of the user's own
            continue
        key = _NAMES.get(key.lower(), key.lower())
        if not mark or key in fields or key not in _FIELDS:
            what = "is given twice" if key in fields else "is no field of NRRD"
            raise UserError(f"{path}: {plain[:40]!r} in its header {what}; {AGAIN}")
        fields[key] = value.strip()
        if key == "data file" and value.strip().upper().startswith("LIST"):
            raise UserError(
                f"{path}: its pixels are in a list of files; expected one; save it as one "
                ".nrrd file"
            )
    else:
        if "data file" not in fields:
            raise UserError(f"{path} is cut short: its header has no end; {AGAIN}")
    return fields, end


def _spatial_axes(fields: dict[str, str], sizes: list[int], name: str) -> list[int]:
    """Return which axes lie in space; the others must have a size of 1."""
    keep = list(range(len(sizes)))
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    vectors = _vectors(fields, name)
    if len(kinds) != len(sizes) or (vectors is not None and len(vectors) != len(sizes)):
        raise UserError(f"{name}: kinds or space directions are not {len(sizes)} axes'; {AGAIN}")
    for axis in reversed(range(len(sizes))):
        aside = kinds[axis] not in _SPATIAL_KINDS or (vectors is not None and vectors[axis] is None)
        if aside and sizes[axis] != 1:
            what = "values per pixel" if "time" not in kinds[axis] else "times"
            raise UserError(
                f"{name}: {sizes[axis]} {what}; expected one channel; save each channel as an "
                "image of its own"
            )
        if aside or (len(keep) > 3 and sizes[axis] == 1 and vectors is None):
            keep.remove(axis)
    if len(keep) not in (2, 3):
        raise UserError(
            f"{name}: {len(keep)} dimensions ({' x '.join(map(str, sizes))}); expected 3; save one "
            "volume of it as a file of its own"
        )
    return keep


def _grid(
    fields: dict[str, str], sizes: list[int], keep: list[int], name: str
) -> tuple[FileGrid, tuple[str, ...]]:
    import numpy as np

    for key in ("units", "space units"):
        found = re.findall(r'"([^"]*)"|(\S+)', fields.get(key, ""))
        units = [(quoted or plain).lower() for quoted, plain in found]
        if any(unit not in _MM for unit in units):
            raise UserError(
                f"{name}: {key} {fields[key]}; expected mm, which other readers take all lengths "
                "for; save it in mm"
            )
    n = len(keep)
    vectors = _vectors(fields, name)
    size = tuple(sizes[axis] for axis in keep)
    if vectors is None:
        spacings = _numbers(fields, "spacings", name, sizes) if "spacings" in fields else None
        notes = []
        if spacings is None:
            notes.append("the file gives no spacing: voxels are taken to be 1 mm wide")
        steps = [1.0] * n if spacings is None else [spacings[axis] for axis in keep]
        notes.append(
            "the file names no patient directions: its axes are taken to run to the left, the back "
            "and the head, which it does not say"
        )
        if "axis mins" in fields or "space origin" in fields:
            raise UserError(
                f"{name}: a place (axis mins or space origin) without space directions; readers "
                "disagree on it; save it with space directions"
            )
        if not all(math.isfinite(step) and step > 0 for step in steps):
            raise UserError(
                f"{name}: spacings {fields['spacings']}; expected positive sizes of voxels; "
                "correct the header"
            )
        return orthogonal_grid(np.diag(steps), np.zeros(n), size, name, REMEDY)[0], tuple(notes)
    if "space" not in fields and "space dimension" not in fields:
        raise UserError(f"{name}: space directions without a space; {AGAIN}")
    steps_of = [vectors[axis] or [] for axis in keep]
    if any(len(step) != n for step in steps_of):
        raise UserError(
            f"{name}: space directions {fields['space directions']} of {n} axes; expected vectors "
            f"of {n} numbers; save it as a volume of 3 axes"
        )
    matrix, origin = np.array(steps_of).T, np.zeros(n)
    if "space origin" in fields:
        given = _vector(fields["space origin"], name)
        if given is None or len(given) != n:
            raise UserError(f"{name}: space origin {fields['space origin']!r}; {AGAIN}")
        origin = np.array(given)
    space = fields.get("space", "").lower()
    sign, notes = np.ones(n), []
    if space in _SPACES and n == 3:
        sign = np.array(_SPACES[space])
    else:
        if space not in _NOWHERE:
            raise UserError(
                f"{name}: space {space!r} with {n} axes in space; expected one of 3 axes, such as "
                "left-posterior-superior; correct the header, or save one volume"
            )
        what = f"space {space!r}" if space else "no space"
        notes.append(
            f"the file gives {what}, which names no patient directions: its axes are taken for "
            "left, back and head"
        )
    grid, more = orthogonal_grid(sign[:, None] * matrix, sign * origin, size, name, REMEDY)
    return grid, (*notes, *more)


def _vectors(fields: dict[str, str], name: str) -> list[list[float] | None] | None:
    text = fields.get("space directions")
    if text is None:
        return None
    return [_vector(part, name) for part in re.findall(r"\([^)]*\)|[^\s()]+", text)]


def _vector(text: str, name: str) -> list[float] | None:
    text = text.strip()
    if text.lower() == "none":
        return None
    try:
        return [float(part) for part in text.removeprefix("(").removesuffix(")").split(",")]
    except ValueError as error:
        raise UserError(f"{name}: {text[:40]!r} in its header is no vector; {AGAIN}") from error


def _one(fields: dict[str, str], key: str, name: str) -> float:
    return _numbers(fields, key, name, [0])[0]


def _numbers(
    fields: dict[str, str], key: str, name: str, like: list[int] | None = None
) -> list[float]:
    try:
        numbers = [float(part) for part in fields[key].split()]
        if key in ("sizes", "dimension", "line skip", "byte skip"):
            numbers = [int(part) for part in fields[key].split()]
    except (KeyError, ValueError) as error:
        raise UserError(f"{name}: {key} {fields.get(key)!r} in its header; {AGAIN}") from error
    if like is not None and len(numbers) != len(like):
        raise UserError(f"{name}: {key} {fields[key]!r}; expected {len(like)} numbers; {AGAIN}")
    return numbers


def _pixels(
    path: Path, fields: dict[str, str], start: int, dtype: np.dtype, count: int, encoding: str
) -> np.ndarray:
    """Return the pixels, one after the other."""
    import numpy as np

    file, name = path, str(path)
    if "data file" in fields:
        file = path.parent / fields["data file"]
        start = 0
        if re.search(r"%\d*d", fields["data file"]) or not file.exists():
            raise UserError(
                f"{path}: its pixels are in {fields['data file']}, which is not there; bring that "
                "file beside it, or save the image as one .nrrd file"
            )
    expected = count * dtype.itemsize
    check_memory(expected, path)
    lines = int(_one(fields, "line skip", name)) if "line skip" in fields else 0
    skip = int(_one(fields, "byte skip", name)) if "byte skip" in fields else 0
    if lines < 0 or skip < -1 or (skip == -1 and encoding != "raw"):
        raise UserError(f"{path}: line skip {lines} and byte skip {skip} in its header; {AGAIN}")
    with open_regular(file) as stream:
        stream.seek(start)
        while lines and stream.readline(LARGEST_HEADER):
            lines -= 1
        whole = encoding != "gzip"
        content = stream.read() if whole else inflate(stream, path, expected + skip)
    if encoding == "bzip2":
        content = _bunzip(content, expected + skip, path)
    if encoding == "text":
        return _text_pixels(content, dtype, count, path)
    content = content[len(content) - expected :] if skip == -1 else content[skip:]
    if len(content) < expected:
        raise UserError(f"{path} is cut short: {len(content)} bytes, expected {expected}; {AGAIN}")
    if content[expected:].strip(b"\0\r\n"):
        raise UserError(
            f"{path} holds more than its header says: {len(content)} bytes of pixels, expected "
            f"{expected}; {AGAIN}"
        )
    return np.frombuffer(content, dtype, count)


def _bunzip(content: bytes, most: int, path: Path) -> bytes:
    stream = bz2.BZ2Decompressor()
    try:
        found = stream.decompress(content, most + 4096)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); {AGAIN}") from error
    if not stream.eof and len(found) <= most:
        raise UserError(f"{path} is damaged: its bzip2 stream is cut short; {AGAIN}")
    return found


def _text_pixels(content: bytes, dtype: np.dtype, count: int, path: Path) -> np.ndarray:
    import numpy as np

    words = content.replace(b",", b" ").split()
    if len(words) != count:
        raise UserError(f"{path}: {len(words)} numbers, expected {count}; {AGAIN}")
    try:
        return np.array([word.decode() for word in words], np.float64).astype(dtype)
    except ValueError as error:
        raise UserError(f"{path}: {error} among its pixels; {AGAIN}") from error
