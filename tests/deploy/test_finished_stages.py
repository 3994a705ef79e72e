"""What is there already is found without torch, and with the files read once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import docstring_examples
import finished_run
import pytest
from fresh_process import assert_one_line
from fresh_process import run as run_alone

import lmaunet
from lmaunet.deploy.report_record import RECORD
from lmaunet.packages import declared, module_of
from lmaunet.stage import read_json, write_json

HEAVY = (
    "torch", "brevitas", "onnx", "onnx_ir", "onnxruntime", "SimpleITK", "monai", "numba", "scipy",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return finished_run.make(tmp_path_factory.mktemp("place"))


def again(place, *arguments):
    """Run a command in a fresh process; return it and what it loaded of the heavy packages."""
    done = run_alone(*arguments, cwd=place, heavy=HEAVY, environment={"OMP_NUM_THREADS": "1"})
    return done, done.stderr.splitlines()[-1].removeprefix("loaded:").split()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--phantom", "--spec", "tiny.json", "--epochs", "1"),
        ("qat", "--ckpt", "runs/demo-phantom/train/model.pt", "--epochs", "1"),
        ("export",),
        ("build", "--target", "ort", "--no-operators"),
        ("measure",),
        ("measure", "--target", "ort"),
        ("report",),
    ],
    ids=lambda arguments: arguments[0] if len(arguments) != 3 else "measure one",
)
def test_a_finished_stage_is_found_without_torch(place, arguments):
    run = place / "runs" / "demo-phantom"
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    done, loaded = again(place, *arguments)
    assert done.returncode == (read_status(run) if arguments[0] == "report" else 0), done.stderr
    assert loaded == []
    if arguments[0] in ("train", "qat", "export", "build"):
        assert "was there already" in done.stdout
    after = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != before.get(p)} == set()


def test_the_example_of_build_is_true(place, tmp_path, monkeypatch):
    """Also for a program it is found there; with other options it is made."""
    shutil.copytree(place / "runs" / "demo-phantom", tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    assert docstring_examples.run(lmaunet.build) == 3
    run = tmp_path / "runs" / "demo"
    made = lmaunet.build(run, "ort", operators=False, cpu="vnni")
    assert not made.cached and made.detail["cpu"] == "vnni"
    assert made.files == (run / "build" / "ort" / "model.onnx",) and made.files[0].is_file()
    assert made.exported == run / "export" and len(made.agreement) > 3
    assert lmaunet.load(made.folder).target == "ort"
    with pytest.raises(lmaunet.UserError, match="--board is an option of --target fpga"):
        lmaunet.build(run, "ort", board="ZCU104")
    with pytest.raises(lmaunet.UserError, match="unknown target 'vax'"):
        lmaunet.build(run, "vax")
    with pytest.raises(lmaunet.UserError, match="does not exist"):
        lmaunet.build(tmp_path / "none", "ort")


def read_status(run):
    states = {gate["state"] for gate in read_json(run / "report.json")["gates"]}
    return 1 if "failed" in states else 0


def test_a_found_report_says_what_the_first_one_said(place):
    run = place / "runs" / "demo-phantom"
    done, _ = again(place, "report", "--json")
    assert json.loads(done.stdout) == read_json(run / "report.json")
    kept = {name: (run / name).read_bytes() for name in ("report.json", "report.html", "report.md")}
    (run / "report.html").write_text("half")
    done, loaded = again(place, "report")
    assert loaded != [] and (run / "report.html").read_bytes().startswith(b"<!")
    assert set(read_json(run / RECORD)["outputs"]) == set(kept)
    done, loaded = again(place, "report", "--gate", "ort.size_mb=0.001")
    assert done.returncode == 1 and loaded != []  # another gate is another report
    again(place, "report")


def test_another_option_or_network_is_not_taken_for_what_is_there(place):
    """Each of these has to make something again; torch is blocked, so that none can."""
    checkpoint = ("qat", "--ckpt", "runs/demo-phantom/train/model.pt")
    for arguments in (
        ("train", "--phantom", "--spec", "tiny.json", "--epochs", "2"),
        ("train", "--phantom", "--spec", "tiny.json", "--epochs", "1", "--seed", "1"),
        (*checkpoint, "--epochs", "2"),
        (*checkpoint, "--epochs", "1", "--bits", "4"),
        (*checkpoint, "--epochs", "1", "--input-size", "48"),
        (*checkpoint, "--epochs", "1", "--phantom", "--seed", "3"),
    ):
        done = run_alone(*arguments, cwd=place, lacking=("torch",))
        assert done.returncode == 3 and "the Python package torch is missing" in done.stderr


def test_a_report_needs_nothing_that_trains_where_all_is_measured(place, tmp_path):
    """Other versions of the tools make no measurement stale where none can be made again."""
    shutil.copytree(place / "runs", tmp_path / "runs")
    run = tmp_path / finished_run.RUN
    lacking = tuple(module_of(name) for name in declared()["qat"])
    manifests = [run / "measure" / name / "manifest.json" for name in ("reference", "ort")]
    for path in manifests:
        write_json(path, {**read_json(path), "key": "of other tools"})
    before = read_json(run / "report.json")
    done = run_alone("report", cwd=tmp_path, lacking=lacking)
    assert done.returncode == read_status(run), done.stderr
    assert done.stderr.count("taken as it was measured; to measure again needs torch") == 2
    after = read_json(run / "report.json")
    assert after["targets"] == before["targets"] and after["reference"] == before["reference"]
    # what was measured of another build is none of this one's
    content = read_json(manifests[1])
    content["inputs"]["build"]["sha256"] = "of another build"
    write_json(manifests[1], content)
    done = run_alone("report", cwd=tmp_path, lacking=lacking)
    assert done.returncode == 3 and "is missing: it is needed by this command" in done.stderr


def test_a_new_target_is_one_folder(place, tmp_path):
    """Its flags, build, masks' scores, gates and lines of the report come from there alone."""
    added = tmp_path / "targets" / "plain"
    added.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("one_folder_target.py"), added / "__init__.py")
    shutil.copytree(place, tmp_path / "place")
    run = tmp_path / "place" / finished_run.RUN

    def command(*words):
        return run_alone(
            *words, cwd=tmp_path / "place", targets=added.parent,
            environment={"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )  # fmt: skip

    offered = command("build", "--help").stdout
    assert "plain: the scan's form; unrolled if not given." in offered
    assert "One of: fpga, openvino, ort, trt, plain." in offered and "--sections <int>" in offered
    refused = command("build", "--target", "plain", "--form", "odd")
    assert_one_line(refused, 2, "unknown --form 'odd'; use one of: unrolled, two_level")
    refused = command("build", "--target", "ort", "--form", "unrolled")
    assert_one_line(refused, 2, "--form is an option of --target plain; leave it out here")
    done = command("build", "--target", "plain", "--form", "two_level", "--sections", "3")
    assert done.returncode == 0, done.stderr
    built = read_json(run / "build" / "plain" / "build.json")["detail"]
    assert (built["form"], built["sections"]) == ("two_level", 3)
    done = command("report")
    assert done.returncode == 1, done.stderr  # its own limit is a microsecond
    gates = {(g["target"], g["name"]): g for g in read_json(run / "report.json")["gates"]}
    assert gates["plain", "latency_ms"]["state"] == "failed"
    assert gates["plain", "latency_ms"]["limit"] == 0.001 and ("ort", "latency_ms") not in gates
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "two_level, by this folder alone" in page
    assert command("doctor").stdout.count("plain") > 0
