"""Images in files that are wrong in one way or another: NIfTI, NRRD and MetaImage.

A case draws a small abdomen in any orientation, type and form, and changes nothing, or up to three
things, in the header, the voxels, the bytes or the name.
"""

from __future__ import annotations

import bz2
import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from robustness_network import SPACING_MM

Rng = np.random.Generator
TYPES = ("i2", "i2", "i2", "u1", "u2", "i4", "u4", "f4", "f8", "i1", "i8", "u8")
STRANGE = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 1e-3, 1e-30, 1e3, 1e10, 1e38, -1e10, float("nan"),
           float("inf"), -float("inf"))  # fmt: skip


def pick(rng: Rng, values: Any) -> Any:
    """Return one of some values, as it is."""
    return values[int(rng.integers(len(values)))]


def abdomen(rng: Rng, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Return HU ``(x, y, z)`` in LPS, whole numbers: a body with organs, no slice like another."""
    x, y, z = shape or (
        int(rng.integers(20, 31)),
        int(rng.integers(18, 29)),
        int(rng.integers(3, 7)),
    )
    i, j, k = np.meshgrid(np.arange(x), np.arange(y), np.arange(z), indexing="ij")
    image = np.full((x, y, z), -1000.0)
    body = ((i - x / 2) / (0.46 * x)) ** 2 + ((j - y / 2) / (0.44 * y)) ** 2 <= 1
    image[body] = 20
    for _ in range(5):
        centre = rng.uniform((0.25 * x, 0.25 * y, 0), (0.75 * x, 0.75 * y, z))
        radii = rng.uniform((2, 2, 1.5), (7, 6, 4))
        places = zip((i, j, k), centre, radii, strict=True)
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in places) <= 1
        image[inside & body] = rng.uniform(-120, 230)
    image += (image > -900) * rng.normal(0, 12, image.shape)
    return np.rint(image)


def spacing_of_case(rng: Rng) -> np.ndarray:
    """Return x, y, z spacing in mm; the network's own in two of three cases."""
    if rng.random() < 0.67:
        return np.array([SPACING_MM[1], SPACING_MM[0], pick(rng, (4.0, 1.25, 5.0))])
    return np.round(rng.uniform(1.2, 4.5, 3), 3)


def any_affine(rng: Rng, spacing: np.ndarray, shape: tuple[int, ...], oblique: bool) -> np.ndarray:
    """Return an affine from LPS indices ``(x, y, z)`` to RAS mm."""
    turn = np.diag([-1.0, -1.0, 1.0])
    if oblique:
        turn = rotation(rng, 25) @ turn
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = np.round(rng.uniform(-200, 200, 3), 2)
    return affine


def rotation(rng: Rng, degrees: float) -> np.ndarray:
    """Return a rotation by up to some degrees around each axis."""
    turn = np.eye(3)
    for axis in range(3):
        angle = math.radians(rng.uniform(-degrees, degrees))
        a, b = [i for i in range(3) if i != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = math.cos(angle)
        step[a, b], step[b, a] = -math.sin(angle), math.sin(angle)
        turn = step @ turn
    return turn


def reoriented(rng: Rng, array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the same image with its axes in another order and direction."""
    order = rng.permutation(3)
    turn = np.stack([order, rng.choice([-1, 1], 3)], 1).astype(float)
    if rng.random() < 0.4:
        turn = np.array([[0, 1], [1, 1], [2, 1]], float)
    moved = nibabel.orientations.apply_orientation(array, turn)
    return moved, affine @ nibabel.orientations.inv_ornt_aff(turn, array.shape)


def typed(rng: Rng, array: np.ndarray, kind: str) -> tuple[np.ndarray, float, float]:
    """Return stored values of a type, with the slope and intercept that give the image again."""
    if kind == "i1" or kind == "u1":
        slope, offset = 8.0, (-200.0 if kind == "u1" else 100.0)
        limits = np.iinfo(kind)
        return (
            np.clip(np.rint((array - offset) / slope), limits.min, limits.max).astype(kind),
            slope,
            offset,
        )
    if kind[0] == "u":
        return (array + 1024).astype(kind), 1.0, -1024.0
    if kind[0] == "f" and rng.random() < 0.5:
        return (array + rng.normal(0, 0.3, array.shape)).astype(kind), 0.0, 0.0
    if kind == "i2" and rng.random() < 0.15:
        return (array * 4).astype(kind), 0.25, 0.0
    return array.astype(kind), pick(rng, (0.0, 1.0)), 0.0


def nifti_case(rng: Rng, folder: Path) -> tuple[Path, str, bool]:
    """Write a NIfTI file; return its path, what is odd about it and whether it is sound."""
    clean = rng.random() < 0.12
    array = abdomen(rng)
    affine = any_affine(rng, spacing_of_case(rng), array.shape, rng.random() < 0.25)
    array, affine = reoriented(rng, array, affine)
    stored, slope, offset = typed(rng, array, pick(rng, TYPES))
    second, big = rng.random() < 0.12, rng.random() < 0.12
    kind = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    header = (nibabel.Nifti2Header if second else nibabel.Nifti1Header)(
        endianness=">" if big else "<"
    )
    header.set_data_dtype(stored.dtype)
    image = kind(stored, affine, header, dtype=stored.dtype)
    codes = pick(rng, ((1, 1), (1, 1), (1, 0), (0, 1), (2, 1), (1, 4), (1, 2)))
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units(*pick(rng, (("mm", "sec"), ("mm", None), (None, None))))
    image.header["descrip"] = b"drawn"
    said: list[str] = [f"{stored.dtype} qform {codes[0]} sform {codes[1]}"]
    content = bytearray(image.to_bytes())
    if slope:
        struct.pack_into((">" if big else "<") + ("2d" if second else "2f"), content,
                         176 if second else 112, slope, offset)  # fmt: skip
    if not clean:
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.5 else 1):
            said.append(pick(rng, NIFTI_CHANGES)(rng, content, ">" if big else "<", second))
    path, how = contained(rng, folder, bytes(content), clean)
    said += [how] if how else []
    return path, "; ".join(s for s in said if s), clean


# name: (offset, format) in NIfTI-1 and in NIfTI-2
FIELDS = {
    "sizeof_hdr": ((0, "i"), (0, "i")), "dim_info": ((39, "b"), (524, "b")),
    "dim0": ((40, "h"), (16, "q")), "dim1": ((42, "h"), (24, "q")), "dim2": ((44, "h"), (32, "q")),
    "dim3": ((46, "h"), (40, "q")), "dim4": ((48, "h"), (48, "q")), "dim5": ((50, "h"), (56, "q")),
    "intent_code": ((68, "h"), (504, "i")), "datatype": ((70, "h"), (12, "h")),
    "bitpix": ((72, "h"), (14, "h")), "slice_start": ((74, "h"), (224, "q")),
    "pixdim0": ((76, "f"), (104, "d")), "pixdim1": ((80, "f"), (112, "d")),
    "pixdim2": ((84, "f"), (120, "d")), "pixdim3": ((88, "f"), (128, "d")),
    "pixdim4": ((92, "f"), (136, "d")), "vox_offset": ((108, "f"), (168, "q")),
    "scl_slope": ((112, "f"), (176, "d")), "scl_inter": ((116, "f"), (184, "d")),
    "xyzt_units": ((123, "b"), (500, "i")), "cal_max": ((124, "f"), (192, "d")),
    "qform_code": ((252, "h"), (344, "i")), "sform_code": ((254, "h"), (348, "i")),
    "quatern_b": ((256, "f"), (352, "d")), "quatern_c": ((260, "f"), (360, "d")),
    "quatern_d": ((264, "f"), (368, "d")), "qoffset_x": ((268, "f"), (376, "d")),
    "qoffset_y": ((272, "f"), (384, "d")), "qoffset_z": ((276, "f"), (392, "d")),
    **{f"srow{i}": ((280 + 4 * i, "f"), (400 + 8 * i, "d")) for i in range(12)},
}  # fmt: skip
WHOLE = (0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 512, 768, -1, -2, 255, 1000, 32767, -32768)


def change_field(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    """Give a field of the header another value, a likely one or a strange one."""
    name = pick(rng, list(FIELDS))
    offset, kind = FIELDS[name][int(second)]
    (old,) = struct.unpack_from(order + kind, content, offset)
    if kind in "fd":
        new = pick(rng, (*STRANGE, -old, old * 1.0005, old * 1.5, old + 0.04, old + 30.0))
    else:
        new = int(pick(rng, (*WHOLE, old + 1, old - 1, -old)))
        bits = 8 * struct.calcsize(kind) - 1
        new = max(-(1 << bits), min((1 << bits) - 1, new))
    try:
        struct.pack_into(order + kind, content, offset, new)
    except (OverflowError, struct.error):
        struct.pack_into(order + kind, content, offset, type(old)(3))
    return f"{name} {old!r} to {new!r}"


def change_sform(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    """Move, turn, mirror, shear or shrink the sform, and give it a code."""
    (offset, kind), (place, whole) = FIELDS["srow0"][int(second)], FIELDS["sform_code"][int(second)]
    rows = np.array(struct.unpack_from(f"{order}12{kind}", content, offset)).reshape(3, 4)
    if not np.any(rows[:, :3]):
        rows[:, :3] = np.diag([-SPACING_MM[1], -SPACING_MM[0], 4.0])
    how = pick(rng, ("moved", "turned", "mirrored", "sheared", "sheared a little", "scaled",
                     "moved a little", "flat", "swapped"))  # fmt: skip
    if how == "moved":
        rows[:, 3] += rng.uniform(-60, 60, 3)
    elif how == "moved a little":
        rows[:, 3] += rng.uniform(-0.08, 0.08, 3)
    elif how == "turned":
        rows = rotation(rng, pick(rng, (0.05, 10, 40, 170))) @ rows
    elif how == "mirrored":
        rows[int(rng.integers(3))] *= -1
    elif how.startswith("sheared"):
        a, b = rng.permutation(3)[:2]
        rows[a, b] += rng.uniform(0.5, 2) * (0.002 if how.endswith("little") else 1)
    elif how == "scaled":
        rows[:, :3] *= pick(rng, (0.5, 1.0005, 1.1, 10.0))
    elif how == "flat":
        rows[:, int(rng.integers(3))] = 0
    else:
        rows = rows[rng.permutation(3)]
    struct.pack_into(f"{order}12{kind}", content, offset, *rows.ravel())
    code = int(pick(rng, (1, 2, 1, 3, 4, 0)))
    struct.pack_into(order + whole, content, place, code)
    return f"sform {how}, code {code}"


def change_unit(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    offset, kind = FIELDS["xyzt_units"][int(second)]
    unit = int(pick(rng, (0, 1, 2, 3, 4, 7, 8, 9, 10, 16, 17, 19, 24, 127)))
    struct.pack_into(order + kind, content, offset, unit)
    return f"xyzt_units {unit}"


def change_voxels(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    """Put NaN, infinity or noise where voxels are."""
    start = 544 if second else 352
    offset, kind = FIELDS["datatype"][int(second)]
    (code,) = struct.unpack_from(order + kind, content, offset)
    width = {16: "f", 64: "d"}.get(code)
    if width is None:
        at = start + int(rng.integers(max(1, len(content) - start)))
        content[at : at + 40] = rng.bytes(len(content[at : at + 40]))
        return "noise in the voxels"
    value = pick(rng, (float("nan"), float("inf"), -float("inf"), 1e30, 3e38))
    size = struct.calcsize(width)
    at = start + size * int(rng.integers(max(1, (len(content) - start) // size - 1)))
    struct.pack_into(order + width, content, at, value)
    return f"a voxel is {value}"


def add_extension(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    """Put an extension between header and voxels, right or wrong."""
    end = 540 if second else 348
    (place, kind), size = FIELDS["vox_offset"][int(second)], int(pick(rng, (16, 32, 160)))
    claimed = int(pick(rng, (size, size, size, size + 8, 7, -16, 2**30, 0)))
    block = struct.pack(order + "2i", claimed, 6) + bytes(rng.integers(32, 90, size - 8, np.uint8))
    content[end : end + 4] = b"\1\0\0\0"
    content[end + 4 : end + 4] = block
    moved = end + 4 + size if rng.random() < 0.85 else end + 4
    struct.pack_into(order + kind, content, place, moved if kind == "q" else float(moved))
    return f"an extension of {size} bytes that says {claimed}, voxels from {moved}"


def flip_bytes(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    """Change some bytes, of the header more often than of the voxels."""
    end = 352 if rng.random() < 0.8 else len(content)
    places = rng.integers(0, end, int(pick(rng, (1, 1, 2, 5, 20))))
    for at in places:
        content[at] ^= 1 << int(rng.integers(8))
    return f"bits flipped at {sorted(int(p) for p in places)[:5]}"


def cut(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    """Leave out the end, or what is in the middle, or add to the end."""
    how = rng.random()
    if how < 0.6:
        keep = int(rng.integers(0, len(content)))
        del content[keep:]
        return f"cut to {keep} bytes"
    if how < 0.8:
        content += rng.bytes(int(pick(rng, (1, 13, 4000))))
        return "bytes added to the end"
    at = int(rng.integers(0, len(content)))
    del content[at : at + int(pick(rng, (1, 2, 16, 300)))]
    return f"bytes left out at {at}"


def change_sizes(rng: Rng, content: bytearray, order: str, second: bool) -> str:
    """Divide the voxels among the axes in another way, so that their number fits."""
    offset, kind = FIELDS["dim0"][int(second)]
    dims = list(struct.unpack_from(f"{order}8{kind}", content, offset))
    how = pick(rng, ("swapped", "fewer", "in time", "in five", "flat", "grown"))
    if how == "swapped":
        dims[1], dims[2] = dims[2], dims[1]
    elif how == "fewer":
        dims[3] = max(1, dims[3] - 1)
    elif how == "in time":
        dims[0], dims[3], dims[4] = 4, 1, dims[3]
    elif how == "in five":
        dims[0], dims[4], dims[5] = 5, 1, 1
    elif how == "flat":
        dims[0], dims[2], dims[3] = 2, dims[2] * dims[3], 1
    else:
        dims[3] += 1
    struct.pack_into(f"{order}8{kind}", content, offset, *dims)
    return f"sizes {how}: {dims[1 : 1 + max(0, min(7, dims[0]))]}"


NIFTI_CHANGES = (
    change_field, change_field, change_field, change_field, change_field, change_sform,
    change_sform, change_sform, change_unit, change_voxels, add_extension, flip_bytes, cut,
    change_sizes,
)  # fmt: skip


def contained(rng: Rng, folder: Path, content: bytes, clean: bool) -> tuple[Path, str]:
    """Write bytes to a file, compressed or not, whole or not, under a name that may lie."""
    zipped = rng.random() < 0.6
    name, how = ("image.nii.gz" if zipped else "image.nii"), ""
    data = gzip.compress(content, 4, mtime=0) if zipped else content
    choice = rng.random()
    if not clean and choice < 0.35:
        if zipped and choice < 0.12:
            data, how = damaged_gzip(rng, data, content)
        elif choice < 0.24:
            name = pick(rng, ("image.nii", "image.nii.gz", "image.NII.GZ", "image.nii.gz.gz", "image",
                              "image.img", "image.hdr", "image.nrrd", "image.mha", "image.dcm",
                              "image.nhdr", "image.mhd", "image.gz", "image.png", "ima ge.nii",
                              "-image.nii", "bild\u00fc.nii", "ima\udcffge.nii", ".nii",
                              "image.txt", "%d.nii", "image.nii.nii.gz"))  # fmt: skip
            how = f"named {name!r}"
        elif choice < 0.29:
            name, how = ("image.nii", "two files that differ in suffix")
            (folder / "image.nii.gz").write_bytes(gzip.compress(content[: len(content) // 2]))
        elif len(content) > 352 and content[:4] == b"\x5c\x01\0\0":
            return _pair(rng, folder, content)
    path = folder / name
    path.write_bytes(data)
    return path, how


def _pair(rng: Rng, folder: Path, content: bytes) -> tuple[Path, str]:
    header = bytearray(content[:352])
    header[344:348] = b"ni1\0"
    struct.pack_into("<f", header, 108, pick(rng, (0.0, 0.0, 16.0)))
    (folder / "image.hdr").write_bytes(bytes(header))
    if rng.random() < 0.8:
        (folder / "image.img").write_bytes(content[352:])
    return folder / pick(rng, ("image.hdr", "image.img")), "a pair of files"


def damaged_gzip(rng: Rng, data: bytes, content: bytes) -> tuple[bytes, str]:
    """Return gzip that is cut, flipped, of several members, or followed by something."""
    how = pick(
        rng, ("cut", "flipped", "members", "zeros after it", "noise after it", "crc", "twice")
    )
    changed = bytearray(data)
    if how == "cut":
        del changed[int(rng.integers(0, len(data))) :]
    elif how == "flipped":
        changed[int(rng.integers(0, len(data)))] ^= 1 << int(rng.integers(8))
    elif how == "members":
        at = int(rng.integers(0, len(content)))
        changed = bytearray(gzip.compress(content[:at]) + gzip.compress(content[at:]))
    elif how == "zeros after it":
        changed += bytes(int(pick(rng, (1, 512))))
    elif how == "noise after it":
        changed += rng.bytes(50)
    elif how == "crc":
        changed[-8] ^= 255
    else:
        changed = bytearray(gzip.compress(data))
    return bytes(changed), f"gzip: {how}"


def nrrd_case(rng: Rng, folder: Path) -> tuple[Path, str, bool]:
    """Write a NRRD file; return as :func:`nifti_case` does."""
    clean = rng.random() < 0.15
    array = abdomen(rng)
    affine = any_affine(rng, spacing_of_case(rng), array.shape, rng.random() < 0.25)
    array, affine = reoriented(rng, array, affine)
    kind = pick(rng, ("i2", "i2", "i4", "f4", "f8"))
    space, factors = pick(rng, (("left-posterior-superior", (-1, -1, 1)),
                                ("right-anterior-superior", (1, 1, 1)),
                                ("LPS", (-1, -1, 1)), ("left-anterior-superior", (-1, 1, 1))))  # fmt: skip
    lines = np.diag([*factors, 1]) @ affine
    order = pick(rng, ("<", "<", ">"))
    raw = array.astype(order + kind).tobytes(order="F")
    encoding = pick(rng, ("raw", "gzip", "gzip", "bzip2", "txt", "hex"))
    if clean:
        encoding = pick(rng, ("raw", "gzip"))
    data = {
        "raw": lambda: raw, "gzip": lambda: gzip.compress(raw, 4), "bzip2": lambda: bz2.compress(raw),
        "txt": lambda: "\n".join(f"{v:g}" for v in array.ravel(order="F")).encode() + b"\n",
        "hex": lambda: raw.hex().encode(),
    }[encoding]()  # fmt: skip
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
            f"data file: {pick(rng, ('image.raw', 'image.raw', './image.raw', 'other.raw', '../x'))}"
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
    how = pick(rng, ("gone", "twice", "number", "number", "number", "pool", "pool", "pool", "letter",
                     "order", "data"))  # fmt: skip
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
        data = data[: int(rng.integers(0, len(data)))]
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
