"""A mask corrected by strokes that a user drew: a minimum cut for each label around its strokes.

For a label k each voxel p near its strokes is k or not, at the least

    sum_p -log q_p(x_p) + strength * sum_pq w_pq [x_p != x_q]

with the weights of :mod:`lmaunet.deploy.graph_cut`. ``q_p(k)`` is the mean of what the network and
the mask say, and moves to 1 near strokes of k, and to 0 near strokes of other labels, where the
image looks like it does under the stroke: the user draws where network and mask are wrong. A stroke
keeps its label whatever the cut says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from lmaunet.deploy.graph_cut import minimum_cut, neighbour_weights
from lmaunet.errors import UserError
from lmaunet.packages import missing_packages_named

if TYPE_CHECKING:
    import numpy as np

NO_STROKE, BACKGROUND = -1, 0
LEAST_SHARE = 1e-3
"""Of a label at a voxel, so that its logarithm is finite and a cut may go against the network."""
DOUBT = 0.2
"""The share of the other labels where there is no network and the mask alone speaks."""
MOST_VOXELS = 200_000
"""That a cut labels at once; more would take longer than a second."""
LARGEST_OPTION = 1000.0


@dataclass(frozen=True)
class CutOptions:
    """How a mask is corrected. The values were chosen on training patients (docs/correction.md).

    Args:
        margin_mm: how far from a stroke voxels may change.
        strength_mm: of the neighbours' weights, which are 1/mm: higher is smoother.
        sigma: what difference of intensities counts as an edge, in root mean squares of the
            differences between neighbours.
        reach_mm: how far from a stroke what the network and the mask say is doubted.
        trust: the network's part beside the mask's, 0 to 1.
    """

    margin_mm: float = 15.0
    strength_mm: float = 4.0
    sigma: float = 1.0
    reach_mm: float = 8.0
    trust: float = 0.5

    def __post_init__(self) -> None:
        for item in fields(self):
            value, most = getattr(self, item.name), LARGEST_OPTION
            least = 0.01 if item.name == "sigma" else 0.0
            if item.name == "trust":
                most = 1.0
            if not (math.isfinite(value) and least <= value <= most):
                raise UserError(f"{item.name} {value}; expected {least:g} to {most:g}")


@dataclass(frozen=True)
class Region:
    """Where a label's strokes were followed.

    ``box`` is a range along z, y and x, ``voxels`` how many the cut labelled, at most ``margin_mm``
    from a stroke; ``gained`` and ``lost`` count those that got the label or had it.
    """

    label: int
    box: tuple[slice, slice, slice]
    voxels: int
    margin_mm: float
    gained: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Corrected:
    """A corrected mask ``(z, y, x)``, the regions in the order of their cuts, and notes."""

    mask: np.ndarray = field(repr=False)
    regions: tuple[Region, ...]
    notes: tuple[str, ...]


@missing_packages_named()
def boxes_around(
    drawn: np.ndarray, spacing_mm: Sequence[float], margin_mm: float
) -> list[tuple[slice, slice, slice]]:
    """Return boxes that hold all within a margin of what is drawn, none touching another."""
    import numpy as np
    from scipy import ndimage

    steps = [int(min(n, margin_mm / mm)) for n, mm in zip(drawn.shape, spacing_mm, strict=True)]
    everywhere = np.ones((3, 3, 3), bool)
    # what is drawn is a small part of a large volume, and is looked for in that part alone
    where = [np.flatnonzero(drawn.any(tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if not where[0].size:
        return []
    first = [max(0, int(w[0]) - n) for w, n in zip(where, steps, strict=True)]
    last = [int(w[-1]) + n + 1 for w, n in zip(where, steps, strict=True)]
    part = drawn[tuple(map(slice, first, last))]
    boxes = ndimage.find_objects(ndimage.label(part, everywhere)[0])
    grow, count = steps, 0
    while count != len(boxes):
        count, marked = len(boxes), np.zeros(part.shape, bool)
        for box in boxes:
            grown = (slice(max(0, s.start - n), s.stop + n) for s, n in zip(box, grow, strict=True))
            marked[tuple(grown)] = True
        # boxes that meet become one, which may meet others
        boxes, grow = ndimage.find_objects(ndimage.label(marked, everywhere)[0]), [0, 0, 0]
    z, y, x = first
    return [
        (
            slice(a.start + z, a.stop + z),
            slice(b.start + y, b.stop + y),
            slice(c.start + x, c.stop + x),
        )
        for a, b, c in boxes
    ]


def correct(
    image: np.ndarray,
    mask: np.ndarray,
    strokes: np.ndarray,
    spacing_mm: Sequence[float],
    shares: np.ndarray | None = None,
    options: CutOptions | None = None,
) -> Corrected:
    """Return a mask that strokes have corrected; what is further from them than the margin stays.

    The labels are taken in ascending order, so background first, each with the mask that the ones
    before left. Strokes of background take away the labels of ``mask`` that lie under them, and
    nothing else. A voxel that loses its label gets the network's next best, or background where
    there is no network.

    Args:
        image: float32 ``(channels, z, y, x)``, finite.
        mask: labels ``(z, y, x)``.
        strokes: int ``(z, y, x)``: a label, 0 for background, -1 where nothing is drawn.
        spacing_mm: of z, y and x.
        shares: the network's probabilities ``(classes, z, y, x)``, needed near strokes only; None
            without a network.
        options: see :class:`CutOptions`.
    """
    import numpy as np

    options = options or CutOptions()
    result = np.where(strokes == NO_STROKE, mask, strokes).astype(mask.dtype)
    regions, notes = [], []
    for label in np.unique(strokes[strokes != NO_STROKE]).tolist():
        drawn = strokes == label
        under = np.setdiff1d(mask[drawn], [BACKGROUND]) if label == BACKGROUND else None
        if under is not None and not under.size:
            notes.append("the strokes of background lie on background: they change nothing")
            continue
        for box in boxes_around(drawn, spacing_mm, options.margin_mm):
            part = _Part(
                label, image[(slice(None), *box)], strokes[box], result[box], spacing_mm,
                None if shares is None else shares[(slice(None), *box)], options, under,
            )  # fmt: skip
            counts = part.cut()
            regions.append(Region(label, box, *counts))
            if counts[1] < options.margin_mm:
                notes.append(
                    f"the region around strokes of label {label} is cut to {MOST_VOXELS:,} voxels, "
                    f"within {counts[1]:.3g} mm of them; draw less at a time"
                )
    return Corrected(result, tuple(regions), tuple(notes))


@dataclass
class _Part:
    """A label's box: views into the image, the strokes, the result and the probabilities."""

    label: int
    image: np.ndarray
    strokes: np.ndarray
    result: np.ndarray
    spacing_mm: Sequence[float]
    shares: np.ndarray | None
    options: CutOptions
    under: Any = None

    def cut(self) -> tuple[int, float, int, int]:
        """Label the box's voxels; return how many, within what distance, the gained and lost."""
        import numpy as np

        own = self.strokes == self.label
        distance = self._distance(own)
        margin = self.options.margin_mm
        free = (distance <= margin) & (self.strokes == NO_STROKE)
        if self.under is not None:
            free &= np.isin(self.result, self.under)
        if np.count_nonzero(free) > MOST_VOXELS:
            # all at one distance or none, so that no order of voxels decides
            margin = float(np.partition(distance[free], MOST_VOXELS)[MOST_VOXELS])
            free &= distance < margin
        before = self.result == self.label
        share = self._share(own, distance, before)
        weights = [
            self.options.strength_mm * weight
            for weight in neighbour_weights(self.image, self.spacing_mm, self.options.sigma)
        ]
        after = minimum_cut(np.log(share) - np.log1p(-share), weights, free, before)
        gained, lost = free & after & ~before, free & before & ~after
        self.result[gained] = self.label
        self.result[lost] = self._next_best(lost)
        return int(free.sum()), margin, int(gained.sum()), int(lost.sum())

    def _distance(self, drawn: np.ndarray) -> np.ndarray:
        """Return the distance to what is drawn, in mm."""
        from scipy import ndimage

        found: np.ndarray = ndimage.distance_transform_edt(~drawn, sampling=self.spacing_mm)
        return found

    def _share(self, own: np.ndarray, distance: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Return what speaks for the label at each voxel, from 0 to 1 without either."""
        import numpy as np

        trust = self.options.trust
        if self.shares is None:
            share = np.where(before, 1 - DOUBT, DOUBT)
        else:
            share = trust * self.shares[self.label] + (1 - trust) * before
        share = share + (1 - share) * self._like(own, distance)
        others = (self.strokes != NO_STROKE) & ~own
        if others.any():
            share = share * (1 - self._like(others, self._distance(others)))
        return np.clip(share, LEAST_SHARE, 1 - LEAST_SHARE)

    def _like(self, drawn: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Return how near and how like what is drawn voxels are, 0 to 1."""
        import numpy as np

        reach = self.options.reach_mm
        if reach == 0:
            return np.zeros(drawn.shape)
        apart = np.zeros(drawn.shape)
        for channel in self.image:
            steps = [
                np.diff(channel, axis=axis) ** 2 for axis in range(3) if channel.shape[axis] > 1
            ]
            noise = np.mean([s.mean(dtype=np.float64) for s in steps]) if steps else 0.0
            spread = channel[drawn].var(dtype=np.float64) + noise
            if spread > 0:
                apart += (channel - channel[drawn].mean(dtype=np.float64)) ** 2 / spread
        return np.exp(-apart / (2 * len(self.image)) - distance**2 / (2 * reach**2))

    def _next_best(self, lost: np.ndarray) -> np.ndarray | int:
        """Return the labels of voxels that lose theirs."""
        import numpy as np

        if self.shares is None:
            return BACKGROUND
        found = self.shares[:, lost].copy()
        found[self.label] = -1
        return np.argmax(found, 0)
