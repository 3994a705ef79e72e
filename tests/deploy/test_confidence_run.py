"""From qat --dropout to a map: a small network's run, as a user does it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK

import lmaunet
from lmaunet.deploy.masked_builds import HEAD_FILE
from lmaunet.stage import read_json


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_spec):
    """A run of a network of 32x32 with dropout, and its ort build."""
    from lmaunet.deploy import commands
    from lmaunet.deploy.quantizing import QatOptions
    from lmaunet.deploy.runs import DataSource

    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        commands.train(place / "run", tiny_spec, DataSource(None), 1, 1e-2, 8, 0)
        checkpoint = place / "run" / "train" / "model.pt"
        content, lines, _ = commands.qat(
            None, checkpoint, None, None, QatOptions(1, 1e-3, 8, 0, dropout=0.25)
        )
        assert content["confidence"]["dropout"] == 0.25
        assert any("infer --confidence" in line for line in lines)
        commands.build(place / "run", "ort", {"cpu": "any", "operators": False})
        return place / "run"


@pytest.mark.slow
def test_a_run_with_dropout_builds_and_says_how_sure_it_is(built, tmp_path):
    build = built / "build" / "ort"
    said = read_json(build / "deployment.json")
    assert said["confidence"] == read_json(built / "qat" / "confidence.json")
    assert HEAD_FILE in [file["name"] for file in said["ships"]]
    names = [a["name"] for a in read_json(build / "build.json")["agreements"]]
    assert "ort head over masks of ones, logits" in names
    seg = lmaunet.load(build)
    image = SimpleITK.GetImageFromArray(
        np.random.default_rng(0).normal(40, 200, (3, 40, 50)).astype(np.int16)
    )
    image.SetSpacing((2.0, 2.5, 4.0))
    plain = seg(image)
    mask, found = seg(image, confidence=True, samples=9, seed=4)
    np.testing.assert_array_equal(*map(SimpleITK.GetArrayFromImage, (mask, plain)))
    entropy = SimpleITK.GetArrayFromImage(found.entropy)
    # it is hardly trained, and says so
    assert 1 < entropy.min() < entropy.max() <= np.log(9)
    np.testing.assert_allclose(found.volumes_ml.sum(0), 3 * 40 * 50 * 0.02)
    again = seg(image, confidence=True, samples=9, seed=4)[1]
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again.entropy), entropy)
    other = seg(image, confidence=True, samples=9, seed=5)[1]
    assert (SimpleITK.GetArrayFromImage(other.entropy) != entropy).any()


@pytest.mark.slow
def test_a_measurement_has_the_calibration_and_the_report_shows_it(built):
    from lmaunet.deploy import commands

    commands.measure(built, "ort")
    detail = read_json(built / "measure" / "ort" / "measure.json")["detail"]["confidence"]
    found = detail["calibration"]
    assert set(found["scores"]) == {"plain", "sampled"}  # the phantom is one patient
    assert 0 <= found["scores"]["sampled"]["foreground"]["ece"] <= 1
    content, _, _ = commands.report(built, None, False)
    assert "confidence" in content["targets"]["ort"]["detail"]
    assert "How far ort can be trusted" in (built / "report.html").read_text()
    assert json.dumps(found)
