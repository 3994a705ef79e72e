"""NIfTI-1 and NIfTI-2: a header's forms, scaling and units.

A NIfTI file may say twice where it lies (qform and sform), and its voxel sizes a third time
(pixdim); readers differ in what they prefer.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.geometry import (
    FileGrid,
    farthest_mm,
    flat,
    is_orthogonal,
    orthogonal_grid,
)
from lmaunet.data.images.image_file import GZIP, FileHead, open_regular, read_content
from lmaunet.errors import ToolNotFound, UserError

if TYPE_CHECKING:
    import numpy as np

FORMS_TOLERANCE_MM = 0.1
QUATERNION_ROUNDING = 1e-4

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip
_OTHER_TYPES = {
    1: "single bits", 32: "complex64", 128: "RGB (3 values per pixel)", 1536: "float128",
    1792: "complex128", 2048: "complex256", 2304: "RGBA (4 values per pixel)",
}  # fmt: skip
_UNIT_MM = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}
_UNIT_NAMES = {1: "metres", 3: "micrometres"}
REMEDY = (
    "resample it to a grid with axes at right angles (any program that resamples or registers "
    "images can), or correct the header"
)


@dataclass(frozen=True, eq=False)
class Placement:
    """What a NIfTI file says of where it lies.

    Args:
        header: as it was.
        axes: how many it has.
        forms_apart_mm: how far its qform and sform lie apart at most; 0 where it has one.
    """

    header: Any
    axes: int
    forms_apart_mm: float


def read_nifti(
    path: Path, head: FileHead
) -> tuple[np.ndarray, FileGrid, Placement, tuple[str, ...]]:
    """Return an image's array (slowest axis first), grid, placement and notes.

    The grid comes from the sform where its code is 1 (scanner) and its axes are at right angles,
    or where there is no qform; from the qform otherwise. That is ITK's choice. Where neither has a
    code, the axes are taken for LPS, as ITK takes them. Values are scaled by slope and intercept;
    a slope of 0 or NaN means that there is no scaling.

    Raises:
        UserError: for a damaged file, other than 2 or 3 axes, other pixels than real numbers, and
            a grid that cannot be used.
    """
    import numpy as np

    require_nibabel()
    header, name = _header(path, head), str(path)
    axes, dims = _dims(header, name)
    kind = _type(header, name)
    count = math.prod(dims)
    data_path, data_head, offset = _data_file(path, head, header)
    expected = offset + count * kind.itemsize
    content = read_content(data_path, data_head, expected)
    notes: list[str] = []
    if int(header["bitpix"]) != 8 * kind.itemsize:
        if len(content) != expected:
            raise UserError(
                f"{path}: bitpix {int(header['bitpix'])}, but its datatype has "
                f"{8 * kind.itemsize} bits; expected equal; get the file again"
            )
        notes.append(
            f"bitpix in the header is {int(header['bitpix'])}: the datatype's "
            f"{8 * kind.itemsize} are used, which fit the file's length"
        )
    array = np.frombuffer(content, kind, count, offset).reshape(dims[::-1])
    array = array.astype(kind.newbyteorder("="), copy=False)
    array = _scaled(array, header, name)
    array = array.reshape(array.shape[-3:])
    grid, apart_mm, more = _grid(header, (*dims, 1)[:3], name)
    if axes == 2:
        grid = flat(grid)
        array = array if len(grid.size) == 2 else array[None]
    return array, grid, Placement(header, axes, apart_mm), (*notes, *more)


def read_grid(path: Path, head: FileHead) -> FileGrid:
    """Return an image's grid from its header alone; errors as for :func:`read_nifti`."""
    require_nibabel()
    header, name = _header(path, head), str(path)
    axes, dims = _dims(header, name)
    grid, _, _ = _grid(header, (*dims, 1)[:3], name)
    return flat(grid) if axes == 2 else grid


def require_nibabel() -> None:
    """Raise ToolNotFound where nibabel is not installed, which knows NIfTI's headers."""
    if importlib.util.find_spec("nibabel") is None:
        raise ToolNotFound(
            "nibabel", "to read and write NIfTI", "install it: python -m pip install nibabel"
        )


