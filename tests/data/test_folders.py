"""What is found in a folder: volumes and how deep, what is left aside, and layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmaunet.data.fetch import SOURCE_FILE
from lmaunet.data.layouts import folders, pairs
from lmaunet.data.layouts.folders import (
    Found,
    find_volumes,
    hidden,
    is_folder,
    named,
    readable_volume,
    understood,
    visible,
)
from lmaunet.data.layouts.pairs import channel_names, match_cases, match_found
from lmaunet.data.loaders import _looks_known, load
from lmaunet.errors import UserError

SIZE = (16, 16)


@pytest.mark.parametrize(
    ("name", "is_hidden"),
    [("._a.nii.gz", True), (".DS_Store", True), ("Thumbs.db", True), ("DESKTOP.INI", True),
     ("a.nii", False), ("thumbs.dbx", False), ("a.ini", False)],
)  # fmt: skip
def test_the_systems_files_are_hidden(name, is_hidden):
    assert hidden(Path("x") / name) is is_hidden


@pytest.mark.parametrize(("count", "text"), [(0, ""), (1, "a"), (3, "a, b, c"), (4, "a, b, c ...")])
def test_three_files_are_named(count, text):
    assert named([Path("x") / letter for letter in "abcd"[:count]]) == text


def test_volumes_are_found_six_folders_down(maker):
    place = maker.folder
    for depth in range(8):
        maker.write(place / f"v{depth}.nii", maker.labels((2, 3, 4)))
        (place / f"i{depth}.PNG").write_text("x")
        (place / "notes.txt").write_text("x")
        place = place / f"f{depth}"
    found, unread = find_volumes(maker.folder)
    levels = [tuple(f"f{i}" for i in range(depth)) for depth in range(7)]
    assert sorted(f.folders for f in found) == sorted(levels)
    assert {f.stem for f in found} == {f"v{depth}" for depth in range(7)}
    assert sorted(p.name for p in unread) == [f"i{depth}.PNG" for depth in range(7)]
    found, unread = find_volumes(maker.folder, 1)
    assert [(f.path.name, f.folders) for f in found] == [("v1.nii", ("f0",)), ("v0.nii", ())]
    assert Found(Path("a.nii.gz")).folders == () and Found(Path("x/a.nii.gz")).stem == "a"


@pytest.mark.parametrize("suffix", folders.UNREAD)
def test_images_of_other_programs_are_no_volumes_but_are_found(tmp_path, suffix):
    (tmp_path / f"a{suffix.upper()}").write_bytes(b"x")
    assert find_volumes(tmp_path) == ([], [tmp_path / f"a{suffix.upper()}"])


def test_what_cannot_be_looked_at_is_no_folder_and_no_volume(monkeypatch, tmp_path):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders, "is_volume", fail)
    monkeypatch.setattr(Path, "is_dir", fail)
    assert is_folder(tmp_path) is False and readable_volume(tmp_path) is False
    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)$"):
        visible(tmp_path)


def test_a_folder_that_cannot_be_read_is_said_with_what_is_known(monkeypatch, tmp_path):
    def fail(path):
        raise OSError("odd")

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(UserError, match=r"cannot be read \(odd\)$"):
        visible(tmp_path)


def test_every_layout_is_listed():
    text = understood()
    assert text.startswith("one of: the fetched CT (SOURCE.json") and text.count("; ") == 6
    for word in ("imagesTr", "dataset.json", "BraTS", "CASE_gt", "train_npz", "NAME_val.npz"):
        assert word in text


def found_of(*names):
    return [
        Found(Path("d") / f"{name}.nii", tuple(name.split("/")[:-1])) for name in names
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("a", "a"), ("A", "a"), ("a_img", "a_label"), ("img_a", "label-a"), ("images_a", "mask_a"),
        ("a_image", "a_gt"), ("a", "a_seg"), ("volume-1", "segmentation-1"), ("img1", "lbl1"),
        ("images1", "segmentations_1"), ("vol", "vol_segmentation"), ("seg_1", "segmentation_1"),
        ("a_0000", "a"), ("a_img_0000", "a"), ("p/A", "P/a"), ("p/a_0000", "p/a"),
    ],
)  # fmt: skip
def test_an_image_and_its_label_are_known_by_what_their_names_share(image, label):
    cases, lonely = match_found(found_of(image), found_of(label), Path("d"))
    assert not lonely and len(cases) == 1
    assert cases[0].images == (Path("d") / f"{image}.nii",)
    assert cases[0].label == Path("d") / f"{label}.nii"
    assert cases[0].folders == tuple(label.split("/")[:-1])


@pytest.mark.parametrize(
    ("image", "label"), [("a", "b"), ("p/a", "q/a"), ("p/a", "a"), ("a_00001", "a"), ("img", "a")]
)
def test_others_have_no_partner(image, label):
    """All are told, images first."""
    good = ("x", "y")
    cases, lonely = match_found(found_of(*good, image), found_of(*good, label), Path("d"))
    assert [case.name for case in cases] == ["x", "y"]
    assert [path.name for path in lonely] == [
        f"{name.split('/')[-1]}.nii" for name in (image, label)
    ]  # fmt: skip


def test_channels_are_in_the_order_of_their_numbers():
    images = found_of("b_0001", "a_0002", "a_0000", "b_0000", "a_0001", "b_0002")
    cases, _ = match_found(images, found_of("b", "a"), Path("d"))
    assert [case.name for case in cases] == ["a", "b"]
    for case in cases:
        assert [path.name for path in case.images] == [f"{case.name}_000{i}.nii" for i in range(3)]
    assert channel_names(cases) == ("channel 0", "channel 1", "channel 2")
    assert channel_names(match_found(found_of("a"), found_of("a"), Path("d"))[0]) == ("image",)


@pytest.mark.parametrize(
    ("images", "channels", "said"),
    [
        (("a_0000", "a_0001", "b_0000"), None, "case 'b' in d has no channel 1 (a file that ends "
         "in _0001); expected 2 for each case"),
        (("a_0001", "b_0000", "b_0001"), None, "case 'a' in d has no channel 0"),
        (("a_0000", "b_0000"), 3, "case 'a' in d has no channel 1 (a file that ends in _0001); "
         "expected 3"),
        (("a_0000", "a_0001", "b_0000", "b_0001"), 1, "case 'a' in d has 2 images (a_0000.nii, "
         "a_0001.nii); expected 1; remove"),
        (("a_0000", "a_0002", "b_0000", "b_0001"), 2, "case 'a' in d has no channel 1"),
        (("a", "a_0000", "b"), None, "a_0000.nii and a.nii have the same case name 'a'; expected"),
        (("a_0000", "b", "a"), None, "a.nii and a_0000.nii have the same case name 'a'; expected"),
    ],
)  # fmt: skip
def test_each_case_has_each_channel_once(images, channels, said):
    with pytest.raises(UserError) as raised:
        match_found(found_of(*images), found_of("a", "b"), Path("d"), channels)
    assert said in str(raised.value)


def test_without_a_case_there_is_nothing_to_check():
    assert match_found([], [], Path("d")) == ([], [])


def test_files_without_a_partner_and_of_no_format_are_named(maker):
    for name in ("a", "b"):
        maker.pair(name)
    images, labels = maker.folder / "images", maker.folder / "labels"
    assert match_cases(images, labels)[1] == ()
    for name in ("d.png", "c.jpg"):
        (images / name).write_bytes(b"x")
    said = "2 file(s) in images/ are left aside: c.jpg, d.png"
    assert match_cases(images, labels)[1] == (said,)
    (labels / "e.png").write_bytes(b"x")  # of the labels' folder nothing is said
    assert match_cases(images, labels, ending=".nii.gz")[1] == (said,)
    maker.write(labels / "e.nii.gz", maker.labels())
    with pytest.raises(
        UserError, match=r"e\.nii\.gz in .* have no partner: images/ and labels/ mu"
    ):
        match_cases(images, labels)
    with pytest.raises(
        UserError, match=r"labels holds no NIfTI, .* that ends in \.nrrd, but e\.pn"
    ):
        match_cases(images, labels, ending=".nrrd")
    (maker.folder / "none").mkdir()
    with pytest.raises(UserError, match=r"none holds no NIfTI, NRRD or DICOM image; put the image"):
        match_cases(images, maker.folder / "none")
    with pytest.raises(UserError, match=r"none holds .* image that ends in \.nii; put the images"):
        match_cases(images, maker.folder / "none", ending=".nii")


@pytest.mark.parametrize(("images", "labels"), pairs.PAIR_FOLDERS)
def test_each_pair_of_folders_is_a_layout(maker, images, labels):
    for name in ("a", "b"):
        maker.pair(name)
    (maker.folder / "images").rename(maker.folder / "x")
    (maker.folder / "labels").rename(maker.folder / labels)
    assert not _looks_known(maker.folder)
    (maker.folder / "x").rename(maker.folder / images)
    assert _looks_known(maker.folder)
    data = load(maker.folder, size=SIZE)
    assert data.layout == f"{images}/ and {labels}/ with NIfTI or NRRD files"
    assert data.name == maker.folder.name and data.label_source == "not stated"


@pytest.mark.parametrize("error", [OSError, UserError])
def test_a_folder_that_cannot_be_looked_into_is_not_known(tmp_path, monkeypatch, error):
    def fail(path):
        raise error("closed")

    assert _looks_known(tmp_path) is False
    monkeypatch.setattr("lmaunet.data.loaders.is_brats", fail)
    assert _looks_known(tmp_path) is False
    (tmp_path / "train_npz").mkdir()
    assert _looks_known(tmp_path) is True


@pytest.mark.parametrize(("millimetres", "good"), [(-1.0, False), (0, False), (float("nan"), False),
                                                   (0.25, True)])  # fmt: skip
def test_a_spacing_is_positive(maker, millimetres, good):
    maker.pair("a", labels=maker.labels((24, 6, 8)))
    if good:
        assert load(maker.folder, size=SIZE, spacing_mm=0.25, fit=True).resampled_mm == (0.25, 0.25)
        return
    with pytest.raises(
        UserError, match=f"spacing_mm={millimetres}; give a positive number of mill"
    ):
        load(maker.folder, size=SIZE, spacing_mm=millimetres)


def test_where_no_seed_is_given_it_is_0(maker):
    for name in "abcdefg":
        maker.pair(name)
    held = [
        set(load(maker.folder, size=SIZE, **o).val.cases) for o in ({}, {"seed": 0}, {"seed": 1})
    ]
    assert held[0] == held[1] != held[2]


def test_the_fetched_ct_has_a_map_of_its_own_and_is_checked(tmp_path):
    (tmp_path / SOURCE_FILE).write_text("{}")
    with pytest.raises(UserError, match=r"is the fetched CT, .*; leave out --class-map cardiac$"):
        load(tmp_path, size=SIZE, class_map="cardiac")
    with pytest.raises(UserError, match=r"SOURCE\.json is damaged \('sha256'\); run: lmaunet-depl"):
        load(tmp_path, size=SIZE)


def write_sets(folder, *names):
    rows = np.arange(2)
    for name in names:
        for role in ("train", "val"):
            half = {"image": np.eye(9)[None].repeat(2, 0), "patient": rows + 5 * (role == "val")}
            labels = np.ones((2, 9, 9), int)
            np.savez(folder / f"{name}_{role}.npz", label=labels, frame=rows, slice=rows, **half)


def test_a_folder_of_several_sets_asks_for_one(tmp_path):
    write_sets(tmp_path, "a")
    assert load(tmp_path, size=SIZE).name == "a"
    write_sets(tmp_path, "b", "c", "d")
    with pytest.raises(
        UserError, match=r"holds 4 sets \(a_train\.npz, b_train\.npz, c_train\.npz \.\."
    ):
        load(tmp_path, size=SIZE)
    assert load(tmp_path / "b_val.npz", size=SIZE).name == "b"
    assert load(tmp_path / "b_train.npz", size=SIZE).name == "b"
    (tmp_path / "b.npz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"b\.npz is a file; give a folder with one of"):
        load(tmp_path / "b.npz", size=SIZE)


def test_a_class_map_in_the_folder_gives_way_to_one_that_is_given(maker):
    maker.pair("a")
    content = {"classes": ["background", "one"], "codes": {"1": 1, "2": 1}}
    (maker.folder / "classes.json").write_text(json.dumps(content))
    assert load(maker.folder, size=SIZE).classes == ("background", "one")
    (maker.folder / "other.json").write_text(json.dumps(content | {"classes": ["background", "b"]}))
    given = load(maker.folder, size=SIZE, class_map=maker.folder / "other.json")
    assert given.classes == ("background", "b")
    assert load(maker.folder, size=SIZE, class_map="cardiac").classes[3] == "left ventricle"
