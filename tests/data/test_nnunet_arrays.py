"""nnU-Net's raw folder: what dataset.json says is done, what cannot be done is refused."""

import json
import shutil

import numpy as np
import pytest

from lmaunet.data import normalization as norm
from lmaunet.data.class_map import read_class_map
from lmaunet.data.dataset_json import read_dataset_json
from lmaunet.data.layouts.cases import Case, _by_values, labelled_window
from lmaunet.data.loaders import load
from lmaunet.data.source import Volume
from lmaunet.errors import UserError

SIZE = (16, 16)
LABELS = {"background": 0, "liver": 1, "tumour": 2}
GRID = {"spacing": (3.0, 1.5, 1.0)}


@pytest.fixture
def raw(maker):
    """A function that writes a raw folder of some channels and returns it."""

    def write(channels=("T1", "T2"), cases=("c0", "c1", "c2"), suffixed=True, **content):
        for case in cases:
            labels = maker.labels()
            for index in range(len(channels)):
                name = f"{case}_{index:04d}" if suffixed else case
                image = maker.image(labels) * (index + 1)
                maker.write(maker.folder / "imagesTr" / f"{name}.nii.gz", image, **GRID)
            maker.write(maker.folder / "labelsTr" / f"{case}.nii.gz", labels, **GRID)
        said = {
            "channel_names": {str(i): name for i, name in enumerate(channels)},
            "labels": LABELS, "numTraining": len(cases), "file_ending": ".nii.gz", **content,
        }  # fmt: skip
        said = {key: value for key, value in said.items() if value is not None}
        (maker.folder / "dataset.json").write_text(json.dumps(said))
        return maker.folder

    return write


def test_names_channels_and_normalization_are_those_of_dataset_json(raw, maker):
    folder = raw()
    maker.write(folder / "imagesTs" / "t_0000.nii.gz", maker.image(maker.labels()))
    data = load(folder, size=SIZE)
    assert data.classes == ("background", "liver", "tumour") and data.channels == ("T1", "T2")
    assert data.layout == "nnU-Net's raw folder (imagesTr/, labelsTr/ and dataset.json)"
    assert data.train.images.shape[1:] == (2, 16, 16) and data.notes == ()
    kinds = [n["kind"] for n in data.normalization["channels"]]
    assert kinds == ["zscore_volume"] * 2
    assert data.to_json()["channels"] == ["T1", "T2"]


@pytest.mark.parametrize("suffix", ["", "_0000"])
def test_one_channel_with_or_without_its_number(raw, suffix):
    data = load(raw(("MRI",), suffixed=bool(suffix)), size=SIZE)
    assert data.train.images.shape[1] == 1 and data.normalization == {"kind": "zscore_volume"}
    assert set(data.train.cases) | set(data.val.cases) == {"c0", "c1", "c2"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("noNorm", "none"), ("zscore", "zscore_volume"), ("rescale_to_0_1", "rescale"),
     ("RGB_to_0_1", "window"), ("whatever", "zscore_volume")],
)  # fmt: skip
def test_normalization_by_the_channels_name(raw, name, kind):
    assert load(raw((name,)), size=SIZE).normalization["kind"] == kind


def test_ct_is_clipped_to_percentiles_of_what_is_labelled_in_training(raw, maker):
    folder = raw(("CT",), cases=("c0", "c1"))
    seen = load(folder, size=SIZE)
    held = str(seen.val.cases[0])
    # the held-out case must not count: its values are moved far away
    labels = maker.labels()
    path = folder / "imagesTr" / f"{held}_0000.nii.gz"
    maker.write(path, maker.image(labels) + 5000, **GRID)
    again = load(folder, size=SIZE).normalization
    assert again["kind"] == "window" and again == seen.normalization
    # organs have 40 and 160 with deviation 3
    assert 30 < again["low"] < 38 and 162 < again["high"] < 172
    assert any("percentiles 0.5 and 99.5 of the labelled voxels that tr" in n for n in seen.notes)


@pytest.mark.parametrize(
    ("inside", "window"),
    [([70, 70, 70, 70], norm.ABDOMEN_WINDOW_HU), ([70, 70.4, 70.6, 70.9], norm.ABDOMEN_WINDOW_HU),
     ([70, 70, 90, 90], (70, 90))],
)  # fmt: skip
def test_labelled_voxels_of_one_value_are_no_window(inside, window):
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 1] = 1
    image = np.full((1, 4, 4), -1000.0, np.float32)
    image[0, 1] = inside
    found = labelled_window([Volume("a", "train", labels, (lambda: image,))], 0)
    assert (found["low"], found["high"]) == pytest.approx(window, abs=0.5)


