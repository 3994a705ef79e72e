import dataclasses

import pytest
from report_forms import VisibleText
from report_sample import NO_GPU, class_drop, measured, parts, sample, target

from lmaunet.artifacts import Measurement
from lmaunet.deploy import decision, gates, render, report, verdict
from lmaunet.deploy.decision import cells
from lmaunet.deploy.verdict import block
from lmaunet.errors import UserError


def ship(made):
    return {entry["target"]: entry["ship"] for entry in made["verdict"]}


def test_only_what_was_measured_on_the_device_can_ship():
    made = sample()
    assert ship(made) == {"ort": "yes", "trt": "unknown", "fpga": "unknown"}
    assert made["verdict"][0] == {
        "target": "ort", "ship": "yes", "reasons": [],
        "figures": "Dice -0.6 points measured (95% -0.9 to -0.3, 6 patients), worst organ aorta "
        "-2.8 points measured (-3%), 61.30 ms measured (no limit given, FP32 here unknown), "
        "1.23 MB measured (limit 4.2 MB, FP32 unknown)",
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
    assert ship(made)["ort"] == "unknown"
    assert f"is {provenance}, not measured on the device" in made["verdict"][0]["reasons"][0]


def test_a_failed_gate_is_no_and_named():
    changed = parts()
    changed["targets"]["ort"]["per_class"]["pancreas"] = 0.122
    changed["targets"]["ort"] |= class_drop("pancreas", 0.167, 0.122)
    changed["targets"]["fpga"]["size_mb"] = measured("size_mb", 4.5)
    made = report.assemble(**changed)
    assert ship(made) == {"ort": "no", "trt": "unknown", "fpga": "no"}
    assert made["verdict"][0]["reasons"] == [
        "class_drop_points of pancreas is 4.50 points measured, at most 3 passes"
    ]
    assert "worst organ pancreas -4.5 points measured (-27%)" in made["verdict"][0]["figures"]
    # what speaks against it comes before what is missing
    assert made["verdict"][2]["reasons"] == ["size_mb is 4.50 MB measured, at most 4.2 passes"]


def test_an_organ_that_is_not_found_leaves_it_open():
    """It was not found in FP32 either, so that the gate on the worst organ passes."""
    changed = parts()
    changed["targets"]["ort"]["per_class"]["liver"] = 0.0
    changed["reference"]["dice"]["per_class"]["liver"] = 0.0
    made = report.assemble(**changed)
    assert ship(made)["ort"] == "unknown"
    assert made["verdict"][0]["reasons"] == ["no overlap at all, so that no gate can tell: liver"]
    assert "no overlap at all: liver" in made["verdict"][0]["figures"]


def test_without_a_dice_nothing_ships():
    changed = parts()
    for figure in ("dice", "dice_drop_points", "class_drop_points"):
        changed["targets"]["ort"][figure] = NO_GPU
    del changed["targets"]["ort"]["worst_class"]
    made = report.assemble(**changed)
    assert ship(made)["ort"] == "unknown"
    assert made["verdict"][0]["reasons"] == ["Dice is not scored: this machine has none"]
    assert made["verdict"][0]["figures"].startswith("Dice not scored, ")
    strict = report.assemble(**changed, strict=True)
    assert ship(strict)["ort"] == "no"


def test_a_target_without_gates_does_not_ship():
    made = sample(gates=[])
    assert ship(made)["ort"] == "unknown"
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


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "no patients told apart"), (1, "1 patient told apart"), (4, "4 patients told apart")],
)
def test_a_drop_without_an_interval_is_not_known_to_be_small(count, said):
    changed = parts()
    del changed["targets"]["ort"]["drop_interval"]
    changed["targets"]["ort"]["per_patient"] = {f"p{i}": 0.8 for i in range(count)}
    made = report.assemble(**changed)
    assert ship(made)["ort"] == "unknown"
    assert made["verdict"][0]["reasons"] == [f"Dice drop has no interval: {said}, 5 are needed"]
    assert "points measured (interval unknown" in made["verdict"][0]["figures"]


