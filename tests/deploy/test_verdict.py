import pytest
from report_sample import NO_GPU, class_drop, measured, parts, sample

from lmaunet.artifacts import Measurement
from lmaunet.deploy import gates, render, report, verdict
from lmaunet.deploy.verdict import block


def ship(made):
    return {entry["target"]: entry["ship"] for entry in made["verdict"]}


def test_only_what_was_measured_on_the_device_can_ship():
    made = sample()
    assert ship(made) == {"ort": "yes", "trt": "open", "fpga": "open"}
    assert made["verdict"][0] == {
        "target": "ort", "ship": "yes", "reasons": [],
        "figures": "Dice 87.7 measured (-0.6 points), worst organ aorta -2.8 points (-3%), "
        "61.30 ms measured, 1.23 MB measured",
    }  # fmt: skip
    assert made["verdict"][1]["reasons"] == ["latency is unavailable: this machine has none"]
    assert made["verdict"][2]["reasons"] == ["latency is estimated, not measured on the device"]


@pytest.mark.parametrize("provenance", ["emulated", "simulated", "estimated"])
@pytest.mark.parametrize("figure", ["dice", "latency_ms"])
def test_a_figure_of_something_else_leaves_it_open(figure, provenance):
    changed = parts()
    value = changed["targets"]["ort"][figure].value
    unit = report.UNITS[figure]
    changed["targets"]["ort"][figure] = Measurement(figure, value, unit, provenance)
    made = report.assemble(**changed)
    assert ship(made)["ort"] == "open"
    assert f"is {provenance}, not measured on the device" in made["verdict"][0]["reasons"][0]


def test_a_failed_gate_is_no_and_named():
    changed = parts()
    changed["targets"]["ort"]["per_class"]["pancreas"] = 0.122
    changed["targets"]["ort"] |= class_drop("pancreas", 0.167, 0.122)
    changed["targets"]["fpga"]["size_mb"] = measured("size_mb", 4.5)
    made = report.assemble(**changed)
    assert ship(made) == {"ort": "no", "trt": "open", "fpga": "no"}
    assert made["verdict"][0]["reasons"] == [
        "class_drop_points of pancreas is 4.50 points measured, at most 3 passes"
    ]
    assert "worst organ pancreas -4.5 points (-27%)" in made["verdict"][0]["figures"]
    # what speaks against it comes before what is missing
    assert made["verdict"][2]["reasons"] == ["size_mb is 4.50 MB measured, at most 4.2 passes"]


def test_an_organ_that_is_not_found_leaves_it_open():
    """It was not found in FP32 either, so that the gate on the worst organ passes."""
    changed = parts()
    changed["targets"]["ort"]["per_class"]["liver"] = 0.0
    changed["reference"]["dice"]["per_class"]["liver"] = 0.0
    made = report.assemble(**changed)
    assert ship(made)["ort"] == "open"
    assert made["verdict"][0]["reasons"] == ["no overlap at all, so that no gate can tell: liver"]
    assert "no overlap at all: liver" in made["verdict"][0]["figures"]


def test_without_a_dice_nothing_ships():
    changed = parts()
    for figure in ("dice", "dice_drop_points", "class_drop_points"):
        changed["targets"]["ort"][figure] = NO_GPU
    del changed["targets"]["ort"]["worst_class"]
    made = report.assemble(**changed)
    assert ship(made)["ort"] == "open"
    assert made["verdict"][0]["reasons"] == ["Dice is not scored: this machine has none"]
    assert made["verdict"][0]["figures"].startswith("Dice not scored, ")
    strict = report.assemble(**changed, strict=True)
    assert ship(strict)["ort"] == "no"


def test_a_target_without_gates_does_not_ship():
    made = sample(gates=[])
    assert ship(made)["ort"] == "open"
    assert made["verdict"][0]["reasons"] == ["no gate was checked"]


