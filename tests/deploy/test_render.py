"""The report's page and Markdown."""

import re

import numpy as np
import pytest
from report_forms import FORMS, require_provenance
from report_sample import NO_GPU, measured, parts, sample

from lmaunet.artifacts import Agreement, Measurement
from lmaunet.deploy import figures, gates, pictures, render, report, view
from lmaunet.deploy.measuring import no_foreground


@pytest.mark.parametrize("form", FORMS)
def test_what_is_unavailable_is_a_word_with_its_reason(form):
    text = FORMS[form](sample())
    # the card and nothing else: trt has no gate on latency
    assert text.count("unavailable (1)") == 1
    assert "trt: Latency" in text
    for part in (NO_GPU.tool, NO_GPU.why, NO_GPU.fix):
        assert part in text
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_an_unavailable_figure_links_to_its_reason_and_reasons_are_listed_once():
    changed = parts()
    changed["targets"]["fpga"]["latency_ms"] = NO_GPU
    changed["reference"]["hd95_mm"] = NO_GPU.to_json()
    page = render.html(report.assemble(**changed))
    assert page.count('href="#unavailable-1"') == 5  # two in the table, a gate, FP32 twice
    assert page.count('id="unavailable-1"') == 1
    assert "unavailable-2" not in page
    assert "trt: Latency, fpga: Latency, FP32: HD95" in page
    assert '<span class="state open">open</span>' in page


def test_nothing_unavailable_has_no_section():
    changed = parts()
    changed["targets"]["trt"]["latency_ms"] = measured("latency_ms", 5.5)
    made = report.assemble(**changed)
    assert "What is unavailable" not in render.html(made)
    assert "## What is unavailable" not in render.markdown(made)


def some_pictures(name="liver", title="slice 0"):
    label = np.zeros((1, 24, 24), int)
    label[0, 6:18, 6:18] = 1
    image = np.where(label > 0, 0.8, 0.3)
    classes = ["background", name]
    return pictures.overlay_rows(image, label, {"FP32": label}, classes, titles=[title])


def test_the_page_is_self_contained():
    page = render.html(sample(), some_pictures())
    for forbidden in ("http://", "https://", "<script ", "<link", "<iframe", "@import", "fetch("):
        assert forbidden not in page
    assert page.count("<script>") == 1  # its own, which sorts and slides
    inside = re.findall(r"url\((.{22})", page)
    assert inside == ["data:image/png;base64,"]
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 2  # label and FP32, over the image
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    assert page.count("src=") == 2
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert 'name="viewport"' in page


def test_a_tile_that_is_not_inside_the_page_is_refused():
    wrong = some_pictures()
    wrong["rows"][0]["tiles"][1] = "overlay.png"
    with pytest.raises(ValueError, match=r"^a tile of slice 0 is not a PNG data URI: 'overlay"):
        render.html(sample(), wrong)


