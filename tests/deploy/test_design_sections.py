"""What the report shows of the hardware inside a target."""

from __future__ import annotations

import pytest
from report_forms import FORMS, VisibleText, require_provenance
from report_sample import parts, sample

from lmaunet.deploy import render, report
from lmaunet.deploy.targets.fpga import sections
from lmaunet.errors import UserError

DETAIL = {
    "resources": {
        "lut": {"used": 150_111, "available": 230_400},
        "bram36": {"used": 290.5, "available": 312},
    },
    "usable": {"lut": 161_280.0, "bram36": 280.8},
    "slowest": [
        {"name": "MVAU_rtl_7", "op": "MVAU", "origin": "//stages/0/proj/conv/Conv",
         "cycles": 777_1},
    ],
    "largest": [
        {"name": "MVAU_rtl_3", "op": "MVAU", "origin": "//head/conv/Conv", "resource": "dsp",
         "used": 162, "share": 0.09375},
        {"name": "Pool_1", "op": "Pool", "origin": "/MaxPool_1", "resource": "bram36",
         "used": 3.5, "share": 0.008},
    ],
    "memories": {
        "placed_provenance": "estimated",
        "depths_provenance": "simulated",
        "bits": 2_345_678,
        "purposes": [
            {"purpose": "weights", "count": 53, "bits": 2_222_000, "share_of_bits": 0.95,
             "lutram": 7_678.0, "bram36": 23.5, "uram": 0},
            {"purpose": "FIFOs", "count": 4, "bits": 98_304, "share_of_bits": 0.04,
             "lutram": 0, "bram36": 0, "uram": 3.0},
        ],
        "fifos": [
            {"stream": "s", "from": "shallow.1", "to": "decoder.3", "width": 16, "depth": 4_097,
             "bits": 65_552, "kind": "uram", "taken": 3.0},
        ],
    },
    "network": {"logits_sqnr_db": 45.52, "classes_equal": 0.999999},
    "scans": [
        {"origin": "//stages/0/mamba/scan/act_quant/x", "sqnr_db": 58.27,
         "ideal_sqnr_db": 58.31, "n_differ": 14, "n_total": 15_728},
    ],
    "simulation": {"bit_exact": True},
}  # fmt: skip

FIGURES = [
    ("150,111", "", "est."), ("290.5", "", "est."), ("7,771", "cycles", "est."),
    ("162", "DSP, 9.38%", "est."), ("3.5", "BRAM36, 0.80%", "est."),
    ("45.5", "dB", "measured"), ("58.3", "dB", "measured"),
]  # fmt: skip


def reported(**changes):
    changed = parts()
    changed["targets"]["fpga"]["detail"] = {
        key: value for key, value in (DETAIL | changes).items() if value is not None
    }
    return report.assemble(**changed)


@pytest.mark.parametrize("form", FORMS)
def test_every_figure_has_its_provenance_beside_it(form):
    text = FORMS[form](reported())
    require_provenance(text, FIGURES, form)
    for figure in ("99.9999%", "100%"):
        assert figure in text
    assert "100% of the values simulated" in text


def test_a_provenance_of_another_kind_is_shown_as_it_is():
    made = reported(largest_provenance="simulated", resources_provenance="measured")
    text = VisibleText(render.html(made)).text
    require_provenance(
        text, [("162", "DSP, 9.38%", "simulated"), ("150,111", "", "measured")], "html"
    )


