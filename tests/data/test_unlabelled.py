"""Images for pretraining: of every layout, without the labels, and without what validates."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from lmaunet.data import unlabelled
from lmaunet.data.loaders import load, read_source
from lmaunet.data.unlabelled import held_out_digests, load_unlabelled
from lmaunet.errors import UserError

SIZE = (16, 16)


def images(path, channels=1):
    return load_unlabelled(path, size=SIZE, channels=channels)


def spoil(folder):
    """Put garbage in every label's place: a reader of one would fail."""
    for label in folder.rglob("*"):
        if label.is_file() and ("label" in label.parts[-2] or "_gt" in label.name):
            label.write_bytes(b"no label")


@pytest.fixture
def pairs(maker):
    for number in range(5):
        maker.pair(f"p{number}", labels=np.roll(maker.labels(), number, 2))
    return maker.folder


def test_labels_are_never_read_and_those_that_validate_are_left_out(pairs):
    before = images(pairs)
    validate = set(load(pairs, size=SIZE).val.cases)
    assert before.kept_out == tuple(sorted(validate)) and len(validate) == 1
    assert set(before.slices.cases) == {f"p{n}" for n in range(5)} - validate
    assert not before.slices.labels.any() and "no patient is on both sides" in before.notes[0]
    spoil(pairs)
    after = images(pairs)
    assert after.sha256 == before.sha256 and after.digests == before.digests
    assert np.array_equal(after.slices.images, before.slices.images)


def test_without_labels_all_are_taken(pairs):
    shutil.rmtree(pairs / "labels")
    assert set(images(pairs).slices.cases) == {f"p{n}" for n in range(5)}


def test_cases_without_a_label_are_taken_unless_their_patient_validates(maker):
    for number in range(5):
        maker.pair(f"sub-{number}_ses-1")
    (held,) = images(maker.folder).kept_out
    number = held[4]
    other = "1" if number != "1" else "2"
    for name in (f"sub-{number}_ses-2", f"sub-{other}_ses-2", "sub-9_ses-1"):
        maker.write(maker.folder / "images" / f"{name}.nii.gz", maker.image(maker.labels()))
    found = images(maker.folder)
    assert set(found.kept_out) == {held, f"sub-{number}_ses-2"}
    assert {f"sub-{other}_ses-2", "sub-9_ses-1"} <= set(found.slices.cases)


def test_a_list_of_a_split_is_kept(pairs):
    fold = {"train": ["p0", "p1"], "val": ["p2"]}
    (pairs / "splits_final.json").write_text(json.dumps([fold]))
    found = images(pairs)
    assert set(found.slices.cases) == {"p0", "p1"} and found.kept_out == ("p2", "p3", "p4")


def test_a_labelled_case_that_is_alone_is_refused(maker):
    maker.pair("p1")
    with pytest.raises(UserError, match="no image that its own split does not hold out"):
        images(maker.folder)


def test_a_folder_of_images_and_a_single_one(maker):
    for name in ("a.nii.gz", "b.nrrd", "deep/c.mha"):
        maker.write(maker.folder / name, maker.image(maker.labels()))
    (maker.folder / "view.png").write_text("x")
    found = images(maker.folder)
    assert set(found.slices.cases) == {"a", "b", "deep/c"} and len(found.slices) == 60
    assert found.notes[0].startswith("1 file(s) are left aside: view.png")
    assert "abdomen" in found.notes[1] or "window of -125 to 275" in found.notes[1]
    one = images(maker.folder / "b.nrrd")
    assert set(one.slices.cases) == {"b"} and len(one.digests["b"]) == 1
    assert one.digests["b"] == found.digests["b"]


def test_labels_beside_images_are_no_images(maker):
    for patient in range(4):
        for name, array in (("", maker.image(maker.labels())), ("_gt", maker.labels())):
            path = maker.folder / f"patient{patient:03d}" / f"patient{patient:03d}{name}.nii.gz"
            maker.write(path, array)
    found = images(maker.folder)
    assert len(found.digests) == 3 and not any("_gt" in case for case in found.digests)
    assert set(found.kept_out) == set(load(maker.folder, size=SIZE).val.cases)


def nnunet(maker, channels=("MR", "PET"), labels=True):
    names = {str(i): name for i, name in enumerate(channels)}
    content = {"channel_names": names, "labels": {"background": 0, "a": 1, "b": 2},
               "numTraining": 3, "file_ending": ".nii.gz"}  # fmt: skip
    (maker.folder / "dataset.json").write_text(json.dumps(content))
    for case in ("x", "y", "z"):
        for index in range(len(channels)):
            path = maker.folder / "imagesTr" / f"{case}_{index:04d}.nii.gz"
            maker.write(path, maker.image(maker.labels()) + index)
        if labels:
            maker.write(maker.folder / "labelsTr" / f"{case}.nii.gz", maker.labels())
    return maker.folder


def test_channels_of_nnunets_folder(maker):
    folder = nnunet(maker)
    found = images(folder, 2)
    assert found.slices.images.shape[1] == 2 and len(found.digests) == 2
    assert set(found.kept_out) == set(load(folder, size=SIZE).val.cases)
    with pytest.raises(UserError, match=r"2 channel\(s\) \(MR, PET\).* give --channels 2"):
        images(folder)
    shutil.rmtree(folder / "labelsTr")
    assert set(images(folder, 2).digests) == {"x", "y", "z"}


