"""nnU-Net's way from a volume to the slices that its 2-D network takes, and back to a mask.

The order is nnU-Net's: transpose, crop to the box of what is not zero, normalise, and only then
resample within slices. :mod:`lmaunet.data.nnunet_windows` covers the slices with the network. Way
back: logits are resampled, the largest is the class, crop and transposition are undone. The tests
hold each step to arrays that nnunetv2 computed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmaunet.data.nnunet_recipe import ChannelRecipe, NnunetRecipe, Resampling
from lmaunet.data.nnunet_resampling import resize, resize_axis, resized_shape, separate_axis
from lmaunet.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Box = tuple[slice, slice, slice]
LARGEST_SIDE = 4096
"""Of a slice at the network's spacing, in pixels."""
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


@dataclass(frozen=True)
class Normaliser:
    """What is done to the values of a channel: clipped, less ``shift``, over ``scale``, float32.

    Args:
        shift, scale: in the channel's values.
        clip: the least and the largest value that stays; None for all.
        masked: whether what is outside the mask stays as it is.
    """

    shift: float = 0.0
    scale: float = 1.0
    clip: tuple[float, float] | None = None
    masked: bool = False

    def __call__(self, values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return values of any shape as the network takes them; ``mask`` is what is inside."""
        import numpy as np

        given = values.astype(np.float32)
        found = given if self.clip is None else np.clip(given, *self.clip)
        found = (found - np.float32(self.shift)) / np.float32(self.scale)
        return np.where(mask, found, given) if self.masked and mask is not None else found


def normaliser(volume: np.ndarray, recipe: ChannelRecipe, mask: np.ndarray | None) -> Normaliser:
    """Return what normalises a cropped channel, by the statistics that its scheme needs.

    Args:
        volume: the channel ``(z, y, x)``, as in the file; it is read slice by slice.
        recipe: by its scheme: a z-score of the volume, or of the voxels of the mask, the others
            left as they are; of CT the values between two percentiles of training less their mean,
            over their deviation; nothing; the least value to 0 and the largest to 1; or 0..255 to
            0..1.
        mask: what is inside, ``(z, y, x)``, where ``recipe.masked``.

    Raises:
        UserError: for values that are no colours where the scheme is for such.
    """
    scheme = recipe.scheme
    if scheme == "ZScoreNormalization":
        masked = recipe.masked and mask is not None
        mean, deviation = _moments(volume, mask if masked else None)
        return Normaliser(mean, max(deviation, LEAST_DEVIATION), masked=masked)
    if scheme == "CTNormalization":
        known = recipe.fingerprint
        return Normaliser(
            known["mean"], max(known["std"], LEAST_DEVIATION),
            (known["percentile_00_5"], known["percentile_99_5"]),
        )  # fmt: skip
    if scheme == "NoNormalization":
        return Normaliser()
    low, high = float(volume.min()), float(volume.max())
    if scheme == "RescaleTo01Normalization":
        return Normaliser(low, max(high - low, LEAST_DEVIATION))
    if low < 0 or high > 255:
        raise UserError(
            f"values from {low:g} to {high:g}; the network was trained on colours, expected 0 to "
            "255; give the image in these"
        )
    return Normaliser(scale=255.0)


def _moments(volume: np.ndarray, mask: np.ndarray | None) -> tuple[float, float]:
    """Return mean and deviation of a volume, or of what is inside a mask; 0 and 1 of nothing."""
    import numpy as np

    def parts() -> Iterator[np.ndarray]:
        for at, image in enumerate(volume):
            yield np.asarray(image if mask is None else image[mask[at]], np.float64)

    count = volume.size if mask is None else int(np.count_nonzero(mask))
    if not count:
        return 0.0, 1.0
    mean = sum(float(part.sum()) for part in parts()) / count
    square = sum(float(((part - mean) ** 2).sum()) for part in parts()) / count
    return mean, square**0.5


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

    def ranges(self, images: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the least and the largest values that a cubic spline through a volume, given as
        its slices ``(y, x)``, is clipped to, for ``__call__``: of the volume, or of each section
        across an axis in the slice that is resampled apart. None where each slice is clipped to its
        own, or nothing is.
        """
        import numpy as np

        if self.how.order < 3 or self.apart == 0:
            return None
        axis = None if self.apart is None else 2 - self.apart
        found: tuple[np.ndarray, np.ndarray] | None = None
        for image in images:
            low, high = (
                np.asarray(extreme(image, axis=axis, keepdims=True)) for extreme in (np.min, np.max)
            )
            if found is not None:
                low, high = np.minimum(low, found[0]), np.maximum(high, found[1])
            found = low, high
        return found

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

    Slices are normalised and resampled as they are asked for: beside the image itself only the mask
    of a masked normalization is kept.

    Args:
        channels: as in the file, each ``(z, y, x)``, transposed and cropped.
        normalisers: what is done to the values of each.
        filled: what is inside, bool ``(z, y, x)``, where a normalization asks; None else.
        box: where they lie in the transposed image.
        shape: of the transposed image.
        recipe: the network's.
        forth, back: how slices are resampled, and how logits are.
    """

    channels: tuple[np.ndarray, ...]
    normalisers: tuple[Normaliser, ...]
    filled: np.ndarray | None
    box: Box
    shape: tuple[int, ...]
    recipe: NnunetRecipe
    forth: PlaneResampling
    back: PlaneResampling

    def __len__(self) -> int:
        return len(self.channels[0])

    def _normalised(self, channel: int, at: int) -> np.ndarray:
        inside = None if self.filled is None else self.filled[at]
        return self.normalisers[channel](self.channels[channel][at], inside)

    @functools.cached_property
    def _ranges(self) -> list[tuple[np.ndarray, np.ndarray] | None]:
        if self.forth.shape == self.forth.wanted:
            return [None] * len(self.channels)
        return [
            self.forth.ranges(self._normalised(channel, at) for at in range(len(self)))
            for channel in range(len(self.channels))
        ]

    def images(self, start: int, stop: int) -> np.ndarray:
        """Return slices ``start`` to ``stop`` of the crop: float32 ``(n, channels, H, W)``."""
        import numpy as np

        return np.stack([
            np.stack([
                self.forth(self._normalised(channel, at), known)
                for channel, known in enumerate(self._ranges)
            ])
            for at in range(start, stop)
        ])  # fmt: skip

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return logits ``(n, classes, H, W)`` on the crop's grid, ``(n, classes, y, x)``."""
        import numpy as np

        return np.stack([np.stack([self.back(of_class) for of_class in one]) for one in logits])

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Return the classes ``(n, y, x)`` in the crop of logits ``(n, classes, H, W)``."""
        import numpy as np

        # an image at a time: all of its classes' logits are large
        return np.stack([self.logits(one[None])[0].argmax(0) for one in logits])

    def within(self, output: np.ndarray) -> np.ndarray:
        """Return a view of the crop's slices in an array ``(..., z, y, x)`` in the file's axes."""
        lead = output.ndim - 3
        turned = output.transpose([*range(lead), *(lead + axis for axis in self.recipe.transpose)])
        return turned[..., *self.box]

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Return the mask of the image, in its file's axes; 0, the background, outside the crop.

        Args:
            labels: the classes of all slices of the crop ``(z, y, x)``.
        """
        import numpy as np

        mask = np.zeros([self.shape[axis] for axis in self.recipe.transpose_back], labels.dtype)
        self.within(mask)[:] = labels
        return mask


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
    masked = any(channel.masked for channel in recipe.channels)
    # holes are those of the whole image: what the crop's faces touch is open there too
    mask = filled_mask(volumes)[box] if masked else None
    cropped = tuple(volume[box] for volume in volumes)
    normalisers = tuple(
        normaliser(volume, how, mask) for volume, how in zip(cropped, recipe.channels, strict=True)
    )
    wanted = [spacing[0], *recipe.spacing_mm]
    height, width = cropped[0].shape[1:]
    exact = [n * a / b for n, a, b in zip((height, width), spacing[1:], wanted[1:], strict=True)]
    if (
        max(exact) > LARGEST_SIDE
        or min(sides := resized_shape((height, width), spacing[1:], wanted[1:])) < 1
    ):
        raise UserError(
            f"slices of {height}x{width} at {spacing[1]:g}x{spacing[2]:g} mm are "
            f"{exact[0]:.3g}x{exact[1]:.3g} pixels at the network's {wanted[1]:g}x{wanted[2]:g} "
            f"mm; expected 1 to {LARGEST_SIDE}; correct the spacing in the file"
        )
    here, there = (height, width), (sides[0], sides[1])
    return NnunetVolume(
        cropped, normalisers, mask, box, volumes[0].shape, recipe,
        PlaneResampling.of(here, there, spacing, wanted, recipe.images),
        PlaneResampling.of(there, here, wanted, spacing, recipe.logits),
    )  # fmt: skip
