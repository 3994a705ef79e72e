"""Each kind of normalization by hand, and that a build repeats it to the bit."""

import numpy as np
import pytest

from lmaunet.data import normalization as norm
from lmaunet.data.inference import Preparation, prepare_volume
from lmaunet.data.loaders import load
from lmaunet.errors import UserError

VOLUME = np.array([[[0, 2], [4, 6]], [[0, 0], [8, 0]]], np.float32)


def unit(kind, volume=VOLUME, planes=slice(None)):
    return norm.to_unit(volume[planes], norm.bind(kind, volume))


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        (norm.window(2, 6), [[[0, 0], [0.5, 1]], [[0, 0], [1, 0]]]),
        # non-zero voxels 2, 4, 6, 8: mean 5, deviation sqrt(5)
        (norm.zscore("nonzero"), np.where(VOLUME == 0, 0, (VOLUME - 5) / np.sqrt(5))),
        # all: mean 2.5, mean square 15
        (norm.zscore("volume"), (VOLUME - 2.5) / np.sqrt(15 - 6.25)),
        ({"kind": "rescale"}, VOLUME / 8),
        ({"kind": "none"}, VOLUME),
        # each slice: means 3 and 2, deviations sqrt(5) and sqrt(12)
        (norm.zscore(), [(VOLUME[0] - 3) / np.sqrt(5), (VOLUME[1] - 2) / np.sqrt(12)]),
    ],
)
def test_values_by_hand(kind, want):
    got = unit(kind)
    assert got.dtype == np.float32 and np.allclose(got, want, rtol=1e-6, atol=1e-7)
    # some slices alone are what they are among all: statistics are of the volume
    assert np.array_equal(unit(kind, planes=slice(1, 2)), got[1:])


@pytest.mark.parametrize("kind", norm.KINDS)
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_flat_image_gives_finite_numbers(kind, value):
    made = norm.window(-1, 1) if kind == "window" else {"kind": kind}
    flat = np.full((2, 3, 3), value, np.float32)
    assert np.isfinite(unit(made, flat)).all()


def test_padding_is_air():
    units = np.array([[[-3.0, 1.0]], [[-2.0, 5.0]]], np.float32)
    for kind in ("zscore", "zscore_volume", "none"):
        assert norm.fill(units, {"kind": kind}).ravel().tolist() == [-3.0, -2.0]
    for kind in ("window", "zscore_nonzero", "rescale"):
        assert norm.fill(units, {"kind": kind}).ravel().tolist() == [0.0, 0.0]


def test_each_channel_has_its_own():
    two = norm.of_channels([norm.window(0, 10), norm.zscore()])
    assert norm.channel(two, 0)["kind"] == "window" and norm.channel(two, 1) == norm.zscore()
    assert norm.of_channels([norm.zscore()]) == norm.zscore() == norm.channel(norm.zscore(), 3)
    train = np.stack([np.arange(12.0).reshape(3, 2, 2), np.ones((3, 2, 2))], 1).astype(np.float32)
    kept = norm.with_statistics(two, train)
    assert norm.channel(kept, 0)["mean"] == pytest.approx(5.5)
    assert norm.channel(kept, 0)["std"] == pytest.approx(np.arange(12.0).std())
    assert norm.channel(kept, 1) == norm.zscore()
    assert norm.check_trained(kept, "x", 2) == kept
    assert norm.describe(kept, ("CT", "PET")) == [
        "CT: clipped to a window of 0 to 10", "PET: z-score of each slice"
    ]  # fmt: skip
    assert norm.describe(norm.zscore(), ("a", "b")) == ["z-score of each slice"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "normalization None"), ("zscore", "'zscore'; expected"), ({}, "normalization {}"),
        ({"kind": "z"}, "expected"), ({"kind": ["zscore"]}, "expected"), ([], "of 0 channel"),
        ({"kind": "window", "low": True, "high": 2}, "expected"),
        ({"kind": "window", "low": [], "high": 2}, "expected"),
        ([{"kind": "zscore"}] * 3, r"of 3 channel\(s\); expected one for each of the 2 channel"),
        ([{"kind": "zscore"}, 1], "normalization 1; expected"),
        ({"kind": "channels"}, "normalization None"),
        ({"kind": "channels", "channels": [[{"kind": "zscore"}]] * 2}, "expected"),
    ],
)  # fmt: skip
def test_what_is_none_is_refused(given, text):
    with pytest.raises(UserError, match=text):
        norm.check(given, "classes.json", 2)


