"""The capture of somebody's network, from a folder of his own, as a command."""

from __future__ import annotations

import json
import subprocess
import sys

import graph_capture as benchmark
import pytest

NETWORK = """\
import torch
from mamba_ssm import Mamba
from not_here.layers import DropPath
from torch import nn


class Network(nn.Module):
    def __init__(self, norm, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = norm(width)
        self.mamba = Mamba(d_model=width, d_state=4)
        self.drop = DropPath(0.1)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.norm(self.conv(x))
        tokens = self.drop(self.mamba(x.flatten(2).transpose(1, 2)))
        return self.head(x + tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


class Branching(Network):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x
"""


def run(folder, name, *options):
    (folder / "theirs.py").write_text(NETWORK)
    given = {"norm": "torch.nn.InstanceNorm2d", "width": 4}
    (folder / "arguments.json").write_text(json.dumps(given))
    words = ["--name", name, "--module", f"theirs:{name}", "--arguments", "arguments.json",
             "--code", str(folder), "--shape", "1", "1", "8", "8", "-o", "found.json"]  # fmt: skip
    return subprocess.run(
        [sys.executable, benchmark.__file__, *words, *options],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_network_from_a_folder(tmp_path):
    done = run(tmp_path, "Network", "--without", "not_here")
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "found.json").read_text())["networks"]["Network"]
    assert row["scans"] == 1 and row["nodes"] > 5 and row["macs"] > 9 * 4 * 64
    assert 0 <= row["largest_difference"] <= 2**-16
    assert row["arguments"]["norm"] == "torch.nn.InstanceNorm2d" and str(tmp_path) not in str(row)
    assert done.stdout.startswith("| Network | ")


@pytest.mark.slow
def test_what_cannot_be_captured_is_said_in_one_line(tmp_path):
    for name, options, told in (
        ("Network", (), "No module named 'not_here'"),
        ("Nothing", ("--without", "not_here"), "has no attribute 'Nothing'"),
        ("Branching", ("--without", "not_here"), "theirs.py"),
    ):
        done = run(tmp_path, name, *options)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert told in done.stderr and not (tmp_path / "found.json").exists()
