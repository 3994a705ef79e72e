"""Reading and writing one volume: NIfTI, NRRD, MetaImage or a DICOM folder, in one orientation.

Every volume is turned to LPS (x towards the patient's left, y towards the back, z towards the
head), so that slices of different files look alike and image and label meet on the same grid.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.dicom import GEOMETRY_TOLERANCE_MM, holds_dicom, is_dicom, read_dicom
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
LABEL_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
ORIENTATION = "LPS"
LARGEST_PIXEL = 1e15


@dataclass(frozen=True)
class FileGrid:
    """The grid of an image as its file gives it: SimpleITK's values, in the file's own axes.

    All have 2 or 3 dimensions, as the file has; ``direction`` is the matrix in rows.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]


@dataclass(frozen=True)
class Geometry:
    """Where a volume lies in the patient; lengths in mm.

    ``shape`` is ``(z, y, x)`` in LPS, ``spacing_mm`` in the same order; ``origin`` and
    ``direction`` are SimpleITK's, in x, y, z; ``orientation`` and ``grid`` are those of the file.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    orientation: str
    grid: FileGrid

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel in millilitres; a 2-D image counts as 1 mm thick."""
        return math.prod(self.spacing_mm) / 1000

    def same_grid(self, other: Geometry) -> bool:
        """Tell whether two volumes have the same voxels, to a twentieth of a millimetre."""
        import numpy as np

        def corner(g: Geometry) -> np.ndarray:
            steps = np.array(g.spacing_mm[::-1]) * (np.array(g.shape[::-1]) - 1)
            return np.array(g.origin) + np.array(g.direction).reshape(3, 3) @ steps

        first = np.abs(np.array(self.origin) - np.array(other.origin)).max()
        last = np.abs(corner(self) - corner(other)).max()
        return self.shape == other.shape and max(first, last) <= GEOMETRY_TOLERANCE_MM


def is_volume(path: Path) -> bool:
    """Tell whether a file's name is that of a volume, or a folder that of a DICOM series."""
    if path.is_dir():
        return holds_dicom(path)
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """Return a file's name without its volume suffix."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name


def read_image(path: Path) -> tuple[np.ndarray, Geometry]:
    """Return one image, float32 ``(z, y, x)`` in LPS, and its geometry.

    Args:
        path: a NIfTI, NRRD or MetaImage file, or a folder with one DICOM series. A 2-D image is a
            volume of one slice. DICOM values are rescaled (HU for CT).

    Raises:
        UserError: where it cannot be read, has other dimensions, several channels, or NaN.
    """
    import numpy as np

    array, geometry = _read(path)
    check_pixels(array, str(path))
    return array.astype(np.float32), geometry


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Return one label volume ``(z, y, x)`` in LPS with the codes of the file, and its geometry."""
    return _read(path)