def test_strings_from_users_are_escaped():
    evil = "<script>alert(1)</script> | a"
    changed = parts()
    changed["data"] |= {"name": evil, "split": evil, "cases": [evil], "label_source": evil}
    changed["model"]["spec"] = evil
    changed["made"] = {"command": evil, "created": evil, "tools": {evil: evil}}
    changed["reference"]["dice"]["per_class"] = {evil: 0.5}
    ort = changed["targets"].pop("ort")
    ort |= {"arithmetic": evil, "summary": evil, "files": [{"name": evil, "bytes": 1}]}
    ort["detail"] |= {"cpu": evil, "slowest": [{"name": evil, "op": evil, "cycles": 3}]}
    ort["latency_ms"] = {"unavailable": {"tool": evil, "why": evil, "fix": evil}}
    changed["targets"][evil] = ort
    made = report.assemble(**changed)
    page = render.html(made, some_pictures(name=evil, title=evil))
    assert page.count("<script") == page.count("</script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    text = render.markdown(made)
    assert "<script" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 5
    for table in tables:
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(bars) == 1, table


def test_tables_line_up_in_a_terminal():
    text = render.markdown(sample())
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 8
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1, table


@pytest.mark.parametrize("form", FORMS)
def test_whose_labels_they_are_is_said(form):
    assert "not a radiologist's: Dice is agreement with it" in FORMS[form](sample())
    changed = parts()
    changed["data"]["label_source"] = "two radiologists"
    text = FORMS[form](report.assemble(**changed))
    assert "TotalSegmentator" not in text
    assert "two radiologists" in text


@pytest.mark.parametrize("form", FORMS)
def test_synthetic_data_has_a_banner(form):
    assert "SYNTHETIC" not in FORMS[form](sample())
    changed = parts()
    changed["data"]["synthetic"] = True
    assert "SYNTHETIC DATA." in FORMS[form](report.assemble(**changed))


@pytest.mark.parametrize("form", FORMS)
def test_detail_is_shown_where_known_and_skipped_where_not(form):
    text = " ".join(FORMS[form](sample()).replace("**", "").split())
    for part in (
        "INT8 convolutions, depthwise: 7 of 8", "INT8 convolutions, dense: 51 of 55", "58 INT8",
        "ZCU104", "200 MHz, assumed", "Built for: SM86, SM89", "CPU: a CPU",
        "61 in integer kernels, 3 in float", "Latency, 90th percentile: 64.40 ms",
    ):  # fmt: skip
        assert part in text
    require_provenance(text, [("64.40", "ms", "measured")], form)
    assert "something new" not in text
    assert text.index("lkm1.scan") < text.index("head")  # the slowest first


@pytest.mark.parametrize("form", FORMS)
def test_the_trained_network_is_not_taken_for_the_reference(form):
    changed = parts()
    changed["model"] |= {"float32": 0.883, "control": 0.889}
    changed["reference"]["network"] = "control: trained on"
    text = " ".join(FORMS[form](report.assemble(**changed)).split())
    require_provenance(text, [("0.883", "", "measured"), ("0.889", "", "measured")], form)
    assert re.search(r"the trained network[ |]+0\.883", text)
    assert re.search(r"trained the same extra steps[ |]+0\.889", text)
    assert "control: trained on" in text


@pytest.mark.parametrize("form", FORMS)
def test_agreements_are_listed_from_the_export_on(form):
    changed = parts()
    agreement = Agreement("unrolled with torch", 3e-6, 2, 8192, 1e-4, True, 5)
    changed["model"]["export_agreements"] = [agreement]
    text = FORMS[form](report.assemble(**changed))
    assert text.index("unrolled with torch") < text.index("lowering with torch")
    assert "3e-06" in text
    assert re.search(r"\b2 of 8,?192", text)


@pytest.mark.parametrize("form", FORMS)
def test_detail_of_another_form_is_skipped(form):
    changed = parts()
    changed["targets"]["fpga"]["detail"] = {
        "slowest": [{"name": "half"}, {"name": "x", "cycles": "many"}, 7],
        "resources": {"lut": {"used": 5}, "dsp": 7},
        "clock_mhz": "fast", "interval_ms": None, "precisions": [], "int8_convolutions": "all",
        "convolutions": 3, "latency": "fast", "sms": "86",
    }  # fmt: skip
    text = FORMS[form](report.assemble(**changed))
    assert "Inside fpga" not in text
    assert "LUT" not in text
    assert "fast" not in text


@pytest.mark.parametrize("form", FORMS)
def test_regressions_are_listed(form):
    changed = parts()
    changed["targets"]["fpga"]["latency_ms"] = Measurement("latency_ms", 11.5, "ms", "estimated")
    made = report.with_baseline(report.assemble(**changed), sample(), "old.json")
    text = FORMS[form](made)
    assert "fpga latency_ms: was 10.37 ms (estimated), is 11.5 ms (estimated)" in text
    assert "1 regression" in text
    unchanged = report.with_baseline(sample(), sample(), "old.json")
    assert "No figure got worse by more than its threshold." in FORMS[form](unchanged)
    assert "baseline" not in FORMS[form](sample()).lower()


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (4.2, 4.2, "4.20"),
        (4.2001, 4.2, "4.2001"),
        (4.1999, 4.2, "4.20"),
        (0.0123, None, "0.012"),
        (0.99, None, "0.99"),
        (12.34, None, "12.34"),
        (1234.5, None, "1,234"),
    ],
)
def test_rounding_never_contradicts_a_gate(value, limit, text):
    assert figures.number_text("size_mb", value, limit) == text


