"""``NAME_train.npz`` with ``NAME_val.npz``, and files that are damaged."""

import json
import zipfile

import numpy as np
import pytest

from lmaunet.data.layouts.arrays import _highest_code
from lmaunet.data.loaders import load
from lmaunet.errors import UserError

SIZE = (16, 16)


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


def test_half_a_set_is_refused(tmp_path):
    (write_patients(tmp_path) / "heart_val.npz").unlink()
    with pytest.raises(UserError, match=r"heart_val\.npz does not exist; both halves"):
        load(tmp_path, size=SIZE)


@pytest.mark.parametrize(("highest", "good"), [(0, False), (1, True), (254, True), (255, False)])
def test_the_highest_label_is_1_to_254(tmp_path, highest, good):
    codes = np.array([0, highest])
    if good:
        assert _highest_code(codes, tmp_path) == highest
        return
    with pytest.raises(UserError, match=f"the highest label is {highest}; expected 1 to 254, or a"):
        _highest_code(codes, tmp_path)


def test_what_is_not_said_of_a_set_is_told_of_its_files(tmp_path):
    data = load(write_patients(tmp_path, train=(1, 12), val=(345,)), size=SIZE)
    assert data.layout == "NAME_train.npz and NAME_val.npz"
    assert (data.label_source, data.told_apart) == (
        "as in the files", "told apart by the numbers in the files"
    )  # fmt: skip
    assert set(data.patients.values()) == {"patient001", "patient012", "patient345"}
    assert sorted(set(data.train.cases)) == [
        f"patient{p}_frame0{f}" for p in ("001", "012") for f in (1, 9)
    ]  # fmt: skip
    assert data.normalization == {"kind": "zscore"} and np.isnan(data.spacing_mm).all()
    (tmp_path / "c.json").write_text(json.dumps({
        "classes": ["b", "o"], "codes": {"1": 1, "2": 1, "3": 1}, "name": "n", "label_source": "l",
        "normalization": {"kind": "none"},
    }))  # fmt: skip
    data = load(tmp_path, size=SIZE, class_map=tmp_path / "c.json")
    assert (data.name, data.label_source, data.normalization) == ("n", "l", {"kind": "none"})


def test_slices_without_a_label_all_stay(tmp_path):
    data = load(write_patients(tmp_path, label=np.zeros((12, 20, 20), np.uint8), val=(3, 4)),
                size=SIZE, class_map="cardiac")  # fmt: skip
    assert len(data.train) == 12


@pytest.mark.parametrize("shape", [(11,), (13,), (12, 1), ()])
@pytest.mark.parametrize("key", ["patient", "frame", "slice"])
def test_there_is_a_number_for_each_slice(tmp_path, key, shape):
    with pytest.raises(UserError, match=rf"{key} of shape \(.*\); expected \(12,\)$"):
        load(write_patients(tmp_path, **{key: np.zeros(shape, int)}), size=SIZE)
