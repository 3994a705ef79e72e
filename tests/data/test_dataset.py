"""The common form, and the real CT where it has been fetched."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lmaunet.data.class_map import SYNAPSE_CLASSES
from lmaunet.data.dataset import Dataset, SliceSet
from lmaunet.data.fetch import info
from lmaunet.data.loaders import load
from lmaunet.errors import UserError

CT = Path(__file__).parents[2] / "calibration_data"


def slice_set(z, case="a", label=1):
    n = len(z)
    labels = np.full((n, 4, 4), label, np.uint8)
    return SliceSet(np.zeros((n, 1, 4, 4), np.float32), labels, np.array([case] * n), np.array(z))


def dataset(train, val, **changes):
    fixed = {"name": "x", "label_source": "y", "classes": ("background", "a"),
             "spacing_mm": (1.0, 1.0, 1.0), "split": "", "synthetic": False,
             "normalization": {}, "gap": 2}  # fmt: skip
    return Dataset(train=train, val=val, **{**fixed, **changes})


def test_a_slice_on_both_sides_or_within_the_gap_is_never_a_dataset():
    dataset(slice_set([0, 1, 2]), slice_set([5, 6]))
    dataset(slice_set([0, 1, 2]), slice_set([0, 1], case="b"))
    with pytest.raises(ValueError, match="2 apart; expected more than 2"):
        dataset(slice_set([0, 1, 2]), slice_set([4, 6]))
    with pytest.raises(ValueError, match="0 apart; expected more than 0"):
        dataset(slice_set([0, 1]), slice_set([1]), gap=0)


def test_a_patient_on_both_sides_is_never_a_dataset():
    apart = {"a": "p", "b": "q"}
    sides = slice_set([0, 1]), slice_set([0, 1], case="b")
    assert dataset(*sides, patients=apart).patients_of("val") == ["q"]
    with pytest.raises(ValueError, match="patient p trains and validates"):
        dataset(*sides, patients={"a": "p", "b": "p"})
    with pytest.raises(ValueError, match="patient p1 trains and validates"):
        dataset(slice_set([0], case="p1_frame01"), slice_set([0], case="p1_frame02"))
    with pytest.raises(ValueError, match=r"images \(2, 1, 4, 4\) of channels \('a', 'b'\)"):
        dataset(*sides, channels=("a", "b"))


def test_labels_and_shapes_are_held_by_the_types():
    with pytest.raises(ValueError, match="label 2 of 2 classes"):
        dataset(slice_set([0], label=2), slice_set([5]))
    good = slice_set([0, 1])
    with pytest.raises(ValueError, match=r"labels \(2, 4, 3\) uint8; expected \(2, 4, 4\) uint8"):
        dataclasses.replace(good, labels=good.labels[:, :, :3])
    with pytest.raises(ValueError, match="float64; expected float32 4-D"):
        dataclasses.replace(good, images=good.images.astype(float))
    with pytest.raises(ValueError, match=r"z \(1,\); expected \(2,\)"):
        dataclasses.replace(good, z=good.z[:1])
    assert good.take(np.array([1])).z.tolist() == [1] and len(good) == 2


def test_importing_loads_no_torch_and_no_reader():
    code = (
        "import sys, lmaunet.data.dataset, lmaunet.data.fetch, lmaunet.data.augment, "
        "lmaunet.data.loaders, lmaunet.data.inference; "
        "print([m for m in ('torch', 'SimpleITK', 'h5py', 'monai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def ct():
    if not info(CT)["complete"]:
        pytest.skip(f"{CT.name}: {info(CT)['problem']}")
    return load(CT, size=(128, 128), classes=9)


def test_the_real_ct_has_every_organ_on_both_sides(ct):
    assert ct.classes == SYNAPSE_CLASSES and not ct.synthetic
    counts = ct.counts()
    for side in ("train", "val"):
        assert min(entry["pixels"] for entry in counts[side].values()) > 100
    assert 15 <= len(ct.val) <= 20 and set(ct.val.cases) == {"ct"}
    own = ct.train.z[ct.train.cases == "ct"]
    assert np.abs(own[:, None] - ct.val.z[None]).min() > 2
    assert ct.label_source == "TotalSegmentator (a model's output, not a radiologist)"


def test_labels_of_the_real_ct_lie_on_their_organs(ct):
    # In HU, liver, spleen and kidneys are soft tissue: almost no fat, air or bone lies in them.
    scale = ct.normalization
    for case in ("ct", "ct_dicom"):
        mine = ct.train.cases == case
        unit = ct.train.images[mine, 0] * scale["std"] + scale["mean"]
        hu = unit * (scale["high"] - scale["low"]) + scale["low"]
        organ = np.isin(ct.train.labels[mine], [ct.classes.index(n) for n in ("liver", "spleen")])
        soft = (hu > 0) & (hu < 250)
        assert soft[organ].mean() > 0.97
        assert soft[organ[:, ::-1]].mean() < 0.9  # labels mirrored in y, as the DICOM's are stored


def test_the_real_ct_refuses_a_changed_file(ct, tmp_path):
    for path in CT.iterdir():
        if path.name != "example_ct.nii.gz":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match=r"example_ct\.nii\.gz missing or changed; run: lmaunet"):
        load(tmp_path, size=(128, 128))
