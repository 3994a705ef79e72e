"""Which targets take a network, before anything is trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmaunet.deploy import fits as module
from lmaunet.deploy.fits import fits, lines_of
from lmaunet.deploy.targets import Missing, all_targets
from lmaunet.fpga.board import weights
from lmaunet.fpga.board.boards import BOARDS
from lmaunet.graph.capture import capture


class Plain(nn.Module):
    """A convolution, a norm of the map, an activation, and the head."""

    def __init__(self, norm=nn.InstanceNorm2d, channels=4):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, channels, 3, padding=1), norm(channels)
        self.head = nn.Conv2d(channels, 2, 1)

    def forward(self, image):
        return self.head(torch.relu(self.norm(self.first(image))))


def asked(network, size=16):
    return fits(capture(network, (1, 1, size, size))[0])


def test_each_target_says_for_itself_what_it_takes():
    found = asked(Plain())
    assert set(found) == set(all_targets())
    assert all(found[name]["takes"] for name in ("ort", "openvino", "trt"))
    (reason,) = found["fpga"]["reasons"]
    assert not found["fpga"]["takes"]
    assert (reason["operator"], reason["count"]) == ("norm (instance)", 1)
    # 4 channels of 16x16, 8 bits each: 2^13 bits
    assert "0.00781 Mbit at 16x16" in reason["why"] and "--norm batch" in reason["remedy"]
    lines = lines_of(found)
    assert lines[0] == "targets that take it: openvino, ort, trt"
    assert lines[2] == "fpga does not take it:"
    assert lines[5].startswith("norm (instance)  1      every channel's whole map")


def test_batch_norms_are_taken_everywhere():
    found = asked(Plain(nn.BatchNorm2d))
    assert all(entry["takes"] and not entry["reasons"] for entry in found.values())
    assert lines_of(found) == ["targets that take it: fpga, openvino, ort, trt"]


class Two(Plain):
    """The same with a second output."""

    def forward(self, image):
        logits = super().forward(image)
        return logits, self.head(torch.cat([logits, logits], 1))


def test_what_cannot_be_quantized_no_target_takes():
    found = asked(Two(nn.BatchNorm2d))
    for entry in found.values():
        reason = entry["reasons"][0]
        assert not entry["takes"] and reason["operator"] == "network"
        assert reason["why"] == "a network with 2 outputs"
        assert reason["remedy"].startswith("let it return the logits alone")
    assert lines_of(found)[0] == "targets that take it: none"


def test_a_target_that_cannot_be_loaded_says_nothing(monkeypatch):
    monkeypatch.setattr(module, "all_targets", lambda: {"odd": Missing("odd", "no library")})
    found = asked(Plain())
    assert found == {"odd": {"takes": None, "reasons": [], "why": "no library"}}
    assert lines_of(found)[1] == "target odd cannot be loaded here: no library"


@pytest.mark.parametrize(
    ("millions", "wanted"),
    [
        (4.0, None),
        (6.0, ["qat --bits 4 (22.9 Mbit)", "--board U250"]),
        (18.0, ["qat --bits 2 (34.3 Mbit)", "--board U250"]),
        (80.0, ["a network with at most 4.98 M weights"]),
    ],
)
def test_weights_that_a_board_can_not_hold(monkeypatch, millions, wanted):
    """A ZCU104 has 312 block RAMs of 36 kbit and 96 UltraRAMs of 288: 38.0 Mbit."""
    graph = capture(Plain(nn.BatchNorm2d), (1, 1, 16, 16))[0]
    monkeypatch.setattr(
        weights, "weight_layers", lambda graph: [type("Row", (), {"weights": int(millions * 1e6)})]
    )
    found = weights.weights_beyond(graph, "ZCU104")
    if wanted is None:
        assert found is None
        return
    operator, count, why, remedy = vars(found).values()
    assert (operator, count) == ("weights", 1)
    assert f"{millions * 8e6 / 2**20:.3g} Mbit at 8 bits" in why and "has 38 Mbit" in why
    assert all(part in remedy for part in wanted), remedy
    assert ("qat --bits" in remedy) == (millions < 80)
    assert BOARDS["ZCU104"].memory_bits / 2**20 == pytest.approx(37.97, abs=0.01)
