"""NIfTI files that are wrong in one way or another, and the image that all formats hold.

A case draws a small abdomen in any orientation, type and form, and changes nothing, or up to three
things, in the header, the voxels, the bytes or the name.
"""

from __future__ import annotations

import gzip
import math
import struct
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
            change = pick(rng, NIFTI_CHANGES)
            try:
                said.append(change(rng, content, ">" if big else "<", second))
            except (struct.error, IndexError, ValueError):
                said.append(f"{change.__name__} does not fit what is left")
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
    end = min(len(content), 352) if rng.random() < 0.8 else len(content)
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
            name = pick(
                rng,
                (
                    "image.nii",
                    "image.nii.gz",
                    "image.NII.GZ",
                    "image.nii.gz.gz",
                    "image",
                    "image.img",
                    "image.hdr",
                    "image.nrrd",
                    "image.mha",
                    "image.dcm",
                    "image.nhdr",
                    "image.mhd",
                    "image.gz",
                    "image.png",
                    "ima ge.nii",
                    "-image.nii",
                    "bild\u00fc.nii",
                    "ima\udcffge.nii",
                    ".nii",
                    "image.txt",
                    "%d.nii",
                    "image.nii.nii.gz",
                ),
            )
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
        at = int(rng.integers(0, len(content) + 1))
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
