"""The synthetic abdomen: deterministic, like a CT in its values, and labelled synthetic."""

import dataclasses

import numpy as np
import pytest

from lmaunet.data.class_map import SYNAPSE_CLASSES
from lmaunet.data.loaders import load_phantom
from lmaunet.data.phantom import BODY, SHAPE, phantom_volume
from lmaunet.errors import UserError


@pytest.fixture(scope="module")
def volume():
    return phantom_volume(0)


@pytest.fixture(scope="module")
def data():
    return load_phantom(size=(64, 64), seed=0)


def test_it_says_that_it_is_synthetic_wherever_it_can(data):
    assert data.synthetic
    assert data.name == "phantom (synthetic)"
    assert data.label_source == "synthetic: drawn, not a patient"
    assert "nothing about patients" in data.notes[0]
    with pytest.raises(ValueError, match="is synthetic; its name and label source must say so"):
        dataclasses.replace(data, name="CT")


def test_it_is_like_the_real_volume_in_shape_and_values(volume):
    hu, labels = volume
    assert hu.shape == labels.shape == SHAPE == (112, 101, 122)
    assert (hu.dtype, labels.dtype) == (np.float32, np.uint8)
    assert -1100 < hu.min() < -1000 and 250 < hu.max() < 1000
    for part in BODY:
        if part.name in SYNAPSE_CLASSES:
            inside = hu[labels == SYNAPSE_CLASSES.index(part.name)]
            assert inside.size > 300, part.name
            assert abs(np.median(inside) - part.hu) < 30, part.name


def test_edges_mix_the_values_of_both_sides(volume):
    hu, _ = volume
    skin = hu[:, :20, 51:72]  # from air (-1000) into fat (-100)
    between = (skin > -850) & (skin < -250)
    # A line meets the skin anywhere in a voxel, and two thirds of the places mix to such a value.
    # Without partial volume none does.
    assert between.any(1).mean() == pytest.approx(2 / 3, abs=0.1)


def test_a_seed_is_one_anatomy(volume):
    again, other = phantom_volume(0), phantom_volume(1)
    assert all(np.array_equal(a, b) for a, b in zip(volume, again, strict=True))
    assert not np.array_equal(volume[1], other[1])


BLOCKS_HU = [
    [[-960.162, -595.166, -620.648, -979.178], [-403.397, -48.921, -55.815, -384.069],
     [-440.741, 48.764, 39.980, -284.735], [-985.101, -600.733, -531.909, -920.660]],
    [[-943.795, -557.736, -583.431, -966.752], [-362.081, -49.951, -36.722, -345.772],
     [-403.486, 3.184, 5.335, -253.321], [-974.365, -562.255, -494.172, -899.034]],
    [[-939.282, -553.375, -579.021, -962.255], [-349.345, 21.150, -47.569, -338.633],
     [-393.526, 83.805, 45.022, -243.540], [-970.070, -557.849, -489.674, -894.601]],
    [[-953.695, -588.449, -614.203, -972.520], [-433.082, -44.041, -158.005, -435.767],
     [-501.061, -95.933, -199.812, -380.941], [-978.483, -596.857, -527.098, -914.046]],
]  # fmt: skip


def test_the_anatomy_is_that_of_earlier_results(volume):
    """Means of blocks, to a part that the smallest organ moves by more when it moves by 1 mm.

    Results that name the phantom and its seed are of these voxels.
    """
    hu, labels = volume
    blocks = hu[:112, :100, :120].astype(np.float64).reshape(4, 28, 4, 25, 4, 30).mean((1, 3, 5))
    assert np.allclose(blocks, BLOCKS_HU, rtol=0, atol=2e-3)
    counts = [1_320_140, 1_662, 614, 3_295, 3_242, 41_496, 970, 3_160, 5_485]
    assert np.abs(np.bincount(labels.ravel()) - counts).max() <= 3  # voxels that float32 may turn


LEANS = {
    "bowel": 0.1489, "bowel gas": 5.6432, "liver": 4.1839, "stomach": -7.8665, "spleen": -15.1793,
    "pancreas": 1.3922, "right kidney": 5.8710, "left kidney": -12.4171, "gallbladder": 2.8118,
    "pelvis right": 14.9581, "pelvis left": -12.6679,
}  # fmt: skip


def test_every_part_leans_as_in_earlier_results(volume):
    """A turn by a degree hardly moves a mean: HU times y times x about the part's middle does.

    Their mean over the part's cube, in HU, where lengths are in halves of the cube's side.
    """
    axes = [(np.arange(n) - (n - 1) / 2) * 3.0 for n in SHAPE]
    leans = {}
    for part in BODY:
        if part.name in LEANS:
            reach = max(part.radii_mm)
            cube = tuple(
                slice(*np.searchsorted(axis, [middle - reach, middle + reach]))
                for axis, middle in zip(axes, part.center_mm, strict=True)
            )
            y, x = ((axes[i][cube[i]] - part.center_mm[i]) / reach for i in (1, 2))
            hu = volume[0][cube].astype(np.float64)
            leans[part.name] = float(((hu - hu.mean()) * y[:, None] * x).mean())
    assert leans == pytest.approx(LEANS, abs=3e-4)


def test_every_organ_trains_and_validates(data):
    counts = data.counts()
    for side in ("train", "val"):
        assert min(entry["pixels"] for entry in counts[side].values()) > 50
    assert data.gap == 2 and len(data.val) >= 15
    assert data.train.images.shape[1:] == (1, 64, 64)


def test_left_and_right_are_the_patients(data):
    # In LPS x grows towards the patient's left.
    column = {}
    for name in ("left kidney", "right kidney", "spleen", "liver"):
        at = np.argwhere(data.train.labels == data.classes.index(name))
        column[name] = at[:, 2].mean()
    assert column["right kidney"] < column["left kidney"]
    assert column["liver"] < column["spleen"]


def test_another_number_of_classes_is_refused():
    with pytest.raises(UserError, match=r"phantom \(synthetic\) has 9 classes .* network has 4"):
        load_phantom(size=(64, 64), classes=4)
