"""The command ``import``, from nnU-Net's folder to what ``qat`` takes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from command_line import runner

from lmaunet.deploy import importing
from lmaunet.deploy.runs import run_for_checkpoint
from lmaunet.sources.nnunet import read_nnunet

PLACE = Path(__file__).parents[1] / "sources" / "nnunet_folder.py"
NAME = "nnUNetTrainer__nnUNetPlans__2d"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path):
    """A function that writes a results folder."""
    pytest.importorskip("dynamic_network_architectures")
    spec = importlib.util.spec_from_file_location("nnunet_folder", PLACE)
    maker = sys.modules["nnunet_folder"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    content = maker.plans()
    return maker.write(
        tmp_path / "results" / NAME, content, maker.trained(maker.network(content), mirror=(0, 1))
    )


def test_a_folder_becomes_a_checkpoint_in_a_run(run, folder):
    status, out, err = run("import", folder, "-o", "r", "--json")
    assert status == 0, err
    content = json.loads(out)
    assert content["checkpoint"] == "r/import/model.pt" and Path("r/import/model.pt").is_file()
    assert content["agreement"]["passed"] and content["recipe"]["patch_size"] == [16, 24]
    assert content["trainer"] == "nnUNetTrainer" and content["fold"] == "0"
    assert content["network"]["name"] == "nnunet-Dataset007_Tiny-2d"
    # all that is learned but the output of the lower level
    assert content["params"] > 1000 and content["macs"] > 100_000
    lines = importing._nnunet_lines(read_nnunet(folder), content)
    assert lines[0].startswith("network: nnunet-Dataset007_Tiny-2d, PlainConvUNet with ")
    assert "classes: background, liver, left kidney" in lines
    assert lines[3].endswith("PET (ZScoreNormalization, inside the filled non-zero voxels)")
    assert lines[4].endswith("windows of 16x24, mirrored along rows and columns in training")
    assert lines[-1] == (
        "wrote r/import/model.pt; next: lmaunet-deploy qat --ckpt r/import/model.pt --data "
        "nnUNet_raw/Dataset007_Tiny"
    )
    assert run_for_checkpoint(None, Path("r/import/model.pt")) == Path("r")


def test_what_is_refused_leaves_no_run(run, tmp_path):
    (tmp_path / NAME).mkdir()
    status, out, err = run("import", NAME, "-o", "r")
    assert status == 2 and not out and not Path("r").exists()
    assert "has no plans.json and no dataset.json; expected a folder" in err
    assert "Traceback" not in err


NETWORKS = """
from torch import nn

def make(channels=1):
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
"""


def test_a_factory_becomes_a_checkpoint_after_a_warning(run, monkeypatch):
    """The warning is shown with --quiet too; --json has which targets take the network."""
    Path("theirs").mkdir()
    Path("theirs/small_nets.py").write_text(NETWORKS)
    space = {}
    exec(NETWORKS, space)
    torch.save(space["make"](2).state_dict(), "w.pth")
    status, out, err = run(
        "import", "w.pth", "--module", "small_nets:make", "--code", "theirs", "--input-size",
        "8x12", "--channels", 2, "--arguments", '{"channels": 2}', "--json", "-q",
    )  # fmt: skip
    assert status == 0, err
    content = json.loads(out)
    assert err == (
        "warning: to build the network, the code of small_nets:make of theirs is run once, with "
        "your rights; runs/make-w/import/model.pt is loaded without it afterwards\n"
    )
    assert content["run"] == "runs/make-w" and content["architecture"] == "Sequential"
    assert content["network"]["input_size"] == [8, 12] and content["classes"] is None
    assert {name: entry["takes"] for name, entry in content["targets"].items()} == dict.fromkeys(
        ("fpga", "openvino", "ort", "trt"), True
    )
    assert Path(content["checkpoint"]).is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("w.pth", "w.pth is a file; give a folder that nnU-Net's training or a MONAI bundle left"),
        ("w.pth --module a:b --fold 1", "--fold is for nnU-Net's folder; this is --module: leave"),
        ("d --channels 2", "--channels is for --module and a MONAI bundle; this is nnU-Net's"),
        ("b --code d", "--code is for nnU-Net's folder and --module; this is a MONAI bundle"),
        ("w.pth --module a:b --input-size 8x", "--input-size 8x; expected pixels"),
        ("w.pth --module a:b --input-size 8 --class-names a", "1 classes; expected 2 to 255"),
        ("w.pth --module a --input-size 8", "--module a: expected PACKAGE.MODULE:NAME"),
        ("lost.pth --module a:b --input-size 8", "lost.pth does not exist"),
        ("w.pth --module a:b", "one size; give --input-size, such as 256"),
        ("d", "has no plans.json and no dataset.json"),
        ("b", "a MONAI bundle without configs/inference.json and models/model.pt"),
    ],
)
def test_what_is_no_network_leaves_no_run_and_runs_nothing(run, words, said):
    torch.save({"w": torch.ones(1)}, "w.pth")
    Path("d").mkdir()
    Path("b/configs").mkdir(parents=True)
    Path("b/configs/metadata.json").write_text("{}")
    status, out, err = run("import", *words.split())
    assert (status, out) == (2, "") and said in err and "warning" not in err
    assert err.splitlines()[-1].startswith("lmaunet-deploy: ") and not Path("runs").exists()
