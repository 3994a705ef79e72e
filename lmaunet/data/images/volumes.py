"""Reading one image: NIfTI, NRRD, MetaImage or DICOM, in one orientation.

This is the one place that reads an image, and :mod:`lmaunet.data.images.masks` the one that writes
a mask. What a file is, its bytes say, not its name. Every volume is turned to LPS (x towards the
patient's left, y towards the back, z towards the head), so that slices of different files look
alike and image and label meet on the same grid.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.dicom.series import holds_dicom
from lmaunet.data.images.geometry import FileGrid, Geometry, orientation_of, to_lps
from lmaunet.data.images.image_file import check_name, identify
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
LARGEST_PIXEL = 1e15


@dataclass(frozen=True, eq=False)
class Image:
    """An image as read.

    Args:
        array: ``(z, y, x)`` in LPS, values as the file means them.
        geometry: where it lies.
        kind: ``NIfTI``, ``NRRD``, ``MetaImage`` or ``DICOM``.
        notes: what the user should know of how it was read.
        modality: DICOM's, such as ``CT``; empty where the file does not say.
        source: the DICOM series, for a mask that refers to it; None for other formats.
    """

    array: np.ndarray = field(repr=False)
    geometry: Geometry
    kind: str
    notes: tuple[str, ...] = ()
    modality: str = ""
    source: Any = field(default=None, repr=False)


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


def kind_of(path: Path) -> str:
    """Return the format of an image from its first bytes, before any work; a folder is ``DICOM``.

    Raises:
        UserError: where there is none, or it is no image that this program reads.
    """
    check_name(path)
    return "DICOM" if path.is_dir() else identify(path).kind


def read_volume(path: Path) -> Image:
    """Return one image or label volume.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM file, or a folder with one DICOM series. A
            2-D image is a volume of one slice. DICOM values are rescaled (HU for CT).

    Raises:
        UserError: where it cannot be read, has other dimensions or several channels, or its grid
            cannot be used.
    """
    check_name(path)
    try:
        if path.is_dir():
            return _read_dicom(path)
        head = identify(path)
        if head.kind == "DICOM":
            return _read_dicom(path)
        placement = None
        if head.kind == "NIfTI":
            from lmaunet.data.images.nifti import read_nifti

            array, grid, placement, notes = read_nifti(path, head)
        elif head.kind == "NRRD":
            from lmaunet.data.images.nrrd import read_nrrd

            array, grid, notes = read_nrrd(path)
        else:
            from lmaunet.data.images.metaimage import read_metaimage

            array, grid, notes = read_metaimage(path)
        turned, geometry = to_lps(array, grid, placement)
    except MemoryError as error:
        raise UserError(
            f"{path} does not fit in the memory of this machine; cut it into parts"
        ) from error
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {_last_line(error)}") from error
    return Image(turned, geometry, head.kind, notes)


def read_image(path: Path) -> tuple[np.ndarray, Geometry]:
    """Return one image, float32 ``(z, y, x)`` in LPS, and its geometry.

    Raises:
        UserError: as :func:`read_volume`, and for NaN.
    """
    image = read_pixels(path)
    return image.array, image.geometry


def read_pixels(path: Path) -> Image:
    """Return one image with finite float32 pixels; errors as for :func:`read_image`."""
    import dataclasses

    import numpy as np

    image = read_volume(path)
    check_pixels(image.array, str(path))
    return dataclasses.replace(image, array=image.array.astype(np.float32, copy=False))


def read_labels(path: Path) -> tuple[np.ndarray, Geometry]:
    """Return one label volume ``(z, y, x)`` in LPS with the codes of the file, and its geometry."""
    image = read_volume(path)
    return image.array, image.geometry


def read_axes(path: Path) -> tuple[str, int]:
    """Return the axes of an image's file, such as ``RAS``, and how many it has.

    Of NIfTI the header is read alone. Errors as for :func:`read_volume`.
    """
    check_name(path)
    head = None if path.is_dir() else identify(path)
    if head is not None and head.kind == "NIfTI":
        from lmaunet.data.images.nifti import read_grid

        grid = read_grid(path, head)
    else:
        grid = read_volume(path).geometry.grid
    return orientation_of(grid), len(grid.size)


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


def _read_dicom(path: Path) -> Image:
    from lmaunet.data.dicom.series import read_dicom

    series = read_dicom(path)
    size = series.array.shape[::-1]
    grid = FileGrid(size, series.spacing_mm, series.origin, series.direction)
    turned, geometry = to_lps(series.array, grid)
    return Image(turned, geometry, "DICOM", series.notes, series.modality, series)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
