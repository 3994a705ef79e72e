"""The record of a report: whole, checked, and written at once."""

import math

import numpy as np
import pytest
from report_sample import MADE, NO_GPU, altered, parts, sample

from lmaunet.artifacts import Agreement
from lmaunet.deploy import report
from lmaunet.errors import UserError

LOST = {"unavailable": {"tool": "Vivado", "why": "not here", "fix": "install it"}}


def test_the_report_survives_the_file(tmp_path):
    made = sample()
    paths = report.write_report(tmp_path / "new" / "folder", made)
    assert [p.name for p in paths] == ["report.json", "report.md", "report.html"]
    assert report.load(paths[0]) == made
    assert {p.name for p in paths[0].parent.iterdir()} == {p.name for p in paths}
    assert set(made) == {
        "schema", "made", "model", "data", "reference", "targets", "gates", "regressions",
        "verdict",
    }  # fmt: skip
    assert made["targets"]["fpga"]["latency_ms"] == {
        "value": 10.37, "unit": "ms", "provenance": "estimated",
    }  # fmt: skip
    assert made["targets"]["trt"]["latency_ms"] == NO_GPU.to_json()
    assert made["model"]["weight_bits"] == {"8": 481_200}


def test_numpy_numbers_become_plain_ones():
    changed = parts()
    changed["reference"]["dice"]["mean"] = np.float32(0.5)
    changed["model"]["params"] = np.int64(7)
    made = report.assemble(**changed)
    assert type(made["reference"]["dice"]["mean"]) is float
    assert type(made["model"]["params"]) is int
    changed["targets"]["ort"]["detail"]["cpu"] = object()
    with pytest.raises(UserError, match=r"^targets\.ort\.detail\.cpu is of type object; the rep"):
        report.assemble(**changed)


