"""Minimum cuts of small grids beside every labelling there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lmaunet.deploy import graph_cut
from lmaunet.deploy.graph_cut import ends, minimum_cut, neighbour_weights

SHAPES = [(1, 3, 3), (3, 3, 1), (2, 2, 2), (3, 1, 3)]


def energies(labels, gain, weights):
    """The energies of labellings ``(n, z, y, x)`` less a constant, straight from the definition."""
    total = -(gain * labels).sum((1, 2, 3))
    for axis, weight in enumerate(weights, 1):
        total += (weight * np.diff(labels.astype(int), axis=axis) ** 2).sum((1, 2, 3))
    return total


def problems(count=40):
    rng = np.random.default_rng(0)
    for turn in range(count):
        shape = SHAPES[turn % len(SHAPES)]
        gain = rng.normal(0, 1.5, shape)
        image = rng.normal(0, 1, (2, *shape))
        weights = [4 * rng.random() * w for w in neighbour_weights(image, (2.0, 1.0, 1.5), 0.8)]
        yield gain, weights, rng.random(shape) < 0.8, rng.random(shape) < 0.5


def missed(cut):
    """How many of the problems a cut does not solve, by trying all labellings."""
    count = 0
    for gain, weights, free, held in problems():
        found = cut(gain, weights, free, held)
        assert np.array_equal(found[~free], held[~free])
        every = np.repeat(held[None], 2 ** free.sum(), 0)
        every[:, free] = list(itertools.product((False, True), repeat=int(free.sum())))
        least = energies(every, gain, weights).min()
        count += energies(found[None], gain, weights)[0] > least + 2e-3  # costs are rounded to 1e-4
    return count


def test_a_cut_has_the_least_energy_of_all_labellings():
    assert missed(minimum_cut) == 0


@pytest.mark.parametrize(
    "mutant",
    [
        lambda gain, weights, free, held: minimum_cut(-gain, weights, free, held),
        lambda gain, weights, free, held: minimum_cut(gain, [0.5 * w for w in weights], free, held),
        lambda gain, weights, free, held: np.where(free, gain > 0, held),
    ],
    ids=["capacities swapped", "weights halved", "no neighbours"],
)
def test_a_cut_that_is_wrong_is_noticed(mutant):
    assert missed(mutant) > 3


def test_the_graph_alone_gives_the_same(monkeypatch):
    """Voxels that decide themselves are left out of the graph, and change nothing."""
    monkeypatch.setattr(graph_cut, "ROUNDS", 0)
    assert missed(minimum_cut) == 0


def test_a_voxel_that_decides_itself_is_never_in_the_graph(monkeypatch):
    sizes = []
    flow = graph_cut._flow
    monkeypatch.setattr(graph_cut, "_flow", lambda g, w, f: sizes.append(len(g)) or flow(g, w, f))
    gain = np.full((1, 30, 30), 9.0)
    gain[0, :, 14:16] = 0.1
    gain[0, :, 16:] = -9
    weights = neighbour_weights(np.zeros((1, 1, 30, 30)), (1, 1, 1), 1)
    found = minimum_cut(gain, weights, np.ones(gain.shape, bool), np.zeros(gain.shape, bool))
    assert np.array_equal(found, gain > 0) and sum(sizes) <= 60


def test_weights_fall_with_the_difference_and_with_the_distance():
    image = np.zeros((1, 2, 2, 4), np.float32)
    image[..., 2:] = 10
    along_z, along_y, along_x = neighbour_weights(image, (10.0, 2.0, 1.0), 0.5)
    assert np.allclose(along_z, 0.1) and np.allclose(along_y, 0.5)
    # 4 of the 12 + 8 + 8 pairs differ, by 100 where 400/28 is the mean
    edge = np.exp(-100 / (400 / 28) / (2 * 0.25))
    assert np.allclose(along_x, [1, edge, 1])
    other = np.random.default_rng(0).normal(size=image.shape)
    both = neighbour_weights(np.concatenate([image, other]), (10.0, 2.0, 1.0), 0.5)
    one, two = (neighbour_weights(i, (10.0, 2.0, 1.0), 0.5) for i in (image, other))
    for joint, a, b, mm in zip(both, one, two, (10.0, 2.0, 1.0), strict=True):
        assert np.allclose(joint * mm, np.sqrt(a * mm * b * mm), rtol=1e-4)


def test_a_scaled_image_has_the_same_weights():
    image = np.random.default_rng(0).normal(size=(1, 3, 4, 5))
    for a, b in zip(
        neighbour_weights(image, (1, 1, 1), 1), neighbour_weights(1000 * image + 7, (1, 1, 1), 1),
        strict=True,
    ):  # fmt: skip
        assert np.allclose(a, b, rtol=1e-3)


def test_ends_are_neighbours():
    index = np.arange(24).reshape(2, 3, 4)
    for axis, step in enumerate((12, 4, 1)):
        a, b = ends(axis)
        assert (index[b] - index[a] == step).all()


def test_of_several_minima_the_fewest_ones():
    weights = neighbour_weights(np.zeros((1, 1, 1, 3)), (1, 1, 1), 1)
    held = np.array([[[True, False, False]]])
    found = minimum_cut(np.zeros((1, 1, 3)), weights, np.array([[[False, True, False]]]), held)
    assert np.array_equal(found, held)
