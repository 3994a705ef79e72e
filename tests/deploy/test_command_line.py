"""Usage, bad input and interruption, as a user meets them: one message, the documented status."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from command_line import runner

from lmaunet.deploy import commands, console
from lmaunet.errors import Disagreement, ToolNotFound, UserError
from lmaunet.stage import read_json


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


def test_help_loads_no_torch():
    """The command line answers at once because nothing heavy is imported for it."""
    code = (
        "import sys; sys.argv = ['lmaunet-deploy', '--help']\n"
        "from lmaunet.deploy.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'monai', 'brevitas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("doctor", "data", "spec", "train", "qat", "export", "build", "measure", "infer",
                    "bench", "demo"):  # fmt: skip
        assert command in done.stdout


@pytest.mark.parametrize("name", ["base", "edge", "demo"])
def test_spec_as_json(run, name):
    status, out, _ = run("spec", name, "--json")
    content = json.loads(out)
    assert status == 0 and set(content["macs"]) == {"512", "256"}
    assert sum(part["params"] for part in content["parts"].values()) == content["params"]
    if name == "base":
        assert abs(content["params"] / 11.2e6 - 1) < 0.01
        assert content["article"]["nearest"] == "2 x MAC at 512"


def test_doctor_names_what_is_missing_and_its_fix(run, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "nibabel" else find(n, *a)
    )
    status, out, _ = run("doctor", "--json")
    content = json.loads(out)
    nibabel = next(t for t in content["core"] if t["name"] == "nibabel")
    assert status == 3 and not content["works"]
    assert not nibabel["found"] and nibabel["fix"] == "python -m pip install 'nibabel>=5.2,<6'"
    assert set(content["targets"]) == {"fpga", "openvino", "ort", "trt"}
    for target in content["targets"].values():
        for tool in target["tools"]:
            assert tool["purpose"]
            assert (tool["place"] and tool["version"]) if tool["found"] else tool["fix"]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("spec", "huge"), 2, "unknown spec 'huge'; use one of: base, edge, demo"),
        (("nonsense",), 2, "No such command 'nonsense'"),
        (("qat",), 2, "--ckpt"),
        (("qat", "--ckpt", "missing.pt"), 2, "missing.pt does not exist"),
        (("train", "--data", "."), 2, "is empty; fill it"),
        (("train", "--data", "nowhere"), 2, "nowhere"),
        (("train", "--phantom", "--data", "x"), 2, "exclude each other"),
        (("train", "--phantom", "--epochs", "0"), 2, "must be positive"),
        (("train", "--phantom", "--input-size", "50"), 2, "multiples of 16"),
        (("train", "--phantom", "--input-size", "0"), 2, "--input-size 0; give 1 to 16,384"),
        (("train", "--phantom", "--input-size", "16000000"), 2, "give 1 to 16,384"),
        (("train", "--phantom", "--seed", str(2**64)), 2, "--seed"),
        (("train", "--phantom", "--class-map", "cardiac"), 2, "give them with --data"),
        (("train", "--class-map", "cardiac"), 2, "give them with --data"),
        (("train", "--data", "x" * 300), 2, "File name too long"),
        (("qat", "--ckpt", "missing.pt", "--phantom", "--spec", ""), 2, "unknown spec ''"),
        (("train", "--phantom", "--classes", "4"), 2, "9 classes, spec demo has 4"),
        (("train", "--phantom", "--channels", "3"), 2, "1 channel(s), spec demo takes 3"),
        (("train",), 2, "no data: give --data DIR"),
        (("export",), 2, "there is no run under runs/; start with"),
        (("report", "--run", "nowhere"), 2, "--run nowhere does not exist"),
        (("export", "--run", "."), 2, "holds no finished 'qat' stage; run that stage first"),
        (("build", "--target", "ort", "--run", "."), 2, "holds no finished 'qat' stage"),
        (("export", "--run", ".", "--lowering", ""), 2, "unknown lowering ''; use one of:"),
        (("measure", "--run", ".", "--target", ""), 2, "unknown target ''; use one of:"),
        (("measure", "--run", ".", "--target", "../ort"), 2, "unknown target '../ort'; use"),
    ],
)
def test_bad_usage(run, tmp_path, arguments, status, text):
    found, _out, err = run(*arguments)
    assert found == status and text in err and "Traceback" not in err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_checkpoint_that_is_none(run, tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    status, _, err = run("qat", "--ckpt", "bad.pt", "--phantom")
    assert status == 2 and "bad.pt is not a torch checkpoint" in err
    assert sum(line.startswith("lmaunet-deploy:") for line in err.splitlines()) == 1


def test_a_diverged_or_foreign_checkpoint_names_the_tensor(run, tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    status, _, err = run("qat", "--ckpt", "other.pt", "--phantom", "--spec", "demo")
    assert status == 2 and "is of another network" in err


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("bad"), 2, "lmaunet-deploy: bad"),
        (
            ToolNotFound("vivado", "to synthesise", "install it"),
            3,
            "vivado is missing: it is needed",
        ),
        (Disagreement("differs"), 1, "lmaunet-deploy: differs"),
        (KeyboardInterrupt(), 130, "interrupted; finished stages are kept"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 2, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 2, "Permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "Give a path that can"),
        (MemoryError("Unable to allocate 2 TiB"), 2, "out of memory (Unable to allocate 2 TiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), 2, "out of memory"),
    ],
)
def test_each_error_has_its_status_and_one_line(capsys, error, status, text):
    def fail():
        raise error

    assert console.run_command(fail) == status
    err = capsys.readouterr().err
    assert text in err and err.count("\n") == 1


def test_a_fault_of_ours_is_called_one(capsys):
    """Not the user's, never status 0, and with -v the whole traceback."""

    def fail():
        raise ZeroDivisionError("by zero")

    assert console.run_command(fail) == console.FAULT == 1
    err = capsys.readouterr().err
    assert "a fault in lmaunet-deploy itself: ZeroDivisionError: by zero" in err
    assert "test_command_line.py:" in err and err.count("\n") == 1
    console.choose_output(verbose=True)
    try:
        assert console.run_command(fail) == 1
    finally:
        console.choose_output(verbose=False)
    err = capsys.readouterr().err
    assert "Traceback" in err and "a fault in lmaunet-deploy itself" in err