def test_negative_numbers_and_negative_zero():
    assert figures.number_text("dice_drop_points", -0.314) == "\u22120.31"
    assert figures.number_text("dice_drop_points", -0.0001) == "0.00"


@pytest.mark.parametrize("form", FORMS)
def test_the_organ_that_lost_most_is_named_where_it_is_gated(form):
    text = " ".join(FORMS[form](sample()).split())
    above = text.partition("Dice per organ")[0]  # that table has the word in its head
    require_provenance(above, [("0.843", "", "measured"), ("0.815", "", "measured")]
                       if form == "markdown" else [])  # fmt: skip
    assert re.search(r"Largest drop of a class ?: aorta", text)
    said = r"aorta lost most: -2\.8 points \(-3%\), from 0\.843( measured)? to 0\.815"
    assert re.search(said, text)
    assert text.count("-2.8 points (-3%)") >= 2  # where it was measured, table of organs
    assert "aorta -2.8 points" in text  # verdict
    assert "at least" not in text


@pytest.mark.parametrize("form", FORMS)
def test_a_floor_is_shown_as_one_and_rounding_does_not_contradict_it(form):
    changed = parts()
    changed["targets"]["ort"]["dice"] = measured("dice", 0.69997)
    made = report.assemble(**changed, gates=[gates.Gate("dice", 0.7, only=("ort",))])
    text = FORMS[form](made)
    assert "at least 0.7" in text and "0.69997" in text and "at most" not in text.split("Gates")[-1]


@pytest.mark.parametrize("form", FORMS)
def test_why_a_limit_is_another_is_shown_once(form):
    wide = [gates.Gate("class_drop_points", 6.0, why="Fifteen slices of one patient.")]
    text = FORMS[form](sample(gates=wide))
    assert text.count("Fifteen slices of one patient.") == 1 and "at most 6 points" in text


@pytest.mark.parametrize("form", FORMS)
def test_what_was_not_scored_is_named(form):
    changed = parts()
    changed["data"]["not_scored"] = {"classes": ["spleen"], "cases": ["empty1", "empty2"]}
    changed["targets"]["ort"]["false_positives"] = {"empty1": {"liver": 1234}}
    text = FORMS[form](report.assemble(**changed))
    assert "Not scored, for no held-out label holds them: spleen." in text
    assert "Not scored, for their labels hold no organ: empty1, empty2." in text
    assert "ort predicts there, in voxels: 1,234 of liver in empty1." in text
    assert "Not scored" not in FORMS[form](sample())


@pytest.mark.parametrize("form", FORMS)
def test_without_any_foreground_dice_is_unavailable_and_its_gates_are_open(form):
    changed = parts()
    lacks = no_foreground("dice")
    changed["reference"]["dice"] = {"mean": lacks.to_json(), "per_class": {}}
    for target in changed["targets"].values():
        target |= dict.fromkeys(("dice", "dice_drop_points", "class_drop_points"), lacks)
        target["per_class"] = {}
        del target["worst_class"]
    made = report.assemble(**changed)
    states = {g["state"] for g in made["gates"] if g["name"].endswith("drop_points")}
    assert states == {"open"} and gates.exit_status(made) == 0
    text = FORMS[form](made)
    assert "no held-out case has foreground in its labels" in text
    assert "Dice is not scored" in text and "Dice per organ" not in text
    strict = report.assemble(**changed, strict=True)
    assert gates.exit_status(strict) == 1


