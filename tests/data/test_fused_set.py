"""``data fuse``: data sets whose modalities lie on unlike grids, written on one for each case."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK

from lmaunet.data import fused_set
from lmaunet.data.fused_set import fuse_set
from lmaunet.data.loaders import load
from lmaunet.errors import UserError

SHAPE, SPACING = (12, 20, 24), (4.0, 2.0, 2.0)
NAMES = ("t1", "t1ce", "t2", "flair", "seg")
DATASET = {
    "channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "organ": 1},
    "numTraining": 3, "file_ending": ".nii.gz",
}  # fmt: skip


def quiet(share, line):
    pass


def write(path, array, spacing=SPACING, origin=(0.0, 0.0, 0.0), orientation="LPS"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, orientation), str(path))


def labels_of(seed):
    labels = np.zeros(SHAPE, np.uint8)
    y = 4 + seed
    labels[3:9, y : y + 6, 6:14] = 1
    return labels


def on_a_finer_grid(labels, level):
    """Values at half the spacing in the plane, in the same place."""
    fine = (level * (1.0 + labels)).repeat(2, 1).repeat(2, 2).astype(np.float32)
    return fine, (4.0, 1.0, 1.0), (-0.5, -0.5, 0.0)


def brats(folder, cases=4, orientation="LPS"):
    for number in range(cases):
        name, labels = f"BraTS20_Training_{number + 1:03d}", labels_of(number)
        for index, contrast in enumerate(NAMES):
            path = folder / name / f"{name}_{contrast}.nii.gz"
            if contrast == "seg":
                write(path, labels, orientation=orientation)
            elif contrast == "t2":
                array, spacing, origin = on_a_finer_grid(labels, 100.0)
                write(path, array, spacing, origin, "RAS")
            else:
                write(path, (100.0 * (index + 1) + 50 * labels).astype(np.float32),
                      orientation=orientation)  # fmt: skip
    return folder


def nnunet(folder, cases=3):
    for number in range(cases):
        labels = labels_of(number)
        write(folder / "labelsTr" / f"case{number}.nii.gz", labels)
        write(folder / "imagesTr" / f"case{number}_0000.nii.gz", (9 + labels).astype(np.float32))
        array, spacing, origin = on_a_finer_grid(labels, 30.0)
        write(folder / "imagesTr" / f"case{number}_0001.nii.gz", array, spacing, origin)
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    return folder


def read(path):
    image = SimpleITK.ReadImage(str(path))
    return SimpleITK.GetArrayFromImage(image), image


@pytest.mark.parametrize("orientation", ["LPS", "RAI"])
def test_brats_on_unlike_grids(tmp_path, orientation):
    source = brats(tmp_path / "brats", orientation=orientation)
    with pytest.raises(UserError, match=r"t2\.nii\.gz lies on another grid.*data fuse DIR -o NEW"):
        load(source, size=(20, 24))
    content = fuse_set(source, tmp_path / "new", register=False, say=quiet)
    assert json.loads((tmp_path / "new" / "fusion.json").read_text()) == content
    hows = [row["how"] for row in content["cases"][0]["images"]]
    assert hows == ["as it is", "as it is", "resampled", "as it is"]
    for place in sorted(source.iterdir()):
        for contrast in NAMES:
            name = f"{place.name}/{place.name}_{contrast}.nii.gz"
            if contrast != "t2":
                assert (source / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
        labels, grid = read(tmp_path / "new" / place.name / f"{place.name}_seg.nii.gz")
        t2, own = read(tmp_path / "new" / place.name / f"{place.name}_t2.nii.gz")
        assert own.GetSize() == grid.GetSize() and np.allclose(own.GetOrigin(), grid.GetOrigin())
        np.testing.assert_allclose(t2, 100.0 * (1 + labels), atol=1e-3)
    data = load(tmp_path / "new", size=(20, 24))
    assert data.channels[2] == "T2" and data.train.images.shape[1] == 4


def test_nnunets_raw_folder(tmp_path):
    source = nnunet(tmp_path / "raw")
    (source / "splits_final.json").write_text(
        json.dumps([{"train": ["case0", "case1"], "val": ["case2"]}])
    )
    fuse_set(source, tmp_path / "new", register=False, say=quiet)
    data = load(tmp_path / "new", size=(20, 24))
    assert data.channels == ("T1", "T2") and set(data.val.cases) == {"case2"}
    array, _ = read(tmp_path / "new/imagesTr/case1_0001.nii.gz")
    np.testing.assert_allclose(array, 30.0 * (1 + labels_of(1)), atol=1e-3)


def test_what_is_registered_is_registered_onto_an_image_on_the_labels_grid(tmp_path, monkeypatch):
    calls = []

    def register(fixed, moving, name, onto, say):
        calls.append((name.rpartition("_")[2], onto.rpartition("_")[2]))
        raise UserError("looks wrong")

    monkeypatch.setattr("lmaunet.data.images.registration.register", register)
    source = nnunet(tmp_path / "raw")
    with pytest.raises(UserError, match="looks wrong"):
        fuse_set(source, tmp_path / "new", register=True, say=quiet)
    assert calls == [("0001.nii.gz", "0000.nii.gz")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]  # nothing is left of it


def alone(folder):
    for number in range(2):
        write(folder / "images" / f"c{number}.nii.gz", labels_of(number).astype(np.float32))
        write(folder / "labels" / f"c{number}.nii.gz", labels_of(number))
    return folder


def no_reference(folder):
    nnunet(folder)
    for path in (folder / "imagesTr").glob("*_0000.nii.gz"):
        path.write_bytes(path.with_name(path.name.replace("0000", "0001")).read_bytes() + b"")
    return folder


@pytest.mark.parametrize(
    ("make", "register", "text"),
    [
        (alone, False, "one image for each case; there is nothing to fuse"),
        (no_reference, True, r"no image lies on the grid of"),
        (lambda f: f, False, "is no folder"),
        (lambda f: f.mkdir() or f, False, "has no layout whose images can be fused"),
    ],
)
def test_what_cannot_be_fused_is_refused(tmp_path, make, register, text):
    source = make(tmp_path / "data")
    with pytest.raises(UserError, match=text):
        fuse_set(source, tmp_path / "new", register=register, say=quiet)
    assert not (tmp_path / "new").exists() and not (tmp_path / ".new.partial").exists()


def test_an_output_is_never_overwritten_nor_put_into_the_data(tmp_path):
    source = nnunet(tmp_path / "raw")
    (tmp_path / "new").mkdir()
    for place, text in ((tmp_path / "new", "exists; name"), (source / "new", "lies in")):
        with pytest.raises(UserError, match=text):
            fuse_set(source, place, register=False, say=quiet)


def test_what_was_written_is_read_back(tmp_path, mutant_of):
    mutant = mutant_of(
        fused_set, "to_sitk(image.array, wanted)", "to_sitk(image.array[::-1].copy(), wanted)"
    )
    source = nnunet(tmp_path / "raw")
    with pytest.raises(UserError, match="does not read back"):
        mutant.fuse_set(source, tmp_path / "new", register=False, say=quiet)
    assert not (tmp_path / "new").exists()
