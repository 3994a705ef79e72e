"""Images that a program holds in memory: numpy arrays and SimpleITK's images.

Each becomes what reading a file gives, so that the rest does not know where an image came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.geometry import (
    FileGrid,
    Geometry,
    in_file_axes,
    orthogonal_grid,
    to_lps,
)
from lmaunet.data.images.volumes import Image, check_pixels
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

MODALITY_TAG = "0008|0060"
NO_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def images_of_array(
    array: np.ndarray, spacing_mm: Sequence[float], channels: int
) -> tuple[Image, ...]:
    """Return an image for each channel of an array.

    Args:
        array: ``(D, H, W)``, or ``(C, D, H, W)`` with a volume for each channel; real numbers.
            Slices run towards the head, rows towards the back, columns towards the patient's left.
        spacing_mm: of D, H, W.
        channels: C.

    Raises:
        UserError: for another shape, what is no finite real number, or a bad spacing.
    """
    import numpy as np

    expected = "(D, H, W)" if channels == 1 else f"({channels}, D, H, W)"
    if array.ndim == 3 and channels == 1:
        array = array[None]
    if array.ndim != 4 or array.shape[0] != channels:
        move = "; give volume[None] for a single slice" if array.ndim == 2 else ""
        raise UserError(
            f"an array of shape {array.shape}; the network takes {channels} channel(s): expected "
            f"{expected}{move}"
        )
    if 0 in array.shape:
        raise UserError(f"an array of shape {array.shape} holds no voxel; give one slice or more")
    spacing = check_spacing(spacing_mm)
    depth, height, width = array.shape[1:]
    grid = FileGrid((width, height, depth), spacing[::-1], (0.0, 0.0, 0.0), NO_DIRECTION)
    geometry = Geometry(
        (depth, height, width), spacing, grid.origin, NO_DIRECTION, "LPS", grid
    )  # fmt: skip
    found = []
    for index, channel in enumerate(array):
        check_pixels(channel, "the array" if channels == 1 else f"channel {index} of the array")
        found.append(Image(channel.astype(np.float32, copy=False), geometry, "array"))
    return tuple(found)


def check_spacing(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Return the spacing of D, H, W in mm; raises UserError for what is none."""
    try:
        depth, height, width = (float(mm) for mm in spacing_mm)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"spacing {spacing_mm!r}; expected three lengths in mm, of slices, rows and columns, "
            "such as (5.0, 0.98, 0.98)"
        ) from error
    if not all(math.isfinite(mm) and mm > 0 for mm in (depth, height, width)):
        raise UserError(
            f"spacing {tuple(spacing_mm)!r}; expected three positive lengths in mm, of slices, "
            "rows and columns"
        )
    return depth, height, width


def image_of_sitk(image: Any, name: str) -> Image:
    """Return a SimpleITK image of 2 or 3 dimensions and one value per pixel, on its own grid.

    Args:
        image: the image.
        name: what it is called in messages.

    Raises:
        UserError: for other dimensions or pixels, or axes that are not at right angles.
    """
    import numpy as np
    import SimpleITK

    size = image.GetSize()
    if len(size) not in (2, 3) or 0 in size:
        raise UserError(
            f"{name} has {len(size)} dimensions ({' x '.join(map(str, size))}); expected 2 or 3 "
            "with voxels; give one volume"
        )
    values = image.GetNumberOfComponentsPerPixel()
    if values != 1:
        raise UserError(
            f"{name} has {values} values per pixel; expected one channel; give an image for each"
        )
    array = SimpleITK.GetArrayFromImage(image)
    check_pixels(array, name)
    n = len(size)
    direction, spacing = np.reshape(image.GetDirection(), (n, n)), np.array(image.GetSpacing())
    # refuses a shear, and steps that are no number
    grid, notes = orthogonal_grid(
        direction * spacing, np.array(image.GetOrigin()), size, name,
        "set its spacing and direction",
    )  # fmt: skip
    if not notes:
        grid = FileGrid(size, image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    turned, geometry = to_lps(array, grid)
    modality = image.GetMetaData(MODALITY_TAG) if image.HasMetaDataKey(MODALITY_TAG) else ""
    pixels = turned.astype(np.float32, copy=False)
    return Image(pixels, geometry, "SimpleITK", notes, modality.strip())


def to_sitk(values: np.ndarray, geometry: Geometry, like: Any = None) -> Any:
    """Return values as a SimpleITK image that lies on the image that they belong to.

    Args:
        values: ``(z, y, x)`` in LPS, or ``(k, z, y, x)`` for an image of k values per pixel.
        geometry: the image's.
        like: the SimpleITK image that they belong to; None where it was read from a file.
    """
    import numpy as np
    import SimpleITK

    several = values.ndim == 4
    volumes = [in_file_axes(one, geometry) for one in (values if several else values[None])]
    array = np.stack(volumes, -1) if several else volumes[0]
    image = SimpleITK.GetImageFromArray(array, isVector=several)
    if like is not None:
        image.CopyInformation(like)
        return image
    grid = geometry.grid
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image
