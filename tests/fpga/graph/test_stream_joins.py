"""Streams of unequal scales that are joined, LeakyReLU behind sums, and channels as pixels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from qonnx_nets import Net

from lmaunet.errors import Disagreement, UserError
from lmaunet.fpga.agreement.nodes import NodeCheck, check_against_nodes, host_codes, host_logits
from lmaunet.fpga.agreement.reference import Reference
from lmaunet.fpga.graph import joins, shuffle
from lmaunet.fpga.graph.executor import Executor
from lmaunet.fpga.graph.lower import RULES, Lowered, lower
from lmaunet.fpga.toolchain.assemble import assemble


class Seen:
    """A network lowered, its executor, and what the QONNX model gives for images."""

    def __init__(self, net: Net, output: str, tmp_path, count: int = 2) -> None:
        self.reference = Reference(net.save(tmp_path / "net.onnx", output))
        self.images = net.images(count)
        self.lowered: Lowered = lower(tmp_path / "net.onnx", {})
        self.model = assemble(self.lowered)
        self.executor = Executor(self.model.model)
        self.evidence = tmp_path

    @property
    def operators(self) -> list[str]:
        return [step.op_type for step in self.executor.steps]

    def codes(self) -> np.ndarray:
        return host_codes(self.lowered.host, self.images)

    def agree(self) -> dict[str, int]:
        """Compare all nodes as a build does; return the codes that differ by QONNX tensor."""
        check_against_nodes(self.model, self.executor, self.codes()[:1], self.evidence)
        check = NodeCheck(self.lowered, self.executor, self.evidence)
        for image in self.images:
            seen = self.reference.run(image[None], self.reference.activations())
            check.add(image[None], seen)
        return {found.origin: found.n_differ for found in check.results()}

    def logits(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            host_logits(self.lowered.host, self.executor.run(self.codes())),
            self.reference.run(self.images)[self.reference.output],
        )


SCALES = 0.0207, 0.0313
"""Whose ratio makes no code a tie."""


def two(net: Net, scales=SCALES, signed=(1, 1)) -> list[str]:
    x = net.image()
    return [
        net.quant(net.op("Relu", net.conv(x, 4, 4)) if not s else net.conv(x, 4, 4), scale,
                  signed=s)
        for scale, s in zip(scales, signed, strict=True)
    ]  # fmt: skip


def concatenated(net: Net, scale: float, **options) -> str:
    joined = net.op("Concat", *two(net, **options), axis=1)
    return net.conv(net.quant(joined, scale, name="joined"), 8, 3)


@pytest.mark.parametrize("scale", [*SCALES, 0.0253])
def test_concatenated_codes_get_the_scale_of_the_quantizer_behind(tmp_path, scale):
    """The part that has that scale already is joined as it is."""
    net = Net()
    seen = Seen(net, concatenated(net, scale), tmp_path)
    tables = seen.operators.count("TableActivation")
    assert tables == (2 if scale == 0.0253 else 1)
    assert seen.agree()["joined"] == 0
    np.testing.assert_allclose(*seen.logits(), atol=0.2)


def test_signed_and_unsigned_codes_are_concatenated(tmp_path):
    net = Net()
    seen = Seen(net, concatenated(net, 0.02, scales=(0.02, 0.02), signed=(1, 0)), tmp_path)
    assert seen.operators.count("TableActivation") == 1
    assert seen.agree()["joined"] == 0


def test_a_function_of_concatenated_codes_is_in_the_tables(tmp_path):
    net = Net()
    joined = net.op("LeakyRelu", net.op("Concat", *two(net), axis=1), alpha=0.1)
    seen = Seen(net, net.conv(net.quant(joined, 0.0253, name="joined"), 8, 3), tmp_path)
    assert seen.operators.count("TableActivation") == 2
    assert seen.agree()["joined"] == 0


def test_a_table_of_the_other_scale_is_caught(tmp_path, monkeypatch):
    made = joins.function_of

    def wrong(codes):
        return dataclasses.replace(function := made(codes), values=function.values * 1.02)

    monkeypatch.setattr(joins, "function_of", wrong)
    net = Net()
    seen = Seen(net, concatenated(net, SCALES[1]), tmp_path)
    with pytest.raises(Disagreement, match="hardware node for joined"):
        seen.agree()


def added(net: Net, function: str = "", signed=(1, 1), **attributes) -> str:
    total = net.op("Add", *two(net, signed=signed))
    if function:
        total = net.op(function, total, **attributes)
    return net.conv(net.quant(total, 0.0411, name="total"), 4, 3)


@pytest.mark.parametrize("function", ["", "Relu", "LeakyRelu"])
def test_codes_of_unequal_scales_are_added(tmp_path, function):
    net = Net()
    seen = Seen(net, added(net, function), tmp_path)
    differ, total = seen.agree()["total"], seen.images.shape[0] * 4 * 64
    # the error is at most a 512th of the wider scale, which is 0.8 of the sum's
    assert differ <= total / 100
    np.testing.assert_allclose(*seen.logits(), atol=0.3)


def test_signed_and_unsigned_codes_are_added(tmp_path):
    net = Net()
    seen = Seen(net, added(net, signed=(0, 1)), tmp_path)
    assert seen.agree()["total"] <= 10


def test_codes_of_more_bits_are_not_added_with_unequal_scales(tmp_path):
    net = Net()
    x = net.image()
    wide, other = (net.quant(net.conv(x, 4, 4), s, bits=b) for s, b in ((0.02, 10), (0.03, 8)))
    total = net.quant(net.op("Add", wide, other), 0.04)
    with pytest.raises(UserError, match="is INT10; codes of at most 8 bits are added with uneq"):
        Seen(net, net.conv(total, 4, 3), tmp_path)


def test_a_sum_in_a_unit_that_is_too_coarse_is_caught(tmp_path, monkeypatch):
    made = joins.weighted_sum
    monkeypatch.setattr(joins, "FINER", 4)
    monkeypatch.setattr(
        "lmaunet.fpga.graph.pointwise.weighted_sum",
        lambda *given: dataclasses.replace(made(*given), error=0.0),
    )
    net = Net()
    with pytest.raises(Disagreement, match="hardware node for total away from a tie"):
        Seen(net, added(net), tmp_path).agree()


def test_a_leaky_relu_of_sums_of_one_scale_is_a_table(tmp_path):
    net = Net()
    total = net.op("LeakyRelu", net.op("Add", *two(net, (0.02, 0.02))), alpha=0.2)
    seen = Seen(net, net.conv(net.quant(total, 0.03, name="total"), 4, 3), tmp_path)
    (table,) = [step for step in seen.executor.steps if step.op_type == "TableActivation"]
    assert (table.attributes["Entries"], table.attributes["inputDataType"]) == (512, "INT9")
    assert seen.agree()["total"] == 0


def leaky_conv(net: Net, slope: float, signed: int = 1) -> str:
    activated = net.op("LeakyRelu", net.conv(net.image(), 4, 4), alpha=slope)
    return net.conv(net.quant(activated, 0.01, signed=signed, name="activated"), 4, 3)


@pytest.mark.parametrize("slope", [0.01, 0.3, 1.5])
def test_a_leaky_relu_of_accumulators_is_rounded_in_two_halves(tmp_path, slope):
    net = Net()
    seen = Seen(net, leaky_conv(net, slope), tmp_path)
    assert seen.operators[:5] == [
        "MVAU", "DuplicateStreams", "Requantize", "Requantize", "ElementwiseAdd",
    ]  # fmt: skip
    assert seen.agree()["activated"] <= 2
    np.testing.assert_allclose(*seen.logits(), atol=0.1)


def test_without_negative_codes_one_half_is_enough(tmp_path):
    net = Net()
    seen = Seen(net, leaky_conv(net, 0.1, signed=0), tmp_path)
    assert seen.operators == ["MVAU", "Requantize", "MVAU"]
    assert seen.agree()["activated"] <= 2


def test_another_slope_of_accumulators_is_caught(tmp_path, monkeypatch):
    rule = RULES["LeakyRelu"]
    net = Net()
    output = leaky_conv(net, 0.3)
    monkeypatch.setitem(RULES, "LeakyRelu", lambda w, n, a, i: rule(w, n, a | {"alpha": 0.31}, i))
    with pytest.raises(Disagreement, match="hardware node for activated"):
        Seen(net, output, tmp_path).agree()


def test_a_falling_slope_of_accumulators_is_refused(tmp_path):
    net = Net()
    with pytest.raises(UserError, match=r"LeakyReLU of slope -0\.1 of accumulators; expected"):
        Seen(net, leaky_conv(net, -0.1), tmp_path)


def gelu(net: Net, x: str) -> str:
    half = net.op("Div", x, net.constant(2.0**0.5))
    normal = net.op("Add", net.op("Erf", half), net.constant(1.0))
    return net.op("Mul", net.op("Mul", x, normal), net.constant(0.5))


def test_gelu_is_a_table(tmp_path):
    net = Net()
    x = net.quant(net.conv(net.image(), 4, 4), 0.02)
    seen = Seen(net, net.conv(net.quant(gelu(net, x), 0.02, name="gelu"), 4, 3), tmp_path)
    assert seen.operators.count("TableActivation") == 1
    assert seen.agree()["gelu"] == 0


def shuffled(net: Net, x: str, blocks: tuple[int, int], channels: int, size) -> str:
    """As torch exports it: one node for square blocks, three for others."""
    tall, wide = blocks
    if tall == wide:
        return net.op("DepthToSpace", x, blocksize=tall, mode="CRD")
    split = net.constant([1, channels, tall, wide, *size], np.int64)
    turned = net.op("Transpose", net.op("Reshape", x, split), perm=[0, 1, 4, 2, 5, 3])
    whole = net.constant([1, channels, size[0] * tall, size[1] * wide], np.int64)
    return net.op("Reshape", turned, whole)


def up(net: Net, blocks: tuple[int, int], function: str = "") -> str:
    x = net.quant(net.conv(net.image(), 4, 3 * blocks[0] * blocks[1]), 0.02)
    if function:
        x = net.quant(net.op(function, x), 0.015, name="activated")
    return net.conv(shuffled(net, x, blocks, 3, net.shape[2:]), 3, 2, (3, 3))


@pytest.mark.parametrize("function", ["", "LeakyRelu"])
@pytest.mark.parametrize("blocks", [(2, 2), (2, 1), (1, 2), (3, 2)], ids=str)
def test_channels_become_blocks_of_pixels(tmp_path, blocks, function):
    """A block of one row is in the order of the stream as it is."""
    net = Net(4, (4, 6))
    seen = Seen(net, up(net, blocks, function), tmp_path)
    assert ("DepthToSpace" in seen.operators) == (blocks[0] > 1)
    assert ("Reshape" in seen.operators) == (blocks[0] == 1)
    assert sum(seen.agree().values()) <= 3  # ties of the convolution
    logits, expected = seen.logits()
    assert logits.shape == (2, 2, 4 * blocks[0], 6 * blocks[1])
    np.testing.assert_allclose(logits, expected, atol=0.02)


def test_blocks_the_other_way_round_are_caught(tmp_path, monkeypatch):
    """Columns of a block taken for its rows."""
    monkeypatch.setattr(
        "lmaunet.fpga.graph.convolution.block_order",
        lambda channels, blocks: np.arange(channels)
        .reshape(-1, *blocks).transpose(2, 1, 0).ravel(),
    )  # fmt: skip
    net = Net(4, (4, 6))
    with pytest.raises(UserError, match="not streamed pixel by pixel"):
        Seen(net, up(net, (2, 2)), tmp_path)


def test_channels_that_something_else_takes_are_refused(tmp_path):
    net = Net()
    x = net.quant(net.conv(net.image(), 4, 8), 0.02)
    blocks = net.op("DepthToSpace", x, blocksize=2, mode="CRD")
    other = net.op("Resize", x, "", net.constant([1, 1, 2, 2]), mode="nearest",
                   nearest_mode="floor", coordinate_transformation_mode="asymmetric")  # fmt: skip
    joined = net.op("Concat", blocks, other, axis=1)
    with pytest.raises(UserError, match="not streamed pixel by pixel"):
        Seen(net, net.conv(joined, 10, 2), tmp_path)


@pytest.mark.parametrize("blocks", [(2, 2), (1, 2)], ids=str)
def test_logits_that_are_shuffled_are_refused(tmp_path, blocks):
    """The host knows a scale and a bias for each channel that was made, not for each class."""
    net = Net()
    logits = net.conv(net.image(), 4, 3 * blocks[0] * blocks[1])
    with pytest.raises(UserError, match=r"output .* not streamed pixel by pixel"):
        Seen(net, shuffled(net, logits, blocks, 3, net.shape[2:]), tmp_path)


def test_the_order_that_onnx_has_by_default_is_the_hardwares(tmp_path):
    net = Net()
    x = net.quant(net.conv(net.image(), 4, 8), 0.02)
    seen = Seen(net, net.conv(net.op("DepthToSpace", x, blocksize=2), 2, 2), tmp_path)
    assert "DepthToSpace" in seen.operators and set(seen.agree().values()) == {0}
    np.testing.assert_allclose(*seen.logits(), atol=1e-4)


def test_the_order_of_channels_is_torchs_turned():
    """Two channels of blocks of two rows and three columns."""
    assert shuffle.block_order(12, (2, 3)).tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
