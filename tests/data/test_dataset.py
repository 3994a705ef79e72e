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


ZEROS = np.zeros


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        # a type, a number of axes and a length that are smaller than they should be, and larger
        ({"images": ZEROS((2, 1, 4, 5), np.float16)}, r"images \(2, 1, 4, 5\) float16; expected"),
        ({"images": ZEROS((2, 1, 4, 5), np.float64)}, r"images \(2, 1, 4, 5\) float64; expected"),
        ({"images": ZEROS((2, 1, 4), np.float32)}, r"images \(2, 1, 4\) float32; expected"),
        (
            {"images": ZEROS((2, 1, 1, 4, 5, 1), np.float32)},
            r"images \(2, 1, 1, 4, 5, 1\) float32; e",
        ),
        (
            {"labels": ZEROS((2, 4, 5), np.bool_)},
            r"labels \(2, 4, 5\) bool; expected \(2, 4, 5\) u",
        ),
        ({"labels": ZEROS((2, 4, 5), np.int8)}, r"labels \(2, 4, 5\) int8; expected \(2, 4, 5\) u"),
        (
            {"labels": ZEROS((2, 4, 5), np.int64)},
            r"labels \(2, 4, 5\) int64; expected \(2, 4, 5\) ",
        ),
        ({"labels": ZEROS((2, 4, 4), np.uint8)}, r"labels \(2, 4, 4\) uint8; expected \(2, 4, 5\)"),
        ({"labels": ZEROS((2, 4, 6), np.uint8)}, r"labels \(2, 4, 6\) uint8; expected \(2, 4, 5\)"),
        ({"labels": ZEROS((3, 4, 5), np.uint8)}, r"labels \(3, 4, 5\) uint8; expected \(2, 4, 5\)"),
        ({"cases": np.array(["a"])}, r"cases \(1,\), z \(2,\); expected \(2,\)"),
        ({"cases": np.array(["a"] * 3)}, r"cases \(3,\), z \(2,\); expected \(2,\)"),
        ({"z": np.arange(1)}, r"cases \(2,\), z \(1,\); expected \(2,\)"),
        ({"z": np.arange(3)}, r"cases \(2,\), z \(3,\); expected \(2,\)"),
    ],
)
def test_whatever_is_too_small_or_too_large_is_no_set_of_slices(changes, said):
    fields = {
        "images": ZEROS((2, 1, 4, 5), np.float32), "labels": ZEROS((2, 4, 5), np.uint8),
        "cases": np.array(["a", "b"]), "z": np.arange(2),
    }  # fmt: skip
    SliceSet(**fields)
    with pytest.raises(ValueError, match=f"^{said}"):
        SliceSet(**fields | changes)


@pytest.mark.parametrize("channels", [(), ("a", "b")])
def test_channels_are_as_many_as_the_images_have_on_either_side(channels):
    one, two = slice_set([0]), slice_set([5], case="b")
    more = dataclasses.replace(two, images=np.zeros((1, 2, 4, 4), np.float32))
    with pytest.raises(ValueError, match=r"images \(1, 1, 4, 4\) of channels"):
        dataset(one, two, channels=channels)
    with pytest.raises(ValueError, match=r"images \(1, 2, 4, 4\) of channels \('image',\)"):
        dataset(one, more)


def test_hundreds_of_channels_are_counted_too():
    many = tuple(f"c{i}" for i in range(300))
    sides = (dataclasses.replace(side, images=np.zeros((1, 300, 4, 4), np.float32))
             for side in (slice_set([0]), slice_set([5], case="b")))  # fmt: skip
    assert dataset(*sides, channels=many).channels == many


def test_a_label_of_the_held_out_side_is_held_to_the_classes_too():
    dataset(slice_set([0]), slice_set([5], case="b", label=1))
    with pytest.raises(ValueError, match="label 2 of 2 classes"):
        dataset(slice_set([0]), slice_set([5], case="b", label=2))


@pytest.mark.parametrize(
    ("name", "source", "good"),
    [("a synthetic x", "synthetic y", True), ("x", "synthetic y", False),
     ("a synthetic x", "y", False)],
)  # fmt: skip
def test_what_is_synthetic_says_so_twice(name, source, good):
    sides = slice_set([0]), slice_set([5])
    dataset(*sides, name=name, label_source=source)
    if good:
        assert dataset(*sides, name=name, label_source=source, synthetic=True).synthetic
        return
    with pytest.raises(ValueError, match="is synthetic; its name and label source must say so"):
        dataset(*sides, name=name, label_source=source, synthetic=True)


def test_a_data_set_counts_pixels_and_slices_and_tells_of_itself():
    train, val = slice_set([0, 1, 2]), slice_set([0, 1], case="b")
    train.labels[0] = 0
    train.labels[1, 0, :3] = 0
    data = dataset(train, val, spacing_mm=(3.0, float("nan"), 2.0), notes=("n",), layout="l",
                   told_apart="by name", patients={"a": "p"}, split="s")  # fmt: skip
    assert data.counts() == {
        "train": {"background": {"pixels": 19, "slices": 2}, "a": {"pixels": 29, "slices": 2}},
        "val": {"background": {"pixels": 0, "slices": 0}, "a": {"pixels": 32, "slices": 2}},
    }
    assert data.to_json() == {
        "name": "x", "label_source": "y", "synthetic": False, "classes": ["background", "a"],
        "split": "s", "layout": "l", "spacing_mm": [3.0, None, 2.0], "normalization": {},
        "channels": ["image"], "patients": {"train": 1, "val": 1, "told_apart": "by name"},
        "cases": {"train": ["a"], "val": ["b"]}, "slices": {"train": 3, "val": 2}, "notes": ["n"],
    }  # fmt: skip


def test_what_is_not_said_of_a_data_set_is_nothing():
    data = dataset(slice_set([0]), slice_set([1], case="b"))
    plain = Dataset("x", "y", ("background", "a"), (1.0, 1.0, 1.0), data.train, data.val, "", False,
                    {})  # fmt: skip
    assert (plain.layout, plain.gap, plain.notes, plain.case_spacing_mm) == ("", 0, (), {})
    assert (plain.resampled_mm, plain.fit, plain.intensity) == (None, False, ())
    assert (plain.channels, plain.patients, plain.told_apart) == (("image",), {}, "")


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
