"""Averages over bins of a map: their sums, the rounding behind them, and the map they become again.

The maps are not square and have other bins along each axis. What each tensor of codes must be is
what qonnx executes.
"""

from __future__ import annotations

import numpy as np
import pytest
from qonnx_nets import Net

from lmaunet.errors import Disagreement, UserError
from lmaunet.fpga.agreement.nodes import NodeCheck, check_against_nodes, host_codes, host_logits
from lmaunet.fpga.agreement.reference import Reference
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import lower
from lmaunet.fpga.operators.arithmetic import Rescaling, requantize
from lmaunet.fpga.operators.bin_sum import BinSum
from lmaunet.fpga.toolchain.assemble import assemble

SIZE = (6, 12)
CODES = 0.02


def pyramid(net: Net, x: str, bins: list[tuple[int, int]], scale: float = 0.013) -> str:
    """``x`` beside a convolution of its averages over ``bins`` (rows, columns), as in ``base``."""
    height, width = SIZE
    maps = [x]
    for rows, columns in bins:
        size = [height // rows, width // columns]
        pooled = net.op("AveragePool", x, kernel_shape=size, strides=size, pads=[0, 0, 0, 0],
                        ceil_mode=0, count_include_pad=1)  # fmt: skip
        codes = net.quant(net.conv(net.quant(pooled, scale), 4, 2), CODES)
        sizes = net.constant([1, 2, height, width], np.int64)
        maps.append(net.op("Resize", codes, "", "", sizes, mode="nearest", nearest_mode="floor",
                           coordinate_transformation_mode="asymmetric"))  # fmt: skip
    joined = net.op("Concat", *maps, axis=1)
    return net.conv(joined, 4 + 2 * len(bins), 3, (3, 3))


def codes_in(net: Net, scale: float = CODES) -> str:
    return net.quant(net.conv(net.image(), 4, 4), scale)


def lowered(net: Net, output: str, tmp_path):
    path = net.save(tmp_path / "net.onnx", output)
    return lower(path, {}), Reference(path)


BINS = [[(1, 1), (2, 3), (3, 2), (6, 4), (6, 12)], [(3, 12)], [(1, 6)]]


@pytest.mark.parametrize("bins", BINS, ids=str)
def test_every_node_equals_the_qonnx_model(tmp_path, bins):
    net = Net(4, SIZE)
    found, reference = lowered(net, pyramid(net, codes_in(net), bins), tmp_path)
    sums = [n for n in found.graph.nodes if n.op_type == "BinSum"]
    assert len(sums) == len([b for b in bins if b != SIZE])  # a bin of a pixel needs none
    model = assemble(found)
    executor = Executor(model.model)
    images = net.images(3)
    codes = host_codes(found.host, images)
    check_against_nodes(model, executor, codes[:1], tmp_path)
    check = NodeCheck(found, executor, tmp_path)
    for i in range(len(images)):
        image = images[i : i + 1]
        check.add(image, reference.run(image, reference.activations()))
    rounded = [n for n in check.results() if n.kind == "rounded"]
    assert sum(n.n_total for n in rounded) > 0
    assert sum(n.n_differ for n in rounded) <= sum(n.n_near_tie for n in rounded)
    logits = host_logits(found.host, executor.run(codes))
    expected = np.concatenate(
        [reference.run(images[i : i + 1])[reference.output] for i in range(3)]
    )
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()


def test_the_sums_are_qonnx_averages_before_any_rounding(tmp_path):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    net = Net(4, SIZE)
    x = codes_in(net)
    averages = net.op("AveragePool", x, name="averages", kernel_shape=[3, 4], strides=[3, 4])
    path = net.save(tmp_path / "net.onnx", net.conv(net.quant(averages, 0.01), 4, 2))
    image = net.images(1)
    seen = execute_onnx(ModelWrapper(str(path)).transform(InferShapes()), {"image": image}, True)
    found = lower(path, {})
    (node,) = [n for n in found.graph.nodes if n.op_type == "BinSum"]
    streams: dict[str, np.ndarray] = {}
    executor = Executor(assemble(found).model)
    executor.run(host_codes(found.host, image), lambda name, v: streams.update({name: v}))
    sums = streams[node.output[0]]
    assert sums.shape == (1, 2, 3, 4) and sums.dtype == np.int64
    exact = seen["averages"].transpose(0, 2, 3, 1).astype(np.float64) * 12 / CODES
    np.testing.assert_array_equal(sums, np.rint(exact))
    np.testing.assert_allclose(sums, exact, atol=1e-3)
    # 12 codes of -128 to 127
    assert {a.name: a.s for a in node.attribute}["outputDataType"] == b"INT12"


def test_a_global_average_is_one_bin(tmp_path):
    net = Net(4, SIZE)
    pooled = net.op("GlobalAveragePool", codes_in(net))
    found, _ = lowered(net, net.conv(net.quant(pooled, 0.01), 4, 2), tmp_path)
    (node,) = [n for n in found.graph.nodes if n.op_type == "BinSum"]
    assert next(list(a.ints) for a in node.attribute if a.name == "Bin") == list(SIZE)
    assert found.graph.shapes[node.output[0]] == (1, 1, 1, 4)


def mutants():
    """Wrong integers, each of which a comparison with QONNX must see."""
    true = BinSum.execute

    def transposed(self, inputs):
        height, width = self.attributes["Bin"]
        rows, columns = self._bins()
        x = inputs[0].astype(np.int64)
        return x.reshape(len(x), height, rows, columns, width, -1).sum((1, 4))

    return {
        "bins that are strides": transposed,
        "a code too few": lambda self, inputs: true(self, inputs) - inputs[0][:, :1, :1],
        "the next bin": lambda self, inputs: np.roll(true(self, inputs), 1, 2),
    }


@pytest.mark.parametrize("name", sorted(mutants()))
def test_wrong_sums_are_caught(tmp_path, monkeypatch, name):
    net = Net(4, SIZE)
    found, reference = lowered(net, pyramid(net, codes_in(net), [(2, 3)]), tmp_path)
    model = assemble(found)
    executor = Executor(model.model)
    image = net.images(1)
    monkeypatch.setattr(BinSum, "execute", mutants()[name])
    with pytest.raises(Disagreement):
        NodeCheck(found, executor, tmp_path).add(
            image, reference.run(image, reference.activations())
        )
    with pytest.raises(Disagreement, match=r"BinSum .*batch executor"):
        check_against_nodes(model, executor, host_codes(found.host, image), tmp_path)


def test_a_wrong_division_is_caught(tmp_path):
    net = Net(4, SIZE)
    found, reference = lowered(net, pyramid(net, codes_in(net), [(2, 3)]), tmp_path)
    (node,) = [n for n in found.graph.nodes if n.op_type == "BinSum"]
    graph = found.graph
    place = next(
        i for i, m in enumerate(graph.mappings)
        if m.rounding is not None and m.rounding.source == node.output[0]
    )  # fmt: skip
    rounding = graph.mappings[place].rounding
    assert rounding is not None
    np.testing.assert_allclose(rounding.ratio, CODES / 12 / 0.013, rtol=1e-6)
    rescaling = rounding.rescaling
    wrong = Rescaling(rescaling.multiplier * 12 // 11, rescaling.offset, rescaling.shift)
    name = next(n for n in graph.nodes if n.input[0] == node.output[0]).input[1]
    graph.constants[name] = wrong.multiplier
    image = net.images(1)
    with pytest.raises(Disagreement):
        NodeCheck(found, Executor(assemble(found).model), tmp_path).add(
            image, reference.run(image, reference.activations())
        )


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kernel_shape": [4, 4], "strides": [4, 4]}, "of 4x4 pixels at strides of 4x4 on a map"),
        ({"kernel_shape": [2, 5], "strides": [2, 5]}, "of 2x5 pixels at strides of 2x5 on a map"),
        ({"kernel_shape": [3, 3], "strides": [1, 1]}, "strides of 1x1 on a map of 6x12; only bins"),
        ({"kernel_shape": [2, 2]}, "of 2x2 pixels at strides of 1x1"),
        ({"kernel_shape": [2, 2], "strides": [2, 2], "pads": [2, 0, 0, 0]}, "padded or dilated"),
        ({"kernel_shape": [2, 2], "strides": [2, 2], "dilations": [2, 1]}, "padded or dilated"),
        ({"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, "auto_pad; export"),
    ],
)  # fmt: skip
def test_other_averages_are_refused_by_name(tmp_path, attributes, message):
    net = Net(4, SIZE)
    pooled = net.op("AveragePool", codes_in(net), name="pooled", **attributes)
    with pytest.raises(UserError) as caught:
        lowered(net, net.conv(net.quant(pooled, 0.01), 4, 2), tmp_path)
    assert "node_pooled: " in str(caught.value) and message in str(caught.value)


def test_averages_of_accumulators_need_a_quantizer_before_them(tmp_path):
    net = Net(4, SIZE)
    pooled = net.op("GlobalAveragePool", net.conv(net.image(), 4, 4))
    with pytest.raises(UserError, match="put an activation quantizer before this average"):
        lowered(net, net.conv(net.quant(pooled, 0.01), 4, 2), tmp_path)


def test_more_pixels_than_float32_counts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lmaunet.fpga.graph.maps.FLOAT32_BITS", 13)
    net = Net(4, SIZE)
    pooled = net.op("GlobalAveragePool", codes_in(net))
    with pytest.raises(UserError, match="sums of 72 codes have 15 bits; at most 13 are mapped"):
        lowered(net, net.conv(net.quant(pooled, 0.01), 4, 2), tmp_path)


def test_an_upsampling_by_one_makes_nothing(tmp_path):
    net = Net(4, SIZE)
    up = net.op("Resize", codes_in(net), "", net.constant([1, 1, 1, 1]), mode="nearest",
                nearest_mode="floor", coordinate_transformation_mode="asymmetric")  # fmt: skip
    found, _ = lowered(net, net.conv(up, 4, 2), tmp_path)
    assert [n.op_type for n in found.graph.nodes] == ["MVAU", "Requantize", "MVAU"]


def test_the_accumulators_of_a_relu_have_no_negative_sum(tmp_path):
    """Their range is that of the codes, the bits are those of the type."""
    net = Net(4, SIZE)
    x = net.quant(net.op("Relu", net.conv(net.image(), 4, 4)), CODES)
    found, _ = lowered(net, pyramid(net, x, [(2, 3)]), tmp_path)
    sums = next(n for n in found.graph.nodes if n.op_type == "BinSum")
    assert found.graph.dtypes[sums.output[0]] == "INT12"
    codes = next(n for n in found.graph.nodes if n.input[0] == sums.output[0])
    assert codes.op_type == "Requantize"
    x = 12 * np.array([[0] * 4, [127] * 4])
    constants = [found.graph.constants[name] for name in codes.input[1:]]
    rounded = requantize(x, Rescaling(*constants), -128, 127)
    np.testing.assert_array_equal(rounded, [[0] * 4, [127] * 4])