LEVELS = {
    "limits": {"levels": 6, "enable_loads": 256}, "modules": 61, "not_synthesised": ["a", "b"],
    "exceeding": 1, "most_enable_loads": 252, "clock_suggested_mhz": 223.5,
    "deepest": [
        {"name": "conv3", "operator": "MVAU", "origin": "//stages/1/proj/conv/Conv", "count": 3,
         "levels": 7, "luts": 6, "carries": 3, "enable_loads": 244},
        {"name": "q7_out", "operator": "FIFO", "origin": "", "count": 9,
         "levels": 3, "luts": 3, "carries": 0, "enable_loads": 1065},
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_deepest_modules_stand_beside_what_the_clock_allows(form):
    text = " ".join(FORMS[form](reported(levels=LEVELS)).split()).replace("(est.)", "est.")
    assert "7 levels, enable of 244 est." in text and "3 levels, enable of 1,065 est." in text
    for part in ("59 of 61 distinct modules", "allow 6 levels and 256 loads", "stages.1.proj",
                 "1 of them exceed a limit"):  # fmt: skip
        assert part in text
    within = " ".join(FORMS[form](reported(levels=LEVELS | {"exceeding": 0})).split())
    assert "none of them exceeds a limit" in within


def test_a_module_beyond_the_limit_is_marked_and_levels_of_another_form_are_not_shown():
    found = sections.deepest_modules({"levels": LEVELS})
    assert [row["share"] for row in found["rows"]] == [7 / 6, 0.5]
    assert [(row["name"], row["op"]) for row in found["rows"]] == [
        ("stages.1.proj", "conv3"), ("q7_out", "FIFO")
    ]  # fmt: skip
    assert render.html(reported(levels=LEVELS)).count("over-limit") == 2 + 1  # and the block RAM
    for wrong in (
        [], {}, LEVELS | {"limits": 6}, LEVELS | {"modules": "61"}, LEVELS | {"deepest": []},
        LEVELS | {"limits": {"levels": 0, "enable_loads": 256}}, LEVELS | {"deepest": [{}]},
    ):  # fmt: skip
        assert sections.deepest_modules({"levels": wrong}) is None
    unnamed = LEVELS | {"deepest": [{"levels": 3}]}
    assert sections.deepest_modules({"levels": unnamed})["rows"] == []


@pytest.mark.parametrize("form", FORMS)
def test_the_memory_map_tells_depths_from_places(form):
    text = " ".join(FORMS[form](reported()).replace("(", "").replace(")", "").split())
    for part in ("2.35 Mbit in all", "2.22 Mbit", "98.3 kbit", "7,678", "23.5"):
        assert part in text
    assert "shallow.1 → decoder.3" in text and "3 UltraRAM" in text
    assert "Words simulated" in text and "Takes est." in text
    estimated = reported(memories=DETAIL["memories"] | {"depths_provenance": "guessed"})
    text = " ".join(FORMS[form](estimated).replace("(", "").replace(")", "").split())
    assert "Words est." in text and "Words simulated" not in text


def test_an_op_is_called_by_its_part_of_the_network():
    found = sections.inside(DETAIL)
    assert [(row["name"], row["op"]) for row in found["slowest"] + found["largest"]] == [
        ("stages.0.proj", "MVAU_rtl_7"), ("head", "MVAU_rtl_3"), ("MaxPool_1", "Pool_1"),
    ]  # fmt: skip


def test_what_exceeds_what_is_usable_is_marked():
    lut, bram = sections.resources(DETAIL)
    assert (lut["over"], bram["over"]) == (False, True)
    assert bram["usable"] == "280" and bram["share"] < 1
    assert render.html(reported()).count("bar estimated over-limit") == 1
    # without limits, what the board has is the limit
    assert [use["over"] for use in sections.resources(DETAIL | {"usable": 3})] == [0, 0]


PROOF = {
    "streams_compared": 1_247, "images": 8, "images_with_stalls": 3,
    "compared_with": "the integer executor",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_how_much_of_the_rtl_was_compared_is_one_line(form):
    text = " ".join(FORMS[form](reported(simulation={"bit_exact": True, "proof": PROOF})).split())
    line = "all 1,247 streams of 8 images, 3 more with stalls, compared with the integer executor;"
    assert line in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams_compared": 0}, "proof.streams_compared is 0"),
        ({"images": 2.5}, "proof.images is 2.5"),
        ({"compared_with": 1}, "proof.compared_with is 1"),
        ({"more": 1}, "proof.more is unknown"),
    ],
)
def test_a_proof_that_says_something_else_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        reported(simulation={"bit_exact": True, "proof": PROOF | change})


def test_nearly_all_is_not_called_all():
    notes = {label: shown for label, shown, _ in sections.integers(DETAIL)}
    assert notes["Pixels with the same class"].number == "99.9999%"
    equal = DETAIL | {"network": {"classes_equal": 1.0}}
    assert next(shown.number for _, shown, _ in sections.integers(equal)) == "100%"
    differs = DETAIL | {"simulation": {"bit_exact": False}}
    labels = [label for label, _, _ in sections.integers(differs)]
    assert "Scan of stages.0.mamba" in labels and "RTL of the whole design" not in labels


@pytest.mark.parametrize("form", FORMS)
def test_an_older_build_is_shown_without_what_it_does_not_say(form):
    text = FORMS[form](sample())  # resources and the slowest, without origins
    assert "Inside fpga" in text and "lkm1.scan" in text
    for title in (
        "Over the image",
        "through the pipeline",
        "Memory map",
        "argest ops",
        "the integers",
    ):
        assert title not in text


@pytest.mark.parametrize("form", FORMS)
def test_detail_of_another_form_is_skipped(form):
    wrong = {
        "resources": None, "slowest": None, "largest": [{"name": "x", "used": 3}, 5],
        "memories": {"purposes": [{"bits": "many"}], "fifos": 3}, "network": 7,
        "scans": [{"sqnr_db": None}], "simulation": [], "usable": "all",
    }  # fmt: skip
    assert "Inside fpga" not in FORMS[form](reported(**wrong))
    assert "Inside fpga" not in FORMS[form](reported(**wrong | {"memories": []}))


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_of_many_files_is_one_row(form):
    changed = parts()
    files = [{"name": f"rtl/n{i}.sv", "bytes": 100} for i in range(30)]
    changed["targets"]["fpga"]["files"] += [*files, {"name": "few/one.json", "bytes": 7}]
    text = FORMS[form](report.assemble(**changed))
    assert "rtl/: 30 files" in text and "3,000" in text and "n7.sv" not in text
    assert "few/one.json" in text


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (3.5, "3.5"), (1234.0, "1,234"), (1234.56, "1,234.6")]
)
def test_block_rams_come_in_halves(value, text):
    assert sections._amount(value) == text