def test_the_command_and_the_tools_are_recorded(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/lmaunet-deploy", "report", "--run", "a b"])
    made = sample(made=None)["made"]
    assert made["command"] == "lmaunet-deploy report --run 'a b'"
    assert made["tools"]["python"].startswith("3.")


@pytest.mark.parametrize(
    "path",
    [
        "model/macs", "data/label_source", "data/synthetic", "reference/dice/per_class", "gates",
        "targets/fpga/latency_ms", "targets/fpga/latency_ms/provenance", "targets/ort/per_class",
        "targets/trt/latency_ms/unavailable/fix", "targets/ort/size_mb/unit",
    ],
)  # fmt: skip
def test_a_missing_key_is_named(path):
    dotted = path.replace("/", r"\.")
    if path.count("/") == 0:
        dotted = rf"report\.{dotted}"
    with pytest.raises(UserError, match=rf"^{dotted} is missing$"):
        report.validate(altered(path, delete=True))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("targets/fpga/latency_ms/provenance", "guessed",
         "targets.fpga.latency_ms.provenance is 'guessed'; expected one of: measured, emulated,"
         " simulated, estimated"),
        ("targets/fpga/latency_ms", None, "targets.fpga.latency_ms is None; expected an object"),
        ("targets/fpga/latency_ms/value", None,
         "targets.fpga.latency_ms.value is None; expected a number"),
        ("targets/fpga/latency_ms/value", True,
         "targets.fpga.latency_ms.value is True; expected a number"),
        ("targets/fpga/latency_ms/value", float("nan"),
         "report.targets.fpga.latency_ms.value is nan; a figure that is not known is Unavailable"),
        ("targets/fpga/latency_ms/value", 0,
         "targets.fpga.latency_ms.value is 0 or less; what is not known is Unavailable"),
        ("targets/ort/size_mb/value", 0.0,
         "targets.ort.size_mb.value is 0 or less; what is not known is Unavailable"),
        ("targets/ort/size_mb/unit", "MiB",
         "targets.ort.size_mb.unit is 'MiB'; expected one of: MB"),
        ("targets/ort/dice/value", 88.6,
         "targets.ort.dice.value is 88.6; expected a number from 0 to 1"),
        ("targets/ort/dice", LOST,
         "targets.ort.dice_drop_points has a value though targets.ort.dice has none"),
        ("targets/ort/latency", LOST,
         "targets.ort.latency is unknown; expected one of: size_mb, weights_mb, dice,"
         " dice_drop_points, class_drop_points, hd95_mm, latency_ms, per_class, agreement, files,"
         " arithmetic, detail, summary, worst_class, per_case, per_patient, drop_interval,"
         " false_positives, class_intervals, bitstream_mb"),
        ("targets/ort/worst_class/dice", 0.5,
         "targets.ort.worst_class is {'class': 'aorta', 'reference': 0.843, 'dice': 0.5, 'rela...,"
         " but class_drop_points is 2.8000000000000025 and per_class has 0.815"),
        ("targets/ort/drop_interval", {"low": 1, "high": 0, "patients": 9, "level": 0.95},
         "targets.ort.drop_interval.high is 0; expected a number from 1"),
        ("targets/ort/drop_interval", {"low": 0, "high": 1, "patients": 0, "level": 0.95},
         "targets.ort.drop_interval.patients is 0; expected a whole number from 1"),
        ("targets/ort/drop_interval", {"low": 0, "high": 1, "patients": 5.5, "level": 0.95},
         "targets.ort.drop_interval.patients is 5.5; expected a whole number from 1"),
        ("targets/ort/drop_interval", {"low": 0, "high": 1, "patients": 5, "level": 95},
         "targets.ort.drop_interval.level is 95; expected a number from 0 to 1"),
        ("targets/ort/false_positives", {"a": {"liver": 0}},
         "targets.ort.false_positives.a.liver is 0; expected a whole number from 1"),
        ("reference/dice/mean", {"unavailable": {"tool": "x", "why": "y"}},
         "reference.dice.mean.unavailable.fix is missing"),
        ("targets", {}, "targets is empty; a report has at least one target"),
        ("data/synthetic", "no", "data.synthetic is 'no'; expected true or false"),
        ("data/label_source", " ", "data.label_source is ' '; expected text"),
        ("reference/hd95_mm", None, "reference.hd95_mm is None; expected a number from 0"),
        ("model/params", 1.5, "model.params is 1.5; expected a whole number from 1"),
        ("schema", 2,
         "report.schema is 2, expected 1: another version of lmaunet-deploy wrote it; make the"
         " report again with this one"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(path, value, message):
    with pytest.raises(UserError) as caught:
        report.validate(altered(path, value))
    assert str(caught.value) == message


def whole():
    """A report with all that may be in one."""
    content = parts()
    content["model"] |= {
        "export_agreements": [Agreement("graph", 1e-6, 0, 9, 1e-5, True)], "float32": 0.891,
    }  # fmt: skip
    reference, target = content["reference"], content["targets"]["fpga"]
    reference |= {"network": "as trained", "false_positives": {"c": {"liver": 7}}}
    for place, dice in ((reference, 0.9), (target, 0.8)):
        place |= {"per_patient": {"p": dice}, "per_case": {"c": {"liver": dice}}}
    target |= {
        "false_positives": {"c": {"aorta": 3}},
        "drop_interval": {"low": 0.5, "high": 1.5, "patients": 9, "level": 0.95},
    }
    part = {"name": "p", "module": "m", "nodes": 3, "begin": 1, "end": 2, "begin_ms": 0.1,
            "end_ms": 0.2}  # fmt: skip
    target["detail"]["pipeline"] = {
        "provenance": "estimated", "cycles": 1000, "ms": 0.5, "parts": [part],
    }  # fmt: skip
    made = report.assemble(**content)
    dice = made["targets"]["ort"]["dice"]
    made["regressions"] = [
        {"kind": "worse", "target": "ort", "figure": "dice", "message": "less", "before": dice,
         "now": dice}
    ]  # fmt: skip
    report.validate(made)
    return made


def leaves(value, path=()):
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in inner:
        if isinstance(one, dict | list):
            yield from leaves(one, (*path, str(key)))
        else:
            yield (*path, str(key)), one


WRONG = {
    bool: [3, "x", None],
    int: ["x", None, True, math.nan, -1, 1.5, []],
    float: ["x", None, True, math.nan, -1, {}],
    str: [3, None, " ", []],
}
FREE = {
    # below 0 is a gain
    "dice_drop_points/value": [-1], "class_drop_points/value": [-1], "interval/low": [-1],
    "gates/*/limit": [-1], "relative_loss": [-1], "regressions/*/target": [" "],
    "regressions/*/figure": [" "], "parts/*/begin": [1.5], "parts/*/end": [1.5],
}  # fmt: skip
"""What else may stand in a place, by the end of its path."""


def test_nothing_else_may_stand_in_any_place():
    made = whole()
    taken = []
    for path, value in leaves(made):
        if path[0] == "made" or (path[2:3] == ("detail",) and path[3] != "pipeline"):
            continue  # anything may stand there
        for wrong in WRONG[type(value)]:
            name = "/".join("*" if key.isdigit() else key for key in path)
            free = next((allowed for end, allowed in FREE.items() if name.endswith(end)), [])
            try:
                report.validate(altered("/".join(path), wrong, source=made))
            except UserError as error:
                assert str(error), name
            else:
                if wrong not in free:
                    taken.append((name, wrong))
    assert taken == []


def test_an_interval_of_one_patient_and_of_no_width_is_one():
    interval = {"low": 1, "high": 1, "patients": 1, "level": 1}
    report.validate(altered("targets/ort/drop_interval", interval))


def test_a_gate_that_contradicts_its_figure_is_refused():
    made = sample()
    index = next(i for i, g in enumerate(made["gates"]) if g["name"] == "latency_ms")
    with pytest.raises(UserError, match=rf"^gates\[{index}\]\.provenance is 'measured', but "):
        report.validate(altered(f"gates/{index}/provenance", "measured", source=made))
    with pytest.raises(UserError, match=rf"^gates\[{index}\]\.state is 'open', but targets.fpga"):
        report.validate(altered(f"gates/{index}/state", "open", source=made))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON (Expecting property name"),
        (b'{"schema": ' + b"1" * 6000 + b"}", "is not JSON (Exceeds the limit"),
        (b"\xff\xfe", "is not JSON ("),
        (b"[]", "is not a usable report: report is []; expected an object"),
        (b'{"schema": 7}', "is not a usable report: report.schema is 7, expected 1"),
        (None, "cannot be read: No such file or directory; give a report.json"),
    ],
)
def test_a_file_that_is_no_report(tmp_path, content, message):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        report.load(path)
    assert str(caught.value).startswith(f"{path} {message}")


def test_a_report_that_cannot_be_written_keeps_the_old_one(tmp_path, monkeypatch):
    report.write_report(tmp_path, sample())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(UserError, match=r"cannot be written to .*: No space left on device; free"):
        report.write_report(tmp_path, sample(made=MADE | {"created": "later"}))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
