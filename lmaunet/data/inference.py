"""One image made ready for a trained network, and its segmentation brought back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmaunet.data import normalization as norm
from lmaunet.data.framing import Framing
from lmaunet.data.volumes import Geometry, read_image, write_labels
from lmaunet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as the network takes it.

    Args:
        images: float32 ``(n, 1, H, W)``, normalised.
        geometry: where the image lies.
        framing: how its slices were brought to the network's size.
        notes: what the user should know, such as a part that the network does not see.
    """

    images: np.ndarray
    geometry: Geometry
    framing: Framing
    notes: tuple[str, ...] = ()

    def restore(self, labels: np.ndarray) -> np.ndarray:
        """Return labels ``(n, H, W)`` of the network on the image's grid, ``(z, y, x)`` uint8."""
        import numpy as np

        return self.framing.restore(labels.astype(np.uint8))

    def write(self, path: Path, labels: np.ndarray) -> Path:
        """Write the network's labels ``(n, H, W)`` to a file that lies on the image."""
        return write_labels(path, self.restore(labels), self.geometry)


def prepare_image(
    path: Path,
    *,
    size: tuple[int, int],
    normalization: Mapping[str, Any],
    spacing_mm: Sequence[float | None],
) -> PreparedImage:
    """Read an image and make it like the slices that a network was trained on.

    Args:
        path: a NIfTI or NRRD file or a DICOM folder.
        size: height and width that the network takes.
        normalization: the dataset's, with the mean and deviation of its training slices.
        spacing_mm: the dataset's z, y, x; None or NaN in y, x where the set had none, or several,
            and then a slice that is too large is shrunk to fit.

    Raises:
        UserError: where the image cannot be used.
    """
    image, geometry = read_image(path)
    wanted = [float("nan") if s is None else float(s) for s in spacing_mm][1:]
    known = not any(math.isnan(s) for s in wanted)
    zoom = (1.0, 1.0)
    if known:
        ratio = [have / want for have, want in zip(geometry.spacing_mm[1:], wanted, strict=True)]
        if max(abs(r - 1) for r in ratio) > 0.01:
            zoom = (ratio[0], ratio[1])
    framing = Framing.of(geometry.shape[1:], size, zoom=zoom, fit=not known)
    if max(framing.scaled) > 16384:
        raise UserError(
            f"{path}: spacing {geometry.spacing_mm[1]:g} mm makes slices of "
            f"{framing.scaled[0]}x{framing.scaled[1]}; correct the spacing in the file"
        )
    notes = []
    seen = [min(1.0, want / have) for have, want in zip(framing.scaled, size, strict=True)]
    if min(seen) < 1:
        notes.append(
            f"the network sees the middle {100 * seen[0]:.0f}% of the rows and "
            f"{100 * seen[1]:.0f}% of the columns; the rest is labelled background"
        )
    unit = norm.to_unit(image, normalization)
    framed = framing.images(unit, norm.fill(unit, normalization))
    images = norm.standardize(framed, normalization)[:, None]
    return PreparedImage(images, geometry, framing, tuple(notes))
