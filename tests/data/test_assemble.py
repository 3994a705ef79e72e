"""The spacing that slices have once they are framed: one for all, or each case's own."""

import numpy as np
import pytest

from lmaunet.data.assemble import Source, Volume, assemble
from lmaunet.data.normalization import zscore

NAN = float("nan")


def volume(case, role, shape=(12, 12), spacing=(3.0, 1.0, 1.0)):
    labels = np.zeros((4, *shape), np.uint8)
    labels[:, : shape[0] - 1, : shape[1] - 1] = 1
    rng = np.random.default_rng(len(case))
    image = rng.normal(size=labels.shape)
    return Volume(case, role, labels, (lambda: image,), spacing, keep_all=True)


def dataset(*volumes, size=(12, 12), fit=False):
    source = Source("x", "y", ("background", "a"), volumes, "", "", zscore())
    return assemble(source, size=size, fit=fit)


def test_cases_of_other_spacings_are_resampled_to_one():
    data = dataset(
        volume("a", "train"),
        volume("b", "val", spacing=(3.0, 1.5, 1.5)),
        volume("c", "val", shape=(24, 24), spacing=(3.0, 0.75, 0.75)),
    )
    assert data.spacing_mm == pytest.approx((3.0, 1.5, 1.5))
    assert set(data.case_spacing_mm) == {"b", "c"}
    for spacing in data.case_spacing_mm.values():
        assert spacing == pytest.approx((3.0, 1.5, 1.5))


def test_cases_that_are_shrunk_to_fit_keep_their_own():
    data = dataset(
        volume("a", "train"), volume("b", "val", (24, 24)), volume("c", "val", (12, 12)), fit=True
    )
    assert data.case_spacing_mm["b"] == pytest.approx((3.0, 2.0, 2.0))
    assert data.case_spacing_mm["c"] == pytest.approx((3.0, 1.0, 1.0))
    assert np.isnan(data.spacing_mm[1:]).all() and data.spacing_mm[0] == 3.0
    assert any("by each case's own" in note for note in data.notes)
    assert data.to_json()["spacing_mm"] == [3.0, None, None]


def test_an_unknown_spacing_among_known_ones_is_unknown():
    data = dataset(
        volume("a", "train"), volume("b", "val"), volume("c", "val", spacing=(NAN, NAN, NAN))
    )
    assert np.isnan(data.spacing_mm).all() and np.isnan(data.case_spacing_mm["c"]).all()
    assert data.case_spacing_mm["b"] == (3.0, 1.0, 1.0)
    assert not any("by each case's own" in note for note in data.notes)
