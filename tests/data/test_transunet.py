"""TransUNet's Synapse folders: slices that train, volumes that validate."""

import shutil

import h5py
import numpy as np
import pytest

from lmaunet.data.loaders import load
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
