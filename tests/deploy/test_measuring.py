"""What measuring makes of logits and scores, and which data it accepts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lmaunet.artifacts import Measurement, Unavailable
from lmaunet.deploy import measuring, pipeline
from lmaunet.deploy.export_images import samples_of
from lmaunet.errors import Disagreement, UserError
from lmaunet.stage import write_json

LATENCY = {"value": 61.5, "unit": "ms", "provenance": "measured"}
LOST = {"unavailable": {"tool": "a GPU", "why": "none", "fix": "buy one"}}


@pytest.fixture
def measured(tmp_path):
    """A function that writes a target's measurement."""

    def write(dice=0.75, hd95=3.5, **per_class):
        content = {
            "scores": {"dice": dice, "hd95_mm": hd95, "per_class": per_class},
            "figures": {"latency_ms": LATENCY, "size_mb": LOST}, "provenance": "emulated",
        }  # fmt: skip
        write_json(tmp_path / "measure.json", content)
        return tmp_path

    return write


def reference(dice=0.875, **per_class):
    return {"dice": dice, "per_class": per_class}


def test_a_drop_is_in_points_and_as_sure_as_the_scores(measured):
    figures, scores = measuring.read_target(
        measured(liver=0.5, aorta=0.75), reference(liver=0.625, aorta=1.0)
    )
    assert figures == {
        "latency_ms": Measurement("latency_ms", 61.5, "ms", "measured"),
        "size_mb": Unavailable("size_mb", "a GPU", "none", "buy one"),
        "hd95_mm": Measurement("hd95_mm", 3.5, "mm", "emulated"),
        "dice": Measurement("dice", 0.75, "1", "emulated"),
        "dice_drop_points": Measurement("dice_drop_points", 12.5, "points", "emulated"),
        "class_drop_points": Measurement("class_drop_points", 25.0, "points", "emulated"),
    }
    assert scores["worst_class"] == {
        "class": "aorta", "reference": 1.0, "dice": 0.75, "relative_loss": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("own", "before", "classes"),
    [(None, 0.875, {"liver": 0.5}), (0.75, None, {"liver": 0.5}), (0.75, 0.875, {}),
     (None, None, {})],
)  # fmt: skip
def test_without_a_dice_on_either_side_no_drop_is_made_up(measured, own, before, classes):
    figures, scores = measuring.read_target(measured(own, **classes), reference(before, **classes))
    for key in ("dice", "dice_drop_points", "class_drop_points"):
        assert figures[key] == measuring.no_foreground(key)
    assert figures["hd95_mm"].value == 3.5 and "worst_class" not in scores


def test_a_distance_of_nothing_is_one_and_none_is_explained(measured):
    figures, _ = measuring.read_target(measured(hd95=0.0, liver=0.5), reference(liver=0.5))
    assert figures["hd95_mm"] == Measurement("hd95_mm", 0.0, "mm", "emulated")
    figures, _ = measuring.read_target(measured(hd95=None, liver=0.5), reference(liver=0.5))
    assert figures["hd95_mm"].quantity == "hd95_mm" and "spacing" in figures["hd95_mm"].why


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(1, 0, 0, 0), (2, 1, 2, 3)])
def test_a_logit_that_is_no_number_is_scored_by_nobody(value, place):
    logits = np.zeros((4, 2, 3, 5), np.float32)
    logits[:, 1, 1, 2] = 1.0
    classes = measuring._classes(logits, "ort")
    assert classes.shape == (4, 3, 5) and np.argwhere(classes[0]).tolist() == [[1, 2]]
    logits[place] = value
    logits[3, 0, 0, 0] = value
    with pytest.raises(Disagreement) as raised:
        measuring._classes(logits, "ort")
    said = f"ort: the logits of 2 of 4 held-out slices hold NaN or infinity, first of slice {place}"
    assert str(raised.value).startswith(said.replace(str(place), f"{place[0]};"))


@pytest.mark.parametrize("known", ["b", "aa", "", None])
def test_data_of_another_digest_are_refused(tmp_path, known):
    """Whichever of two digests comes first in the alphabet."""
    images = SimpleNamespace(sha256="ab", source=SimpleNamespace(path="here"))
    pipeline.require_data({"data_sha256": "ab"}, images, tmp_path)
    with pytest.raises(UserError, match=rf"^the data in here have changed since {tmp_path} was ma"):
        pipeline.require_data({"data_sha256": known} if known is not None else {}, images, tmp_path)


class Slices(SimpleNamespace):
    def __len__(self):
        return len(self.images)


def test_the_slices_with_most_foreground_go_along_in_their_order():
    labels = np.zeros((7, 4, 5), np.uint8)
    for index, count in enumerate((3, 9, 0, 9, 1, 20, 3)):
        labels[index].flat[:count] = 2 + index % 3
    images = np.arange(7, dtype=np.float32)[:, None, None, None] * np.ones((7, 1, 4, 5), np.float32)
    data = SimpleNamespace(train=Slices(images=images, labels=labels))
    assert samples_of(data)[:, 0, 0, 0].tolist() == [0, 1, 3, 5]


def test_progress_of_a_part_is_a_part_of_the_whole():
    said = []
    part = measuring._part(lambda fraction, line: said.append((fraction, line)), 0.25, 0.5)
    part(0.0, "a")
    part(0.5, "b")
    part(1.0, "c")
    assert said == [(0.25, "a"), (0.5, "b"), (0.75, "c")]


@pytest.fixture
def shares(monkeypatch, tmp_path):
    """A function that measures these targets and returns what was said."""

    def measure(only, *built):
        said, order = [], []
        monkeypatch.setattr(measuring, "open_run_data", lambda run: "images")
        monkeypatch.setattr(measuring, "built_targets", lambda run: list(built))
        monkeypatch.setattr(
            measuring, "measure_reference",
            lambda run, images: order.append("reference") or SimpleNamespace(folder=run / "r"),
        )  # fmt: skip

        def target(run, name, images, say):
            order.append((name, images))
            say(0.0, f"{name} begins")
            say(1.0, f"{name} ends")
            return SimpleNamespace(folder=run / name)

        monkeypatch.setattr(measuring, "measure_target", target)
        folders = measuring.measure_all(tmp_path, only, lambda *line: said.append(line))
        return folders, order, said

    return measure


def test_fp32_is_measured_first_and_progress_runs_through_the_targets(shares, tmp_path):
    folders, order, said = shares(None, "fpga", "ort")
    assert folders == {name: tmp_path / name[: 1 if name == "reference" else None]
                       for name in ("reference", "fpga", "ort")}  # fmt: skip
    assert order == ["reference", ("fpga", "images"), ("ort", "images")]
    assert [line for _, line in said] == [
        "reading the run and its data", "FP32 on held-out slices", "fpga begins", "fpga ends",
        "ort begins", "ort ends",
    ]  # fmt: skip
    assert [share for share, _ in said] == pytest.approx([0, 0, 0.2, 0.6, 0.6, 1.0])


def test_one_target_alone_is_measured_where_it_is_asked_for(shares):
    folders, order, _ = shares("ort", "fpga", "ort")
    assert list(folders) == ["reference", "ort"] and order[1:] == [("ort", "images")]


def test_a_run_without_builds_has_nothing_to_measure(shares, tmp_path):
    with pytest.raises(UserError, match=rf"^{tmp_path} has no builds; make one with: lmaunet-dep"):
        shares(None)