def test_the_window_of_ct_is_of_its_own_channel(raw):
    kept = load(raw(("T1", "CT"), cases=("c0", "c1")), size=SIZE).normalization["channels"]
    assert kept[0] == {"kind": "zscore_volume"}
    # the second channel is twice the first
    assert 60 < kept[1]["low"] < 76 and 324 < kept[1]["high"] < 344


def test_version_1_has_values_as_keys(raw):
    folder = raw(
        ("x",), channel_names=None, modality={"0": "MRI"}, file_ending=None,
        labels={"0": "background", "1": "liver", "2": "tumour"}, numTraining=99,
        training=[{"image": "./imagesTr/c0.nii.gz", "label": "./labelsTr/c0.nii.gz"}],
    )  # fmt: skip
    data = load(folder, size=SIZE)
    assert data.classes == ("background", "liver", "tumour") and data.channels == ("MRI",)
    assert data.notes == ("dataset.json says 99 training cases; there are 3",)


def test_files_may_be_listed(raw):
    folder = raw()
    listed = {
        case: {
            "images": [f"imagesTr/{case}_{i:04d}.nii.gz" for i in (1, 0)],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in ("c0", "c2")
    }
    shutil.move(folder / "labelsTr" / "c1.nii.gz", folder / "elsewhere.nii.gz")
    data = load(raw(dataset=listed, numTraining=2), size=SIZE)
    assert set(data.train.cases) | set(data.val.cases) == {"c0", "c2"}
    assert data.notes == ("cases are the 2 that dataset.json lists",)
    listed["c2"]["label"] = "labelsTr/c9.nii.gz"
    with pytest.raises(UserError, match=r"lists .*c9\.nii\.gz, which does not exist"):
        load(raw(dataset=listed), size=SIZE)
    listed["c2"]["images"] = listed["c2"]["images"][:1]
    with pytest.raises(UserError, match=r"case 'c2' has 1 image\(s\); expected 2, one for each"):
        load(raw(dataset=listed), size=SIZE)


def test_a_class_map_overrules_the_names(raw):
    folder = raw()
    (folder / "classes.json").write_text(
        json.dumps({"classes": ["background", "Leber"], "codes": {"1": 1, "2": 1}})
    )
    data = load(folder, size=SIZE)
    assert data.classes == ("background", "Leber") and data.channels == ("T1", "T2")
    assert "class names are those of the class map, not of dataset.json" in data.notes


def test_dataset_json_is_a_class_map(raw, maker):
    path = raw() / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_class_map(path).classes == ("background", "liver", "tumour")
    shutil.rmtree(maker.folder / "imagesTr")
    for name in ("a", "b"):
        maker.pair(name)
    data = load(maker.folder, size=SIZE, class_map=read_path(path, maker))
    assert data.classes == ("background", "liver", "tumour")


def read_path(path, maker):
    """Move dataset.json away, so that it is a class map only; it is of one channel then."""
    content = json.loads(path.read_text(encoding="utf-8-sig")) | {"channel_names": {"0": "CT"}}
    path.unlink()
    path = maker.folder / "elsewhere.json"
    path.write_text(json.dumps(content))
    return path


def test_a_network_of_other_channels_is_told_all_that_it_needs(raw):
    from lmaunet.deploy.runs import DataSource
    from lmaunet.spec import named_spec

    source, demo = DataSource(raw()), named_spec("demo")
    wanted = r"spec demo takes 1 .*T1, T2\); use a network trained with --channels 2 --classes 3$"
    with pytest.raises(UserError, match=wanted):
        source.load(demo)
    fitting = demo.replace(in_channels=2, classes=3, input_size=(32, 32))
    assert source.load(fitting).train.images.shape[1:] == (2, 32, 32)


def test_a_channel_that_is_missing_is_named(raw):
    folder = raw()
    (folder / "imagesTr" / "c1_0001.nii.gz").unlink()
    with pytest.raises(UserError, match=r"case 'c1' in .*imagesTr has no channel 1 \(a file that"):
        load(folder, size=SIZE)
    folder = raw(("T1", "T2", "T3"), channel_names={"0": "T1", "1": "T2"})
    with pytest.raises(UserError, match=r"case 'c0' in .* has 3 images \(c0_0000.*; expected 2"):
        load(folder, size=SIZE)


def test_channels_must_lie_on_the_grid_of_the_labels(raw, maker):
    folder = raw()
    path = folder / "imagesTr" / "c1_0001.nii.gz"
    maker.write(path, maker.image(maker.labels()), spacing=(3.0, 1.0, 1.5))
    with pytest.raises(UserError, match=r"c1_0001\.nii\.gz lies on another grid than .*c1\.nii"):
        load(folder, size=SIZE)


def test_another_file_ending_is_left_aside_or_refused(raw, maker):
    folder = raw()
    maker.write(folder / "imagesTr" / "c0_0002.nrrd", maker.image(maker.labels()))
    notes = load(folder, size=SIZE).notes
    assert notes == ("1 file(s) in imagesTr/ are left aside: c0_0002.nrrd",)
    with pytest.raises(UserError, match=r"holds no .* that ends in \.mha, but c0\.nii\.gz, c1"):
        load(raw(file_ending=".mha"), size=SIZE)
    with pytest.raises(UserError, match=r"file_ending '\.png' is not read; expected one of \.nii"):
        load(raw(file_ending=".png"), size=SIZE)
    shutil.rmtree(raw() / "labelsTr")
    with pytest.raises(UserError, match="has imagesTr/ but no labelsTr/"):
        load(folder, size=SIZE)


def test_pairs_take_channels_too_and_names_that_end_in_numbers(maker):
    for case in ("amos_0000", "amos_0001", "amos_0002"):
        maker.pair(case, **GRID)
    data = load(maker.folder, size=SIZE)
    assert data.channels == ("image",) and len(set(data.train.cases) | set(data.val.cases)) == 3
    for case in ("amos_0000", "amos_0001", "amos_0002"):
        for channel in ("0000", "0001"):
            path = maker.folder / "images" / f"{case}_{channel}.nii.gz"
            maker.write(path, maker.image(maker.labels()), **GRID)
        (maker.folder / "images" / f"{case}.nii.gz").unlink()
    data = load(maker.folder, size=SIZE)
    assert data.channels == ("channel 0", "channel 1")
    assert np.abs(data.train.images[:, 0] - data.train.images[:, 1]).max() > 0


def test_a_name_that_looks_like_a_channel_of_another_is_a_case(maker):
    for case in ("case", "case_0001", "case_0002"):
        maker.pair(case, **GRID)
    data = load(maker.folder, size=SIZE)
    assert set(data.train.cases) | set(data.val.cases) == {"case", "case_0001", "case_0002"}


REFUSED = [
    ({"labels": None}, "is no dataset.json of nnU-Net"),
    ({"labels": []}, "is no dataset.json of nnU-Net"),
    ({"labels": {}}, "0 classes; expected 2 to 255"),
    ({"labels": {"background": 0}}, "1 classes; expected 2"),
    ({"labels": {"background": 0, "whole": [1, 2]}}, "'whole' is a region of several values"),
    ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "there is an ignore label (2)"),
    ({"labels": {"background": 0, "a": 2}}, "no label has the value 1, but one has 2"),
    ({"labels": {"a": 1, "b": 2}}, "no label has the value 0"),
    ({"labels": {"background": 0, "a": 1, "b": 1}}, "'a' and 'b' both have the value 1"),
    ({"labels": {"a": 0, "background": 1}}, "put the background first"),
    ({"labels": {"background": 0, "a": "1"}}, "label 'a' is '1'; expected names with values"),
    ({"labels": {"background": 0, "a": 1.0}}, "label 'a' is 1.0"),
    ({"labels": {"background": 0, "a": True}}, "label 'a' is True"),
    ({"labels": {"background": 0, "a": -1}}, "label 'a' is -1"),
    ({"labels": {"background": 0, "a": 10**30}}, "label 'a' is 1000000"),
    ({"labels": {"background": 0, "a": {"b": 1}}}, "label 'a' is {'b': 1}"),
    ({"labels": {"0": "background", "1": "a", "x": "b"}}, "label '0' is 'background'"),
    ({"labels": {"0": "background", "1": "a", "2": "a"}}, "class 'a' is listed 2 times"),
    ({"channel_names": []}, "channel_names []; expected such as"),
    ({"channel_names": {}}, "channel_names {}; expected such as"),
    ({"channel_names": {"0": 1}}, "channel_names has '0': 1; expected a name"),
    ({"channel_names": {"a": "CT"}}, "channel_names has 'a': 'CT'"),
    ({"channel_names": {"00": "CT"}}, "channel_names has '00'"),
    ({"channel_names": {"9999": "CT"}}, "channel_names has '9999'"),
    ({"channel_names": {"1": "CT"}}, "names channels 1; expected 0 to 0"),
    ({"file_ending": 3}, "file_ending 3"),
    ({"file_ending": "nii"}, "file_ending 'nii'"),
    ({"numTraining": "5"}, "numTraining '5'"),
    ({"numTraining": -1}, "numTraining -1"),
    ({"dataset": []}, "dataset []; expected"),
    ({"dataset": {}}, "dataset {}; expected"),
    ({"dataset": {"c0": []}}, "dataset has 'c0': []; expected"),
    ({"dataset": {"c0": {"images": "a", "label": "b"}}}, "dataset has 'c0'"),
    ({"dataset": {"c0": {"images": [1, 2], "label": "b"}}}, "dataset has 'c0'"),
    ({"dataset": {"c0": {"images": ["a", "b"]}}}, "dataset has 'c0'"),
]


