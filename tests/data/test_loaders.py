"""Every layout that is understood, and what each must refuse."""

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from lmaunet.data.loaders import load
from lmaunet.data.normalization import window
from lmaunet.errors import UserError

SIZE = (16, 16)


def aligned(side):
    """Whether the labelled pixels are where the image is bright, as Maker.image draws them."""
    bright = side.images[:, 0] > side.images[:, 0].min() + 1.0
    return np.array_equal(bright, side.labels > 0)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_several_cases_are_divided_by_case(maker, suffix):
    for i, orientation in enumerate(("LPS", "RAS", "LIA", "LAS", "LPS")):
        maker.pair(f"case{i}", suffix, orientation=orientation)
    data = load(maker.folder, size=SIZE)
    assert data.layout == "images/ and labels/ with NIfTI or NRRD files"
    assert data.classes == ("background", "class 1", "class 2")
    assert set(data.train.cases).isdisjoint(data.val.cases)
    assert len(set(data.train.cases)) == 4 and len(set(data.val.cases)) == 1
    assert "4 cases train, 1 validates" in data.split
    assert data.spacing_mm == pytest.approx((3, 3, 3))
    assert aligned(data.train) and aligned(data.val)
    assert data.normalization["kind"] == "window" and "CT, abdomen window" in data.notes[0]


def test_labels_that_are_mirrored_would_be_seen(maker):
    labels = maker.labels()
    maker.pair("a", labels=labels)
    maker.write(maker.folder / "labels" / "a.nii.gz", labels[:, ::-1].copy())
    assert not aligned(load(maker.folder, size=SIZE).train)


def test_one_case_is_divided_by_blocks_of_z(maker):
    maker.pair("only")
    data = load(maker.folder, size=SIZE)
    assert data.gap == 2 and "contiguous blocks of z" in data.split
    assert np.abs(data.train.z[:, None] - data.val.z[None]).min() > 2
    for side in (data.train, data.val):
        assert set(np.unique(side.labels)) == {0, 1, 2}


def test_names_are_matched_without_their_prefix_and_suffix(maker):
    for i in (1, 2):
        labels = maker.labels()
        maker.write(maker.folder / "img" / f"img000{i}.nii.gz", maker.image(labels))
        maker.write(maker.folder / "label" / f"label000{i}.nrrd", labels)
    data = load(maker.folder, size=SIZE)
    assert set(data.train.cases) | set(data.val.cases) == {"0001", "0002"}


def test_an_image_without_a_partner_is_named(maker):
    maker.pair("a")
    maker.write(maker.folder / "images" / "b.nii.gz", maker.image(maker.labels()))
    with pytest.raises(UserError, match=r"b\.nii\.gz in .* have no partner"):
        load(maker.folder, size=SIZE)


def test_classes_json_maps_names_and_normalises(maker):
    maker.pair("a", labels=maker.labels() * 3)
    (maker.folder / "classes.json").write_text(json.dumps({
        "classes": ["background", "low", "high"], "codes": {"3": 1, "6": 2}, "name": "mine",
        "label_source": "two readers", "normalization": {"kind": "zscore"},
    }))  # fmt: skip
    data = load(maker.folder, size=SIZE)
    assert (data.name, data.label_source) == ("mine", "two readers")
    assert data.classes == ("background", "low", "high") and data.notes == ()
    assert data.normalization == {"kind": "zscore"}
    assert set(np.unique(data.train.labels)) == {0, 1, 2}


def test_labels_beyond_the_classes_are_refused_with_the_file(maker):
    maker.pair("a")
    with pytest.raises(UserError, match=r"labels/a\.nii\.gz: label 2 is beyond the 2 classes"):
        load(maker.folder, size=SIZE, classes=2)


def test_a_network_of_another_number_of_classes_is_refused(maker):
    maker.pair("a")
    (maker.folder / "classes.json").write_text(
        '{"classes": ["background", "a", "b"], "codes": {"1": 1, "2": 2}}'
    )
    with pytest.raises(
        UserError, match=r"has 3 classes \(background, a, b\) but the network has 9"
    ):
        load(maker.folder, size=SIZE, classes=9)


