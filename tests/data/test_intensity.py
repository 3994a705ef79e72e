"""What tells an image whose values are not those of training, and what must not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lmaunet.data import normalization as norm
from lmaunet.data.images.intensity import SAMPLE, check_record, combine, compare, measure, unlike
from lmaunet.data.loaders import load, load_phantom
from lmaunet.data.phantom import phantom_volume
from lmaunet.errors import UserError

WINDOW = norm.window(-125, 275)


def ct(seed=0, shape=(12, 60, 70)):
    """A body with fat around organs, in air, with noise."""
    rng = np.random.default_rng(seed)
    _, y, x = np.meshgrid(*map(np.arange, shape), indexing="ij")
    radius = np.hypot((y - shape[1] / 2) / shape[1], (x - shape[2] / 2) / shape[2])
    hu = np.select([radius < 0.25, radius < 0.38, radius < 0.4], [60.0, -100.0, 300.0], -1000.0)
    return (hu + rng.normal(0, 12, shape)).astype(np.float32)


TRAINED = combine([measure(ct(seed), WINDOW) for seed in range(3)])

ORDINARY = {
    "itself": lambda hu: hu,
    "another scanner's air": lambda hu: np.where(hu < -900, -3024, hu),
    "a table of metal": lambda hu: np.where((hu < -900) & (np.arange(70) > 64), 3071, hu),
    "cut to the body": lambda hu: hu[:, 14:46, 16:54],
    "one slice": lambda hu: hu[5:6],
    "clipped to the window": lambda hu: np.clip(hu, -125, 275),
    "contrast": lambda hu: np.where((hu > 0) & (hu < 200), hu + 150, hu),
    "much air": lambda hu: np.pad(hu, ((0, 0), (60, 60), (60, 60)), constant_values=-1000),
    "in integers": lambda hu: hu.astype(np.int16),
}
UNLIKE = {
    "shifted by 1024": (lambda hu: hu + 1024, "hardly a pixel is below -25"),
    "shifted down": (lambda hu: hu - 1024, "% of the pixels are between -125 and 275"),
    "8 bits": (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255).astype(np.uint8), "hardly"),
    "0 to 1": (lambda hu: np.clip((hu + 125) / 400, 0, 1), "hardly a pixel"),
    "-1 to 1": (lambda hu: hu / 1024, "hardly a pixel"),
    "labels": (lambda hu: (hu > 0).astype(np.uint8), "hardly a pixel"),
    "MRI": (lambda hu: np.abs(hu + 1000) * 0.6, "hardly a pixel is below -25 (the lowest is"),
    "constant": (lambda hu: np.full_like(hu, -1000), "every pixel is -1000"),
    "zeros": (lambda hu: hu * -0.0, "every pixel is 0"),
    "all bright": (lambda hu: np.abs(hu) + 300, "are above 275; in training"),
}


@pytest.mark.parametrize("trained", [TRAINED, None], ids=["recorded", "an old build"])
@pytest.mark.parametrize("change", ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_ct_is_not_told(change, trained):
    assert unlike(measure(change(ct(9)), WINDOW), trained, WINDOW, "CT") == []


@pytest.mark.parametrize("trained", [TRAINED, None], ids=["recorded", "an old build"])
@pytest.mark.parametrize(("change", "text"), UNLIKE.values(), ids=UNLIKE)
def test_other_values_are_told(change, text, trained):
    told = unlike(measure(change(ct(9)), WINDOW), trained, WINDOW)
    assert any(text in reason for reason in told), told


@pytest.mark.parametrize(("modality", "told"), [("CT", False), ("", False), ("MR", True),
                                                ("PT", True)])  # fmt: skip
def test_the_modality_of_a_file_is_heeded(modality, told):
    reasons = unlike(measure(ct(9), WINDOW), TRAINED, WINDOW, modality)
    assert bool(reasons) == told and (not told or f"modality is {modality}" in reasons[0])
    unit = np.clip((ct(9) + 125) / 400, 0, 1)
    for low in (0, 0.25):  # no window of HU begins there
        positive = norm.window(low, 1)
        assert unlike(measure(unit, positive), None, positive, "MR") == []


def test_a_network_for_mri_is_told_of_a_ct_and_not_of_a_shift():
    """A z-score takes shift and scale away."""
    kind = norm.zscore()
    mri = np.abs(ct(1) + 1000)
    trained = combine([measure(mri, kind)])
    for record in (trained, None):
        assert "as the air of a CT is" in unlike(measure(ct(2), kind), record, kind)[0]
        for other in (mri * 7 + 300, (mri / 5).astype(np.uint8), mri - 50):
            assert unlike(measure(other, kind), record, kind) == []
    # one that was trained on CT by a z-score
    assert unlike(measure(ct(2), kind), combine([measure(ct(1), kind)]), kind) == []


def test_a_set_of_another_window_is_held_to_it():
    """Images that were scaled to 0..1 before training, and a CT in HU given to their network."""
    kind = norm.window(0, 1)
    trained = combine([measure(np.clip((ct(s) + 125) / 400, 0, 1), kind) for s in range(2)])
    same = np.clip((ct(7) + 125) / 400, 0, 1)
    assert unlike(measure(same, kind), trained, kind) == []
    assert "the network's window" in unlike(measure(ct(7), kind), trained, kind)[0]
    bits = 20 + 235 * same
    assert any("are above 1" in r for r in unlike(measure(bits, kind), trained, kind))


def test_a_network_that_takes_values_as_they_are_is_told_of_others():
    kind = {"kind": "none"}
    mri = [np.abs(ct(seed) + 1000) for seed in range(3)]
    trained = combine([measure(image, kind) for image in mri[:2]])
    assert unlike(measure(mri[2], kind), trained, kind) == []
    assert unlike(measure(mri[2] * 2, kind), trained, kind) == []
    for other in (mri[2] * 10, mri[2] / 10):
        assert "in training they spanned" in unlike(measure(other, kind), trained, kind)[0]
    assert "the median is" in unlike(measure(mri[2] + 5000, kind), trained, kind)[0]
    assert unlike(measure(mri[2] * 10, kind), None, kind) == []


RANGES = {"q001": [-4.0, 1.0], "q050": [10.0, 14.0], "q500": [15.0, 16.0], "q950": [30.0, 40.0],
          "q999": [45.0, 50.0], "lowest": [-9.0, -5.0], "highest": [60.0, 70.0]}  # fmt: skip


@pytest.mark.parametrize(
    ("median", "lower", "upper", "told"),
    [
        # the widest image of training may have spanned 40 - 10, the narrowest 30 - 14
        (20.0, 0.0, 150.0, None),
        (20.0, 0.0, 150.5, "90% of the pixels span 150.5; in training they spanned about 30"),
        (20.0, 0.0, 3.2, None),
        (20.0, 0.0, 3.1, "90% of the pixels span 3.1; in training they spanned about 30"),
        (-4.0, 0.0, 20.0, None),
        (-4.1, 0.0, 20.0, "the median is -4.1; the pixels of training were -4 to 50"),
        (50.0, 0.0, 20.0, None),
        (50.1, 0.0, 20.0, "the median is 50.1; the pixels of training were -4 to 50"),
    ],
)
def test_where_values_may_lie_and_how_wide_follows_from_every_image_of_training(
    median, lower, upper, told
):
    seen = {"lowest": -1.0, "highest": 99.0, "negative": 0.0, "q500": median, "q050": lower,
            "q950": upper}  # fmt: skip
    found = unlike(seen, RANGES, {"kind": "none"})
    assert found == ([] if told is None else [told])


def test_all_columns_of_a_large_image_are_looked_at():
    """A step that divides the width would see some columns only."""
    image = np.full((5, 1024, 1024), -1000.0, np.float32)
    image[:, :, 1::2] = 50  # every second column
    assert image.size > 4 * SAMPLE
    seen = measure(image, WINDOW)
    assert abs(seen["dark"] - 0.5) < 0.01 and abs(seen["inside"] - 0.5) < 0.01
    image[3, 500, 700] = 3000
    assert measure(image, WINDOW)["highest"] == 3000


def test_training_images_are_recorded_as_they_were_before_normalization(maker, tmp_path):
    for number in range(3):
        labels = maker.labels()
        maker.pair(f"case{number}", labels=labels, image=maker.image(labels) + 10 * number)
    data = load(tmp_path, size=(16, 16))
    record = data.intensity[0]
    train = {str(case) for case in data.train.cases}
    assert len(train) == 2 and len(data.intensity) == 1
    lows = []
    for case in train:
        from lmaunet.data.images.volumes import read_image

        array = read_image(tmp_path / "images" / f"{case}.nii.gz")[0]
        lows.append(array[data.train.z[data.train.cases == case]].min())
    assert np.allclose(record["lowest"], sorted(lows))
    assert json.loads(json.dumps(record)) == record == check_record([record])[0]


def test_the_phantom_is_recorded_and_another_phantom_is_like_it():
    data = load_phantom(size=(64, 64))
    kind = data.normalization
    assert unlike(measure(phantom_volume(5)[0], kind), data.intensity[0], kind) == []


def test_each_channel_is_held_to_its_own(maker):
    images = [ct(5), ct(5) + 1024]
    content, notes = compare(images, [TRAINED, TRAINED], WINDOW, ["", ""])
    assert len(notes) == 1 and "the intensities of channel 2 are not those of training" in notes[0]
    assert content[0]["unlike"] == [] and content[1]["unlike"] and content[1]["expected"] == TRAINED
    assert compare(images[:1], [], WINDOW, [""])[1] == ()


@pytest.mark.parametrize(
    "record", [[{"dark": [1]}], [{"dark": ["x", 1]}], [{"dark": [float("nan"), 1]}], [3], 3,
               {"dark": 1}],
)  # fmt: skip
def test_a_record_that_is_damaged_is_refused(record):
    with pytest.raises((ValueError, TypeError, AttributeError, UserError)):
        check_record(record)