def test_a_regression_is_no():
    changed = parts()
    changed["targets"]["ort"]["size_mb"] = measured("size_mb", 1.4)
    made = report.with_baseline(report.assemble(**changed), sample(), "old.json")
    assert ship(made)["ort"] == "no"
    assert made["verdict"][0]["reasons"][0].startswith("regression: ort size_mb: was 1.23 MB")
    assert ship(report.with_baseline(sample(), sample(), "old.json"))["ort"] == "yes"
    changed["data"]["name"] = "another"
    made = report.with_baseline(report.assemble(**changed), sample(), "old.json")
    assert set(ship(made).values()) == {"no"}


def test_an_organ_without_any_overlap_is_named():
    changed = parts()
    changed["targets"]["ort"]["per_class"]["pancreas"] = 0.0
    assert ", no overlap at all: pancreas, " in report.assemble(**changed)["verdict"][0]["figures"]


@pytest.mark.parametrize(("count", "said"), [(1, "on 1 patient)"), (7, "on 7 patients)")])
def test_how_many_patients_it_was_scored_on_is_said(count, said):
    changed = parts()
    changed["targets"]["ort"]["per_patient"] = {f"p{i}": 0.8 for i in range(count)}
    figures = report.assemble(**changed)["verdict"][0]["figures"]
    assert figures.startswith(f"Dice 87.7 measured (-0.6 points {said}, ")


def test_an_unsteady_latency_is_marked():
    changed = parts()
    changed["targets"]["ort"]["detail"]["latency"] |= {"spread": 1.4, "unsteady": True}
    made = report.assemble(**changed)
    assert "61.30 ms measured (unsteady)" in made["verdict"][0]["figures"]
    assert "61.30 ms measured, unsteady" in render.markdown(made)
    assert '<span class="badge caution">unsteady</span>' in render.html(made)
    assert "unsteady" not in render.html(sample()).partition("</style>")[2]


def test_the_block_is_short_and_says_where_each_stands():
    lines = block(sample())
    assert lines == [
        "SHIP ort?  YES   Dice 87.7 (-0.6 points), worst organ aorta -2.8 points (-3%), 61.30 ms, "
        "1.23 MB",
        "SHIP trt?  OPEN  Dice 87.8 (-0.7 points), worst organ aorta -2.7 points (-3%), latency "
        "unavailable, 1.33 MB",
        "                 latency is unavailable: this machine has none",
        "SHIP fpga? OPEN  Dice 87.9 (-0.8 points), worst organ aorta -2.6 points (-3%), 10.37 ms "
        "est., 1.43 MB",
        "                 latency is estimated, not measured on the device",
    ]
    assert gates.exit_status(sample()) == 0


def test_the_verdict_stands_at_the_top_of_both_forms():
    made = sample()
    text = render.markdown(made)
    assert text.index("SHIP ort? YES") < text.index("SHIP fpga? OPEN") < text.index("Gates: ")
    page = render.html(made)
    assert page.index("Ship ort?") < page.index('<p class="verdict">') < page.index("Targets")


@pytest.mark.parametrize(
    ("change", "text"),
    [(-4.5, "-4.5 points"), (0.04, "0.0 points"), (-0.04, "0.0 points"), (0.06, "+0.1 points"),
     (10.0, "+10.0 points"), (-10.04, "-10.0 points")],
)  # fmt: skip
def test_a_change_of_nothing_has_no_sign(change, text):
    assert verdict._points(change) == text


@pytest.mark.parametrize(
    ("figure", "value", "said"),
    [("dice", 0.5, "0.500 measured"), ("hd95_mm", 9.5, "9.50 mm measured"),
     ("size_mb", 9.5, "9.50 MB measured"), ("latency_ms", 9.5, "9.50 ms measured")],
)  # fmt: skip
def test_a_failed_gate_says_its_figure_with_its_unit(figure, value, said):
    changed = parts()
    changed["targets"]["ort"][figure] = measured(figure, value)
    limit = 0.75 if figure == "dice" else 4.0
    made = report.assemble(**changed, gates=[gates.Gate(figure, limit, only=("ort",))])
    direction = "at least" if figure == "dice" else "at most"
    assert made["verdict"][0]["reasons"] == [f"{figure} is {said}, {direction} {limit:g} passes"]
