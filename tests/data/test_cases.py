"""Cases made into a source: what is told of them, which window they have, whose files they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lmaunet.data.class_map import ClassMap, identity_map
from lmaunet.data.layouts import cases as module
from lmaunet.data.layouts.cases import (
    Case,
    Wanted,
    _check_apart,
    _identity,
    divide_volumes,
    highest_label,
    labelled_window,
    pair_volume,
    read_cases,
)
from lmaunet.data.normalization import ABDOMEN_WINDOW_HU, window, zscore
from lmaunet.data.patients import alone
from lmaunet.data.source import Volume
from lmaunet.errors import UserError

WANTED = Wanted("set", "some layout", ("image",), zscore(), notes=("first",))


@pytest.fixture
def three(maker):
    """Three cases whose folders and names are not in one order."""
    cases = []
    for name, folders in (("c", ("p2",)), ("a", ("p1",)), ("b", ("p1",))):
        labels = maker.labels()
        image = maker.write(maker.folder / f"{name}_image.nii", maker.image(labels))
        label = maker.write(maker.folder / f"{name}_label.nii", labels)
        cases.append(Case(name, (image,), label, folders))
    return cases


def read(folder, cases, wanted=WANTED, class_map=None, classes=None, seed=0):
    return read_cases(folder, cases, wanted, class_map, classes=classes, seed=seed)


def test_a_source_says_what_its_layout_says(maker, three):
    source = read(maker.folder, three)
    assert (source.name, source.layout, source.label_source) == ("set", "some layout", "not stated")
    assert source.classes == ("background", "class 1", "class 2") and source.notes == ("first",)
    assert source.normalization == zscore() and source.channels == ("image",)
    assert [v.case for v in source.volumes] == ["c", "a", "b"]
    assert source.patients.of == {"c": "p2", "a": "p1", "b": "p1"}
    assert (source.synthetic, source.fit) == (False, None)
    for volume in source.volumes:
        assert volume.spacing_mm == pytest.approx((3, 3, 3)) and volume.z is None
        assert not volume.keep_all and volume.channels[0]().shape == (24, 12, 14)
    assert len(read(maker.folder, three, classes=5).classes) == 5


def test_a_class_map_overrules_its_layout(maker, three):
    options = {"name": "n", "label_source": "l", "normalization": {"kind": "none"},
               "patients": {"a": "x", "b": "y", "c": "x"}}  # fmt: skip
    source = read(maker.folder, three, class_map=ClassMap(("b", "o"), {1: 1, 2: 1}, None, options))
    assert (source.name, source.label_source, source.classes) == ("n", "l", ("b", "o"))
    assert source.normalization == {"kind": "none"}
    assert source.patients.of == options["patients"] and source.patients.how == (
        "as classes.json says"
    )  # fmt: skip
    two = options | {"normalization": [{"kind": "none"}] * 2}
    with pytest.raises(UserError, match=r"classes\.json: normalization of 2 channel\(s\); expecte"):
        read(maker.folder, three, class_map=ClassMap(("b", "o"), {1: 1, 2: 1}, None, two))


def test_a_layouts_own_normalization_sees_the_volumes_that_train(maker, three):
    seen = []
    wanted = Wanted("s", "l", ("image",), lambda volumes: seen.extend(volumes) or zscore())
    source = read(maker.folder, three, wanted)
    assert [v.case for v in seen] == [v.case for v in source.volumes if v.role == "train"]
    assert 0 < len(seen) < 3
    seen.clear()
    read(maker.folder, three[:1], wanted)
    assert [(v.case, v.role) for v in seen] == [("c", "blocks")]


def test_what_no_one_says_is_told_from_the_first_case(maker, three):
    source = read(maker.folder, three, Wanted("s", "l", ("image",), notes=("n",)))
    assert source.normalization == window(*ABDOMEN_WINDOW_HU)
    assert source.notes[0] == "n" and "the values of c_image.nii: CT, abdomen" in source.notes[1]


@pytest.mark.parametrize(("seed", "other"), [(0, 1), (1, 0)])
def test_one_case_is_alone_and_more_are_drawn_by_seed(maker, three, seed, other):
    apart = [Case(c.name, c.images, c.label) for c in three]
    sides = [
        {v.case for v in read(maker.folder, apart, seed=s).volumes if v.role == "val"}
        for s in (seed, seed, other, 2, 3, 4)
    ]
    assert sides[0] == sides[1] and len(set(map(frozenset, sides))) > 1
    (only,) = read(maker.folder, three[:1], seed=seed).volumes
    assert only.role == "blocks"


def test_volumes_show_the_classes_that_their_labels_have(tmp_path):
    """Two of three show class 3, so that one of them is held out, whatever is drawn."""
    found = {"a": 1, "b": 3, "c": 3, "d": 1, "e": 1, "f": 1}
    volumes = [Volume(c, "train", np.array([[[0, n]]], np.uint8), ()) for c, n in found.items()]
    for seed in range(6):
        kept, sentence, notes = divide_volumes(tmp_path, volumes, alone(list(found)), seed)
        held = {v.case for v in kept if v.role == "val"}
        assert len(kept) == 6 and len(held & {"b", "c"}) == 1 and notes == ()
        assert f"drawn by seed {seed}" in sentence
    assert divide_volumes(tmp_path, volumes[:1], alone(["a"]), 0)[1:] == ("", ())


def test_a_fold_leaves_out_what_it_does_not_list(tmp_path):
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["c"], "val": ["a"]}]))
    volumes = [Volume(c, "train", np.ones((1, 1, 2), np.uint8), ()) for c in "abc"]
    kept, sentence, notes = divide_volumes(tmp_path, volumes, alone(list("abc")), 0)
    assert [(v.case, v.role) for v in kept] == [("a", "val"), ("c", "train")]
    assert "as fold 0 of splits_final.json" in sentence and "1 case(s) out: b" in notes[0]


@pytest.mark.parametrize(
    ("highest", "good"), [([0, 0], False), ([0, 1], True), ([254, 3], True), ([3, 255], False)]
)
def test_the_highest_label_of_all_files_is_1_to_254(maker, highest, good):
    paths = [
        maker.write(maker.folder / f"{i}.nii", np.full((2, 3, 4), n, np.int16))
        for i, n in enumerate(highest)
    ]
    if good:
        assert highest_label(paths) == max(highest)
        assert highest_label(paths[::-1]) == max(highest)
        return
    said = rf"{maker.folder.name}: the highest label is {max(highest)}; expected 1 to 254, or a cl"
    with pytest.raises(UserError, match=said):
        highest_label(paths)


def test_an_image_elsewhere_than_its_labels_is_told_where_both_lie(maker):
    labels = maker.labels()
    label = maker.write(maker.folder / "l.nii", labels, spacing=(3.0, 2.0, 1.5))
    image = maker.write(maker.folder / "i.nii", maker.image(labels), spacing=(3.0, 2.0, 1.25))
    volume = pair_volume((image,), label, identity_map(3), "a", "val")
    assert volume.role == "val" and volume.case == "a"
    with pytest.raises(UserError) as raised:
        volume.channels[0]()
    text = str(raised.value)
    assert "i.nii and " in text and "l.nii lie in different places (origin (" in text
    assert "spacing (3.00, 2.00, 1.25) and (3.00, 2.00, 1.50) mm); resample" in text


def test_two_channels_of_a_case_are_two_files(maker):
    for name in "abl":
        maker.write(maker.folder / f"{name}.nii", maker.labels())
    a, b, label = (maker.folder / f"{n}.nii" for n in "abl")
    _check_apart([Case("x", (a, b), label)])
    with pytest.raises(
        UserError, match=r"case 'x': two channels are the same file \(.*a\.nii\); e"
    ):
        _check_apart([Case("x", (a, a), label)])
    for images in ((a, label), (label, a)):
        with pytest.raises(
            UserError, match=r"l\.nii, an image of case 'x', is the same file as it"
        ):
            _check_apart([Case("x", images, label)])


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_file_that_cannot_be_looked_at_is_known_by_its_path(monkeypatch, error):
    def fail(self, **options):
        raise error

    monkeypatch.setattr(Path, "stat", fail)
    assert _identity(Path("a/b")) == Path("a/b")


def test_a_window_is_of_the_channel_and_of_every_volume():
    labels = np.array([[[0, 1, 1, 2]]], np.uint8)
    volumes = [
        Volume("a", "train", labels, (lambda: None, lambda: np.array([[[9e3, 1, 2, 3]]]))),
        Volume("b", "train", labels, (lambda: None, lambda: np.array([[[9e3, 4, 5, 41]]]))),
    ]
    found = labelled_window(volumes, 1)
    values = np.array([1, 2, 3, 4, 5, 41.0])
    assert (found["low"], found["high"]) == tuple(np.percentile(values, (0.5, 99.5)))
    none = [Volume("a", "train", labels * 0, (lambda: labels,))]
    assert labelled_window(none, 0) == window(*ABDOMEN_WINDOW_HU)


@pytest.mark.parametrize(("widest", "taken"), [(1.0, True), (0.999, False)])
def test_a_window_is_as_wide_as_one_at_least(monkeypatch, widest, taken):
    monkeypatch.setattr(module, "WINDOW_PERCENTILES", (0, 100))
    labels = np.ones((1, 1, 2), np.uint8)
    volume = Volume("a", "train", labels, (lambda: np.array([[[5.0, 5.0 + widest]]]),))
    want = window(5, 6) if taken else window(*ABDOMEN_WINDOW_HU)
    assert labelled_window([volume], 0) == want


def test_of_many_voxels_some_are_taken_evenly(monkeypatch):
    """No more than twice as many as are wanted, the first among them."""
    monkeypatch.setattr(module, "SAMPLED_VOXELS", 4)
    monkeypatch.setattr(module, "WINDOW_PERCENTILES", (0, 100))
    labels = np.ones((1, 1, 14), np.uint8)
    values = np.full((1, 1, 14), 500.0)
    values[0, 0, ::3] = [0, 1, 2, 3, 4]
    assert labelled_window([Volume("a", "train", labels, (lambda: values,))], 0) == window(0, 4)
    few = Volume("a", "train", labels[..., :3], (lambda: values[..., :3],))
    assert labelled_window([few], 0) == window(0, 500)
