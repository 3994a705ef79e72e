import copy
import itertools
import json

import numpy as np
import pytest
from report_sample import MADE, NO_GPU, measured, parts, sample

from lmaunet.artifacts import PROVENANCES, Measurement
from lmaunet.deploy import gates, report
from lmaunet.errors import UserError

LOST = {"unavailable": {"tool": "Vivado", "why": "not here", "fix": "install it"}}


def altered(path, value=None, *, delete=False, source=None):
    """Return a report with the value at ``path`` (keys joined by '/') changed or deleted."""
    content = copy.deepcopy(source or sample())
    *outer, last = path.split("/")
    place = content
    for key in outer:
        place = place[int(key) if isinstance(place, list) else key]
    if delete:
        del place[last]
    else:
        place[last] = value
    return content


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
         " false_positives, bitstream_mb"),
        ("targets/ort/worst_class/dice", 0.5,
         "targets.ort.worst_class is {'class': 'aorta', 'reference': 0.843, 'dice': 0.5, 'rela...,"
         " but class_drop_points is 2.8000000000000025 and per_class has 0.815"),
        ("targets/ort/drop_interval", {"low": 1, "high": 0, "patients": 9, "level": 0.95},
         "targets.ort.drop_interval.high is 0; expected a number from 1"),
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


def class_drop(name, before, now):
    """Return the changes of a target whose class ``name`` fell from one Dice to another."""
    loss = (before - now) / before
    return {
        "class_drop_points": measured("class_drop_points", 100 * (before - now)),
        "worst_class": {"class": name, "reference": before, "dice": now, "relative_loss": loss},
    }


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