def test_shapes_places_and_nan_are_checked_with_the_file(maker):
    maker.pair("a", image=maker.image(maker.labels())[:, :-1].copy())
    with pytest.raises(UserError, match=r"a\.nii\.gz: image of shape \(24, 11, 14\) but labels of"):
        load(maker.folder, size=SIZE)
    maker.pair("a")
    maker.write(maker.folder / "labels" / "a.nii.gz", maker.labels(), spacing=(3, 3, 2))
    with pytest.raises(UserError, match="lie in different places"):
        load(maker.folder, size=SIZE)
    image = maker.image(maker.labels())
    image[3, 4, 5] = np.inf
    maker.pair("a", image=image)
    with pytest.raises(UserError, match=r"images/a\.nii\.gz: 1 of 4032 pixels are NaN or infinite"):
        load(maker.folder, size=SIZE)


def test_another_spacing_is_resampled_to_one(maker):
    labels = maker.labels()
    maker.pair("a", labels=labels)
    maker.pair("b", labels=labels.repeat(2, 1).repeat(2, 2), spacing=(3.0, 1.5, 1.5))
    data = load(maker.folder, size=SIZE)
    assert any("in-plane spacings differ" in note for note in data.notes)
    per_case = [(s.labels > 0).sum() / len(s) for s in (data.train, data.val)]
    assert per_case[0] == pytest.approx(per_case[1], rel=0.1)
    asked = load(maker.folder, size=SIZE, spacing_mm=6.0)
    assert asked.spacing_mm == pytest.approx((3, 6, 6))


def test_cropping_says_what_it_loses_and_gives_way_to_shrinking(maker):
    maker.pair("a")
    slight = load(maker.folder, size=(12, 12))
    assert slight.spacing_mm == pytest.approx((3, 3, 3)) and len(slight.notes) == 1
    shrunk = load(maker.folder, size=(6, 6))
    assert any("shrunk to fit 6x6: a centre crop would lose" in note for note in shrunk.notes)
    assert shrunk.spacing_mm == pytest.approx((3, 7.2, 7))  # 12x14 becomes 5x6
    cropped = load(maker.folder, size=(6, 6), fit=False)
    assert cropped.spacing_mm == pytest.approx((3, 3, 3))


def test_an_empty_folder_says_how_to_fill_it(tmp_path):
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(
        UserError, match=r"is empty; fill it \(lmaunet-deploy data fetch\), use --p"
    ):
        load(tmp_path, size=SIZE)


@pytest.mark.parametrize("content", [[], ["notes.txt"], ["images/a.txt", "labels/a.txt"]])
def test_a_folder_that_is_not_understood_lists_the_layouts(tmp_path, content):
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"images/ and labels/ .*TransUNet's Synapse .*_train\.npz"):
        load(tmp_path, size=SIZE)


def test_the_folder_that_was_meant_is_named(maker):
    maker.folder = maker.folder / "Task07"
    maker.pair("a")
    with pytest.raises(
        UserError, match=r"understood; .*/Task07 has one: give that; else give a fol"
    ):
        load(maker.folder.parent, size=SIZE)


def test_an_absent_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="does not exist; give a folder with one of"):
        load(tmp_path / "none", size=SIZE)


def test_hidden_files_of_the_system_are_passed_over(maker):
    for name in ("a", "b"):
        maker.pair(name)
        for folder in ("images", "labels"):
            (maker.folder / folder / f"._{name}.nii.gz").write_bytes(b"\0\5\26\7")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (maker.folder / "images" / name).write_bytes(b"x")
    data = load(maker.folder, size=SIZE)
    assert set(data.train.cases) | set(data.val.cases) == {"a", "b"}
    assert not any("left aside" in note for note in data.notes)


def test_images_of_other_formats_are_named(maker):
    for name in ("a", "b"):
        maker.pair(name)
    (maker.folder / "images" / "c.png").write_bytes(b"x")
    (maker.folder / "images" / "notes.txt").write_text("x")
    assert "1 file(s) in images/ are left aside: c.png" in load(maker.folder, size=SIZE).notes
    for path in (maker.folder / "images").glob("*.nii.gz"):
        path.unlink()
    with pytest.raises(UserError, match=r"images holds no NIfTI.*, but c\.png; convert the files"):
        load(maker.folder, size=SIZE)


