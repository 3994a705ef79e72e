"""What a report shows of a target's confidence, and that a detail of another form is skipped."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import report_sample

from lmaunet.data.calibration_scores import CalibrationCounts
from lmaunet.deploy import confidence_detail, render, report
from lmaunet.deploy.confidence_detail import confidence


def calibration(patients=3):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (3, 40, 40)).astype(np.float32)
    sampled = (logits + rng.normal(0, 1, (8, 3, 40, 40))).astype(np.float32)
    label = (logits / 2 + rng.gumbel(0, 1, logits.shape)).argmax(0)
    counts = CalibrationCounts()
    counts.add(logits, sampled, label, 2.0)
    scores = counts.to_json()
    if patients == 1:
        del scores["tempered"]
    return {
        "samples": 8, "patients": patients, "temperature": 1.83, "scores": scores,
        "temperatures_of_others": {"a": 1.77, "b": 1.91} if patients > 1 else {},
        "further_sample_within": 7 / 9, "cost": {"ratio": 1.37},
        "volumes": [{"class": "liver", "cases": 9, "within": 5, "width_percent": 3.21,
                     "error_percent": 2.34}],
    }  # fmt: skip


def sample(found):
    parts = report_sample.parts()
    parts["targets"]["ort"]["detail"]["confidence"] = {"features": "f", "calibration": found}
    return report.assemble(**parts)


def test_both_forms_show_the_scores_with_how_they_were_obtained():
    found = calibration()
    made = sample(found)
    page, text = render.html(made), render.markdown(made)
    scores = found["scores"]
    for kind in ("plain", "sampled", "tempered"):
        for region in ("foreground", "all"):
            ece = f"{scores[kind][region]['ece']:.4f}"
            assert ece in page and re.search(rf"{ece} measured", text)
    at = scores["tempered"]["foreground"]["risk"]["risk"][2]
    for shown in (f"{at:.2%}", "5 of 9", "3.2", "2.3", "1.37"):
        assert shown in page and shown in text
    assert "How far ort can be trusted" in page and "How far ort can be trusted" in text
    assert "1.77 to 1.91" in text and "1.83" in text and "0.78" in text
    assert page.count('<svg class="trust"') == 2 and page.count("<polyline") == 6
    assert "How far trt" not in page


def test_the_plots_are_of_the_scores():
    found = calibration()
    shown = confidence({"detail": {"confidence": {"calibration": found}}, "dice": {}})
    reliability, risk = shown["plots"]
    line = next(line for line in reliability["lines"] if line["kind"] == "tempered")
    points = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    score = found["scores"]["tempered"]["foreground"]
    want = [(44 + 220 * x, 232 - 220 * y)
            for x, y in zip(score["confidence"], score["accuracy"], strict=True)]  # fmt: skip
    np.testing.assert_allclose(points, want, atol=0.06)
    curve = next(line["points"] for line in risk["lines"] if line["kind"] == "plain")
    largest = max(max(found["scores"][k]["foreground"]["risk"]["curve"]) for k in found["scores"])
    last = float(curve.split()[-1].split(",")[1])
    plain = found["scores"]["plain"]["foreground"]["risk"]["curve"][-1]
    assert last == pytest.approx(232 - 220 * plain / largest, abs=0.06)


def test_of_one_patient_it_says_that_no_temperature_is_scored():
    text = render.markdown(sample(calibration(1)))
    assert "There is one patient" in text and "with a temperature |" not in text


def test_what_was_emulated_says_so():
    found = calibration()
    shown = confidence(
        {"detail": {"confidence": {"calibration": found}}, "dice": {"provenance": "emulated"}}
    )
    assert {cell.provenance for row in shown["rows"] for cell in row[2:]} == {"emulated"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("scores"),
        lambda found: found.update(scores=3),
        lambda found: found["scores"]["plain"]["all"].update(ece=float("nan")),
        lambda found: found["scores"]["plain"]["all"].update(ece="0.1"),
        lambda found: found["scores"]["plain"]["foreground"]["risk"].update(curve=["x"]),
        lambda found: found["scores"]["plain"]["all"]["risk"].update(coverage=[0.5]),
        lambda found: found["volumes"].append({}),
        lambda found: found.update(cost=None),
        lambda found: found.update(temperatures_of_others=[1]),
    ],
)
def test_a_detail_of_another_form_is_skipped(damage):
    found = calibration()
    whole = {"detail": {"confidence": {"calibration": found}}, "dice": {}}
    assert confidence(whole) is not None
    damage(found)
    assert confidence(whole) is None
    for other in ({}, {"confidence": None}, {"confidence": {}}, {"confidence": {"calibration": 1}}):
        assert confidence({"detail": copy.deepcopy(other), "dice": {}}) is None


def test_a_wrong_coverage_is_noticed(mutant_of, monkeypatch):
    mutant = mutant_of(confidence_detail, "COVERAGE = 0.9", "COVERAGE = 0.5")
    monkeypatch.setattr("lmaunet.deploy.view.confidence", mutant.confidence)
    with pytest.raises(AssertionError):
        test_both_forms_show_the_scores_with_how_they_were_obtained()
