"""Where each number of a report begins and ends, by a table that is written out by hand."""

from __future__ import annotations

import copy
import math

import pytest
from report_sample import altered, parts

from lmaunet.artifacts import Agreement
from lmaunet.deploy import report
from lmaunet.errors import UserError

INTERVAL = {"low": 0.5, "high": 1.5, "patients": 9, "level": 0.95}
PART = {"name": "p", "module": "m", "nodes": 3, "begin": 11, "end": 12, "begin_ms": 0.1,
        "end_ms": 0.2}  # fmt: skip
PIPELINE = {"provenance": "estimated", "cycles": 1000, "ms": 0.5, "parts": [PART]}
PROOF = {"streams_compared": 5, "images": 2, "images_with_stalls": 1, "compared_with": "codes"}


@pytest.fixture(scope="module")
def whole():
    """A report with every number that may be in one, and gates on nothing."""
    content = parts()
    model, reference, target = content["model"], content["reference"], content["targets"]["ort"]
    model |= {"float32": 0.8, "export_agreements": [Agreement("g", 1e-6, 0, 9, 1e-5, True)]}
    reference |= {"network": "as trained", "false_positives": {"c": {"liver": 7}},
                  "per_patient": {"p": 0.7}, "per_case": {"c": {"liver": 0.6}}}  # fmt: skip
    target |= {"false_positives": {"c": {"aorta": 3}}, "drop_interval": INTERVAL,
               "per_patient": {"p": 0.7}, "per_case": {"c": {"liver": 0.6}}}  # fmt: skip
    target["detail"] |= {"pipeline": copy.deepcopy(PIPELINE), "simulation": {"proof": PROOF}}
    made = report.assemble(**content, gates=[])
    report.validate(made)
    return made


INF = math.inf
WHOLE, REAL = 1, 0.125
"""The least step of a number of each kind."""
BOUNDS = {
    # path: (lowest, highest, step)
    "model/params": (1, INF, WHOLE),
    "model/macs": (1, INF, WHOLE),
    "model/input/0": (1, INF, WHOLE),
    "model/input/3": (1, INF, WHOLE),
    "model/weight_bits/8": (0, INF, WHOLE),
    "model/ptq": (0, 1, REAL),
    "model/qat": (0, 1, REAL),
    "model/control": (0, 1, REAL),
    "model/float32": (0, 1, REAL),
    "model/export_agreements/0/max_abs": (0, INF, REAL),
    "model/export_agreements/0/n_differ": (0, INF, WHOLE),
    "data/slices/test": (0, INF, WHOLE),
    "reference/dice/mean": (0, 1, REAL),
    "reference/dice/per_class/liver": (0, 1, REAL),
    "reference/hd95_mm": (0, INF, REAL),
    "reference/per_patient/p": (0, 1, REAL),
    "reference/per_case/c/liver": (0, 1, REAL),
    "reference/false_positives/c/liver": (1, INF, WHOLE),
    "targets/ort/dice/value": (0, 1, REAL),
    "targets/ort/hd95_mm/value": (0, INF, REAL),
    "targets/ort/dice_drop_points/value": (-INF, INF, REAL),
    "targets/ort/per_class/liver": (0, 1, REAL),
    "targets/ort/per_patient/p": (0, 1, REAL),
    "targets/ort/per_case/c/liver": (0, 1, REAL),
    "targets/ort/false_positives/c/aorta": (1, INF, WHOLE),
    "targets/ort/drop_interval/low": (-INF, 1.5, REAL),
    "targets/ort/drop_interval/high": (0.5, INF, REAL),
    "targets/ort/drop_interval/patients": (1, INF, WHOLE),
    "targets/ort/drop_interval/level": (0, 1, REAL),
    "targets/ort/worst_class/relative_loss": (-INF, 1, REAL),
    "targets/ort/files/0/bytes": (0, INF, WHOLE),
    "targets/ort/agreement/0/max_abs": (0, INF, REAL),
    "targets/ort/agreement/0/n_differ": (0, INF, WHOLE),
    "targets/ort/agreement/0/n_total": (0, INF, WHOLE),
    "targets/ort/agreement/0/tolerance": (0, INF, REAL),
    "targets/ort/agreement/0/allowed": (0, INF, WHOLE),
    "targets/ort/detail/pipeline/cycles": (1, INF, WHOLE),
    "targets/ort/detail/pipeline/ms": (0, INF, REAL),
    "targets/ort/detail/pipeline/parts/0/nodes": (0, INF, WHOLE),
    "targets/ort/detail/pipeline/parts/0/begin": (0, 12, REAL),
    "targets/ort/detail/pipeline/parts/0/end": (11, INF, REAL),
    "targets/ort/detail/pipeline/parts/0/begin_ms": (0, 0.2, REAL),
    "targets/ort/detail/pipeline/parts/0/end_ms": (0.1, INF, REAL),
    "targets/ort/detail/simulation/proof/streams_compared": (1, INF, WHOLE),
    "targets/ort/detail/simulation/proof/images": (1, INF, WHOLE),
    "targets/ort/detail/simulation/proof/images_with_stalls": (1, INF, WHOLE),
}

BESIDE = {"begin": "end", "begin_ms": "end_ms", "low": "high"}
"""What is said to be below it where a number is too large."""


