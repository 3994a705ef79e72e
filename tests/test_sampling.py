import numpy as np
import pytest

from lmaunet.sampling import evenly_spread, labelled_first


@pytest.mark.parametrize(
    ("length", "count", "indices"),
    [(10, 3, [1, 5, 8]), (3, 8, [0, 1, 2]), (3, 3, [0, 1, 2]), (574, 1, [287]), (0, 4, [])],
)
def test_the_middles_of_equal_parts(length, count, indices):
    assert evenly_spread(length, count).tolist() == indices


@pytest.mark.parametrize(
    ("labelled", "count", "indices"),
    [
        ([2, 3, 9], 2, [2, 9]),
        ([2, 3, 9], 3, [2, 3, 9]),
        ([2, 3, 9], 4, [2, 3, 5, 9]),  # the middle of the seven without a label
        ([], 2, [2, 7]),
        ([2, 3, 9], 99, list(range(10))),
    ],
)
def test_slices_with_labels_are_scored_first(labelled, count, indices):
    labels = np.zeros((10, 4, 4), np.uint8)
    labels[labelled, 1, 2] = 3
    assert labelled_first(labels, count).tolist() == indices
