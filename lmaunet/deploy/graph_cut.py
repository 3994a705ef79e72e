"""The minimum of a binary energy over voxels, by a minimum cut, and the weights of neighbours.

    E(x) = sum_p U_p(x_p) + sum_pq w_pq [x_p != x_q],   w_pq = exp(-d_pq / (2 sigma^2)) / spacing_pq

over voxels p and their 6 neighbours q; ``d_pq`` is the squared difference of intensities, the mean
over the channels of each one's over its mean over all pairs, and ``spacing_pq`` the distance in mm,
so that a face of a thick slice counts by its area (Boykov and Jolly, ICCV 2001; Boykov and
Kolmogorov, ICCV 2003). The cut itself is scipy's maximum flow (Dinic).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmaunet.packages import missing_packages_named

if TYPE_CHECKING:
    import numpy as np

COSTS_IN_ONE = 10_000
"""Flows are integers: a cost is rounded to this part of 1."""
LARGEST_COST = 1e5
"""So that a capacity is an int32."""
ROUNDS, FEW = 8, 0.02
"""How often voxels that decide themselves are looked for before the graph is made, and the share of
the others that makes it worth another time."""


def neighbour_weights(
    image: np.ndarray, spacing_mm: Sequence[float], sigma: float
) -> list[np.ndarray]:
    """Return the weights between neighbours along z, y and x, in 1/mm.

    Args:
        image: ``(channels, z, y, x)``, finite.
        spacing_mm: of z, y and x.
        sigma: in root mean squares of the differences between neighbours of the image.

    Returns:
        For each axis float32 of the image's shape, less one along that axis. Where an image is
        constant its differences are 0.
    """
    import numpy as np

    steps = [np.diff(image.astype(np.float32), axis=axis) ** 2 for axis in (1, 2, 3)]
    pairs = max(1, sum(step[0].size for step in steps))
    mean = sum(step.sum((1, 2, 3), dtype=np.float64) for step in steps) / pairs
    scale = np.where(mean > 0, 1 / np.where(mean > 0, mean, 1), 0).astype(np.float32)
    return [
        np.exp(-np.tensordot(scale, step, 1) / (2 * sigma**2 * len(image))) / np.float32(length)
        for step, length in zip(steps, spacing_mm, strict=True)
    ]


def ends(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the indices of the first and the second voxel of each pair along an axis."""
    first, second = [slice(None)] * 3, [slice(None)] * 3
    first[axis], second[axis] = slice(None, -1), slice(1, None)
    return tuple(first), tuple(second)


def minimum_cut(
    gain: np.ndarray, weights: Sequence[np.ndarray], free: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Return the labelling of least energy, bool ``(z, y, x)``.

    Args:
        gain: ``U_p(0) - U_p(1)``, what a voxel gains by being 1; ``(z, y, x)``.
        weights: of neighbours along each axis, as :func:`neighbour_weights` has them, times their
            strength; none is negative.
        free: the voxels that are labelled; the others keep what ``held`` says, and their
            neighbours pay for differing from it.
        held: bool; looked at where ``free`` is not.

    Of several minima it is that with the fewest ones.
    """
    import numpy as np

    free, held = free.copy(), held & ~free
    pull = np.clip(gain, -LARGEST_COST, LARGEST_COST).astype(np.float32)
    rest = np.zeros(gain.shape, np.float32)
    sides = [
        (w, *pair) for axis, w in enumerate(weights) for pair in (ends(axis), ends(axis)[::-1])
    ]
    for weight, here, _ in sides:
        rest[here] += weight
    known, label = ~free, held
    # a voxel whose own gain outweighs all its neighbours has its label in every minimum, and is
    # held from then on: few voxels of an image are left to the graph
    for _ in range(ROUNDS):
        sign = np.where(label, np.float32(1), np.float32(-1)) * known
        for weight, here, there in sides:
            pull[here] += weight * sign[there]
            rest[here] -= weight * known[there]
        known = free & (np.abs(pull) > rest + 1 / COSTS_IN_ONE)
        label = known & (pull > 0)
        held |= label
        free &= ~known
        if known.sum() <= FEW * free.sum():
            break
    sign = np.where(label, np.float32(1), np.float32(-1)) * known
    for weight, here, there in sides:
        pull[here] += weight * sign[there]
    if free.any():
        held[free] = _flow(pull[free].astype(np.float64), weights, free)
    return held


@missing_packages_named()
def _flow(gain: np.ndarray, weights: Sequence[np.ndarray], free: np.ndarray) -> np.ndarray:
    """Return which of the free voxels are 1, by the cut of a graph of them alone."""
    import numpy as np
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = len(gain)
    source, sink = count, count + 1
    number = np.full(free.shape, -1, np.int32)
    number[free] = np.arange(count, dtype=np.int32)
    tails, heads, costs = [], [], []
    for axis, weight in enumerate(weights):
        a, b = ends(axis)
        both = free[a] & free[b] & (weight > 0)
        first, second, cost = number[a][both], number[b][both], weight[both]
        tails += [first, second]
        heads += [second, first]
        costs += [cost, cost]
    ones, zeros = np.flatnonzero(gain > 0), np.flatnonzero(gain < 0)
    tails += [np.full(len(ones), source), zeros]
    heads += [ones, np.full(len(zeros), sink)]
    costs += [gain[ones], -gain[zeros]]
    capacity = np.rint(np.minimum(np.concatenate(costs), LARGEST_COST) * COSTS_IN_ONE)
    graph = csr_array(
        (capacity.astype(np.int32), (np.concatenate(tails), np.concatenate(heads))),
        shape=(count + 2, count + 2),
    )
    flow = maximum_flow(graph, source, sink, method="dinic").flow
    left = (graph - flow).tocsr()
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    label = np.zeros(count + 2, bool)
    label[reached] = True
    return label[:count]
