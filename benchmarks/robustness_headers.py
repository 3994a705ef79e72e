"""NRRD files and MetaImages that are wrong in one way or another.

A case changes nothing, or one or two lines of the header, the data, or the bytes of the file.
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from robustness_images import (
    Rng,
    abdomen,
    any_affine,
    cut,
    flip_bytes,
    pick,
    reoriented,
    spacing_of_case,
)


def nrrd_case(rng: Rng, folder: Path) -> tuple[Path, str, bool]:
    """Write a NRRD file; return as :func:`nifti_case` does."""
    clean = rng.random() < 0.15
    array = abdomen(rng)
    affine = any_affine(rng, spacing_of_case(rng), array.shape, rng.random() < 0.25)
    array, affine = reoriented(rng, array, affine)
    kind = pick(rng, ("i2", "i2", "i4", "f4", "f8"))
    space, factors = pick(
        rng,
        (
            ("left-posterior-superior", (-1, -1, 1)),
            ("right-anterior-superior", (1, 1, 1)),
            ("LPS", (-1, -1, 1)),
            ("left-anterior-superior", (-1, 1, 1)),
        ),
    )
    lines = np.diag([*factors, 1]) @ affine
    order = pick(rng, ("<", "<", ">"))
    raw = array.astype(order + kind).tobytes(order="F")
    encoding = pick(rng, ("raw", "gzip", "gzip", "bzip2", "txt", "hex"))
    if clean:
        encoding = pick(rng, ("raw", "gzip"))
    data = {
        "raw": lambda: raw,
        "gzip": lambda: gzip.compress(raw, 4),
        "bzip2": lambda: bz2.compress(raw),
        "txt": lambda: "\n".join(f"{v:g}" for v in array.ravel(order="F")).encode() + b"\n",
        "hex": lambda: raw.hex().encode(),
    }[encoding]()
    names = {"i2": "short", "i4": "int", "f4": "float", "f8": "double"}
    header = [
        "NRRD0004", f"type: {names[kind]}", "dimension: 3", f"space: {space}",
        "sizes: " + " ".join(map(str, array.shape)),
        "space directions: " + " ".join(_row(lines[:3, axis]) for axis in range(3)),
        "kinds: domain domain domain", f"endian: {'big' if order == '>' else 'little'}",
        f"encoding: {encoding}", f"space origin: {_row(lines[:3, 3])}",
    ]  # fmt: skip
    said = [f"{kind} {encoding} {space}"]
    path = folder / "image.nrrd"
    if not clean and rng.random() < 0.15:
        path, body = folder / "image.nhdr", folder / "image.raw"
        header.append(
            "data file: "
            + pick(rng, ("image.raw", "image.raw", "./image.raw", "other.raw", "../x"))
        )
        body.write_bytes(data if rng.random() < 0.8 else data[: len(data) // 2])
        data = b""
        said.append("detached")
    elif not clean:
        for _ in range(int(rng.integers(1, 3))):
            data = _change_text(rng, header, data, said, NRRD_LINES)
    content = "\n".join(header).encode("utf-8", "surrogateescape") + b"\n\n" + data
    path.write_bytes(_rough(rng, content, said, clean))
    return path, "; ".join(said), clean


def _row(vector: np.ndarray) -> str:
    return "(" + ",".join(f"{v:.6f}" for v in vector) + ")"


NRRD_LINES = (
    "space directions: none (1,0,0) (0,1,0)", "space: scanner-xyz", "space: 3D-right-handed",
    "dimension: 4", "dimension: 2", "sizes: 0 0 0", "sizes: 5 5", "sizes: 30 20 100000",
    "encoding: gz", "encoding: lzma", "endian: middle", "type: block", "type: complex",
    "kinds: vector domain domain", "kinds: RGB-color domain domain", "spacings: 1 1 1",
    "space origin: (0,0)", "space origin: none", "space origin: (nan,nan,nan)", "line skip: 1",
    "byte skip: -1", "byte skip: 4", "measurement frame: (1,0,0) (0,1,0) (0,0,1)",
    "space units: \"m\" \"m\" \"m\"", "thicknesses: 1 2 3", "centerings: node node node",
    "type: unsigned short", "type: uchar", "old min: 0", "old max: 255", "axis mins: 0 0 0",
    "labels: \"a\" \"b\" \"c\"", "content: \xff\xfe", "key:=value", "# a comment",
)  # fmt: skip


def _change_text(rng: Rng, header: list[str], data: bytes, said: list[str], pool: Any) -> bytes:
    """Change a line of a header in text, or the data behind it; return the data."""
    how = pick(
        rng,
        (
            "gone",
            "twice",
            "number",
            "number",
            "number",
            "pool",
            "pool",
            "pool",
            "letter",
            "order",
            "data",
        ),
    )
    at = int(rng.integers(1, len(header)))
    if how == "gone":
        said.append(f"without {header.pop(at)!r}"[:80])
    elif how == "twice":
        header.insert(at, header[at])
        said.append(f"twice {header[at]!r}"[:80])
    elif how == "pool":
        line = pick(rng, pool)
        name = line.split(":")[0].split("=")[0].strip()
        header[:] = [
            h for h in header if h.split(":")[0].split("=")[0].strip() != name or h == header[0]
        ]
        header.insert(int(rng.integers(1, len(header))) if pool is NRRD_LINES else 0, line)
        said.append(line)
    elif how == "order":
        rest = header[1:]
        rng.shuffle(rest)
        if pool is not NRRD_LINES:
            rest.sort(key=lambda line: line.startswith("ElementDataFile"))
        header[1:] = rest
        said.append("lines in another order")
    elif how == "data":
        data = data[: int(rng.integers(0, len(data) + 1))]
        said.append(f"data cut to {len(data)}")
    else:
        line = header[at]
        places = [i for i, c in enumerate(line) if c.isdigit() or how == "letter"] or [0]
        i = pick(rng, places)
        new = pick(rng, "0123456789-.e" if how == "number" else "xX-: \t\x00\u00e9")
        header[at] = line[:i] + new + line[i + 1 :]
        said.append(f"{line!r} to {header[at]!r}"[:160])
    return data


def _rough(rng: Rng, content: bytes, said: list[str], clean: bool) -> bytes:
    """Return bytes with some flipped, left out or cut, in one case of seven."""
    if clean or rng.random() > 0.15:
        return content
    changed = bytearray(content)
    said.append(pick(rng, (flip_bytes, cut))(rng, changed, "<", False))
    return bytes(changed)


META_LINES = (
    "NDims = 2", "NDims = 4", "NDims = 0", "DimSize = 5 5 5", "DimSize = 0 4 4", "DimSize = -4 4 4",
    "ElementType = MET_UCHAR", "ElementType = MET_OTHER", "ElementType = MET_SHORT_ARRAY",
    "ElementNumberOfChannels = 3", "HeaderSize = 10", "HeaderSize = -1", "BinaryData = False",
    "CompressedData = True", "CompressedDataSize = 10", "ElementByteOrderMSB = True",
    "ElementSpacing = 0 1 1", "ElementSpacing = nan 1 1", "ElementSpacing = -2 2 2",
    "TransformMatrix = 1 0 0 0 1 0 0 0 0", "TransformMatrix = 1 0 0 0 0.8 0.6 0 0 1",
    "TransformMatrix = -1 0 0 0 -1 0 0 0 1", "Offset = 1e30 0 0", "Offset = x y z",
    "AnatomicalOrientation = RAI", "AnatomicalOrientation = LPS", "CenterOfRotation = 5 5 5",
    "ElementSize = 9 9 9", "Comment = x", "ObjectType = Tube", "Modality = MET_MOD_MR",
    "ElementMin = 0", "ElementToIntensityFunctionSlope = 2",
)  # fmt: skip


def metaimage_case(rng: Rng, folder: Path) -> tuple[Path, str, bool]:
    """Write a MetaImage; return as :func:`nifti_case` does."""
    clean = rng.random() < 0.15
    array = abdomen(rng)
    affine = any_affine(rng, spacing_of_case(rng), array.shape, rng.random() < 0.25)
    array, affine = reoriented(rng, array, affine)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    kind = pick(rng, ("i2", "i2", "i4", "f4", "f8"))
    names = {"i2": "MET_SHORT", "i4": "MET_INT", "f4": "MET_FLOAT", "f8": "MET_DOUBLE"}
    big, zipped = rng.random() < 0.2, rng.random() < 0.5
    raw = array.astype((">" if big else "<") + kind).tobytes(order="F")
    data = zlib.compress(raw) if zipped else raw
    header = [
        "ObjectType = Image", "NDims = 3", "BinaryData = True",
        f"BinaryDataByteOrderMSB = {big}", f"CompressedData = {zipped}",
        *([f"CompressedDataSize = {len(data)}"] if zipped else []),
        "TransformMatrix = " + _numbers((lps[:3, :3] / sizes).T.ravel()),
        "Offset = " + _numbers(lps[:3, 3]), "ElementSpacing = " + _numbers(sizes),
        "DimSize = " + " ".join(map(str, array.shape)), f"ElementType = {names[kind]}",
    ]  # fmt: skip
    said = [f"{kind}{' zlib' if zipped else ''}{' big-endian' if big else ''}"]
    path, last = folder / "image.mha", "LOCAL"
    if not clean and rng.random() < 0.15:
        path, last = (
            folder / "image.mhd",
            pick(rng, ("image.raw", "image.raw", "LIST", "%03d.raw 1 3 1", "../x")),
        )
        (folder / "image.raw").write_bytes(data if rng.random() < 0.8 else data[: len(data) // 2])
        data = b""
        said.append(f"data in {last}")
    header.append(f"ElementDataFile = {last}")
    if not clean and last == "LOCAL":
        for _ in range(int(rng.integers(1, 3))):
            data = _change_text(rng, header, data, said, META_LINES)
    content = "\n".join(header).encode("utf-8", "surrogateescape") + b"\n" + data
    path.write_bytes(_rough(rng, content, said, clean))
    return path, "; ".join(said), clean


def _numbers(values: Any) -> str:
    return " ".join(f"{v:.9g}" for v in values)
