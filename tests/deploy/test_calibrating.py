"""What measure says of a build's confidence: fitted to others than scored, and counted right."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from test_confidence import CHANNELS, CLASSES, DROPOUT, features, head, own_build, target

from lmaunet.data.calibration_scores import best_temperature, of_interest, temperature_loss
from lmaunet.data.confidence import SAMPLES, draw_masks
from lmaunet.deploy import calibrating
from lmaunet.deploy.deployment import read_build


def held_out(cases):
    """Slices of noise, of cases whose second letter is their patient."""
    images = np.random.default_rng(1).normal(0, 1, (len(cases), 1, 32, 32)).astype(np.float32)
    logits = head(features(images), np.ones(CHANNELS))
    # labels that the network knows the better, the later the patient
    noise = np.random.default_rng(2).gumbel(0, 1, logits.shape)
    sharp = np.array([1 + int(case[1]) for case in cases])[:, None, None, None]
    labels = (sharp * logits / 2 + noise).argmax(1).astype(np.uint8)
    val = SimpleNamespace(images=images, labels=labels, cases=np.array(cases))
    val = type("Slices", (), {"__len__": lambda self: len(cases), **vars(val)})()
    return SimpleNamespace(val=val, classes=CLASSES, patient=lambda case: str(case)[1])


def calibrated(tmp_path, monkeypatch, cases):
    made, calls = target()
    monkeypatch.setattr(calibrating.timing, "WARM_UP_RUNS", 1)
    monkeypatch.setattr(calibrating.timing, "BLOCKS", 2)
    build, data = read_build(own_build(tmp_path)), held_out(cases)
    calibrating.add_calibration(made, build, data, lambda share, line: None)
    return build.detail["confidence"]["calibration"], data, calls


def test_each_patient_is_scored_with_a_temperature_of_the_others(tmp_path, monkeypatch):
    found, data, _ = calibrated(tmp_path, monkeypatch, ["a0", "b0", "a1", "a2", "b2"])
    masks = draw_masks(SAMPLES, CHANNELS, DROPOUT.rate, 0)
    for left_out in "012":
        loss = 0
        for image, label, case in zip(
            data.val.images, data.val.labels, data.val.cases, strict=True
        ):
            values = features(image[None])
            sampled = np.stack([head(values, m)[0] for m in masks])
            inside = of_interest(label, head(values, np.ones(CHANNELS))[0].argmax(0))
            if case[1] != left_out:
                loss = loss + temperature_loss(sampled[:, :, inside], label[inside])
        assert found["temperatures_of_others"][left_out] == best_temperature(loss)
    assert len(set(found["temperatures_of_others"].values())) > 1
    assert (found["patients"], found["slices"], found["samples"]) == (3, 5, 8)
    assert found["temperature"] == DROPOUT.temperature
    tempered, sampled = (found["scores"][k]["foreground"]["ece"] for k in ("tempered", "sampled"))
    assert tempered < sampled
    cost = found["cost"]
    assert cost["ratio"] == cost["sampled_ms"] / cost["plain_ms"] > 0 < cost["median_ratio"]


def test_one_patient_has_no_others_to_fit(tmp_path, monkeypatch):
    found, _, _ = calibrated(tmp_path, monkeypatch, ["a0", "a0"])
    assert set(found["scores"]) == {"plain", "sampled"} and not found["temperatures_of_others"]


def test_a_build_without_masks_is_left_alone(tmp_path):
    build = read_build(own_build(tmp_path, dropout=None, head_file=False))
    calibrating.add_calibration(target()[0], build, None, None)
    assert build.detail == {}


def test_volumes_count_the_cases_whose_truth_lies_within():
    volumes = calibrating.Volumes(3)
    grid = np.arange(100).reshape(10, 10)

    def slices(n):
        return (grid < n).astype(int)

    for case, true, mask, samples in (
        ("a", 50, 45, (40, 60)), ("b", 50, 52, (51, 60)), ("c", 50, 50, (50, 55)),
    ):  # fmt: skip
        for _ in range(2):  # two slices of each case
            volumes.add(case, slices(true), slices(mask), np.stack([slices(n) for n in samples]))
    assert volumes.to_json(("background", "one", "never")) == [
        {"class": "one", "cases": 3, "within": 2, "width_percent": pytest.approx(18.0),
         "error_percent": pytest.approx(4.0)}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("best_temperature(total - loss)", "best_temperature(total)"),
     ("best_temperature(total - loss)", "best_temperature(loss)")],
)  # fmt: skip
def test_a_temperature_of_the_scored_patient_is_noticed(
    tmp_path, monkeypatch, mutant_of, right, wrong
):
    mutant = mutant_of(calibrating, right, wrong)
    monkeypatch.setattr(calibrating, "add_calibration", mutant.add_calibration)
    with pytest.raises(AssertionError):
        test_each_patient_is_scored_with_a_temperature_of_the_others(tmp_path, monkeypatch)
