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
SIDE_DECIMALS = 3
"""Of a pixel: what is less in the length of a side is float32's rounding of a spacing, up to 2.5e-4
of 4096 pixels."""


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


@dataclass(frozen=True, eq=False)
class AxisOperator:
    """What :func:`resample_in_plane` does to one axis of images: a weighted sum of neighbours.

    Args:
        first: ``(want,)``, the first pixel that each new one depends on.
        weights: float32 ``(want, taps)``, of that one and those after it.
    """

    first: np.ndarray
    weights: np.ndarray

    @staticmethod
    def of(have: int, want: int) -> AxisOperator:
        """Return the operator from ``have`` pixels to ``want``, read off unit impulses.

        That shows all of it, because resampling is linear and treats the axes apart. It differs
        from the filter by float32's rounding, and takes a fraction of its time.
        """
        import numpy as np

        impulses = np.eye(have, dtype=np.float32)[None]
        matrix = resample_in_plane(impulses, (want, have), labels=False)[0]
        used = matrix != 0
        begin, end = used.argmax(1), have - used[:, ::-1].argmax(1)
        taps = int((end - begin).max())
        first = np.minimum(begin, have - taps)
        columns = first[:, None] + np.arange(taps)
        return AxisOperator(first, np.take_along_axis(matrix, columns, 1))

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Return float32 images ``(n, have, W)`` with the rows resampled, ``(n, want, W)``."""
        import numpy as np

        out = np.zeros((len(images), len(self.first), images.shape[2]), np.float32)
        # no matrix product: where cores are busy, BLAS's threads wait for each other (for four
        # slices of 512x512 to 120x120 190 ms on two cores, 4 ms by one thread, 3 ms by this)
        for tap, weights in enumerate(self.weights.T):
            out += weights[:, None] * images[:, self.first + tap]
        return out


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
        # a spacing of 1.9999999999999996 mm is 2 mm: half a pixel goes the same way for both
        exact = (round(height * shrink, SIDE_DECIMALS), round(width * shrink, SIDE_DECIMALS))
        scaled = (max(1, round(exact[0])), max(1, round(exact[1])))
        return Framing(shape, size, scaled)

    @property
    def shrink(self) -> tuple[float, float]:
        """Output pixels per input pixel, for height and width."""
        return self.scaled[0] / self.shape[0], self.scaled[1] / self.shape[1]

    def images(
        self,
        slices: np.ndarray,
        fill: np.ndarray | float,
        operators: tuple[AxisOperator, AxisOperator] | None = None,
    ) -> np.ndarray:
        """Return ``(n, H, W)`` images at the network's size; padding holds ``fill``.

        ``fill`` is one number, or ``(n, 1, 1)`` for a number of each slice. ``operators`` are what
        :meth:`operators` returned, where many slices come after each other.
        """
        import numpy as np

        if operators is None:
            scaled = resample_in_plane(slices, self.scaled, labels=False)
        else:
            height, width = operators
            turned = np.ascontiguousarray(height.rows(slices).swapaxes(1, 2))
            scaled = width.rows(turned).swapaxes(1, 2)
        return _place(scaled, self.size, fill)

    def operators(self) -> tuple[AxisOperator, AxisOperator] | None:
        """Return what resamples height and width; None where nothing is resampled."""
        if self.shape == self.scaled:
            return None
        height, width = map(AxisOperator.of, self.shape, self.scaled)
        return height, width

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
        if self.shape == self.scaled:
            return self._uncovered(logits).argmax(1)
        if min(self.shape[0] - self.scaled[0], self.shape[1] - self.scaled[1]) >= 0:
            return enlarged_classes(self._uncovered(logits), self.shape)
        return self.logits(logits).argmax(1)

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return logits ``(n, classes, *size)`` at the shape as read, ``(n, classes, *shape)``.

        They are interpolated linearly; the largest is the class that :meth:`classes` returns, but
        for ties to float32's rounding.
        """
        placed = self._uncovered(logits)
        if self.shape == self.scaled:
            return placed
        n, classes = placed.shape[:2]
        flat = placed.reshape(n * classes, *self.scaled)
        return resample_in_plane(flat, self.shape, labels=False).reshape(n, classes, *self.shape)

    def _uncovered(self, logits: np.ndarray) -> np.ndarray:
        """Return logits ``(n, classes, *size)`` without the padding, ``(n, classes, *scaled)``."""
        n, classes = logits.shape[:2]
        placed = _place(logits.reshape(n * classes, *self.size), self.scaled, 0)
        return placed.reshape(n, classes, *self.scaled)


def enlarged_classes(logits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the largest class ``(n, *shape)`` of logits ``(n, classes, H, W)`` that are enlarged.

    It is that of linear interpolation. A pixel whose four neighbours have one class gets it, as
    every mean of theirs would say; so only pixels at borders of classes are interpolated.
    """
    import numpy as np

    (top, down), (left, right) = (
        _neighbours(want, have) for want, have in zip(shape, logits.shape[2:], strict=True)
    )
    bottom, beside = (
        np.minimum(first + 1, have - 1)
        for first, have in zip((top, left), logits.shape[2:], strict=True)
    )
    coarse = logits.argmax(1)
    classes = coarse[:, top][:, :, left]
    same = np.ones(coarse.shape, bool)  # of a pixel and those below, beside and across
    same[:, :-1] &= coarse[:, :-1] == coarse[:, 1:]
    same[:, :, :-1] &= coarse[:, :, :-1] == coarse[:, :, 1:]
    same[:, :-1, :-1] &= coarse[:, :-1, :-1] == coarse[:, 1:, 1:]
    z, y, x = np.nonzero(~same[:, top][:, :, left])
    mixed = np.zeros((len(z), logits.shape[1]), np.float32)
    for row, down_share in ((top[y], 1 - down[y]), (bottom[y], down[y])):
        for column, right_share in ((left[x], 1 - right[x]), (beside[x], right[x])):
            share = (down_share * right_share).astype(np.float32)
            mixed += share[:, None] * logits[z, :, row, column]
    classes[z, y, x] = mixed.argmax(1)
    return classes


def _neighbours(want: int, have: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each of ``want`` pixels over ``have``, the pixel before it and the share after.

    Pixel areas stay aligned; beyond the outer pixels' centres theirs hold.
    """
    import numpy as np

    place = np.clip((np.arange(want) + 0.5) * have / want - 0.5, 0, have - 1)
    before = np.floor(place).astype(int)
    return before, place - before


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
