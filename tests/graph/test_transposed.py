"""Transposed convolutions whose blocks overlap, and PReLU, as operators that every target takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lmaunet.errors import Disagreement, UserError
from lmaunet.graph import linear_rules
from lmaunet.graph.agreement import check_capture
from lmaunet.graph.capture import capture

SPATIAL = (7, 6, 5)
FILLED = [
    (nn.ConvTranspose2d, 3, 2, 1, 1), (nn.ConvTranspose2d, 4, 2, 1, 0),
    (nn.ConvTranspose2d, 5, 3, 1, 0), (nn.ConvTranspose2d, 2, 3, 0, 1),
    (nn.ConvTranspose2d, (3, 4), 2, 1, (1, 0)), (nn.ConvTranspose1d, 3, 2, 1, 1),
    (nn.ConvTranspose3d, (3, 2, 4), (2, 2, 1), (1, 0, 1), (1, 0, 0)),
]  # fmt: skip


def captured(kind, *sizes):
    torch.manual_seed(0)
    module = kind(3, 5, *sizes)
    shape = (1, 3, *SPATIAL[: module.weight.dim() - 2])
    return module, *capture(module, shape)


@pytest.mark.parametrize("case", FILLED)
def test_overlapping_blocks_are_a_convolution_and_a_shuffle(tmp_path, case):
    module, graph, weights = captured(*case)
    assert [node.operator.name for node in graph.nodes] == ["conv", "pixel_shuffle"]
    assert check_capture(module, graph, weights, evidence=tmp_path).passed


def test_taps_in_another_order_are_seen(tmp_path, monkeypatch):
    """The mutant: the taps of a block from the first to the last."""
    right = linear_rules._Blocks.elements
    monkeypatch.setattr(linear_rules._Blocks, "elements", lambda *given: right(*given).flip(1))
    with pytest.raises(Disagreement):
        check_capture(*captured(*FILLED[0]), evidence=tmp_path)


def test_without_a_stride_there_is_no_shuffle(tmp_path):
    module, graph, weights = captured(nn.ConvTranspose2d, 3, 1, 1)
    assert [node.operator.name for node in graph.nodes] == ["conv"]
    assert check_capture(module, graph, weights, evidence=tmp_path).passed


@pytest.mark.parametrize(
    "sizes", [(3, 2, 1, 0), (3, 3, 2, 0), (4, 2, 1, 0, 1, True, 2), (3, 2, 0, 1, 5)]
)
def test_what_blocks_do_not_fill_stays_as_it_is(tmp_path, sizes):
    """Too small an output, too much cut off, groups, and no tap for a row."""
    kind = nn.ConvTranspose2d
    if len(sizes) == 7:
        module = kind(4, 4, 4, 2, 1, groups=2)
        graph, weights = capture(module, (1, 4, 7, 6))
    elif len(sizes) == 5:
        module = kind(3, 5, 3, 2, 1, 1, dilation=2)
        graph, weights = capture(module, (1, 3, 7, 6))
    else:
        module, graph, weights = captured(kind, *sizes)
    assert [node.operator.name for node in graph.nodes] == ["transposed_conv"]
    assert check_capture(module, graph, weights, evidence=tmp_path).passed


def test_one_slope_for_all_channels(tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.PReLU(init=0.2))
    graph, weights = capture(module, (1, 1, 4, 4))
    assert graph.nodes[1].operator.slope == pytest.approx(0.2)
    assert check_capture(module, graph, weights, evidence=tmp_path).passed
    with pytest.raises(UserError, match=r"prelu .*: its weight has 3 slopes; expected one for all"):
        capture(nn.Sequential(nn.Conv2d(1, 3, 1), nn.PReLU(3)), (1, 1, 4, 4))
