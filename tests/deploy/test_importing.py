"""The command ``import``, from nnU-Net's folder to what ``qat`` takes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
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
