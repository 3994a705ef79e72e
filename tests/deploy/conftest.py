"""A small network that was trained and quantized as a user does it, and the commands on it."""

from __future__ import annotations

import os

import pytest
from command_line import runner


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def run(monkeypatch, capsys, place):
    monkeypatch.chdir(place)
    return runner(monkeypatch, capsys)


@pytest.fixture(scope="module")
def trained(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        from lmaunet.deploy import commands
        from lmaunet.deploy.quantizing import QatOptions
        from lmaunet.deploy.runs import DataSource
        from lmaunet.spec import named_spec

        spec = named_spec("demo").replace(
            input_size=(64, 64), widths=(4, 8, 8, 12, 16), states=4,
            decoder_widths=(4, 8, 8, 12), pyramid_width=16,
        )  # fmt: skip
        commands.train(None, spec, DataSource(None), 2, 1e-2, 8, 0)
        (checkpoint,) = place.glob("runs/*/train/model.pt")
        options = QatOptions(1, 1e-3, 8, 0, bits="3x3=4", explain=True)
        commands.qat(None, checkpoint, None, None, options)
        return checkpoint
