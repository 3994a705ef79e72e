"""Masks and strokes as labels on an image's grid, or one line that says why they are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmaunet.data.images.geometry import Geometry
from lmaunet.data.images.masks import HIGHEST_LABEL
from lmaunet.data.images.volumes import Image
from lmaunet.deploy.correction import BACKGROUND, NO_STROKE
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

WHOLE = 1e-3
"""How far from a whole number a label of a file of floats may be."""
BACKGROUND_STROKE = 255


def labels_of(image: Image, name: str) -> np.ndarray:
    """Return an image's values as labels, int32 ``(z, y, x)``.

    Raises:
        UserError: for values that are no whole numbers from 0 to 65535, to a thousandth.
    """
    import numpy as np

    array = image.array
    if array.dtype.kind not in "iufb":
        raise UserError(f"{name}: voxels of type {array.dtype}; expected whole numbers, the labels")
    whole = np.rint(array) if array.dtype.kind == "f" else array
    fits = (whole >= 0) & (whole <= HIGHEST_LABEL)
    if array.dtype.kind == "f":
        fits &= np.abs(array - whole) <= WHOLE  # NaN fits nothing
    if not fits.all():
        odd = array[~fits].ravel()[0]
        raise UserError(
            f"{name}: a voxel of {odd:g} ({np.count_nonzero(~fits)} such); expected labels, whole "
            f"numbers from 0 to {HIGHEST_LABEL}; save it without smoothing or interpolation"
        )
    return whole.astype(np.int32)


def check_grid(geometry: Geometry, name: str, image: Geometry, of_image: str) -> None:
    """Raise UserError where a mask or strokes lie on another grid than their image."""
    if geometry.same_grid(image):
        return
    if geometry.shape != image.shape:
        what = (
            f"{' x '.join(map(str, geometry.shape))} voxels, expected "
            f"{' x '.join(map(str, image.shape))}"
        )
    else:
        what = "as many voxels in another place"
    raise UserError(
        f"{name} lies on another grid than {of_image} ({what}, slices first); draw on {of_image}, "
        "or resample onto it with nearest neighbours"
    )


def known_labels(mask: np.ndarray, classes: Sequence[str] | None) -> dict[int, str]:
    """Return the organs that strokes may name: a build's classes, or the mask's labels without."""
    import numpy as np

    if classes is not None:
        return dict(list(enumerate(classes))[1:])
    return {int(label): f"label {label}" for label in np.unique(mask) if label != BACKGROUND}


def check_mask(mask: np.ndarray, name: str, classes: Sequence[str] | None) -> None:
    """Raise UserError where a mask has a label that the build does not know."""
    if classes is not None and mask.size and mask.max() >= len(classes):
        raise UserError(
            f"{name} holds label {mask.max()}; the build knows 0 to {len(classes) - 1} "
            f"({', '.join(classes)}); give the build that made it"
        )


def strokes_of(
    scribbles: np.ndarray, name: str, known: dict[int, str], background: int, built: bool
) -> np.ndarray:
    """Return strokes: a label, 0 for background, -1 where nothing is drawn.

    Args:
        scribbles: the file's values: 0 where nothing is drawn.
        name: what they are called in messages.
        known: the organs.
        background: the value that stands for background.
        built: whether a build says what is known.

    Raises:
        UserError: where nothing is drawn, or a value is unknown or stands for two things.
    """
    import numpy as np

    if not 0 < background <= HIGHEST_LABEL or background in known:
        taken = f"is {known[background]}" if background in known else "is no label"
        raise UserError(
            f"--background {background} {taken}; name a value from 1 to {HIGHEST_LABEL} that no "
            "organ has"
        )
    drawn = np.unique(scribbles)
    drawn = drawn[drawn != 0]
    if not drawn.size:
        raise UserError(
            f"{name} holds no stroke: all voxels are 0; draw an organ's label, or {background} for "
            "background"
        )
    unknown = [value for value in drawn.tolist() if value not in known and value != background]
    if unknown:
        organs = ", ".join(f"{k} {v}" if built else str(k) for k, v in known.items()) or "no organ"
        knows = "the build" if built else "the mask"
        more = "" if built else "; --build names a network's other organs"
        raise UserError(
            f"{name} holds {unknown[0]} ({np.count_nonzero(scribbles == unknown[0])} voxels); "
            f"{knows} knows {organs}, and {background} is background{more}"
        )
    strokes = np.where(scribbles == 0, NO_STROKE, scribbles)
    return np.where(scribbles == background, BACKGROUND, strokes).astype(np.int32)
