"""What a caller gives to be segmented, made ready, and masks in the kind of what was given."""

from __future__ import annotations

import numbers as numbers_of
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data.fusion import Fusion, check_way
from lmaunet.data.images.held import image_of_sitk, images_of_array, to_sitk
from lmaunet.data.inference import prepare_images, prepare_volume, require_channels
from lmaunet.data.modalities import check_missing
from lmaunet.data.preparation import ReadyVolume
from lmaunet.deploy.deployment import Interface
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

TAKES = "expected a numpy array, a SimpleITK image, a path, or a list of images or of paths"


def fusion_of(
    interface: Interface,
    how: str,
    missing: Sequence[int],
    say: Callable[[str], None] = lambda line: None,
) -> Fusion:
    """Return what may be done to images; raises UserError where the network does not take it.

    Args:
        interface: what the network takes.
        how: empty, ``resample`` or ``register``.
        missing: the numbers of images that are missing, from 1.
        say: called with what is being done.
    """
    check_way(how)
    network, numbers = interface.network, list(missing)
    if not all(isinstance(n, numbers_of.Integral) and not isinstance(n, bool) for n in numbers):
        raise UserError(f"missing {numbers!r:.80}; expected numbers of images, the first is 1")
    absent = [int(number) - 1 for number in numbers]
    known = interface.modalities
    found = check_missing(absent, network.in_channels, known, network.name)
    return Fusion(how, found, known, say)  # type: ignore[arg-type]


def prepare(
    given: Any, spacing: Sequence[float] | None, interface: Interface, fuse: str = "",
    missing: Sequence[int] = (),
) -> tuple[ReadyVolume, Any]:  # fmt: skip
    """Return what was given as a volume to segment, and the first of the images given.

    Args:
        given: as for :class:`lmaunet.deploy.segmenter.Segmenter`.
        spacing: of an array, in mm.
        interface: what the network takes.
        fuse, missing: as for the class.

    Raises:
        UserError: where it cannot be used.
    """
    import numpy as np
    import SimpleITK

    ready, channels = interface.preparation, interface.network.in_channels
    several = list(given) if isinstance(given, list | tuple) else [given]
    if given is not None and any(one is None for one in several):
        if len(missing):
            raise UserError("None stands for a missing image, and missing names some; give one")
        missing = [number for number, one in enumerate(several, 1) if one is None]
        several = [one for one in several if one is not None]
    fusion = fusion_of(interface, fuse, missing)
    if isinstance(given, np.ndarray):
        if fuse:
            raise UserError(f"fuse {fuse!r} with an array, whose channels lie on one grid; leave "
                            "it out, or give a list of images")  # fmt: skip
        spacing = _spacing_of_array(spacing, interface)
        there = [i for i in range(channels) if i not in fusion.absent]
        images = images_of_array(given, spacing, len(there))
        names = ["the array" if channels == 1 else f"channel {i}" for i in there]
        return prepare_images(images, names, ready, fusion), given
    if spacing is not None:
        raise UserError(
            f"spacing {spacing!r} was given with {_kind(given)}, which has its own; leave it out"
        )
    require_channels(len(several), channels, len(fusion.absent))
    if all(isinstance(one, str | os.PathLike) for one in several):
        paths = [Path(one) for one in several]
        return prepare_volume(paths, ready, channels, fusion), several[0]
    if not all(isinstance(one, SimpleITK.Image) for one in several):
        what = next(one for one in several if not isinstance(one, SimpleITK.Image))
        move = ""
        if hasattr(what, "__array__") or hasattr(what, "get_fdata"):
            move = "; give it as a numpy array (D, H, W) with its spacing, or as the path of a file"
        raise UserError(f"{_kind(what)} was given; {TAKES}{move}")
    there = [i for i in range(channels) if i not in fusion.absent]
    names = [f"image {i}" if channels > 1 else "the image" for i in there]
    images = tuple(image_of_sitk(one, name) for one, name in zip(several, names, strict=True))
    return prepare_images(images, names, ready, fusion), several[0]


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
