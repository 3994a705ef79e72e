"""A report of an earlier version is read as this one would have written it."""

from __future__ import annotations

import copy
import json

import pytest
from report_sample import NO_GPU, sample

from lmaunet.deploy import report

NEW = ("class_drop_points", "worst_class")


def earlier(**changes):
    """A report without the worst class, with changes of its target ort."""
    content = copy.deepcopy(sample())
    for target in content["targets"].values():
        for key in NEW:
            target.pop(key, None)
        for file in target["files"]:
            file.pop("ships", None)
    content["targets"]["ort"] |= changes
    return content


def test_a_report_of_this_version_stays_as_it_is():
    made = sample()
    assert report.upgrade(made) is made


@pytest.mark.parametrize("content", [[], {}, None, 3, {"targets": []}, {"targets": {"ort": 3}},
                                     {"targets": {"ort": {}}, "reference": {}}])  # fmt: skip
def test_what_is_no_report_is_left_to_the_check(content):
    assert report.upgrade(content) is content


def test_the_worst_class_is_found_from_the_classes(tmp_path):
    old = earlier(per_class={"liver": 0.702, "aorta": 0.815})
    (tmp_path / "old.json").write_text(json.dumps(old))
    read = report.load(tmp_path / "old.json")
    target = read["targets"]["ort"]
    assert target["worst_class"] == {
        "class": "liver", "reference": 0.952, "dice": 0.702,
        "relative_loss": pytest.approx(0.25 / 0.952),
    }  # fmt: skip
    assert target["class_drop_points"] == {
        "value": pytest.approx(25.0), "unit": "points", "provenance": "measured",
    }  # fmt: skip
    # limits were on other figures
    assert read["gates"] == [] and read["regressions"] == []
    assert {k: read[k] for k in ("model", "data", "reference", "made")} == {
        k: old[k] for k in ("model", "data", "reference", "made")
    }


@pytest.mark.parametrize(
    "changes",
    [{"dice": NO_GPU.to_json(), "dice_drop_points": NO_GPU.to_json()}, {"per_class": {}}],
)
def test_without_a_dice_or_classes_there_is_no_worst_class(changes):
    target = report.upgrade(earlier(**changes))["targets"]["ort"]
    assert "worst_class" not in target
    assert target["class_drop_points"] == target["dice_drop_points"]


@pytest.mark.parametrize(
    ("arithmetic", "provenance"),
    [("not the engine but the graph", "emulated"), ("the integers of the FPGA's graph", "emulated"),
     ("the engine on this machine's GPU", "measured"), ("it is not the engine", "measured")],
)  # fmt: skip
def test_what_was_emulated_is_called_so(arithmetic, provenance):
    """Its accuracy, and neither its size nor its time."""
    old = earlier(arithmetic=arithmetic)
    target = report.upgrade(old)["targets"]["ort"]
    for key in ("dice", "dice_drop_points", "hd95_mm", "class_drop_points"):
        assert target[key]["provenance"] == provenance
    for key in ("weights_mb", "latency_ms", "size_mb"):
        assert target[key]["provenance"] == "measured"
    assert old["targets"]["ort"]["dice"]["provenance"] == "measured"
    lacking = earlier(arithmetic=arithmetic, hd95_mm=NO_GPU.to_json())
    assert report.upgrade(lacking)["targets"]["ort"]["hd95_mm"] == NO_GPU.to_json()


FILES = [
    {"name": "model.onnx", "bytes": 1_000_000, "ships": True},
    {"name": "lmaunet_operators.so", "bytes": 250_000}, {"name": "host.json", "bytes": 3},
    {"name": "weights.json", "bytes": 40}, {"name": "layers.json", "bytes": 9_000},
]  # fmt: skip


def test_what_ships_beside_the_first_file_counts_to_the_size():
    target = report.upgrade(earlier(files=FILES))["targets"]["ort"]
    assert [file["ships"] for file in target["files"]] == [True, True, True, True, False]
    assert target["size_mb"]["value"] == pytest.approx(1.23 + 0.250043, rel=1e-12)
    assert [file["bytes"] for file in target["files"]] == [file["bytes"] for file in FILES]
