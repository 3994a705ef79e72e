"""NIfTI files made byte by byte, so that a test can have what no library writes."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

SHAPE = (5, 6, 7)  # x, y, z: no two alike
STEPS = (1.0, 1.5, 3.0)
AFFINE = np.array([[-1.0, 0, 0, 10], [0, -1.5, 0, 20], [0, 0, 3.0, 30], [0, 0, 0, 1]])
OFFSETS = {  # of NIfTI-1: format and place
    "dim": ("8h", 40), "intent_code": ("h", 68), "datatype": ("h", 70), "bitpix": ("h", 72),
    "pixdim": ("8f", 76), "vox_offset": ("f", 108), "scl_slope": ("f", 112),
    "scl_inter": ("f", 116), "xyzt_units": ("B", 123), "qform_code": ("h", 252),
    "sform_code": ("h", 254), "quatern": ("3f", 256), "qoffset": ("3f", 268),
    "srow": ("12f", 280), "magic": ("4s", 344),
}  # fmt: skip


def voxels(shape=SHAPE) -> np.ndarray:
    """HU ``(z, y, x)`` of which each is another."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape[::-1]) - 100


def content(array: np.ndarray | None = None, order: str = "<", **fields) -> bytes:
    """A NIfTI-1 file: a qform and an sform of AFFINE, both of code 1, in mm."""
    array = voxels() if array is None else array
    shape = array.shape[::-1]
    given = {
        "dim": (len(shape), *shape, *[1] * (7 - len(shape))), "datatype": 4, "bitpix": 16,
        "pixdim": (1, *STEPS, 0, 0, 0, 0), "vox_offset": 352, "xyzt_units": 2, "qform_code": 1,
        # AFFINE turns by 180 degrees about z
        "sform_code": 1, "quatern": (0, 0, 1), "qoffset": AFFINE[:3, 3],
        "srow": AFFINE[:3].ravel(), "magic": b"n+1\0",
    } | fields  # fmt: skip
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    for key, value in given.items():
        form, place = OFFSETS[key]
        values = value if isinstance(value, (tuple, list, np.ndarray)) else (value,)
        struct.pack_into(order + form, header, place, *values)
    return bytes(header) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def write(path: Path, array: np.ndarray | None = None, **fields) -> Path:
    """Write a file of these fields, compressed where its name says so."""
    made = content(array, **fields)
    path.write_bytes(gzip.compress(made) if path.name.endswith(".gz") else made)
    return path
