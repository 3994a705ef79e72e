import math

import pytest
from command_line import runner

from lmaunet.deploy import gate_limits, gates
from lmaunet.deploy.gate_limits import merge, parse_gates
from lmaunet.errors import UserError


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def limits_of(limits, target):
    return {gate.figure: gate.limit for gate in gates.gates_of(limits) if gate.applies(target)}


def test_the_defaults_are_the_files_and_what_targets_state():
    defaults = gate_limits.default_limits()
    common = {"dice_drop_points": 1.0, "class_drop_points": 3.0}
    assert (
        limits_of(defaults, "ort") == limits_of(defaults, "openvino") == common | {"size_mb": 4.2}
    )
    assert limits_of(defaults, "trt") == common | {"weights_mb": 4.2}
    assert limits_of(defaults, "fpga") == common | {"size_mb": 4.2, "latency_ms": 12.0}


@pytest.mark.parametrize(
    ("given", "target", "changed"),
    [
        ("ort.latency_ms=50", "ort", {"latency_ms": 50.0}),
        ("ort.latency_ms=50", "openvino", {}),
        ("latency_ms<=50", "ort", {"latency_ms": 50.0}),
        ("latency_ms=50", "fpga", {"latency_ms": 50.0}),
        ("dice=0.7", "ort", {"dice": 0.7}),
        ("dice>=0.7", "trt", {"dice": 0.7}),
        ("ort.dice >= 0.7", "ort", {"dice": 0.7}),
        ("size_mb=1", "trt", {"size_mb": 1.0}),
        ("class_drop_points=0", "ort", {"class_drop_points": 0.0}),
    ],
)
def test_a_limit_of_the_command_line_replaces_the_default(given, target, changed):
    defaults = gate_limits.default_limits()
    merged = merge([defaults, parse_gates([given])])
    assert limits_of(merged, target) == limits_of(defaults, target) | changed


def test_the_command_line_comes_before_the_file_before_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lmaunet.toml").write_text(
        "[gates]\ndice_drop_points = 2\ndice = 0.6\n[gates.ort]\nlatency_ms = 30\nsize_mb = false\n"
    )
    merged = gate_limits.chosen_limits(["ort.latency_ms=20", "dice=0.8"])
    assert limits_of(merged, "ort") == {
        "dice_drop_points": 2.0, "dice": 0.8, "latency_ms": 20.0, "class_drop_points": 3.0,
    }  # fmt: skip
    assert limits_of(merged, "openvino")["size_mb"] == 4.2