def _header(path: Path, head: FileHead) -> Any:
    """Return the header of a file that begins as NIfTI files do, as it stands there."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    endian = "<" if int.from_bytes(head.start[:4], "little") in (348, 540) else ">"
    size = int.from_bytes(head.start[:4], "little" if endian == "<" else "big")
    block = head.start[:size]
    if len(block) < size:
        raise UserError(
            f"{path} is cut short: {len(block)} bytes, expected a header of {size}; get the file "
            "again"
        )
    kind = Nifti1Header if size == 348 else Nifti2Header
    header = kind(block, endian, check=False)
    return header


def _dims(header: Any, name: str) -> tuple[int, tuple[int, ...]]:
    """Return the number of axes, trailing ones beyond the third left out, and all sizes."""
    stated = int(header["dim"][0])
    if not 1 <= stated <= 7:
        raise UserError(f"{name}: dim[0] is {stated}; expected 2 or 3 axes; get the file again")
    dims = tuple(int(n) for n in header["dim"][1 : 1 + stated])
    if min(dims) < 1:
        raise UserError(
            f"{name}: a size of {' x '.join(map(str, dims))}; expected 1 or more along each axis; "
            "get the file again"
        )
    axes = stated
    while axes > 3 and dims[axes - 1] == 1:
        axes -= 1
    if axes not in (2, 3):
        raise UserError(
            f"{name}: {axes} dimensions ({' x '.join(map(str, dims[:axes]))}); expected 3; save "
            "one volume of it as a file of its own"
        )
    if int(header["intent_code"]) in (1004, 1005, 1007) and int(header["dim"][5]) > 1:
        raise UserError(f"{name}: a vector or matrix in each pixel; expected one number")
    return axes, dims


def _type(header: Any, name: str) -> np.dtype:
    import numpy as np

    code = int(header["datatype"])
    if code not in _TYPES:
        what = _OTHER_TYPES.get(code, f"unknown type {code}")
        raise UserError(
            f"{name}: pixels of {what}; expected one real number per pixel; save each channel as "
            "an image of its own, of integers or floats"
        )
    return np.dtype(_TYPES[code]).newbyteorder(header.endianness)


def _data_file(path: Path, head: FileHead, header: Any) -> tuple[Path, FileHead, int]:
    """Return the file that holds the pixels, its head, and where in it they begin."""
    offset = float(header["vox_offset"])
    single = bytes(header["magic"].tobytes())[:2] == b"n+"
    least = (352 if header["sizeof_hdr"] == 348 else 544) if single else 0
    if not math.isfinite(offset) or offset != int(offset) or offset < least:
        raise UserError(
            f"{path}: its pixels begin at byte {offset:g} (vox_offset); expected {least} or more; "
            "get the file again"
        )
    if single:
        return path, head, int(offset)
    data = path.with_suffix(".img")
    if not data.exists():
        raise UserError(
            f"{path} is the header of a pair of files, and {data.name} is not beside it; give both,"
            " or save the image as one .nii file"
        )
    with open_regular(data) as stream:
        start = stream.read(len(GZIP))
        size = data.stat().st_size
    return data, FileHead("NIfTI", start, start == GZIP, size), int(offset)


def _scaled(array: np.ndarray, header: Any, name: str) -> np.ndarray:
    """Return an array times the header's slope, plus its intercept."""
    import numpy as np

    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return array
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise UserError(
            f"{name}: a slope of {slope:g} and an intercept of {inter:g} (scl_slope, scl_inter); "
            "expected finite numbers; correct the header"
        )
    if (slope, inter) == (1.0, 0.0):
        return array
    scaled = array.astype(np.float64) * slope + inter
    return scaled if array.dtype.itemsize == 8 else scaled.astype(np.float32)


