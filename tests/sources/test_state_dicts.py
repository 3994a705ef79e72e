"""Weights of a network whose names are known, wherever a trainer's file has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lmaunet.errors import UserError
from lmaunet.sources.loading import load_strictly
from lmaunet.sources.state_dicts import matching_state

FILE = Path("weights.pth")


@pytest.fixture
def own():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict()


def renamed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: s, []),
        (lambda s: renamed(s, "module."), []),
        (lambda s: {"state_dict": renamed(s, "model."), "epoch": 3},
         ["weights: state_dict.model of the file"]),
        (lambda s: {"net": renamed(s, "_orig_mod."), "optimizer": {"state": {0: s}}},
         ["weights: net of the file"]),
        (lambda s: {"model": s, "model_ema": {k: v * 2 for k, v in s.items()}},
         ["weights: model of the file; passed over model_ema"]),
        (lambda s: {"ema": s}, ["weights: ema of the file"]),
        (lambda s: {"state_dict": {**renamed(s, "net."), "loss.weight": torch.ones(2)}},
         ["weights: state_dict.net of the file"]),
    ],
)  # fmt: skip
def test_wherever_they_are(own, wrap, said):
    state, notices = matching_state(wrap(own), own, FILE)
    assert notices == said and state.keys() == own.keys()
    assert all(torch.equal(state[name], own[name]) for name in own)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: {"a": s, "b": {k: v + 1 for k, v in s.items()}},
         "2 sets of weights that differ, a, b; keep the one"),
        (lambda s: {"x": torch.ones(1)}, "no tensor that the network names, such as 0.weight"),
        (lambda s: [1, 2], "no tensor that the network names"),
        (lambda s: "text", "no tensor that the network names"),
    ],
)  # fmt: skip
def test_weights_that_are_not_told(own, wrap, said):
    with pytest.raises(UserError, match=said):
        matching_state(wrap(own), own, FILE)


def test_what_does_not_fit_is_named(own):
    """Names that are nearly the network's are returned, so that loading says which lack."""
    part = {name: value for name, value in own.items() if name != "1.bias"}
    state, _ = matching_state({"model": part}, own, FILE)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with pytest.raises(
        UserError, match=r"that --module says: 1 tensors lack \['1.bias'\].*; do so"
    ):
        load_strictly(module, state, FILE, maker="--module", remedy="do so")
    with pytest.raises(UserError, match=r"other shapes, 0.weight \(1, 1, 3, 3\), expected \(2, 1"):
        wrong = {**own, "0.weight": torch.ones(1, 1, 3, 3)}
        load_strictly(module, wrong, FILE, maker="--module", remedy="do so")
    with pytest.raises(UserError, match="not finite"):
        bad = {**own, "1.bias": torch.tensor([1.0, torch.inf])}
        load_strictly(module, bad, FILE, maker="--module", remedy="do so")
