"""MetaImage files (.mha, .mhd): a header of lines, with the pixels behind it or in another file."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.data.images.geometry import FileGrid, orthogonal_grid
from lmaunet.data.images.image_file import MOST_SHRINKING, check_memory, header_line, open_regular
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LARGEST_HEADER = 1 << 20
UNPACKED_AT_ONCE = 1 << 16
END = b"\0\r\n"
"""What may stand behind the pixels."""
AGAIN = "get the file again"
LOCAL = ("LOCAL", "Local", "local")
REMEDY = "resample it to a grid with axes at right angles, or correct the header"

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB", "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix", "Position": "Offset", "Origin": "Offset",
}  # fmt: skip


def read_metaimage(path: Path) -> tuple[np.ndarray, FileGrid, tuple[str, ...]]:
    """Return an image's array (slowest axis first), its grid and notes.

    Raises:
        UserError: for a damaged file, several values per pixel, other than 2 or 3 axes, and a grid
            that cannot be used.
    """
    import numpy as np

    fields, start = _header(path)
    name = str(path)
    if fields.get("ObjectType", "Image") != "Image":
        raise UserError(f"{path} is a MetaIO {fields['ObjectType']}; expected an Image; give one")
    axes = _numbers(fields, "NDims", name, 1)[0]
    sizes = [int(n) for n in _numbers(fields, "DimSize", name, int(axes))]
    if min(sizes, default=0) < 1:
        raise UserError(
            f"{path}: DimSize {fields['DimSize']}; expected sizes of 1 or more; {AGAIN}"
        )
    channels = int(_numbers(fields, "ElementNumberOfChannels", name, 1, [1])[0])
    if channels != 1:
        raise UserError(
            f"{path}: {channels} values per pixel; expected one channel; save each channel as an "
            "image of its own"
        )
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise UserError(f"{path}: pixels of type {kind!r}; expected a real number; save it as one")
    for key, plain in (
        ("ElementToIntensityFunctionSlope", 1),
        ("ElementToIntensityFunctionOffset", 0),
    ):
        if _numbers(fields, key, name, 1, [plain])[0] != plain:
            raise UserError(
                f"{path}: {key} is {fields[key]}; expected {plain}, because readers disagree on "
                "it; save the image with its values themselves"
            )
    if fields.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise UserError(
            f"{path}: DistanceUnits {fields['DistanceUnits']}; expected mm, which other readers "
            "take all lengths for; save it in mm"
        )
    if not _true(fields, "BinaryData", True, name):
        raise UserError(f"{path}: its pixels are written as text; expected binary; save it so")
    big = _true(fields, "BinaryDataByteOrderMSB", False, name)
    dtype = np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")
    grid, notes = _grid(fields, sizes, name)
    pixels = _pixels(path, fields, start, math.prod(sizes) * dtype.itemsize)
    array = np.frombuffer(pixels, dtype, math.prod(sizes)).reshape(grid.size[::-1])
    return array.astype(dtype.newbyteorder("="), copy=False), grid, notes


def data_file(path: Path) -> Path:
    """Return the file that holds the pixels: another one where the header is detached."""
    target = _header(path)[0]["ElementDataFile"]
    return path if target in LOCAL else path.parent / target


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Return the header's fields, and where it ends: after the line ElementDataFile."""
    with open_regular(path) as stream:
        text = stream.read(LARGEST_HEADER)
    fields: dict[str, str] = {}
    place = 0
    while "ElementDataFile" not in fields:
        line, newline, _ = text[place:].partition(b"\n")
        if not newline and not line:
            raise UserError(f"{path} is cut short: its header has no ElementDataFile; {AGAIN}")
        place += len(line) + len(newline)
        if not line.strip():
            continue
        key, mark, value = header_line(line.rstrip(b"\r"), path).partition("=")
        key = _NAMES.get(key.strip(), key.strip())
        if not mark or (key in fields and fields[key] != value.strip()):
            raise UserError(
                f"{path}: {line[:40].decode(errors='replace')!r} in its header is no field, or "
                f"given twice; {AGAIN}"
            )
        fields[key] = value.strip()
    return fields, place


def _true(fields: dict[str, str], key: str, default: bool, name: str) -> bool:
    value = fields.get(key, str(default)).lower()
    if value not in ("true", "false", "1", "0"):
        raise UserError(f"{name}: {key} {fields[key]!r}; expected True or False; {AGAIN}")
    return value in ("true", "1")


