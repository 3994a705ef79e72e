"""nnU-Net's way from a volume to the slices that its 2-D network takes, and back to a mask.

The order is nnU-Net's: transpose, crop to the box of what is not zero, normalise, and only then
resample within slices. :mod:`lmaunet.data.nnunet_windows` covers the slices with the network. Way
back: logits are resampled, the largest is the class, crop and transposition are undone. The tests
hold each step to arrays that nnunetv2 computed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe, Resampling
from lmaunet.data.nnunet_resampling import resize, resize_axis, resized_shape, separate_axis
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Box = tuple[slice, slice, slice]
LEAST_DEVIATION = 1e-8
"""What a deviation of less is taken for, so that an image of one value becomes zeros."""


def nonzero_box(channels: Sequence[np.ndarray]) -> Box:
    """Return the box around the voxels where any channel is not 0; all of it where none is.

    Args:
        channels: volumes ``(z, y, x)``. Holes inside play no part in a box.
    """
    import numpy as np

    shape, box = channels[0].shape, []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        shows = np.zeros(shape[axis], bool)
        for channel in channels:
            shows |= channel.any(axis=others)
        seen = np.flatnonzero(shows)
        box.append(slice(int(seen[0]), int(seen[-1]) + 1) if seen.size else slice(0, shape[axis]))
    return box[0], box[1], box[2]


def filled_mask(channels: Sequence[np.ndarray]) -> np.ndarray:
    """Return where any channel is not 0, with holes filled: bool ``(z, y, x)``.

    A hole is a group of zero voxels, neighbours by their faces, that no face of the volume touches;
    in a volume of one slice there are none.
    """
    import numpy as np
    import SimpleITK

    mask = np.zeros(channels[0].shape, np.uint8)
    for channel in channels:
        mask |= channel != 0
    filled = SimpleITK.BinaryFillhole(SimpleITK.GetImageFromArray(mask), foregroundValue=1)
    return SimpleITK.GetArrayFromImage(filled).astype(bool)


def normalise(volume: np.ndarray, recipe: ChannelRecipe, mask: np.ndarray | None) -> np.ndarray:
    """Return a cropped channel ``(z, y, x)`` with its values as the network takes them, float32.

    Args:
        volume: the channel, as in the file.
        recipe: by its scheme: a z-score of the volume, or of the voxels of the mask, the others
            left as they are; of CT the values between two percentiles of training less their mean,
            over their deviation; nothing; the least value to 0 and the largest to 1; or 0..255 to
            0..1.
        mask: what is inside, where ``recipe.masked``.

    Raises:
        UserError: for values that are no colours where the scheme is for such.
    """
    import numpy as np

    values = volume.astype(np.float32)
    scheme = recipe.scheme
    if scheme == "ZScoreNormalization":
        inside = mask if recipe.masked and mask is not None else np.s_[:, :, :]
        part = values[inside]
        if part.size:
            values[inside] = (part - part.mean()) / max(part.std(), LEAST_DEVIATION)
    elif scheme == "CTNormalization":
        known = recipe.fingerprint
        np.clip(values, known["percentile_00_5"], known["percentile_99_5"], out=values)
        values -= known["mean"]
        values /= max(known["std"], LEAST_DEVIATION)
    elif scheme == "RescaleTo01Normalization":
        values -= values.min()
        values /= max(values.max(), LEAST_DEVIATION)
    elif scheme == "RGBTo01Normalization":
        if values.min() < 0 or values.max() > 255:
            raise UserError(
                f"values from {values.min():g} to {values.max():g}; the network was trained on "
                "colours, expected 0 to 255; give the image in these"
            )
        values /= 255.0
    return values


@dataclass(frozen=True, eq=False)
class PlaneResampling:
    """How slices of a volume are resampled one by one, as nnU-Net resamples the volume.

    Args:
        shape: height and width now.
        wanted: height and width wanted.
        apart: the volume's axis that is resampled apart (:func:`separate_axis`): 0 across slices, 1
            or 2 their rows or columns; None for no such.
        how: the orders.
    """

    shape: tuple[int, int]
    wanted: tuple[int, int]
    apart: int | None
    how: Resampling

    @staticmethod
    def of(
        shape: tuple[int, int],
        wanted: tuple[int, int],
        spacing: Sequence[float],
        wanted_spacing: Sequence[float],
        how: Resampling,
    ) -> PlaneResampling:
        """Return the resampling between two spacings ``(z, y, x)`` in mm, z the same in both."""
        return PlaneResampling(
            shape, wanted, separate_axis(spacing, wanted_spacing, how.force), how
        )

    def ranges(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the least and the largest values that a cubic spline through ``(z, y, x)`` is
        clipped to, for ``__call__``: of the volume, or of each section across an axis in the slice
        that is resampled apart. None where each slice is clipped to its own, or nothing is.
        """
        if self.how.order < 3 or self.apart == 0:
            return None
        axes = tuple(axis for axis in range(3) if axis != self.apart)
        keep = self.apart is not None
        low, high = volume.min(axes, keepdims=keep), volume.max(axes, keepdims=keep)
        return (low[0], high[0]) if keep else (low, high)

    def __call__(
        self, image: np.ndarray, ranges: tuple[np.ndarray, np.ndarray] | None = None
    ) -> np.ndarray:
        """Return a slice ``(y, x)`` resampled, in its own type; as it is where sizes are equal."""
        if self.shape == self.wanted:
            return image
        sides = list(self.wanted)
        if self.apart in (1, 2):
            sides[self.apart - 1] = self.shape[self.apart - 1]
        found = resize(image, sides, self.how.order, ranges)
        if self.apart in (1, 2):
            axis = self.apart - 1
            if self.shape[axis] != self.wanted[axis]:
                found = resize_axis(found, axis, self.wanted[axis], self.how.order_apart)
        return found.astype(image.dtype)