def test_a_channel_that_is_missing_is_said(maker):
    folder = nnunet(maker, labels=False)
    (folder / "imagesTr" / "y_0001.nii.gz").unlink()
    with pytest.raises(UserError, match=r"case 'y' in .* has 1 image\(s\)"):
        images(folder, 2)


def test_arrays_need_no_labels_and_no_other_half(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.normal(size=(6, 20, 20)).astype(np.float32),
        "patient": np.array([1, 1, 1, 2, 2, 2]), "frame": np.ones(6, int),
        "slice": np.array([2, 1, 0, 0, 1, 2]),
    }  # fmt: skip
    np.savez(tmp_path / "heart_train.npz", **arrays)
    alone = images(tmp_path)
    assert len(alone.slices) == 6 and list(alone.digests) == [
        "patient001_frame01", "patient002_frame01",
    ]  # fmt: skip
    label = np.ones((6, 20, 20), np.uint8)
    np.savez(tmp_path / "heart_train.npz", **arrays, label=label)
    np.savez(tmp_path / "heart_val.npz", **{**arrays, "patient": np.full(6, 3)}, label=label)
    labelled = images(tmp_path / "heart_train.npz")
    assert labelled.sha256 == alone.sha256 and labelled.notes == (
        "heart_val.npz is held out and not read",
    )
    held = held_out_digests(read_source(tmp_path))
    assert not set(held) & {d for each in labelled.digests.values() for d in each}
    (tmp_path / "heart_val.npz").rename(tmp_path / "other_train.npz")
    (tmp_path / "heart_train.npz").unlink()
    assert set(held) == {d for each in images(tmp_path).digests.values() for d in each}


def test_brats_folders(maker):
    for case in ("B1", "B2", "B3"):
        for index, name in enumerate(("t1", "t1ce", "t2", "flair", "seg")):
            array = maker.labels() if name == "seg" else maker.image(maker.labels()) + 1000 + index
            maker.write(maker.folder / case / f"{case}_{name}.nii.gz", array)
    found = images(maker.folder, 4)
    assert found.slices.images.shape[1] == 4 and len(found.digests) == 2
    assert found.normalization == {"kind": "zscore_nonzero"}
    assert set(found.kept_out) == set(load(maker.folder, size=SIZE).val.cases)
    with pytest.raises(UserError, match="give --channels 4"):
        images(maker.folder)


def test_slices_of_transunet(tmp_path):
    (tmp_path / "train_npz").mkdir()
    rng = np.random.default_rng(0)
    for case in ("case1", "case2"):
        for z in range(3):
            image = rng.uniform(size=(20, 20)).astype(np.float32)
            np.savez(tmp_path / "train_npz" / f"{case}_slice{z:03d}.npz", image=image)
    found = images(tmp_path)
    assert len(found.digests) == 1 and len(found.kept_out) == 1
    (tmp_path / "test_vol_h5").mkdir()
    (tmp_path / "test_vol_h5" / "case3.npy.h5").write_text("not read")
    assert len(images(tmp_path).digests) == 2


def test_slices_are_shrunk_resampled_and_those_of_one_value_left_out(maker):
    array = maker.image(maker.labels())
    array[:4] = 7
    maker.write(maker.folder / "a.nii.gz", array, spacing=(3.0, 2.0, 2.0))
    maker.write(maker.folder / "b.nii.gz", array, spacing=(3.0, 8.0, 8.0))
    found = images(maker.folder)
    assert len(found.slices) == 36 and found.slices.z.min() == 4  # the last two are air
    assert abs(float(found.slices.images.mean())) < 1e-3
    assert found.slices.images.shape[2:] == SIZE
    # b at a's spacing is four times as large as its file, and shrunk to the input
    b = found.slices.images[found.slices.cases == "b", 0]
    a = found.slices.images[found.slices.cases == "a", 0]
    assert (b > 0).sum() > 1.2 * (a > 0).sum()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, r"holds no NIfTI.*put images there"),
        (lambda folder: (folder / "a.png").write_text("x"), r"but a\.png; convert"),
        (lambda folder: (folder / "a.nii.gz").write_text("x"), r"a\.nii\.gz"),
    ],
)
def test_a_folder_without_images_gets_a_line(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(UserError, match=said):
        images(tmp_path)


def test_a_path_that_is_not_there_and_one_that_is_no_image(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        images(tmp_path / "no")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="is no image that is read"):
        images(tmp_path / "a.txt")


def test_images_of_one_value_and_of_two_grids(maker):
    maker.write(maker.folder / "a.nii.gz", np.full((4, 12, 14), 5.0, np.float32))
    with pytest.raises(UserError, match="every slice is of one value"):
        images(maker.folder)
    maker.write(maker.folder / "b_0000.nii.gz", maker.image(maker.labels()))
    maker.write(maker.folder / "b_0001.nii.gz", maker.image(maker.labels()), spacing=(3, 2, 2))
    (maker.folder / "a.nii.gz").unlink()
    with pytest.raises(UserError, match="lies on another grid"):
        images(maker.folder, 2)


def test_a_digest_is_of_the_pixels_and_their_shape(mutant_of):
    array = np.arange(12, dtype=np.int16).reshape(1, 3, 4)
    one = unlabelled.digest_of(array)
    assert one == unlabelled.digest_of(array.astype(np.float64))
    assert one != unlabelled.digest_of(array.reshape(1, 4, 3))
    mutant = mutant_of(unlabelled, "repr(tuple(image.shape)).encode()", "b''")
    assert mutant.digest_of(array) == mutant.digest_of(array.reshape(1, 4, 3))
