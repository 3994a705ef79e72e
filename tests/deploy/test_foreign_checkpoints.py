"""A checkpoint of another trainer through ``qat``: what its output and its manifests tell of it."""

import json
import os

import pytest
import torch
from command_line import runner

from lmaunet.deploy.outcome import ORIGIN_FILE
from lmaunet.deploy.pipeline import matching_control
from lmaunet.errors import UserError
from lmaunet.stage import Stage, read_json, read_manifest


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.fixture
def foreign(tmp_path, tiny_spec):
    """A Lightning checkpoint of a network and an average of it, for 32x32."""
    from lmaunet.net.network import LMaUNet

    torch.manual_seed(1)
    state = LMaUNet(tiny_spec).state_dict()
    average = {k: v * 0.5 if k == "head.weight" else v for k, v in state.items()}
    content = {
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {
            **{f"model.{k}": v for k, v in state.items()},
            **{f"ema_model.module.{k}": v for k, v in average.items()},
        },
    }
    torch.save(content, tmp_path / "last.ckpt")
    return average


@pytest.mark.slow
def test_what_it_was_stands_in_the_output_and_the_run(run, foreign, tmp_path):
    status, out, err = run(
        "qat", "--ckpt", "last.ckpt", "--phantom", "--input-size", 32, "--classes", 9, "--channels",
        1, "--weights", "ema_model", "--epochs", 1, "--run", "r",
    )  # fmt: skip
    assert status == 0, err
    first = out.splitlines()[0]
    assert first == (
        "checkpoint: last.ckpt of PyTorch Lightning; LMa-UNet of widths 4,8,8,8,8, 9 classes, "
        "1 channel, input 32x32; unwrapped key 'state_dict', prefix 'ema_model.', prefix 'module.' "
        "(DataParallel or DDP); took state_dict.ema_model, not state_dict.model (--weights "
        "state_dict.model takes it); not in the file and assumed: strides (2, 2, 2, 2), mamba "
        "causal (--input-size or --spec FILE.json gives another)"
    )
    assert "taken in the order of the data's, background, aorta, " in out
    assert "does not say how its images were normalized" in out
    for stage in ("qat", "control"):
        content = read_json(tmp_path / "r" / stage / ORIGIN_FILE)
        assert content["weights"] == "state_dict.ema_model"
        assert content["trainer"] == "PyTorch Lightning" and content["other_weights"]
        options = read_manifest(tmp_path / "r" / stage)["options"]
        assert options["weights"] == "state_dict.ema_model"
        assert options["spec"]["input_size"] == [32, 32]
    came = torch.load(tmp_path / "r" / "control" / "float32.pt", weights_only=True)["state"]
    assert torch.equal(came["head.weight"], foreign["head.weight"])
    # the same file's other weights are another network: nothing of the run is taken for theirs
    status, out, err = run(
        "qat", "--ckpt", "last.ckpt", "--phantom", "--input-size", 32, "--weights", "ema_model",
        "--epochs", 1, "--run", "r", "--json",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["checkpoint"]["weights"] == "state_dict.ema_model"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--classes", 4), "classes 4 by --classes 4, 9 by head.weight"),
        (("--channels", 3), "in_channels 3 by --channels 3, 1 by shallow.0.conv.weight"),
        (("--spec", "demo"), "contradicts what is stated of it: widths"),
        (("--input-size", 40), "input 40x40; height and width must be multiples of 16"),
        (("--weights", "best"), "holds state_dict.model, state_dict.ema_model; give one of these"),
    ],
)
def test_what_contradicts_the_file_is_refused_before_any_work(arguments, text, run, foreign):
    status, out, err = run("qat", "--ckpt", "last.ckpt", "--phantom", *arguments, "--run", "r")
    assert status == 2 and text in err and not out
    assert not os.path.lexists("r")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("train", "--spec", "mine.json"), "mine.json does not exist or is no file"),
        (("train", "--spec", "odd.json"), "--spec odd.json: not a network spec"),
        (("train", "--spec", "demo", "--classes", 1), "--classes 1; give 2 to 4,096"),
        (("qat", "--ckpt", "last.ckpt", "--spec", "odd.json"), "unknown 'depth'"),
        (("spec", "odd.json"), "unknown 'depth'"),
    ],
)
def test_a_spec_s_file_is_read_before_any_work(arguments, text, run, tmp_path):
    (tmp_path / "odd.json").write_text('{"widths": [4, 8, 8, 8, 8], "depth": 3}')
    status, _, err = run(*arguments, *(("--phantom",) if arguments[0] != "spec" else ()))
    assert status == 2 and text in err


def test_spec_describes_a_file(run, tmp_path, tiny_spec):
    (tmp_path / "mine.json").write_text(json.dumps(tiny_spec.to_json()))
    status, out, _ = run("spec", "mine.json")
    assert status == 0 and out.startswith("tiny: widths (4, 8, 8, 8, 8)")


def test_a_control_of_other_weights_is_no_control(tmp_path):
    checkpoint = tmp_path / "a.pt"
    checkpoint.write_bytes(b"1")

    def make(name, **changes):
        options = {"data_sha256": "d", "spec": {"input_size": [32, 32]}, **changes}
        schedule = {"epochs": 1}
        options |= {"settings": {"schedule": schedule}} if name == "qat" else {"schedule": schedule}
        Stage(tmp_path, name, {"checkpoint": checkpoint}, options).write(lambda folder: None)

    make("qat")
    make("control")
    assert matching_control(tmp_path) == tmp_path / "control"
    make("control", weights="ema")
    with pytest.raises(UserError, match="has another set of weights than"):
        matching_control(tmp_path)
    make("control", spec={"input_size": [64, 64]})
    with pytest.raises(UserError, match="has another spec than"):
        matching_control(tmp_path)