@pytest.mark.parametrize("other", ["A.nii.gz", "a.nii", "a.nrrd", "image_a.nii.gz"])
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_two_files_of_one_name_are_refused(maker, other, folder):
    maker.pair("a")
    maker.pair("b")
    maker.write(maker.folder / folder / other, maker.labels())
    with pytest.raises(UserError, match="have the same case name 'a'; expected one file a case"):
        load(maker.folder, size=SIZE)


def test_links_are_followed_but_one_image_is_no_two_cases(maker):
    maker.pair("a")
    maker.pair("b")
    (maker.folder / "images" / "b.nii.gz").rename(maker.folder / "store.nii.gz")
    (maker.folder / "images" / "b.nii.gz").symlink_to(maker.folder / "store.nii.gz")
    assert len(load(maker.folder, size=SIZE).train) > 0
    for folder in ("images", "labels"):
        (maker.folder / folder / "c.nii.gz").symlink_to(maker.folder / folder / "a.nii.gz")
    with pytest.raises(
        UserError, match="is the same file as an image of case 'a'; expected a file"
    ):
        load(maker.folder, size=SIZE)
    (maker.folder / "images" / "c.nii.gz").unlink()
    (maker.folder / "images" / "c.nii.gz").hardlink_to(maker.folder / "images" / "b.nii.gz")
    with pytest.raises(
        UserError, match="is the same file as an image of case 'b'; expected a file"
    ):
        load(maker.folder, size=SIZE)
    (maker.folder / "images" / "c.nii.gz").unlink()
    (maker.folder / "labels" / "c.nii.gz").unlink()
    (maker.folder / "labels" / "a.nii.gz").unlink()
    (maker.folder / "labels" / "a.nii.gz").symlink_to(maker.folder / "images" / "a.nii.gz")
    with pytest.raises(UserError, match="is the same file as its label"):
        load(maker.folder, size=SIZE, class_map="totalsegmentator")


def test_two_time_points_of_a_patient_stay_on_one_side(maker):
    for patient in (1, 2, 3):
        for frame in (1, 12):
            maker.pair(f"patient{patient:03d}_frame{frame:02d}")
    for seed in range(4):
        data = load(maker.folder, size=SIZE, seed=seed)
        sides = [{str(c)[:10] for c in side.cases} for side in (data.train, data.val)]
        assert not sides[0] & sides[1] and len(data.val.z) == 2 * len(set(data.val.z))
        assert "no patient is on both sides: told apart by their names" in data.split
        assert data.to_json()["patients"] == {
            "train": 2, "val": 1, "told_apart": data.told_apart
        }  # fmt: skip


def test_folders_are_patients_and_patients_json_overrules(maker):
    for patient in ("x", "y", "z"):
        for scan in ("first", "second"):
            for folder in ("images", "labels"):
                labels = maker.labels()
                array = labels if folder == "labels" else maker.image(labels)
                maker.write(maker.folder / folder / patient / f"{scan}.nii.gz", array)
    data = load(maker.folder, size=SIZE)
    assert len(set(data.val.cases)) == 2 and len({c[0] for c in data.val.cases}) == 1
    cases = sorted(set(data.train.cases) | set(data.val.cases))
    assert cases[:2] == ["x/first", "x/second"]
    (maker.folder / "patients.json").write_text(json.dumps({c: c[2:] for c in cases}))
    data = load(maker.folder, size=SIZE)
    assert len({str(c)[2:] for c in data.val.cases}) == 1 and len(set(data.val.cases)) == 3
    assert data.told_apart == "as patients.json says"


def test_folders_tell_what_names_do_not(maker):
    for patient in ("x", "y", "z"):
        for scan in ("aa", "bb"):
            labels = maker.labels()
            for folder, array in (("images", maker.image(labels)), ("labels", labels)):
                maker.write(maker.folder / folder / patient / f"{scan}.nii.gz", array)
    data = load(maker.folder, size=SIZE)
    assert len(set(data.val.cases)) == 2 and len({c[0] for c in data.val.cases}) == 1
    assert data.told_apart.startswith("told apart by their folders")


