"""The images of an elastic network's kernels: the same slices and field of view in each size."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from lmaunet.data.loaders import load_phantom
from lmaunet.deploy.elastic_data import at_size, profile_data
from lmaunet.errors import UserError
from lmaunet.spec import NetSpec

SPEC = NetSpec(
    "elastic", (4, 4, 8, 8, 8), classes=9, states=2, kernels=(9, 9, 9, 9), elastic=(5, 7, 9),
    input_size=(64, 64),
)  # fmt: skip


@pytest.fixture(scope="module")
def reference():
    return load_phantom(size=(64, 64))


def source(calls):
    def load(spec, *, spacing_mm, fit):
        calls.append((spec.kernels[0], spec.input_size, spacing_mm, fit))
        return load_phantom(size=spec.input_size, spacing_mm=spacing_mm, fit=fit)

    return SimpleNamespace(load=load)


def share(data):
    """Where the labelled pixels lie, as shares of the side: rows and columns of their centre."""
    _, rows, columns = np.nonzero(data.val.labels)
    side = data.val.labels.shape[1]
    return (rows.mean() + 0.5) / side, (columns.mean() + 0.5) / side


def test_spacing_goes_with_the_size_where_slices_are_resampled(reference):
    calls = []
    found = profile_data(source(calls), SPEC, reference)
    mm = reference.resampled_mm[0]
    assert [call[:2] for call in calls] == [(5, (48, 48)), (9, (80, 80))]
    assert [call[2] for call in calls] == pytest.approx([mm * 64 / 48, mm * 64 / 80])
    for kernel, side in ((5, 48), (7, 64), (9, 80)):
        assert found[kernel].val.images.shape[2:] == (side, side)
        assert share(found[kernel]) == pytest.approx(share(reference), abs=0.02)


def test_pixels_as_they_are_keep_the_field_of_view_in_every_size(reference):
    """A crop of 48 pixels would show less of the patient, and no other resolution."""
    plain = dataclasses.replace(reference, resampled_mm=None, fit=False)
    calls = []
    found = profile_data(source(calls), SPEC, plain)
    assert calls == [] and found[7] is plain
    filled = (plain.val.labels > 0).mean()
    for kernel, side in ((5, 48), (9, 80)):
        data = found[kernel]
        assert data.val.images.shape[2:] == data.val.labels.shape[1:] == (side, side)
        assert data.val.images.dtype == np.float32 and data.val.labels.dtype == np.uint8
        assert share(data) == pytest.approx(share(plain), abs=0.02)
        assert (data.val.labels > 0).mean() == pytest.approx(filled, rel=0.05)


def test_pixels_that_are_not_square_are_refused(reference):
    odd = dataclasses.replace(reference, resampled_mm=(1.0, 2.0))
    with pytest.raises(UserError, match="an elastic network takes square ones"):
        profile_data(source([]), SPEC, odd)


def test_labels_at_another_size():
    labels = np.array([[[1, 1], [2, 2]]], np.uint8)
    assert at_size(labels, (4, 4)).tolist() == [[[1] * 4] * 2 + [[2] * 4] * 2]
