"""Volumes as samples: patches of neighbouring slices, and windows over a whole volume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lmaunet.data import windows
from lmaunet.data.augment import batches
from lmaunet.data.dataset import REPEATED, Dataset, SliceSet
from lmaunet.data.loaders import load
from lmaunet.data.patches import in_patches
from lmaunet.data.windows import cover_volume
from lmaunet.errors import UserError


def slice_set(numbers: dict[str, list[int]], side: int = 4) -> SliceSet:
    """Slices of cases; each pixel holds the slice's number, the label its parity."""
    cases = np.array([case for case, z in numbers.items() for _ in z])
    z = np.array([number for numbers_of in numbers.values() for number in numbers_of])
    images = np.broadcast_to(z[:, None, None, None], (len(z), 1, side, side)).astype(np.float32)
    return SliceSet(images, (images[:, 0] % 2).astype(np.uint8), cases, z)


def dataset(train: SliceSet, val: SliceSet) -> Dataset:
    return Dataset(
        "x", "y", ("background", "organ"), (5.0, 1.0, 1.0), train, val, "", False, {}, gap=2
    )


def test_patches_are_of_neighbouring_slices_of_one_case():
    train = slice_set({"a": [*range(8)], "b": [0, 1]})
    found = in_patches(dataset(train, slice_set({"c": [*range(10)]})), 4)
    assert found.train.z.tolist() == [
        [0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [0, 1, REPEATED, REPEATED]
    ]  # fmt: skip
    assert found.train.cases.tolist() == ["a", "a", "a", "b"]
    assert found.val.z.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert found.train.images.shape == (4, 1, 4, 4, 4)
    assert found.train.images[3, 0, :, 0, 0].tolist() == [0, 1, 1, 1]
    assert found.train.labels[3, :, 0, 0].tolist() == [0, 1, 1, 1]
    assert "1 patch(es) have fewer than 4 slices" in found.notes[-1]


def test_each_slice_is_scored_once():
    side = in_patches(
        dataset(slice_set({"a": [0, 1]}), slice_set({"c": [*range(10)], "d": [3]})), 4
    )
    val = side.val
    assert val.slice_z.tolist() == [*range(10), 3]
    assert val.slice_cases.tolist() == ["c"] * 10 + ["d"]
    assert val.by_slice(val.images[:, 0])[:, 0, 0].tolist() == [*range(10), 3]
    alone = slice_set({"c": [4, 5]})
    assert alone.by_slice(alone.labels) is alone.labels


def test_no_patch_reaches_over_a_gap_and_a_single_slice_beside_a_block_is_left_out():
    train = slice_set({"a": [0, 8, 9, 10, 11, 12, 30, 31, 32]})
    found = in_patches(dataset(train, slice_set({"a": [20, 21, 22, 23]})), 4).train
    assert found.z.tolist() == [
        [8, 9, 10, 11], [9, 10, 11, 12], [30, 31, 32, REPEATED]
    ]  # fmt: skip


def test_slices_that_nnunet_prepares_are_refused():
    data = dataset(slice_set({"a": [0, 1]}), slice_set({"c": [0, 1]}))
    object.__setattr__(data, "recipe", object())
    with pytest.raises(UserError, match="nnU-Net's recipe, which gives slices"):
        in_patches(data, 2)


def test_arrays_become_patches_of_a_case_each(tmp_path):
    rng = np.random.default_rng(0)
    for role, patients in (("train", (1, 2)), ("val", (3,))):
        patient = np.repeat(patients, 5)
        np.savez(
            tmp_path / f"set_{role}.npz", image=rng.integers(0, 255, (len(patient), 16, 16)),
            label=rng.integers(0, 2, (len(patient), 16, 16)), patient=patient,
            frame=np.ones(len(patient), int), slice=np.tile(np.arange(5), len(patients)),
        )  # fmt: skip
    slices = load(tmp_path, size=(16, 16))
    found = load(tmp_path, size=(4, 16, 16))
    assert found.train.images.shape == (4, 1, 4, 16, 16)
    first = slices.train.images[slices.train.cases == found.train.cases[0]]
    assert np.array_equal(found.train.images[0, 0], first[:4, 0])
    assert found.to_json()["slices"] == slices.to_json()["slices"]
    assert found.counts()["val"] == slices.counts()["val"]


def test_the_slices_of_a_patch_are_moved_and_recoloured_alike_but_for_noise(monkeypatch):
    monkeypatch.setattr("lmaunet.data.augment.NOISE", 0.0)
    plane = np.random.default_rng(0).normal(size=(3, 1, 1, 12, 12)).astype(np.float32)
    images = np.repeat(plane, 4, 2)
    labels = (images[:, 0] > 0).astype(np.uint8)
    z = np.broadcast_to(np.arange(4), (3, 4))
    side = SliceSet(images, labels, np.array(["a", "b", "c"]), z)
    ((moved, classes),) = batches(side, 3, 0, True)
    assert moved.shape == images.shape and classes.shape == labels.shape
    assert (moved - moved[:, :, :1]).abs().max() < 1e-5
    assert (classes == classes[:, :1]).all()
    assert not np.allclose(np.sort(moved.numpy(), 0), np.sort(images, 0))


SIZE = (4, 6, 8)


def uneven(volumes: np.ndarray) -> np.ndarray:
    """A network of two classes whose answer depends on where in a window a voxel lies."""
    place = np.arange(np.prod(SIZE), dtype=np.float32).reshape(SIZE) / 50
    return np.concatenate([volumes * place, volumes[:, :, ::-1] + place], 1)


def by_monai(slices: np.ndarray, overlap: float) -> np.ndarray:
    import torch
    from monai.inferers.utils import sliding_window_inference

    volume = torch.from_numpy(np.ascontiguousarray(slices.swapaxes(0, 1)))[None]
    found = sliding_window_inference(
        volume, SIZE, 4, lambda w: torch.from_numpy(uneven(w.numpy())), overlap=overlap,
        mode="gaussian",
    )  # fmt: skip
    return found.numpy()[0].swapaxes(0, 1)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("shape", [(9, 13, 8), (4, 11, 17), (7, 6, 9)])
def test_windows_over_a_volume_are_blended_as_by_monai(overlap, shape):
    slices = np.random.default_rng(0).normal(size=(shape[0], 1, *shape[1:])).astype(np.float32)
    got = cover_volume(slices, SIZE, uneven, overlap=overlap)
    assert got.shape == (shape[0], 2, *shape[1:])
    assert np.allclose(got, by_monai(slices, overlap), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("+= weight * logits", "+= logits"),
        ("np.multiply.outer, sides)", "np.multiply.outer, sides[::-1]).transpose(2, 1, 0) ** 2"),
        ("total[window] += weight", "total[window] = weight"),
        ("deep.swapaxes(0, 1)", "deep[::-1].swapaxes(0, 1)"),
    ],
)
def test_windows_over_a_volume_that_are_blended_otherwise_are_noticed(mutant_of, right, wrong):
    slices = np.random.default_rng(0).normal(size=(9, 1, 13, 11)).astype(np.float32)
    got = mutant_of(windows, right, wrong).cover_volume(slices, SIZE, uneven, overlap=0.25)
    assert not np.allclose(got, by_monai(slices, 0.25), rtol=1e-5, atol=1e-5)


def test_a_volume_of_few_slices_repeats_its_last_one_as_in_training():
    slices = np.random.default_rng(0).normal(size=(3, 2, *SIZE[1:])).astype(np.float32)
    seen = []

    def run(volumes):
        seen.append(volumes)
        return volumes

    got = cover_volume(slices, SIZE, run)
    assert np.array_equal(got, slices)
    (volume,) = seen
    assert volume.shape == (1, 2, *SIZE)
    assert np.array_equal(volume[0, :, 3], slices[2])


def test_a_set_of_patches_says_where_each_slice_is_from():
    side = slice_set({"a": [0, 1]})
    with pytest.raises(ValueError, match=r"z \(2,\); expected \(2,\) and \(2, 3\)"):
        dataclasses.replace(
            side, images=np.zeros((2, 1, 3, 4, 4), np.float32),
            labels=np.zeros((2, 3, 4, 4), np.uint8),
        )  # fmt: skip