def test_a_fold_of_nnunet_chooses_and_what_it_leaves_out_is_left_out(maker):
    for name in ("a", "b", "c"):
        maker.pair(name)
    (maker.folder / "splits_final.json").write_text('[{"train": ["a"], "val": ["c"]}]')
    data = load(maker.folder, size=SIZE)
    assert set(data.train.cases) == {"a"} and set(data.val.cases) == {"c"}
    assert set(data.patients) == {"a", "c"}


def test_scans_of_one_patient_alone_are_refused(maker):
    maker.pair("pat1_pre")
    maker.pair("pat1_post")
    with pytest.raises(UserError, match=r"all 2 cases are of one patient \(pat1"):
        load(maker.folder, size=SIZE)


def test_cases_without_labels_are_named_and_do_not_validate(maker):
    for name in ("a", "b", "c", "d", "e"):
        labels = maker.labels()
        maker.pair(name, labels=labels if name in "ab" else labels * 0, image=maker.image(labels))
    for seed in range(4):
        data = load(maker.folder, size=SIZE, seed=seed)
        assert set(data.val.cases) < {"a", "b"}
        assert "3 case(s) have no label of a class: c, d, e" in data.notes


@pytest.mark.parametrize("slope", [0.99999994, 1.0000001])
def test_labels_that_are_nearly_whole_are_read(maker, slope):
    for name in ("a", "b"):
        labels = maker.labels()
        maker.pair(name, labels=labels.astype(np.float32) * np.float32(slope),
                   image=maker.image(labels))  # fmt: skip
    data = load(maker.folder, size=SIZE)
    assert set(np.unique(data.train.labels)) == {0, 1, 2} and aligned(data.train)


def test_labels_may_lie_beside_their_images_in_a_patients_folder(maker):
    """As in the ACDC challenge, with its film of the heart, which has no labels."""
    for patient in ("patient001", "patient002", "patient003"):
        place = maker.folder / patient
        for frame in ("frame01", "frame12"):
            labels = maker.labels()
            maker.write(place / f"{patient}_{frame}.nii.gz", maker.image(labels))
            maker.write(place / f"{patient}_{frame}_gt.nii.gz", labels)
        maker.write(place / f"{patient}_4d.nii.gz", maker.image(labels))
        (place / "Info.cfg").write_text("ED: 1")
    data = load(maker.folder, size=SIZE)
    assert data.layout == "labels beside their images" and aligned(data.train)
    assert len(set(data.val.cases)) == 2 and len(data.patients_of("val")) == 1
    assert any("3 file(s) without labels are left aside: patient001_4d" in n for n in data.notes)
    (maker.folder / "patient001" / "patient001_frame01.nii.gz").unlink()
    with pytest.raises(UserError, match=r"patient001_frame01_gt\.nii\.gz has no image beside it"):
        load(maker.folder, size=SIZE)


def test_a_class_that_one_side_does_not_show_is_named(maker):
    for name in ("a", "b", "c"):
        labels = maker.labels()
        maker.pair(name, labels=labels if name == "c" else np.minimum(labels, 1),
                   image=maker.image(labels))  # fmt: skip
    seen = set()
    for seed in range(6):
        data = load(maker.folder, size=SIZE, seed=seed)
        side = "training" if set(data.val.cases) == {"c"} else "held-out"
        assert [n for n in data.notes if "shows" in n] == [f"no {side} slice shows class 2"]
        seen.add(side)
    assert seen == {"training", "held-out"}


def test_data_info_shows_what_was_understood(maker, capsys):
    from lmaunet.deploy.console import show
    from lmaunet.deploy.data_commands import info as describe
    from lmaunet.deploy.runs import DataSource

    for patient in (1, 2):
        for frame in (1, 12):
            maker.pair(f"patient{patient:03d}_frame{frame:02d}")
    content, lines = describe(DataSource(maker.folder))
    show(content, lines, False)
    shown = capsys.readouterr().out
    for text in (
        "images/ and labels/ with NIfTI or NRRD files",
        "patients: 2 with 4 case(s); told apart by their names (patient001_frame01 and",
        "no patient is on both sides",
        "channels: 0 image",
        "intensities: clipped to a window of -125 to 275",
        "class 2",
    ):
        assert text in shown
    assert content["patients"]["train"] == content["patients"]["val"] == 1