@pytest.mark.parametrize(("change", "text"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_dataset_json_cannot_say_is_refused(tmp_path, change, text):
    content = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS} | change
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(UserError) as raised:
        read_dataset_json(path)
    assert text in str(raised.value) and str(path) in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


@pytest.mark.parametrize(
    ("lowest", "said"),
    [
        ((-1000,), "CT, abdomen window"), ((0,), "not CT, z-score of each slice"),
        ((-1000, -900), "CT, abdomen window"), ((0, -500), "not CT, z-score of each slice"),
        ((-1000, 5), "channel 0 CT, abdomen window; channel 1 not CT, z-score of each slice"),
        ((5, -501), "channel 0 not CT, z-score of each slice; channel 1 CT, abdomen window"),
    ],
)  # fmt: skip
def test_channels_are_named_where_their_values_differ_in_kind(tmp_path, lowest, said):
    reads = tuple(lambda low=low: np.array([[[low, 40.0]]]) for low in lowest)
    volume = Volume("c", "train", np.zeros((1, 1, 2), np.uint8), reads, (3.0, 1.5, 1.0))
    found, note = _by_values(volume, Case("c", (tmp_path / "c.nii",), tmp_path), len(lowest))
    kinds = [norm.window(-125, 275) if low < -500 else norm.zscore() for low in lowest]
    assert found == norm.of_channels(kinds)
    assert note.endswith(f"taken from the values of c.nii: {said}")


def test_a_class_map_of_the_same_names_and_the_count_that_there_is_are_not_noted(raw):
    folder = raw(name=" the  set ")
    content = {"classes": ["background", "liver", "tumour"], "codes": {"1": 1, "2": 2}}
    (folder / "classes.json").write_text(json.dumps(content))
    data = load(folder, size=SIZE)
    assert data.notes == () and data.name == "the set"
    assert load(raw(name=None), size=SIZE).name == folder.name
    for count in (2, 4):
        notes = load(raw(numTraining=count), size=SIZE).notes
        assert notes == (f"dataset.json says {count} training cases; there are 3",)


def test_the_channel_that_is_clipped_is_named(raw):
    notes = load(raw(("T1", "ct")), size=SIZE).notes
    assert notes == (
        "channel 1 (ct) is clipped to the percentiles 0.5 and 99.5 of the labelled voxels that "
        "train",
    )
    folder = raw(("ct",))
    content = {"classes": ["background", "liver", "tumour"], "codes": {"1": 1, "2": 2}}
    (folder / "classes.json").write_text(json.dumps(content | {"normalization": {"kind": "none"}}))
    shutil.rmtree(folder / "imagesTr")
    data = load(raw(("ct",)), size=SIZE)
    assert data.notes == () and data.normalization == {"kind": "none"}


@pytest.mark.parametrize(
    ("channels", "classes", "text"),
    [(64, 255, None), (65, 2, "channel_names has '64'"), (1, 256, "label 'c255' is 255; expected")],
)
def test_there_are_64_channels_and_255_classes_at_most(tmp_path, channels, classes, text):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({
        "labels": {f"c{i}": i for i in range(classes)},
        "channel_names": {str(i): f"n{i}" for i in range(channels)}, "file_ending": ".nii",
    }))  # fmt: skip
    if text is None:
        found = read_dataset_json(path)
        assert found.classes == tuple(f"c{i}" for i in range(255))
        assert found.channels == tuple(f"n{i}" for i in range(64)) and found.file_ending == ".nii"
        assert found.codes == {i: i for i in range(255)}
        assert (found.count, found.listed, found.name) == (None, None, None)
        return
    with pytest.raises(UserError) as raised:
        read_dataset_json(path)
    assert text in str(raised.value)


def test_a_dataset_json_that_says_no_channel_has_one(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": LABELS, "numTraining": 0, "name": 3}))
    found = read_dataset_json(path)
    assert found.channels == ("image",) and found.count == 0 and found.name is None
    assert found.normalization == [{"kind": "zscore_volume"}]
