"""What a network is given in use is what it was given in training: pixel by pixel."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lmaunet.data.inference import Preparation, prepare_volume
from lmaunet.data.loaders import load

WINDOW = {"kind": "window", "low": -125, "high": 275}
ZSCORE = {"kind": "zscore"}


def make(maker, tmp_path, kind, spacings, shape):
    """Write three cases; return a data set of them and the files by their cases."""
    rng = np.random.default_rng(0)
    for number, spacing in enumerate(spacings):
        labels = np.zeros(shape, np.uint8)
        labels[:, 2:5, 3:9], labels[:, 6:9, 1:4] = 1, 2
        image = np.where(labels, 60.0, -80.0) + rng.normal(0, 60, shape)
        maker.pair(f"case{number}", labels=labels, image=image.astype(np.float32), spacing=spacing)
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": ["background", "a", "b"], "codes": {"0": 0, "1": 1, "2": 2},
                    "normalization": kind})
    )  # fmt: skip
    return tmp_path


def compare(folder, size, tolerance, **options):
    """Hold every slice of a data set against the same slice of its file, prepared for use."""
    data = load(folder, size=size, **options)
    ready = Preparation(size, data.normalization, data.resampled_mm, data.fit)
    compared = 0
    for side in (data.train, data.val):
        for case in np.unique(side.cases):
            volume = prepare_volume([folder / "images" / f"{case}.nii.gz"], ready)
            images = volume.images(0, len(volume))
            # a slice that is larger is kept whole, and training saw its middle
            top, left = ((have - want) // 2 for have, want in
                         zip(images.shape[2:], size, strict=True))  # fmt: skip
            middle = images[:, :, top : top + size[0], left : left + size[1]]
            rows = side.cases == case
            want, got = side.images[rows], middle[side.z[rows]]
            if tolerance == 0:
                assert np.array_equal(want, got)
            else:
                assert np.abs(want - got).max() <= tolerance
            compared += int(rows.sum())
    assert compared == len(data.train) + len(data.val) > 6
    return data


@pytest.mark.parametrize("kind", [WINDOW, ZSCORE], ids=["window", "zscore"])
@pytest.mark.parametrize(
    ("shape", "size"), [((9, 11, 14), (24, 20)), ((9, 11, 14), (12, 20)), ((9, 12, 22), (16, 20))],
    ids=["smaller", "of uneven edges", "wider"],
)  # fmt: skip
def test_slices_are_those_of_training_bit_for_bit(maker, tmp_path, kind, shape, size):
    """Padding too, which a z-score fills with each slice's minimum."""
    folder = make(maker, tmp_path, kind, [(3.0, 1.5, 1.0)] * 3, shape)
    data = compare(folder, size, 0, fit=False)
    assert data.resampled_mm == (1.5, 1.0)
    if kind is ZSCORE and shape[2] < size[1]:
        first = data.train.images[0, 0]
        assert (first[:, 0] == first.min()).all() and first.min() < -0.5


@pytest.mark.parametrize("kind", [WINDOW, ZSCORE], ids=["window", "zscore"])
@pytest.mark.parametrize(
    "spacings",
    [
        [(3.0, 1.5, 1.0), (3.0, 1.5, 2.0), (3.0, 1.5, 1.0)],  # only x is off
        [(3.0, 1.5, 1.0), (3.0, 3.0, 1.0), (3.0, 1.5, 1.0)],  # only y
        [(3.0, 1.5, 1.0), (3.0, 2.0, 3.0), (3.0, 1.0, 1.5)],  # y and x the other way round
    ],
)
def test_slices_of_another_spacing_are_resampled_as_in_training(maker, tmp_path, kind, spacings):
    """Operators on float32 differ from the filter by rounding; see AxisOperator."""
    folder = make(maker, tmp_path, kind, spacings, (9, 11, 14))
    data = compare(folder, (48, 64), 2e-5, fit=False)
    assert data.resampled_mm is not None and data.resampled_mm[0] != data.resampled_mm[1]


@pytest.mark.parametrize("size", [(8, 32), (24, 12), (10, 15)])
def test_slices_are_shrunk_as_in_training(maker, tmp_path, size):
    folder = make(maker, tmp_path, WINDOW, [(3.0, 1.5, 1.0)] * 3, (9, 16, 22))
    data = compare(folder, size, 2e-5, fit=True)
    assert data.fit


def test_an_organ_keeps_its_size_in_mm_along_both_axes(maker, tmp_path):
    """A square of 24 mm in pixels of 2x1 mm is a square in pixels of 3x3."""
    labels = np.zeros((2, 30, 60), np.uint8)
    labels[:, 9:21, 18:42] = 1
    image = np.where(labels, 200.0, -125.0).astype(np.float32)
    path = maker.write(tmp_path / "a.nii", image, (3.0, 2.0, 1.0))
    ready = Preparation((32, 32), {**WINDOW, "mean": 0.0, "std": 1.0}, (3.0, 3.0), False)
    volume = prepare_volume([path], ready)
    assert volume.framing.scaled == (20, 20)
    organ = volume.images(0, 1)[0, 0] > 0.4
    assert [int(organ.any(axis).sum()) for axis in (1, 0)] == [8, 8]
    assert "from 2x1 mm to the network's 3x3 mm" in volume.notes[0]


@pytest.mark.parametrize(
    ("shape", "size", "text"),
    [
        ((2, 30, 60), (32, 32), "shrunk to 16x32"),  # only the width is too large
        ((2, 60, 30), (32, 32), "shrunk to 32x16"),  # only the height
        ((2, 30, 32), (32, 32), None),
    ],
)
def test_what_is_shrunk_is_said(maker, tmp_path, shape, size, text):
    path = maker.write(tmp_path / "a.nii", np.zeros(shape, np.float32), (3.0, 1.5, 1.0))
    volume = prepare_volume([path], Preparation(size, ZSCORE, (1.5, 1.0), True))
    notes = [note for note in volume.notes if "shrunk" in note]
    assert notes == [] if text is None else text in notes[0]


@pytest.mark.parametrize(
    ("spacing", "text"),
    [
        ((3.0, 1.0, 1e3), "1x1000 mm makes slices of 4x4667"),  # only the width is too large
        ((3.0, 2e3, 1.0), "2000x1 mm makes slices of 8000x5"),
    ],
)
def test_either_side_may_be_too_large(maker, tmp_path, spacing, text):
    from lmaunet.errors import UserError

    path = maker.write(tmp_path / "a.nii", np.zeros((2, 12, 14), np.float32), spacing)
    with pytest.raises(UserError, match=text):
        prepare_volume([path], Preparation((16, 16), ZSCORE, (3.0, 3.0), False))
