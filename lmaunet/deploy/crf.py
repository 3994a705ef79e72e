"""Labels of least energy without strokes: a conditional random field on a network's probabilities.

    E(f) = sum_p -log share_p(f_p) + strength * sum_pq w_pq [f_p != f_q]

by alpha-expansion (Boykov, Veksler and Zabih, PAMI 2001): for each class in turn the best set of
voxels that change to it, a minimum cut, until none changes. Slice by slice, so that memory
does not grow with their number; the weights are those of :mod:`lmaunet.deploy.graph_cut`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmaunet.data.images.volumes import read_pixels
from lmaunet.data.preparation import ReadyVolume
from lmaunet.deploy.graph_cut import ends, minimum_cut, neighbour_weights

if TYPE_CHECKING:
    import numpy as np

STRENGTH_MM, SIGMA = 8.0, 0.5
"""Chosen on training patients (docs/correction.md)."""
SWEEPS = 3
LEAST_SHARE = 1e-4


def expand(shares: np.ndarray, weights: Sequence[np.ndarray], sweeps: int = SWEEPS) -> np.ndarray:
    """Return labels ``(z, y, x)``, from the most probable ones down to a minimum of expansions.

    Args:
        shares: probabilities ``(classes, z, y, x)``.
        weights: of neighbours along z, y and x, times their strength.
        sweeps: how often each class is tried at most.
    """
    import numpy as np

    cost = -np.log(np.maximum(shares, LEAST_SHARE))
    labels = np.argmin(cost, 0)
    for _ in range(sweeps):
        before = labels
        for alpha in range(len(cost)):
            labels = _expansion(cost, labels, weights, alpha)
        if np.array_equal(labels, before):
            break
    return labels


def _expansion(
    cost: np.ndarray, labels: np.ndarray, weights: Sequence[np.ndarray], alpha: int
) -> np.ndarray:
    """Return the labels of least energy of which each is kept or becomes ``alpha``."""
    import numpy as np

    is_alpha = labels == alpha
    gain = np.take_along_axis(cost, labels[None], 0)[0] - cost[alpha]
    halved = []
    for axis, weight in enumerate(weights):
        a, b = ends(axis)
        # two labels that differ cost w unless both become alpha: w/2 for each that is kept, and
        # w/2 where one of them is
        half = np.where((labels[a] != labels[b]) & ~is_alpha[a] & ~is_alpha[b], weight / 2, 0)
        gain[a] += half
        gain[b] += half
        halved.append(weight - half)
    return np.where(minimum_cut(gain, halved, ~is_alpha, is_alpha), alpha, labels)


def smooth(
    shares: np.ndarray,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    strength_mm: float = STRENGTH_MM,
    sigma: float = SIGMA,
) -> np.ndarray:
    """Return the labels ``(z, y, x)`` of each slice's least energy.

    Args:
        shares: probabilities ``(classes, z, y, x)``.
        image: ``(channels, z, y, x)``.
        spacing_mm: of y and x.
        strength_mm: of the neighbours' weights, which are 1/mm.
        sigma: see :func:`lmaunet.deploy.graph_cut.neighbour_weights`.
    """
    import numpy as np

    found = np.zeros(shares.shape[1:], np.uint16)
    for z in range(len(found)):
        here = (slice(None), slice(z, z + 1))
        weights = neighbour_weights(image[here], (1.0, *spacing_mm), sigma)
        found[z] = expand(shares[here], [strength_mm * weight for weight in weights])[0]
    return found


def smooth_volume(
    volume: ReadyVolume, paths: Sequence[Path], labels: np.ndarray, shares: np.ndarray
) -> int:
    """Replace a volume's labels by those of least energy; return how many voxels changed.

    Args:
        volume: the image, made ready.
        paths: its files, one for each channel.
        labels: the most probable ones, ``(z, y, x)`` in LPS; they are overwritten.
        shares: probabilities ``(classes, z, y, x)``.
    """
    import numpy as np

    image = volume.within(np.stack([read_pixels(path).array for path in paths]))
    # the network's slices may lie along another axis: their spacing is found as their pixels are
    shape, mm = volume.geometry.shape, volume.geometry.spacing_mm
    places = [
        volume.within(np.broadcast_to(_along(n, axis), shape)) for axis, n in enumerate(shape)
    ]
    spacing = [
        next(
            (
                m
                for place, m in zip(places, mm, strict=True)
                if np.diff(place[:1, :2, :2], axis=a).any()
            ),
            1.0,
        )
        for a in (1, 2)
    ]
    inside = volume.within(labels)
    found = smooth(volume.within(shares), image, spacing)
    changed = int(np.count_nonzero(found != inside))
    inside[:] = found
    return changed


def _along(count: int, axis: int) -> np.ndarray:
    """Return the index along an axis of three."""
    import numpy as np

    return np.arange(count).reshape([-1 if a == axis else 1 for a in range(3)])


def crf_note(changed: int) -> str:
    """Return what is said of it."""
    return (
        f"a conditional random field changed {changed:,} voxels, slice by slice (strength "
        f"{STRENGTH_MM:g} mm, sigma {SIGMA:g})"
    )