# TransUNet's Synapse ---------------------------------------------------------------------------


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
def test_synapse_slices_train_and_volumes_validate(synapse, axis):
    data = load(synapse(axis), size=SIZE, class_map="synapse-spleen-first")
    assert data.layout == "TransUNet's Synapse"
    assert set(data.train.cases) == {"case0005", "case0006"} and set(data.val.cases) == {"case0001"}
    assert len(data.val) == 5 and data.val.z.tolist() == list(range(5))
    # 1 is the spleen and 2 the right kidney in this map, 7 and 4 in ours.
    assert set(np.unique(data.val.labels)) == {0, 4, 7}
    assert aligned(data.train) and aligned(data.val)
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
    with pytest.raises(UserError, match=r"values from 0 to 300; expected \[0, 1\]"):
        load(folder, size=SIZE, class_map="synapse-aorta-first")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="cannot be read as npz"):
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


# NAME_train.npz and NAME_val.npz ---------------------------------------------------------------


def write_patients(folder, train=(1, 2), val=(3,), name="heart", **changes):
    rng = np.random.default_rng(0)
    for role, patients in (("train", train), ("val", val)):
        rows = [(p, f, s) for p in patients for f in (1, 9) for s in (2, 0, 1)]
        patient, frame, number = (np.array(c, np.int16) for c in zip(*rows, strict=True))
        label = np.zeros((len(rows), 20, 20), np.uint8)
        label[:, 8:12, 8:12] = 1 + number[:, None, None]
        image = (label * 60 + rng.integers(0, 20, label.shape)).astype(np.uint8)
        arrays = {"image": image, "label": label, "patient": patient, "frame": frame}
        arrays = {**arrays, "slice": number, **changes}
        kept = {k: v for k, v in arrays.items() if v is not None}
        np.savez(folder / f"{name}_{role}.npz", **kept)
    return folder


def test_patients_stay_on_one_side_and_slices_in_order(tmp_path):
    data = load(write_patients(tmp_path), size=SIZE)
    assert data.classes == ("background", "class 1", "class 2", "class 3")
    assert set(data.val.cases) == {"patient003_frame01", "patient003_frame09"}
    assert len(data.train) == 12 and data.val.z.tolist() == [0, 1, 2] * 2
    assert np.array_equal(data.val.labels.max((1, 2)), data.val.z + 1)
    assert data.split == "by patient: 2 train, 1 validate, none in both."
    assert load(tmp_path / "heart_val.npz", size=SIZE).name == data.name == "heart"


def test_any_number_of_classes_is_read_and_the_heart_set_has_names(tmp_path):
    labels = {"label": np.arange(12)[:, None, None] * np.ones((1, 20, 20), np.uint8)}
    many = load(write_patients(tmp_path, **labels, val=(3, 4)), size=SIZE)
    assert len(many.classes) == 12 and many.train.labels.max() == 11
    (tmp_path / "heart_train.npz").unlink()
    named = load(write_patients(tmp_path, name="acdc"), size=SIZE)
    assert named.classes == ("background", "right ventricle", "myocardium", "left ventricle")


def test_zscore_is_of_each_whole_slice(tmp_path):
    data = load(write_patients(tmp_path), size=(20, 20))
    assert np.abs(data.train.images.mean((1, 2, 3))).max() < 1e-5
    assert np.abs(data.train.images.std((1, 2, 3)) - 1).max() < 1e-5


