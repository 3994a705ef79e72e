"""What a caller gives to be segmented, made ready, and masks in the kind of what was given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.images.held import image_of_sitk, images_of_array, to_sitk
from lmaunet.data.inference import prepare_images, prepare_volume, require_channels
from lmaunet.data.preparation import ReadyVolume
from lmaunet.deploy.deployment import Interface
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

TAKES = "expected a numpy array, a SimpleITK image, a path, or a list of images or of paths"


def prepare(
    given: Any, spacing: Sequence[float] | None, interface: Interface
) -> tuple[ReadyVolume, Any]:
    """Return what was given as a volume to segment, and the first of the images given.

    Args:
        given: as for :class:`lmaunet.deploy.segmenter.Segmenter`.
        spacing: of an array, in mm.
        interface: what the network takes.

    Raises:
        UserError: where it cannot be used.
    """
    import numpy as np
    import SimpleITK

    ready, channels = interface.preparation, interface.network.in_channels
    if isinstance(given, np.ndarray):
        spacing = _spacing_of_array(spacing, interface)
        images = images_of_array(given, spacing, channels)
        names = ["the array" if channels == 1 else f"channel {i}" for i in range(channels)]
        return prepare_images(images, names, ready), given
    if spacing is not None:
        raise UserError(
            f"spacing {spacing!r} was given with {_kind(given)}, which has its own; leave it out"
        )
    several = list(given) if isinstance(given, list | tuple) else [given]
    require_channels(len(several), channels)
    if all(isinstance(one, str | os.PathLike) for one in several):
        return prepare_volume([Path(one) for one in several], ready, channels), several[0]
    if not all(isinstance(one, SimpleITK.Image) for one in several):
        what = next(one for one in several if not isinstance(one, SimpleITK.Image))
        move = ""
        if hasattr(what, "__array__") or hasattr(what, "get_fdata"):
            move = "; give it as a numpy array (D, H, W) with its spacing, or as the path of a file"
        raise UserError(f"{_kind(what)} was given; {TAKES}{move}")
    names = [f"image {i}" if channels > 1 else "the image" for i in range(channels)]
    images = tuple(image_of_sitk(one, name) for one, name in zip(several, names, strict=True))
    return prepare_images(images, names, ready), several[0]


def _spacing_of_array(spacing: Sequence[float] | None, interface: Interface) -> Sequence[float]:
    """Return an array's spacing; raises UserError where the network needs it and there is none."""
    works_at = interface.preparation.resampled_mm
    if spacing is not None:
        return spacing
    if works_at is not None:
        raise UserError(
            "an array without its spacing; the network works at "
            f"{works_at[0]:.4g}x{works_at[1]:.4g} mm: give spacing=(slices, rows, columns) in mm"
        )
    return (1.0, 1.0, 1.0)


def _kind(given: Any) -> str:
    return f"a {type(given).__module__}.{type(given).__qualname__}".replace("builtins.", "")


def mask_like(values: np.ndarray, volume: ReadyVolume, given: Any) -> Any:
    """Return classes ``(z, y, x)`` or probabilities ``(k, z, y, x)`` in the kind of the image."""
    import numpy as np
    import SimpleITK

    if isinstance(given, np.ndarray):
        return values
    like = given if isinstance(given, SimpleITK.Image) else None
    return to_sitk(values, volume.geometry, like)