@pytest.mark.parametrize(("high", "answer"), [(1.0, "yes"), (1.01, "unknown")])
def test_an_interval_that_reaches_over_the_limit_is_no_proof(high, answer):
    changed = parts()
    changed["targets"]["ort"]["drop_interval"] |= {"high": high}
    made = report.assemble(**changed)
    assert ship(made)["ort"] == answer
    reasons = made["verdict"][0]["reasons"]
    assert reasons == [] or reasons == [
        "Dice drop may be over its limit of 1: its 95% interval is 0.3 to 1.0 points"
    ]
    # without a limit on it there is nothing that it could break
    free = [gates.Gate("size_mb", 4.2)]
    assert ship(report.assemble(**changed, gates=free))["ort"] == "yes"


def test_images_that_a_program_drew_prove_nothing():
    changed = parts()
    changed["data"]["synthetic"] = True
    made = report.assemble(**changed)
    assert set(ship(made).values()) == {"unknown"}
    assert "a program drew the images" in made["verdict"][0]["reasons"][0]


def test_mutant_that_passes_over_what_is_missing_is_caught(monkeypatch):
    """A target without a latency must not ship, nor one whose scores say too little."""
    monkeypatch.setattr(verdict, "ON_THE_DEVICE", ("dice",))
    with pytest.raises(AssertionError):
        test_only_what_was_measured_on_the_device_can_ship()
    monkeypatch.undo()
    monkeypatch.setattr(verdict, "_too_little", lambda *given: [])
    for check in (
        lambda: test_a_drop_without_an_interval_is_not_known_to_be_small(1, "1 patient told apart"),
        lambda: test_an_interval_that_reaches_over_the_limit_is_no_proof(1.01, "unknown"),
        test_images_that_a_program_drew_prove_nothing,
    ):
        with pytest.raises(AssertionError):
            check()


def test_the_worst_organ_is_the_one_that_lost_most():
    changed = parts()
    changed["targets"]["ort"]["per_class"]["liver"] = 0.5  # more than the aorta lost
    with pytest.raises(
        UserError, match=r"ort\.worst_class is aorta, but liver lost more: 0.952 to"
    ):
        report.assemble(**changed)
    changed["targets"]["ort"] |= class_drop("liver", 0.952, 0.5)
    assert "worst organ liver -45.2 points" in report.assemble(**changed)["verdict"][0]["figures"]


def test_each_figure_stands_beside_its_limit_and_fp32():
    changed = parts()
    changed["reference"]["size_mb"] = measured("size_mb", 2.46)
    changed["targets"]["ort"]["detail"]["float32"] = {"speed_up": 1.9, "size_mb": 4.92}
    limits = [gates.Gate("latency_ms", 50.0, only=("ort",)), gates.Gate("size_mb", 4.2)]
    made = report.assemble(**changed, gates=limits)
    found = cells(made, "ort")
    assert found["latency"].notes == ("limit 50 ms", "1.9x as fast as FP32")
    assert found["latency"].failed and ship(made)["ort"] == "no"
    assert (
        found["size"].notes == ("limit 4.2 MB", "FP32 4.92 MB, 4x as large")
        and not found["size"].failed
    )
    assert found["dice"].notes[-1] == "no limit given"
    # the others are compared with FP32 as an ONNX file, and nothing was timed beside them
    assert cells(made, "fpga")["size"].notes[1] == "FP32 2.46 MB, 1.7x as large"
    assert cells(made, "fpga")["latency"].notes == ("no limit given", "FP32 here unknown")
    table = VisibleText(render.html(made)).text
    assert "Speed-up on FP32 1x 1.90x unknown unknown" in table
    assert "FP32's size over it 1x 4.0x 1.8x 1.7x" in table
    unknown = cells(made, "trt")["latency"]
    assert (unknown.main, unknown.known, unknown.word) == ("unknown", False, "")
    broken = {"speed_up": "fast", "size_mb": None}
    changed["targets"]["ort"]["detail"]["float32"] = broken
    assert cells(report.assemble(**changed), "ort")["size"].notes[1] == "FP32 2.46 MB, 2x as large"


def test_an_unsteady_latency_is_marked():
    changed = parts()
    changed["targets"]["ort"]["detail"]["latency"] |= {"spread": 1.4, "unsteady": True}
    made = report.assemble(**changed)
    assert "61.30 ms measured (unsteady, no limit given" in made["verdict"][0]["figures"]
    assert "61.30 ms measured, unsteady" in render.markdown(made)
    assert '<span class="badge caution">unsteady</span>' in render.html(made)
    assert "unsteady" not in render.html(sample()).partition("</style>")[2]