def test_a_patient_on_both_sides_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"patient 2 is in .*heart_train\.npz and in .*heart_val"):
        load(write_patients(tmp_path, val=(2, 3)), size=SIZE)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"slice": None}, "has no array 'slice'; expected: image, label, patient, frame, slice"),
        ({"label": np.zeros((3, 20, 20))}, "but labels of shape"),
        ({"label": np.full((12, 20, 20), 4)}, r"label 4 is beyond the 4 classes"),
        ({"image": np.zeros((12, 20))}, r"image of shape \(12, 20\); expected \(slices, H, W\)"),
        ({"image": np.full((12, 20, 20), np.nan)}, "4800 of 4800 pixels are NaN"),
        ({"frame": np.zeros(5)}, r"frame of shape \(5,\); expected \(12,\)"),
        ({"frame": np.full(12, 0.5)}, r"\(frame\): number 0.5 is not a whole number"),
        (
            {"patient": np.full(12, 2**63 + 2, np.uint64)},
            r"\(patient\): number \d+ is out of range",
        ),
        ({"patient": np.full(12, "P1")}, r"\(patient\): numbers of type <U2; expected whole"),
        ({"slice": np.full(12, None)}, "holds arrays of Python objects, which are not loaded"),
        ({"label": np.full((12, 20, 20), 1e30)}, r"label 1e\+30 is out of range; expected at most"),
        ({"label": np.full((12, 20, 20), -1e30)}, r"label -1e\+30 is out of range; expected at l"),
        (
            {"image": np.zeros((12, 20, 20), np.complex64)},
            "pixels of type complex64; expected",
        ),
        ({"image": np.full((12, 20, 20), "a")}, "pixels of type <U1; expected real numbers"),
        ({"image": np.full((12, 20, 20), 1e30)}, r"a pixel of magnitude 1e\+30; expected at most"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_file(tmp_path, changes, text):
    with pytest.raises(UserError, match=text) as raised:
        load(write_patients(tmp_path, val=(3, 4), **changes), size=SIZE, class_map="cardiac")
    assert "heart_train.npz" in str(raised.value)


@pytest.mark.parametrize("shape", [(0, 20, 20), (12, 0, 20)])
@pytest.mark.parametrize("class_map", [None, "cardiac"])
def test_arrays_without_a_pixel_are_refused(tmp_path, shape, class_map):
    rows = dict.fromkeys(("patient", "frame", "slice"), np.zeros(shape[0], int))
    arrays = {"image": np.zeros(shape), "label": np.zeros(shape, int), **rows}
    with pytest.raises(UserError, match=r"heart_train\.npz: image and labels of .* hold no pixel"):
        load(write_patients(tmp_path, **arrays), size=SIZE, class_map=class_map)


def huge_header(path):
    """An archive whose array says that it has more elements than memory holds."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("image", "label", "patient", "frame", "slice"):
            content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            archive.writestr(f"{key}.npy", content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("hello"),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.open("wb").write(b"\x93NUMPY\x01\x00"),
        lambda path: (path.unlink(), path.mkdir()),
        huge_header,
    ],
    ids=["empty", "text", "cut short", "npy", "folder", "more than memory"],
)
def test_a_file_that_is_no_npz_is_refused(tmp_path, spoil):
    spoil(write_patients(tmp_path) / "heart_train.npz")
    with pytest.raises(UserError, match=r"heart_train\.npz cannot be read as npz") as raised:
        load(tmp_path, size=SIZE)
    assert "pickle" not in str(raised.value) and "get the file again" in str(raised.value)


def test_something_that_is_no_folder_is_refused():
    with pytest.raises(UserError, match="/dev/null is a file; give a folder with one of"):
        load(Path("/dev/null"), size=SIZE)


def test_pixels_that_float32_cannot_square_are_refused(maker):
    maker.pair("a", image=maker.image(maker.labels()) * np.float32(1e20))
    with pytest.raises(UserError, match=r"a\.nii\.gz: a pixel of magnitude .* at most 1e\+15"):
        load(maker.folder, size=SIZE)


def test_half_a_set_is_refused(tmp_path):
    (write_patients(tmp_path) / "heart_val.npz").unlink()
    with pytest.raises(UserError, match=r"heart_val\.npz does not exist; both halves"):
        load(tmp_path, size=SIZE)


def test_window_statistics_come_from_training_slices_only(maker):
    for name in ("a", "b"):
        maker.pair(name)
    data = load(maker.folder, size=SIZE)
    assert abs(float(data.train.images.mean())) < 1e-5
    assert abs(float(data.train.images.std()) - 1) < 1e-4
    assert {k: data.normalization[k] for k in ("low", "high")} == {
        k: window(-125, 275)[k] for k in ("low", "high")
    }