def _grid(header: Any, size: tuple[int, ...], name: str) -> tuple[FileGrid, float, tuple[str, ...]]:
    """Return the grid that the network sees, in LPS and mm; how far forms are apart; and notes."""
    import numpy as np

    notes: list[str] = []
    unit = int(header["xyzt_units"]) & 7
    if unit not in _UNIT_MM:
        raise UserError(
            f"{name}: lengths in unit {unit} (xyzt_units); expected 1 (metres), 2 (mm) or 3 "
            "(micrometres); correct the header"
        )
    if unit in _UNIT_NAMES:
        notes.append(f"the file's lengths are in {_UNIT_NAMES[unit]}: converted to mm")
    mm = np.diag([_UNIT_MM[unit]] * 3 + [1.0])
    sizes = np.array(header["pixdim"][1:4], np.float64)
    if not all(math.isfinite(step) and step != 0 for step in sizes):
        raise UserError(
            f"{name}: voxels of {' x '.join(f'{step:g}' for step in sizes)} mm; expected a size; "
            "correct pixdim in the file"
        )
    codes = {form: int(header[f"{form}_code"]) for form in ("qform", "sform")}
    for form, code in codes.items():
        if code < 0:
            raise UserError(
                f"{name}: {form}_code is {code}; expected 0 to 5; correct the header, because "
                "readers disagree on what it means"
            )
    if (sizes < 0).any():
        if not any(codes.values()):
            raise UserError(
                f"{name}: a negative voxel size ({' x '.join(f'{step:g}' for step in sizes)} mm) "
                "and neither qform nor sform, so that left and right are not known; save it again "
                "with a form"
            )
        notes.append("voxel sizes in pixdim are negative: their magnitudes are used")
        sizes = np.abs(sizes)
    forms: dict[str, np.ndarray] = {}
    if codes["qform"] > 0:
        side = float(header["pixdim"][0])
        if side not in (-1.0, 0.0, 1.0):
            notes.append(f"pixdim[0] is {side:g}: taken as 1, as ITK and FSL take it")
        forms["qform"] = mm @ _qform(header, sizes, name)
    if codes["sform"] > 0:
        sform = np.eye(4)
        sform[:3] = [header[f"srow_{axis}"] for axis in "xyz"]
        if not np.isfinite(sform).all():
            raise UserError(f"{name}: NaN or infinity in its sform; {REMEDY}")
        forms["sform"] = mm @ sform
    sizes = sizes * _UNIT_MM[unit]
    if not forms:
        notes.append(
            "the file has neither qform nor sform: its axes are taken to run to the left, the back "
            "and the head, which it does not say"
        )
        grid, _ = orthogonal_grid(np.diag(sizes), np.zeros(3), size, name, REMEDY)
        return grid, 0.0, tuple(notes)
    prefers_sform = "sform" in forms and (
        "qform" not in forms or (codes["sform"] == 1 and is_orthogonal(forms["sform"][:3, :3]))
    )
    chosen = "sform" if prefers_sform else "qform"
    apart = 0.0
    if len(forms) == 2:
        apart = farthest_mm(forms["qform"], forms["sform"], size)
        if apart > FORMS_TOLERANCE_MM:
            notes.append(
                f"the image's qform and sform lie up to {apart:.3g} mm apart: the network's "
                f"orientation comes from the {chosen}; the mask carries both as they are"
            )
    affine = forms[chosen]
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if chosen == "sform" and (columns > 0).all():
        off = np.abs(columns - sizes) * (np.array(size) - 1)
        if off.max() <= FORMS_TOLERANCE_MM:
            affine = affine @ np.diag([*(sizes / columns), 1.0])
        else:
            notes.append(
                f"voxels are {_times(columns)} mm by the sform, which is used, and {_times(sizes)} "
                "mm by pixdim"
            )
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    grid, more = orthogonal_grid(lps[:3, :3], lps[:3, 3], size, name, REMEDY)
    return grid, apart, (*notes, *more)


def _qform(header: Any, sizes: np.ndarray, name: str) -> np.ndarray:
    """Return the affine ``(4, 4)`` of a header's qform, in the file's unit, towards RAS."""
    import numpy as np
    from nibabel.quaternions import quat2mat

    bcd = np.array([header[f"quatern_{part}"] for part in "bcd"], np.float64)
    offset = np.array([header[f"qoffset_{axis}"] for axis in "xyz"], np.float64)
    squared = float(bcd @ bcd)
    if not (squared <= 1 + QUATERNION_ROUNDING and np.isfinite(offset).all()):
        raise UserError(
            f"{name}: its qform is no rotation (a quaternion of length {math.sqrt(squared):g} "
            f"beside a part that is missing, expected at most 1); {REMEDY}"
        )
    sign = float(header["pixdim"][0])
    if sign not in (-1.0, 0.0, 1.0) and not sign > 0:
        raise UserError(
            f"{name}: pixdim[0] is {sign:g}; expected 1 or -1, which says on which side the third "
            "axis of the qform runs; correct the header"
        )
    affine = np.eye(4)
    # what rounding leaves of 1 beside half a turn is no turn of its own; nibabel's threshold
    rest, lost = 1 - squared, 3 * float(np.finfo(header["quatern_b"].dtype).eps)
    rotation = quat2mat([math.sqrt(rest) if rest >= lost else 0.0, *bcd])
    affine[:3, :3] = rotation * sizes * [1, 1, -1 if sign < 0 else 1]
    affine[:3, 3] = offset
    return affine


def _times(steps: np.ndarray) -> str:
    return " x ".join(f"{step:.4g}" for step in steps)
