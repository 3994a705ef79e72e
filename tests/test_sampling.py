import pytest

from lmaunet.sampling import evenly_spread


@pytest.mark.parametrize(
    ("length", "count", "indices"),
    [(10, 3, [1, 5, 8]), (3, 8, [0, 1, 2]), (3, 3, [0, 1, 2]), (574, 1, [287]), (0, 4, [])],
)
def test_the_middles_of_equal_parts(length, count, indices):
    assert evenly_spread(length, count).tolist() == indices
