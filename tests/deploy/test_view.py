"""What a report shows, in which order, before it is a page or Markdown."""

from __future__ import annotations

import pytest
from report_sample import NO_GPU, measured, parts, sample

from lmaunet.deploy import report, view

FACTS = [
    ("Parameters", "487,654"), ("Multiply-accumulates", "1.62 G"),
    ("Input", "1 \u00d7 256 \u00d7 256"), ("Weights", "481,200 at 8 bits"), ("Cases", "ct"),
    ("Slices", "36 training, 14 test"),
]  # fmt: skip


def shown(**changes):
    return view.view(report.assemble(**parts() | changes))


def test_facts_stand_in_their_order_and_the_network_of_fp32_first():
    assert view.view(sample())["facts"] == FACTS
    changed = parts()
    changed["reference"]["network"] = "the control"
    assert shown(**changed)["facts"] == [("FP32 network", "the control"), *FACTS]


@pytest.mark.parametrize(
    ("bits", "text"),
    [({}, "not quantized"), ({8: 0}, "not quantized"), ({8: 1}, "1 at 8 bits"),
     ({2: 7, 3: 0, 8: 1234}, "7 at 2 bits, 1,234 at 8 bits")],
)  # fmt: skip
def test_weights_are_counted_by_their_bits(bits, text):
    changed = parts()
    changed["model"]["weight_bits"] = bits
    assert dict(shown(**changed)["facts"])["Weights"] == text


@pytest.mark.parametrize(("slices", "text"), [(50, "50"), ({"a": 3, "b": 0}, "3 a, 0 b")])
def test_slices_are_one_number_or_one_for_each_part(slices, text):
    changed = parts()
    changed["data"]["slices"] = slices
    assert dict(shown(**changed)["facts"])["Slices"] == text


@pytest.mark.parametrize(
    ("synthetic", "source", "caution"),
    [(False, "by hand", ""), (False, "TOTALsegmentator 2", view.TOTALSEGMENTATOR),
     (True, "TotalSegmentator", view.SYNTHETIC), (True, "by hand", view.SYNTHETIC)],
)  # fmt: skip
def test_a_reader_is_cautioned_of_labels_that_nobody_drew(synthetic, source, caution):
    changed = parts()
    changed["data"] |= {"synthetic": synthetic, "label_source": source}
    assert shown(**changed)["caution"] == caution


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 kB"), (99_949, "99.9 kB"), (99_999, "100.0 kB"), (100_000, "0.10 MB"),
     (1_234_567, "1.23 MB")],
)  # fmt: skip
def test_a_size_is_in_the_unit_that_fits(count, text):
    assert view._megabytes(count) == text


def files(count, folder="", **more):
    return [{"name": f"{folder}f{i}", "bytes": 3 + i, **more} for i in range(count)]


def test_a_folder_of_many_files_is_one_line_where_none_of_them_ships():
    many, few = files(11, "many/"), files(10, "few/")
    shipped = files(11, "shipped/")
    shipped[4]["ships"] = True
    loose = files(12)
    total = sum(range(3, 14))
    assert view._files([*many, *few, *shipped, *loose]) == [
        {"name": "many/: 11 files", "bytes": total}, *few, *shipped, *loose,
    ]  # fmt: skip


def gate(state, **more):
    return {"state": state, **more}


@pytest.mark.parametrize(
    ("gates", "kinds", "verdict"),
    [
        ([], [], ("no gates", "passed", 0)),
        ([gate("passed"), gate("passed")], [], ("2 passed", "passed", 2)),
        ([gate("passed"), gate("open")], [], ("1 passed, 1 open", "open", 2)),
        ([gate("failed"), gate("open")], ["note"], ("1 failed, 1 open", "failed", 2)),
        ([gate("passed")], ["note", "worse"], ("1 passed; 1 regression", "failed", 1)),
        ([gate("open")], ["lost", "worse"], ("1 open; 2 regressions", "failed", 1)),
        (
            [gate("passed", provenance=p) for p in ("measured", "estimated", "emulated")], [],
            ("3 passed (2 not on a measurement)", "passed", 3),
        ),
    ],
)  # fmt: skip
def test_the_verdict_counts_gates_and_regressions(gates, kinds, verdict):
    found = view._verdict({"gates": gates, "regressions": [{"kind": kind} for kind in kinds]})
    assert (found["text"], found["state"], found["total"]) == verdict


