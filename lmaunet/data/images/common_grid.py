"""An image brought onto the grid of another one: linear interpolation, and how much it covers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from lmaunet.data.images.geometry import Geometry


def sitk_of(array: np.ndarray, geometry: Geometry) -> Any:
    """Return values ``(z, y, x)`` in LPS as a SimpleITK image of float32 where they lie."""
    import numpy as np
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array.astype(np.float32, copy=False))
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    return image


def resample(moving: Any, grid: Any, transform: Any = None) -> tuple[np.ndarray, float]:
    """Return an image on another's grid, and the share of that grid that it does not cover.

    What it does not cover has its least value, which is air in a CT and 0 in most others.

    Args:
        moving: a SimpleITK image.
        grid: a SimpleITK image whose grid is wanted.
        transform: from points of the grid to points of the image, in mm; None leaves them.

    Returns:
        float32 ``(z, y, x)``, and 0 to 1.
    """
    import SimpleITK

    move = SimpleITK.Transform(3, SimpleITK.sitkIdentity) if transform is None else transform
    values = SimpleITK.GetArrayViewFromImage(moving)
    least = float(values.min())
    found = SimpleITK.Resample(moving, grid, move, SimpleITK.sitkLinear, least)
    covered = SimpleITK.Resample(
        SimpleITK.Cast(moving * 0, SimpleITK.sitkUInt8) + 1, grid, move,
        SimpleITK.sitkNearestNeighbor, 0,
    )  # fmt: skip
    share = float(SimpleITK.GetArrayViewFromImage(covered).mean())
    return SimpleITK.GetArrayFromImage(found), 1 - share
