"""What is worse than in an earlier report, and what cannot be compared."""

import itertools
import json

import pytest
from report_sample import NO_GPU, altered, measured, parts, sample

from lmaunet.artifacts import PROVENANCES, Measurement
from lmaunet.deploy import gates, report
from lmaunet.errors import UserError


def compared(**figures):
    """Return the regressions of a report whose fpga has other figures, against the sample."""
    changed = parts()
    changed["targets"]["fpga"] |= figures
    return gates.regressions(report.assemble(**changed), sample())


def test_nothing_got_worse():
    assert gates.regressions(sample(), sample()) == []
    against = report.with_baseline(sample(), sample(), "old.json")
    assert against["baseline"] == {"name": "old.json", "created": "2030-01-02"}
    assert gates.exit_status(against) == 0


@pytest.mark.parametrize(
    ("figure", "within", "beyond"),
    [
        ("size_mb", 1.43 * 1.0099, 1.43 * 1.0101),
        ("weights_mb", 1.24 * 1.0099, 1.24 * 1.0101),
        ("dice", 0.879 - 0.0049, 0.879 - 0.0051),
        ("dice_drop_points", 0.81 + 0.099, 0.81 + 0.101),
        ("hd95_mm", 7.41 * 1.1 + 0.09, 7.41 * 1.1 + 0.11),
    ],
)
def test_what_is_worse_by_more_than_the_threshold(figure, within, beyond):
    assert compared(**{figure: measured(figure, within)}) == []
    (entry,) = compared(**{figure: measured(figure, beyond)})
    assert (entry["kind"], entry["target"], entry["figure"]) == ("worse", "fpga", figure)


def test_a_slower_design_fails():
    now = Measurement("latency_ms", 11.0, "ms", "estimated")
    (entry,) = compared(latency_ms=now)
    assert entry == {
        "kind": "worse", "target": "fpga", "figure": "latency_ms",
        "message": "fpga latency_ms: was 10.37 ms (estimated), is 11 ms (estimated); it may be "
        "worse by 5%",
        "before": sample()["targets"]["fpga"]["latency_ms"], "now": now.to_json(),
    }  # fmt: skip
    changed = parts()
    changed["targets"]["fpga"]["latency_ms"] = now
    against = report.with_baseline(report.assemble(**changed), sample(), "old.json")
    assert gates.exit_status(against) == 1


def designs(**detail):
    """Return the regressions of a report whose fpga has another detail, against the sample."""
    changed = parts()
    changed["targets"]["fpga"]["detail"] |= detail
    return gates.regressions(report.assemble(**changed), sample())


def test_a_longer_interval_fails():
    assert designs(interval_ms=9.83 * 1.049) == []
    (entry,) = designs(interval_ms=9.83 * 1.051)
    assert (entry["kind"], entry["target"], entry["figure"]) == ("worse", "fpga", "interval_ms")
    assert entry["message"] == (
        "fpga interval_ms: was 9.83 ms (estimated), is 10.33 ms (estimated); it may be worse by 5%"
    )
    notes = designs(interval_ms=20.0, board="KV260")
    assert [(n["kind"], n["figure"]) for n in notes] == [
        ("note", "latency_ms"), ("note", "interval_ms"),
    ]  # fmt: skip
    assert all("board was ZCU104, is KV260" in note["message"] for note in notes)
    (entry,) = designs(interval_ms=20.0, interval_ms_provenance="simulated")
    assert entry["kind"] == "note"
    assert designs(interval_ms=None) == designs(interval_ms="long") == []


def test_a_design_that_takes_more_of_its_board_is_a_note():
    def lut(used):
        return {"lut": {"used": used, "available": 230_400}}

    assert designs(resources=lut(172_310 * 1.019)) == designs(resources=lut(9)) == []
    (entry,) = designs(resources=lut(180_000))
    assert entry == {
        "kind": "note", "target": "fpga", "figure": "lut",
        "message": "fpga takes more of its board: lut was 172,310, is 180,000 (estimated)",
    }  # fmt: skip
    changed = parts()
    changed["targets"]["fpga"]["detail"]["resources"] = lut(180_000)
    against = report.with_baseline(report.assemble(**changed), sample(), "old.json")
    assert gates.exit_status(against) == 0
    # of another board, or obtained in another way, they do not compare
    assert designs(resources=lut(180_000), resources_provenance="measured") == []
    assert designs(resources={"lut": 5}) == designs(resources=[]) == []


