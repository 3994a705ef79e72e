"""Folders of images and labels: what is understood, and what must be refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from lmaunet.data.layouts.cases import Case, _check_apart
from lmaunet.data.loaders import load
from lmaunet.data.normalization import window
from lmaunet.errors import UserError

SIZE = (16, 16)


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
    assert maker.aligned(data.train) and maker.aligned(data.val)
    assert data.normalization["kind"] == "window" and "CT, abdomen window" in data.notes[0]


def test_labels_that_are_mirrored_would_be_seen(maker):
    labels = maker.labels()
    maker.pair("a", labels=labels)
    maker.write(maker.folder / "labels" / "a.nii.gz", labels[:, ::-1].copy())
    assert not maker.aligned(load(maker.folder, size=SIZE).train)


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


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_an_image_of_two_cases_is_named_with_both_in_whatever_order(maker, names):
    image = maker.write(maker.folder / "i.nii", maker.image(maker.labels()))
    cases = [
        Case(n, (image,), maker.write(maker.folder / f"{n}.nii", maker.labels())) for n in names
    ]
    message = f"an image of case '{names[1]}', is the same file as an image of case '{names[0]}'"
    with pytest.raises(UserError, match=message):
        _check_apart(cases)


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
    assert set(np.unique(data.train.labels)) == {0, 1, 2} and maker.aligned(data.train)


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
    assert data.layout == "labels beside their images" and maker.aligned(data.train)
    assert len(set(data.val.cases)) == 2 and len(data.patients_of("val")) == 1
    assert any("3 file(s) without labels are left aside: patient001_4d" in n for n in data.notes)
    (maker.folder / "patient001" / "patient001_frame01.nii.gz").unlink()
    with pytest.raises(UserError, match=r"patient001_frame01_gt\.nii\.gz has no image beside it"):
        load(maker.folder, size=SIZE)


def test_slices_without_a_label_are_thinned(maker):
    """Every eighth of them stays."""
    for name in ("a", "b"):
        labels = np.zeros((60, 12, 14), np.uint8)
        labels[20:30, 3:6, 4:9] = 1
        maker.pair(name, labels=labels)
    data = load(maker.folder, size=SIZE)
    for side in (data.train, data.val):
        assert sorted(side.z.tolist()) == [0, 8, 16, *range(20, 30), 32, 40, 48, 56]


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


def test_something_that_is_no_folder_is_refused():
    with pytest.raises(UserError, match="/dev/null is a file; give a folder with one of"):
        load(Path("/dev/null"), size=SIZE)


def test_pixels_that_float32_cannot_square_are_refused(maker):
    maker.pair("a", image=maker.image(maker.labels()) * np.float32(1e20))
    with pytest.raises(UserError, match=r"a\.nii\.gz: a pixel of magnitude .* at most 1e\+15"):
        load(maker.folder, size=SIZE)


def test_window_statistics_come_from_training_slices_only(maker):
    for name in ("a", "b"):
        maker.pair(name)
    data = load(maker.folder, size=SIZE)
    assert abs(float(data.train.images.mean())) < 1e-5
    assert abs(float(data.train.images.std()) - 1) < 1e-4
    assert {k: data.normalization[k] for k in ("low", "high")} == {
        k: window(-125, 275)[k] for k in ("low", "high")
    }