def test_the_block_is_short_and_says_where_each_stands():
    lines = block(sample())
    assert lines == [
        "SHIP ort?  YES      Dice -0.6 points (95% -0.9 to -0.3, 6 patients), worst organ aorta "
        "-2.8 points (-3%), 61.30 ms (no limit given, FP32 here unknown), 1.23 MB (limit 4.2 MB, "
        "FP32 unknown)",
        "SHIP trt?  UNKNOWN  Dice -0.7 points (95% -0.9 to -0.3, 6 patients), worst organ aorta "
        "-2.7 points (-3%), latency unknown (no limit given), 1.33 MB (weights limit 4.2 MB, FP32 "
        "unknown)",
        "                    latency is unavailable: this machine has none",
        "SHIP fpga? UNKNOWN  Dice -0.8 points (95% -0.9 to -0.3, 6 patients), worst organ aorta "
        "-2.6 points (-3%), 10.37 ms est. (limit 12 ms, FP32 here unknown), 1.43 MB (limit 4.2 MB, "
        "FP32 unknown)",
        "                    latency is estimated, not measured on the device",
    ]
    assert gates.exit_status(sample()) == 0


def many(count, *failing):
    """A report of so many targets, each without a latency; those in ``failing`` are too large."""
    changed = parts()
    changed["targets"] = {f"t{i}": target(i / 100, NO_GPU) for i in range(count)}
    for index in failing:
        changed["targets"][f"t{index}"]["size_mb"] = measured("size_mb", 5.0)
    return report.assemble(**changed)


def endings(made):
    lines = block(made)
    return len(lines), [line for line in lines if line.startswith(" ")]


def test_a_terminal_ends_with_ten_lines_at_most():
    assert endings(many(5))[0] == 10
    # with more, those that failed keep their reasons
    count, reasons = endings(many(8, 6, 7))
    assert count == 10 and all("size_mb is 5.00 MB" in reason for reason in reasons)
    assert len(reasons) == 2
    assert endings(many(10)) == (10, [])
    assert block(many(12))[-1] == "and 3 more in the report" and endings(many(12))[0] == 10


def test_mutant_that_prints_every_reason_is_caught(monkeypatch):
    monkeypatch.setattr(verdict, "MOST_LINES", 99)
    with pytest.raises(AssertionError):
        test_a_terminal_ends_with_ten_lines_at_most()


def test_a_long_reason_is_cut_in_the_terminal_alone():
    changed = parts()
    why = "no usable driver, " * 20
    changed["targets"]["trt"]["latency_ms"] = dataclasses.replace(NO_GPU, why=why)
    made = report.assemble(**changed)
    assert why.strip() in made["verdict"][1]["reasons"][0]
    assert all(len(line) < 120 for line in block(made) if line.startswith(" "))


def test_the_verdict_stands_at_the_top_of_both_forms():
    made = sample()
    text = render.markdown(made)
    assert text.index("SHIP ort? YES") < text.index("SHIP fpga? UNKNOWN") < text.index("Gates: ")
    page = render.html(made)
    words = VisibleText(page).text
    assert words.index("ort Ship") < words.index("trt Unknown") < words.index("All figures")
    assert "Unknown Dice" not in words.partition("ort Ship")[2].partition("trt")[0]
    refused = render.html(report.assemble(**parts(), gates=[gates.Gate("size_mb", 1.3)]))
    words = VisibleText(refused).text
    assert "ort Ship" in words and "trt Don't ship" in words
    assert "Because: size_mb is 1.33 MB measured, at most 1.3 passes." in words


@pytest.mark.parametrize(
    ("change", "text"),
    [(-4.5, "-4.5 points"), (0.04, "0.0 points"), (-0.04, "0.0 points"), (0.06, "+0.1 points"),
     (10.0, "+10.0 points"), (-10.04, "-10.0 points")],
)  # fmt: skip
def test_a_change_of_nothing_has_no_sign(change, text):
    assert decision.points(change) == text


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