@pytest.mark.parametrize(("stronger", "weaker"), list(itertools.combinations(PROVENANCES, 2)))
def test_a_weaker_provenance_is_a_regression_and_a_stronger_one_a_note(stronger, weaker):
    def made(provenance, value):
        changed = parts()
        changed["targets"]["ort"]["latency_ms"] = Measurement("latency_ms", value, "ms", provenance)
        return report.assemble(**changed)

    before, after = made(stronger, 61.3), made(weaker, 10.0)
    compared = report.with_baseline(after, before, "old.json")
    (entry,) = compared["regressions"]
    assert entry["kind"] == "provenance"
    message = f"ort latency_ms: was 61.3 ms ({stronger}), is 10 ms ({weaker})"
    assert entry["message"] == message
    assert gates.exit_status(compared) == 1
    assert compared["verdict"][0]["ship"] == "no"
    assert f"regression: {message}" in compared["verdict"][0]["reasons"]
    compared = report.with_baseline(before, after, "old.json")
    assert [entry["kind"] for entry in compared["regressions"]] == ["note"]
    assert gates.exit_status(compared) == 0


@pytest.mark.parametrize("kind", gates.KINDS)
def test_every_kind_but_a_note_sets_the_status(kind):
    entry = {"kind": kind, "target": "ort", "figure": "", "message": "so"}
    assert gates.exit_status(sample() | {"regressions": [entry]}) == (kind != "note")


def test_a_figure_or_a_target_that_disappeared():
    (entry,) = compared(size_mb=NO_GPU)
    assert (entry["kind"], entry["figure"]) == ("lost", "size_mb")
    changed = parts()
    del changed["targets"]["trt"]
    (entry,) = gates.regressions(report.assemble(**changed), sample())
    assert entry["message"] == "target trt is in the baseline and not in this report"
    assert gates.regressions(sample(), report.assemble(**changed)) == []


@pytest.mark.parametrize("key", gates.DEVICE_KEYS)
@pytest.mark.parametrize("nested", [True, False])
def test_latency_on_another_device_is_said_and_not_compared(key, nested):
    def made(device, latency):
        changed = parts()
        detail = {key: device}
        changed["targets"]["ort"]["detail"] = {"latency": detail} if nested else detail
        changed["targets"]["ort"]["latency_ms"] = measured("latency_ms", latency)
        return report.assemble(**changed)

    (entry,) = gates.regressions(made("slow", 500.0), made("fast", 60.0))
    assert entry["kind"] == "note"
    assert entry["message"].endswith(f"not compared, {key} was fast, is slow")
    (entry,) = gates.regressions(made("fast", 500.0), made("fast", 60.0))
    assert entry["kind"] == "worse"


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("model", "spec", "base", "model.spec was edge, is base"),
        ("model", "params", 5, "model.params was 487654, is 5"),
        ("model", "macs", 5, "model.macs was 1623456789, is 5"),
        ("model", "input", [1, 1, 64, 64], "model.input was [1, 1, 256, 256], is [1, 1, 64, 64]"),
        ("data", "name", "other CT", "data.name was example CT, is other CT"),
        ("data", "split", "By luck.", "data.split was By blocks of z., is By luck."),
        ("data", "cases", ["mr"], "data.cases was ['ct'], is ['mr']"),
        ("data", "slices", 14, "data.slices was {'training': 36, 'test': 14}, is 14"),
        ("data", "label_source", "me", "data.label_source was TotalSegmentator 2.18.0, is me"),
        ("data", "synthetic", True, "data.synthetic was False, is True"),
    ],
)
def test_a_baseline_of_something_else_is_said_and_fails(part, key, value, said):
    changed = parts()
    changed[part][key] = value
    made = report.with_baseline(report.assemble(**changed), sample(), "old.json")
    (entry,) = made["regressions"]
    assert entry["kind"] == "not_compared"
    assert entry["message"] == f"not compared, the baseline is of something else: {said}"
    assert gates.exit_status(made) == 1


def test_the_report_is_json_without_nan():
    json.dumps(sample(), allow_nan=False)
    changed = parts()
    changed["targets"]["fpga"]["detail"]["interval_ms"] = float("inf")
    with pytest.raises(UserError, match=r"^report.targets.fpga.detail.interval_ms is inf; a fig"):
        report.assemble(**changed)


