"""Gates: which figure passes which limit, and what leaves them open."""

import pytest
from report_sample import NO_GPU, altered, class_drop, measured, parts, sample

from lmaunet.deploy import gates, report
from lmaunet.errors import UserError


def states(made):
    return {(g["target"], g["name"]): g["state"] for g in made["gates"]}


def test_the_default_gates():
    assert states(sample()) == {
        ("ort", "size_mb"): "passed",
        ("ort", "dice_drop_points"): "passed",
        ("ort", "class_drop_points"): "passed",
        ("trt", "weights_mb"): "passed",
        ("trt", "dice_drop_points"): "passed",
        ("trt", "class_drop_points"): "passed",
        ("fpga", "size_mb"): "passed",
        ("fpga", "dice_drop_points"): "passed",
        ("fpga", "class_drop_points"): "passed",
        ("fpga", "latency_ms"): "passed",
    }
    entry = next(g for g in sample()["gates"] if g["name"] == "weights_mb")
    assert entry["beside"] == {"size_mb": sample()["targets"]["trt"]["size_mb"]}
    entry = next(g for g in sample()["gates"] if g["name"] == "latency_ms")
    assert (entry["limit"], entry["value"], entry["provenance"]) == (12.0, 10.37, "estimated")
    assert {g["direction"] for g in sample()["gates"]} == {"at most"}


def test_the_gate_on_the_worst_class_names_it_with_its_relative_loss():
    """The mean may hold while one organ is lost."""
    changed = parts()
    changed["reference"]["dice"]["per_class"]["pancreas"] = 0.167
    changed["targets"]["ort"]["per_class"]["pancreas"] = 0.122
    changed["targets"]["ort"] |= class_drop("pancreas", 0.167, 0.122)
    made = report.assemble(**changed)
    (entry,) = (
        g for g in made["gates"] if (g["target"], g["name"]) == ("ort", "class_drop_points")
    )
    assert entry["state"] == "failed" and entry["value"] == pytest.approx(4.5)
    assert (entry["class"], entry["reference"], entry["dice"]) == ("pancreas", 0.167, 0.122)
    assert entry["relative_loss"] == pytest.approx(0.045 / 0.167)
    assert states(made)["ort", "dice_drop_points"] == "passed"
    assert gates.exit_status(made) == 1
    for key, value in (("class", "liver"), ("relative_loss", 0.0), ("dice", 0.167)):
        index = made["gates"].index(entry)
        with pytest.raises(UserError, match=rf"^gates\[{index}\]\.{key} is"):
            report.validate(altered(f"gates/{index}/{key}", value, source=made))


@pytest.mark.parametrize(
    ("reference", "own", "worst"),
    [
        ({"a": 0.9, "b": 0.2}, {"a": 0.88, "b": 0.19}, ("a", pytest.approx(0.02 / 0.9))),
        ({"a": 0.9, "b": 0.2}, {"a": 0.95, "b": 0.21}, ("b", pytest.approx(-0.05))),
        ({"a": 0.0}, {"a": 0.1}, ("a", None)),
        ({"a": 0.9, "b": 0.2}, {"a": 0.9, "b": 0.0}, ("b", 1.0)),
    ],
)
def test_the_class_that_lost_most(reference, own, worst):
    found = gates.worst_class(reference, own)
    assert (found["class"], found["relative_loss"]) == worst
    assert (found["reference"], found["dice"]) == (reference[worst[0]], own[worst[0]])


def test_no_class_is_no_worst_class():
    assert gates.worst_class({}, {}) is None


@pytest.mark.parametrize(
    ("target", "figure", "value", "state"),
    [
        ("ort", "size_mb", 4.2, "passed"),
        ("ort", "size_mb", 4.2001, "failed"),
        ("trt", "weights_mb", 4.3, "failed"),
        ("trt", "dice_drop_points", 1.01, "failed"),
        ("trt", "dice_drop_points", -0.5, "passed"),
        ("fpga", "latency_ms", 12.1, "failed"),
        ("fpga", "latency_ms", 12.0, "passed"),
    ],
)
def test_a_limit_holds_to_the_last_digit(target, figure, value, state):
    changed = parts()
    changed["targets"][target][figure] = measured(figure, value)
    made = report.assemble(**changed)
    assert states(made)[target, figure] == state
    assert gates.exit_status(made) == (state == "failed")


def test_the_size_of_an_engine_is_shown_and_not_gated():
    changed = parts()
    changed["targets"]["trt"]["size_mb"] = measured("size_mb", 9.0)
    assert gates.exit_status(report.assemble(**changed)) == 0


@pytest.mark.parametrize("figure", [*report.UNITS])
def test_an_unavailable_figure_leaves_its_gate_open_and_strict_fails_it(figure):
    changed = parts()
    changed["targets"]["fpga"][figure] = NO_GPU
    if figure == "dice":
        changed["targets"]["fpga"] |= dict.fromkeys(
            ("dice_drop_points", "class_drop_points"), NO_GPU
        )
        del changed["targets"]["fpga"]["worst_class"]
    limits = [gates.Gate(figure, 0.5, only=("fpga",))]
    made = report.assemble(**changed, gates=limits)
    direction = "at least" if figure == "dice" else "at most"
    assert made["gates"] == [
        {
            "name": figure, "target": "fpga", "limit": 0.5, "direction": direction,
            "state": "open", **NO_GPU.to_json(),
        }
    ]  # fmt: skip
    assert gates.exit_status(made) == 0
    strict = report.assemble(**changed, gates=limits, strict=True)
    assert states(strict)["fpga", figure] == "failed"
    assert gates.exit_status(strict) == 1
    assert strict["verdict"][2]["ship"] == "no"


@pytest.mark.parametrize(
    ("value", "limit", "state"),
    [(0.7, 0.7, "passed"), (0.6999, 0.7, "failed"), (0.9, 0.7, "passed"), (0.0, 0.0, "passed")],
)
def test_a_limit_on_dice_is_a_floor(value, limit, state):
    changed = parts()
    changed["targets"]["ort"]["dice"] = measured("dice", value)
    (entry,) = report.assemble(**changed, gates=[gates.Gate("dice", limit, only=("ort",))])["gates"]
    assert (entry["state"], entry["direction"]) == (state, "at least")


@pytest.mark.parametrize("figure", [*report.UNITS])
def test_nan_passes_no_gate(figure):
    assert not gates.Gate(figure, 0.5).passes(float("nan"))


def test_another_budget():
    made = sample(gates=gates.default_gates(1.0))
    assert states(made)["ort", "size_mb"] == "failed"
