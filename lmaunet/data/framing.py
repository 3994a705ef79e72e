"""A slice brought to the network's input size, and labels brought back.

A slice is padded or cropped around its centre; it is resampled only where a spacing asks for it,
or where cropping would cut off organs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SPACING_TOLERANCE = 0.01


def resample_in_plane(array: np.ndarray, shape: tuple[int, int], *, labels: bool) -> np.ndarray:
    """Return ``(n, H, W)`` resampled to ``shape`` in the last two axes; pixel areas stay aligned.

    Images are interpolated linearly, after a Gaussian of 0.4 output pixels where they shrink, so
    that fine noise does not alias. Labels take the nearest pixel. float32 for images; labels keep
    their type.
    """
    import numpy as np
    import SimpleITK

    if tuple(array.shape[1:]) == tuple(shape):
        return array
    n, height, width = array.shape
    step_y, step_x = height / shape[0], width / shape[1]
    image = SimpleITK.GetImageFromArray(array if labels else array.astype(np.float32))
    if not labels:
        # The filter leaves an axis of variance 0 as it is.
        variances = [(0.4 * step) ** 2 if step > 1 else 0.0 for step in (step_x, step_y)]
        image = SimpleITK.DiscreteGaussian(image, [*variances, 0.0], useImageSpacing=False)
    resampler = SimpleITK.ResampleImageFilter()
    resampler.SetSize((shape[1], shape[0], n))
    resampler.SetOutputSpacing((step_x, step_y, 1.0))
    resampler.SetOutputOrigin(((step_x - 1) / 2, (step_y - 1) / 2, 0.0))
    resampler.SetInterpolator(SimpleITK.sitkNearestNeighbor if labels else SimpleITK.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return SimpleITK.GetArrayFromImage(resampler.Execute(image))


def zoom_to(spacing_mm: Sequence[float], target_mm: Sequence[float] | None) -> tuple[float, float]:
    """Return the factors for height and width that bring a spacing (y, x) to another.

    They are 1 where no spacing is asked for, or it differs by no more than a hundredth.
    """
    if target_mm is None:
        return (1.0, 1.0)
    height, width = (have / want for have, want in zip(spacing_mm, target_mm, strict=True))
    if max(abs(height - 1), abs(width - 1)) <= SPACING_TOLERANCE:
        return (1.0, 1.0)
    return (height, width)


@dataclass(frozen=True)
class Framing:
    """How slices of one shape are brought to one size.

    Args:
        shape: height and width of the slices as read.
        size: height and width that the network takes.
        scaled: height and width after resampling, before padding or cropping.
    """

    shape: tuple[int, int]
    size: tuple[int, int]
    scaled: tuple[int, int]

    @staticmethod
    def of(
        shape: tuple[int, int],
        size: tuple[int, int],
        *,
        zoom: tuple[float, float] = (1.0, 1.0),
        fit: bool = False,
    ) -> Framing:
        """Return the framing of slices of ``shape``.

        Args:
            shape: height and width of the slices.
            size: height and width wanted.
            zoom: factors for height and width, input spacing over output spacing.
            fit: shrink further, keeping the aspect, where the slice would not fit.
        """
        height, width = shape[0] * zoom[0], shape[1] * zoom[1]
        shrink = min(1.0, size[0] / height, size[1] / width) if fit else 1.0
        scaled = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        return Framing(shape, size, scaled)

    @property
    def shrink(self) -> tuple[float, float]:
        """Output pixels per input pixel, for height and width."""
        return self.scaled[0] / self.shape[0], self.scaled[1] / self.shape[1]

    def images(self, slices: np.ndarray, fill: np.ndarray | float) -> np.ndarray:
        """Return ``(n, H, W)`` images at the network's size; padding holds ``fill``.

        ``fill`` is one number, or ``(n, 1, 1)`` for a number of each slice.
        """
        return _place(resample_in_plane(slices, self.scaled, labels=False), self.size, fill)

    def labels(self, slices: np.ndarray) -> np.ndarray:
        """Return ``(n, H, W)`` labels at the network's size; padding is background."""
        return _place(resample_in_plane(slices, self.scaled, labels=True), self.size, 0)

    def restore(self, labels: np.ndarray) -> np.ndarray:
        """Return labels ``(n, *size)`` at the shape as read; what was cropped is background."""
        return resample_in_plane(_place(labels, self.scaled, 0), self.shape, labels=True)

    def classes(self, logits: np.ndarray) -> np.ndarray:
        """Return the class of each pixel at the shape as read, ``(n, *shape)``.

        Logits ``(n, classes, *size)`` are interpolated linearly, and the largest wins: borders are
        smoother than those of labels that are enlarged. Where nothing was resampled it is argmax.
        """
        n, classes = logits.shape[:2]
        placed = _place(logits.reshape(n * classes, *self.size), self.scaled, 0)
        scaled = resample_in_plane(placed, self.shape, labels=False)
        return scaled.reshape(n, classes, *self.shape).argmax(1)


def _place(slices: np.ndarray, size: tuple[int, int], fill: np.ndarray | float) -> np.ndarray:
    import numpy as np

    out = np.empty((len(slices), *size), slices.dtype)
    out[:] = fill
    source, target = [slice(None)], [slice(None)]
    for have, want in zip(slices.shape[1:], size, strict=True):
        common = min(have, want)
        source.append(slice((have - common) // 2, (have - common) // 2 + common))
        target.append(slice((want - common) // 2, (want - common) // 2 + common))
    out[tuple(target)] = slices[tuple(source)]
    return out
