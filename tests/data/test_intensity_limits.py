"""Every limit of what is told of an image's values, on both of its sides, and the words for it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lmaunet.data import normalization as norm
from lmaunet.data.images import intensity
from lmaunet.data.images.intensity import Recorder, check_record, combine, compare, measure, unlike

WINDOW = norm.window(-100, 300)  # its lowest quarter ends at 0
ZSCORE = norm.zscore()
SEEN = {
    "lowest": -1000.0,
    "highest": 900.0,
    "negative": 0.0,
    "dark": 0.5,
    "inside": 0.4,
    "bright": 0.1,
}
TRAINED = {
    "lowest": [-1024.0, -3.0],
    "dark": [0.3, 0.6],
    "inside": [0.4, 0.7],
    "bright": [0.05, 0.1],
}


def test_shares_are_counted_by_the_window():
    """The ends of the window are not inside it; that of its lowest quarter is in the quarter."""
    image = np.array([[-201, -200, -100, -99], [0, 1, 299, 300], [301, 500, 7, 7]], np.float32)
    seen = measure(image, WINDOW)
    assert {key: round(12 * seen[key]) for key in ("negative", "dark", "inside", "bright")} == {
        "negative": 1, "dark": 5, "inside": 6, "bright": 2,
    }  # fmt: skip
    assert (seen["lowest"], seen["highest"]) == (-201, 500)
    plain = measure(image, ZSCORE)
    assert not {"dark", "inside", "bright"} & set(plain) and plain["negative"] == seen["negative"]


def test_quantiles_are_those_of_their_names():
    seen = measure(np.arange(1001), ZSCORE)
    found = [seen[key] for key in ("q001", "q050", "q500", "q950", "q999")]
    assert np.allclose(found, [1, 50, 500, 950, 999])


@pytest.mark.parametrize(
    ("size", "step"), [(9, 1), (19, 1), (20, 3), (35, 3), (45, 5), (59, 5), (60, 7)]
)
def test_every_nth_pixel_is_looked_at_and_n_is_odd(monkeypatch, size, step):
    monkeypatch.setattr(intensity, "SAMPLE", 10)
    image = np.arange(size) ** 2
    assert measure(image, ZSCORE)["q500"] == np.median(image[::step])
    assert measure(image, ZSCORE)["highest"] == (size - 1) ** 2


def test_about_a_million_pixels_are_looked_at():
    for step in (3, 5):
        image = np.zeros(step << 20, np.uint8)
        image[::step] = 1
        assert measure(image, ZSCORE)["q001"] == 1


def test_the_least_and_the_largest_of_each_figure_are_kept():
    found = combine([{"a": 3, "b": 1}, {"a": 1, "b": 5}, {"a": 2, "b": 4}])
    assert found == {"a": [1, 3], "b": [1, 5]}


HARDLY = "hardly a pixel is below 0 (the lowest is -1000), as "
BETWEEN = "of the pixels are between -100 and 300, the network's window; in training "


@pytest.mark.parametrize(
    ("seen", "trained", "told"),
    [
        ({}, {}, None),
        ({"dark": 0.001}, {}, None),
        ({"dark": 0.00099}, {}, HARDLY + "30% or more of each training image was"),
        ({"dark": 0.0}, {"dark": [0.01, 0.6]}, HARDLY + "1% or more of each training image was"),
        ({"dark": 0.0}, {"dark": [0.0099, 0.6]}, None),
        ({"inside": 0.02}, {}, None),
        ({"inside": 0.0199}, {}, f"2% {BETWEEN}40% or more were"),
        ({"inside": 0.0101}, {"inside": [0.1, 0.7]}, None),
        ({"inside": 0.0098}, {"inside": [0.1, 0.7]}, f"0.98% {BETWEEN}10% or more were"),
        ({"bright": 0.5}, {}, None),
        ({"bright": 0.501}, {}, "50% of the pixels are above 300; in training 10% at most were"),
        ({"bright": 0.75}, {"bright": [0.05, 0.5]}, None),
        ({"bright": 0.81}, {"bright": [0.05, 0.5]},
         "81% of the pixels are above 300; in training 50% at most were"),
    ],
)  # fmt: skip
def test_a_window_is_held_to_the_shares_of_training(seen, trained, told):
    found = unlike(SEEN | seen, TRAINED | trained, WINDOW, "CT")
    assert found == ([] if told is None else [told])


@pytest.mark.parametrize(
    ("seen", "window", "told"),
    [
        ({}, (-100, 300), None),
        ({"dark": 0.001}, (-100, 300), None),
        ({"dark": 0.0}, (-100, 300), HARDLY + "air and fat in each training image are"),
        ({"dark": 0.0}, (-0.5, 1.5), HARDLY + "air and fat in each training image are"),
        ({"dark": 0.0}, (0, 300), None),
        ({"inside": 0.0101}, (-100, 300), None),
        ({"inside": 0.0099}, (-100, 300), f"0.99% {BETWEEN}10% or more were"),
        ({"bright": 0.5}, (-100, 300), None),
        ({"bright": 0.51}, (-100, 300),
         "51% of the pixels are above 300; in training 10% at most were"),
    ],
)  # fmt: skip
def test_a_window_without_a_record_is_held_to_what_any_ct_has(seen, window, told):
    found = unlike(SEEN | seen, None, norm.window(*window))
    assert found == ([] if told is None else [told])


@pytest.mark.parametrize(("low", "modality", "told"), [(-0.5, "MR", True), (0, "MR", False),
    (-0.5, "CT", False), (-0.5, "", False)])  # fmt: skip
def test_a_window_below_0_is_of_a_ct(low, modality, told):
    found = unlike(SEEN, None, norm.window(low, 300), modality)
    text = f"the file's modality is {modality}, and the network's window is of a CT"
    assert found == ([text] if told else [])


@pytest.mark.parametrize(
    ("negative", "lowest", "told"),
    [(0.01, [0.0, 5.0], "; training had none below 0"), (0.0099, [0.0, 5.0], None),
     (0.01, [-0.5, 5.0], None), (0.01, None, "; such a network is for MRI"), (0.0099, None, None)],
)  # fmt: skip
def test_a_hundredth_of_air_is_a_ct_where_training_had_nothing_below_0(negative, lowest, told):
    trained = lowest and TRAINED | {"lowest": lowest}
    found = unlike(SEEN | {"negative": negative}, trained, ZSCORE)
    assert found == (
        [f"1% of the pixels are below -200, as the air of a CT is{told}"] if told else []
    )


@pytest.mark.parametrize(("value", "text"), [(-0.0, "0"), (7.0, "7"), (-1000.5, "-1000.5")])
def test_an_image_of_one_value_is_told_by_it(value, text):
    for kind in (WINDOW, ZSCORE):
        assert unlike({"lowest": value, "highest": value}, None, kind) == [f"every pixel is {text}"]


@pytest.mark.parametrize("record", [[{"a": [1, 2, 3]}], [{"a": [1, float("inf")]}],
    [{"a": [1, 2]}, {"a": [1, 2], "b": [float("nan"), 1]}]])  # fmt: skip
def test_a_record_has_two_finite_numbers_of_each_figure(record):
    with pytest.raises(ValueError, match="expected the least and the largest of each figure"):
        check_record(record)
    assert check_record([{"a": [1, "2"]}, {3: (4, 5)}]) == ({"a": [1, 2]}, {"3": [4, 5]})


def test_slices_that_train_are_measured_channel_by_channel(monkeypatch):
    """The record is in the channels' order, whichever is read first."""
    volume = dataclasses.make_dataclass("Volume", ["channels"])
    source = dataclasses.make_dataclass("Source", ["volumes"])
    images = [
        [np.arange(12).reshape(3, 4) + 100 * v + 1000 * c for c in range(2)] for v in range(3)
    ]
    given = source([volume(tuple(lambda image=image: image for image in row)) for row in images])
    recorder = Recorder(ZSCORE)
    train = [np.array([0, 2]), np.array([], int), np.array([1])]
    watched = recorder.watch(given, train)
    assert recorder.measured == {}
    for v, found in enumerate(watched.volumes):
        for c in (1, 0):
            assert found.channels[c]() is images[v][c]
    lows = [[r["lowest"], r["highest"]] for r in recorder.record()]
    assert lows == [[[0, 204], [11, 207]], [[1000, 1204], [1011, 1207]]]
    with pytest.raises(ValueError, match="zip"):
        recorder.watch(given, train[:2])