@pytest.mark.parametrize(
    ("bits", "text"),
    [(99_949, "99.9 kbit"), (100_000, "0.10 Mbit"), (1_234_567, "1.23 Mbit"), (950, "0.9 kbit")],
)
def test_bits_are_in_the_unit_that_fits(bits, text):
    assert sections.bits_text(bits) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100%"), (0.5, "50.00%"), (0.99994, "99.99%"), (0.99996, "99.996%"),
     (0.9999999, "99.99999%")],
)  # fmt: skip
def test_only_all_is_all(share, text):
    assert sections._percent(share) == text


@pytest.mark.parametrize(
    ("used", "usable", "over"), [(160, 160, False), (161, 160, True), (159, 160, False),
                                 (200, None, False), (201, None, True)],
)  # fmt: skip
def test_what_is_over_is_more_than_may_be_used(used, usable, over):
    content = {"resources": {"lut": {"used": used, "available": 200}}, "usable": {"lut": usable}}
    (row,) = sections.resources(content)
    assert row["over"] == over and row["share"] == used / 200
    assert row["usable"] == ("160" if usable else "") and row["name"] == "LUT"


def test_a_resource_of_which_nothing_is_used_has_its_row():
    uses = {"uram": {"used": 0, "available": 96}, "x": {"used": -1, "available": 9},
            "y": {"used": 3, "available": 0}, "z": 7}  # fmt: skip
    (row,) = sections.resources({"resources": uses})
    assert (row["name"], row["shown"].number, row["available"]) == ("UltraRAM", "0", "96")


def test_the_slowest_layers_come_first_with_their_share_of_the_first():
    rows = [{"name": "b", "cycles": 25, "op": "B"}, {"name": "a", "cycles": 100, "op": "A"},
            {"cycles": 200}]  # fmt: skip
    found = sections.slowest_layers({"slowest": rows})
    assert [(r["name"], r["op"], r["share"]) for r in found] == [("a", "A", 1.0), ("b", "B", 0.25)]