def _numbers(
    fields: dict[str, str], key: str, name: str, count: int, default: list[float] | None = None
) -> list[float]:
    if key not in fields and default is not None:
        return default
    try:
        numbers = [float(part) for part in fields[key].split()]
        if key in ("NDims", "DimSize", "ElementNumberOfChannels", "HeaderSize"):
            numbers = [int(part) for part in fields[key].split()]
    except (KeyError, ValueError) as error:
        raise UserError(f"{name}: {key} {fields.get(key)!r} in its header; {AGAIN}") from error
    if len(numbers) != count:
        raise UserError(f"{name}: {key} {fields[key]!r}; expected {count} numbers; {AGAIN}")
    return numbers


def _grid(fields: dict[str, str], sizes: list[int], name: str) -> tuple[FileGrid, tuple[str, ...]]:
    import numpy as np

    n, notes = len(sizes), []
    lengths = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    spacing = np.array(_numbers(fields, lengths, name, n, [1.0] * n))
    if lengths not in fields:
        notes.append("the file gives no spacing: voxels are taken to be 1 mm wide")
    # each row of the matrix is the direction of one axis
    matrix = np.reshape(
        _numbers(fields, "TransformMatrix", name, n * n, list(np.eye(n).ravel())), (n, n)
    ).T
    origin = np.array(_numbers(fields, "Offset", name, n, [0.0] * n))
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise UserError(
            f"{name}: {lengths} {fields[lengths]}; expected positive sizes of voxels; correct the "
            "header"
        )
    center = np.array(_numbers(fields, "CenterOfRotation", name, n, [0.0] * n))
    if center.any() and not np.allclose(matrix, np.eye(n)):
        raise UserError(
            f"{name}: a CenterOfRotation of {fields['CenterOfRotation']} and a rotation; readers "
            "disagree on where that lies; save it with a CenterOfRotation of 0"
        )
    while n > 3 and sizes[n - 1] == 1:
        n -= 1
    if n not in (2, 3):
        raise UserError(
            f"{name}: {n} dimensions ({' x '.join(map(str, sizes))}); expected 3; save one volume "
            "of it as a file of its own"
        )
    lengths_of_axes = np.linalg.norm(matrix, axis=0)
    if np.abs(lengths_of_axes - 1).max() > 1e-3:
        raise UserError(
            f"{name}: TransformMatrix {fields['TransformMatrix']} has axes that are not of length "
            "1; readers disagree on the size of voxels; correct the header"
        )
    steps = matrix / lengths_of_axes * spacing
    grid, more = orthogonal_grid(steps[:n, :n], origin[:n], tuple(sizes[:n]), name, REMEDY)
    return grid, (*notes, *more)


def _pixels(path: Path, fields: dict[str, str], start: int, expected: int) -> bytes:
    """Return the bytes of the pixels."""
    target, name = fields["ElementDataFile"], str(path)
    file = path
    if target not in LOCAL:
        file, start = path.parent / target, 0
        if target.upper().startswith("LIST") or "%" in target:
            raise UserError(
                f"{path}: its pixels are in several files; expected one; save it as one .mha file"
            )
        if not file.exists():
            raise UserError(
                f"{path}: its pixels are in {target}, which is not there; bring that file beside "
                "it, or save the image as one .mha file"
            )
    check_memory(expected, path)
    with open_regular(file) as stream:
        stream.seek(start)
        content = stream.read()
    skip = int(_numbers(fields, "HeaderSize", name, 1, [0])[0])
    if skip < -1:
        raise UserError(f"{path}: HeaderSize {skip}; expected -1 or more; {AGAIN}")
    if _true(fields, "CompressedData", False, name):
        if skip:
            raise UserError(f"{path}: HeaderSize {skip} before compressed pixels; save it again")
        if len(content) * MOST_SHRINKING < expected:
            raise UserError(f"{path} is cut short: expected {expected} bytes; {AGAIN}")
        packed = zlib.decompressobj(wbits=47)  # zlib or gzip
        try:
            content = packed.decompress(content, expected + 1)
            # the checksum stands behind the last byte, also behind one that is too much
            rest, more = packed.unconsumed_tail, b"\0"
            while not packed.eof and (more or rest) and not content[expected:].strip(END):
                more = packed.decompress(rest, UNPACKED_AT_ONCE)
                content, rest = content[: expected + 1] + more, packed.unconsumed_tail
        except zlib.error as error:
            raise UserError(f"{path} is damaged ({error}); {AGAIN}") from error
        if len(content) >= expected and not packed.eof and not content[expected:].strip(END):
            raise UserError(f"{path} is damaged: its compressed pixels are cut short; {AGAIN}")
    elif skip:
        content = content[len(content) - expected :] if skip == -1 else content[skip:]
    if len(content) < expected:
        raise UserError(f"{path} is cut short: {len(content)} bytes, expected {expected}; {AGAIN}")
    if content[expected:].strip(END):
        raise UserError(
            f"{path} holds more than its header says: over {expected} bytes of pixels, expected "
            f"{expected}; {AGAIN}"
        )
    return content[:expected]
