"""Training on two nodes, which are two agents of torchrun here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from lmaunet.spec import named_spec
from lmaunet.stage import read_json, write_json

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TINY = named_spec("demo").replace(
    input_size=(32, 32), widths=(4, 8, 8, 12, 16), states=4, decoder_widths=(4, 8, 8, 12),
    pyramid_width=16,
)  # fmt: skip


def start(place, run, *how):
    words = ["-m", "--", "lmaunet.deploy.cli", "train", "--phantom", "--spec", "tiny.json"]
    return subprocess.Popen(
        [*TORCHRUN, *how, *words, "--epochs", "2", "--run", run], cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_nodes_train_the_network_that_two_processes_do(tmp_path):
    """To the last bit; one process, which has other batches, trains another."""
    import torch

    write_json(tmp_path / "tiny.json", TINY.to_json())
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"]
    nodes = ["--nnodes", "2", "--nproc-per-node", "1", *meet, "--rdzv-id", "a"]
    for group in (
        [start(tmp_path, "nodes", *nodes) for _ in range(2)],
        [start(tmp_path, "processes", "--standalone", "--nproc-per-node", "2")],
        [start(tmp_path, "one", "--standalone", "--nproc-per-node", "1")],
    ):
        for process in group:
            _, said = process.communicate(timeout=300)
            assert process.returncode == 0, said[-2000:]
    saved = {
        run: torch.load(tmp_path / run / "train" / "model.pt", weights_only=True)
        for run in ("nodes", "processes", "one")
    }
    found = {run: content["state"] for run, content in saved.items()}

    def same(run):
        want, got = found["processes"], found[run]
        return want.keys() == got.keys() and all(torch.equal(got[k], want[k]) for k in want)

    assert same("nodes") and not same("one")
    options = read_json(tmp_path / "nodes" / "train" / "manifest.json")["options"]
    assert options["processes"] == 2