def test_a_full_disk_keeps_the_old_result(run, tmp_path, monkeypatch):
    from lmaunet.deploy.runs import DataSource
    from lmaunet.spec import named_spec

    spec = named_spec("demo").replace(input_size=(32, 32), widths=(4, 4, 4, 4, 4),
                                      decoder_widths=(4, 4, 4, 4), pyramid_width=4)  # fmt: skip
    commands.train(tmp_path / "run", spec, DataSource(None), 1, 1e-3, 8, 0)
    kept = (tmp_path / "run/train/model.pt").read_bytes()

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        commands.train(tmp_path / "run", spec, DataSource(None), 2, 1e-3, 8, 0)
    assert (tmp_path / "run/train/model.pt").read_bytes() == kept


@pytest.fixture
def heard():
    """Let SIGINT interrupt, which a shell lets its background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Swallows:
    """Interrupts its process from where Python drops an exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_python_drops_is_not_lost(capsys, heard):
    passed = []

    def work():
        with console.progress_bar("working") as report:
            report(0.1, "before")
            Swallows()
            passed.append("the destructor")
            report(0.2, "after")
            passed.append("the report")

    assert console.run_command(work) == console.INTERRUPTED
    assert passed == ["the destructor"] and "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with console.progress_bar("the next one") as report:
        report(0.1, "goes on")


@pytest.mark.slow
def test_an_interrupted_training_goes_on(tmp_path):
    """Ctrl-C in the middle: status 130, no result yet; the same command then goes on."""
    command = [
        sys.executable, "-m", "lmaunet.deploy.cli", "train", "--phantom", "--spec", "demo",
        "--input-size", "32", "--epochs", "30", "--run", "run",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
        # where the tests run as a job in the background, SIGINT is ignored, and so it would be here
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    last = tmp_path / "run" / ".train.partial" / "training.last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted" in err and b"Traceback" not in err
    assert not (tmp_path / "run" / "train").exists()
    done = len(torch.load(last, weights_only=True)["history"])
    assert 1 <= done < 30
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False
    )
    assert again.returncode == 0
    assert len(read_json(tmp_path / "run/train/train.json")["history"]) == 30


def test_a_checkpoint_never_takes_another_networks_run(tmp_path, monkeypatch):
    from lmaunet.deploy.runs import RUNS, DataSource, run_for_checkpoint, run_for_training
    from lmaunet.spec import named_spec
    from lmaunet.stage import Stage

    monkeypatch.chdir(tmp_path)
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    first.write_text("1")
    second.write_text("2")
    new = run_for_checkpoint(None, first)
    assert new == RUNS / f"{first.stem}-{hashlib.sha256(first.read_bytes()).hexdigest()[:8]}"
    assert new.parent.name == "runs" and not new.exists()
    run = tmp_path / "runs" / "old"
    Stage(run, "qat", {"checkpoint": first}, {}).write(lambda folder: None)
    assert run_for_checkpoint(None, first).resolve() == run
    assert run_for_checkpoint(None, second).name != "old"
    assert run_for_checkpoint(run, second) == run
    assert run_for_checkpoint(None, second) == run_for_checkpoint(None, second)
    spec = named_spec("demo")
    trained = {
        run_for_training(None, spec, DataSource(None)),
        run_for_training(None, named_spec("edge"), DataSource(None)),
        run_for_training(None, spec, DataSource(tmp_path)),
    }
    assert len(trained) == 3 and run not in {folder.resolve() for folder in trained}
    Stage(run, "train", {}, {}).write(lambda f: (f / "model.pt").write_text("3") and None)
    assert run_for_checkpoint(None, run / "train" / "model.pt") == run


@pytest.mark.slow
def test_two_processes_run_the_commands(tmp_path):
    """train and qat under torchrun: one result, and a second call finds it in both processes."""
    base = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            "-m", "--", "lmaunet.deploy.cli"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    shape = ["--phantom", "--epochs", "1", "--run", "run"]
    calls = [
        ["train", "--input-size", "32", *shape],
        ["qat", "--ckpt", "run/train/model.pt", *shape],
        ["qat", "--ckpt", "run/train/model.pt", *shape],
    ]
    for call in calls:
        done = subprocess.run(
            [*base, *call], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    assert "was there already" in done.stdout
    options = read_json(tmp_path / "run/qat/manifest.json")["options"]
    assert options["processes"] == 2