@pytest.mark.parametrize("form", FORMS)
def test_dice_by_patient_is_shown_for_several_patients(form):
    changed = parts()
    assert "Dice per patient" not in FORMS[form](sample())
    changed["reference"]["per_patient"] = {"p1": 0.911, "p2": 0.722}
    changed["targets"]["ort"] |= {
        "per_patient": {"p1": 0.913},
        "drop_interval": {"low": -0.25, "high": 1.75, "patients": 12, "level": 0.95},
    }
    text = FORMS[form](report.assemble(**changed))
    require_provenance(text.split("Dice per patient")[1], [("0.911", "", "measured")]
                       if form == "markdown" else [])  # fmt: skip
    assert "0.913" in text and "not scored" in text
    assert "95% of \u22120.25 to 1.75 points over 12 patients" in text


@pytest.mark.parametrize("form", FORMS)
def test_how_far_a_latency_can_be_trusted_is_shown(form):
    changed = parts()
    detail = changed["targets"]["ort"]["detail"]
    detail["latency"] |= {
        "min_ms": 44.44, "runs": 30, "load_average": 3.75, "spread": 1.45, "unsteady": True,
    }  # fmt: skip
    detail["float32"] = {
        "form": "FP32 in ONNX Runtime", "median_ms": 122.6, "size_mb": 4.92, "speed_up": 2.0,
        "compression": 4.0, "unsteady": False,
    }  # fmt: skip
    text = " ".join(FORMS[form](report.assemble(**changed)).split())
    require_provenance(text, [("44.44", "ms", "measured"), ("122.6", "ms", "measured"),
                              ("4.92", "MB", "measured")], form)  # fmt: skip
    for said in (
        "30 runs, load average 3.75", "1.45, above 1.2: UNSTEADY", "FP32 in ONNX Runtime, in the",
        "2.00 times as fast, 4.0 times as small",
    ):  # fmt: skip
        assert said in text
    assert "UNSTEADY" not in FORMS[form](sample())


def test_long_tables_are_folded_and_fit_a_phone_and_paper():
    page = render.html(sample())
    for title in ("Agreement", "Gates", "What ships, and its digests"):
        before, _, after = page.partition(f"<h2>{title}</h2>")
        assert before.rstrip().endswith("<summary>") and "<details>" in before[-40:]
        assert 0 < after.index("</summary>") < after.index("<table") < after.index("</details>")
    assert "comparisons, all agree" in page
    # the dark colours are for screens: on white paper their text would vanish
    assert "@media screen and (prefers-color-scheme: dark)" in page
    assert not re.search(r"@media \(prefers-color-scheme", page)
    # on a phone the head of the table is gone, and each number has its column's name
    assert re.search(r"\.organs thead \{ display: none", page)
    for name in ("FP32", "ort", "Latency", "Worst organ"):
        assert f'data-label="{name}"' in page


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (1000, "1.00 k"), (999_999, "1000.00 k"), (1_000_000, "1.00 M"),
     (2_416_000_000, "2.42 G"), (1_000_000_000, "1.00 G")],
)  # fmt: skip
def test_counts_are_shown_in_the_largest_unit_that_they_reach(count, text):
    assert view._scaled(count) == text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("cases", "text"),
    [(7, "Cases 7"), (["a", "b"], "Cases a, b"), (list("abcdef"), "Cases a, b, c, d, e, f"),
     (list("abcdefgh"), "Cases a, b, c, d, e, f and 2 more")],
)  # fmt: skip
def test_cases_are_named_or_counted(form, cases, text):
    changed = parts()
    changed["data"]["cases"] = cases
    words = FORMS[form](report.assemble(**changed))
    assert text in " ".join(words.replace("|", " ").replace("*", " ").replace(":", " ").split())
