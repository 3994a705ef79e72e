"""TransUNet's Synapse folders: slices that train, volumes that validate."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from lmaunet.data.layouts.transunet import _as_stored, _read_h5, _slice_axis
from lmaunet.data.loaders import load
from lmaunet.data.patients import Patients
from lmaunet.data.source import Volume
from lmaunet.errors import UserError

SIZE = (16, 16)


@pytest.fixture
def synapse(maker):
    def write(axis=0, test_shape=(5, 12, 14), names=("case0005", "case0006")):
        for name in names:
            (maker.folder / "train_npz").mkdir(exist_ok=True)
            labels = maker.labels()[4:10].astype(np.float32)
            for z, plane in enumerate(labels):
                path = maker.folder / "train_npz" / f"{name}_slice{z:03d}.npz"
                np.savez(path, image=plane / 4, label=plane)
        (maker.folder / "test_vol_h5").mkdir(exist_ok=True)
        with h5py.File(maker.folder / "test_vol_h5" / "case0001.npy.h5", "w") as file:
            labels = maker.labels((24, *test_shape[1:]))[6:11]
            file["label"] = np.moveaxis(labels, 0, axis).astype(np.float32)
            file["image"] = np.moveaxis(labels / np.float32(4), 0, axis)
        return maker.folder

    return write


@pytest.mark.parametrize("axis", [0, 2])
def test_synapse_slices_train_and_volumes_validate(maker, synapse, axis):
    data = load(synapse(axis), size=SIZE, class_map="synapse-spleen-first")
    assert data.layout == "TransUNet's Synapse"
    assert set(data.train.cases) == {"case0005", "case0006"} and set(data.val.cases) == {"case0001"}
    assert len(data.val) == 5 and data.val.z.tolist() == list(range(5))
    # 1 is the spleen and 2 the right kidney in this map, 7 and 4 in ours.
    assert set(np.unique(data.val.labels)) == {0, 4, 7}
    assert maker.aligned(data.train) and maker.aligned(data.val)
    assert np.isnan(data.spacing_mm).all() and data.to_json()["spacing_mm"] == [None] * 3


def test_synapse_without_a_map_is_refused(synapse):
    with pytest.raises(UserError, match="differ in the order of their labels; give a class map"):
        load(synapse(), size=SIZE)


def test_synapse_lists_choose_and_are_checked(synapse):
    folder = synapse()
    lists = folder / "lists_Synapse"
    lists.mkdir()
    (lists / "train.txt").write_text("case0005_slice000\ncase0005_slice001\n")
    data = load(folder, size=SIZE, class_map="synapse-aorta-first")
    assert set(data.train.cases) == {"case0005"} and len(data.train) == 2
    (lists / "train.txt").write_text("case0009_slice000\n")
    with pytest.raises(UserError, match="lacks 1 of the 1 listed files, first case0009_slice000"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


def test_synapse_case_on_both_sides_is_refused(synapse):
    folder = synapse(names=("case0001", "case0002"))
    with pytest.raises(UserError, match="case case0001 is in train_npz and in test_vol_h5"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


def test_synapse_files_that_are_damaged_or_do_not_fit(synapse):
    folder = synapse(test_shape=(5, 9, 9))
    with pytest.raises(UserError, match=r"no axis that leaves slices of 12x14 as in train_npz"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    (folder / "test_vol_h5" / "case0001.npy.h5").write_text("no")
    with pytest.raises(UserError, match=r"case0001\.npy\.h5 cannot be read as HDF5"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    (folder / "test_vol_h5" / "case0001.npy.h5").unlink()
    path = folder / "train_npz" / "case0005_slice000.npz"
    np.savez(path, image=np.full((12, 14), 300.0), label=np.zeros((12, 14)))
    with pytest.raises(
        UserError, match=r"slice000\.npz: image values from 300 to 300; expected \[0"
    ):
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    path.unlink()
    path = folder / "train_npz" / "case0005_slice003.npz"
    np.savez(path, image=np.full((12, 14), -1.0), label=np.zeros((12, 14)))
    with pytest.raises(UserError, match=r"slice003\.npz: image values from -1 to -1; expected \[0"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read as npz"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


@pytest.mark.parametrize("shape", [(0, 12, 14), (12, 14, 0), (12, 14)])
def test_synapse_labels_that_are_no_volume_are_refused(synapse, shape):
    folder = synapse()
    with h5py.File(folder / "test_vol_h5" / "case0001.npy.h5", "w") as file:
        file["label"] = file["image"] = np.zeros(shape, np.float32)
    with pytest.raises(UserError, match="expected a volume of 3 dimensions"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


def test_synapse_without_volumes_is_divided_by_patient(synapse):
    folder = synapse(names=("case0005_t1", "case0005_t2", "case0006_t1", "case0006_t2"))
    shutil.rmtree(folder / "test_vol_h5")
    (folder / "train_npz" / "._case0005_t1_slice000.npz").write_bytes(b"x")
    for seed in range(3):
        data = load(folder, size=SIZE, class_map="synapse-aorta-first", seed=seed)
        assert len({str(c)[:8] for c in data.val.cases}) == 1 and len(set(data.val.cases)) == 2


def test_synapse_patient_on_both_sides_is_refused(synapse):
    folder = synapse(names=("case0001_t2", "case0002_t1"))
    (folder / "test_vol_h5" / "case0001.npy.h5").rename(
        folder / "test_vol_h5" / "case0001_t1.npy.h5"
    )
    with pytest.raises(
        UserError, match="case0001_t2 in train_npz and case0001_t1 in test_vol_h5 a"
    ):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


def test_one_case_alone_is_not_enough(synapse):
    folder = synapse(names=("case0005",))
    load(folder, size=SIZE, class_map="synapse-aorta-first")
    shutil.rmtree(folder / "test_vol_h5")
    with pytest.raises(
        UserError, match=r"test_vol_h5 holds no \.npy\.h5 and train_npz one case; give another case"
    ):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


@pytest.mark.parametrize(
    "place", ["lists_Synapse", "lists/lists_Synapse", "../lists/lists_Synapse"]
)
def test_lists_choose_on_both_sides_wherever_they_lie(synapse, maker, place):
    """And only what they name: the order in them does not matter."""
    maker.folder = maker.folder / "set"
    maker.folder.mkdir()
    folder = synapse()
    shutil.copy(
        folder / "test_vol_h5" / "case0001.npy.h5", folder / "test_vol_h5" / "case0002.npy.h5"
    )
    (folder / place).mkdir(parents=True)
    (folder / place / "test_vol.txt").write_text("case0002\n")
    (folder / place / "train.txt").write_text(
        "case0006_slice003 case0005_slice004 case0005_slice001"
    )
    data = load(folder, size=SIZE, class_map="synapse-aorta-first")
    assert set(data.val.cases) == {"case0002"}
    assert list(zip(data.train.cases, data.train.z.tolist(), strict=True)) == [
        ("case0005", 1), ("case0005", 4), ("case0006", 3)
    ]  # fmt: skip
    assert data.split.startswith("by case: 2 train, 1 validate, as divided by train_npz and test")
    (folder / place / "train.txt").write_text("case0005_slice000 x_slice001 y_slice002")
    with pytest.raises(
        UserError, match="lacks 2 of the 3 listed files, first x_slice001; complete"
    ):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


def test_slices_lie_in_the_order_of_their_numbers_not_of_their_names(synapse):
    folder = synapse()
    for number in (0, 1, 2, 3):
        path = folder / "train_npz" / f"case0005_slice00{number}.npz"
        path.rename(path.with_name(f"case0005_slice{9 + 30 * number}.npz"))
    data = load(folder, size=SIZE, class_map="synapse-aorta-first")
    assert data.train.z[data.train.cases == "case0005"].tolist() == [4, 5, 9, 39, 69, 99]


def test_what_a_copy_of_the_set_is_called(synapse):
    folder = synapse()
    data = load(folder, size=SIZE, class_map="synapse-aorta-first")
    assert (data.name, data.label_source) == (
        "Synapse (TransUNet's preparation)", "as in the files"
    )  # fmt: skip
    assert data.fit and data.notes[0] == "the files hold no spacing, so distances are in pixels"
    assert {key: data.normalization[key] for key in ("kind", "low", "high")} == {
        "kind": "window", "low": 0.0, "high": 1.0
    }  # fmt: skip
    (folder / "classes.json").write_text(json.dumps({
        "classes": ["background", "a"], "codes": {"1": 1, "2": 1}, "others": 0,
        "name": "mine", "label_source": "readers", "patients": "^(case000[0-9])",
    }))  # fmt: skip
    data = load(folder, size=SIZE)
    assert (data.name, data.label_source, data.classes[1]) == ("mine", "readers", "a")
    assert data.told_apart == "told apart by '^(case000[0-9])'"


@pytest.mark.parametrize(
    ("low", "high", "good"),
    [(-0.009, 1.009, True), (-0.011, 1.0, False), (0.0, 1.011, False), (-5.0, 0.5, False)],
)
def test_images_lie_between_0_and_1_to_a_hundredth(synapse, low, high, good):
    """In slices and in volumes, which are looked at apart."""
    folder = synapse()
    image = np.full((12, 14), 0.5)
    image[0, :2] = low, high
    path = folder / "train_npz" / "case0005_slice002.npz"
    np.savez(path, image=image, label=np.zeros((12, 14)))
    if good:
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    else:
        said = rf"slice002\.npz: image values from {low:g} to {max(high, 0.5):g}; expected \[0, 1\]"
        with pytest.raises(UserError, match=said):
            load(folder, size=SIZE, class_map="synapse-aorta-first")
    np.savez(path, image=image * 0 + 0.5, label=np.zeros((12, 14)))
    with h5py.File(folder / "test_vol_h5" / "case0001.npy.h5", "a") as file:
        file["image"][1, :, :] = image
    if good:
        load(folder, size=SIZE, class_map="synapse-aorta-first")
        return
    with pytest.raises(
        UserError, match=rf"h5: image values from {low:g} to {max(high, 0.5):g}; exp"
    ):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": np.zeros((12, 14))}, r"slice002\.npz has no array 'label'; expected: label"),
        ({"label": np.zeros((12, 14))}, r"slice002\.npz has no array 'image'; expected: image"),
        ({"image": np.zeros((12, 14)), "label": np.zeros((1, 12, 14))},
         r"slice002\.npz: array of shape \(1, 12, 14\); expected one slice \(H, W\)"),
        ({"image": np.zeros((12,)), "label": np.zeros((12, 14))}, r"array of shape \(12,\); exp"),
        ({"image": np.zeros((12, 14)), "label": np.zeros((12, 13))},
         r"slice002\.npz against case0005_slice000\.npz"),
        ({"image": np.zeros((11, 14)), "label": np.zeros((12, 14))}, r"slice002\.npz: "),
        ({"image": np.full((12, 14), np.nan), "label": np.zeros((12, 14))}, r"168 of 168 pixels"),
    ],
)  # fmt: skip
def test_a_slice_that_does_not_fit_is_named(synapse, arrays, said):
    folder = synapse()
    np.savez(folder / "train_npz" / "case0005_slice002.npz", **arrays)
    with pytest.raises(UserError, match=said):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


def test_a_file_of_another_name_and_an_empty_folder_are_refused(synapse):
    folder = synapse()
    (folder / "train_npz" / "case0005.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"case0005\.npz: unexpected name; expected CASE_sliceNNN"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    shutil.rmtree(folder / "train_npz")
    (folder / "train_npz").mkdir()
    with pytest.raises(UserError, match=r"train_npz holds no \.npz; expected CASE_sliceNNN\.npz f"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5, 12, 14), 0), ((12, 14, 5), 2), ((12, 5, 14), 1), ((12, 14, 12), 2),
     ((14, 12, 14), 0), ((12, 12, 14), 0)],
)  # fmt: skip
def test_slices_lie_along_the_axis_that_leaves_a_slice_of_training(shape, axis):
    assert _slice_axis(shape, {(12, 14), (9, 9)}, Path("a.h5")) == axis


@pytest.mark.parametrize("shape", [(5, 14, 12), (12, 14), (12, 14, 0), (1, 5, 12, 14)])
def test_a_volume_without_such_an_axis_is_none(shape):
    of = "3 dimensions" if len(shape) != 3 or 0 in shape else "of 9x9 or 12x14 as in train_npz; use"
    with pytest.raises(
        UserError, match=rf"a\.h5: label of shape \({', '.join(map(str, shape))}\).*{of}"
    ):
        _slice_axis(shape, {(12, 14), (9, 9)}, Path("a.h5"))


@pytest.mark.parametrize("error", [OSError, ValueError, TypeError, MemoryError])
def test_whatever_hdf5_fails_with_is_the_files_fault(tmp_path, monkeypatch, error):
    def fail(*arguments):
        raise error("of the reader")

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(UserError, match=r"a\.h5 cannot be read as HDF5 \(of the reader\); get the"):
        _read_h5(tmp_path / "a.h5", "label")


def test_a_volume_without_an_image_is_refused(synapse):
    folder = synapse()
    path = folder / "test_vol_h5" / "case0001.npy.h5"
    with h5py.File(path, "a") as file:
        del file["image"]
        file["image"] = np.zeros((5, 12, 13))
    with pytest.raises(
        UserError, match=r"h5: image of shape \(5, 12, 13\) but labels of shape \(5"
    ):
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    with h5py.File(path, "a") as file:
        del file["image"]
    with pytest.raises(UserError, match=r"h5 has no array 'image'; expected: image, label"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")


def test_cases_of_each_side_are_counted_whoever_wrote_their_role():
    roles = {"a": "train", "b": "val", "c": "train", "d": "train", "e": "val"}
    volumes = [
        Volume(c, "".join(list(r)), np.zeros((1, 2, 2), np.uint8), ()) for c, r in roles.items()
    ]
    patients = Patients({case: case for case in roles}, "as told")
    assert _as_stored(volumes, patients, Path("d")) == (
        "by case: 3 train, 2 validate, as divided by train_npz and test_vol_h5; none in both: "
        "as told."
    )
    of = {"a": "p", "b": "q", "c": "r", "d": "q", "e": "p"}
    with pytest.raises(
        UserError, match=r"d: a in train_npz and e in test_vol_h5 are of one patien"
    ):
        _as_stored(volumes, Patients(of, "as told"), Path("d"))