@pytest.mark.parametrize(
    ("value", "limit", "share"),
    [(1.05, 4.2, 0.25), (4.2, 4.2, 1.0), (9.0, 4.2, 1.0), (-1.0, 4.2, 0.0), (0.5, 0.0, None)],
)
def test_a_bar_shows_the_share_of_a_limit_that_is_used(value, limit, share):
    entry = {"name": "dice_drop_points", "target": "ort", "limit": limit, "value": value,
             "unit": "points", "provenance": "measured", "state": "x"}  # fmt: skip
    found = view._gate(entry, sample()["targets"], view.Missing())
    assert found["share"] == (None if share is None else pytest.approx(share))
    assert found["limit"] == f"at most {limit:g} points"


@pytest.mark.parametrize(
    ("name", "limit", "text"),
    [("dice_drop_points", 1, "at most 1 point"), ("dice_drop_points", 1.5, "at most 1.5 points"),
     ("size_mb", 1, "at most 1 MB"), ("dice", 1, "at least 1"), ("latency_ms", 3, "at most 3 ms")],
)  # fmt: skip
def test_a_limit_is_said_with_its_unit(name, limit, text):
    direction = {"dice": {"direction": "at least"}}.get(name, {})
    entry = {"name": name, "target": "ort", "limit": limit, "state": "open", **direction,
             **NO_GPU.to_json()}  # fmt: skip
    found = view._gate(entry, sample()["targets"], view.Missing())
    assert (found["limit"], found["share"], found["worst"]) == (text, None, None)
    assert (found["target"], found["state"], found["why"], found["beside"]) == (
        "ort",
        "open",
        "",
        [],
    )


def test_an_interval_is_in_points_over_patients():
    assert view._interval({}) == ""
    interval = {"low": -0.256, "high": 1.5, "patients": 12, "level": 0.9}
    assert view._interval({"drop_interval": interval}) == (
        "90% of \u22120.26 to 1.50 points over 12 patients"
    )


@pytest.mark.parametrize(
    ("steps", "axis", "places"),
    [
        ({"ptq": 0.853, "qat": 0.874, "control": 0.894}, ("0.84", "0.92"),
         {"FP32": 0.6125, "FP32 control": 0.675, "PTQ": 0.1625, "QAT": 0.425}),
        ({"float32": 0.5, "qat": 0.52}, ("0.48", "0.54"), {"FP32": 1 / 3, "QAT": 2 / 3}),
        ({"ptq": 0.001}, ("0.00", "0.90"), {"FP32": 0.889 / 0.9, "PTQ": 0.001 / 0.9}),
        ({"ptq": 0.999, "control": 0.96}, ("0.86", "1.00"),
         {"FP32": 0.029 / 0.14, "FP32 control": 0.1 / 0.14, "PTQ": 0.139 / 0.14}),
    ],
)  # fmt: skip
def test_the_steps_of_quantization_lie_on_a_zoomed_axis(steps, axis, places):
    changed = parts()
    for key in ("ptq", "qat", "control"):
        changed["model"].pop(key)
    changed["model"] |= steps
    found = shown(**changed)["quantization"]
    assert (found["low"], found["high"]) == axis
    assert {name: place for name, _, _, place, _ in found["steps"]} == pytest.approx(places)
    kinds = {name: kind for name, _, _, _, kind in found["steps"]}
    assert kinds == {name: "int" if name in ("PTQ", "QAT") else "float" for name in places}


def test_one_step_alone_is_no_comparison():
    changed = parts()
    for key in ("ptq", "qat", "control"):
        changed["model"].pop(key)
    assert shown(**changed)["quantization"] is None


def test_fp32_is_measured_where_it_has_a_figure():
    found = view.view(sample())["reference"]
    assert found["target"] == "torch-fp32"
    for key, number in (("dice", "0.889"), ("hd95_mm", "6.02")):
        assert (found[key].number, found[key].provenance) == (number, "measured")


def test_the_rows_of_agreements_and_files_are_of_every_target():
    found = view.view(sample())
    assert [name for name, _ in found["agreements"]] == ["ort", "trt", "fpga"]
    assert [row[0] for row in found["files"]] == ["ort", "trt", "fpga"]
    assert found["files"][0][2:] == ("1,200,456", "1.20 MB")
    changed = parts()
    changed["targets"]["ort"]["latency_ms"] = measured("latency_ms", 5.0)
    changed["model"]["export_agreements"] = changed["targets"]["ort"]["agreement"]
    assert [name for name, _ in shown(**changed)["agreements"]] == ["export", "ort", "trt", "fpga"]