@pytest.mark.parametrize("path", BOUNDS)
def test_a_number_is_taken_from_its_lowest_to_its_highest_and_no_further(whole, path):
    low, high, step = BOUNDS[path]
    good = [
        *((-1e6,) if low == -INF else (low, low + step)),
        *((10**6,) if high == INF else (high, high - step)),
    ]
    for value in good:
        report.validate(altered(path, value, source=whole))
    bad = [*([] if low == -INF else [low - step]), *([] if high == INF else [high + step])]
    if step == WHOLE:
        bad += [low + 1.5, float(low + 1)]
    for value in bad:
        with pytest.raises(UserError) as caught:
            report.validate(altered(path, value, source=whole))
        named, last = str(caught.value).partition(" is ")[0], path.rpartition("/")[2]
        assert named.endswith((f".{last}", f"[{last}]", f".{BESIDE.get(last, last)}")), named


@pytest.mark.parametrize("key", ["size_mb", "weights_mb", "latency_ms"])
def test_what_takes_nothing_is_not_known(whole, key):
    report.validate(altered(f"targets/ort/{key}/value", 1e-9, source=whole))
    for value in (0, -1):
        with pytest.raises(UserError, match=rf"^targets\.ort\.{key}\.value is 0 or less"):
            report.validate(altered(f"targets/ort/{key}/value", value, source=whole))


@pytest.mark.parametrize("cases", [1, 12, [], ["a", "b"]])
def test_cases_are_counted_or_named(whole, cases):
    report.validate(altered("data/cases", cases, source=whole))


@pytest.mark.parametrize("cases", [0, -1, 1.5, 2.0, True, "two", None])
def test_cases_are_a_whole_number_from_1(whole, cases):
    with pytest.raises(UserError, match=r"^data\.cases is .*; expected a whole number from 1$"):
        report.validate(altered("data/cases", cases, source=whole))


@pytest.mark.parametrize(("slices", "name"), [(-1, "data.slices"), ({"a": -1}, "data.slices.a")])
def test_slices_are_counted_in_one_number_or_by_part(whole, slices, name):
    report.validate(altered("data/slices", 0, source=whole))
    with pytest.raises(UserError, match=f"^{name} is -1; expected a whole number from 0$"):
        report.validate(altered("data/slices", slices, source=whole))


TEXTS = [
    "model/spec", "data/name", "data/split", "data/label_source", "reference/target",
    "reference/network", "targets/ort/arithmetic", "targets/ort/files/0/name",
    "targets/ort/agreement/0/name", "targets/ort/worst_class/class",
    "targets/trt/latency_ms/unavailable/tool", "targets/trt/latency_ms/unavailable/why",
    "targets/trt/latency_ms/unavailable/fix", "targets/ort/detail/pipeline/parts/0/name",
    "targets/ort/detail/pipeline/parts/0/module",
    "targets/ort/detail/simulation/proof/compared_with", "verdict/0/figures",
]  # fmt: skip


@pytest.mark.parametrize("path", TEXTS)
def test_a_text_says_something(whole, path):
    for value in ("", " \n", 7, None, ["a"]):
        with pytest.raises(UserError) as caught:
            report.validate(altered(path, value, source=whole))
        assert "; expected text" in str(caught.value)


@pytest.mark.parametrize("drop", [-2e-6, 2e-6])
def test_the_worst_class_lost_what_the_figure_says_to_a_millionth(whole, drop):
    value = whole["targets"]["ort"]["class_drop_points"]["value"]
    path = "targets/ort/class_drop_points/value"
    report.validate(altered(path, value + drop / 4, source=whole))
    with pytest.raises(UserError, match=r"^targets\.ort\.worst_class is .*, but class_drop_points"):
        report.validate(altered(path, value + drop, source=whole))


@pytest.mark.parametrize("name", ["liver", "spleen"])
def test_the_worst_class_is_one_of_the_classes_with_its_own_dice(whole, name):
    with pytest.raises(UserError, match=r"^targets\.ort\.worst_class is "):
        report.validate(altered("targets/ort/worst_class/class", name, source=whole))


def test_a_class_that_had_nothing_to_lose_has_no_relative_loss(whole):
    report.validate(altered("targets/ort/worst_class/relative_loss", None, source=whole))


@pytest.mark.parametrize("key", ["dice_drop_points", "class_drop_points"])
def test_no_drop_stands_without_a_dice(whole, key):
    lost = {"unavailable": {"tool": "x", "why": "y", "fix": "z"}}
    without = altered("targets/ort/dice", lost, source=whole)
    for other in ("dice_drop_points", "class_drop_points"):
        if other != key:
            without = altered(f"targets/ort/{other}", lost, source=without)
    with pytest.raises(UserError, match=rf"^targets\.ort\.{key} has a value though targets\.ort\."):
        report.validate(without)
    report.validate(altered(f"targets/ort/{key}", lost, source=without))


@pytest.mark.parametrize("schema", [0, 2, True, "1", None, 1.5])
def test_a_report_of_another_schema_is_told_how_to_be_made_again(whole, schema):
    with pytest.raises(UserError, match=r"^report\.schema is .*, expected 1: another version"):
        report.validate(altered("schema", schema, source=whole))


@pytest.mark.parametrize(
    "path",
    ["verdict/0/target", "verdict/0/ship", "targets/ort/size_mb/unit",
     "targets/ort/detail/pipeline/provenance", "targets/ort/size_mb/provenance"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["", "zzz", "a", None, 3])
def test_a_word_is_one_of_those_that_are_known(whole, path, value):
    with pytest.raises(UserError, match=r" is .*; expected one of: "):
        report.validate(altered(path, value, source=whole))


@pytest.mark.parametrize(("length", "whole"), [(58, True), (59, False)])
def test_a_long_value_of_a_report_is_cut(length, whole):
    content = report.assemble(**parts())
    content["data"]["synthetic"] = "x" * length
    with pytest.raises(UserError) as caught:
        report.validate(content)
    shown = repr("x" * length) if whole else "'" + "x" * 56 + "..."
    assert str(caught.value) == f"data.synthetic is {shown}; expected true or false"
