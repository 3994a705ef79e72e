"""BraTS of both kinds of names: four modalities, labels of both kinds, non-zero voxels."""

import numpy as np
import pytest

from lmaunet.data.layouts.brats import is_brats
from lmaunet.data.loaders import load
from lmaunet.errors import UserError

NAMES = {"2020": ("_t1", "_t1ce", "_t2", "_flair", "_seg"),
         "2023": ("-t1n", "-t1c", "-t2w", "-t2f", "-seg")}  # fmt: skip
ENHANCING = {"2020": 4, "2023": 3}
CASES = {"2020": [f"BraTS20_Training_{i:03d}" for i in range(1, 6)],
         "2023": ["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000",
                  "BraTS-GLI-00003-000"]}  # fmt: skip


@pytest.fixture
def brats(maker):
    def write(year, suffix=".nii.gz", cases=None):
        codes = np.array([0, 1, 2, ENHANCING[year]], np.uint8)
        for case in cases or CASES[year]:
            labels = maker.labels((16, 24, 20))
            labels[5:9, 12:16, 10:14] = 3
            for index, name in enumerate(NAMES[year]):
                image = 200 * (index + 1) + 50.0 * labels + maker.rng.normal(0, 9, labels.shape)
                image[:, :2] = 0  # no brain there
                content = codes[labels] if name.endswith("seg") else image.astype(np.int16)
                maker.write(maker.folder / case / f"{case}{name}{suffix}", content)
        return maker.folder

    return write


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
@pytest.mark.parametrize("year", NAMES)
def test_both_kinds_are_read(brats, year, suffix, maker):
    folder = brats(year, ".nii.gz" if suffix.isupper() else suffix)
    if suffix.isupper():
        for path in folder.glob("*/*.nii.gz"):
            path.rename(path.with_name(path.name.replace(".nii.gz", suffix)))
    (folder / "name_mapping.csv").write_text("a,b")
    (folder / CASES[year][0] / "._x_t1.nii.gz").write_bytes(b"junk")
    data = load(folder, size=(24, 20))
    assert data.channels == ("T1", "T1 with contrast", "T2", "FLAIR")
    assert data.classes == (
        "background", "necrotic tumour core", "oedema", "enhancing tumour"
    )  # fmt: skip
    assert set(np.unique(data.val.labels)) == {0, 1, 2, 3} == set(np.unique(data.train.labels))
    assert data.normalization == {"kind": "zscore_nonzero"}
    images = data.train.images
    assert images.shape[1:] == (4, 24, 20) and not images[:, :, :2].any()
    first = images[data.train.cases == data.train.cases[0]]
    brain = first[:, :, 2:]
    assert (
        np.abs(brain.mean((0, 2, 3))).max() < 0.2 and np.abs(brain.std((0, 2, 3)) - 1).max() < 0.2
    )


@pytest.mark.parametrize("year", NAMES)
def test_the_modalities_are_in_the_order_that_is_said(brats, year):
    """T1 is 200, T1 with contrast 400, T2 600, FLAIR 800; only their order tells them apart."""
    import json

    folder = brats(year)
    (folder / "classes.json").write_text(json.dumps({
        "classes": ["background", "a"], "codes": {"1": 1, "2": 1, "3": 1, "4": 1},
        "normalization": {"kind": "none"}, "name": "mine", "label_source": "readers",
    }))  # fmt: skip
    data = load(folder, size=(24, 20))
    values = np.median(data.train.images[:, :, 2:], (0, 2, 3))
    assert np.allclose(values, [200, 400, 600, 800], atol=40)
    assert data.classes == ("background", "a") and data.name == "mine"


def test_time_points_of_one_patient_stay_together(brats):
    folder = brats("2023")
    for seed in range(4):
        data = load(folder, size=(24, 20), seed=seed)
        sides = [{str(c)[:15] for c in side.cases} for side in (data.train, data.val)]
        assert not sides[0] & sides[1]
    assert data.patients["brats-gli-00001-001"] == "brats-gli-00001"
    assert "brats-gli-00001-000 and brats-gli-00001-001 are of" in data.split


def test_label_3_of_the_older_kind_is_not_taken_for_4(brats, maker):
    folder = brats("2020")
    path = folder / CASES["2020"][1] / f"{CASES['2020'][1]}_seg.nii.gz"
    labels = maker.labels((16, 24, 20))
    labels[0, 0, :7] = 3
    maker.write(path, labels)
    with pytest.raises(UserError, match=r"002_seg\.nii\.gz: label 3 is beyond the 4 classes \(known"
                       r" codes: 0, 1, 2, 4\): 7 pixel\(s\) have label 3"):  # fmt: skip
        load(folder, size=(24, 20))


@pytest.mark.parametrize(
    ("gone", "text"),
    [("_t1ce", r"BraTS20_Training_002 has no t1ce \(BraTS20_Training_002_t1ce\.nii\.gz\); add"),
     ("_seg", r"002 has no seg \(.*\); add or rename it, or remove the case")],
)  # fmt: skip
def test_what_a_case_lacks_is_named(brats, gone, text):
    folder = brats("2020")
    case = CASES["2020"][1]
    (folder / case / f"{case}{gone}.nii.gz").unlink()
    with pytest.raises(UserError, match=text):
        load(folder, size=(24, 20))


def test_a_segmentation_of_another_name_is_shown(brats):
    folder = brats("2020")
    case = CASES["2020"][1]
    (folder / case / f"{case}_seg.nii.gz").rename(folder / case / "W39_Segm.nii.gz")
    with pytest.raises(UserError, match=r"has no seg \(.*\); it also holds W39_Segm\.nii\.gz; add"):
        load(folder, size=(24, 20))


def test_other_folders_and_mixed_names_are_refused(brats, maker):
    folder = brats("2020")
    (folder / "notes").mkdir()
    with pytest.raises(UserError, match="notes holds no BraTS modality; expected notes_t1 and so"):
        load(folder, size=(24, 20))
    (folder / "notes").rmdir()
    brats("2023")
    with pytest.raises(UserError, match="mixes two kinds of BraTS, whose labels differ"):
        load(folder, size=(24, 20))


def test_two_files_of_one_modality_and_another_grid_are_refused(brats, maker):
    folder = brats("2020")
    place = folder / CASES["2020"][0]
    image = maker.image(maker.labels((16, 24, 20)))
    path = maker.write(place / f"{place.name}_t2.nii", image)
    with pytest.raises(UserError, match="are the same modality of one case; expected one file"):
        load(folder, size=(24, 20))
    path.unlink()
    maker.write(place / f"{place.name}_t2.nii.gz", image, spacing=(3.0, 3.0, 2.0))
    with pytest.raises(UserError, match=r"001_t2\.nii\.gz lies on another grid .*data fuse"):
        load(folder, size=(24, 20))


@pytest.mark.parametrize(("year", "kept"), [("2020", ", label 4 read as class 3"), ("2023", "")])
def test_a_layout_says_its_year(brats, year, kept):
    data = load(brats(year), size=(24, 20))
    assert data.layout == f"BraTS, files named as in {year}{kept}"
    assert data.name == brats(year).name and data.label_source == "not stated"
    assert set(data.train.cases) | set(data.val.cases) == {case.lower() for case in CASES[year]}


def test_two_modalities_make_a_case(maker):
    assert not is_brats(maker.folder)
    (maker.folder / "a").mkdir()
    for name, enough in (("x_t1", False), ("x", False), ("t1", False), ("x-SEG", True)):
        maker.write(maker.folder / "c" / f"{name}.nii", maker.labels((4, 12, 14)))
        assert is_brats(maker.folder) is enough
