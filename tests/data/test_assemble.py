"""The spacing that slices have once they are framed: one for all, or each case's own."""

import dataclasses

import numpy as np
import pytest

from lmaunet.data.assemble import assemble
from lmaunet.data.chosen import check_memory
from lmaunet.data.normalization import of_channels, window, zscore
from lmaunet.data.patients import Patients
from lmaunet.data.source import Source, Volume
from lmaunet.errors import UserError

NAN = float("nan")


def volume(case, role, shape=(12, 12), spacing=(3.0, 1.0, 1.0)):
    labels = np.zeros((4, *shape), np.uint8)
    labels[:, : shape[0] - 1, : shape[1] - 1] = 1
    rng = np.random.default_rng(len(case))
    image = rng.normal(size=labels.shape)
    role = "".join(list(role))  # as one that is computed: equal, and another object
    return Volume(case, role, labels, (lambda: image,), spacing, keep_all=True)


def dataset(*volumes, size=(12, 12), fit=False):
    source = Source("x", "y", ("background", "a"), volumes, "", "", zscore())
    return assemble(source, size=size, fit=fit)


def test_cases_of_other_spacings_are_resampled_to_one():
    data = dataset(
        volume("a", "train"),
        volume("b", "val", spacing=(3.0, 1.5, 1.5)),
        volume("c", "val", shape=(24, 24), spacing=(3.0, 0.75, 0.75)),
    )
    assert data.spacing_mm == pytest.approx((3.0, 1.5, 1.5))
    assert set(data.case_spacing_mm) == {"b", "c"}
    for spacing in data.case_spacing_mm.values():
        assert spacing == pytest.approx((3.0, 1.5, 1.5))


def test_cases_that_are_shrunk_to_fit_keep_their_own():
    data = dataset(
        volume("a", "train"), volume("b", "val", (24, 24)), volume("c", "val", (12, 12)), fit=True
    )
    assert data.case_spacing_mm["b"] == pytest.approx((3.0, 2.0, 2.0))
    assert data.case_spacing_mm["c"] == pytest.approx((3.0, 1.0, 1.0))
    assert np.isnan(data.spacing_mm[1:]).all() and data.spacing_mm[0] == 3.0
    assert any("by each case's own" in note for note in data.notes)
    assert data.to_json()["spacing_mm"] == [3.0, None, None]


def test_an_unknown_spacing_among_known_ones_is_unknown():
    data = dataset(
        volume("a", "train"), volume("b", "val"), volume("c", "val", spacing=(NAN, NAN, NAN))
    )
    assert np.isnan(data.spacing_mm).all() and np.isnan(data.case_spacing_mm["c"]).all()
    assert data.case_spacing_mm["b"] == (3.0, 1.0, 1.0)
    assert not any("by each case's own" in note for note in data.notes)


OBLONG = (3.0, 1.5, 1.0)


def block(shape, rows, columns):
    labels = np.zeros((4, *shape), np.uint8)
    labels[:, rows, columns] = 1
    return labels


def oblong(case, role, labels, spacing=OBLONG):
    rng = np.random.default_rng(len(labels))
    image = rng.normal(size=labels.shape) + 9 * labels
    return Volume(case, role, labels, (lambda: image,), spacing, keep_all=True)


def test_height_and_width_have_spacings_of_their_own():
    """A case of 1.5 mm by 1 mm validates, so one of 3 mm by 1 mm doubles in height only."""
    other = block((8, 20), slice(2, 6), slice(4, 16))
    data = dataset(
        oblong("a", "train", other, (3.0, 3.0, 1.0)),
        oblong("b", "val", block((16, 20), slice(4, 12), slice(4, 16))),
        size=(18, 24),
    )
    assert data.resampled_mm == (1.5, 1.0) and data.spacing_mm == pytest.approx(OBLONG)
    for side in (data.train, data.val):  # 8 by 12 pixels, in the middle of 18 by 24
        rows, columns = np.nonzero(side.labels[0])
        assert (rows.min(), rows.max() + 1) == (5, 13)
        assert (columns.min(), columns.max() + 1) == (6, 18)
    assert any("all are resampled to 1.5x1 mm" in note for note in data.notes)