def earlier(**arithmetic):
    """Return the sample as an earlier version wrote it: no worst class, one file that ships."""
    made = sample()
    del made["verdict"]
    for name, target in made["targets"].items():
        del target["class_drop_points"], target["worst_class"]
        target["arithmetic"] = arithmetic.get(name, target["arithmetic"])
    made["gates"] = [
        {key: value for key, value in gate.items() if key != "direction"}
        for gate in made["gates"]
        if gate["name"] != "class_drop_points"
    ]
    return made


def test_a_report_of_an_earlier_version_is_a_baseline(tmp_path):
    path = tmp_path / "old.json"
    words = {"trt": "not the engine but its graph", "fpga": "the integers of the FPGA's graph"}
    old = earlier(**words)
    extra = {"name": "lmaunet_operators.so", "bytes": 500_000, "ships": False}
    old["targets"]["ort"]["files"].append(extra)
    path.write_text(json.dumps(old))
    found = report.load(path)
    assert found["targets"]["ort"]["class_drop_points"]["value"] == pytest.approx(2.8)
    assert found["targets"]["ort"]["worst_class"]["class"] == "aorta"
    # what it did not count, and what it called measured, is put right before it is compared
    assert found["targets"]["ort"]["size_mb"]["value"] == pytest.approx(1.73)
    for name, how in (("ort", "measured"), ("trt", "emulated"), ("fpga", "emulated")):
        for figure in ("dice", "dice_drop_points", "class_drop_points", "hd95_mm"):
            assert found["targets"][name][figure]["provenance"] == how
    changed = parts()
    for name in ("trt", "fpga"):
        for figure in ("dice", "dice_drop_points", "class_drop_points", "hd95_mm"):
            value = changed["targets"][name][figure].value
            unit = report.UNITS[figure]
            changed["targets"][name][figure] = Measurement(figure, value, unit, "emulated")
    assert gates.regressions(report.assemble(**changed), found) == []


def test_a_damaged_report_of_an_earlier_version_is_refused(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(altered("targets/ort/per_class", delete=True, source=earlier())))
    with pytest.raises(UserError, match=r"is not a usable report: targets\.ort\.\S+ is missing"):
        report.load(path)


@pytest.mark.parametrize(
    ("threshold", "text"),
    [(gates.Threshold("x"), "0"), (gates.Threshold("x", 0.1), "0.1"),
     (gates.Threshold("x", relative=0.05), "5%"),
     (gates.Threshold("x", 0.1, 0.125), "0.1 + 12.5%")],
)  # fmt: skip
def test_a_threshold_says_itself(threshold, text):
    assert str(threshold) == text


@pytest.mark.parametrize(
    ("before", "now", "higher", "worse"),
    [
        (10.0, 11.5, False, False), (10.0, 11.500001, False, True), (10.0, 8.5, True, False),
        (10.0, 8.499999, True, True), (10.0, 5.0, False, False), (10.0, 50.0, True, False),
        (-10.0, -8.5, False, False), (-10.0, -8.499999, False, True), (0.0, 0.5, False, False),
    ],
)  # fmt: skip
def test_a_figure_may_be_worse_by_a_part_of_itself_and_a_bit(before, now, higher, worse):
    threshold = gates.Threshold("x", absolute=0.5, relative=0.1, higher_is_better=higher)
    assert threshold.excess(before, now) == worse


def test_the_thresholds_of_a_baseline():
    assert {t.figure: (str(t), t.higher_is_better) for t in gates.THRESHOLDS} == {
        "size_mb": ("1%", False), "weights_mb": ("1%", False), "dice": ("0.005", True),
        "dice_drop_points": ("0.1", False), "class_drop_points": ("0.5", False),
        "hd95_mm": ("0.1 + 10%", False), "latency_ms": ("5%", False),
    }  # fmt: skip
    assert (str(gates.INTERVAL), str(gates.MORE_OF_THE_BOARD)) == ("5%", "2%")


@pytest.mark.parametrize(("length", "whole"), [(79, True), (80, True), (81, False)])
def test_a_long_value_of_a_baseline_is_cut(length, whole):
    said = gates._said("x" * length)
    assert said == ("x" * length if whole else "x" * 77 + "...") and len(said) <= 80
    assert gates._said(None) == "not stated" and gates._said(0) == "0"