def test_statistics_of_training_that_are_none_are_refused():
    good = {**norm.window(0, 1), "mean": 0.5, "std": 0.2}
    assert norm.check_trained(good, "x", 1) == good
    for spoiled in ({"std": 0.0}, {"std": -1.0}, {"std": float("nan")}, {"std": float("inf")},
                    {"mean": float("inf")}, {"mean": "a"}):  # fmt: skip
        with pytest.raises(ValueError):
            norm.check_trained({**good, **spoiled}, "x", 1)
    with pytest.raises(UserError, match="of 2 channel"):
        norm.check_trained(norm.of_channels([good, good]), "x", 1)


KINDS = [norm.window(-125, 275), *({"kind": k} for k in norm.KINDS if k != "window")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["kind"])
@pytest.mark.parametrize("size", [(20, 18), (9, 18), (10, 8)], ids=["padded", "cropped", "small"])
def test_infer_prepares_an_image_to_the_bit_as_training_did(maker, kind, size):
    """Two channels, pixels that are not square, slices that are not either."""
    import json

    options = {"spacing": (3.0, 1.5, 1.0), "orientation": "RAS"}
    for case in ("a", "b"):
        labels = maker.labels()
        for channel in ("_0000", "_0001"):
            image = np.where(labels > 0, maker.image(labels), 0) * (1 + int(channel[-1]))
            path = maker.folder / "images" / f"{case}{channel}.nii.gz"
            maker.write(path, image.astype(np.float32), **options)
        maker.write(maker.folder / "labels" / f"{case}.nii.gz", labels, **options)
    (maker.folder / "classes.json").write_text(json.dumps({
        "classes": ["background", "a", "b"], "codes": {"1": 1, "2": 2},
        "normalization": [kind, {"kind": "zscore_nonzero"}],
    }))  # fmt: skip
    data = load(maker.folder, size=size, fit=False)
    assert data.channels == ("channel 0", "channel 1")
    case = str(data.val.cases[0])
    ready = Preparation(size, data.normalization, data.resampled_mm, data.fit, data.intensity)
    paths = [maker.folder / "images" / f"{case}_000{i}.nii.gz" for i in (0, 1)]
    volume = prepare_volume(paths, ready, channels=2)
    # what was recorded of each channel in training is what its own kind looks at
    assert [not c["unlike"] for c in volume.intensity] == [True, True]
    assert [set(c["expected"]) == set(c["seen"]) for c in volume.intensity] == [True, True]
    # slices that are larger than the network's are kept whole there, so that windows cover them
    whole = np.concatenate([volume.images(z, z + 1) for z in data.val.z])
    surplus = [have - want for have, want in zip(whole.shape[2:], size, strict=True)]
    rows, columns = (slice(n // 2, n // 2 + want) for n, want in zip(surplus, size, strict=True))
    assert np.array_equal(whole[:, :, rows, columns], data.val.images)
    assert len(np.unique(data.val.images[:, 0])) > 10


def fresh(text):
    """Return a text that is equal and another object, as one that is read from a file is."""
    return "".join(list(text))


def steps(kind, volume=VOLUME):
    """Return all that a normalization does to a volume and says of itself."""
    bound = norm.bind(kind, volume)
    unit = norm.to_unit(volume, bound)
    kept = norm.with_statistics(kind, unit[:, None])
    return (
        unit.tolist(), norm.fill(unit, kind).tolist(), norm.standardize(unit, bound).tolist(), kept,
        norm.describe(kind, ("a",)), norm.check(kind, "x"), norm.check_trained(kept, "x", 1),
    )  # fmt: skip


@pytest.mark.parametrize("kind", norm.KINDS)
def test_a_kind_is_what_it_says_wherever_it_was_read(kind):
    plain = norm.window(1, 7) if kind == "window" else {"kind": kind}
    read = {**plain, "kind": fresh(kind)}
    assert read["kind"] is not kind and steps(read) == steps(plain)
    both = norm.of_channels([plain, norm.zscore()])
    again = {**both, "kind": fresh(both["kind"])}
    assert [norm.channel(again, i) for i in (0, 1)] == [plain, norm.zscore()]
    assert norm.check(again, "x", 2) == norm.check([plain, norm.zscore()], "x")
    train = np.stack([VOLUME, VOLUME], 1)
    assert norm.with_statistics(again, train) == norm.with_statistics(both, train)
    assert norm.check_trained(norm.with_statistics(again, train), "x", 2)["kind"] == "channels"
    assert norm.zscore(fresh("slice")) == {"kind": "zscore"} == norm.zscore()


@pytest.mark.parametrize(
    ("spread", "flat"), [(0.9e-6, True), (1.1e-6, False)]
)  # about the smallest deviation
@pytest.mark.parametrize("kind", ["zscore_volume", "zscore_nonzero", "rescale"])
def test_a_volume_that_is_nearly_flat_is_not_stretched(kind, spread, flat):
    half = spread if kind == "rescale" else 2 * spread
    volume = np.array([[[0.5, 0.5 + half]]])
    bound = norm.bind({"kind": kind}, volume)
    assert bound["mean"] == pytest.approx(0.5 if kind == "rescale" else 0.5 + spread, abs=1e-9)
    assert bound["std"] == (1.0 if flat else pytest.approx(spread, rel=1e-6))


def test_a_volume_of_zeros_has_no_voxel_to_look_at():
    assert norm.bind(norm.zscore("nonzero"), np.zeros((1, 2, 2))) == {
        "kind": "zscore_nonzero", "mean": 0.0, "std": 1.0
    }  # fmt: skip


@pytest.mark.parametrize(("spread", "std"), [(0.9e-6, 1.0), (1.1e-6, 1.1e-6)])
def test_training_images_that_are_nearly_flat_are_not_stretched(spread, std):
    train = np.array([1.0, 1.0 + 2 * spread])
    kept = norm.with_statistics(norm.window(0, 2), train)
    assert kept["std"] == pytest.approx(std, rel=1e-3)
    assert kept["mean"] == pytest.approx(1.0, abs=1e-5)
    slices = np.array([[[0.0, 2e-7]], [[0.0, 2.0]]], np.float32)
    assert norm.to_unit(slices, norm.zscore())[0].tolist() == [pytest.approx([-0.1, 0.1], rel=1e-3)]


@pytest.mark.parametrize(
    ("low", "high", "good"),
    [(0, 1.1e-12, True), (0, 0.9e-12, False), (-0.99e12, 0, True), (0, 1.01e12, False),
     (-1.01e12, 0, False), (0, 0.99e12, True), (3, 2, False)],
)  # fmt: skip
def test_a_window_has_a_width_and_ends_that_float32_can_divide_by(low, high, good):
    given = {"kind": "window", "low": low, "high": high}
    if good:
        want = {"kind": "window", "low": low, "high": high, "mean": 0.0, "std": 1.0}
        assert norm.check(given, "x") == want
        return
    with pytest.raises(
        UserError, match=r'x: normalization .*or \{"kind": KIND\} with zscore, zscore'
    ):
        norm.check(given, "x")


@pytest.mark.parametrize(
    "given",
    [{"kind": "window", "low": 0}, {"kind": "window", "low": None, "high": 1},
     {"kind": "window", "low": "a", "high": 1}, {"kind": "window", "low": 0, "high": 10**400},
     {"kind": "window", "low": 0, "high": False}, {"kind": "windows"}, {}, None, 3, "none",
     {"kind": None}, {"kind": {}}],
)  # fmt: skip
def test_whatever_is_no_normalization_is_refused_by_name(given):
    with pytest.raises(UserError, match=r"^here: normalization .*; expected"):
        norm.check(given, "here")


def test_one_normalization_is_for_all_channels_and_a_list_for_each():
    assert norm.check({"kind": "none"}, "x", 3) == {"kind": "none"}
    assert norm.check([{"kind": "none"}], "x") == norm.check([{"kind": "none"}], "x", 1)
    for listed, channels in (([], None), ([{"kind": "none"}], 2), ([{"kind": "none"}] * 2, 1)):
        with pytest.raises(UserError, match=rf"x: normalization of {len(listed)} channel\(s\); ex"):
            norm.check(listed, "x", channels)
    given = [norm.window(0, 1), {"kind": "none"}]
    assert norm.describe(norm.of_channels([*given, given[1]]), ("a", "b", "c")) == [
        "a: clipped to a window of 0 to 1", "b: values as in the file", "c: values as in the file"
    ]  # fmt: skip
    assert norm.describe(norm.of_channels([given[1]] * 2), ("a", "b")) == ["values as in the file"]


def test_padding_of_each_slice_is_its_own_minimum():
    units = np.arange(12.0, dtype=np.float32).reshape(2, 2, 3)
    assert norm.fill(units, norm.zscore()).shape == (2, 1, 1)
    assert norm.fill(units, {"kind": "rescale"}).shape == (2, 1, 1)
    assert norm.fill(units, {"kind": "zscore_volume"}).ravel().tolist() == [0.0, 6.0]


def test_only_a_kind_that_keeps_zeros_keeps_them():
    volume = np.array([[[-2.0, 0.0, 2.0]]])
    assert unit({"kind": "rescale"}, volume).tolist() == [[[0.0, 0.5, 1.0]]]
    for kind in ({"kind": "none"}, norm.zscore(), norm.window(1, 2)):
        assert norm.bind(kind, volume) is kind