def test_each_channel_is_compared_with_its_own_record_and_modality(monkeypatch):
    monkeypatch.setattr(intensity, "measure", lambda image, kind: SEEN | {"bright": image})
    kinds = {"kind": "channels"}
    monkeypatch.setattr(
        intensity.norm, "channel", lambda kind, index: [WINDOW, norm.window(0, 300)][index]
    )
    content, notes = compare([0.1, 0.6], [TRAINED, TRAINED | {"dark": [0, 1]}], kinds, ["MR", "MR"])
    assert [c["expected"] for c in content] == [TRAINED, TRAINED | {"dark": [0, 1]}]
    assert content[0]["seen"] == SEEN and content[1]["seen"]["bright"] == 0.6
    told = "are not those of training, and the mask is likely to be wrong"
    assert notes == (
        f"the intensities of channel 1 {told}: {content[0]['unlike'][0]}; a CT must be in "
        "Hounsfield units (air -1000, water 0), neither shifted nor scaled to 8 bits",
        f"the intensities of channel 2 {told}: 60% of the pixels are above 300; in training 10% at "
        "most were; give images like those of its training",
    )
    content, notes = compare([0.6], [], kinds, ["CT"])
    assert content[0]["expected"] is None and notes[0].startswith("the intensities are not those")
    assert compare([0.1, 0.1], [TRAINED], kinds, ["CT", "CT"])[0][1]["expected"] is None


def test_values_that_no_window_changes_are_held_to_no_window():
    seen = SEEN | {"negative": 0.5, "q500": 5.0, "q050": 0.0, "q950": 10.0}
    trained = {"lowest": [-5.0, 1.0], "q001": [1.0, 2.0], "q999": [8.0, 9.0], "q050": [1.0, 2.0],
               "q950": [7.0, 8.0]}  # fmt: skip
    none = {"kind": "none"}
    assert unlike(seen, trained, none) == []
    assert (
        unlike(seen | {"q500": 9.5}, trained, ZSCORE) == [] == unlike(seen, None, ZSCORE | none)[1:]
    )
    assert unlike(seen | {"q500": 9.5}, trained, none) == [
        "the median is 9.5; the pixels of training were 1 to 9"
    ]
    assert unlike(seen | {"q500": 9.5, "negative": 0.0}, None, none) == []
