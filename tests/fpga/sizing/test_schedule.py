"""Row schedules worked by hand: when each row begins and ends, and how many wait at a join."""

from __future__ import annotations

import pytest

from lmaunet.fpga.graph.executor import Step
from lmaunet.fpga.operators.operator import Rows
from lmaunet.fpga.operators.registry import operator
from lmaunet.fpga.sizing.folding import FoldedNode
from lmaunet.fpga.sizing.schedule import _needed_rows, _rows_waiting, schedule


def node(op_type, sources, name, **attributes):
    sources = (sources,) if isinstance(sources, str) else sources
    return FoldedNode(Step(op_type, {}, sources, (name,)), attributes)


def passing(source, name, cycles, pixels):
    """A node that takes so many cycles for a map of so many pixels, one channel each."""
    assert cycles % pixels == 0
    return node("Requantize", source, name, numInputVectors=[pixels],
                NumChannels=cycles // pixels, PE=1)  # fmt: skip


def test_a_slow_image_and_a_fast_node():
    # the image enters at the rate of the slowest: a row of 5 pixels every 20 cycles
    nodes = [passing("image", "fast", 15, 15), passing("fast", "slow", 60, 15)]
    shapes = {"image": (1, 3, 5, 1), "fast": (1, 3, 5, 1), "slow": (1, 3, 5, 4)}
    found = schedule(nodes, shapes, "image")
    assert found.interval == 60
    assert found.begins["image"] == 0 and found.ends["image"] == 60
    # a pixel takes the fast one a cycle: its rows end a cycle after the image's
    assert found.begins["fast"] == 0 + 1 and found.ends["fast"] == 60 + 1
    # a pixel takes the slow one 4: it begins with the first pixel and is never idle
    assert found.begins["slow"] == 1 + 4 and found.ends["slow"] == 61 + 4
    assert found.latency == 65 and found.rows_waiting == {}


def test_a_node_that_starts_late_works_through_its_rows():
    # rows of the image every 6; the second node needs 6 a row, but begins 2 later
    nodes = [passing("image", "a", 12, 6), passing("a", "b", 18, 6)]
    shapes = {"image": (1, 3, 2, 1), "a": (1, 3, 2, 1), "b": (1, 3, 2, 1)}
    found = schedule(nodes, shapes, "image")
    # a: 4 a row, pixel 2: rows begin at 2, 8, 14 and end at 8, 14, 20
    assert (found.begins["a"], found.ends["a"]) == (2, 20)
    # b: 6 a row, pixel 3: begins at 2 + 3; the first row ends a pixel after its input's end
    assert (found.begins["b"], found.ends["b"]) == (5, 23)


def test_rows_that_are_repeated():
    up = node("UpsampleNearestNeighbour", "image", "up", HI=4, HO=8, WO=4, NumChannels=4, SIMD=4)
    shapes = {"image": (1, 4, 2, 4), "up": (1, 8, 4, 4)}
    found = schedule([up], shapes, "image")
    assert found.interval == 32
    # 4 cycles a row, a row of the image every 8. The first: not before its input's end at 8, and a
    # pixel more; then each 4 later, for the input is always there: 9, 13, ... 37
    assert (found.begins["up"], found.latency) == (1, 9 + 7 * 4)


@pytest.mark.parametrize(
    ("top", "bottom", "last"),
    [
        (0, 0, 33),
        (2, 0, 33),  # 6 rows of 8 in 48 cycles: the image's last row ends at 48
        (0, 2, 33),
    ],
)
def test_a_border_needs_no_row(top, bottom, last):
    rows = 4 + top + bottom
    border = node("FMPadding", "image", "out", ImgDim=[4, 8], Padding=[top, 0, bottom, 0],
                  NumChannels=1, SIMD=1)  # fmt: skip
    found = schedule([border], {"image": (1, 4, 8, 1), "out": (1, rows, 8, 1)}, "image")
    assert found.interval == 8 * rows
    every = 2 * rows  # cycles from one row of the image to the next
    # a border on top is put out while the first row comes in, from the start
    assert found.begins["out"] == 1
    free = 0.0
    for row in range(rows):
        need = row - top
        start = free if need < 0 else max(free, every * min(need, 3))
        free = start + 8
        if need >= 0:
            free = max(free, every * (min(need, 3) + 1) + 1)
    assert found.latency == free


@pytest.mark.parametrize(
    ("kind", "first", "second", "rows", "rows_in", "needed"),
    [
        ("border", 2, 0, 7, 4, (-1, -1, 0, 1, 2, 3, 3)),
        ("border", 0, 0, 5, 4, (0, 1, 2, 3, 3)),
        ("window", 1, 3, 4, 6, (2, 3, 4, 5)),
        ("window", 2, 3, 3, 7, (2, 4, 6)),
        ("window", 3, 2, 3, 7, (1, 4, 6)),  # a window's last rows may lie beyond the map
        ("repeat", 2, 0, 6, 3, (0, 0, 1, 1, 2, 2)),
        ("repeat", 3, 0, 6, 2, (0, 0, 0, 1, 1, 1)),
        ("same", 0, 0, 3, 3, (0, 1, 2)),
        ("same", 0, 0, 4, 2, (0, 1, 1, 1)),
    ],
)
def test_the_rows_that_a_row_needs(kind, first, second, rows, rows_in, needed):
    assert _needed_rows(Rows(kind, first, second), rows, rows_in) == needed


def test_the_geometry_of_each_operator():
    border = {"ImgDim": [4, 8], "Padding": [2, 3, 4, 5]}
    window = {"IFMDim": [9, 8], "Stride": [2, 1], "ConvKernelDim": [3, 5]}
    for op_type, attributes, expected in (
        ("FMPadding", border, ("border", 2, 0)),
        ("PadWithCode", border, ("border", 2, 0)),
        ("FMPadding", border | {"ImgDim": [1, 8]}, ("same", 0, 0)),
        ("FMPadding", border | {"ImgDim": [2, 8]}, ("border", 2, 0)),
        ("ConvolutionInputGenerator", window, ("window", 2, 3)),
        ("ConvolutionInputGenerator", window | {"IFMDim": [1, 8]}, ("same", 0, 0)),
        ("ConvolutionInputGenerator", window | {"IFMDim": [2, 8]}, ("window", 2, 3)),
        ("UpsampleNearestNeighbour", {"HO": 12, "HI": 4}, ("repeat", 3, 0)),
        ("BinSum", {"Bin": [4, 2]}, ("bins", 4, 2)),
        ("MVAU", {}, ("same", 0, 0)),
    ):
        assert operator(op_type, attributes).rows() == Rows(*expected)


@pytest.mark.parametrize(
    ("size", "slow", "begins", "ends"),
    [
        # a row of 6 pixels in 6 cycles, one of the image every 6, and done a pixel later: at 7, 13,
        # 19 and 25. Of a bin's second row, from 7 on, its first bin is there 3 pixels later
        ((2, 3), 1, 7 + 3, 24 + 1),
        ((2, 1), 1, 7 + 1, 24 + 1),
        # the whole map: with the last row, from 19 on
        ((4, 6), 1, 19 + 6, 24 + 1),
        # the image comes at half the rate, rows every 12 cycles
        ((2, 3), 2, 13 + 3, 48 + 1),
        ((4, 6), 2, 37 + 6, 48 + 1),
    ],
)
def test_bins_are_worked_on_while_their_rows_come(size, slow, begins, ends):
    bins = node("BinSum", "image", "sums", ImgDim=[4, 6], Bin=list(size), NumChannels=1, PE=1)
    height, width = 4 // size[0], 6 // size[1]
    other = passing("image", "other", 24 * slow, 24)
    shapes = {"image": (1, 4, 6, 1), "other": (1, 4, 6, slow), "sums": (1, height, width, 1)}
    found = schedule([other, bins], shapes, "image")
    assert found.interval == 24 * slow
    assert (found.begins["sums"], found.ends["sums"]) == (begins, ends)


def test_what_follows_bins_has_a_row_for_each_of_them():
    """And a map that is upsampled from one pixel begins when that is there."""
    nodes = [
        node("BinSum", "image", "sums", ImgDim=[4, 6], Bin=[4, 6], NumChannels=1, PE=1),
        passing("sums", "codes", 2, 1),
        node("UpsampleNearestNeighbour", "codes", "up", HI=1, HO=4, WO=6, NumChannels=1, SIMD=1),
        node("StreamingConcat", ("image", "up"), "both", numInputVectors=[1, 4, 6],
             ChannelsPerStream=[1, 1], SIMD=1),
    ]  # fmt: skip
    shapes = {"image": (1, 4, 6, 1), "sums": (1, 1, 1, 1), "codes": (1, 1, 1, 2),
              "up": (1, 4, 6, 1), "both": (1, 4, 6, 2)}  # fmt: skip
    found = schedule(nodes, shapes, "image")
    # the image takes 48 cycles, a row 12: its last begins at 36, a pixel before the one above is
    # done, and ends at 48
    assert (found.begins["sums"], found.ends["sums"]) == (37 + 6, 49)
    # two cycles for the pixel, from when it begins; it ends two after it ended
    assert (found.begins["codes"], found.ends["codes"]) == (45, 51)
    # a pixel a cycle; the first row ends a pixel after the codes do, and three more of 6 follow
    assert (found.begins["up"], found.ends["up"]) == (46, 52 + 18)
    # the whole image waits for it
    assert found.rows_waiting["both", 0] == 4


@pytest.mark.parametrize("op_type", ["ElementwiseAdd", "ElementwiseMul", "Reshape"])
def test_rows_wait_at_a_join_for_the_longer_way(op_type):
    nodes = [
        node("FMPadding", "image", "padded", ImgDim=[3, 2], Padding=[1, 0, 1, 0], NumChannels=1,
             SIMD=1),
        node("ConvolutionInputGenerator", "padded", "window", ConvKernelDim=[3, 1], IFMDim=[5, 2],
             OFMDim=[3, 2], Stride=[1, 1], IFMChannels=1, SIMD=1, depthwise=0, parallel_window=1),
        node(op_type, ("image", "window"), "sum", out_shape=[1, 3, 2, 1], PE=1),
        passing("sum", "out", 30, 6),
    ]  # fmt: skip
    shapes = dict.fromkeys(("image", "sum", "out"), (1, 3, 2, 1))
    shapes |= {"padded": (1, 5, 2, 1), "window": (1, 3, 2, 3)}
    found = schedule(nodes, shapes, "image")
    assert found.interval == 30  # rows of the image from 0, 10 and 20 to 10, 20 and 30
    # 2 cycles a row: the border at once, to 2; the rows with the image, to 11, 21, 31; the last 33
    assert (found.begins["padded"], found.ends["padded"]) == (1, 33)
    # 12 cycles, 4 a row, 2 a pixel: from the third of these rows, at 12, to 23; to 33; to 37
    assert (found.begins["window"], found.ends["window"]) == (14, 37)
    # the sum begins when both have come, and ends a pixel after the later one: 24, 34, 38
    assert (found.begins["sum"], found.ends["sum"]) == (15, 38)
    # of the image two rows are there at 20, and at 30 too: one was taken at 24
    joins = {("sum", 0): 2, ("sum", 1): 1}
    assert found.rows_waiting == ({} if op_type == "Reshape" else joins)
    # 10 a row, 5 a pixel: to 29, 39, 49
    assert found.begins["out"] == 15 + 5 and found.latency == 49


def test_rows_waiting_by_hand():
    # rows come at 1, 2, 3, 4; of them the first and second are done at 5, the others at 6
    assert _rows_waiting([1, 2, 3, 4], [5, 6], [1, 3]) == 4
    assert _rows_waiting([1, 2, 5, 6], [5, 6], [1, 3]) == 2
    # what is done when a row comes no longer waits
    assert _rows_waiting([1, 2, 3], [1, 2, 3], [0, 1, 2]) == 0
    assert _rows_waiting([1, 2, 3], [1.5, 2.5, 3.5], [0, 1, 2]) == 1
    # rows that nobody needs are done with the last
    assert _rows_waiting([1, 2, 9], [3, 4], [0, 1]) == 2


def test_a_pipeline_delays_what_comes_out_and_not_the_next_row():
    scan = node("SelectiveScan", ("x", "dt", "b", "c"), "y", NumChannels=12, States=4, Length=6,
                PD=3, PN=2)  # fmt: skip
    shapes = {name: (1, 3, 2, 12) for name in ("x", "dt", "b", "c", "y")}
    found = schedule([scan], shapes, "x")
    # 8 cycles a token, 2 tokens a row: 16 a row; late by 33, as its own test says
    assert found.interval == 48
    assert found.begins["y"] == 8 + 33 and found.latency == 48 + 8 + 33