def test_a_spacing_that_is_asked_for_counts_for_both_axes():
    source = Source("x", "y", ("background", "a"), [
        oblong("a", "train", block((16, 24), slice(4, 12), slice(4, 20))),
        oblong("b", "val", block((16, 24), slice(4, 12), slice(4, 20))),
    ], "", "", zscore())  # fmt: skip
    data = assemble(source, size=(16, 16), spacing_mm=2.0)
    assert data.resampled_mm == (2.0, 2.0) and data.spacing_mm == (3.0, 2.0, 2.0)
    rows, columns = np.nonzero(data.val.labels[0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (6, 8)


@pytest.mark.parametrize(
    ("rows", "columns", "lost"),
    [
        (slice(0, 20), slice(10, 12), 20),  # 20 rows into 16: two are cut at each end
        (slice(8, 12), slice(0, 30), 20),  # 30 columns into 24
        (slice(0, 2), slice(8, 10), 100),  # above what is kept
        (slice(18, 20), slice(8, 10), 100),
        (slice(8, 10), slice(0, 3), 100),
        (slice(8, 10), slice(27, 30), 100),
        (slice(2, 18), slice(3, 27), 0),
    ],
)
def test_what_a_crop_loses_is_counted_on_the_right_axis(rows, columns, lost):
    labels = block((20, 30), rows, columns)
    whole = block((20, 30), slice(2, 18), slice(3, 27))
    share = lost / 100 * labels.sum() / (labels.sum() + whole.sum())
    data = dataset(oblong("a", "train", labels), oblong("b", "val", whole), size=(16, 24), fit=None)
    if share > 0.1:
        want = [
            f"slices are shrunk to fit 16x24: a centre crop would lose {100 * share:.0f}% of th"
        ]
    elif share:
        want = [
            f"the centre crop to 16x24 loses {100 * share:.1f}% of the labelled pixels, which n"
        ]
    else:
        want = []
    notes = [note for note in data.notes if "slice shows" not in note]
    assert [note[: len(text)] for note, text in zip(notes, want, strict=True)] == want
    assert data.fit == (share > 0.1)


def test_shrinking_to_fit_keeps_the_aspect_and_each_axis_its_spacing():
    labels = block((20, 60), slice(5, 15), slice(10, 50))
    data = dataset(
        oblong("a", "train", labels), oblong("b", "val", labels), size=(16, 30), fit=True
    )
    assert data.spacing_mm == pytest.approx((3.0, 3.0, 2.0))  # 20x60 becomes 10x30
    rows, columns = np.nonzero(data.val.labels[0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (5, 20)


def test_channels_are_read_in_order_and_normalised_apart():
    labels = block((12, 12), slice(2, 9), slice(3, 9))
    pair = [
        Volume(case, role, labels, (lambda: labels + 1.0, lambda: labels * -7.0), OBLONG)
        for case, role in (("a", "train"), ("b", "val"))
    ]
    kinds = of_channels([window(0, 4), {"kind": "none"}])
    source = Source("x", "y", ("background", "a"), pair, "", "", kinds, channels=("p", "q"))
    data = assemble(source, size=(12, 12))
    first, second = data.val.images[:, 0], data.val.images[:, 1]
    assert np.array_equal(second, labels[data.val.z] * np.float32(-7))
    kept = data.normalization["channels"][0]
    assert np.allclose(first * kept["std"] + kept["mean"], (labels[data.val.z] + 1) / 4, atol=1e-6)
    assert abs(float(data.train.images[:, 0].mean())) < 1e-6


@pytest.mark.parametrize("size", [(), (12,), (12, 13, 1), (0, 12), (12, 0), (-1, 12), (12, -1)])
def test_a_size_is_a_height_and_a_width_of_one_or_more(size):
    with pytest.raises(UserError, match=r"^size=\(.*\); give a positive height and width$"):
        dataset(volume("a", "train"), volume("b", "val"), size=size)
    assert dataset(volume("a", "train"), volume("b", "val"), size=(1, 2)).val.images.shape == (
        4, 1, 1, 2,
    )  # fmt: skip


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_classes_are_as_many_as_the_network_has(classes):
    source = Source("x", "y", ("background", "a"), [volume("a", "train"), volume("b", "val")], "",
                    "", zscore())  # fmt: skip
    if classes == 2:
        assert assemble(source, size=(12, 12), classes=2).classes == ("background", "a")
        return
    with pytest.raises(UserError, match=rf"has 2 classes \(background, a\) but .* has {classes};"):
        assemble(source, size=(12, 12), classes=classes)


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_side_without_a_slice_is_said(side):
    other = {"train": "val", "val": "train"}[side]
    with pytest.raises(UserError, match=f"^x: no slice is left to {side}; give more cases"):
        dataset(volume("a", other), volume("b", other))


def test_a_class_that_a_side_lacks_is_noted_of_that_side():
    both = np.zeros((4, 12, 12), np.uint8)
    both[:, 2:5], both[0, 7] = 1, 2
    source = Source("x", "y", ("background", "a", "b", "c"), [
        oblong("a", "train", both), oblong("b", "val", np.minimum(both, 1)),
    ], "", "", zscore())  # fmt: skip
    notes = assemble(source, size=(12, 12), fit=False).notes
    assert notes[-2:] == ("no training slice shows c", "no held-out slice shows b, c")


def test_more_slices_than_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 50 if name == "SC_PHYS_PAGES" else 100)
    with pytest.raises(UserError, match=r"x: 8 slices of 1x13x13 would run out of memory .*fewer"):
        dataset(volume("a", "train"), volume("b", "val"), size=(13, 13))
    assert len(dataset(volume("a", "train"), volume("b", "val"), size=(12, 12)).train) == 4


@pytest.mark.parametrize(
    ("other", "common"),
    [
        ((4.0, 1.0, 1.0), (NAN, 1.0, 1.0)),  # only z: that is no plane's
        ((3.0, 1.5, 1.0), (3.0, NAN, 1.0)),  # 5 rows of 1.5 mm become 8 of 0.94
        ((3.0, 1.0, 1.5), (3.0, 1.0, NAN)),
        ((3.02, 1.005, 0.995), (3.0, 1.0, 1.0)),  # within a hundredth
    ],
)
def test_each_axis_has_one_spacing_or_none(other, common):
    shape = tuple(5 if step == 1.5 else 12 for step in other[1:])
    data = dataset(
        volume("a", "train"), volume("b", "val"), volume("c", "val", shape, spacing=other)
    )
    assert data.spacing_mm == pytest.approx(common, nan_ok=True)
    said = [note for note in data.notes if "by each case's own" in note]
    assert len(said) == np.isnan(common[1:]).any()
    apart = any("in-plane spacings differ; all are resampled to 1x1 mm" in n for n in data.notes)
    assert apart == (1.5 in other)


@pytest.mark.parametrize("role", ["val", "blocks"])
def test_the_spacing_is_that_of_the_first_volume_that_validates(role):
    """Of one that is divided by blocks too, whose slices keep a gap between the sides."""
    labels = np.ones((12, 10, 10), np.uint8)
    volumes = [
        volume("a", "train"),
        Volume("b", "".join(list(role)), labels, (lambda: labels * 1.0,), (3.0, 2.0, 2.0)),
    ]
    data = dataset(*volumes, size=(24, 24))
    assert data.resampled_mm == (2.0, 2.0) and data.train.images.shape[1:] == (1, 24, 24)
    assert data.gap == (2 if role == "blocks" else 0)


def test_a_volume_that_trains_alone_has_no_slice_to_validate():
    with pytest.raises(UserError, match="no slice is left to val"):
        dataset(volume("a", "train"))


def test_slices_keep_their_own_numbers_and_patients_those_of_the_source():
    one, two = (volume(case, role) for case, role in (("a", "train"), ("b", "val")))
    one = dataclasses.replace(one, z=np.array([9, 4, 7, 30]))
    data = dataset(one, two)
    assert data.train.z.tolist() == [9, 4, 7, 30] and data.val.z.tolist() == [0, 1, 2, 3]
    assert data.patients == {"a": "a", "b": "b"} and data.told_apart.startswith("every case")
    source = Source("x", "y", ("background", "a"), [one, two], "", "", zscore(),
                    patients=Patients({"a": "p", "b": "q"}, "as told"))  # fmt: skip
    told = assemble(source, size=(12, 12))
    assert told.patients == {"a": "p", "b": "q"} and told.told_apart == "as told"


def test_memory_is_counted_by_every_length_of_the_slices(monkeypatch):
    """In bytes of float32; exactly as many as there are fit."""
    pages = 7_000 * 3 * 512 * 640 * 4 // 4096
    for there, fits in ((pages, True), (pages - 1, False)):
        monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": there, "SC_PAGE_SIZE": 4096}.get)
        if fits:
            check_memory(7_000, 3, (512, 640), "x")
            continue
        said = r"x: 7000 slices of 3x512x640 .* \(25\.6 GiB, the machine has 25\.6\); give fewer"
        with pytest.raises(UserError, match=said):
            check_memory(7_000, 3, (512, 640), "x")
    monkeypatch.setattr("os.sysconf", {"SC_PHYS_PAGES": 2**18, "SC_PAGE_SIZE": 4096}.get)
    with pytest.raises(UserError, match=r"\(25\.6 GiB, the machine has 1\.0\)"):
        check_memory(7_000, 3, (512, 640), "x")


@pytest.mark.parametrize("error", [ValueError, OSError, AttributeError])
def test_where_the_memory_is_not_known_nothing_is_refused(monkeypatch, error):
    def sysconf(name):
        raise error(name)

    monkeypatch.setattr("os.sysconf", sysconf)
    check_memory(10**9, 3, (512, 640), "x")


def test_a_volume_that_cannot_be_divided_is_named():
    empty = np.zeros((30, 9, 9), np.uint8)
    with pytest.raises(UserError, match=r"^whole: the labels hold nothing but background; give"):
        dataset(Volume("whole", "blocks", empty, (lambda: empty,)))


@pytest.mark.parametrize("role", ["train", "val"])
def test_every_eighth_slice_without_a_label_stays_unless_all_do(role):
    labels = np.zeros((20, 9, 9), np.uint8)
    labels[3, 2:5, 2:5] = 1
    other = {"train": "val", "val": "train"}[role]
    for keep_all, want in ((False, [0, 3, 8, 16]), (True, list(range(20)))):
        thinned = Volume("a", role, labels, (lambda: labels * 2.0,), keep_all=keep_all)
        data = dataset(thinned, volume("b", other))
        assert getattr(data, role).z.tolist() == want and len(getattr(data, other)) == 4


def test_classes_beyond_any_small_number_are_counted_too():
    names = ("background", *(f"c{i}" for i in range(299)))
    source = Source("x", "y", names, [volume("a", "train"), volume("b", "val")], "", "", zscore())
    assert len(assemble(source, size=(12, 12), classes=int("300")).classes) == 300


@pytest.mark.parametrize(
    ("of_source", "asked", "shrunk", "said"),
    [
        (None, None, True, "slices are shrunk to fit 16x24: a centre crop would lose 36% of the"),
        (None, False, False, None), (None, True, True, None), (True, None, True, None),
        (False, None, False, None), (True, False, False, None), (False, True, True, None),
    ],
)  # fmt: skip
def test_slices_are_shrunk_as_asked_else_as_the_source_says_else_by_what_is_lost(
    of_source, asked, shrunk, said
):
    full = block((20, 30), slice(0, 20), slice(0, 30))
    sides = [oblong("a", "train", full), oblong("b", "val", full)]
    source = Source("x", "y", ("background", "a"), sides, "", "", zscore(), fit=of_source)
    data = assemble(source, size=(16, 24), fit=asked)
    assert data.fit is shrunk and data.val.images.shape[1:] == (1, 16, 24)
    assert [note[: len(said or note)] for note in data.notes] == ([said] if said else [])
    rows = np.flatnonzero(data.val.labels[0].any(1))
    assert len(rows) == 16 and data.spacing_mm[1] == (1.875 if shrunk else 1.5)
