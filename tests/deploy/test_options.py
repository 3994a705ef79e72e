"""Options are checked before any work: at once, without torch, with the values that would do."""

from __future__ import annotations

import inspect

import pytest
from command_line import runner
from fresh_process import assert_one_line
from fresh_process import run as run_alone

from lmaunet.deploy import commands, targets
from lmaunet.deploy.targets import Target, all_targets, build_options
from lmaunet.errors import ToolNotFound, UserError

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "SimpleITK", "finn", "openvino", "tensorrt_rtx")
REFUSED = [
    (("build", "--target", "tpu"), "unknown target 'tpu'; use one of: fpga, openvino, ort, trt"),
    (("build", "--target", "fpga", "--board", "ZCU999"), "use one of: Ultra96, KV260, ZCU104"),
    (("build", "--target", "fpga", "--clock-mhz", "nan"), "give a positive number"),
    (("build", "--target", "fpga", "--clock-mhz", "-5"), "give a positive number"),
    (("build", "--target", "fpga", "--clock-mhz", "5000"), "use 150 to 400"),
    (("build", "--target", "fpga", "--target-ms", "inf"), "give a positive number"),
    (("build", "--target", "fpga", "--target-ms", "0"), "give a positive number"),
    (("build", "--target", "fpga", "--flow", "quartus"), "one of: none, levels, timing, vivado"),
    (("build", "--target", "trt", "--sm", "SM1"), "use one or more of SM75"),
    (("build", "--target", "trt", "--sm", "SM75"), "SM75"),
    (("build", "--target", "trt", "--precision", "int2"), "int8, fp16, fp32, int4-weights"),
    (("build", "--target", "ort", "--cpu", "arm"), "use one of: any, vnni"),
    (("build", "--target", "ort", "--board", "ZCU104"), "an option of --target fpga"),
    (("build", "--target", "openvino", "--sm", "SM86"), "an option of --target trt"),
    (("export", "--lowering", "fast"), "use one of: opaque, two_level, unrolled"),
    (("measure", "--target", "tpu"), "use one of: fpga, openvino, ort, trt"),
    (("train", "--phantom", "--spec", "huge"), "use one of: base, edge, demo"),
    (("train", "--phantom", "--epochs", "0"), "epochs=0"),
    (("train", "--phantom", "--epochs", "-1"), "epochs=-1"),
    (("train", "--phantom", "--batch-size", "0"), "batch_size=0"),
    (("train", "--phantom", "--learning-rate", "nan"), "learning_rate=nan"),
    (("train", "--phantom", "--learning-rate", "2"), "at most 1"),
    (("train", "--phantom", "--input-size", "7"), "multiples of 16"),
    (("train", "--phantom", "--classes", "1"), "give 2 to 4,096"),
    (("train", "--phantom", "--channels", "0"), "give 1 to 1,024"),
    (("qat", "--ckpt", "x.pt", "--bits", "5"), "2, 3, 4, 8 bits"),
    (("qat", "--ckpt", "x.pt", "--scales", "odd"), "use one of: free, pow2"),
    (("qat", "--ckpt", "x.pt", "--budget-mb", "-1"), "give a positive size"),
    (("qat", "--ckpt", "x.pt", "--budget-mb", "nan"), "give a positive size"),
    (("qat", "--ckpt", "x.pt", "--budget-mb", "1", "--bits", "4"), "exclude each other"),
    (("qat", "--ckpt", "x.pt", "--distill", "nan"), "give 0 or a positive weight"),
    (("qat", "--ckpt", "x.pt", "--epochs", "0"), "epochs=0"),
    (("qat", "--ckpt", "x.pt", "--learning-rate", "-1"), "learning_rate=-1"),
    (("qat", "--ckpt", "x.pt", "--spec", "huge"), "unknown spec 'huge'"),
    (("infer", "--build", "b", "x.nii", "-o", "y.nii", "--overlap", "nan"), "overlap"),
    (("infer", "--build", "b", "x.nii", "-o", "y.nii", "--batch", "0"), "batch 0"),
    (("infer", "--build", "b", "x.nii", "-o", "y.jpg"), ".nii.gz"),
]  # fmt: skip


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.fixture
def files(tmp_path):
    """Files that are there and hold nothing of use: what is refused is the option."""
    (tmp_path / "x.pt").write_bytes(b"x")
    (tmp_path / "x.nii").write_bytes(b"x")
    (tmp_path / "runs" / "r" / "qat").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "qat" / "manifest.json").write_text("{")


@pytest.mark.parametrize(("arguments", "text"), REFUSED, ids=[" ".join(r[0]) for r in REFUSED])
def test_a_bad_option_is_refused_before_files_are_looked_at(run, files, tmp_path, arguments, text):
    before = {p for p in tmp_path.rglob("*")}
    status, out, err = run(*arguments)
    assert status == 2 and text in err and out == "", err
    assert {p for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "--target", "fpga", "--board", "ZCU999"),
        ("build", "--target", "trt", "--sm", "SM1"),
        ("build", "--target", "openvino", "--sm", "SM86"),
        ("export", "--lowering", "fast"),
        ("train", "--phantom", "--learning-rate", "nan"),
        ("qat", "--ckpt", "x.pt", "--bits", "3x3=5"),
        ("qat", "--ckpt", "x.pt", "--scales", "odd"),
    ],
    ids=" ".join,
)
def test_what_is_refused_loads_nothing_heavy(files, tmp_path, arguments):
    done = run_alone(*arguments, cwd=tmp_path, heavy=HEAVY)
    assert_one_line(done, 2)
    assert done.stderr.splitlines()[-1].strip() == "loaded:"


def test_each_targets_options_are_options_of_the_command():
    """So that a target's new option is neither unreachable nor without an owner."""
    from lmaunet.deploy import cli

    offered = set(inspect.signature(cli.build).parameters) - {"target", "run", "as_json"}
    owned = set()
    for target in all_targets().values():
        assert isinstance(target, Target)
        owned |= set(inspect.signature(target.options).parameters)
    assert owned == offered


def test_the_demos_builds_are_those_of_the_command_without_options():
    assert commands.demo_builds()["fpga"] == {
        "board": "ZCU104", "clock_mhz": 250.0, "target_ms": None, "simulate": False, "flow": "none"
    }  # fmt: skip
    assert commands.demo_builds()["trt"] == {"sms": ["SM86", "SM89"], "precision": "int8"}


def test_an_option_of_two_targets_names_both(monkeypatch):
    def of(name):
        def options(speed=None):
            return {"speed": speed}

        return Target(name, "", list, None, None, None, str, options=options)

    entries = {
        "one": of("one"),
        "two": of("two"),
        "none": Target("none", "", list, None, None, None, str),
    }
    monkeypatch.setattr(targets, "all_targets", lambda: entries)
    assert build_options("one", {"speed": 3}) == {"speed": 3} and build_options("none", {}) == {}
    with pytest.raises(UserError, match="--speed is an option of --target one and two"):
        build_options("none", {"speed": 3})


@pytest.mark.parametrize(
    ("target", "module"), [("trt", "tensorrt_rtx"), ("openvino", "openvino"), ("fpga", "finn")]
)
def test_a_target_without_its_tool_is_refused_before_the_export(monkeypatch, target, module):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda n, *a: None if n.startswith(("tensorrt", module)) else find(n, *a),
    )
    with pytest.raises(ToolNotFound, match="python -m pip install"):
        build_options(target, {})
