from __future__ import annotations

import pytest

from lmaunet.fpga.board.boards import BOARDS
from lmaunet.fpga.board.placement import total
from lmaunet.fpga.graph.executor import Step
from lmaunet.fpga.operators.registry import operator
from lmaunet.fpga.sizing.design import FIFOS
from lmaunet.fpga.sizing.folding import FoldedNode
from lmaunet.fpga.sizing.schedule import schedule
from lmaunet.fpga.sizing.search import Sizing
from lmaunet.fpga.toolchain.assemble import apply_folding, specialize

BOARD = BOARDS["ZCU104"]


@pytest.fixture(scope="module")
def sizing(whole) -> Sizing:
    return Sizing(whole.executor, whole.lowered.graph.shapes)


@pytest.mark.parametrize("target", [600, 2_000, 10_000, 100_000, 10**9])
def test_cycles_are_those_that_finn_counts(whole, sizing, target):
    design = sizing.design(target, BOARD, 250.0)
    mapped = specialize(whole.model, BOARD)
    apply_folding(design, mapped)  # raises where a node's count differs
    assert len(design.nodes) == len(mapped.graph.node)


def test_a_target_is_met_with_as_little_as_possible(sizing):
    slow, fast = (sizing.design(t, BOARD, 250.0) for t in (100_000, 3_000))
    assert slow.schedule.interval <= 100_000
    assert fast.schedule.interval <= 3_000
    assert slow.total.dsp < fast.total.dsp
    assert slow.total.lut < fast.total.lut
    assert fast.latency_ms < slow.latency_ms


def test_the_total_is_the_sum_of_the_rows(sizing):
    design = sizing.design(5_000, BOARD, 250.0)
    assert design.total == total(design.placed.values())
    assert set(design.placed) >= {node.name for node in design.nodes} | {FIFOS}


def padding(name: str, source: str, height: int, pad: int, simd: int) -> FoldedNode:
    attributes = {"ImgDim": [height, 8], "Padding": [pad, 0, pad, 0], "NumChannels": 4,
                  "SIMD": simd}  # fmt: skip
    return FoldedNode(Step("FMPadding", {}, (source,), (name,)), attributes)


def test_a_row_schedule_by_hand():
    # 4 rows of 8 pixels; without a border the node only passes its input on, a pixel later
    node = padding("out", "image", 4, 0, 4)
    assert node.cycles() == 32
    found = schedule([node], {"image": (1, 4, 8, 4), "out": (1, 4, 8, 4)}, "image")
    assert found.interval == 32
    assert found.latency == 32 + 1


def test_a_window_waits_for_the_rows_below():
    window = {"ConvKernelDim": [3, 1], "IFMDim": [6, 8], "OFMDim": [4, 8], "Stride": [1, 1],
              "IFMChannels": 4, "SIMD": 4, "depthwise": 0, "parallel_window": 1}  # fmt: skip
    nodes = [
        padding("padded", "image", 4, 1, 4),
        FoldedNode(Step("ConvolutionInputGenerator", {}, ("padded",), ("window",)), window),
    ]
    shapes = {"image": (1, 4, 8, 4), "padded": (1, 6, 8, 4), "window": (1, 4, 8, 12)}
    found = schedule(nodes, shapes, "image")
    assert found.interval == operator("ConvolutionInputGenerator", window).cycles() == 6 * 8 + 2
    # the last output row needs the bottom border, a row of 8 cycles after the image's end at 50
    assert 50 + 8 < found.latency < 50 + 8 + 12.5 + 3
