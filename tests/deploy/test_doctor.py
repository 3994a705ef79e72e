"""What ``doctor`` and tables say: the words follow the facts."""

import lone_build
import pytest

from lmaunet.deploy import doctor
from lmaunet.deploy.console import percent
from lmaunet.deploy.targets import Missing, Tool
from lmaunet.errors import UserError


@pytest.mark.parametrize(
    ("share", "decimals", "text"),
    [(None, 1, "not scored"), (0.0, 1, "0.0"), (0.76234, 2, "76.23"), (1.0, 0, "100")],
)
def test_a_dice_is_a_percentage_or_was_not_scored(share, decimals, text):
    assert percent(share, decimals) == text


def test_a_target_works_where_all_that_it_requires_is_there():
    content, lines, status = doctor.examine()
    assert status == (0 if content["works"] else 3) and content["targets"]["ort"]["works"]
    for name, target in content["targets"].items():
        if "summary" in target:
            word = "works" if target["works"] else "is missing tools"
            assert f"target {name}: {word}" in lines


def tool(name, place="", **more):
    return Tool(name, f"for {name}", "1.2" if place else "", place, f"get {name}", **more)


@pytest.fixture
def machine(monkeypatch):
    """A function that examines a machine with these packages and targets."""

    def examine(core, targets, commands=()):
        monkeypatch.setattr(doctor, "working_commands", lambda: list(commands))
        monkeypatch.setattr(doctor, "core_tools", lambda: core)
        monkeypatch.setattr(doctor, "all_targets", lambda: targets)
        return doctor.examine()

    return examine


def test_every_tool_has_two_lines_and_its_group(machine):
    """What it is, and where it is or how to get it."""
    core = [tool("a", "/a"), tool("b", required=False)]
    targets = {
        "z": Missing("z", "no module"),
        "x": lone_build.target(summary="an x", probe=lambda: [tool("c", "/c"), tool("d")]),
        "y": lone_build.target(summary="a y", probe=lambda: [tool("e", required=False)]),
    }
    content, lines, status = machine(core, targets)
    assert lines[2:] == [
        "\ntarget z: cannot be loaded: no module",
        "", "core", "  found     a 1.2                      for a", "            /a",
        "  optional  b                          for b", "            get it with: get b",
        "", "target x: is missing tools",
        "  found     c 1.2                      for c", "            /c",
        "  MISSING   d                          for d", "            get it with: get d",
        "", "target y: works",
        "  optional  e                          for e", "            get it with: get e",
    ]  # fmt: skip
    assert status == 0 and content["works"]
    assert {name: found["works"] for name, found in content["targets"].items()} == {
        "x": False, "y": True, "z": False,
    }  # fmt: skip
    assert content["core"] == [
        {"name": "a", "purpose": "for a", "found": True, "version": "1.2", "place": "/a",
         "fix": "", "required": True},
        {"name": "b", "purpose": "for b", "found": False, "version": "", "place": "",
         "fix": "get b", "required": False},
    ]  # fmt: skip
    assert content["targets"]["z"] == {"works": False, "why": "no module", "tools": []}


def test_what_is_always_needed_and_missing_is_named_last(machine):
    content, lines, status = machine([tool("a"), tool("b", "/b"), tool("torch")], {})
    assert status == 3 and not content["works"]
    assert lines[-2:] == [
        "", "missing: a, torch; install with: python -m pip install a torch==2.12.1"
    ]  # fmt: skip


def test_commands_that_work_and_those_that_lack_something_are_told_apart(machine):
    commands = [
        {"commands": "infer, report", "works": True, "missing": [], "fix": ""},
        {"commands": "train", "works": False, "missing": ["a", "b"], "fix": "get a b"},
    ]
    content, lines, status = machine([tool("a", required=False)], {}, commands)
    assert status == 0 and content["works"] and content["commands"] == commands
    assert lines[-5:] == [
        "commands", "  work      infer, report", "  MISSING   train", "            lack a, b",
        "            get them with: get a b",
    ]  # fmt: skip


def test_commands_follow_what_is_installed(monkeypatch):
    """Each needs what is always needed, and its extra."""
    missing = {"torch", "monai"}
    monkeypatch.setattr(doctor.packages, "is_installed", lambda name: name not in missing)
    found = {entry["commands"].split()[0]: entry for entry in doctor.working_commands()}
    assert [name for name, entry in found.items() if entry["works"]] == [
        "infer,",
        "infer",
        "refine,",
    ]
    assert found["spec,"]["missing"] == ["torch", "monai"]
    assert found["spec,"]["fix"] == "python -m pip install torch==2.12.1 'monai>=1.5'"
    missing.add("numpy")
    found = doctor.working_commands()
    assert not any(entry["works"] for entry in found)
    assert found[0]["missing"] == ["numpy"]


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_package_that_cannot_be_loaded_concerns_its_target_alone(machine, monkeypatch, kind):
    def broken():
        raise kind("libx.so: cannot open shared object file")

    targets = {
        "x": lone_build.target(probe=broken),
        "y": lone_build.target(probe=lambda: [tool("e", "/e")]),
    }
    monkeypatch.setattr(doctor.packages, "missing_package", lambda error: UserError(f"no {error}"))
    content, lines, status = machine([], targets)
    assert status == 0 and content["targets"]["y"]["works"]
    why = "no libx.so: cannot open shared object file"
    assert content["targets"]["x"] == {"works": False, "why": why, "tools": []}
    assert f"\ntarget x: {why}" in lines
    monkeypatch.setattr(doctor.packages, "missing_package", lambda error: None)
    with pytest.raises(kind, match="cannot open"):
        machine([], targets)


def test_the_packages_of_cuda_are_not_needed_and_those_of_targets_not_listed(monkeypatch):
    """A package without a purpose of its own has one all the same."""
    declared = {
        "": {"torch": "torch", "new": "new>=1"},
        "cuda": {"mamba-ssm": "m"},
        "fpga": {"f": ""},
    }
    monkeypatch.setattr(doctor.packages, "declared", lambda: declared)
    found = [(t.name, t.purpose, t.required, t.fix) for t in doctor.core_tools()]
    assert found == [
        ("torch", "training and QAT", True, "python -m pip install torch"),
        ("new", "used by lmaunet-deploy", True, "python -m pip install 'new>=1'"),
        ("mamba-ssm", "fast training scan on CUDA", False, "python -m pip install m"),
    ]


@pytest.mark.parametrize(("place", "said"), [("/o", "1.2"), ("", "missing")])
def test_the_version_is_that_of_the_runtime_too(monkeypatch, place, said):
    core = [tool("torch", "/t"), tool("onnxruntime", place)]
    monkeypatch.setattr(doctor, "core_tools", lambda: core)
    assert doctor.version_line().endswith(f", onnxruntime {said})")
    core.pop()
    assert doctor.version_line().endswith(f"(Python {doctor.platform.python_version()})")