@dataclass(frozen=True, eq=False)
class NnunetVolume:
    """An image that gives the slices that the network takes, and takes its logits back.

    Args:
        values: normalised, float32 ``(channels, z, y, x)``, transposed and cropped.
        box: where they lie in the transposed image.
        shape: of the transposed image.
        recipe: the network's.
        forth, back: how slices are resampled, and how logits are.
    """

    values: np.ndarray
    box: Box
    shape: tuple[int, ...]
    recipe: NnunetRecipe
    forth: PlaneResampling
    back: PlaneResampling

    def __len__(self) -> int:
        return self.values.shape[1]

    @functools.cached_property
    def _ranges(self) -> list[tuple[np.ndarray, np.ndarray] | None]:
        return [self.forth.ranges(channel) for channel in self.values]

    def images(self, start: int, stop: int) -> np.ndarray:
        """Return slices ``start`` to ``stop`` of the crop: float32 ``(n, channels, H, W)``."""
        import numpy as np

        return np.stack([
            np.stack([
                self.forth(channel[at], known)
                for channel, known in zip(self.values, self._ranges, strict=True)
            ])
            for at in range(start, stop)
        ])  # fmt: skip

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Return the classes ``(n, y, x)`` in the crop of logits ``(n, classes, H, W)``."""
        import numpy as np

        found = [np.stack([self.back(of_class) for of_class in image]) for image in logits]
        return np.stack([image.argmax(0) for image in found])

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Return the mask of the image, in its file's axes; 0, the background, outside the crop.

        Args:
            labels: the classes of all slices of the crop ``(z, y, x)``.
        """
        import numpy as np

        mask = np.zeros(self.shape, labels.dtype)
        mask[self.box] = labels
        return mask.transpose(self.recipe.transpose_back)


def prepare(
    channels: Sequence[np.ndarray], spacing_mm: Sequence[float], recipe: NnunetRecipe
) -> NnunetVolume:
    """Make an image ready for a network.

    Args:
        channels: one volume for each channel, axes as nnU-Net's reader has them: those of the file,
            the last one first.
        spacing_mm: of these axes.
        recipe: the network's.

    Raises:
        UserError: for another number of channels than the recipe's, or values that do not fit it.
    """
    import numpy as np

    if len(channels) != len(recipe.channels):
        raise UserError(
            f"{len(channels)} image(s); the network takes {len(recipe.channels)} channel(s): give "
            "one for each, in the order of dataset.json"
        )
    volumes = [np.asarray(channel).transpose(recipe.transpose) for channel in channels]
    spacing = [float(spacing_mm[axis]) for axis in recipe.transpose]
    box = nonzero_box(volumes)
    cropped = [volume[box] for volume in volumes]
    masked = any(channel.masked for channel in recipe.channels)
    # holes are those of the whole image: what the crop's faces touch is open there too
    mask = filled_mask(volumes)[box] if masked else None
    values = np.stack([
        normalise(volume, how, mask) for volume, how in zip(cropped, recipe.channels, strict=True)
    ])  # fmt: skip
    wanted = [spacing[0], *recipe.spacing_mm]
    height, width = values.shape[2:]
    _, *sides = resized_shape(values.shape[1:], spacing, wanted)
    if min(sides) < 1:
        raise UserError(
            f"slices of {height}x{width} at {spacing[1]:g}x{spacing[2]:g} mm have no pixel at the "
            f"network's {wanted[1]:g}x{wanted[2]:g} mm; correct the spacing in the file"
        )
    here, there = (height, width), (sides[0], sides[1])
    return NnunetVolume(
        values, box, volumes[0].shape, recipe,
        PlaneResampling.of(here, there, spacing, wanted, recipe.images),
        PlaneResampling.of(there, here, wanted, spacing, recipe.logits),
    )  # fmt: skip