BAD = [
    ("latency_ms", "expected FIGURE=LIMIT, such as ort.latency_ms=50"),
    ("latency=5", "unknown figure 'latency'; use one of: size_mb, weights_mb, dice,"),
    ("tpu.latency_ms=5", "unknown target 'tpu'; use one of: fpga, openvino, ort, trt"),
    (".latency_ms=5", "unknown target ''"),
    ("latency_ms=fast", "'fast' is no limit; give a number from 0 or more"),
    ("latency_ms=", "'' is no limit"),
    ("latency_ms=nan", "nan is no limit"),
    ("latency_ms=inf", "inf is no limit"),
    ("latency_ms=-1", "-1.0 is no limit"),
    ("dice=70", "70.0 is no limit; give a number from 0 to 1"),
    ("dice<=0.7", "a limit on dice is >=; turn the sign"),
    ("latency_ms>=5", "a limit on latency_ms is <=; turn the sign"),
    ("", "expected FIGURE=LIMIT"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_what_is_no_gate_is_refused_before_any_work(run, given, message):
    status, out, err = run("report", "--gate", given)
    assert status == 2 and not out
    assert f"--gate {given}: " in err and message in err and "Traceback" not in err


LARGEST = {
    "size_mb": None, "weights_mb": None, "dice": 1, "dice_drop_points": 100,
    "class_drop_points": 100, "hd95_mm": None, "latency_ms": None,
}  # fmt: skip


@pytest.mark.parametrize("figure", LARGEST)
def test_a_limit_reaches_from_0_to_the_largest_that_makes_sense(figure):
    """A share of one, a hundred points, and any size, distance or time."""
    largest = LARGEST[figure] or 1e12
    for value in (0, largest):
        assert parse_gates([f"{figure}={value}"])[""][figure].value == value
    for value in (-0.001, *([largest + 0.001] if LARGEST[figure] else [])):
        with pytest.raises(UserError, match=f"^--gate {figure}={value}: {value} is no limit; give"):
            parse_gates([f"{figure}={value}"])


def test_two_limits_for_the_same_are_refused():
    with pytest.raises(UserError, match=r"^--gate dice>=0.8: dice has two limits; give one$"):
        parse_gates(["dice=0.7", "dice>=0.8"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gates", "is not TOML"),
        ("gates = 3", "gates is 3; expected a table [gates]"),
        ("[gate]\nsize_mb = 3", "unknown table 'gate'; expected [gates]"),
        ("[gates]\nsize = 3", "size: unknown figure 'size'"),
        ("[gates.tpu]\nsize_mb = 3", "unknown target 'tpu'"),
        ("[gates]\nsize_mb = nan", "size_mb: nan is no limit"),
        ("[gates]\nsize_mb = true", "size_mb: True is no limit"),
        ("[gates]\nsize_mb = '3'", "size_mb: '3' is no limit"),
        ("[gates.ort]\nlatency_ms = -3", "ort.latency_ms: -3 is no limit"),
        ("[gates]\nsize_mb = { limit = -3, why = 'so' }", "size_mb: -3 is no limit"),
        ("[gates]\nsize_mb = { limit = 3 }", "size_mb: {'limit': 3}; expected { limit = NUMBER"),
        ("[gates]\nsize_mb = { limit = 3, why = 3 }", "expected { limit = NUMBER, why = TEXT }"),
        ("[gates]\nsize_mb = {limit = {limit = 3, why = 'a'}, why = 'b'}", "limit is a table"),
        ("[gates]\nsize_mb = 1" + "0" * 400, "is no limit; give a number from 0 or more"),
        ("[gates]\nsize_mb = 1" + "0" * 5000, "is not TOML: "),
        ("[gates]\nsize_mb = " + "[" * 3000, "is not TOML: "),
    ],
)
def test_a_file_of_limits_with_a_fault_is_refused(run, tmp_path, text, message):
    (tmp_path / "lmaunet.toml").write_text(text)
    status, _, err = run("report")
    assert status == 2 and err.startswith("lmaunet-deploy: lmaunet.toml") and message in err


def test_a_link_to_a_file_of_limits_that_is_gone_is_not_passed_over(run, tmp_path):
    (tmp_path / "lmaunet.toml").symlink_to(tmp_path / "gone.toml")
    status, _, err = run("report")
    assert status == 2 and "lmaunet.toml cannot be read: No such file or directory" in err


def test_a_gate_is_turned_off_by_the_command_line_as_by_a_file():
    merged = merge([gate_limits.default_limits(), parse_gates(["fpga.latency_ms=false"])])
    assert "latency_ms" not in limits_of(merged, "fpga")


def test_every_figure_of_the_report_can_be_gated():
    from lmaunet.deploy.schema import UNITS

    assert set(gate_limits.LARGEST) == set(UNITS)
    assert all(math.isinf(x) or x > 0 for x in gate_limits.LARGEST.values())


def test_why_a_limit_is_what_it_is_goes_into_the_gate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lmaunet.toml").write_text(
        "[gates.ort]\nsize_mb = { limit = 9, why = 'A large flash.' }\n"
    )
    merged = gates.gates_of(gate_limits.chosen_limits())
    assert {g.figure: g.why for g in merged if g.applies("ort") and g.why} == {
        "size_mb": "A large flash."
    }
    assert not [g for g in merged if g.applies("openvino") and g.why]
    # another limit is not for that reason
    merged = gates.gates_of(gate_limits.chosen_limits(["size_mb=2"]))
    assert not any(g.why for g in merged)


@pytest.mark.parametrize(
    ("figure", "largest"),
    [("dice", 1.0), ("dice_drop_points", 100.0), ("class_drop_points", 100.0), ("size_mb", None),
     ("weights_mb", None), ("hd95_mm", None), ("latency_ms", None)],
)  # fmt: skip
def test_a_limit_is_from_0_to_what_its_figure_can_be(figure, largest):
    for good in (0, 1e-9, largest if largest is not None else 1e12):
        assert gate_limits.parse_gates([f"{figure}={good}"])[""][figure].value == good
    for bad in (-1e-9, largest + 1e-6 if largest is not None else math.inf):
        with pytest.raises(UserError, match="is no limit; give a number from 0"):
            gate_limits.parse_gates([f"{figure}={bad}"])
