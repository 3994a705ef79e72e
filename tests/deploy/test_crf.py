"""Alpha-expansion beside all labellings, and a CRF of a volume slice by slice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lmaunet.deploy import crf
from lmaunet.deploy.crf import LEAST_SHARE, expand, smooth
from lmaunet.deploy.graph_cut import neighbour_weights


def energy(labels, shares, weights):
    cost = -np.log(np.maximum(shares, LEAST_SHARE))
    total = np.take_along_axis(cost, labels[None], 0).sum()
    for axis, weight in enumerate(weights):
        moved = np.moveaxis(labels, axis, 0)
        total += (np.moveaxis(weight, axis, 0) * (moved[1:] != moved[:-1])).sum()
    return total


def problems():
    rng = np.random.default_rng(1)
    for _ in range(12):
        shape = (1, 2, 3)
        shares = np.moveaxis(rng.dirichlet(np.ones(3), shape), -1, 0)
        image = rng.normal(0, 1, (1, *shape))
        yield shares, [2 * rng.random() * w for w in neighbour_weights(image, (1, 1, 1), 1.0)]


def not_least(find):
    """How many problems have a labelling an expansion away that is better, or began with one."""
    count = 0
    for shares, weights in problems():
        found = find(shares, weights)
        best = energy(found, shares, weights)
        start = energy(np.argmax(shares, 0), shares, weights)
        moves = (
            np.where(np.reshape(bits, found.shape), alpha, found)
            for alpha in range(3)
            for bits in itertools.product((False, True), repeat=found.size)
        )
        least = min(start, *(energy(move, shares, weights) for move in moves))
        count += least < best - 2e-3
    return count


def test_no_expansion_makes_it_better():
    assert not_least(lambda shares, weights: expand(shares, weights, 10)) == 0


def test_a_wrong_expansion_is_noticed(monkeypatch):
    assert not_least(lambda shares, weights: np.argmax(shares, 0)) > 3
    cut = crf.minimum_cut
    monkeypatch.setattr(crf, "minimum_cut", lambda gain, *rest: cut(gain / 3, *rest))
    assert not_least(lambda shares, weights: expand(shares, weights, 10)) > 0


def test_two_classes_have_the_least_energy_of_all():
    for shares, weights in problems():
        two = shares[:2] / shares[:2].sum(0)
        found = energy(expand(two, weights), two, weights)
        every = (
            energy(np.reshape(bits, two.shape[1:]), two, weights)
            for bits in itertools.product((0, 1), repeat=two[0].size)
        )
        assert found <= min(every) + 2e-3


def test_without_strength_it_is_the_most_probable_class():
    rng = np.random.default_rng(0)
    shares = np.moveaxis(rng.dirichlet(np.ones(5), (3, 9, 8)), -1, 0)
    image = rng.normal(size=(2, 3, 9, 8))
    assert np.array_equal(smooth(shares, image, (1.0, 1.0), 0.0), np.argmax(shares, 0))


def test_specks_go_where_the_image_has_no_edge_and_stay_where_it_has():
    shares = np.full((2, 1, 12, 12), 0.2)
    shares[0] = 0.8
    shares[:, 0, 4:6, 4:6] = [[[0.4]], [[0.6]]]
    flat = np.zeros((1, 1, 12, 12))
    assert not smooth(shares, flat, (1.0, 1.0), 1.0, 1.0).any()
    edge = flat.copy()
    edge[0, 0, 4:6, 4:6] = 100
    assert smooth(shares, edge, (1.0, 1.0), 1.0, 0.5).sum() == 4


@pytest.mark.parametrize("z", [0, 2])
def test_a_slice_knows_nothing_of_another(z):
    rng = np.random.default_rng(0)
    shares = np.moveaxis(rng.dirichlet(np.ones(3), (3, 10, 10)), -1, 0)
    image = rng.normal(size=(1, 3, 10, 10))
    whole = smooth(shares, image, (1.0, 2.0))
    part = smooth(shares[:, z : z + 1], image[:, z : z + 1], (1.0, 2.0))
    assert np.array_equal(whole[z : z + 1], part)