def check_output(path: Path) -> None:
    """Raise :class:`UserError` where labels cannot be written to a path, before they are made."""
    if not path.name.lower().endswith(LABEL_SUFFIXES):
        raise UserError(f"{path}: unknown format; use {', '.join(LABEL_SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    folder = next(p for p in (path.absolute().parent, *path.absolute().parents) if p.exists())
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is not a folder; name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: no permission in {folder}; name another place")


def write_labels(path: Path, labels: np.ndarray, geometry: Geometry) -> Path:
    """Write labels ``(z, y, x)`` in LPS to a file on the grid of the image that they belong to.

    Size, spacing, origin, direction and the number of dimensions are the image's. The file is
    complete or absent.

    Args:
        path: the file; its suffix chooses the format.
        labels: integers of ``geometry.shape``, 0 to 65535.
        geometry: what :func:`read_image` returned for the image.

    Raises:
        UserError: for another shape or an unknown suffix, or where the file cannot be written.
    """
    import numpy as np
    import SimpleITK

    if tuple(labels.shape) != geometry.shape:
        raise UserError(f"labels of shape {tuple(labels.shape)}; expected {geometry.shape}")
    check_output(path)
    kind = np.uint8 if labels.size == 0 or labels.max() <= 255 else np.uint16
    image = SimpleITK.GetImageFromArray(_in_file_axes(labels.astype(kind), geometry))
    image.SetSpacing(geometry.grid.spacing_mm)
    image.SetOrigin(geometry.grid.origin)
    image.SetDirection(geometry.grid.direction)
    # a name of ours: ITK writes a.nii.gz.nii to another name than it is told
    suffix = next(s for s in LABEL_SUFFIXES if path.name.lower().endswith(s))
    partial = path.with_name(f".partial-{os.getpid()}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(image, str(partial), useCompression=True)
        partial.replace(path)
    except (RuntimeError, OSError) as error:
        raise UserError(f"cannot write {path}: {_last_line(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def _in_file_axes(labels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return labels ``(z, y, x)`` in LPS along the axes of the file, slowest first.

    Every axis of the file is an axis of the volume in LPS, forwards or backwards: the product of
    the two directions is a permutation with signs.
    """
    import numpy as np

    grid = geometry.grid
    own = np.eye(3)
    own[: len(grid.size), : len(grid.size)] = np.reshape(grid.direction, (len(grid.size),) * 2)
    turn = np.rint(own.T @ np.reshape(geometry.direction, (3, 3)))
    # numpy counts axes from z, SimpleITK from x
    turned = labels.transpose([2 - int(np.abs(turn[2 - axis]).argmax()) for axis in range(3)])
    backwards = tuple(axis for axis in range(3) if turn[2 - axis].sum() < 0)
    found = np.ascontiguousarray(np.flip(turned, backwards))
    return found[0] if len(grid.size) == 2 else found


def check_finite(array: np.ndarray, where: str) -> None:
    """Raise :class:`UserError` where an image holds NaN or infinity."""
    import numpy as np

    bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise UserError(
            f"{where}: {bad} of {array.size} pixels are NaN or infinite; expected finite numbers; "
            "replace them (for example by air) before using the image"
        )


def check_pixels(array: np.ndarray, where: str) -> None:
    """Raise :class:`UserError` where an image is not of finite real numbers that float32 bears."""
    if array.dtype.kind not in "iufb":
        raise UserError(f"{where}: pixels of type {array.dtype}; expected real numbers")
    if array.dtype.kind == "f":
        check_finite(array, where)
    largest = max(abs(float(array.min())), abs(float(array.max())))
    if largest > LARGEST_PIXEL:
        raise UserError(
            f"{where}: a pixel of magnitude {largest:g}; expected at most {LARGEST_PIXEL:g}, "
            "because the square of a pixel must be a float32; divide the image by a constant"
        )


def check_shapes(image: tuple[int, ...], labels: tuple[int, ...], where: str) -> None:
    """Raise :class:`UserError` where an image and its labels differ in shape, or hold nothing."""
    if tuple(image) != tuple(labels):
        raise UserError(
            f"{where}: image of shape {tuple(image)} but labels of shape {tuple(labels)}; expected "
            "equal shapes; resample the labels onto the image"
        )
    if 0 in image:
        raise UserError(
            f"{where}: image and labels of shape {tuple(image)} hold no pixel; expected one slice "
            "or more; give images with content"
        )


def _read(path: Path) -> tuple[np.ndarray, Geometry]:
    import SimpleITK

    if not path.exists():
        raise UserError(f"{path} does not exist; give a NIfTI or NRRD file or a DICOM folder")
    # ITK prints its warnings on non-uniform spacing to the terminal; what matters is raised below.
    warn = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if path.is_file() and path.name.lower().endswith((".nii", ".nii.gz")):
            _check_nifti(path)
        dicom = path.is_dir() or is_dicom(path)
        image = _dicom(path) if dicom else SimpleITK.ReadImage(str(path))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as an image: {_last_line(error)}; give a NIfTI "
            "or NRRD file or a DICOM folder"
        ) from error
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(warn)
    return _canonical(image, path)


def _dicom(path: Path) -> Any:
    import SimpleITK

    volume = read_dicom(path)
    image = SimpleITK.GetImageFromArray(volume.array)
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.origin)
    image.SetDirection(volume.direction)
    return image


def _check_nifti(path: Path) -> None:
    """Raise UserError where a NIfTI file is cut short, or of floats and holds NaN or infinity.

    ITK's reader fills what is missing with 0, and turns NaN into 0, in silence; 0 is water in a
    CT. So the file itself is looked at. One that is not NIfTI is left for the reader to refuse.
    """
    import numpy as np

    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            content = stream.read()
    except gzip.BadGzipFile:
        return
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); get the file again") from error
    for order in "<>":
        if len(content) < 540 or struct.unpack_from(f"{order}i", content)[0] not in (348, 540):
            continue
        if struct.unpack_from(f"{order}i", content)[0] == 348:
            dims = struct.unpack_from(f"{order}8h", content, 40)
            code, bits = struct.unpack_from(f"{order}2h", content, 70)
            offset = struct.unpack_from(f"{order}f", content, 108)[0]
            offset = int(offset) if math.isfinite(offset) else -1
        else:
            dims = struct.unpack_from(f"{order}8q", content, 16)
            code, bits = struct.unpack_from(f"{order}2h", content, 12)
            offset = int(struct.unpack_from(f"{order}q", content, 168)[0])
        count = math.prod(max(1, d) for d in dims[1 : 1 + min(7, max(0, dims[0]))])
        expected = offset + count * bits // 8
        if offset < 0 or len(content) < expected:
            raise UserError(
                f"{path} is cut short: {len(content)} bytes, expected {expected}; "
                "get the file again"
            )
        _check_pixdim(content, order, path)
        if (code, bits) in ((16, 32), (64, 64)):
            kind = f"{order}f{bits // 8}"
            check_finite(np.frombuffer(content, kind, count, offset), str(path))
        return


def _check_pixdim(content: bytes, order: str, path: Path) -> None:
    """Raise UserError where the voxels of a NIfTI file have no size; ITK would take 1 mm."""
    if struct.unpack_from(f"{order}i", content)[0] == 348:
        axes, sizes = struct.unpack_from(f"{order}h", content, 40)[0], (f"{order}3f", 80)
    else:
        axes, sizes = struct.unpack_from(f"{order}q", content, 16)[0], (f"{order}3d", 112)
    spacing = struct.unpack_from(sizes[0], content, sizes[1])[: min(3, axes)]
    if not all(math.isfinite(step) and step != 0 for step in spacing):
        raise UserError(
            f"{path}: voxels of {' x '.join(f'{step:g}' for step in spacing)} mm; expected a size; "
            "correct pixdim in the file"
        )


def _canonical(image: Any, path: Path) -> tuple[np.ndarray, Geometry]:
    import SimpleITK

    channels = image.GetNumberOfComponentsPerPixel()
    if channels != 1:
        raise UserError(
            f"{path}: {channels} values per pixel; expected one channel; save each channel as an "
            "image of its own"
        )
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    size = image.GetSize()
    grid = FileGrid(size, image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    if image.GetDimension() == 2:
        image = SimpleITK.JoinSeries([image])
    if image.GetDimension() != 3:
        raise UserError(
            f"{path}: {image.GetDimension()} dimensions ({' x '.join(map(str, size))}); expected "
            "3; save one volume of it as a file of its own"
        )
    orientation = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(
        image.GetDirection()
    )
    image = SimpleITK.DICOMOrient(image, ORIENTATION)
    array = SimpleITK.GetArrayFromImage(image)
    z, y, x = array.shape
    sx, sy, sz = image.GetSpacing()
    return array, Geometry(
        (z, y, x), (sz, sy, sx), image.GetOrigin(), image.GetDirection(), orientation, grid
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
