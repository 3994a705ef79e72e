"""NIfTI masks, which repeat all that places their image.

Whatever a reader makes of the forms, voxel sizes and units of an image, it makes of its mask too.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.geometry import GRID_TOLERANCE_MM, FileGrid, farthest_mm
from lmaunet.data.images.image_file import GZIP, inflate, open_regular
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

LARGEST_NIFTI1_SIDE = 32767
GZIP_LEVEL = 4
WRITTEN_TOLERANCE_MM = 0.01
PLACING_FIELDS = (
    "pixdim", "qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def mask_header(shape: tuple[int, ...], kind: np.dtype, grid: FileGrid, placement: Any) -> Any:
    """Return the header of a mask.

    Args:
        shape: voxels along each axis of the file, fastest first; 2 or 3.
        kind: of its values.
        grid: the image's.
        placement: the image's, where it was NIfTI: its forms, codes, voxel sizes and units are
            repeated bit by bit.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if placement is not None:
        # the other byte order is that of the computer that wrote the image; it places nothing
        header = placement.header.as_byteswapped("<")
    else:
        header = Nifti2Header() if max(shape) > LARGEST_NIFTI1_SIDE else Nifti1Header()
        header.set_qform(ras_affine(grid), 1)
        # beside half a turn, as from LPS to RAS, a quaternion in float32 loses small angles
        if farthest_mm(header.get_qform(), ras_affine(grid), grid.size) > WRITTEN_TOLERANCE_MM:
            header["qform_code"] = 0
        # a qform cannot hold axes that are off right angles; a sform can
        header.set_sform(stated_affine(grid), 1)
        header["xyzt_units"] = 2
    header["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    header["datatype"] = {"u1": 2, "u2": 512, "f4": 16}[kind.str[1:]]
    header["bitpix"] = 8 * kind.itemsize
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = 0
    single = header["sizeof_hdr"] == 348
    header["vox_offset"] = 352 if single else 544
    header["magic"] = b"n+1" if single else b"n+2\0\r\n\x1a\n"
    return header


def ras_affine(grid: FileGrid) -> np.ndarray:
    """Return the affine ``(4, 4)`` from index to RAS, as NIfTI has it, of a grid in LPS."""
    import numpy as np

    n = len(grid.size)
    affine = np.eye(4)
    affine[:n, :n] = np.reshape(grid.direction, (n, n)) * grid.spacing_mm
    affine[:n, 3] = grid.origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def stated_affine(grid: FileGrid) -> np.ndarray:
    """Return the affine ``(4, 4)`` to RAS as the image's file has it: :func:`ras_affine`, or with
    axes that are a little off right angles.
    """
    import numpy as np

    if not grid.stated:
        return ras_affine(grid)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.reshape(grid.stated, (4, 4))


def encode_mask(labels: np.ndarray, grid: FileGrid, placement: Any, *, gzipped: bool) -> bytes:
    """Return a NIfTI file of labels that are in the axes of the file, slowest first."""
    header = mask_header(labels.shape[::-1], labels.dtype, grid, placement)
    content = (
        header.binaryblock + bytes(4) + labels.astype(labels.dtype.newbyteorder("<")).tobytes()
    )
    return gzip.compress(content, GZIP_LEVEL, mtime=0) if gzipped else content


def check_mask(path: Path, labels: np.ndarray, grid: FileGrid, placement: Any) -> None:
    """Read a mask by nibabel and raise UserError where it is not what was to be written.

    Its header is not opened as an image's: nibabel mends some of what places an image and refuses
    some, and all of it is to be there as it was.
    """
    import numpy as np
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    with open_regular(path) as stream:
        gzipped = stream.read(len(GZIP)) == GZIP
        stream.seek(0)
        content = inflate(stream, path, labels.nbytes + 544) if gzipped else stream.read()
    single = content[:4] == (348).to_bytes(4, "little")
    kind, length = (Nifti1Header, 348) if single else (Nifti2Header, 540)
    try:
        header = kind(content[:length], "<", check=False)
        stored = header.raw_data_from_fileobj(io.BytesIO(content))
    except Exception as error:  # whatever nibabel raises, the file is not good
        reason = " ".join(str(error).split())
        raise UserError(f"it cannot be read back ({reason})") from error
    plain = header.get_slope_inter() == (1.0, 0.0) and bytes(header["magic"].tobytes())[:2] == b"n+"
    if not plain or stored.shape != labels.shape[::-1] or not np.array_equal(stored.T, labels):
        raise UserError("its labels differ when they are read back")
    if placement is not None:
        image = placement.header.as_byteswapped("<")
        for key in PLACING_FIELDS:
            if image[key].tobytes() != header[key].tobytes():
                raise UserError(f"its {key} differs from the image's when it is read back")
        return
    if off_mm(header, grid) > GRID_TOLERANCE_MM:
        raise UserError("it lies elsewhere than the image when it is read back")


def off_mm(header: Any, grid: FileGrid) -> float:
    """Return how far a form of a mask's header lays a voxel from where the image has it at most."""
    qform = header.get_qform() if header["qform_code"] else ras_affine(grid)
    return max(
        farthest_mm(qform, ras_affine(grid), grid.size),
        farthest_mm(header.get_sform(), stated_affine(grid), grid.size),
    )
